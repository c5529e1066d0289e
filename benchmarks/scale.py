"""What a training takes on paper beside what it takes here, and what ten billion interactions would take on GPUs.

``python -m benchmarks scale`` measures the rates of this machine, compares the simulation of
``benchmarks/scale_model.py`` with real steps, and prints the table of 4 nodes with 8 GPUs.
``python -m benchmarks.scale --users 1000000 --items 100000 --interactions 30000000 --ranks 8`` prints other sizes.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import Row, Suite, Table
from benchmarks.memory import alone, as_asked_for, forget_peak, held, peak
from benchmarks.problems import Problem, Steps
from benchmarks.scale_model import (
    BACKBONES,
    GPU,
    LARGE,
    STRATEGIES,
    Layout,
    Machine,
    Measured,
    Sizes,
    break_even,
    check,
    forecast,
)
from pyg_ckd.balance import DistillationWrapper, Objective
from pyg_ckd.memory import kept_memory
from pyg_ckd.nn import Adjacency, backbones
from pyg_ckd.scoring.margins import read_margins

QUICK = Sizes(30_000, 10_000, 300_000, modalities=2, features=128)
FULL = Sizes(100_000, 20_000, 1_000_000, modalities=3, features=128)
"""What real steps are compared with; all backbones."""
RANDOM = 5000
MEASURED_STEPS = 5
SAMPLING = 2.3e6
"""Nodes that PyG's sampler draws per second and thread; measured once, with duplicates merged."""
COLD = 2**28
"""Bytes of the tables that rates are measured with in turn."""
OVERHEAD = 2e-3
"""Seconds of a step's some 200 operators."""
CPU_WIRE = 1e9
"""Bytes per second between processes of one machine, a guess: seconds of the processor hold no waiting."""
LAYOUTS = (
    Layout.of("ddp", 32),
    Layout.of("users", 32),
    Layout.of("users own", 32, cut_features=True),
    Layout.of("users x columns", 32, 8, cut_features=True),
    Layout.of("sampled", 32),
    Layout.of("sampled, cut", 32),
)
"""Ways to share ten billion interactions out over 4 nodes with 8 GPUs."""


def run(suite: Suite, cases: Iterable[tuple[Sizes, Layout]] | None = None) -> list[Table]:
    """Measure the rates, compare forecasts with steps, and print the table of GPUs.

    Args:
        suite: What to measure on; its data are not used.
        cases: What is compared; by default all backbones, plain and distilled, on one process.
    """
    sizes = FULL if suite.full else QUICK
    found = list(cases_of(sizes) if cases is None else cases)
    machine = calibrate(found[0][0])
    rates = {"sparse product (GB/s)": machine.gather / 1e9, "tables (GB/s)": machine.stream / 1e9}
    rates |= {"dense (GFLOP/s)": machine.matmul / 1e9, "triples (million rows/s)": machine.rows / 1e6}
    checked = Table("simulation and measurement", check(found, machine, measure))
    checked.notes.append(
        "Memory is that of a process beyond its imports, larger tensors in memory of their own; steps are seconds of "
        "the processor. In a training, tensors below 32 MiB share a heap that holds up to twice as much. Wanted: 0.75 "
        "to 1.25."
    )
    return [
        Table("rates of this machine", [{"rate": name, "value": value} for name, value in rates.items()]),
        checked,
        *large(),
    ]


def cases_of(sizes: Sizes) -> list[tuple[Sizes, Layout]]:
    """Return all backbones, plain and distilled, on one process.

    Args:
        sizes: Their sizes.
    """
    cases = []
    for name in BACKBONES:
        layers = {"MMGCN": 3}.get(name, sizes.layers)
        own = {**vars(sizes), "backbone": name, "layers": layers}
        cases.append((Sizes(**own), Layout.of("one")))
        if name != "LightGCN":
            cases.append((Sizes(**{**own, "random": RANDOM}), Layout.of("one")))
    return cases


