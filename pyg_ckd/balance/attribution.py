"""What strategies share to tell modalities apart: effects, Shapley values of margins, and information in nats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_ckd.balance.numbers import check_several
from pyg_ckd.balance.state import FitState
from pyg_ckd.errors import InputError
from pyg_ckd.scoring.effects import effect_weights, relative_effects
from pyg_ckd.scoring.views import EMPTY, View

if TYPE_CHECKING:
    import pandas as pd

NEWTON_STEPS = 6
OCTAVES = (32, 16, 8, 4, 2, 1, 1 / 2, 1 / 4, 1 / 8, 1 / 16)
"""From within a sixteenth of an octave, six steps leave less than 1e-12 nats of the margins that tests know."""
LEAST_TRIPLES = 8
"""Of fewer, the best scale says nothing about others."""
LARGEST_SQUARED_CORRELATION = 1 - 2**-23
"""Beyond it Gaussian information, then 8 nats, is rounding alone."""


class ModalityEffectEstimator(FitState):
    r"""Finds the weak modality from margins and turns effects into weights.

    From `"Modality-Balanced Learning for Multimedia Recommendation" <https://arxiv.org/abs/2408.06360>`_.

    .. math::
        e_m = \textrm{clamp} \left( \frac{\delta(\textrm{full}) - \delta(\textrm{full} \setminus m)}{\delta(\{m\})},
        10^{-8}, 10 \right), \qquad
        w_m = \frac{M}{M - 1} \left( 1 - \frac{e_m}{\sum_n e_n} \right)

    The effect is how much modality ``m`` still adds to the joint decision on a triple, relative to what it can do
    alone. The weights of a triple sum to :math:`M`; the smallest effect gets the largest weight.

    Every input gives finite effects:

    * Where the single-modality margin goes to zero, the ratio grows without bound and the clamp ends it at 10 (the
      joint decision follows ``m`` more than ``m`` alone supports) or at 1e-8 (the signs differ).
    * Where both are exactly zero, there is no evidence that ``m`` is used, and the effect is 1e-8.
    * Where both margins are negative, the ratio is positive and kept: alone, ``m`` prefers the wrong item, and the
      joint decision follows it in that. This is use of the modality just as a shared correct preference is, and the
      effect measures use, not success.
    * Where all effects of a triple are 1e-8, nothing tells the modalities apart, and every weight is 1.

    Args:
        modalities: Names of the modalities, at least two.

    Shapes:
        - **input:** margins of the full view :math:`(B)`, of the leave-one-out views :math:`(B, M)`, of the uni-modal
          views :math:`(B, M)`
        - **output:** effects :math:`(B, M)`, without gradient

    Raises:
        InputError: If there are fewer than two modalities, or what a method is given has another shape.
    """

    effect_sum: Tensor
    weight_sum: Tensor
    count: Tensor
    effect: Tensor
    weight: Tensor

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__()
        check_several(modalities, "modality effects")
        self.modalities = tuple(modalities)
        for name in ("effect_sum", "weight_sum"):
            self.register_state(name, torch.zeros(len(modalities), dtype=torch.float64))
        self.register_state("count", torch.zeros((), dtype=torch.int64))
        for name in ("effect", "weight"):
            self.register_state(name, torch.full((len(modalities),), torch.nan, dtype=torch.float64))

    @torch.no_grad()
    def forward(self, full: Tensor, without: Tensor, alone: Tensor, base: Tensor | None = None) -> Tensor:
        """Return the effects of every modality on every triple, see :func:`~pyg_ckd.scoring.effects.relative_effects`.

        Args:
            full: Margins of the full view ``[B]``.
            without: Margins of the leave-one-out views ``[B, M]``.
            alone: Margins of the uni-modal views ``[B, M]``.
            base: Margins of the empty view ``[B]``, for effects relative to what ``m`` does alone beside the ids.
                (default: :obj:`None`, the formula above)
        """
        self._check_shapes(full=full, without=without, alone=alone, base=base)
        return relative_effects(full, without, alone, base)

    @torch.no_grad()
    def weights(self, effects: Tensor, available: Tensor | None = None) -> Tensor:
        """Return the weight of every modality on every triple, see :func:`~pyg_ckd.scoring.effects.effect_weights`.

        Args:
            effects: Effects ``[B, M]``.
            available: Which modalities the items of each triple have, bool ``[B, M]``. (default: :obj:`None`, all)
        """
        self._check_shapes(effects=effects, available=available)
        return effect_weights(effects, available)

    @torch.no_grad()
    def track(self, effects: Tensor, weights: Tensor) -> None:
        """Add a batch to the means of the running epoch.

        Args:
            effects: Effects ``[B, M]``.
            weights: Weights ``[B, M]``.
        """
        self._check_shapes(effects=effects, weights=weights)
        self.effect_sum += effects.sum(dim=0)
        self.weight_sum += weights.sum(dim=0)
        self.count += effects.size(0)

    def _check_shapes(self, **given: Tensor | None) -> None:
        """Refuse values of another shape than ``[B, M]``, or ``[B]`` of the full and the empty view."""
        known = {name: value for name, value in given.items() if value is not None}
        for name, value in known.items():
            if not isinstance(value, Tensor):
                raise InputError(f"{name}: found {type(value).__name__}, expected a tensor")
        size = max((value.size(0) for value in known.values() if value.dim()), default=0)
        for name, value in known.items():
            whole = name in ("full", "base")
            expected = [size] if whole else [size, len(self.modalities)]
            if list(value.shape) != expected:
                per = "one value per triple" if whole else f"a column for each of {', '.join(self.modalities)}"
                raise InputError(f"{name}: found shape {list(value.shape)}, expected {expected}, {per}")

    @property
    def sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sums of effects and weights over the triples of the running epoch, and their number."""
        return self.effect_sum, self.weight_sum, self.count

    def finish_epoch(self) -> dict[str, float]:
        """Return the epoch's mean effects and weights, keep them for :meth:`summary` and start the next epoch."""
        if int(self.count):
            self.effect.copy_(self.effect_sum / self.count)
            self.weight.copy_(self.weight_sum / self.count)
        for total in self.sums:
            total.zero_()
        effect, weight = self.effect.tolist(), self.weight.tolist()
        return {f"effect/{m}": e for m, e in zip(self.modalities, effect, strict=True)} | {
            f"weight/{m}": w for m, w in zip(self.modalities, weight, strict=True)
        }

    def summary(self) -> pd.DataFrame:
        """Return mean effect and mean weight per modality over the last finished epoch, the weakest first."""
        import pandas as pd

        table = pd.DataFrame(
            {"effect": self.effect.tolist(), "weight": self.weight.tolist()},
            index=pd.Index(self.modalities, name="modality"),
        )
        return table.sort_values("effect", kind="stable")


