"""Modality dropout: every step trains the model on some of its modalities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyg_ckd.arguments import as_integer, as_number
from pyg_ckd.balance.given import MaskedObjective, check_features, check_several
from pyg_ckd.balance.numbers import check_share
from pyg_ckd.balance.objective import Objective, check_not_negative
from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.views import EMPTY, View, unimodal_views


class ModalityDropout(Objective):
    r"""Trains a random non-empty view in every step.

    With draws that are new in every step, the trained view :math:`\mathcal{V}` and the loss are

    .. math::
        \mathcal{V} = \{ m : z_m = 1 \}, \quad z_m \sim \textrm{Bernoulli}(1 - p), \qquad
        \mathcal{L} = \underset{uij}{\textrm{mean}} \; \ell(\delta_{uij}(\mathcal{V})) + \lambda \, \mathcal{L}_2.

    A modality outside of the view is intervened on; a step that would drop all of them keeps one at random. So every
    modality learns to rank without the others. As in `"ModDrop: Adaptive Multi-modal Gesture Recognition"
    <https://arxiv.org/abs/1501.00102>`_, except that a dropped modality is replaced with its mean instead of zeros.
    Overrides ``views``. Costs no further view.

    Args:
        student: The backbone to train, with at least two modalities.
        rate: Probability :math:`p` with which a step drops a modality, at least 0 and below 1.
        l2: Weight of the backbone's penalty.

    Raises:
        InputError: If there are fewer than two modalities or ``rate`` is out of its range.
    """

    name = "modality-dropout"
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"rate": (0.1, 0.7)}
    neutral: ClassVar[Mapping[str, Any]] = {"rate": 0.0}
    needs_whole = ""
    batch_items = 0

    def __init__(self, student: Backbone, rate: float = 0.3, l2: float = 1e-2) -> None:
        super().__init__(student, l2)
        check_several(student.modalities)
        check_features(self)
        check_rate("rate", rate)
        self.rate = rate

    @property
    def views(self) -> Sequence[View]:
        """One random view, drawn anew at every reading."""
        if self.rate == 0:
            return [self.view]
        return [draw_view(self.modalities, [self.rate] * len(self.modalities))]


class PredictionModulation(MaskedObjective):
    r"""Drops dominant modalities at random in every step, so that the others have to rank.

    OPM of `"On-the-fly Modulation for Balanced Multimodal Learning" <https://arxiv.org/abs/2410.11582>`_. With what
    modality :math:`m` alone adds to the ids on a triple and its mean over an epoch,

    .. math::
        s_m &= \underset{uij}{\textrm{mean}} \; \sigma \left( \delta_{uij}(\{m\}) - \delta_{uij}(\emptyset) \right),
        \qquad \rho_m = \tanh \left( \max \left( 0, \frac{s_m}{\textrm{mean}_{n \neq m} s_n} - 1 \right) \right)

        q_m &= q (1 + a \rho_m) \; \textrm{where} \; \rho_m > 0, \; \textrm{else} \; 0

    In the next epoch, a step drops modalities with probability :math:`p`: each modality :math:`m` with probability
    :math:`q_m`, independently but never all of them. It trains the view that is left, as :class:`ModalityDropout` does
    with fixed rates. Overrides ``views``, ``balance`` and ``begin_epoch``. Scores are measured on every
    ``measure_every``-th step, which costs the uni-modal views and the empty one there, without a backward pass; other
    steps cost no further view. Triples with an item that lacks :math:`m` do not count for :math:`s_m`.

    The published code drops features sample by sample, scales up what is left, and scores modalities in every batch;
    here a step has one view, a dropped modality is replaced with its mean, and BPR finds the scale by itself. It
    divides by the *sum* of the other scores, so that of three modalities none can dominate before its score is twice
    that of each other; the mean is the same for two. With ``ramp``, rates grow over some epochs as the mask of AMCo,
    `"Adaptive Mask Co-Optimization for Modal Dependence in Multimodal Learning"
    <https://doi.org/10.1109/ICASSP49357.2023.10096641>`_, which hides a growing part of the modality that the model
    depends on: in epoch :math:`e` after the warm-up by :math:`\sin \left( \tfrac{\pi}{2} \min(1, e / \textrm{ramp})
    \right)`.

    Args:
        student: The backbone to train, with at least two modalities.
        rate: Base rate :math:`q`, at least 0 and below 1.
        strength: How much rates grow with dominance, :math:`a`.
        execution: Probability :math:`p` that a step drops anything, at least 0 and at most 1.
        warmup: Epochs at the beginning in which nothing is dropped.
        ramp: Epochs after the warm-up over which rates grow to their full size; 0 has them at once.
        measure_every: Steps from one measurement of the scores to the next.
        l2: Weight of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`.

    Raises:
        InputError: If there are fewer than two modalities, a number is out of its range or a mask does not fit.
    """

    name = "opm"
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"rate": (0.1, 0.7), "strength": (0.0, 1.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"rate": 0.0}
    needs_whole = ""
    batch_items = 0
    reports: ClassVar[Mapping[str, str]] = {
        "score": "mean probability of ranking a triple rightly with the modality alone",
        "drop": "probability that a step goes without the modality",
    }
    score: Tensor
    score_sum: Tensor
    count: Tensor

    def __init__(
        self,
        student: Backbone,
        rate: float = 0.4,
        strength: float = 0.5,
        execution: float = 0.7,
        warmup: int = 1,
        ramp: int = 0,
        measure_every: int = 10,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, l2)
        check_rate("rate", rate)
        check_not_negative("strength", strength)
        check_share("execution", execution)
        self.rate, self.strength, self.execution = rate, strength, execution
        self.warmup, self.ramp = as_integer(warmup, "warmup", 0), as_integer(ramp, "ramp", 0)
        self.measure_every = as_integer(measure_every, "measure_every", 1)
        self.store_masks(has)
        self.check_views()
        num = len(student.modalities)
        self.register_state("score", torch.full((num,), torch.nan, dtype=torch.float64))
        for name in ("score_sum", "count"):
            self.register_state(name, torch.zeros(num, dtype=torch.float64))
        self._alone = unimodal_views(student.modalities)
        self._rates, self._step = [0.0] * num, 0

    def begin_epoch(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> dict[EdgeType, Any]:
        """Choose the rates of the epoch by the scores of the last one."""
        epoch = self.progress.epoch - self.warmup
        growth = math.sin(math.pi / 2 * min(1.0, epoch / self.ramp)) if self.ramp > 0 else 1.0
        rates = drop_rates(dominance(score_ratios(self.score)), self.rate, self.strength)
        self._rates = (growth * rates).tolist() if epoch > 0 else [0.0] * len(self.modalities)
        self._step = 0
        return super().begin_epoch(features, graphs)

    @property
    def views(self) -> Sequence[View]:
        """One view, drawn anew at every reading, and on some steps what scores are measured with."""
        if self.rate == 0:
            return [self.view]
        drawn = self.view
        if any(self._rates) and float(torch.rand(())) < self.execution:
            drawn = draw_view(self.modalities, self._rates)
        measured = [*self._alone.values(), EMPTY] if self._step % self.measure_every == 0 else []
        self._step += 1
        return list(dict.fromkeys([drawn, *measured]))

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Measure the scores; the loss has no further terms."""
        if EMPTY in out:
            with torch.no_grad():
                margins = torch.stack([out[view].margin(*batch[:3]) for view in self._alone.values()], dim=-1)
                prob = torch.sigmoid(margins - out[EMPTY].margin(*batch[:3]).unsqueeze(-1)).double()
                known = self.available(batch.positive, batch.negative)
                known = torch.ones_like(prob) if known is None else known.double()
                self.score_sum += (prob * known).sum(dim=0)
                self.count += known.sum(dim=0)
        return {}

    def epoch_sums(self) -> Sequence[Tensor]:
        """Return the sums of the scores over the triples of the epoch, and how many count."""
        return self.score_sum, self.count

    def epoch_statistics(self) -> dict[str, float]:
        """Return the score and the rate of every modality in the finished epoch."""
        seen = self.count > 0
        self.score.copy_(torch.where(seen, self.score_sum / self.count.clamp(min=1), self.score))
        self.score_sum.zero_()
        self.count.zero_()
        named = {"score": self.score.tolist(), "drop": self._rates} if self.rate > 0 else {}
        return {f"{k}/{m}": value for k, v in named.items() for m, value in zip(self.modalities, v, strict=True)}


def draw_view(modalities: Sequence[str], rates: Sequence[float]) -> View:
    """Return a random view that is not empty, drawn on the CPU, so that no step waits for a device.

    Args:
        modalities: The modalities.
        rates: The probability to drop each of them, independently; if all are dropped, one comes back.
    """
    kept = torch.rand(len(modalities)) >= torch.tensor(rates)
    if not kept.any():
        kept[torch.randint(len(modalities), ())] = True
    return frozenset(m for m, keep in zip(modalities, kept.tolist(), strict=True) if keep)


def score_ratios(score: Tensor, eps: float = 0.0) -> Tensor:
    """Return how many times the mean score of the others each modality has, ``[M]``.

    Args:
        score: Scores of zero or more, ``[M]``; those that are NaN are unknown and none of the others.
        eps: Added to the sum of the others, as in the published code; the default is exact.
    """
    known = ~score.isnan()
    others = torch.where(known, score, 0).sum() - score
    return score * (known.sum() - 1) / (others + eps)


def dominance(ratio: Tensor) -> Tensor:
    r"""Return :math:`\rho_m = \tanh(\max(0, r_m - 1))`, ``[M]``; zero for a modality that does not dominate.

    Args:
        ratio: Ratios :math:`r_m` of a modality's score to that of the others, ``[M]``; NaN is no dominance.
    """
    return torch.tanh(torch.relu(torch.nan_to_num(ratio, 0.0) - 1))


def drop_rates(rho: Tensor, rate: float, strength: float) -> Tensor:
    r"""Return :math:`q_m = q (1 + a \rho_m)`, at most 1, where a modality dominates, else 0, ``[M]``.

    Args:
        rho: Dominance :math:`\rho_m` of every modality, ``[M]``.
        rate: Base rate :math:`q`.
        strength: :math:`a`.
    """
    return torch.where(rho > 0, (rate * (1 + strength * rho)).clamp(max=1), 0)


def check_rate(name: str, rate: float) -> None:
    """Raise an InputError unless ``rate`` is a probability below 1."""
    if not 0 <= as_number(rate, name) < 1:
        raise InputError(f"{name}: found {rate}, expected a probability of 0 or more and below 1")
