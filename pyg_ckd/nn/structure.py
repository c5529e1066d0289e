"""Item-item structure from content: graphs of nearest neighbours, fixed or learned, and that of identical items."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.utils import coalesce

from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.data.mapped import check_all_finite, check_squares
from pyg_ckd.data.neighbors import knn_graph, laplacian, without_content
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn.edges import EdgeGraph
from pyg_ckd.nn.propagation import Adjacency, plain_edges
from pyg_ckd.scoring.tracing import exporting

WEIGHTINGS = ("positive", "similarity", "binary")

LEARNING = ("modality", "shapes", "item")
"""Where models keep their :class:`Learning` among the prepared graphs."""

T = TypeVar("T")


class UniformGraph:
    r"""The graph of items that are all alike: everybody's neighbourhood is the uniform mean over all items.

    It is what an item-item graph becomes when its modality is intervened on, do(X = mean), and what the content graph
    of constant features is: among identical items no item is nearer than another. As a matrix it is
    :math:`\frac{1}{I} \mathbf{1} \mathbf{1}^\top`, of rank one and never built.
    """

    def matmul(self, x: Tensor) -> Tensor:
        """Return the mean over all items for every item, ``[I, D]``: one row, expanded.

        Args:
            x: Rows of all items ``[I, D]``.
        """
        return x.mean(dim=0, keepdim=True).expand_as(x)


class LearnedGraph:
    """A graph whose weights have gradients.

    Args:
        edge_index: Edges (source row, target row), int64 ``[2, E]``; the weights of repeated edges add up.
        weight: Weight of every edge ``[E]``.
        num_nodes: Number of nodes.
    """

    def __init__(self, edge_index: Tensor, weight: Tensor, num_nodes: int) -> None:
        if exporting():
            self.graph: Adjacency = EdgeGraph(edge_index, weight, num_nodes)
            self.weight = weight
            return
        edge_index, self.weight = coalesce(edge_index, weight, num_nodes, reduce="sum", sort_by_row=False)
        self.graph = Adjacency.from_edges(edge_index, self.weight, num_nodes)

    def matmul(self, x: Tensor) -> Tensor:
        """Return for every node the weighted sum of its neighbours' rows, see :meth:`Adjacency.matmul`."""
        return self.graph.matmul(x, self.weight)

    def detach(self) -> Adjacency:
        """Return the same graph with constant weights."""
        return self.graph


class Learning:
    """What has been learned about the structure so far; it lives among the prepared graphs.

    It knows two things: what is learned once per epoch, if one has begun, and the nearest neighbours that were found
    last, so that they are not looked for again while the features are the same (as they are from the evaluation after
    an epoch to the first step of the next one). A model's state does not contain it: it changes no result.
    """

    def __init__(self) -> None:
        self._epoch: dict[Hashable, Any] | None = None
        self._neighbors: dict[Hashable, tuple[Tensor, Tensor]] = {}

    def begin_epoch(self) -> Learning:
        """Return an object for the steps of the next epoch; this one stays as it is, for evaluation."""
        following = Learning()
        following._epoch, following._neighbors = {}, self._neighbors
        return following

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return ``compute()`` the first time in an epoch and its ``detach()`` afterwards.

        The first pass with gradients keeps the result, and its backward pass is the one through which gradients reach
        what the result was computed from; later passes of the epoch take it as a constant. Outside an epoch
        everything is computed anew, with gradients if they are enabled.

        Args:
            key: What is computed; different results have different keys. A pass asks for each key once.
            compute: The function; its result has a method ``detach``.
        """
        if self._epoch is not None and key in self._epoch:
            return self._epoch[key]
        value = compute()
        if self._epoch is not None and torch.is_grad_enabled():
            self._epoch[key] = value.detach()  # type: ignore[attr-defined]
        return value

    def edges(self, key: Hashable, x: Tensor, k: int, alone: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what :func:`~pyg_ckd.data.neighbors.knn_graph` returns for cosine similarities.

        Args:
            key: Whose features they are.
            x: The features ``[I, d]``.
            k: Neighbours of an item, from 1 to ``I``.
            alone: Items that are nobody's neighbours but their own, bool ``[I]``; the same for the same key.
        """
        known = self._neighbors.get((key, k))
        if known is None or not torch.equal(known[0], x):
            with torch.inference_mode(False):  # Steps with gradients may find it.
                self._neighbors[key, k] = known = (x.detach(), knn_graph(x.detach(), k, alone=alone)[0])
        return known[1], _cosines(x, known[1])

    def as_edges(self) -> Found:
        """Return the neighbours that were found last, for passes that may not look for others."""
        return Found({key: edges for key, (_, edges) in self._neighbors.items()})