def shapley_values(margins: Mapping[View, Tensor], modalities: Sequence[str]) -> Tensor:
    r"""Return the Shapley value of every modality in a margin, with the id part as the base, with gradient.

    .. math::
        \phi_m = \sum_{S \not\ni m} \frac{|S|! \, (M - |S| - 1)!}{M!} \left( \delta(S \cup m) - \delta(S) \right),
        \qquad \sum_m \phi_m = \delta(\textrm{full}) - \delta(\emptyset)

    The values are exact where there are margins of all subsets; up to three modalities, the full, uni-modal,
    leave-one-out and empty views are that. Otherwise the mean of a modality's first and last contribution is used,

    .. math::
        \phi_m = \tfrac{1}{2} \left( \delta(\{m\}) - \delta(\emptyset) + \delta(\textrm{full})
        - \delta(\textrm{full} \setminus m) \right),

    which is exact, with the sum above, if at most pairs of modalities interact; in general it is not.

    Args:
        margins: Margins ``[B]`` of the views of
            :func:`counterfactual_views(modalities, empty=True) <pyg_ckd.scoring.views.counterfactual_views>`, or of
            all subsets.
        modalities: The modalities, in order.

    Returns:
        The values ``[B, M]``.

    Raises:
        InputError: If a view is missing.
    """
    full, num = frozenset(modalities), len(modalities)

    def value(view: View) -> Tensor:
        if view not in margins:
            names = ", ".join(m for m in modalities if m in view) or "no modality"
            raise InputError(
                f"shapley_values: found no margins of the view of {names}, expected those of the full, uni-modal, "
                "leave-one-out and empty views"
            )
        return margins[view]

    exact = num <= 3 or sum(view <= full for view in margins) == 2**num
    values = []
    for m in modalities:
        others = [n for n in modalities if n != m]
        if not exact:
            alone, last = frozenset([m]), full - {m}
            values.append((value(alone) - value(EMPTY) + value(full) - value(last)) / 2)
            continue
        subsets = [frozenset(chosen) for size in range(num) for chosen in combinations(others, size)]
        values.append(torch.stack([_share(len(s), num) * (value(s | {m}) - value(s)) for s in subsets]).sum(dim=0))
    return torch.stack(values, dim=-1)


