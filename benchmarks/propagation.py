"""One product of the normalised graph with node embeddings, forward and backward, against all that PyG offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.nn import LGConv

from benchmarks.common import WIDTH, Bars, Calls, Missing, Row, Suite, Table, Timing, first_line, need_memory
from benchmarks.problems import Problem, random_interactions
from pyg_ckd.nn import Adjacency

LARGE = (1_250_000, 5_000_000)
LARGE_CUDA = (10_000_000, 30_000_000)
WIDE = 256
"""Another width of the embeddings of large graphs on a GPU."""
MARGIN_FROM = 5_000_000
OURS = "pyg_ckd Adjacency"
Product = Callable[[Tensor], Tensor]


def run(suite: Suite, large: tuple[int, ...] | None = None) -> list[Table]:
    """Measure the graph of the data and, at full size, random graphs.

    Args:
        suite: What to measure on.
        large: Interactions of the random graphs.
    """
    if large is None:
        large = (*LARGE, *(LARGE_CUDA if suite.device.type == "cuda" else ())) if suite.full else ()
    problem = Problem.of(suite.data, suite.device)
    title = "propagation forward and backward"
    label = ("interactions", *(["width"] if suite.device.type == "cuda" else []), "product")
    details = Table(title, [], chart=Bars("both (ms)", label))
    summary = Table("propagation against the fastest alternative", [])
    measure(suite, (problem.edge_index, problem.num_users, problem.num_items), details, summary)
    widths = (WIDTH, WIDE) if suite.device.type == "cuda" else (WIDTH,)
    for count in large:
        interactions = random_interactions(count)
        for width in widths:
            try:
                measure(suite, interactions, details, summary, width)
            except (Missing, torch.OutOfMemoryError) as error:
                details.notes.append(f"{count} interactions, {width} wide: left out, {first_line(error)}.")
    details.notes.append(
        f"Embeddings are {WIDTH} wide{or_as_told(suite)}; copy bandwidth {suite.limits.copy_bandwidth / 1e9:.1f} GB/s."
    )
    return [details, summary]


def or_as_told(suite: Suite) -> str:
    """Return what is to be said of the width of embeddings on a GPU."""
    return " unless a row says otherwise" if suite.device.type == "cuda" else ""


def measure(
    suite: Suite, interactions: tuple[Tensor, int, int], details: Table, summary: Table, width: int = WIDTH
) -> None:
    """Add the rows of one graph to both tables.

    Args:
        suite: What to measure on.
        interactions: Interactions, number of users and number of items.
        details: Table of all products.
        summary: Table of the fastest ones.
        width: Width of the embeddings.

    Raises:
        Missing: If embeddings, results and gradients do not fit into memory.
    """
    edge_index, num_users, num_items = interactions
    if suite.device.type == "cuda":  # Every product keeps a result, whose gradient it computes.
        need_memory((len(ALTERNATIVES) + 8) * 4 * width * (num_users + num_items), suite.device)
    graph = Adjacency.from_interactions(edge_index.to(suite.device), num_users, num_items)
    generator = torch.Generator(suite.device).manual_seed(0)
    size, count = (graph.num_nodes, width), edge_index.size(1)
    x, grad = (torch.randn(size, generator=generator, device=suite.device) for _ in range(2))
    products: dict[str, Product] = {OURS: graph.matmul}
    for name, build in ALTERNATIVES.items():
        try:
            products[name] = build(graph) if build is not lg_conv else lg_conv(graph, width)
            check(products[name], graph, x, grad)
        except (Missing, ImportError, RuntimeError, NotImplementedError, ValueError) as error:
            products.pop(name, None)
            details.notes.append(f"{name}, {count} interactions: left out, {first_line(error)}.")
    found = {kind: suite.compare(calls) for kind, calls in passes(products, x, grad).items()}
    bound = gather_bytes(graph, width) / suite.limits.copy_bandwidth
    about: Row = {"interactions": count} | ({"width": width} if suite.device.type == "cuda" else {})
    details.rows += [about | _row(name, found, bound) for name in products]
    summary.rows.append(about | _summary(count, found, bound))


def passes(products: Mapping[str, Product], x: Tensor, grad: Tensor) -> dict[str, Calls]:
    """Return for the forward pass, the backward pass and both together what runs it with every product."""
    leaf = x.clone().requires_grad_()
    forward: dict[str, Callable[[], Any]] = {}
    backward, both = dict(forward), dict(forward)
    for name, product in products.items():
        out = product(leaf)
        forward[name] = partial(product, x)  # Without a gradient to prepare for.
        backward[name] = partial(torch.autograd.grad, out, leaf, grad, retain_graph=True)
        both[name] = partial(_gradient, product, leaf, grad)
    return {"forward": forward, "backward": backward, "both": both}


def check(product: Product, graph: Adjacency, x: Tensor, grad: Tensor) -> None:
    """Raise a ValueError if a product or its gradient is another than that of the prepared graph."""
    leaf = x.clone().requires_grad_()
    for found, expected in ((product(x), graph.matmul(x)), (_gradient(product, leaf, grad), graph.matmul(grad))):
        if not torch.allclose(found, expected, atol=1e-4):
            raise ValueError("its result is another")


def _gradient(product: Product, leaf: Tensor, grad: Tensor) -> Tensor:
    return torch.autograd.grad(product(leaf), leaf, grad)[0]


def gather_bytes(graph: Adjacency, width: int = WIDTH) -> int:
    """Return the bytes of a product that reads a row for every edge from memory: rows, indices and output."""
    indices = graph.matrix.crow_indices().nbytes + graph.matrix.col_indices().nbytes
    return 4 * width * (graph.weight.numel() + graph.num_nodes) + indices


def lg_conv(graph: Adjacency, width: int = WIDTH) -> Product:
    """PyG's layer on an edge list, which gathers and scatters a row for every edge."""
    need_memory(4 * 4 * width * graph.weight.numel(), graph.matrix.device)
    conv, edge_index, weight = LGConv(normalize=False), graph.edge_index, graph.weight
    return lambda x: conv(x, edge_index, weight)