def large(sizes: Sizes = LARGE, layouts: Sequence[Layout] = LAYOUTS, machine: Machine = GPU) -> list[Table]:
    """Return the tables of a training that nobody has run.

    Args:
        sizes: What is trained.
        layouts: How it is shared out.
        machine: The rates.
    """
    told = {_title(layout): forecast(sizes, layout, machine) for layout in layouts}
    memory: list[Row] = []
    for part in [*next(iter(told.values())).memory, "sum"]:
        row: Row = {"GB a rank": part}
        row |= {name: (f.bytes if part == "sum" else f.memory[part]) / 1e9 for name, f in told.items()}
        memory.append(row)
    rows: list[Row] = []
    for name, f in told.items():
        sums = sum(wire.seconds(machine) for wire in f.wires.values())
        rows.append(
            {
                "shared out": name,
                "sent a step (MB)": f.sent / 1e6,
                "computed (s)": f.step - sums,
                "waited (s)": sums,
                "step (s)": f.step,
                "epoch (h)": f.step * f.steps / 3600,
            }
        )
    title = f"{sizes.backbone}, {sizes.users:.0e} users, {sizes.items:.0e} items, {sizes.interactions:.0e} interactions"
    notes = [f"Batch {sizes.batch}. From data sheets; no GPU was measured."]
    notes.append(f"Above a batch of {break_even(sizes):.2g} the whole graph is cheaper than sampled neighbourhoods.")
    return [Table(f"{title}: memory", memory), Table(f"{title}: time", rows, notes)]


def _title(layout: Layout) -> str:
    built = ", features cut" * layout.cut_features + ", not built" * (not layout.built)
    if layout.strategy == "users x columns":
        return f"users/{layout.users} x columns/{layout.columns}{built}"
    if layout.fanout:
        return f"{layout.strategy} {list(layout.fanout)}/{layout.ranks}{built}"
    if layout.strategy == "users own":
        return f"users/{layout.users}, own{built}"
    return layout.strategy if layout.ranks == 1 else f"{layout.strategy}/{layout.ranks}"


