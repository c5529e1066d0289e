"""Multitask training: every modality alone learns from the interactions, beside the joint model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_ckd.balance.attribution import shapley_values
from pyg_ckd.balance.given import MaskedObjective, check_features
from pyg_ckd.balance.objective import Objective, check_not_negative
from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn.loss import mean_of_triples
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.views import View, counterfactual_views, unimodal_views


class MultitaskObjective(MaskedObjective):
    r"""Trains the joint view and, with one weight, every uni-modal view on the same triples.

    The baseline for all balancing strategies: supervision of every modality without teachers and adaptive weights. With
    margins :math:`\delta(S)` of the student in view :math:`S` and :math:`\ell(x) = \ln(1 + e^{-x})`,

    .. math::
        \mathcal{L} = \underset{uij}{\textrm{mean}} \; \ell(\delta_{uij}(\textrm{full})) + \lambda \, \mathcal{L}_2
        + w \sum_m \underset{uij}{\textrm{mean}} \; \ell(\delta_{uij}(\{m\}))

    Uni-modal terms as in the multitask baseline of `"What Makes Training Multi-modal Classification Networks Hard?"
    <https://arxiv.org/abs/1905.12681>`_. Each includes the penalty of its view, as the loss of a teacher does: views
    overfit otherwise. Overrides ``views``, ``ranked`` and ``balance``. Costs the uni-modal views. A triple with an item
    that lacks modality :math:`m` adds nothing to its term, whose mean is over all triples.

    With ``valuation``, terms are weighed triple by triple, as samples in `"Enhancing Multimodal Cooperation via
    Sample-level Modality Valuation" <https://arxiv.org/abs/2309.06255>`_. With the Shapley values :math:`\phi_m` of the
    margin :math:`\delta_{uij}(\textrm{full})`, see :func:`~pyg_ckd.balance.attribution.shapley_values`,

    .. math::
        w \sum_m \underset{uij}{\textrm{mean}} \; v^m_{uij} \, \ell(\delta_{uij}(\{m\})), \qquad
        v_{uij} = M \, \textrm{softmax}_m ( - a \, \phi_m )

    without gradient in :math:`v`: where a modality contributes little to a triple, or works against it, it learns more
    from it. This costs the leave-one-out views and the empty one as well. The paper draws the samples in which a
    modality contributes little once more, with only this modality left; the published code finds contributions with
    one pass over the data for every subset of the modalities, before every epoch. Here they are those of the step.

    Args:
        student: The backbone to train, with at least two modalities.
        weight: Weight :math:`w` of the uni-modal terms.
        l2: Weight :math:`\lambda` of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`.
        valuation: How much weights depend on the contributions, :math:`a`; with 0 all are equal.

    Raises:
        InputError: If there are fewer than two modalities, a number is negative or a mask does not fit.
    """

    name = "multitask"
    sampled = True
    capturable = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (0.01, 3.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"weight": 0.0}
    needs_whole = ""
    batch_items = 0
    strategies = Objective.strategies
    reports: ClassVar[Mapping[str, str]] = {
        "weight": "mean weight of the modality's own loss over triples, with valuation",
    }

    def __init__(
        self,
        student: Backbone,
        weight: float = 1.0,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
        valuation: float = 0.0,
    ) -> None:
        super().__init__(student, l2)
        check_not_negative("weight", weight)
        check_not_negative("valuation", valuation)
        self.weight, self.valuation = weight, valuation
        self.capturable = self.capturable and valuation == 0  # Its weights are kept step by step.
        self.store_masks(has)
        check_features(self)
        self._alone = unimodal_views(student.modalities)
        self._weights: list[Tensor] = []  # Mean weights of the steps of an epoch.

    @property
    def views(self) -> Sequence[View]:
        """The full and the uni-modal views, for valuation all that it needs; the full view alone without weight."""
        if self.weight > 0 and self.valuation > 0:
            return counterfactual_views(self.modalities, empty=True)
        return [self.view, *(self._alone.values() if self.weight > 0 else ())]

    def ranked(self, out: Mapping[View, Output]) -> Mapping[View, float]:
        """Return the weight of the uni-modal losses."""
        return dict.fromkeys(self._alone.values(), self.weight) if self.weight > 0 else {}

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return the BPR loss of every uni-modal view."""
        if self.weight == 0:
            return {}
        margins = {m: out[v].margin(batch.user, batch.positive, batch.negative) for m, v in self._alone.items()}
        counts = self.available(batch.positive, batch.negative)
        if self.valuation > 0:
            with torch.no_grad():
                contributions = shapley_values(self.margins(out, batch), self.modalities)
                counts = valuation_weights(contributions, self.valuation, counts)
                self._weights.append(batch.gathered(counts).mean(dim=0).double())
        losses = unimodal_losses(margins, counts)
        return {f"alone/{m}": self.weight * loss for m, loss in losses.items()}

    def begin_epoch(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> dict[EdgeType, Any]:
        """Forget the weights of an epoch that was broken off."""
        self._weights = []
        return super().begin_epoch(features, graphs)

    def epoch_statistics(self) -> dict[str, float]:
        """Return the mean weight of every modality over the finished epoch, with valuation."""
        if not self._weights:
            return {}
        mean, self._weights = torch.stack(self._weights).mean(dim=0), []
        return {f"weight/{m}": w for m, w in zip(self.modalities, mean.tolist(), strict=True)}


def unimodal_losses(margins: Mapping[str, Tensor], weights: Tensor | None = None) -> dict[str, Tensor]:
    """Return the BPR loss of every uni-modal view, the mean over all triples, a scalar each.

    Args:
        margins: From modality, in order, to the margins of its view ``[B]``.
        weights: Weight of every modality on each triple, or whether it counts, ``[B, M]``. (default: :obj:`None`, all
            count)
    """
    losses = {m: F.softplus(-margin) for m, margin in margins.items()}
    if weights is None:
        return {m: mean_of_triples(loss) for m, loss in losses.items()}
    columns = zip(losses.items(), weights.unbind(dim=-1), strict=True)
    return {m: mean_of_triples(loss, weight) for (m, loss), weight in columns}


def valuation_weights(contribution: Tensor, valuation: float, available: Tensor | None = None) -> Tensor:
    r"""Return :math:`v = M \, \textrm{softmax}_m ( - a \, \phi_m )`, ``[B, M]``.

    Args:
        contribution: Contributions :math:`\phi_m` of the modalities to each triple, ``[B, M]``.
        valuation: :math:`a`.
        available: Which modalities the items of each triple have, bool ``[B, M]``. The others weigh 0, and those that
            are left sum to their number. (default: :obj:`None`, all of them)
    """
    logits = -valuation * contribution.to(torch.promote_types(contribution.dtype, torch.float32))
    if available is None:
        return logits.size(-1) * logits.softmax(dim=-1)
    share = logits.masked_fill(~available, torch.finfo(logits.dtype).min).softmax(dim=-1)
    return available.sum(dim=-1, keepdim=True) * share * available
