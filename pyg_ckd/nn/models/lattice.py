"""LATTICE for any number of modalities, and what it shares with other models of learned item-item structure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.data.neighbors import laplacian, without_content
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn.models.base import Backbone, Graph, Inputs, check_modalities, check_size, mean_row, reset_linear_layers
from pyg_ckd.nn.models.lightgcn import LightGCN
from pyg_ckd.nn.propagation import Adjacency
from pyg_ckd.nn.structure import (
    LEARNING,
    ItemGraph,
    LearnedGraph,
    Learning,
    UniformGraph,
    item_graph_type,
    matmul_together,
    weighted,
    with_content_graphs,
)
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.embeddings import DetailedEmbeddings
from pyg_ckd.scoring.views import View

MIXTURES = ("graphs", "similarities")

Mixture = tuple[Mapping[str, Tensor], Mapping[Any, ItemGraph], Mapping[View, Mapping[Any, Tensor]]]
"""Weights of the modalities, graphs by any key, and for every view what it multiplies each of its graphs with."""


class LatentStructure(LightGCN, ABC):
    r"""LightGCN whose item embeddings are enriched over item-item graphs that are learned from content.

    The base of :class:`LATTICE` and :class:`MICRO`. With :math:`\mathbf{F}_m` the features of modality ``m`` and
    :math:`\textrm{Knn}(\cdot)` the matrix of cosine similarities of which every row keeps its :math:`k` largest,

    .. math::
        \mathbf{S}_m &= \max \left( 0, \textrm{Knn}(\mathbf{F}_m) \right), \qquad
        \mathbf{A}_m = \max \left( 0, \textrm{Knn}(\mathbf{F}_m \mathbf{W}_m^\top + \mathbf{b}_m) \right)

        \tilde{\mathbf{A}}_m &= \lambda \mathbf{\Delta}^{-1/2} \mathbf{S}_m \mathbf{\Delta}^{-1/2}
        + (1 - \lambda) \mathbf{\Delta}^{-1/2} \mathbf{A}_m \mathbf{\Delta}^{-1/2}

        \mathbf{x}_u &= \mathbf{z}_u, \qquad
        \mathbf{x}_i = \mathbf{z}_i + \mathbf{h}_i / \lVert \mathbf{h}_i \rVert_2

    where :math:`\mathbf{\Delta}` is the diagonal of row sums, :math:`\mathbf{z}` the embeddings of :class:`LightGCN`
    and :math:`\mathbf{h}` what a subclass computes from the item embeddings and the graphs, in :meth:`items`.

    As in the published codes, the graphs are learned once per epoch: in training, the first step after
    :meth:`begin_epoch` finds the neighbours and sends gradients to :math:`\mathbf{W}_m`; the steps after it take the
    graphs as constants. Any pass over graphs that :meth:`begin_epoch` did not see, as in evaluation, finds the
    neighbours anew.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        feature_dims: Feature width of every modality, in order.
        embedding_dim: Width :math:`D` of the embeddings.
        num_layers: Number of layers of :class:`LightGCN`.
        num_item_layers: Number of layers over the item-item graphs; with 0, content changes no embedding.
        latent_dim: Width that features are projected to.
        num_neighbors: Number of neighbours :math:`k` of an item, including itself; all items if there are fewer.
        skip_weight: Weight :math:`\lambda` of the graph of raw features.
        keep_negative: Whether negative similarities stay among the :math:`k` largest, as in the published codes.

    Raises:
        InputError: If a size is not positive, there is no modality, or a number is out of its range.
    """

    capturable = True
    steered: ClassVar[str] = "epochs"
    strategies: ClassVar[frozenset[str]] = frozenset({"ddp"})
    recommended: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "trainer": {"lr": 5e-3, "batch_size": 4096, "patience": 500},
        "plain": {"l2": 0.01},
        "teacher": {"l2": 0.01},
        "distillation": {"l2": 0.01, "distillation_weight": 0.01},
    }

    def __init__(
        self,
        num_users: int,
        num_items: int,
        feature_dims: Mapping[str, int],
        embedding_dim: int,
        num_layers: int,
        num_item_layers: int,
        latent_dim: int,
        num_neighbors: int,
        skip_weight: float,
        keep_negative: bool,
    ) -> None:
        check_modalities(feature_dims)
        super().__init__(num_users, num_items, feature_dims, embedding_dim, num_layers)
        check_size("num_item_layers", num_item_layers, least=0)
        check_size("latent_dim", latent_dim)
        check_size("num_neighbors", num_neighbors)
        if not 0 <= skip_weight <= 1:
            raise InputError(f"skip_weight: found {skip_weight}, expected a number from 0 to 1")
        self.num_item_layers, self.num_neighbors, self.skip_weight = num_item_layers, num_neighbors, skip_weight
        self.weighting = "similarity" if keep_negative else "positive"
        self.project = nn.ModuleDict({m: nn.Linear(d, latent_dim) for m, d in feature_dims.items()})

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        super().reset_parameters()
        reset_linear_layers(self)

    def prepare(self, features: Mapping[str, Tensor], edge_index_dict: Mapping[EdgeType, Graph]) -> dict[EdgeType, Any]:
        r"""Normalise the graph of users and items and add :math:`\mathbf{S}_m`, normalised, for every modality.

        Args:
            features: From modality to the full feature matrix ``[I, d_m]``.
            edge_index_dict: The graphs; one under ``('item', m, 'item')`` replaces :math:`\mathbf{S}_m`.
        """
        graphs = {LEARNING: Learning(), **super().prepare(features, edge_index_dict)}
        dtype = self.item_embedding.dtype
        return with_content_graphs(features, graphs, self.num_items, self.num_neighbors, self.weighting, dtype=dtype)

    def begin_epoch(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> dict[EdgeType, Any]:
        """Let the first step of the epoch learn the item-item graphs.

        Args:
            features: As in :meth:`prepare`.
            graphs: What :meth:`prepare` returned.
        """
        return {**graphs, LEARNING: graphs[LEARNING].begin_epoch()}

    def encode(self, views: Sequence[View], inputs: Inputs) -> Sequence[Output]:
        r"""Add the items' enrichment :math:`\mathbf{h}` in each view to the embeddings that all views share."""
        inputs = inputs._replace(graphs=self.prepare(inputs.features, inputs.graphs))  # A subgraph comes without.
        z = self.split(self.propagated_ids(inputs), inputs.n_id_dict)
        # Among identical items there is nothing to learn either: a constant modality is never factual.
        constant = {m for m in self.modalities if isinstance(inputs.graphs[item_graph_type(m)], UniformGraph)}
        factual = [view - constant for view in views]
        parts = self.items(list(dict.fromkeys(factual)), inputs)
        return [
            DetailedEmbeddings(z.user, z.item + F.normalize(inputs.take_items(parts[view]["h"])), parts[view])
            for view in factual
        ]

    @abstractmethod
    def items(self, views: Sequence[View], inputs: Inputs) -> Mapping[View, Mapping[str, Tensor]]:
        r"""Compute the items' enrichment in each view.

        Args:
            views: The views, each once; all modalities in them have an item-item graph with edges.
            inputs: What the pass runs on.

        Returns:
            For every view :math:`\mathbf{h}` ``[I, D]`` under ``"h"`` and further parts that the losses need.
        """

    def learned_edges(self, modality: str, inputs: Inputs) -> tuple[Tensor, Tensor]:
        r"""Return the edges and the weights of :math:`\mathbf{A}_m`."""
        x = inputs.features[modality]
        with torch.autocast(x.device.type, enabled=False):  # Rounded features have other neighbours.
            x = self.project[modality](x)
        k = min(self.num_neighbors, self.num_items)
        alone = inputs.of_features("alone", modality, without_content)
        edge_index, similarity = inputs.graphs[LEARNING].edges(modality, x, k, alone)
        return edge_index, weighted(similarity, self.weighting)

    def item_graph(self, modality: str, inputs: Inputs) -> ItemGraph:
        r"""Return :math:`\tilde{\mathbf{A}}_m` of a factual modality."""
        return inputs.graphs[LEARNING].once(
            modality, lambda: self._with_skip(self.learned_edges(modality, inputs), {modality: 1.0}, inputs)
        )

    def _with_skip(
        self,
        edges: tuple[Tensor, Tensor],
        skips: Mapping[str, float | Tensor],
        inputs: Inputs,
        share: float | Tensor = 1,
    ) -> LearnedGraph:
        """Normalise learned edges and add the graphs of raw features, each with its weight."""
        edge_index, weight = edges
        parts = [(edge_index, (1 - self.skip_weight) * share * laplacian(edge_index, weight, self.num_items))]
        for m, mix in skips.items():
            graph = cast(Adjacency, inputs.graphs[item_graph_type(m)])
            parts.append((graph.edge_index, self.skip_weight * mix * graph.weight))
        indices, weights = zip(*parts, strict=True)
        return LearnedGraph(torch.cat(indices, dim=1), torch.cat(weights), self.num_items)

    def penalty(self, out: Output, batch: TripletBatch) -> Tensor:
        """Return the L2 penalty on the rows of the embeddings that the batch scores with."""
        return Backbone.penalty(self, out, batch)