class Found:
    """Fixed nearest neighbours, used instead of a :class:`Learning`.

    Args:
        edges: From whose features they are, and how many neighbours there are, to the edges, int64 ``[2, E]``.
    """

    def __init__(self, edges: Mapping[Hashable, Tensor]) -> None:
        self._edges = edges

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return ``compute()``."""
        return compute()

    def edges(self, key: Hashable, x: Tensor, k: int, alone: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the edges and the cosines that they have now, as :meth:`Learning.edges` does."""
        return self._edges[key, k], _cosines(x, self._edges[key, k])


def _cosines(x: Tensor, edge_index: Tensor) -> Tensor:
    unit = F.normalize(x)
    return (unit.index_select(0, edge_index[0]) * unit.index_select(0, edge_index[1])).sum(dim=1)


ItemGraph = Adjacency | UniformGraph | LearnedGraph
"""A graph among all items; each has ``matmul``."""


def item_graph_type(modality: str) -> EdgeType:
    """Return the edge type of a modality's item-item graph, ``("item", modality, "item")``."""
    return ("item", modality, "item")


def content_graph(
    x: Tensor, k: int, weighting: str = "positive", eps: float = 0.0, dtype: torch.dtype | None = None
) -> Adjacency | UniformGraph:
    r"""Build the fixed item-item graph of a modality from its features.

    .. math::
        \mathbf{S}_{ij} = \cos(\mathbf{x}_i, \mathbf{x}_j) \; \text{for the} \; k \; \text{largest in row} \; i,
        \text{else} \; 0, \qquad
        \tilde{\mathbf{S}} = \mathbf{\Delta}^{-1/2} \mathbf{S} \mathbf{\Delta}^{-1/2}

    An item whose features are zero or the mean over all, see :func:`~pyg_ckd.data.neighbors.without_content`, as where
    a modality is missing, has itself alone as a neighbour, with a similarity of 1, and is nobody else's.

    Args:
        x: Features ``[I, d]``; no gradient flows into them.
        k: Neighbours of an item, itself among them; where there are fewer items than that, all of them.
        weighting: What an edge weighs, see :func:`weighted`.
        eps: Added to every row sum, see :func:`~pyg_ckd.data.neighbors.laplacian`.
        dtype: Type of the weights; by default that of the features.

    Returns:
        The normalised graph; a :class:`UniformGraph` if all items have the same features.

    Raises:
        InputError: If ``k`` is not positive, the features are not finite or ``weighting`` is unknown.
    """
    x = x.detach()
    if bool((x == x[:1]).all()):
        return UniformGraph()
    alone = without_content(x)
    edge_index, similarity = knn_graph(x, min(k, x.size(0)), alone=alone)
    similarity = similarity.masked_fill(alone[edge_index[1]], 1.0)  # Zeros are not similar to themselves.
    return _normalised(edge_index, weighted(similarity, weighting), x.size(0), eps, dtype)