def calibrate(sizes: Sizes, seconds: float = 0.3, cold: int = COLD) -> Machine:
    """Measure the rates of one thread of this machine on a graph of these sizes.

    Args:
        sizes: Sizes of the graph, and the width.
        seconds: How long each rate is measured.
        cold: Bytes of the tables that are used in turn.
    """
    problem = random_problem(sizes)
    graph = Adjacency.from_interactions(problem.edge_index, sizes.users, sizes.items)
    nodes, dim = graph.num_nodes, sizes.dim
    count = max(2, -(-cold // (4 * nodes * dim)))  # More tables than a cache holds, each used in turn.
    tables = itertools.cycle([(torch.randn(nodes, dim), torch.empty(nodes, dim)) for _ in range(count)])
    weight, nbytes = torch.randn(dim, dim), 4 * nodes * dim
    batch = [torch.randint(n, (sizes.batch,)) for n in (sizes.users, sizes.items, sizes.items)]
    user, item = (torch.randn(n, dim).requires_grad_() for n in (sizes.users, sizes.items))

    def rows() -> None:
        margin = read_margins(user, item, [(batch[0], batch[1], batch[2])]).margins[0]
        torch.autograd.grad(margin.sum(), (user, item))

    def add() -> None:
        next(tables)[0].add_(1.0)

    def multiply() -> None:
        x, out = next(tables)
        torch.mm(x, weight, out=out)

    with kept_memory():
        entries = graph.weight.numel()
        product = _seconds_of(lambda: graph.matmul(next(tables)[0]), seconds)
        stream, dense, margins = (_seconds_of(call, seconds) for call in (add, multiply, rows))
    clear = nbytes / (2 * nbytes / stream)  # Gradients are tables.
    return Machine(
        gather=entries * (4 * dim + 8) / product,
        stream=2 * nbytes / stream,
        matmul=2 * nodes * dim**2 / dense,
        rows=3 * sizes.batch * dim / 64 / max(margins - clear, margins / 4),
        sampling=SAMPLING,
        inside=CPU_WIRE,
        between=CPU_WIRE,
        per_node=64,
        overhead=OVERHEAD,
    )


def _seconds_of(call: Callable[[], Any], seconds: float) -> float:
    """Return the least seconds of the processor of a call, which other work disturbs least."""
    call()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def random_problem(sizes: Sizes) -> Problem:
    """Return random interactions with exponentially distributed degrees, and normal features of what reads some.

    Args:
        sizes: How many of each.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(size: int) -> Tensor:
        ends = torch.empty(size, dtype=torch.float64).exponential_(generator=generator).cumsum(0)
        at = torch.rand(sizes.interactions, generator=generator, dtype=torch.float64) * ends[-1]
        return torch.searchsorted(ends, at).clamp_(max=size - 1)

    edge_index = torch.stack([draw(sizes.users), draw(sizes.items)])
    key = torch.unique(edge_index[0] * sizes.items + edge_index[1])
    key = key[torch.randperm(key.numel(), generator=generator)]
    edge_index = torch.stack([key.div(sizes.items, rounding_mode="floor"), key % sizes.items])
    problem = Problem({}, edge_index, sizes.users, sizes.items)
    return problem if sizes.backbone == "LightGCN" else problem.with_random_features(sizes.modalities, sizes.features)


def measure(sizes: Sizes, layout: Layout) -> Measured:
    """Measure steps on one process, which is a process of its own.

    Args:
        sizes: What is trained.
        layout: One process; others need a function that starts several.
    """
    if layout.ranks != 1:
        raise ValueError(f"ranks: found {layout.ranks}, expected 1; pass check a function that starts several")
    _, seconds = alone(_measure_here, vars(sizes))
    with as_asked_for():
        memory, _ = alone(_measure_here, vars(sizes))
    return Measured(memory, seconds)


def _measure_here(options: dict[str, Any]) -> tuple[float, float]:
    torch.set_num_threads(1)
    sizes, place = Sizes(**options), torch.device("cpu")
    small = Sizes(**{**options, "users": 30, "items": 20, "interactions": 200, "features": 8})
    for tiny in (small, Sizes(**{**vars(small), "random": 0})):  # Loads what the first step of a process loads.
        _steps(random_problem(tiny), tiny)()
    before = held(place)
    steps = _steps(random_problem(sizes), sizes)
    forget_peak(place)
    times = []
    with kept_memory():
        for _ in range(1 + MEASURED_STEPS):
            start = time.process_time()
            steps()
            times.append(time.process_time() - start)
    return float(peak(place) - before), min(times[1:])


def _steps(problem: Problem, sizes: Sizes) -> Steps:
    cls = backbones()[sizes.backbone]
    options: dict[str, Any] = {"embedding_dim": sizes.dim}
    if sizes.backbone != "VBPR":
        options["num_layers"] = sizes.layers
    kind = DistillationWrapper if sizes.distilled else Objective
    return Steps(problem, problem.objective(cls, kind, **options), sizes.batch)


def main(argv: Sequence[str] | None = None) -> None:
    """Print memory, bytes and time of a training of one's own.

    Args:
        argv: Arguments; by default those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("users", "items", "interactions"):
        parser.add_argument(f"--{name}", type=int, default=getattr(LARGE, name))
    for name in ("modalities", "features", "dim", "layers", "batch", "random"):
        parser.add_argument(f"--{name}", type=int, default=getattr(LARGE, name))
    parser.add_argument("--backbone", choices=BACKBONES, default=LARGE.backbone)
    parser.add_argument("--ranks", type=int, default=32)
    parser.add_argument("--columns", type=int, default=8, help="parts of columns of 'users x columns'")
    given = ["ddp", "users", "users own", "users x columns"]
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=given)
    parser.add_argument("--fanout", type=int, nargs="+", default=[10, 10])
    parser.add_argument("--cut-features", action="store_true", help="cut features by items where users are cut")
    parser.add_argument("--memory-bandwidth", type=float, default=GPU.stream / 1e9, help="GB/s of a rank")
    parser.add_argument("--inside", type=float, default=GPU.inside / 1e9, help="GB/s between ranks of a node")
    parser.add_argument("--between", type=float, default=GPU.between / 1e9, help="GB/s between nodes")
    parser.add_argument("--per-node", type=int, default=GPU.per_node, help="ranks of a node")
    args = parser.parse_args(argv)
    fields = [name for name in vars(LARGE) if hasattr(args, name)]
    try:
        sizes = Sizes(**{**vars(LARGE), **{name: getattr(args, name) for name in fields}})
        layouts = [
            Layout.of(s, 1 if s == "one" else args.ranks, args.columns, args.fanout, args.cut_features)
            for s in args.strategies
        ]
    except ValueError as error:
        parser.error(str(error))
    stream = 1e9 * args.memory_bandwidth
    machine = Machine(
        stream / 2,
        stream,
        GPU.matmul,
        stream / 2 / (8 * 64 * 4),
        GPU.sampling,
        1e9 * args.inside,
        1e9 * args.between,
        args.per_node,
    )
    for table in large(sizes, layouts, machine):
        print(f"{table.markdown()}\n")


if __name__ == "__main__":
    main()