def _share(size: int, num: int) -> float:
    return 1 / (num * math.comb(num - 1, size))


def masked_mean(values: Tensor, available: Tensor | None = None) -> Tensor:
    """Return the means of columns over the triples that count, in double precision; zero where none does.

    Args:
        values: A value of every modality or view for every triple, ``[B, M]``.
        available: Which count, bool ``[B, M]``. (default: :obj:`None`, all)

    Returns:
        The means ``[M]``.
    """
    if available is None:
        return values.mean(dim=0, dtype=torch.float64)
    total = torch.where(available, values, 0).sum(dim=0, dtype=torch.float64)
    return total / available.sum(dim=0).clamp(min=1)


@torch.no_grad()
def label_information(margin: Tensor, available: Tensor | None = None) -> Tensor:
    r"""Return how much margins tell about which of two items is the positive one, in nats, without gradient.

    .. math::
        I = \ln 2 - \min_{t \ge 0} \, \underset{uij}{\textrm{mean}} \, \ln \left( 1 + e^{-t \delta_{uij}} \right)

    This is the variational lower bound of "Information Maximization in Noisy Channels" (Barber and Agakov, NIPS 2003)
    with a logistic model of one scale :math:`t`, so that the size of margins does not matter. It lies between 0, for
    margins that are zero or mostly wrong, and :math:`\ln 2`, which it approaches if all are right.

    The scale is found by Newton's steps, which never pass it from below, because the slope is convex. The first one is
    from zero. Its result is then multiplied by powers of two as long as the loss falls, for heavy-tailed margins and
    those of several sizes have their best scale orders of magnitude above it.

    Args:
        margin: Margins ``[B]``, or of several views ``[B, V]``.
        available: Which triples count, bool of the same shape. (default: :obj:`None`, all of them)

    Returns:
        A scalar, or one value for each view ``[V]``, in double precision; zero where no triple counts.
    """
    loss, weight = _calibrated(margin, available)
    return (math.log(2) * weight - loss).clamp(min=0)


@torch.no_grad()
def unbiased_label_information(margin: Tensor, available: Tensor | None = None) -> Tensor:
    r"""Return :func:`label_information` minus its bias, about :math:`1 / 2n` nats that the best scale finds in noise.

    Otherwise, a rare modality with few triples :math:`n` in a batch would seem to know more than others.

    Args:
        margin: Margins ``[B]``, or of several views ``[B, V]``.
        available: Which triples count, bool of the same shape. (default: :obj:`None`, all of them)

    Returns:
        A scalar, or one value for each view ``[V]``, in double precision; it may be negative.
    """
    found = label_information(margin, available)
    count = torch.full_like(found, margin.size(0)) if available is None else available.sum(dim=0).to(found)
    return found - 0.5 * (found > 0) / count.clamp(min=1)


