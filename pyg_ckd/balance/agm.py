"""Adaptive gradient modulation: what a modality contributes to a score is trained faster or slower."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_ckd.balance.attribution import masked_mean, shapley_values
from pyg_ckd.balance.given import MaskedObjective
from pyg_ckd.balance.gradients import modulated
from pyg_ckd.balance.objective import Objective, check_not_negative
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn.loss import mean_of_triples
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.views import View, counterfactual_views

LEAST_PROBABILITY = 1e-8
LARGEST_FACTOR = 10.0
"""Factors are kept between this and its inverse: the published formula is an exponential of exponentials."""


class AGM(MaskedObjective):
    r"""Scales the gradient of every modality's Shapley value: down if the modality gets ahead, up if it falls behind.

    From `"Boosting Multi-modal Model Performance with Adaptive Gradient Modulation"
    <https://arxiv.org/abs/2308.07686>`_. With the Shapley values :math:`\phi_m` of the margin, see
    :func:`~pyg_ckd.balance.shapley_values`, and the id part :math:`\delta(\emptyset)` instead of the published zero,

    .. math::
        s_m = \underset{uij}{\textrm{mean}} \; \ell(\phi_m), \qquad
        f(\mathbf{s})_m = \exp \left( \tfrac{M}{M - 1} \left( \tfrac{1}{M} \textstyle\sum_n s_n - s_m \right) \right),
        \qquad k_m = \exp \left( \alpha \left( f(\mathbf{q})_m - f(\mathbf{s})_m \right) \right)

    with the mean :math:`\mathbf{q}` of :math:`\mathbf{s}` over all steps so far: a modality is slowed down if it is
    further ahead than before. The loss is the mean of :math:`\ell(\delta(\emptyset) + \sum_m \phi_m)`, where the
    gradient through :math:`\phi_m` is multiplied by :math:`k_m`. Here the main loss stays as it is, and a term whose
    value is zero adds the rest of the gradient.

    Adam divides the gradient of a parameter by its size. So factors only act on parameters that several modalities
    share, such as ids and those of early fusion. For parameters that belong to a modality alone, ``step_sizes=True``
    multiplies the size of their steps by the mean of :math:`k_m` over the epoch before.

    Where the main loss is a softmax over items, as that of :class:`~pyg_ckd.nn.FISM` or with ``ranking="softmax"``,
    contributions to margins do not determine its gradient, and factors only act on step sizes.

    Overrides ``views``, ``balance`` and ``step_sizes``. Costs the views of :class:`DistillationWrapper` and the empty
    one. A triple with an item that lacks a modality is not modulated for it, and does not count for scores, as long as
    enough triples of the batch have all modalities, see :meth:`compared`.

    Differs from the published code in keeping factors between 0.1 and 10, and for four modalities and more in the
    values of :func:`~pyg_ckd.balance.shapley_values`.

    Args:
        student: The backbone to train, with at least two modalities.
        alpha: Strength :math:`\alpha`; 0 is plain training.
        step_sizes: Whether factors also act on the step sizes of parameters that belong to one modality.
        l2: Weight of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`.

    Raises:
        InputError: If there are fewer than two modalities, the backbone ignores features, ``alpha`` is negative or a
            mask does not fit.
    """

    name = "agm"
    capturable = True
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"alpha": (0.1, 3.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"alpha": 0.0}
    needs_whole = ""
    batch_items = 0
    reports: ClassVar[Mapping[str, str]] = {
        "weight": "factor of the gradient through the modality's contribution, mean over the epoch",
    }

    running: Tensor
    iterations: Tensor
    factor_sum: Tensor
    steps: Tensor
    pace: Tensor

    def __init__(
        self,
        student: Backbone,
        alpha: float = 1.0,
        step_sizes: bool = True,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, l2)
        check_not_negative("alpha", alpha)
        self.alpha, self.scales_steps = alpha, step_sizes
        self.store_masks(has)
        self.check_views()
        self.warn_of_gaps()
        for name in ("running", "factor_sum"):
            self.register_state(name, torch.zeros(len(self.modalities), dtype=torch.float64))
        for name in ("iterations", "steps"):
            self.register_state(name, torch.zeros((), dtype=torch.int64))
        self.register_state("pace", torch.ones(len(self.modalities), dtype=torch.float64))
        self._views = counterfactual_views(self.modalities, empty=True) if alpha > 0 else [self.view]

    @property
    def views(self) -> Sequence[View]:
        """Full, uni-modal, leave-one-out and empty views, each once; the full view alone if ``alpha`` is zero."""
        return self._views

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return a term of value zero, whose gradient is what modulation changes in that of the main loss."""
        if self.alpha == 0:
            return {}
        margins, known = self.margins(out, batch), self.available(batch.positive, batch.negative)
        contributions = shapley_values(margins, self.modalities)
        factors = self._factors(batch.gathered(contributions.detach()), self.compared(*batch.whole[1:3]))
        if known is not None:
            factors = torch.where(known, factors, 1)
        return main_modulation(self, "agm", out, batch, contributions, factors)

    @torch.no_grad()
    def _factors(self, contributions: Tensor, counted: Tensor | None) -> Tensor:
        """Return the factors ``[M]`` of a step and add its scores to the running ones."""
        score = contribution_score(contributions, counted)
        begun, known = self.iterations > 0, None
        if counted is not None:  # Without a triple there is nothing new; after one, a score is above zero.
            score = torch.where(counted.any(dim=0), score, self.running)
            begun, known = begun & (self.running > 0), score > 0
        before = torch.where(begun, self.running, score)
        factors = modulation_factors(score, before, self.alpha, known).clamp(1 / LARGEST_FACTOR, LARGEST_FACTOR)
        self.iterations += 1
        self.running.copy_(running_mean(before, score, self.iterations))
        self.factor_sum += factors
        self.steps += 1
        return factors

    def step_sizes(self) -> Mapping[str, float]:
        """Return the mean factor of the last epoch for modalities that have parameters of their own."""
        if not self.scales_steps:
            return {}
        own = self.student.modality_parameters
        return {m: pace for m, pace in zip(self.modalities, self.pace.tolist(), strict=True) if own[m]}

    def epoch_statistics(self) -> dict[str, float]:
        """Return the mean factor of every modality over the finished epoch, by which the next one's steps go."""
        self.pace.copy_(torch.where(self.steps > 0, self.factor_sum / self.steps.clamp(min=1), self.pace))
        self.factor_sum.zero_()
        self.steps.zero_()
        return {f"weight/{m}": k for m, k in zip(self.modalities, self.pace.tolist(), strict=True)}


def main_modulation(
    objective: Objective,
    name: str,
    out: Mapping[View, Output],
    batch: TripletBatch,
    contributions: Tensor,
    factors: Tensor,
) -> dict[str, Tensor]:
    r"""Return the term that modulates the main loss of a step, with the weights that triples have there.

    There is none where the main loss is no function of margins, see
    :attr:`~pyg_ckd.balance.Objective.ranks_by_margins`: what modulation would change of its gradient is not known.

    Args:
        objective: The strategy.
        name: Name of the term.
        out: The output of every view, the trained one first.
        batch: The triples.
        contributions: Contributions :math:`\phi_m`, ``[B, M]``.
        factors: Factors :math:`k_m`, ``[M]`` or ``[B, M]``.

    Returns:
        :func:`modulation_loss` under the name, or nothing.
    """
    if not objective.ranks_by_margins:
        return {}
    margin = next(iter(out.values())).margin(batch.user, batch.positive, batch.negative)
    return {name: modulation_loss(margin, contributions, factors, objective.main_weights(out, batch))}


def modulation_loss(margin: Tensor, contributions: Tensor, factors: Tensor, weight: Tensor | None = None) -> Tensor:
    r"""Return zero, with the gradient that turns the one of a BPR loss into that of modulated contributions.

    It is the mean over triples of :math:`\ell'(\delta) \sum_m (k_m - 1) \phi_m`, with gradient through
    :math:`\phi_m` alone.

    Args:
        margin: Margins :math:`\delta` of the full view, ``[B]``.
        contributions: Contributions :math:`\phi_m`, ``[B, M]``.
        factors: Factors :math:`k_m`, ``[M]`` or ``[B, M]``.
        weight: Weight of every triple in the main loss, ``[B]``. (default: :obj:`None`, all weigh 1)
    """
    loss = F.softplus(-modulated(margin.detach(), contributions, factors))
    return mean_of_triples(loss - loss.detach(), weight)


def contribution_score(contributions: Tensor, available: Tensor | None = None) -> Tensor:
    """Return the mean negative logarithm of the probability that contributions alone rank a triple right, ``[M]``.

    Args:
        contributions: Contributions ``[B, M]``.
        available: Which modalities the items of each triple have, bool ``[B, M]``. (default: :obj:`None`, all)
    """
    return masked_mean(F.softplus(-contributions).clamp(max=-math.log(LEAST_PROBABILITY)), available)


def lead(score: Tensor, known: Tensor | None = None) -> Tensor:
    r"""Return :math:`f(\mathbf{s})`, above 1 for modalities whose score is better than the mean, ``[M]``.

    Args:
        score: Scores ``[M]``, the lower the better.
        known: Which modalities have a score, bool ``[M]``; the others are left out and get 1. (default: :obj:`None`,
            all)
    """
    if known is None:
        num = score.numel()
        return torch.exp(num / (num - 1) * (score.mean() - score))
    number = known.sum(dtype=score.dtype)
    mean = torch.where(known, score, 0).sum() / number.clamp(min=1)
    return torch.where(known, torch.exp(number / (number - 1).clamp(min=1) * (mean - score)), 1)


def modulation_factors(score: Tensor, running: Tensor, alpha: float, known: Tensor | None = None) -> Tensor:
    r"""Return :math:`k_m`, below 1 for modalities that are further ahead than they have been on the whole, ``[M]``.

    Args:
        score: Scores :math:`\mathbf{s}` of the step, ``[M]``.
        running: Mean scores :math:`\mathbf{q}` of the steps before, ``[M]``.
        alpha: Strength :math:`\alpha`.
        known: Which modalities have scores, bool ``[M]``; the others get 1. (default: :obj:`None`, all)
    """
    return torch.exp(alpha * (lead(running, known) - lead(score, known)))


def running_mean(running: Tensor, score: Tensor, iteration: Tensor | int) -> Tensor:
    """Return the mean of all scores including that of the present step, ``[M]``.

    Args:
        running: Mean before.
        score: Scores of the step.
        iteration: Number of steps including the present one.
    """
    return running * ((iteration - 1) / iteration) + score / iteration