class LATTICE(LatentStructure):
    r"""LightGCN on top of one item-item graph that mixes the learned graphs of all modalities.

    From `"Mining Latent Structures for Multimedia Recommendation" <https://arxiv.org/abs/2104.09036>`_. With the
    learned graphs :math:`\tilde{\mathbf{A}}_m` of :class:`LatentStructure` and :math:`\mathbf{Q}` the id embeddings of
    the items,

    .. math::
        \mathbf{H}^{(0)} = \mathbf{Q}, \qquad
        \mathbf{H}^{(t+1)} = \sum_m \alpha_m \tilde{\mathbf{A}}_m \mathbf{H}^{(t)}, \qquad
        \boldsymbol{\alpha} = \textrm{softmax}(\mathbf{a}), \qquad
        \mathbf{x}_i = \mathbf{z}_i + \mathbf{h}^{(T)}_i / \lVert \mathbf{h}^{(T)}_i \rVert_2

    Early fusion: one stream runs over the mixed graph. In a view, the graph of a modality that is intervened on is that
    of identical items, in which every item's neighbourhood is the uniform mean over all items; its weight
    :math:`\alpha_m` stays. Users and the part :math:`\mathbf{z}` are the same in all views.

    The published code runs LightGCN over the row-normalised graph with self-loops, keeps negative similarities and
    mixes before it normalises (``mixture="similarities"``).

    Args:
        num_users: Number of users.
        num_items: Number of items.
        feature_dims: Feature width of every modality, in order.
        embedding_dim: Width :math:`D` of the embeddings.
        num_layers: Number of layers of :class:`LightGCN`.
        num_item_layers: Number of layers :math:`T` over the item-item graph; with 0, content changes no embedding.
        latent_dim: Width that features are projected to.
        num_neighbors: Number of neighbours :math:`k` of an item, including itself; all items if there are fewer.
        skip_weight: Weight :math:`\lambda` of the graphs of raw features.
        mixture: What :math:`\boldsymbol{\alpha}` mixes: ``"graphs"``, the normalised ones as in the paper, or
            ``"similarities"``, as in the published code: the learned part is
            :math:`\mathbf{\Delta}^{-1/2} (\sum_m \alpha_m \mathbf{A}_m) \mathbf{\Delta}^{-1/2}`, so that
            :math:`\mathbf{a}`, too, is learned in the first step of an epoch only. In a view the sum is over factual
            modalities, and their total weight multiplies the normalised matrix.
        keep_negative: Whether negative similarities stay among the :math:`k` largest, as in the published code.

    Raises:
        InputError: If a size is not positive, there is no modality, a number is out of its range or ``mixture`` is
            neither of the two.
    """

    capturable = True
    strategies: ClassVar[frozenset[str]] = frozenset({"users", "ddp"})

    def __init__(
        self,
        num_users: int,
        num_items: int,
        feature_dims: Mapping[str, int],
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_item_layers: int = 1,
        latent_dim: int = 64,
        num_neighbors: int = 10,
        skip_weight: float = 0.9,
        mixture: str = "graphs",
        keep_negative: bool = False,
    ) -> None:
        structure = (num_item_layers, latent_dim, num_neighbors, skip_weight, keep_negative)
        super().__init__(num_users, num_items, feature_dims, embedding_dim, num_layers, *structure)
        if mixture not in MIXTURES:
            raise unknown_name("mixture", mixture, MIXTURES)
        self.mixture = mixture
        self.modality_weight = nn.Parameter(torch.zeros(len(feature_dims)))

    def reset_parameters(self) -> None:
        """Draw all parameters anew; at first, all modalities weigh the same."""
        super().reset_parameters()
        if hasattr(self, "modality_weight"):  # Not yet while the base class is being built.
            nn.init.zeros_(self.modality_weight)

    def items(self, views: Sequence[View], inputs: Inputs) -> Mapping[View, Mapping[str, Tensor]]:
        r"""Return :math:`\mathbf{H}^{(T)}` of every view.

        A product with a graph is computed once for all views that have the same :math:`\mathbf{H}^{(t)}`; others are
        stacked along the feature axis.
        """
        mix = self._mix_similarities if self.mixture == "similarities" else self._mix_graphs
        alpha, graphs, weights = mix(views, inputs)
        x: dict[View, Tensor] = dict.fromkeys(views, self.item_embedding)
        for _ in range(self.num_item_layers):
            intervened = {view: [alpha[m] for m in self.modalities if m not in view] for view in views}
            following = {view: sum(intervened[view], start=x[view].new_zeros(())) * mean_row(x[view]) for view in views}
            for key, graph in graphs.items():
                users = [view for view in views if key in weights[view]]
                for view, product in zip(users, matmul_together(graph, [x[view] for view in users]), strict=True):
                    following[view] = following[view] + weights[view][key] * product
            x = following
        return {view: {"h": h.expand_as(self.item_embedding)} for view, h in x.items()}

    def alpha(self) -> dict[str, Tensor]:
        r"""Return :math:`\alpha_m` by modality."""
        return dict(zip(self.modalities, self.modality_weight.softmax(dim=0), strict=True))

    def _mix_graphs(self, views: Sequence[View], inputs: Inputs) -> Mixture:
        alpha = self.alpha()
        needed = [m for m in self.modalities if any(m in view for view in views)]
        weights = {view: {m: alpha[m] for m in self.modalities if m in view} for view in views}
        return alpha, {m: self.item_graph(m, inputs) for m in needed}, weights

    def _mix_similarities(self, views: Sequence[View], inputs: Inputs) -> Mixture:
        learning: Learning = inputs.graphs[LEARNING]
        stacked = learning.once("alpha", lambda: self.modality_weight.softmax(dim=0))
        alpha = dict(zip(self.modalities, stacked, strict=True))
        learned_edges = cache(lambda m: self.learned_edges(m, inputs))

        def mixed(view: View) -> LearnedGraph:
            factual = {m: alpha[m] for m in self.modalities if m in view}
            edges = [learned_edges(m) for m in factual]
            edge_index = torch.cat([index for index, _ in edges], dim=1)
            weight = torch.cat([a * weight for a, (_, weight) in zip(factual.values(), edges, strict=True)])
            share = torch.stack(list(factual.values())).sum()
            return self._with_skip((edge_index, weight), factual, inputs, share)

        graphs = {view: learning.once(view, partial(mixed, view)) for view in views if view}
        return alpha, graphs, {view: {view: stacked.new_ones(())} if view else {} for view in views}