def calibrated_loss(margin: Tensor, available: Tensor | None = None) -> Tensor:
    r"""Return the mean BPR loss of margins times the scale :math:`t` that is best for them, with gradient.

    It is :math:`\ln 2` minus :func:`label_information`, as long as the margins are rather right than wrong. The
    gradient is that with respect to :math:`t \delta`, not :math:`\delta`: small margins, as those of an untrained
    model, whose scale is large, pull no more than others.

    Args:
        margin: Margins ``[B]``, or of several views ``[B, V]``.
        available: Which triples count, bool of the same shape. (default: :obj:`None`, all of them)

    Returns:
        A scalar, or one value for each view ``[V]``, in double precision; zero where no triple counts.
    """
    return _calibrated(margin, available)[0]


def _calibrated(margin: Tensor, available: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the loss at the best scale, and the weight of all triples together, which is 1 or 0."""
    d = margin.double()
    weight = torch.ones_like(d) if available is None else available.double()
    weight = weight / weight.sum(dim=0).clamp(min=1)
    d = torch.where(weight > 0, d, 0)
    size = (weight * d.detach().square()).sum(dim=0).sqrt()
    unit = d.detach() / torch.where(size > 0, size, 1)
    loss = (weight * F.softplus(-_best_scale(unit, weight) * unit - (d - d.detach()))).sum(dim=0)
    return loss, weight.sum(dim=0)


def _best_scale(d: Tensor, weight: Tensor) -> Tensor:
    """Return the scale of least loss, which is 0 or where the slope, a falling and convex function, becomes zero."""
    scale = _newton(torch.zeros_like(weight.sum(dim=0)), d, weight)
    for octaves in OCTAVES:  # The largest multiple by powers of two at which the loss still falls.
        larger = scale * 2.0**octaves
        scale = torch.where((weight * d * torch.sigmoid(-larger * d)).sum(dim=0) > 0, larger, scale)
    for _ in range(NEWTON_STEPS):
        scale = _newton(scale, d, weight)
    return scale


def _newton(scale: Tensor, d: Tensor, weight: Tensor) -> Tensor:
    wrong = torch.sigmoid(-scale * d)
    slope = (weight * d * wrong).sum(dim=0)
    curvature = (weight * d.square() * wrong * (1 - wrong)).sum(dim=0)
    step = slope / curvature.clamp(min=torch.finfo(d.dtype).tiny)
    return (scale + torch.where(curvature > 0, step, 0)).clamp(min=0)


@torch.no_grad()
def conditional_label_information(full: Tensor, without: Tensor, available: Tensor | None = None) -> Tensor:
    """Return how much every modality adds to what the others tell about the positive item, in nats, without gradient.

    It is the :func:`label_information` of the full view minus that of the leave-one-out view, each with a scale of its
    own. It is negative if the joint decision is better without a modality.

    Args:
        full: Margins of the full view ``[B]``.
        without: Margins of the leave-one-out views ``[B, M]``.
        available: Which modalities the items of each triple have, bool ``[B, M]``; for each modality, only triples that
            have it count. (default: :obj:`None`, all of them)

    Returns:
        One value for each modality, ``[M]``, in double precision.
    """
    joint = label_information(full.unsqueeze(-1).expand_as(without), available)
    return joint - label_information(without, available)


@torch.no_grad()
def gaussian_information(margins: Tensor, base: Tensor | None = None, available: Tensor | None = None) -> Tensor:
    r"""Return the mutual information of the margins of every two modalities, as Gaussian variables, without gradient.

    .. math::
        I_{mn} = - \tfrac{1}{2} \ln \left( 1 - r_{mn}^2 \right)

    with the correlation :math:`r_{mn}` of :math:`\delta(\{m\}) - \delta(\emptyset)` and the same of :math:`n` over
    triples. The id part is in every margin; if it were not subtracted, all modalities would seem to agree.

    Args:
        margins: Margins of the uni-modal views ``[B, M]``.
        base: Margins of the empty view ``[B]``. (default: :obj:`None`, nothing is subtracted)
        available: Which modalities the items of each triple have, bool ``[B, M]``; for two modalities, only triples
            that have both count. (default: :obj:`None`, all of them)

    Returns:
        Values ``[M, M]`` in nats and double precision, from 0, also on the diagonal and for margins that are all the
        same, to 8 for margins that are proportional to each other.
    """
    return _information(_moments(margins, base, available))


class RunningInformation(FitState):
    """The information of margins over all batches of an epoch, in buffers, so that a run can be resumed.

    Label information is the mean of :func:`unbiased_label_information` over the batches, weighted by their triples; for
    each modality, batches with fewer than eight of its triples are left out. Gaussian information is that of all the
    epoch's triples together.

    Args:
        modalities: Names of the modalities.

    Attributes:
        label: Label information of every modality over the last finished epoch, ``[M]``; NaN before.
        known: Which modalities had enough triples in it, bool ``[M]``; the label information of others is zero.
        gaussian: :func:`gaussian_information` over the last finished epoch, ``[M, M]``; NaN before.
    """

    label_sum: Tensor
    count: Tensor
    moments: Tensor
    label: Tensor
    known: Tensor
    gaussian: Tensor

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__()
        self.modalities, num = tuple(modalities), len(modalities)
        for name, shape in {"label_sum": (num,), "count": (num,), "moments": (4, num, num)}.items():
            self.register_state(name, torch.zeros(shape, dtype=torch.float64))
        self.register_state("label", torch.full((num,), torch.nan, dtype=torch.float64))
        self.register_state("known", torch.zeros(num, dtype=torch.bool))
        self.register_state("gaussian", torch.full((num, num), torch.nan, dtype=torch.float64))

    @torch.no_grad()
    def track(self, margins: Tensor, base: Tensor | None = None, available: Tensor | None = None) -> None:
        """Add a batch to the running epoch.

        Args:
            margins: Margins of the uni-modal views ``[B, M]``.
            base: Margins of the empty view ``[B]``, taken away from them. (default: :obj:`None`, nothing is)
            available: Which modalities the items of each triple have, bool ``[B, M]``. (default: :obj:`None`, all)
        """
        alone = margins if base is None else margins - base.unsqueeze(-1)
        count = self.count.new_full(self.count.shape, alone.size(0)) if available is None else available.sum(dim=0)
        count = torch.where(count >= LEAST_TRIPLES, count, 0)
        self.label_sum += count * unbiased_label_information(alone, available)
        self.count += count
        self.moments += _moments(alone, None, available)

    def finish_epoch(self) -> None:
        """Keep what the epoch's batches say in :attr:`label` and :attr:`gaussian` and start the next epoch.

        Without enough triples of a modality, its label information is zero; without any batch, both stay as they are.
        """
        seen = self.moments[0].sum() > 0
        label = (self.label_sum / self.count.clamp(min=1)).clamp(min=0)
        self.label.copy_(torch.where(seen, label, self.label))
        self.known.copy_(torch.where(seen, self.count > 0, self.known))
        self.gaussian.copy_(torch.where(seen, _information(self.moments), self.gaussian))
        for total in (self.label_sum, self.count, self.moments):
            total.zero_()


def _moments(margins: Tensor, base: Tensor | None, available: Tensor | None) -> Tensor:
    """Return, over the triples that have two modalities, their number and the sums of x_m, x_m^2 and x_m x_n."""
    x = (margins if base is None else margins - base.unsqueeze(-1)).double()
    known = torch.ones_like(x) if available is None else available.double()
    x = torch.where(known > 0, x, 0)
    return torch.stack([known.t() @ known, x.t() @ known, x.square().t() @ known, x.t() @ x])


def _information(moments: Tensor) -> Tensor:
    number, first, second, product = moments
    number = number.clamp(min=1)
    covariance = product / number - first * first.t() / number.square()
    variance = second / number - (first / number).square()
    floor = 1e-12 * second / number  # What is left of a constant by rounding.
    variance = torch.where(variance > floor, variance, 0)
    scale = variance * variance.t()
    squared = torch.where(scale > 0, covariance.square() / torch.where(scale > 0, scale, 1), 0)
    information = -0.5 * torch.log1p(-squared.clamp(max=LARGEST_SQUARED_CORRELATION))
    return information.fill_diagonal_(0)
