"""When a trial of a search is not worth its whole budget: logic without a model, and the callback that asks it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from pyg_ckd.study.curves import Curve, Dip, may_reach

FACTOR = 2
"""From one budget at which trials are compared to the next."""
PEERS = 3
"""Trials that must have been compared at a budget before one is pruned there."""
RULE = 2
"""Version of the rule, so that trials which an earlier one has pruned are made again."""
MARK = "pruned"
"""How the reason of a training begins that was pruned."""


@dataclass(frozen=True)
class Pruning:
    """What a trial must reach, known before it begins, so that its result does not depend on when others end.

    Attributes:
        epoch_steps: Steps in an epoch of the trial.
        bars: Budgets in steps, ascending, each with the metric that trials must have reached; none prunes nothing.
    """

    epoch_steps: int
    bars: tuple[tuple[int, float], ...] = ()

    @property
    def key(self) -> str:
        """Eight hexadecimal digits that tell it from others."""
        return hashlib.sha256(repr((RULE, self.epoch_steps, self.bars)).encode()).hexdigest()[:8]


class Pruner:
    """A callback of the trainer that ends a training which has not reached its bar.

    Args:
        pruning: The bars.
        monitor: The validation metric.
    """

    def __init__(self, pruning: Pruning, monitor: str) -> None:
        self.pruning, self.monitor = pruning, monitor

    def on_train_epoch_end(self, trainer: Any, history: Any) -> None:
        """Write the reason to the history if the training is to end.

        Args:
            trainer: The trainer.
            history: The record so far.
        """
        row = history.rows[-1]
        if f"val/{self.monitor}" in row and row["epoch"] < trainer.max_epochs and not history.stopped:
            curve = curve_of(history.rows, self.monitor, self.pruning)
            budget = trainer.max_epochs * self.pruning.epoch_steps
            history.stopped = reason_to_prune(curve, self.pruning.bars, budget)


def curve_of(rows: Sequence[Mapping[str, float]], monitor: str, pruning: Pruning) -> list[tuple[int, float]]:
    """Return the curve of a training.

    Args:
        rows: The rows of its history.
        monitor: The validation metric.
        pruning: Knows how many steps an epoch has.
    """
    column = f"val/{monitor}"
    found = [(int(row["epoch"]) * pruning.epoch_steps, float(row[column])) for row in rows if column in row]
    return [(steps, value) for steps, value in found if value == value]


def reason_to_prune(curve: Curve, bars: Sequence[tuple[int, float]], most: int) -> str:
    """Return why a training is to end, nothing if it goes on.

    It ends if its best value is below the bar of the largest budget that it has used up, and if it cannot reach that
    bar: see :class:`~pyg_ckd.study.curves.Dip` for a model that starts high, falls and rises again, and
    :func:`~pyg_ckd.study.curves.may_reach` for all others. Below the smallest budget nothing ends.

    Args:
        curve: The curve so far; nothing ends before the first evaluation.
        bars: Budgets in steps with what must be reached.
        most: Steps of the whole training.
    """
    if not curve:
        return ""
    steps = curve[-1][0]
    passed = [(budget, bar) for budget, bar in bars if budget <= steps]
    best = max(value for _, value in curve)
    if not passed or best >= passed[-1][1]:
        return ""
    budget, bar = passed[-1]
    dip = Dip.of(curve, bar)
    if may_reach(curve, bar, most) if dip is None else dip.may_reach(bar, most):
        return ""
    return f"{MARK} after {steps} steps: {best:.4f} is below {bar:.4f}, the median of earlier trials at {budget} steps"


def budgets(warmup: int, most: int) -> list[int]:
    """Return the budgets at which trials are compared, in steps: the warm-up, twice the warm-up, and so on.

    Args:
        warmup: Steps before which nothing is compared.
        most: Steps of a whole training; it is compared with nothing.
    """
    found, steps = [], warmup
    while steps < most:
        found.append(steps)
        steps *= FACTOR
    return found


def reached(curve: Curve, at: Sequence[int], ended: bool) -> dict[int, float]:
    """Return the best value that a trial had at every budget that it took part in.

    Args:
        curve: The whole curve of the trial.
        at: The budgets in steps.
        ended: Whether training ended by itself. The trial then takes part in all larger budgets with its best value;
            one that was pruned does not.
    """
    found = {}
    for budget in at:
        inside = [value for steps, value in curve if steps <= budget]
        if inside and (ended or curve[-1][0] >= budget):
            found[budget] = max(inside)
    return found


def bars_of(trials: Sequence[Mapping[int, float]]) -> tuple[tuple[int, float], ...]:
    """Return the bars that finished trials set: at every budget the median of those that took part, if they are enough.

    Args:
        trials: What each has reached, see :func:`reached`.
    """
    values: dict[int, list[float]] = {}
    for trial in trials:
        for budget, value in trial.items():
            values.setdefault(budget, []).append(value)
    return tuple((budget, median(found)) for budget, found in sorted(values.items()) if len(found) >= PEERS)
