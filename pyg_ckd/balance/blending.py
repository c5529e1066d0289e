"""G-Blending: losses of views are weighed by how much they generalise and how little they overfit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_ckd.arguments import as_integer
from pyg_ckd.balance.attribution import masked_mean
from pyg_ckd.balance.given import MaskedObjective
from pyg_ckd.balance.multitask import unimodal_losses
from pyg_ckd.balance.objective import check_not_negative
from pyg_ckd.balance.progress import Score
from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.views import View, unimodal_views

LEAST_WEIGHT = 0.1
"""Least weight of a loss, so that no view is given up for good."""
LEAST_GAP = 0.1
"""Least overfitting that counts, relative to the mean over the losses, so that nothing divides by zero."""


class GBlending(MaskedObjective):
    r"""Weighs the losses of the joint and the uni-modal views by how well they generalise.

    From `"What Makes Training Multi-modal Classification Networks Hard?" <https://arxiv.org/abs/1905.12681>`_. For each
    of the :math:`M + 1` views :math:`k`, let :math:`L_k` be the mean BPR loss over the training triples of an epoch and
    :math:`L^*_k` the one over the triples of the validation part. Every ``period`` epochs, with the changes
    :math:`\Delta` since the last time,

    .. math::
        G_k = \max(0, - \Delta L^*_k), \qquad
        O_k = \max(\Delta_k, \tfrac{1}{10} \, \textrm{mean}_n \, |\Delta_n|), \quad \Delta_k = \Delta (L^*_k - L_k),
        \qquad
        w_k = (M + 1) \, \frac{G_k / O_k^2}{\sum_n G_n / O_n^2}

    are the weights of the losses

    .. math::
        \mathcal{L} = w_0 \, \underset{uij}{\textrm{mean}} \; \ell(\delta_{uij}(\textrm{full}))
        + \lambda \, \mathcal{L}_2 + \gamma \sum_m w_m \, \underset{uij}{\textrm{mean}} \; \ell(\delta_{uij}(\{m\})).

    They are 1 at first. Those below 0.1 are raised to it, and all are then divided by their mean; where no view has
    improved, they stay. The triples of the validation part are its interactions, each with an item that is drawn
    once. Where an item lacks a modality, a triple counts for neither loss of this modality.

    Each uni-modal loss includes the penalty of its view, without :math:`w_m`. Costs the uni-modal views and, at most
    every ``period`` epochs, their scores on the validation part. Overrides ``views``, ``ranked``, ``balance``,
    ``triple_weights`` and ``before_validation``.

    Differs from the published code of the BalanceBenchmark toolkit, which trains a copy of the model on every view to
    measure how it generalises, compares sums over parts of different sizes, and gives a view that got worse as much
    weight as one that improved.

    Args:
        student: The backbone to train, with at least two modalities.
        weight: Weight :math:`\gamma` of the uni-modal terms; 0 is plain training.
        period: Smallest number of epochs between two choices of weights, which are made in validations.
        l2: Weight :math:`\lambda` of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`.

    Raises:
        InputError: If there are fewer than two modalities, the backbone ignores features, ``weight`` is negative,
            ``period`` is not positive or a mask does not fit; when training begins, if there is no validation part.
    """

    name = "g-blending"
    sampled = True
    needs_validation = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (0.01, 1.0), "period": (2, 20)}
    neutral: ClassVar[Mapping[str, Any]] = {"weight": 0.0}
    needs_whole = ""
    batch_items = 0
    reports: ClassVar[Mapping[str, str]] = {
        "weight": "weight of the modality's own loss",
        "joint_weight": "weight of the joint loss",
    }

    weights: Tensor
    gathered: Tensor
    count: Tensor
    learnt: Tensor
    before: Tensor
    measured: Tensor

    def __init__(
        self,
        student: Backbone,
        weight: float = 1.0,
        period: int = 5,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, l2)
        check_not_negative("weight", weight)
        self.weight, self.period = weight, as_integer(period, "period", 1)
        self.store_masks(has)
        self.check_views()
        self._alone = unimodal_views(self.modalities)
        num = len(self.modalities) + 1  # The joint view is the last.
        self.register_state("weights", torch.ones(num, dtype=torch.float64))
        for name in ("gathered", "count", "learnt"):
            self.register_state(name, torch.zeros(num, dtype=torch.float64))
        self.register_state("before", torch.zeros(2, num, dtype=torch.float64))  # Training, validation.
        self.register_state("measured", torch.zeros((), dtype=torch.int64))  # The epoch of that; 0 is never.

    @property
    def views(self) -> Sequence[View]:
        """The full and the uni-modal views; the full view alone if the others weigh nothing."""
        return [self.view, *(self._alone.values() if self.weight > 0 else ())]

    def ranked(self, out: Mapping[View, Output]) -> Mapping[View, float]:
        """Return the weight of the uni-modal losses, as at first."""
        return dict.fromkeys(self._alone.values(), self.weight) if self.weight > 0 else {}

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return the weighted BPR loss of every uni-modal view."""
        if self.weight == 0:
            return {}
        margins = self.margins(out, batch)
        known = self._known(batch.positive, batch.negative)
        with torch.no_grad():
            number = known.sum(dim=0, dtype=torch.float64)
            self.gathered += number * masked_mean(self._losses(margins), known)
            self.count += number
        alone = {m: margins[view] for m, view in self._alone.items()}
        losses = unimodal_losses(alone, self.available(batch.positive, batch.negative))
        weights = self.weights.unbind()
        return {f"alone/{m}": self.weight * weights[n] * loss for n, (m, loss) in enumerate(losses.items())}

    def triple_weights(self, out: Mapping[View, Output], batch: TripletBatch) -> Tensor | None:
        """Return the weight of the joint loss for every triple; in its place the penalty keeps its own."""
        if self.weight == 0:
            return None
        margin = out[self.view].margin(batch.user, batch.positive, batch.negative)
        return self.weights[-1].to(margin.dtype).expand_as(margin)

    def before_validation(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any], score: Score) -> None:
        """Choose new weights if it is time."""
        epoch, last = self.progress.epoch, int(self.measured)
        if self.weight == 0 or (last and epoch - last < self.period):
            return
        now = torch.stack([self.learnt, self._held_out_losses(features, graphs, score)])
        if last:
            self.weights.copy_(chosen_weights(self.before, now, self.weights))
        self.before.copy_(now)
        self.measured.fill_(epoch)

    @torch.no_grad()
    def _held_out_losses(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any], score: Score) -> Tensor:
        triple = [ids.to(self.weights.device) for ids in score.triples]
        tables = self.student.forward_views(features, graphs, self.views)
        margins = {view: own.margin(*triple) for view, own in zip(self.views, tables, strict=True)}
        return masked_mean(self._losses(margins), self._known(*triple[1:]))

    def _losses(self, margins: Mapping[View, Tensor]) -> Tensor:
        """Return the BPR loss of every triple in every view, the joint one last, ``[B, M + 1]``."""
        return F.softplus(-torch.stack([margins[view] for view in (*self._alone.values(), self.view)], dim=-1))

    def _known(self, first: Tensor, second: Tensor) -> Tensor:
        """Return which triples count for every view, the joint one last, bool ``[B, M + 1]``."""
        known = self.available(first, second)
        if known is None:
            return torch.ones(first.numel(), len(self.modalities) + 1, dtype=torch.bool, device=first.device)
        return F.pad(known, (0, 1), value=True)

    def epoch_sums(self) -> Sequence[Tensor]:
        """Return the sums of the losses over the triples of the epoch, and how many count."""
        return self.gathered, self.count

    def epoch_statistics(self) -> dict[str, float]:
        """Return the weights that acted in the finished epoch, and keep its training losses."""
        self.learnt.copy_(self.gathered / self.count.clamp(min=1))
        self.gathered.zero_()
        self.count.zero_()
        *alone, joint = self.weights.tolist()
        return {f"weight/{m}": w for m, w in zip(self.modalities, alone, strict=True)} | {"joint_weight": joint}


def generalisation(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return by how much losses on held-out data changed, and by how much their gap to the training losses did.

    Args:
        before: Losses of every view on training and held-out data, ``[2, K]``.
        after: The same later.

    Returns:
        :math:`\Delta L^*_k` and :math:`\Delta (L^*_k - L_k)`, ``[K]`` each.
    """
    change = after - before
    return change[1], change[1] - change[0]


def blending_weights(gain: Tensor, overfitting: Tensor) -> Tensor:
    r"""Return weights in proportion to :math:`|G_k| / O_k^2`, of sum 1, ``[K]``.

    Args:
        gain: :math:`G_k`, ``[K]``.
        overfitting: :math:`O_k`, ``[K]``, none of them zero.
    """
    ratio = gain.abs() / overfitting.square()
    return ratio / ratio.sum()


def chosen_weights(before: Tensor, after: Tensor, weights: Tensor) -> Tensor:
    """Return the weights of the next epochs, whose mean is 1, ``[K]``.

    Args:
        before: Losses of every view on training and held-out data, ``[2, K]``.
        after: The same later.
        weights: The weights so far, which stay where no view has improved.
    """
    change, gap = generalisation(before, after)
    gain = (-change).clamp(min=0)
    overfitting = torch.maximum(gap, LEAST_GAP * gap.abs().mean()).clamp(min=1e-12)
    improved = gain.sum() > 0
    new = blending_weights(torch.where(improved, gain, 1), overfitting) * gain.numel()
    new = new.clamp(min=LEAST_WEIGHT)
    return torch.where(improved, new / new.mean(), weights)
