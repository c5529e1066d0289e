"""Sampled neighbourhoods: what the rows of a step's users and items are computed from, by samplers as PyG has them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric import typing as found
from torch_geometric.data import Data
from torch_geometric.sampler import NeighborSampler, NodeSamplerInput, SamplerOutput

from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.scoring.sparse import row_starts

SamplerMaker = Callable[[Data, list[int]], Any]
"""Makes a sampler with PyG's ``sample_from_nodes`` of a graph and of how many neighbours a node keeps, hop by hop."""


_ODD = 0x9E3779B97F4A7C15  # Generators of the CPU read the last 32 bits of a seed, of which multiples differ.


class Neighborhood(NamedTuple):
    """Some users and items of a graph, and edges among them.

    Attributes:
        user: Row numbers of the users in the whole graph, in increasing order, int64 ``[U']``.
        item: Row numbers of the items, likewise, int64 ``[I']``.
        source: Sources of the edges, numbered from 0 with users first and items after them, int64 ``[E']``.
        target: Their targets, likewise.
        edge: Which edges of the whole graph these are, int64 ``[E']``.
        scale: How many neighbours an edge stands for: the degree of its target over the number that it kept,
            ``[E']``.
    """

    user: Tensor
    item: Tensor
    source: Tensor
    target: Tensor
    edge: Tensor
    scale: Tensor

    @property
    def n_id_dict(self) -> dict[str, Tensor]:
        """Row numbers in the whole graph by kind of node, as backbones and objectives take them."""
        return {"user": self.user, "item": self.item}

    def local(self, batch: TripletBatch) -> TripletBatch:
        """Return triples by the row numbers of the neighbourhood, see :meth:`TripletBatch.by_rows`.

        Args:
            batch: Triples by row numbers of the whole graph, all of whose nodes are in the neighbourhood.
        """
        return batch.by_rows(self.user, self.item)

    def to(self, device: torch.device) -> Neighborhood:
        """Return the neighbourhood on a device.

        Args:
            device: The device.
        """
        return Neighborhood(*(x.to(device) for x in self))