def sparse_csr(graph: Adjacency) -> Product:
    """PyTorch's product, whose backward pass transposes the matrix at every step."""
    return lambda x: graph.matrix @ x


def torch_sparse(graph: Adjacency) -> Product:
    """The product of torch-sparse with everything it can cache."""
    try:
        from torch_sparse import SparseTensor, matmul
    except (ImportError, OSError):
        raise Missing("it is not installed") from None
    source, target = graph.edge_index
    sizes = (graph.num_nodes, graph.num_nodes)
    matrix = SparseTensor(row=target, col=source, value=graph.weight, sparse_sizes=sizes, is_sorted=True).fill_cache_()
    return lambda x: matmul(matrix, x)


def pyg_edge_index(graph: Adjacency) -> Product:
    """PyG's edge index that knows that it is symmetric, with a filled cache."""
    size = (graph.num_nodes, graph.num_nodes)
    edges = EdgeIndex(graph.edge_index.flip(0), sparse_size=size, sort_order="row", is_undirected=True).fill_cache_()
    return lambda x: edges.matmul(x, graph.weight)


ALTERNATIVES: dict[str, Callable[[Adjacency], Product]] = {
    "PyG LGConv, edge list": lg_conv,
    "torch.sparse CSR": sparse_csr,
    "torch-sparse": torch_sparse,
    "PyG EdgeIndex": pyg_edge_index,
}


def _row(name: str, found: dict[str, dict[str, Timing]], bound: float) -> Row:
    forward, backward, both = (found[kind][name] for kind in ("forward", "backward", "both"))
    return {
        "product": name,
        "forward (ms)": 1e3 * forward.median,
        "minimum": 1e3 * forward.minimum,
        "backward (ms)": 1e3 * backward.median,
        "both (ms)": 1e3 * both.median,
        "both, minimum": 1e3 * both.minimum,
        "forward / ours": forward.median / found["forward"][OURS].median,
        "both / ours": both.median / found["both"][OURS].median,
        "share of gather bound": bound / forward.median,
    }


def _summary(count: int, found: dict[str, dict[str, Timing]], bound: float) -> Row:
    ours = {kind: timings[OURS] for kind, timings in found.items()}
    others = [name for name in found["forward"] if name != OURS]
    best = {kind: min(others, key=lambda name: found[kind][name].median, default=OURS) for kind in ours}
    forward, both = found["forward"][best["forward"]], found["both"][best["both"]]
    return {
        "fastest forward": best["forward"],
        "it / ours": forward.median / ours["forward"].median,
        "of minima": forward.minimum / ours["forward"].minimum,
        "wanted, at least": 1.3 if count > 0.9 * MARGIN_FROM else 1.0,
        "fastest both": best["both"],
        "it / ours, both": both.median / ours["both"].median,
        "backward / forward": ours["backward"].median / ours["forward"].median,
        "wanted, at most": 1.1,
        "share of gather bound": bound / ours["forward"].median,
    }
