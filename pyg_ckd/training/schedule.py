"""Learning rates that follow the steps of a training: warm-up, cosine and steps down."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

SCHEDULES = ("constant", "cosine", "step")
DROPS = (0.5, 0.75)
"""Shares of the steps after which ``"step"`` divides the rate by ten."""
CHANGE = 1.05
"""Factor of the rate from which on rows that wait to be made up for are settled first."""


@dataclass(frozen=True)
class Schedule:
    r"""The factor of the learning rate at a step :math:`s = 0, 1, \ldots` of :math:`T`, of which :math:`W` are warm-up.

    ============== ==================================================================================================
    ``kind``       factor after the warm-up, in which it is :math:`(s + 1) / W`
    ============== ==================================================================================================
    ``"constant"`` 1
    ``"cosine"``   :math:`\frac{1}{2} (1 + \cos \pi \frac{s - W}{T - W})`, from `"SGDR: Stochastic Gradient Descent with
                   Warm Restarts" <https://arxiv.org/abs/1608.03983>`_, without restarts
    ``"step"``     1, from :math:`T / 2` on 0.1, and from :math:`3 T / 4` on 0.01
    ============== ==================================================================================================

    Args:
        kind: Its kind.
        total: Steps :math:`T` of the training; beyond them, the factor stays at its end.
        warmup: Steps :math:`W` of the warm-up, fewer than ``total``.
    """

    kind: str
    total: int
    warmup: int = 0

    def factor(self, step: int) -> float:
        """Return the factor at a step.

        Args:
            step: Steps that were taken before it.
        """
        step = min(step, self.total - 1)
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.kind == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / (self.total - self.warmup)))
        return 0.1 ** sum(step >= share * self.total for share in DROPS) if self.kind == "step" else 1.0


@contextmanager
def scheduled_rates(
    optimizer: torch.optim.Optimizer, schedule: Schedule | None, start: int
) -> Iterator[Callable[[int], None]]:
    """Yield a function that sets the learning rates of a step; outside the block they are what they were before.

    Rows that a :class:`RowAdam` makes up for later have the rates of that time. They are settled first whenever the
    factor has changed by 5 %, which is a few hundred times in a training at most.

    Args:
        optimizer: The optimizer.
        schedule: The schedule, or :obj:`None` to leave the rates alone.
        start: Steps that were taken before the block.
    """
    if schedule is None:
        yield lambda step: None
        return
    rates = [(group, group["lr"]) for group in optimizer.param_groups]
    settle = getattr(optimizer, "settle", None)
    settled = schedule.factor(start)

    def set_rates(step: int) -> None:
        nonlocal settled
        factor = schedule.factor(step)
        if settle is not None and not settled / CHANGE < factor < settled * CHANGE:
            settle()
            settled = factor
        for group, rate in rates:
            group["lr"] = rate * factor

    try:
        yield set_rates
    finally:
        for group, rate in rates:
            group["lr"] = rate
