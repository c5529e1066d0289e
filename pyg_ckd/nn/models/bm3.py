"""BM3 for any number of modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.nn.loss import l2_penalty, mean_of_triples
from pyg_ckd.nn.models.base import Inputs, check_modalities, in_whole_graph, reset_linear_layers
from pyg_ckd.nn.models.lightgcn import LightGCN
from pyg_ckd.scoring.blocks import Block, BlockEmbeddings, Output
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.views import View


class BM3(LightGCN):
    r"""Learns without negatives: representations predict dropped-out copies of each other.

    From `"Bootstrap Latent Representations for Multi-modal Recommendation" <https://arxiv.org/abs/2207.05969>`_. With
    :math:`\mathbf{X}^{(l)}` the layers of :class:`LightGCN` on the id embeddings and :math:`\mathbf{f}^m_i` features,

    .. math::
        \mathbf{h}_u = \frac{1}{L + 1} \sum_{l=0}^{L} \mathbf{x}^{(l)}_u, \qquad
        \mathbf{h}_i = \mathbf{x}^{(0)}_i + \frac{1}{L + 1} \sum_{l=0}^{L} \mathbf{x}^{(l)}_i, \qquad
        \mathbf{h}_m = \mathbf{W}_m \mathbf{f}^m_i + \mathbf{b}_m

    Each of them has a prediction :math:`\tilde{\mathbf{h}} = \mathbf{W}_p \mathbf{h} + \mathbf{b}_p` and a target
    :math:`\dot{\mathbf{h}} = \textrm{dropout}(\mathbf{h})` without gradient. Users and items are ranked with
    :math:`\tilde{\mathbf{h}}_u^\top \tilde{\mathbf{h}}_i`, and the losses are means over the pairs of a batch of

    .. math::
        \mathcal{L}_{rec} &= C(\tilde{\mathbf{h}}_u, \dot{\mathbf{h}}_i) + C(\tilde{\mathbf{h}}_i, \dot{\mathbf{h}}_u)

        \mathcal{L}_{align} &= \sum_m C(\tilde{\mathbf{h}}_m, \dot{\mathbf{h}}_i), \qquad
        \mathcal{L}_{mask} = \sum_m C(\tilde{\mathbf{h}}_m, \dot{\mathbf{h}}_m), \qquad
        C(\mathbf{x}, \mathbf{y}) = 1 - \cos(\mathbf{x}, \mathbf{y})

    **Views.** Features enter the losses only, so that an intervention changes no ranking: all views have the same
    tables, and every effect of a modality is zero. A view decides which modalities have terms in the losses, so models
    trained on different views still differ. If no modality is factual, only :math:`\mathcal{L}_{rec}` is left.

    As in the paper, the L2 penalty acts on :math:`\mathbf{h}_u` and :math:`\mathbf{h}_i`, here on the rows of the batch
    like that of all other backbones. (The published code takes unsquared norms of all rows over the number of items;
    their gradient vanishes as the data grow.) Dropout happens in training mode only.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        feature_dims: Feature width of every modality, in order.
        embedding_dim: Width :math:`D` of the embeddings.
        num_layers: Number of layers :math:`L`; the authors' best settings have 1 or 2.
        dropout: Probability that an entry of a target is zero; the authors' best settings have 0.3 or 0.5.
        modality_loss_weight: Weight of :math:`\mathcal{L}_{align} + \mathcal{L}_{mask}`; the published code has 2.

    Raises:
        InputError: If a size is not positive, there is no modality, or a number is out of its range.
    """

    capturable = True
    views_differ: ClassVar[bool] = False
    pairwise: ClassVar[bool] = False
    steered: ClassVar[str] = "never"
    sampled = True

    recommended: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "trainer": {"lr": 1e-3},
        "plain": {"l2": 0.0},
        "teacher": {"l2": 0.0},
        "distillation": {"l2": 0.0, "distillation_weight": 0.01},
    }

    def __init__(
        self,
        num_users: int,
        num_items: int,
        feature_dims: Mapping[str, int],
        embedding_dim: int = 64,
        num_layers: int = 1,
        dropout: float = 0.5,
        modality_loss_weight: float = 1.0,
    ) -> None:
        check_modalities(feature_dims)
        super().__init__(num_users, num_items, feature_dims, embedding_dim, num_layers)
        if not 0 <= dropout < 1:
            raise InputError(f"dropout: found {dropout}, expected a probability from 0 to below 1")
        if not 0 <= modality_loss_weight < float("inf"):
            raise InputError(f"modality_loss_weight: found {modality_loss_weight}, expected a number of zero or more")
        self.dropout, self.modality_loss_weight = dropout, modality_loss_weight
        self.project = nn.ModuleDict({m: nn.Linear(d, embedding_dim) for m, d in feature_dims.items()})
        self.predictor = nn.Linear(embedding_dim, embedding_dim)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        super().reset_parameters()
        reset_linear_layers(self)

    def encode(self, views: Sequence[View], inputs: Inputs) -> Sequence[Output]:
        """Compute the embeddings that all views share."""
        h = self.propagated_ids(inputs)
        h_user, h_item = self.split(h, inputs.n_id_dict)
        online = Embeddings(h_user, h_item + inputs.take_items(self.item_embedding))
        return [Predicted(online, self.predictor)] * len(views)

    def losses(
        self, out: Output, batch: TripletBatch, features: Mapping[str, Tensor], view: View, bpr_eps: float = 0.0
    ) -> dict[str, Tensor]:
        r"""Return the two terms of :math:`\mathcal{L}_{rec}` and two terms for every factual modality; there is no BPR.

        Only the rows of the batch are predicted, projected and dropped out.

        Args:
            out: The output of the trained view.
            batch: The triples, of which the users and the positives are used.
            features: From modality to the full feature matrix ``[I, d_m]``.
            view: The trained view.
            bpr_eps: Not used.
        """
        h_user, h_item = cast(Predicted, out).online.rows(batch.user, batch.positive)
        items = in_whole_graph(out, batch).positive
        target_user, target_item = self._target(h_user), self._target(h_item)
        terms = {
            "ui": _disagreement(self.predictor(h_user), target_item, batch.weight),
            "iu": _disagreement(self.predictor(h_item), target_user, batch.weight),
        }
        for m in self.modalities:
            if m in view:
                h = self.project[m](features[m].index_select(0, items))
                prediction = self.predictor(h)
                terms[f"align/{m}"] = self.modality_loss_weight * _disagreement(prediction, target_item, batch.weight)
                terms[f"mask/{m}"] = self.modality_loss_weight * _disagreement(
                    prediction, self._target(h), batch.weight
                )
        return terms

    def penalty(self, out: Output, batch: TripletBatch) -> Tensor:
        r"""Return the L2 penalty on :math:`\mathbf{h}_u` and :math:`\mathbf{h}_i` of the batch's interactions."""
        return l2_penalty(*cast(Predicted, out).online.rows(batch.user, batch.positive))

    def _target(self, h: Tensor) -> Tensor:
        if not self.training or self.dropout == 0:
            return h.detach()
        return h.detach() * (torch.rand(h.shape, device=h.device) >= self.dropout)  # Cosines do not see the scale.


class Predicted(BlockEmbeddings):
    """The tables behind the predictor, computed only where somebody ranks with them: the losses do not.

    Args:
        online: The tables before the predictor, which the losses start from.
        predictor: The predictor.
    """

    def __init__(self, online: Embeddings, predictor: nn.Module) -> None:
        self.online, self.predictor = online, predictor

    @cached_property
    def blocks(self) -> list[Block]:  # type: ignore[override]
        """The two tables, which all views share."""
        with torch.set_grad_enabled(self.online.user.requires_grad):  # Whoever asks first may want no gradient.
            return [Block(self.predictor(self.online.user), self.predictor(self.online.item))]


def _disagreement(prediction: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Return one minus the cosine of two rows, averaged over rows, each with the weight of its triple."""
    cosine = F.cosine_similarity(prediction, target)
    if weight is None and cosine.numel():
        return 1 - cosine.mean()
    return mean_of_triples(1 - cosine, weight)