def with_content_graphs(
    features: Mapping[str, Tensor],
    graphs: Mapping[EdgeType, Any],
    num_items: int,
    k: int,
    weighting: str = "positive",
    eps: float = 0.0,
    dtype: torch.dtype | None = None,
) -> dict[EdgeType, Any]:
    """Add every modality's item-item graph to the graphs, for :meth:`~pyg_ckd.nn.Backbone.prepare`.

    A prepared graph that is there already is kept as it is, unless it was prepared here with other settings; an edge
    index ``[2, E]`` (neighbour, item) that is there is taken as a structure with all weights 1 and normalised.

    Args:
        features: From modality to features ``[I, d_m]``; only the modalities named here get a graph.
        graphs: The graphs by edge type.
        num_items: Number of items ``I``.
        k: As in :func:`content_graph`.
        weighting: As in :func:`content_graph`.
        eps: As in :func:`content_graph`.
        dtype: As in :func:`content_graph`; give the type of the parameters.

    Returns:
        The same dict with an :class:`~pyg_ckd.nn.Adjacency` or :class:`UniformGraph` under every
        ``("item", modality, "item")``.

    Raises:
        InputError: As :func:`content_graph`; if a graph that is there is no edge index of items, or was prepared with
            another ``k`` or ``weighting``.
    """
    graphs = dict(graphs)
    settings = (min(k, num_items), weighting)
    for m, x in features.items():
        given = graphs.get(item_graph_type(m))
        if given is None:
            if not exporting():
                check_all_finite(x, m)
            try:
                given = content_graph(x, k, weighting, eps, dtype)
            except InputError:
                check_squares(x, m)
                raise
            if isinstance(given, Adjacency):
                given.prepared_for = settings
        elif isinstance(given, Adjacency):
            given.check_prepared(item_graph_type(m), settings, dtype or given.dtype)
        elif not isinstance(given, UniformGraph | LearnedGraph):
            edges = plain_edges(given, (num_items, num_items), f"{item_graph_type(m)} (neighbour, item)")
            edge_index = coalesce(edges, num_nodes=num_items)
            given = _normalised(edge_index, x.new_ones(edge_index.size(1)), num_items, eps, dtype)
        graphs[item_graph_type(m)] = given
    return graphs


def interactions(graph: Adjacency, num_users: int) -> tuple[Tensor, Tensor]:
    r"""Return the interactions of a normalised graph, sorted by user and item, and their weights.

    Args:
        graph: Symmetric graph of users and items, users first.
        num_users: Number of users.

    Returns:
        Interactions (user row, item row), int64 ``[2, E]``, and :math:`1 / \sqrt{d_u d_i}`, ``[E]``.
    """
    item, user = graph.edge_index[:, : graph.weight.numel() // 2]  # Sorted by target, hence what users receive.
    return torch.stack([user, item - num_users]), graph.weight[: user.numel()]


def weighted(similarity: Tensor, weighting: str) -> Tensor:
    """Return what edges between nearest neighbours weigh, before they are normalised.

    Args:
        similarity: Cosine similarities ``[E]``.
        weighting: ``"similarity"`` for the cosine; ``"positive"`` for the cosine, or zero where it is negative; or
            ``"binary"`` for 1.

    Raises:
        InputError: If ``weighting`` is none of the three.
    """
    if weighting not in WEIGHTINGS:
        raise unknown_name("weighting", weighting, WEIGHTINGS)
    if weighting == "binary":
        return torch.ones_like(similarity)
    return similarity.clamp(min=0) if weighting == "positive" else similarity


def matmul_together(graph: ItemGraph, xs: Sequence[Tensor]) -> list[Tensor]:
    """Propagate several matrices over one graph in a single product; an object that occurs twice is taken once.

    Args:
        graph: The graph.
        xs: Matrices ``[I, D]``.
    """
    distinct = {id(x): x for x in xs}
    out = graph.matmul(torch.cat(list(distinct.values()), dim=1)).chunk(len(distinct), dim=1)
    products = dict(zip(distinct, out, strict=True))
    return [products[id(x)] for x in xs]


def _normalised(edge_index: Tensor, weight: Tensor, num_items: int, eps: float, dtype: torch.dtype | None) -> Adjacency:
    weight = laplacian(edge_index, weight, num_items, eps)
    return Adjacency.from_edges(edge_index, weight.to(dtype or weight.dtype), num_items)
