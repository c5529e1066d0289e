"""When to stop: logic without a model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pyg_ckd.arguments import as_integer
from pyg_ckd.errors import InputError


@dataclass
class EarlyStopping:
    """Stops after a number of evaluations in a row without improvement of a metric that grows.

    Args:
        patience: Evaluations without improvement after which training stops.
        min_delta: An improvement must be larger than this.

    Attributes:
        best: Best value so far.
        best_epoch: Epoch of the best value, -1 before the first one.
        waited: Evaluations since the best value.

    Raises:
        InputError: If ``patience`` is not positive or ``min_delta`` is negative.
    """

    patience: int = 20
    min_delta: float = 0.0
    best: float = field(default=-math.inf, init=False)
    best_epoch: int = field(default=-1, init=False)
    waited: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.patience = as_integer(self.patience, "patience")
        if self.patience < 1 or self.min_delta < 0:
            raise InputError(
                f"early stopping: found patience {self.patience} and min_delta {self.min_delta}, "
                "expected a positive patience and a min_delta of zero or more"
            )

    def update(self, epoch: int, value: float) -> bool:
        """Take the value of an evaluation and return whether it is the best one so far.

        Args:
            epoch: Number of the epoch.
            value: The metric.
        """
        if value > self.best + self.min_delta:
            self.best, self.best_epoch, self.waited = value, epoch, 0
            return True
        self.waited += 1
        return False

    @property
    def should_stop(self) -> bool:
        """Whether patience is used up."""
        return self.waited >= self.patience

    def state_dict(self) -> dict[str, float | int]:
        """Return what changes during training."""
        return {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited}

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        """Go on from a stored state."""
        self.best, self.best_epoch, self.waited = state["best"], int(state["best_epoch"]), int(state["waited"])
