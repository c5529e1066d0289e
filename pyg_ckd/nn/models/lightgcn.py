"""LightGCN and its early-fusion multimodal form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn.loss import l2_penalty
from pyg_ckd.nn.models.base import Backbone, EarlyFusion, Inputs, check_size
from pyg_ckd.nn.models.rows import id_rows
from pyg_ckd.nn.propagation import Adjacency
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.column_sums import column_sum
from pyg_ckd.scoring.views import View

NARROW = 4
"""Features up to so many times the width of the embeddings are propagated once per run instead of once per step."""


class LightGCN(EarlyFusion):
    r"""LightGCN, the baseline that sees no modality at all.

    From `"LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation"
    <https://arxiv.org/abs/2002.02126>`_.

    .. math::
        \mathbf{X}^{(l+1)} = \mathbf{D}^{-1/2} \mathbf{A} \mathbf{D}^{-1/2} \mathbf{X}^{(l)}, \qquad
        \mathbf{X} = \frac{1}{L + 1} \sum_{l=0}^{L} \mathbf{X}^{(l)}

    Every view is the same, for there is nothing to intervene on. As in the paper, the L2 penalty acts on the id
    embeddings :math:`\mathbf{X}^{(0)}` of the batch.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        feature_dims: Taken as every backbone takes it; features are ignored.
        embedding_dim: Width :math:`D` of the embeddings.
        num_layers: Number of layers :math:`L`.

    Raises:
        InputError: If a size is not positive or ``num_layers`` is negative.
    """

    uses_features = False
    strategies: ClassVar[frozenset[str]] = frozenset({"users", "columns", "ddp"})
    user_rows: ClassVar[frozenset[str]] = frozenset({"user_embedding"})
    column_dims: ClassVar[Mapping[str, int | None]] = {"user_embedding": 1, "item_embedding": 1}
    sampled = True
    recommended: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "model": {"num_layers": 4},
        "trainer": {"lr": 5e-3},
        "plain": {"l2": 1e-3},
    }

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """A model that builds on this one does so in order to use features."""
        super().__init_subclass__(**kwargs)
        cls.uses_features = True

    def __init__(
        self,
        num_users: int,
        num_items: int,
        feature_dims: Mapping[str, int] | None = None,
        embedding_dim: int = 64,
        num_layers: int = 3,
    ) -> None:
        super().__init__(num_users, num_items, feature_dims or {})
        check_size("embedding_dim", embedding_dim)
        check_size("num_layers", num_layers, least=0)
        self.user_embedding = nn.Parameter(torch.empty(num_users, embedding_dim))
        self.item_embedding = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.num_layers = num_layers
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        nn.init.xavier_uniform_(self.user_embedding)
        nn.init.xavier_uniform_(self.item_embedding)

    @property
    def num_hops(self) -> int:  # type: ignore[override]
        """The number of layers."""
        return self.num_layers

    def ego(self, view: View, inputs: Inputs) -> Tensor:
        """Return the id embeddings ``[N, D]``."""
        return torch.cat([inputs.take_users(self.user_embedding), inputs.take_items(self.item_embedding)])

    def encode(self, views: Sequence[View], inputs: Inputs) -> Sequence[Output]:
        """Compute the embeddings that all views share."""
        out = self.split(self.propagate(self.ego(frozenset(), inputs), inputs.graph), inputs.n_id_dict)
        return [out] * len(views)

    def propagate(self, x: Tensor, graph: Adjacency) -> Tensor:
        """Return the mean over layers, which is what as many calls of LGConv give, in fewer passes over memory."""
        return graph.mean_of_powers(x, self.num_layers)

    def penalty(self, out: Output, batch: TripletBatch) -> Tensor:
        """Return the L2 penalty on the batch's rows of the id embeddings."""

        def rows_norm() -> Tensor:
            return l2_penalty(*id_rows(out, batch, self.user_embedding, self.item_embedding, self.sparse_rows))

        return column_sum(rows_norm, "penalty", self, *batch[:3])


