"""Training on sampled neighbourhoods: who can, and how a batch of triples becomes a step on a part of the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pyg_ckd.arguments import as_integer, shown
from pyg_ckd.balance.objective import Objective
from pyg_ckd.data.inputs import RATES, EdgeType
from pyg_ckd.data.modules import takes_node_ids
from pyg_ckd.data.neighbors_sampled import (
    DrawnApart,
    Neighborhood,
    NeighborhoodSampler,
    SamplerMaker,
    draw_seed,
    seed_of,
)
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.nn.models.adapter import AdaptedBackbone
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.nn.subgraph import Cutter, both_directions, interactions_of
from pyg_ckd.processes import ALONE, Processes

Place = tuple[dict[EdgeType, Any], TripletBatch] | tuple[dict[EdgeType, Any], TripletBatch, dict[str, Tensor]]
"""The graph of a step, its triples, and which rows of the whole graph they are on; without the last, on all."""


class Choices(Protocol):
    """What the trainer says about how to train."""

    num_neighbors: list[int] | None
    neighbor_sampler: Any
    optimizer: Any
    options: Any


def as_num_neighbors(num_neighbors: Any, make: Any) -> list[int] | None:
    """Return how many neighbours nodes keep, hop by hop, as plain integers.

    Args:
        num_neighbors: As the trainer is given it.
        make: What makes the sampler, or :obj:`None`.

    Raises:
        InputError: If it is no sequence of positive integers and -1, or there is a sampler without it.
    """
    if make is not None and not callable(make):
        raise InputError(
            f"neighbor_sampler: found {type(make).__name__}, expected a function of (data, num_neighbors) that returns "
            "an object with PyG's sample_from_nodes"
        )
    if num_neighbors is None:
        if make is not None:
            raise InputError("neighbor_sampler: found one without num_neighbors, expected both, such as [10, 10]")
        return None
    if isinstance(num_neighbors, (str, bytes)) or not isinstance(num_neighbors, Sequence):
        raise InputError(
            f"num_neighbors: found {shown(num_neighbors)}, expected a number for every layer, such as [10, 10]"
        )
    found = [as_integer(number, f"num_neighbors[{hop}]") for hop, number in enumerate(num_neighbors)]
    for hop, number in enumerate(found):
        if number < 1 and number != -1:
            raise InputError(
                f"num_neighbors[{hop}]: found {number}, expected a positive number of neighbours, or -1 for all"
            )
    return found


def check_sampled(objective: Objective, num_neighbors: Sequence[int], ranking: str) -> None:
    """Refuse what cannot be trained on sampled neighbourhoods.

    Args:
        objective: The objective, with all that it wraps.
        num_neighbors: Neighbours that nodes keep, hop by hop.
        ranking: The main loss.

    Raises:
        InputError: If the backbone, a strategy or the loss cannot, or the numbers are not as many as the model has
            layers.
    """
    student, names = objective.student, f"num_neighbors: found {list(num_neighbors)}"
    if not student.sampled:
        what = _reason(student)
        raise InputError(f"{names} for {type(student).__name__}, {what}, expected none; it trains on the whole graph")
    for one in _with_inner(objective):
        if not one.sampled:
            raise InputError(
                f"{names} for the strategy {one.name!r}, which does not say that it reads all users and items by the "
                "rows of a subgraph, expected none, or sampled = True in the class"
            )
    hops = student.num_hops
    if hops is not None and hops != len(num_neighbors):
        wanted = f"{hops} numbers, one for each" if hops else "none, for nothing is propagated"
        raise InputError(f"{names} for {type(student).__name__} with {hops} layers, expected {wanted}")
    if ranking != "bpr":
        raise InputError(f"{names} beside ranking={ranking!r}, which needs items that a subgraph has not, expected bpr")


def _with_inner(objective: Objective) -> Iterator[Objective]:
    """Yield an objective and those that it wraps."""
    inner: Any = objective
    while inner is not None:
        yield inner
        inner = inner._modules.get("inner")


def _reason(student: Backbone) -> str:
    """Return why a backbone does not train on a part of the graph."""
    if type(student).begin_epoch is not Backbone.begin_epoch:
        return "which makes a graph of its own from the whole one before every epoch"
    if type(student).prepare is not Backbone.prepare:
        return "which has further graphs beside the interactions"
    return "which does not say that sums over some neighbours stand for those over all of them (Backbone.sampled)"


def describe_neighbors(num_neighbors: Sequence[int] | None, make: Any) -> dict[str, Any]:
    """Return what decides about the result of a sampled training; nothing for one on the whole graph.

    Args:
        num_neighbors: Neighbours that nodes keep, hop by hop.
        make: What makes the sampler, or :obj:`None`.
    """
    if num_neighbors is None:
        return {}
    settings: dict[str, Any] = {"num_neighbors": list(num_neighbors)}
    if make is not None:
        made = make if hasattr(make, "__qualname__") else type(make)
        settings["neighbor_sampler"] = f"{made.__module__}.{made.__qualname__}"
    return settings


def random_triples(objective: Objective, num_neighbors: Sequence[int] | None, batch_size: int) -> int:
    """Return how many random triples a step has.

    On sampled neighbourhoods each brings three more nodes to expand: there are at most as many as training triples,
    whatever number the objective was given.

    Args:
        objective: The objective.
        num_neighbors: Neighbours that nodes keep, or :obj:`None` for training on the whole graph.
        batch_size: Training triples in a step.
    """
    number = objective.num_random_triples
    return number if num_neighbors is None else min(number, batch_size)


def build_subgraphs(objective: Objective, choices: Choices, processes: Processes = ALONE) -> Subgraphs | None:
    """Return what samples the steps of a training, or :obj:`None` for training on the whole graph.

    Args:
        objective: The objective.
        choices: The trainer, which says how to train it.
        processes: The processes that share its batches.

    Raises:
        InputError: As :func:`check_sampled`.
    """
    num_neighbors, make = choices.num_neighbors, choices.neighbor_sampler
    if num_neighbors is None:
        return None
    check_sampled(objective, num_neighbors, choices.options.ranking)
    shared = (objective, processes)
    return Subgraphs(objective.student, num_neighbors, make, choices.optimizer is None, *shared)


class Subgraphs:
    """Turns batches of triples into steps on sampled neighbourhoods.

    Of several processes, each samples the neighbourhood of its own share of a batch. What is drawn follows from a
    number that all of them draw alike and from their own, so that their generators stay alike.

    Args:
        student: The backbone.
        num_neighbors: Neighbours that nodes keep, hop by hop.
        make: What makes the sampler, or :obj:`None`, see
            :class:`~pyg_ckd.data.neighbors_sampled.NeighborhoodSampler`.
        sparse: Whether the optimizer takes sparse gradients; tables get these in steps that hold at most half of all
            nodes, in all processes together.
        objective: The objective, which says what it reads beside the triples of a share, for several processes.
        processes: The processes that share the batches.

    Attributes:
        empty: Whether this process has no triple at all in the present step, and so no gradient.
    """

    empty = False

    def __init__(
        self,
        student: Backbone,
        num_neighbors: Sequence[int],
        make: SamplerMaker | None = None,
        sparse: bool = False,
        objective: Objective | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.student, self.num_neighbors, self.make, self.sparse = student, list(num_neighbors), make, sparse
        self.processes, self._objectives = processes, [] if objective is None else list(_with_inner(objective))
        self._epoch: Any = None
        self._means: dict[int, Any] = {}
        self._of: Any = None

    def __call__(self, graphs: Mapping[EdgeType, Any], batch: TripletBatch) -> Place:
        """Return graph and triples of a step, and which rows these are on.

        Args:
            graphs: The graphs of the epoch; new ones begin a new epoch.
            batch: The triples, or this process's share of them.
        """
        student = self.student
        if graphs is not self._epoch:
            self._epoch, self._means = graphs, {}
        if self._of is not graphs[RATES]:
            self._build(graphs[RATES])
        self.empty = not batch.user.numel() + batch.random_user.numel()
        rows, beside = self._of_batch(batch)
        nodes = torch.cat([batch.user, batch.random_user]), torch.cat([*batch[1:3], *batch[4:], rows])
        part = self._sampler(*nodes, beside, self._seed(batch.user.device))
        student.sparse_rows = self.sparse and 2 * self._held(part) <= student.num_users + student.num_items
        if self._cutter is not None:
            graph: Any = self._cutter(part, student.num_users, self._means)
            return {**graphs, RATES: graph}, part.local(batch), part.n_id_dict
        here = interactions_of(part)
        if takes_node_ids(student.module):  # type: ignore[arg-type]
            return {**graphs, RATES: here}, part.local(batch), part.n_id_dict
        return {**graphs, RATES: torch.stack([part.user[here[0]], part.item[here[1]]])}, batch

    def _of_batch(self, batch: TripletBatch) -> tuple[Tensor, Tensor | None]:
        """Return items of the whole batch that are expanded, too, and nodes that are there without being expanded."""
        rows, masks = [batch.positive[:0]], [batch.positive[:0]]
        if self.processes.alone:
            return rows[0], None
        for objective in self._objectives:
            read, known = objective.read_of_batch(batch.whole)
            rows.append(read)
            masks.append(known)
        first = self.student.num_users
        beside = torch.cat(masks) + first
        if self.empty:  # No product or mean is of nothing.
            some = [*range(min(2, first)), *range(first, first + min(2, self.student.num_items))]
            beside = torch.cat([beside, beside.new_tensor(some)])
        return torch.cat(rows), beside

    def _held(self, part: Neighborhood) -> int:
        """Return how many nodes the neighbourhoods of all processes have, each counted as often as it is in one."""
        own = 0 if self.empty else part.user.numel() + part.item.numel()
        if self.processes.alone:
            return own
        count = torch.tensor([own], device=part.user.device)
        self.processes.add_up([count])
        return int(count)

    def _seed(self, device: torch.device) -> int | None:
        """Return what seeds the draws of this process in a step, and let the model draw what it draws by rows apart."""
        if self.processes.alone:
            return None  # The sampler draws its own.
        rank, size, student = self.processes.rank, self.processes.size, self.student
        if not (self.num_neighbors or isinstance(student, AdaptedBackbone)):
            return None
        seed = draw_seed()
        if not isinstance(student, AdaptedBackbone) or takes_node_ids(student.module):
            student.draws = DrawnApart(seed_of(seed, size + rank), device)
        return seed_of(seed, rank)

    def _build(self, graph: Any) -> None:
        """Get ready to sample from a graph."""
        sizes = self.student.num_users, self.student.num_items
        adapted = isinstance(self.student, AdaptedBackbone)
        self._cutter = None if adapted else Cutter(graph)
        edges = both_directions(graph, *sizes) if self._cutter is None else self._cutter.edge_index
        self._sampler = NeighborhoodSampler(edges, *sizes, self.num_neighbors, self.make)
        if self._cutter is not None:
            del self._cutter.edge_index  # The sampler has its own.
        self._of = graph

    def done(self) -> None:
        """End a step: whatever is computed now gets dense gradients again, and draws what all processes draw."""
        self.student.sparse_rows = False
        vars(self.student).pop("draws", None)


def step_loss(
    module: nn.Module,
    subgraphs: Subgraphs | None,
    features: Mapping[str, Tensor],
    graphs: Mapping[EdgeType, Any],
    batch: TripletBatch,
) -> dict[str, Tensor]:
    """Return the loss terms of a batch, on the whole graph or on a sampled part of it.

    Args:
        module: The objective as lightning-fabric wraps it.
        subgraphs: Samples the part, or :obj:`None`.
        features: From modality to feature matrix.
        graphs: The graphs of the epoch.
        batch: The triples.
    """
    if subgraphs is None:
        return module.loss(features, graphs, batch)  # type: ignore[operator]
    try:
        return module.loss(features, *subgraphs(graphs, batch))  # type: ignore[operator]
    finally:
        subgraphs.done()
