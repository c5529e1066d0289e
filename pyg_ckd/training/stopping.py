"""When to stop: logic without a model."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from pyg_ckd.arguments import as_integer, as_number
from pyg_ckd.errors import InputError

LEAST = 8
"""Evaluations without a rise that are waited for, however many steps lie between them."""
SMOOTHED = 4
"""Evaluations that a level is the mean of, at the least."""
ABOVE_HIGH, ABOVE_LOW = 2.0, 5.0
"""How far a level must be above the last high, or above the lowest one since the peak, in units of its noise."""
DEVIATION = 1 / (0.6745 * math.sqrt(6))
"""From the median of absolute second differences to the standard deviation of a normal noise."""


@dataclass
class EarlyStopping:
    r"""Stops once a metric that grows has not risen for a number of steps, and tells a dip from an end.

    A *level* is the mean of the evaluations of the last quarter of the patience, of four at least. A *rise* is a level

    - above the last high (that of the last rise) by more than two units, or
    - after a fall, above the lowest level since the peak by more than five units.

    A *unit* is the standard error of a level as the curve itself shows it: from second differences of neighbouring
    evaluations and of neighbouring levels, the larger of the two, over the last two and four times the patience. It is
    at least ``min_rise`` / 2 of the level. A climb counts even if it is far below an early peak, but each height counts
    only once, so noise cannot cause rises forever.

    Training stops when the last rise lies ``patience`` steps and 8 evaluations back, and not before twice the patience.
    For patience :math:`P` and noise of deviation :math:`\sigma` this means, in 98 or more of 100 draws of the noise on
    planted curves:

    ================================================== ==============================================================
    curve                                              where it stops
    ================================================== ==============================================================
    dip of up to :math:`P` steps from a high start     at most :math:`3.5 P` or 25 evaluations after the end of the
                                                       climb out of it, and not in the dip, if the climb is about
                                                       :math:`10 \sigma` in :math:`P` steps or more
    start that is never reached again                  the same for a climb below it of :math:`4 \sigma` in
                                                       :math:`P` steps or more, if it begins by step
                                                       :math:`P / 10`
    rise of :math:`4 \sigma` in :math:`P` steps        at most :math:`3.5 P` or 25 evaluations after its end
    rise in leaps of :math:`5 \sigma`                  the same, and not in flats of up to :math:`0.7 P`
    later dip, made up for after :math:`P / 2` steps   the same as the rise after it
    plateau with noise                                 at most :math:`4 P` or 25 evaluations after its begin
    collapse, over-fitting                             at most :math:`2 P` or 15 evaluations after the peak
    ================================================== ==============================================================

    The larger of the two bounds holds; the median is :math:`1.2 P`. A slower rise may be taken for noise, and a longer
    dip after a peak for over-fitting; a larger patience tells them apart. A slow climb out of a long dip may be taken
    for noise as well: after a dip of :math:`P` = 1000 steps, a climb of :math:`4 \sigma` in :math:`P` steps is stopped
    early in 0, 12 and 28 % of draws when evaluations are 20, 50 and 100 steps apart (``python -m
    examples.planted_curves --draws 200``).

    An evaluation whose value is not finite is waited for like any other, but has no part in levels and noise, and is
    never the best.

    Args:
        patience: Steps of the optimizer without a rise after which training stops.
        min_rise: A rise is larger than this share of the level.

    Attributes:
        best: Best value so far, of a single evaluation.
        best_epoch: Epoch of the best value, -1 before the first one.

    Raises:
        InputError: If ``patience`` is not positive, or ``min_rise`` is not from 0 to below 1.
    """

    patience: int = 1000
    min_rise: float = 0.002
    best: float = field(default=-math.inf, init=False)
    best_epoch: int = field(default=-1, init=False)
    _curve: list[tuple[int, int, float]] = field(default_factory=list, init=False, repr=False)
    _steps: list[int] = field(default_factory=list, init=False, repr=False)
    _places: list[int] = field(default_factory=list, init=False, repr=False)
    _values: list[float] = field(default_factory=list, init=False, repr=False)
    _levels: list[float] = field(default_factory=list, init=False, repr=False)
    _peak: float = field(default=-math.inf, init=False, repr=False)
    _high: float = field(default=-math.inf, init=False, repr=False)
    _low: float = field(default=-math.inf, init=False, repr=False)
    _fell: bool = field(default=False, init=False, repr=False)
    _risen: int = field(default=0, init=False, repr=False)
    _start: int = field(default=0, init=False, repr=False)
    _restarts: list[tuple[int, int, bool]] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        self.patience = as_integer(self.patience, "patience")
        self.min_rise = as_number(self.min_rise, "min_rise")
        if self.patience < 1 or not 0 <= self.min_rise < 1:
            raise InputError(
                f"early stopping: found patience {self.patience} and min_rise {self.min_rise}, "
                "expected a positive patience and a min_rise from 0 to below 1"
            )

    def update(self, step: int, epoch: int, value: float) -> bool:
        """Take the value of an evaluation and return whether it is the best one so far.

        Args:
            step: Steps that were taken before the evaluation.
            epoch: Number of the epoch.
            value: The metric.
        """
        self._curve.append((step, epoch, value))
        self._steps.append(step - self._start)
        if not math.isfinite(value):
            return False
        self._places.append(self._steps[-1])
        self._values.append(value)
        self._follow()
        if value > self.best:
            self.best, self.best_epoch = value, epoch
            return True
        return False

    def restart(self, step: int, choice: bool = False) -> None:
        """Begin anew, as with a new stage of a training: what came before says nothing about when this one ends.

        Args:
            step: Steps that were taken before.
            choice: Whether the best value begins anew as well.
        """
        fresh = EarlyStopping(self.patience, self.min_rise)
        fresh._curve, fresh._start = self._curve, step
        fresh._restarts = [*self._restarts, (len(self._curve), step, choice)]
        if not choice:
            fresh.best, fresh.best_epoch = self.best, self.best_epoch
        self._become(fresh)

    @property
    def waited(self) -> int:
        """Steps from the last rise to the last evaluation."""
        return self._steps[-1] - self._steps[self._risen] if self._steps else 0

    @property
    def too_early(self) -> bool:
        """Whether there are too few steps or evaluations yet to tell a dip from an end."""
        return not self._steps or self._steps[-1] < 2 * self.patience or len(self._steps) < LEAST + SMOOTHED

    @property
    def rising(self) -> bool:
        """Whether the last rise lies less than half the patience, or less than 4 evaluations, back."""
        return bool(self._steps) and (2 * self.waited < self.patience or 2 * self._evaluations_waited < LEAST)

    @property
    def converged(self) -> bool:
        """Whether the curve is neither rising nor too short to tell."""
        return not (self.rising or self.too_early)

    @property
    def should_stop(self) -> bool:
        """Whether patience is used up."""
        return not self.too_early and self.waited >= self.patience and self._evaluations_waited >= LEAST

    def enough_epochs(self, eval_every: int = 1) -> int | None:
        """Return the epochs after which a training has converged if the metric does not rise again.

        It may go on a little longer: levels are means, which still rise for a while after the metric has.

        Args:
            eval_every: Epochs between evaluations.

        Returns:
            :obj:`None` before the first evaluation after an epoch, which tells how many steps an epoch has.
        """
        if not self._curve or not all(self._curve[-1][:2]):
            return None
        (taken, epoch, _), risen = self._curve[-1], self._steps[self._risen] if self._steps else 0
        steps = self._start + max(2 * self.patience, risen + self.patience)
        evaluations = max(LEAST + SMOOTHED, self._risen + 1 + LEAST) + len(self._curve) - len(self._steps)
        least = -(-steps * epoch // taken)
        return max(-(-least // eval_every), evaluations) * eval_every

    def end_of(self, epoch: int, max_epochs: int, extend: int = 1, unfinished: bool = False) -> str:
        """Return why a budget of epochs ends a training after an epoch, or nothing if it goes on.

        Args:
            epoch: Epochs that are finished.
            max_epochs: The budget; a training that has not converged is given it once more.
            extend: How many times it is given at most.
            unfinished: Whether stages of the training are still to come; it has then not converged.
        """
        most = extend * max_epochs
        converged = self.converged and not unfinished
        if epoch < max_epochs or (epoch < most and (epoch % max_epochs or not converged)):
            return ""
        if unfinished:
            return "budget: stages still to come"
        if self.too_early:
            return "budget: too early to tell"
        return "budget: still rising at the end" if self.rising else "budget: no longer rising"

    def state_dict(self) -> dict[str, Any]:
        """Return the curve so far, from which all else follows."""
        return {"curve": list(self._curve)} | ({"restarts": list(self._restarts)} if self._restarts else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a stored state."""
        fresh = EarlyStopping(self.patience, self.min_rise)
        restarts = [tuple(restart) for restart in state.get("restarts", [])]
        for number, (step, epoch, value) in enumerate([*state["curve"], (0, 0, math.nan)]):
            for before, at, choice in restarts:
                if before == number:
                    fresh.restart(at, choice)
            if number < len(state["curve"]):
                fresh.update(step, epoch, value)
        self._become(fresh)

    def _become(self, other: EarlyStopping) -> None:
        vars(self).clear()  # What another has not set yet has its default.
        vars(self).update(vars(other))

    @property
    def _evaluations_waited(self) -> int:
        return len(self._steps) - 1 - self._risen

    def _within(self, steps: float) -> int:
        """Return how many values lie in that many last steps."""
        return len(self._places) - bisect_right(self._places, self._places[-1] - steps)

    def _follow(self) -> None:
        """Note whether the last evaluation makes a rise or a fall."""
        last, size = len(self._steps) - 1, max(SMOOTHED, self._within(self.patience / 4))
        if len(self._values) < SMOOTHED:
            self._risen = last
            return
        level = fmean(self._values[-size:])
        self._levels.append(level)
        if len(self._levels) == 1:
            self._peak = self._high = self._low = level
            self._risen = last
            return
        unit = max(self._noise(size), self.min_rise * abs(level) / ABOVE_HIGH)
        bar = self._high + ABOVE_HIGH * unit
        if self._fell:
            bar = min(bar, self._low + ABOVE_LOW * unit)
        if level > bar:
            self._high, self._risen, self._fell = level, last, False
            if level > self._peak:
                self._peak = self._low = level
        elif level < self._low - ABOVE_HIGH * unit:
            self._low, self._fell = level, True

    def _noise(self, size: int) -> float:
        """Return the standard error of a level of ``size`` evaluations.

        Differences of neighbouring evaluations show noise that is averaged out; those of levels that do not overlap
        show noise that wanders from one evaluation to the next as well.
        """
        size = min(size, len(self._values))
        values = self._values[-max(2 * LEAST, self._within(2 * self.patience)) :]
        levels = self._levels[-max(5 * size, self._within(4 * self.patience)) :]
        return max(_deviation(values, 1) / math.sqrt(size), _deviation(levels, size))


def _deviation(values: list[float], lag: int) -> float:
    """Return the deviation around a straight line of what lies ``lag`` apart, 0 where there is too little of it."""
    second = [abs(a - 2 * b + c) for a, b, c in zip(values, values[lag:], values[2 * lag :], strict=False)]
    return DEVIATION * median(second) if len(second) > 4 * lag else 0.0