class EarlyFusionLightGCN(LightGCN):
    r"""LightGCN whose items start from their id embedding plus their fused features.

    .. math::
        \mathbf{x}^{(0)}_u = \mathbf{p}_u, \qquad
        \mathbf{x}^{(0)}_i = \mathbf{q}_i + \sum_{m} \left( \mathbf{W}_m \mathbf{f}^m_i + \mathbf{b}_m \right)

    and propagation as in :class:`LightGCN`. The modalities meet before the first layer, hence early fusion. A modality
    that is intervened on adds the same vector to every item's input.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        feature_dims: Feature width of every modality, in order.
        embedding_dim: Width :math:`D` of the embeddings.
        num_layers: Number of layers :math:`L`.
        id_embedding: Whether items have the id embedding :math:`\mathbf{q}_i`.

    Raises:
        InputError: If a size is not positive or there is no modality.
    """

    strategies: ClassVar[frozenset[str]] = frozenset({"users", "columns", "ddp"})
    column_dims: ClassVar[Mapping[str, int | None]] = {**LightGCN.column_dims, "project": 0}
    sampled = True
    recommended: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "model": {"num_layers": 4},
        "trainer": {"lr": 5e-3},
        "plain": {"l2": 0.03},
        "teacher": {"l2": 0.03},
        "distillation": {"l2": 0.03, "distillation_weight": 0.1},
    }

    def __init__(
        self,
        num_users: int,
        num_items: int,
        feature_dims: Mapping[str, int],
        embedding_dim: int = 64,
        num_layers: int = 2,
        id_embedding: bool = True,
    ) -> None:
        check_size("number of modalities", len(feature_dims))
        super().__init__(num_users, num_items, feature_dims, embedding_dim, num_layers)
        self.id_embedding = id_embedding
        if not id_embedding:
            self.item_embedding.requires_grad_(False).zero_()
        self.project = nn.ModuleDict({m: nn.Linear(d, embedding_dim) for m, d in feature_dims.items()})

    def reset_parameters(self) -> None:
        """Draw all parameters anew; without id embeddings, those of the items stay zero."""
        super().reset_parameters()
        if hasattr(self, "project"):  # Not yet while the base class is being built.
            for lin in self.project.values():
                if isinstance(lin, nn.Linear):
                    lin.reset_parameters()
            if not self.id_embedding:
                nn.init.zeros_(self.item_embedding)

    def encode(self, views: Sequence[View], inputs: Inputs) -> Sequence[Output]:
        r"""Compute the views by linearity: the propagated input is the sum of its propagated parts.

        With :math:`\mathbf{P}` the mean of the adjacency's powers, :math:`\mathbf{P} [\mathbf{0}; \mathbf{F}_m]` is the
        same in every step: narrow features are propagated once per run, wide ones after their projection. A modality
        that is intervened on is its mean row times :math:`\mathbf{P} [\mathbf{0}; \mathbf{1}]`.
        """
        graph, user = inputs.graph, inputs.take_users(self.user_embedding)
        num_users = user.size(0)

        def as_items(x: Tensor) -> Tensor:
            return torch.cat([x.new_zeros(num_users, x.size(1)), x])

        shared = frozenset.intersection(*views)  # Factual in every view: part of the stream that all have in common.
        item = inputs.take_items(self.item_embedding)
        for m in self.modalities:
            item = item + self._map(m, inputs.take_items(inputs.features[m])) if m in shared else item
        streams = [torch.cat([user, item])]
        wide = [m for m in self.modalities if m not in shared and not self._is_narrow(m, inputs)]
        streams += [as_items(self._map(m, inputs.take_items(inputs.features[m]))) for m in wide]
        start = torch.cat(streams, dim=1) if wide else streams[0]
        base, *projected = self.propagate(start, graph).chunk(len(streams), dim=1)
        factual = dict(zip(wide, projected, strict=True))
        ones = graph.constant(
            ("items", num_users, self.num_layers),
            None,
            lambda: self.propagate(as_items(base.new_ones(item.size(0), 1)), graph),
        )
        for m in self.modalities:
            if m not in shared and m not in factual:
                spread = graph.constant(
                    ("features", m, self.num_layers), inputs.features[m], lambda x: self.propagate(as_items(x), graph)
                )
                factual[m] = self._map(m, spread)
        out = []
        for view in views:
            same = [self.project[m](inputs.mean_feature(m)) for m in self.modalities if m not in view]
            same += [self._bias(m) for m in self.modalities if m in view]
            constant = torch.stack([row.view(1, -1) for row in same]).sum(dim=0).to(base.dtype)
            with torch.autocast(base.device.type, enabled=False):  # Propagated embeddings stay in single precision.
                x = torch.addmm(base, ones, constant)
            for m in self.modalities:
                x = x.add_(factual[m]) if m in view - shared else x  # The product does not need its result again.
            out.append(self.split(x, inputs.n_id_dict))
        return out

    def _map(self, modality: str, x: Tensor) -> Tensor:
        """Project features or propagated features, without the bias."""
        return F.linear(x, cast(nn.Linear, self.project[modality]).weight)

    def _bias(self, modality: str) -> Tensor:
        return cast(nn.Linear, self.project[modality]).bias

    def _is_narrow(self, modality: str, inputs: Inputs) -> bool:
        """Whether propagated features are worth keeping: narrow, constant, and of the whole graph."""
        x = inputs.features[modality]
        narrow = x.size(1) <= NARROW * self.user_embedding.size(1)
        return narrow and not x.requires_grad and not inputs.n_id_dict

    def penalty(self, out: Output, batch: TripletBatch) -> Tensor:
        """Return the L2 penalty on the rows of the embeddings that the batch scores with."""
        return Backbone.penalty(self, out, batch)