class NeighborhoodSampler:
    r"""Expands nodes hop by hop into neighbourhoods from which products with a matrix can be estimated without bias.

    A node that is reached for the first time in hop :math:`h` keeps at most the :math:`h`-th number of its neighbours,
    drawn without repetition. With :math:`k_t` of :math:`d_t` neighbours kept, an edge from :math:`s` to :math:`t` of
    weight :math:`a_{ts}` in the whole graph weighs :math:`a_{ts} d_t / k_t`, so that the expectation of
    :math:`\mathbf{A}_s \mathbf{x}` is :math:`\mathbf{A} \mathbf{x}` in all rows that are expanded. In a graph of users
    and items this holds for two layers as well, because the rows on a path differ.

    Every call is seeded with one number from PyTorch's CPU generator, and takes nothing else from it, however much the
    sampler draws. A sampler that uses this generator, as PyG's do, gives exactly the same result with the same seed;
    one with its own source of randomness does not.

    Args:
        edge_index: Edges (source row, target row) sorted by target, users first and items after them, int64 ``[2, E]``,
            each once and none from a node to itself.
        num_users: Number of users.
        num_items: Number of items.
        num_neighbors: Neighbours that a node keeps, hop by hop; -1 keeps all.
        make: Returns the sampler for a graph and ``num_neighbors``. (default: :obj:`None`, :class:`UniformSampler`)

    Raises:
        InputError: If the sampler cannot be made. When it is called: if a custom sampler returns more than one output,
            or not edges of the graph with all of their nodes and the seeds, each once.
    """

    def __init__(
        self,
        edge_index: Tensor,
        num_users: int,
        num_items: int,
        num_neighbors: Sequence[int],
        make: SamplerMaker | None = None,
    ) -> None:
        edge_index = edge_index.cpu()
        self.num_users, self.num_nodes = num_users, num_users + num_items
        self._degree = torch.bincount(edge_index[1], minlength=self.num_nodes)
        self._edge_index = None if make is None else edge_index  # By which outputs of a stranger's sampler are checked.
        self._sampler: Any = None
        if num_neighbors:
            data = Data(edge_index=edge_index, num_nodes=self.num_nodes)
            self._sampler = (make or UniformSampler)(data, list(num_neighbors))
            if not hasattr(self._sampler, "sample_from_nodes"):
                raise InputError(
                    f"neighbor_sampler: the function returned {type(self._sampler).__name__}, expected an object with "
                    "PyG's sample_from_nodes(NodeSamplerInput), such as torch_geometric.sampler.NeighborSampler"
                )

    def __call__(
        self, user: Tensor, item: Tensor, beside: Tensor | None = None, seed: int | None = None
    ) -> Neighborhood:
        """Return the neighbourhood of some users and items, on their device.

        Args:
            user: Users, int64 ``[B]``; repetitions allowed.
            item: Items, int64 ``[C]``; repetitions allowed.
            beside: Further nodes, users first and items after them, that are included but not expanded, int64 ``[K]``.
                (default: :obj:`None`, none)
            seed: Seed of the call. (default: :obj:`None`, a number from PyTorch's generator)
        """
        seeds = torch.cat([user, item + self.num_users]).cpu().unique()
        node = source = target = edge = seeds[:0]
        if self._sampler is None:
            node = seeds
        else:
            seed = draw_seed() if seed is None else seed
            if seeds.numel():  # A process may have none; it has drawn the same number as the others.
                node, source, target, edge = self._sampled(seeds, seed)
        if beside is not None:
            beside = beside.cpu().unique()
            node = torch.cat([node, beside[~torch.isin(beside, node)]])
        return self._part(node, source, target, edge).to(user.device)

    def _sampled(self, seeds: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return nodes, sources, targets and edges that the sampler gives, checked if it is a stranger's."""
        with DrawnApart(seed)():
            out = _only_output(self._sampler.sample_from_nodes(NodeSamplerInput(None, seeds)), self._sampler)
        wrong = self._edge_index is not None and _what_is_wrong(self._edge_index, self.num_nodes, seeds, *out)
        if wrong:
            raise InputError(f"neighbor_sampler: {type(self._sampler).__name__} gave {wrong}")
        return out

    def _part(self, node: Tensor, source: Tensor, target: Tensor, edge: Tensor) -> Neighborhood:
        """Number nodes in the order of the whole graph, and scale the edges."""
        kept = torch.bincount(target, minlength=node.numel())
        scale = self._degree[node].double() / kept.clamp(min=1)
        node, order = node.sort()
        rank = torch.empty_like(order)
        rank[order] = torch.arange(order.numel())
        num_users = int(torch.searchsorted(node, self.num_users))
        user, item = node[:num_users], node[num_users:] - self.num_users
        return Neighborhood(user, item, rank[source], rank[target], edge, scale[target])


class UniformSampler:
    """Samples neighbours uniformly without replacement, for all nodes at once.

    It expands as :class:`torch_geometric.sampler.NeighborSampler` does and needs no package beside PyTorch. PyG samples
    with pyg-lib or, where there is none, with torch-sparse, whose draws without replacement (up to version 0.6.18) are
    not uniform: of two neighbours it always keeps the first, of ten it keeps the last ones less often. No weights can
    correct for neighbours that are never drawn.

    Args:
        data: A graph whose ``edge_index`` is sorted by target.
        num_neighbors: Neighbours that a node keeps, hop by hop; -1 keeps all.
    """

    def __init__(self, data: Data, num_neighbors: list[int]) -> None:
        source, target = data.edge_index
        num_nodes = int(data.num_nodes)
        self._fan_outs = list(num_neighbors)
        self._source = source.int() if num_nodes < 2**31 else source.clone()
        self._start = row_starts(torch.bincount(target, minlength=num_nodes))
        self._place = torch.full((num_nodes,), -1)  # Where a node stands among those that are reached.

    def sample_from_nodes(self, index: NodeSamplerInput, **kw: Any) -> SamplerOutput:
        """Return the neighbourhood of some nodes.

        Args:
            index: The nodes, each once.
            **kw: Not used.
        """
        new, place, nodes, edges, targets = index.node, self._place, [index.node], [], []
        reached = new.numel()
        place[new] = torch.arange(reached)
        for fan_out in self._fan_outs:
            which, edge = self._drawn(new, fan_out)
            edges.append(edge)
            targets.append(place[new[which]])
            source = self._source[edge].long()
            new = source[place[source] < 0].unique()
            place[new] = torch.arange(reached, reached + new.numel())
            reached += new.numel()
            nodes.append(new)
        node, edge = torch.cat(nodes), torch.cat(edges)
        source = place[self._source[edge].long()]
        place[node] = -1
        return SamplerOutput(node=node, row=source, col=torch.cat(targets), edge=edge, batch=None)

    def _drawn(self, node: Tensor, fan_out: int) -> tuple[Tensor, Tensor]:
        """Return edges to nodes, and to which of them each leads."""
        start = self._start[node]
        degree = self._start[node + 1] - start
        whole = degree <= fan_out if fan_out >= 0 else torch.ones_like(degree, dtype=torch.bool)
        which, some = whole.nonzero()[:, 0], (~whole).nonzero()[:, 0]
        count = degree[which]
        before = (count.cumsum(0) - count).repeat_interleave(count)
        edge = start[which].repeat_interleave(count) + torch.arange(before.numel()) - before
        which = which.repeat_interleave(count)
        if not some.numel():
            return which, edge
        chosen = start[some].unsqueeze(1) + distinct_numbers(degree[some], fan_out)
        return torch.cat([which, some.repeat_interleave(fan_out)]), torch.cat([edge, chosen.view(-1)])


def distinct_numbers(size: Tensor, count: int) -> Tensor:
    """Return for every row as many different numbers below its size, each set of them with the same probability.

    From `"Programming Pearls: A Sample of Brilliance" <https://dl.acm.org/doi/10.1145/30401.315746>`_ (Floyd's
    algorithm), for all rows at once. Randomness comes from PyTorch's generator of the CPU.

    Args:
        size: Sizes of ``count`` or more, int64 ``[N]``.
        count: How many numbers.

    Returns:
        The numbers, int64 ``[N, count]``.
    """
    draw = torch.rand(size.numel(), count, dtype=torch.float64)
    found = torch.empty(size.numel(), count, dtype=torch.int64)
    for n in range(count):
        last = size - count + n
        number = torch.minimum((draw[:, n] * (last + 1)).long(), last)
        taken = (found[:, :n] == number.unsqueeze(1)).any(dim=1)
        found[:, n] = torch.where(taken, last, number)
    return found


def pyg_sampler(data: Data, num_neighbors: list[int]) -> NeighborSampler:
    """Return PyG's own sampler of a graph whose edges are sorted by target, see :class:`UniformSampler` for its draws.

    Args:
        data: The graph.
        num_neighbors: Neighbours that a node keeps, hop by hop.

    Raises:
        InputError: If there is neither of the two packages that PyG samples with.
    """
    if not (found.WITH_PYG_LIB or found.WITH_TORCH_SPARSE):
        raise InputError(
            "neighbor_sampler: found neither pyg-lib nor torch-sparse, with one of which PyG samples neighbours, "
            "expected pyg-lib, or the extra: pip install 'pyg-ckd[sparse]' (torch-sparse and torch-scatter); without "
            "neighbor_sampler none is needed"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*without a 'pyg-lib' installation.*")
        return NeighborSampler(data, num_neighbors, is_sorted=True)


def _only_output(out: Any, sampler: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return nodes, rows, columns and edges of the output of a sampler; some give theirs one by one."""
    name = f"neighbor_sampler: {type(sampler).__name__} gave"
    if not hasattr(out, "node"):
        if not isinstance(out, Iterable):
            raise InputError(f"{name} {type(out).__name__}, expected a SamplerOutput of PyG")
        outputs = list(islice(out, 2))
        if len(outputs) != 1:
            count = "more than one output" if outputs else "no output"
            raise InputError(f"{name} {count} for one set of seeds, expected one SamplerOutput that holds all of them")
        out = outputs[0]
    if getattr(out, "edge", None) is None or getattr(out, "node", None) is None:
        raise InputError(
            f"{name} no numbers of edges (edge), expected those of the graph that it was made of, from which weights "
            "are taken"
        )
    parts = []
    for part in ("node", "row", "col", "edge"):
        x = getattr(out, part, None)
        if not isinstance(x, Tensor) or x.dim() != 1 or x.is_floating_point() or x.dtype == torch.bool:
            what = f"{x.dtype} of shape {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"{name} {part} as {what}, expected a vector of integers")
        parts.append(x.cpu().long())
    node, row, col, edge = parts
    return node, row, col, edge


def _what_is_wrong(
    edge_index: Tensor, num_nodes: int, seeds: Tensor, node: Tensor, row: Tensor, col: Tensor, edge: Tensor
) -> str | None:
    """Return what an output has that is not a part of the graph with all seeds in it, or :obj:`None`."""
    if not row.numel() == col.numel() == edge.numel():
        return f"{row.numel()} rows, {col.numel()} columns and {edge.numel()} edges, expected as many of each"
    sizes = {"node": num_nodes, "row": node.numel(), "col": node.numel(), "edge": edge_index.size(1)}
    for (name, size), x in zip(sizes.items(), (node, row, col, edge), strict=True):
        outside = x[(x < 0) | (x >= size)]
        if outside.numel():
            return f"{name} {int(outside[0])}, expected numbers from 0 to below {size}"
    ordered = node.sort().values
    twice = ordered[1:][ordered.diff() == 0]
    if twice.numel():
        return f"node {int(twice[0])} more than once, expected every node once (disjoint=False)"
    absent = seeds[~torch.isin(seeds, node)]
    if absent.numel():
        return f"{absent.numel()} of {seeds.numel()} seeds not in node, first {int(absent[0])}, expected all"
    ordered = edge.sort().values
    twice = ordered[1:][ordered.diff() == 0]
    if twice.numel():
        return f"edge {int(twice[0])} more than once, expected every edge once (replace=False)"
    other = (edge_index[0, edge] != node[row]) | (edge_index[1, edge] != node[col])
    if bool(other.any()):
        n = int(other.nonzero()[0])
        source, target = edge_index[:, edge[n]].tolist()
        return (
            f"edge {int(edge[n])} from node[row] {int(node[row[n]])} to node[col] {int(node[col[n]])}, expected "
            f"{source} to {target} as in the graph that it was made of"
        )
    return None


def draw_seed() -> int:
    """Return a number from PyTorch's generator of the CPU, from 0 to below 2^62."""
    return int(torch.randint(2**62, (), generator=torch.default_generator))


def seed_of(seed: int, stream: int) -> int:
    """Return one of several seeds that follow from one: the same for stream 0, others for others.

    Args:
        seed: The common seed.
        stream: Number of the stream, from 0; for instance that of a process.
    """
    return (seed + stream * _ODD) % 2**63


class DrawnApart:
    """Makes blocks in which PyTorch's generators are others, which go on from one block to the next.

    After a block they are what they were before it.

    Args:
        seed: Their seed.
        device: A GPU whose generator is another as well as that of the CPU. (default: :obj:`None`, none)
    """

    def __init__(self, seed: int, device: torch.device | None = None) -> None:
        self._generators = [torch.default_generator]
        if device is not None and device.type == "cuda":
            self._generators.append(torch.cuda.default_generators[device.index or 0])
        self._states = [torch.Generator(g.device).manual_seed(seed).get_state() for g in self._generators]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Return a block."""
        outside = self._exchange(self._states)
        try:
            yield
        finally:
            self._states = self._exchange(outside)

    def _exchange(self, states: Sequence[Tensor]) -> list[Tensor]:
        before = [generator.get_state() for generator in self._generators]
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)
        return before
