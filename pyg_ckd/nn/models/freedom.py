"""FREEDOM for any number of modalities."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyg_ckd.arguments import as_number, shown
from pyg_ckd.data.inputs import RATES, EdgeType
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn.loss import bpr_loss
from pyg_ckd.nn.models.base import (
    Backbone,
    Graph,
    Inputs,
    check_modalities,
    check_size,
    in_whole_graph,
    mean_row,
    reset_linear_layers,
)
from pyg_ckd.nn.models.lightgcn import LightGCN
from pyg_ckd.nn.propagation import Adjacency
from pyg_ckd.nn.structure import interactions, item_graph_type, with_content_graphs
from pyg_ckd.nn.user_part import UserPart
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.column_sums import column_sums
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.views import View


class FREEDOM(LightGCN):
    r"""A frozen graph of similar items beside a denoised graph of users and items.

    From `"A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal Recommendation"
    <https://arxiv.org/abs/2211.06924>`_. Let :math:`\mathbf{S}_m` have a 1 where item ``j`` is among the ``k`` items
    whose features of modality ``m`` are most similar to those of ``i``, else 0. With the id embeddings
    :math:`\mathbf{X}`,

    .. math::
        \mathbf{S} = \sum_m \frac{\alpha_m}{k} \mathbf{S}_m, \qquad
        \tilde{\mathbf{H}} = \mathbf{S}^{L_{ii}} \mathbf{X}_i, \qquad
        \hat{\mathbf{H}} = \frac{1}{L_{ui} + 1} \sum_{l=0}^{L_{ui}}
        \left( \mathbf{D}^{-1/2} \mathbf{A} \mathbf{D}^{-1/2} \right)^l \mathbf{X}, \qquad
        \mathbf{h}_u = \hat{\mathbf{h}}_u, \quad \mathbf{h}_i = \hat{\mathbf{h}}_i + \tilde{\mathbf{h}}_i

    and beside BPR on these embeddings every modality has a BPR loss with the projected features
    :math:`\mathbf{h}^m_i = \mathbf{W}_m \mathbf{f}^m_i` instead of :math:`\mathbf{h}_i`, with weight :math:`\lambda`.
    (A bias of the projection cancels and is left out.) In every epoch, training runs on a new sample of
    :math:`\lfloor (1 - \rho) |\mathcal{E}| \rfloor` edges, but at least one, drawn without replacement with
    probabilities proportional to :math:`1 / \sqrt{d_u d_i}` and normalised anew; evaluation runs on all edges.

    **Views.** Features shape the item graph, not the input of the layers. Where a modality is intervened on, all items
    look alike and :math:`\mathbf{S}_m / k` becomes the uniform mean over all items. Its loss term is left out too.

    The paper has no L2 penalty; the one of the backbone acts on the rows of :math:`\mathbf{h}_u` and
    :math:`\mathbf{h}_i`.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        feature_dims: Feature width of every modality, in order.
        embedding_dim: Width :math:`D` of the embeddings.
        num_layers: Number of layers :math:`L_{ui}` on the graph of users and items.
        num_item_layers: Number of layers :math:`L_{ii}` on the graph of items; with 0, content changes no embedding.
        num_neighbors: Number of neighbours ``k`` of an item, including itself; all items if there are fewer.
        modality_weights: :math:`\alpha_m` for every modality, scaled to sum to one; :obj:`None` weighs all equally.
            (The published settings have ``{"visual": 0.1, "textual": 0.9}``.)
        dropout: Share :math:`\rho` of the edges that are left out in an epoch; the published settings have 0.8 or 0.9.
        modality_loss_weight: :math:`\lambda`; the published settings have 0 to 1e-3.

    Raises:
        InputError: If a size is not positive, there is no modality, a name is unknown, or a number is out of its range.
    """

    capturable = True
    steered: ClassVar[str] = "never"
    strategies: ClassVar[frozenset[str]] = frozenset({"users", "columns", "ddp"})
    column_dims: ClassVar[Mapping[str, int | None]] = {**LightGCN.column_dims, "project": 0}
    recommended: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "model": {"num_layers": 4, "dropout": 0.5},
        "trainer": {"lr": 5e-3},
        "plain": {"l2": 0.0},
        "teacher": {"l2": 0.0},
        "distillation": {"l2": 0.0, "distillation_weight": 1e-4},
    }

    def __init__(
        self,
        num_users: int,
        num_items: int,
        feature_dims: Mapping[str, int],
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_item_layers: int = 1,
        num_neighbors: int = 10,
        modality_weights: dict[str, float] | None = None,
        dropout: float = 0.8,
        modality_loss_weight: float = 1e-3,
    ) -> None:
        check_modalities(feature_dims)
        super().__init__(num_users, num_items, feature_dims, embedding_dim, num_layers)
        check_size("num_item_layers", num_item_layers, least=0)
        check_size("num_neighbors", num_neighbors)
        if not 0 <= dropout < 1:
            raise InputError(f"dropout: found {dropout}, expected a share from 0 to below 1")
        if not 0 <= modality_loss_weight < math.inf:
            raise InputError(f"modality_loss_weight: found {modality_loss_weight}, expected a number of zero or more")
        self.num_item_layers, self.num_neighbors = num_item_layers, num_neighbors
        self.modality_weights = _scaled(modality_weights, feature_dims)
        self.dropout, self.modality_loss_weight = dropout, modality_loss_weight
        self.project = nn.ModuleDict({m: nn.Linear(d, embedding_dim, bias=False) for m, d in feature_dims.items()})

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        super().reset_parameters()
        reset_linear_layers(self)

    def prepare(self, features: Mapping[str, Tensor], edge_index_dict: Mapping[EdgeType, Graph]) -> dict[EdgeType, Any]:
        r"""Normalise the graph of users and items and freeze :math:`\mathbf{S}_m / k` of every modality.

        Args:
            features: From modality to the full feature matrix ``[I, d_m]``.
            edge_index_dict: The graphs. One under ``('item', modality, 'item')`` replaces :math:`\mathbf{S}_m`.
        """
        return self._with_item_graphs(features, super().prepare(features, edge_index_dict))

    def _with_item_graphs(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> dict[EdgeType, Any]:
        dtype = self.item_embedding.dtype
        return with_content_graphs(features, graphs, self.num_items, self.num_neighbors, "binary", dtype=dtype)

    def begin_epoch(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> dict[EdgeType, Any]:
        """Return the graphs with a new sample of the interactions.

        Args:
            features: Not used.
            graphs: What :meth:`prepare` returned.
        """
        if self.dropout == 0:
            return dict(graphs)
        graph = graphs[RATES]
        _, weight = interactions(graph, self.num_users)
        if isinstance(graph, UserPart):  # All processes draw the same edges of the whole graph.
            weight = graph.sums.processes.gather_rows(weight)
        num_kept = math.floor(weight.numel() * (1 - self.dropout) + 1e-6)  # 1 - 0.9 is below 0.1 in floating point.
        num_kept = min(weight.numel(), max(1, num_kept))
        return {**graphs, RATES: prune(graph, self.num_users, sample_edges(weight, num_kept))}

    def encode(self, views: Sequence[View], inputs: Inputs) -> Sequence[Output]:
        """Propagate over users and items once for all views, and over items once for what they have in common."""
        x = self.propagate(self.ego(frozenset(), inputs), inputs.graph)
        user, item = self.split(x, inputs.n_id_dict)
        return [Embeddings(user, item + inputs.take_items(h)) for h in self._content(views, inputs)]

    def _content(self, views: Sequence[View], inputs: Inputs) -> list[Tensor]:
        r"""Return :math:`\tilde{\mathbf{H}}` of every view; what views have in common is propagated once."""
        graphs = self._with_item_graphs(inputs.features, inputs.graphs)

        @functools.cache
        def spread(modality: str, x: Tensor) -> Tensor:
            return self.modality_weights[modality] * graphs[item_graph_type(modality)].matmul(x)

        def layer(view: View, x: Tensor) -> Tensor:
            parts = [spread(m, x) for m in self.modalities if m in view]
            alike = sum(self.modality_weights[m] for m in self.modalities if m not in view)
            if alike > 0:  # As in UniformGraph, but with a single row for all items.
                parts.append(alike * mean_row(x))
            return functools.reduce(torch.add, parts).expand_as(x)

        h: list[Tensor] = [self.item_embedding for _ in views]
        for _ in range(self.num_item_layers):
            h = [layer(view, x) for view, x in zip(views, h, strict=True)]
        return h

    def losses(
        self, out: Output, batch: TripletBatch, features: Mapping[str, Tensor], view: View, bpr_eps: float = 0.0
    ) -> dict[str, Tensor]:
        """Return BPR on the embeddings and on the projected features of every factual modality.

        Args:
            out: The output of the trained view.
            batch: The triples.
            features: From modality to the full feature matrix ``[I, d_m]``; only the batch's rows are projected.
            view: The trained view.
            bpr_eps: See :func:`~pyg_ckd.nn.bpr_loss`; it holds for all terms.
        """
        terms = super().losses(out, batch, features, view, bpr_eps)
        whole = in_whole_graph(out, batch)
        items = torch.cat([whole.positive, whole.negative])

        def read(*modalities: tuple[str]) -> list[Tensor]:
            user, margins = out.rows(batch.user)[0], []
            for (m,) in modalities:
                positive, negative = features[m].index_select(0, items).chunk(2)
                margins.append((user * self.project[m](positive - negative)).sum(dim=-1))
            return margins

        if self.modality_loss_weight > 0:
            factual = [m for m in self.modalities if m in view]
            margins = column_sums(read, "margins of features", (out, *batch[:3]), [(m,) for m in factual])
            for m, margin in zip(factual, margins, strict=True):
                terms[f"bpr/{m}"] = self.modality_loss_weight * bpr_loss(margin, bpr_eps, batch.weight)
        return terms

    def penalty(self, out: Output, batch: TripletBatch) -> Tensor:
        """Return the L2 penalty on the rows of the embeddings that the batch scores with."""
        return Backbone.penalty(self, out, batch)


def sample_edges(weight: Tensor, num_kept: int) -> Tensor:
    """Draw edges one after the other without replacement, with probabilities proportional to their weights.

    The smallest of independent exponential variables with these rates are such a draw (Efraimidis and Spirakis, 2006),
    for any number of edges; ``torch.multinomial`` ends at 2^24.

    Args:
        weight: Positive weights ``[E]``.
        num_kept: Edges to draw, at most ``E``.

    Returns:
        Their numbers in any order, int64 ``[num_kept]``.
    """
    waiting = torch.empty_like(weight, dtype=torch.float64).exponential_() / weight
    return waiting.topk(num_kept, largest=False, sorted=False).indices


def prune(graph: Adjacency, num_users: int, kept: Tensor, eps: float = 0.0) -> Adjacency:
    """Return the graph of some of the interactions, normalised with the degrees that they have left.

    Args:
        graph: As in :func:`interactions`.
        num_users: Number of users.
        kept: Numbers of the interactions that stay, in the order of :func:`interactions` of the whole graph, int64.
        eps: See :meth:`~pyg_ckd.nn.Adjacency.from_interactions`.
    """
    edges, _ = interactions(graph, num_users)
    sizes = (num_users, graph.num_nodes - num_users)
    if isinstance(graph, UserPart):
        processes = graph.sums.processes
        first = sum(processes.gather(edges.size(1))[: processes.rank])
        own = kept[(kept >= first) & (kept < first + edges.size(1))] - first
        return UserPart.of(edges[:, own], (*sizes, graph.sums.all_users), processes, eps=eps, dtype=graph.dtype)
    return Adjacency.from_interactions(edges[:, kept], *sizes, eps=eps, dtype=graph.dtype)


def _scaled(weights: Mapping[str, float] | None, modalities: Mapping[str, int]) -> dict[str, float]:
    weights = dict.fromkeys(modalities, 1.0) if weights is None else weights
    if not isinstance(weights, Mapping):
        raise InputError(
            f"modality_weights: found {shown(weights)}, expected a weight for each modality, such as "
            f"{dict.fromkeys(modalities, 1.0)}"
        )
    for m in weights:
        if m not in modalities:
            raise unknown_name("modality", m, modalities)
    for m in modalities:
        if not 0 <= as_number(weights.get(m, -1.0), f"modality_weights of {m!r}") < math.inf:
            raise InputError(f"modality_weights: found {weights.get(m)} for {m!r}, expected a number of zero or more")
    total = math.fsum(weights.values())
    if total == 0:
        raise InputError("modality_weights: found zero for all modalities, expected at least one positive weight")
    return {m: weights[m] / total for m in modalities}
