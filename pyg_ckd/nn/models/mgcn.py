"""MGCN for any number of modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn.loss import contrastive_loss, distinct
from pyg_ckd.nn.models.base import Backbone, Graph, Inputs, check_modalities, check_size, reset_linear_layers
from pyg_ckd.nn.models.lightgcn import LightGCN
from pyg_ckd.nn.structure import UniformGraph, item_graph_type, with_content_graphs
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.embeddings import DetailedEmbeddings
from pyg_ckd.scoring.views import View

FUSIONS = ("sum", "mean")


class MGCN(LightGCN):
    r"""LightGCN and one view of the items per modality, fused by preferences computed from behaviour.

    From `"Multi-View Graph Convolutional Network for Multimedia Recommendation" <https://arxiv.org/abs/2308.03588>`_.
    With :math:`\bar{\mathbf{E}}_{id}` the output of :class:`LightGCN` on the id embeddings :math:`\mathbf{E}_u` and
    :math:`\mathbf{E}_i`, :math:`\mathbf{S}_m` the graph of every item's ``num_neighbors`` nearest neighbours (see
    :func:`~pyg_ckd.nn.structure.content_graph`), :math:`\mathbf{R}` the user-by-item block of
    :math:`\mathbf{D}^{-1/2} \mathbf{A} \mathbf{D}^{-1/2}` and :math:`\circ` the product entry by entry,

    .. math::
        \dot{\mathbf{E}}_{i,m} &= \mathbf{E}_i \circ \sigma \left( \left( \mathbf{F}_m \mathbf{W}_{1,m}^\top +
        \mathbf{b}_{1,m} \right) \mathbf{W}_{2,m}^\top + \mathbf{b}_{2,m} \right)

        \bar{\mathbf{E}}_m &= \left[ \mathbf{R} \, \mathbf{S}_m^T \dot{\mathbf{E}}_{i,m} ; \mathbf{S}_m^T
        \dot{\mathbf{E}}_{i,m} \right], \qquad
        \alpha_m = \textrm{softmax}_m \left( \mathbf{q}^\top \tanh \left( \mathbf{W}_3 \bar{\mathbf{e}}_m +
        \mathbf{b}_3 \right) \right), \qquad \mathbf{E}_s = \sum_m \alpha_m \bar{\mathbf{E}}_m

        \mathbf{P}_m &= \sigma \left( \bar{\mathbf{E}}_{id} \mathbf{W}_{4,m}^\top + \mathbf{b}_{4,m} \right), \qquad
        \mathbf{E}_{mul} = \mathbf{E}_s + \frac{1}{M} \sum_m \mathbf{P}_m \circ
        \left( \bar{\mathbf{E}}_m - \mathbf{E}_s \right), \qquad
        \mathbf{E} = \bar{\mathbf{E}}_{id} + \mathbf{E}_{mul}

    with :math:`T` = ``num_item_layers``. A contrastive loss between :math:`\mathbf{E}_{mul}` and
    :math:`\bar{\mathbf{E}}_{id}` of the batch's users and positive items, each once, goes with BPR. (In the published
    implementation those that occur twice are their own negatives.) The L2 penalty acts on the batch's rows of
    :math:`\mathbf{E}`.

    **Views.** A modality that is intervened on gates the id embeddings with the mean features, alike for all items, and
    its :math:`\mathbf{S}_m` is the uniform mean over all items: with :math:`T > 0` every item has the same
    :math:`\bar{\mathbf{e}}_m`, and a user has a multiple of it. Behaviour stays as it is, and so do the
    :math:`\mathbf{P}_m`, which are computed from it.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        feature_dims: Feature width of every modality, in order.
        embedding_dim: Width of the embeddings.
        num_layers: Layers on the graph of users and items.
        num_item_layers: Layers :math:`T` on the graphs of items.
        num_neighbors: Number of neighbours of an item, including itself; all items if there are fewer.
        keep_negative: Whether negative similarities stay among the ``num_neighbors`` largest, as in the published code.
            :class:`LATTICE` and :class:`MICRO` drop them by default.
        fusion: ``"sum"`` as in the paper, or ``"mean"`` as in the published implementation, which divides
            :math:`\mathbf{E}_s` plus the ``M`` terms of the sum by ``M + 1``.
        contrastive_weight: Weight of the contrastive loss.
        temperature: Temperature of the contrastive loss.

    Raises:
        InputError: If a size is not positive, there is no modality, a number is out of its range, or ``fusion`` is
            neither of the two.
    """

    capturable = True
    recommended: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "trainer": {"lr": 3e-3, "batch_size": 4096},
        "plain": {"l2": 1e-3},
        "teacher": {"l2": 1e-3},
        "distillation": {"l2": 1e-3, "distillation_weight": 0.01},
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
        keep_negative: bool = True,
        fusion: str = "sum",
        contrastive_weight: float = 1e-3,
        temperature: float = 0.2,
    ) -> None:
        check_modalities(feature_dims)
        super().__init__(num_users, num_items, feature_dims, embedding_dim, num_layers)
        check_size("num_item_layers", num_item_layers, least=0)
        check_size("num_neighbors", num_neighbors)
        if fusion not in FUSIONS:
            raise unknown_name("fusion", fusion, FUSIONS)
        if not 0 <= contrastive_weight < float("inf"):
            raise InputError(f"contrastive_weight: found {contrastive_weight}, expected a number of zero or more")
        if not 0 < temperature < float("inf"):
            raise InputError(f"temperature: found {temperature}, expected a positive number")
        self.num_item_layers, self.num_neighbors = num_item_layers, num_neighbors
        self.keep_negative, self.fusion = keep_negative, fusion
        self.contrastive_weight, self.temperature = contrastive_weight, temperature
        self.project = nn.ModuleDict({m: nn.Linear(d, embedding_dim) for m, d in feature_dims.items()})
        self.lin_purify = nn.ModuleDict({m: nn.Linear(embedding_dim, embedding_dim) for m in feature_dims})
        self.lin_query = nn.Linear(embedding_dim, embedding_dim)
        self.lin_score = nn.Linear(embedding_dim, 1, bias=False)
        self.lin_prefer = nn.ModuleDict({m: nn.Linear(embedding_dim, embedding_dim) for m in feature_dims})

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        super().reset_parameters()
        reset_linear_layers(self)

    def prepare(self, features: Mapping[str, Tensor], edge_index_dict: Mapping[EdgeType, Graph]) -> dict[EdgeType, Any]:
        """Normalise the graph of users and items and add the graphs of items that are missing.

        Args:
            features: From modality to the full feature matrix ``[I, d_m]``.
            edge_index_dict: The graphs; those under ``('item', modality, 'item')`` run over all items.
        """
        return self._with_item_graphs(features, super().prepare(features, edge_index_dict))

    def _with_item_graphs(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> dict[EdgeType, Any]:
        weighting, dtype = "similarity" if self.keep_negative else "positive", self.item_embedding.dtype
        return with_content_graphs(features, graphs, self.num_items, self.num_neighbors, weighting, dtype=dtype)

    def encode(self, views: Sequence[View], inputs: Inputs) -> Sequence[Output]:
        """Compute behaviour and preferences once, every modality at most twice, and fuse them for each view."""
        if inputs.n_id_dict:
            inputs = inputs._replace(graphs=self._with_item_graphs(inputs.features, inputs.graphs))
        content = self.propagated_ids(inputs)
        preference = {m: torch.sigmoid(self.lin_prefer[m](content)) for m in self.modalities}
        total_preference = torch.stack(list(preference.values())).sum(dim=0)
        needed = [(m, factual) for m in self.modalities for factual in sorted({m in view for view in views})]
        enriched = {key: self.enrich(*key, inputs) for key in needed}
        score = {key: self.score(x) for key, x in enriched.items()}
        preferred = {(m, factual): preference[m] * x for (m, factual), x in enriched.items()}
        out = []
        for view in views:
            keys = [(m, m in view) for m in self.modalities]
            weight = torch.cat([score[key] for key in keys], dim=1).softmax(dim=1).split(1, dim=1)
            common = torch.stack([w * enriched[key] for w, key in zip(weight, keys, strict=True)]).sum(dim=0)
            # The sum of P (E_m - E_s), with all that does not depend on the view computed once.
            specific = torch.stack([preferred[key] for key in keys]).sum(dim=0) - total_preference * common
            side = self.combine(common, specific)
            embeddings = self.split(content + side, inputs.n_id_dict)
            out.append(DetailedEmbeddings(*embeddings, {"side": side, "content": content}))
        return out

    def enrich(self, modality: str, factual: bool, inputs: Inputs) -> Tensor:
        r"""Return :math:`\bar{\mathbf{E}}_m`, ``[N, D]``: purified item embeddings after the graph of items, and users.

        Args:
            modality: Name of the modality.
            factual: Whether the modality is factual.
            inputs: What the pass runs on.
        """
        feature = inputs.features[modality] if factual else inputs.mean_feature(modality)
        graph = inputs.graphs[item_graph_type(modality)] if factual else UniformGraph()
        gate = self.lin_purify[modality](self.project[modality](feature))
        item = self.item_embedding * torch.sigmoid(gate)
        for _ in range(self.num_item_layers):
            item = graph.matmul(item)
        item = inputs.take_items(item)
        user = inputs.graph.to_users(inputs.graph.num_nodes - item.size(0)).matmul(item)
        return torch.cat([user, item])

    def score(self, x: Tensor) -> Tensor:
        r"""Return the scores whose softmax is :math:`\alpha_m`, ``[N, 1]``."""
        return self.lin_score(torch.tanh(self.lin_query(x)))

    def combine(self, common: Tensor, specific: Tensor) -> Tensor:
        r"""Return :math:`\mathbf{E}_{mul}` from :math:`\mathbf{E}_s` and the sum of the modalities' specific parts."""
        if self.fusion == "sum":
            return common + specific / len(self.modalities)
        return (common + specific) / (len(self.modalities) + 1)

    def losses(
        self, out: Output, batch: TripletBatch, features: Mapping[str, Tensor], view: View, bpr_eps: float = 0.0
    ) -> dict[str, Tensor]:
        r"""Return BPR and the contrastive loss over the distinct users and the distinct positive items of the batch.

        Args:
            out: The output of the trained view.
            batch: The triples.
            features: From modality to the full feature matrix ``[I, d_m]``.
            view: The trained view.
            bpr_eps: See :func:`~pyg_ckd.nn.bpr_loss`.
        """
        terms = super().losses(out, batch, features, view, bpr_eps)
        if self.contrastive_weight > 0:
            detailed = cast(DetailedEmbeddings, out)
            side, content = (detailed.parts[name] for name in ("side", "content"))
            both = []
            for ids, first in ((batch.user, 0), (batch.positive, detailed.user.size(0))):
                rows, once = distinct(ids + first)
                parts = side.index_select(0, rows), content.index_select(0, rows)
                both.append(contrastive_loss(*parts, self.temperature, known=once))
            terms["contrastive"] = self.contrastive_weight * torch.stack(both).sum()
        return terms

    def penalty(self, out: Output, batch: TripletBatch) -> Tensor:
        """Return the L2 penalty on the rows of the embeddings that the batch scores with."""
        return Backbone.penalty(self, out, batch)
