"""The exponential moving average of the weights that a training goes through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class WeightAverage:
    r"""An exponential moving average of trainable parameters.

    After step :math:`t = 1, 2, \ldots`, the average moves to :math:`d_t \bar{\theta} + (1 - d_t) \theta` with
    :math:`d_t = \min \left( d, \frac{t}{t + 9} \right)`, so that the initial weights are soon forgotten. A step costs
    one pass over all parameters, also with sparse gradients; rows with missed steps of :class:`RowAdam` are averaged as
    they are. Buffers are not averaged.

    Args:
        parameters: The parameters.
        decay: The decay :math:`d`, between 0 and 1.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.decay, self.count = decay, 0
        self.parameters = [p for p in parameters if p.requires_grad]
        self._average = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters after a step in."""
        self.count += 1
        weight = 1 - min(self.decay, self.count / (self.count + 9))
        torch._foreach_lerp_(self._average, [p.detach() for p in self.parameters], weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the parameters their averages inside the block, and their own values back after it."""
        own = [p.detach().clone() for p in self.parameters]
        self._copy(self._average)
        try:
            yield
        finally:
            self._copy(own)

    @torch.no_grad()
    def _copy(self, values: list[torch.Tensor]) -> None:
        for p, value in zip(self.parameters, values, strict=True):
            p.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Return what changes from step to step."""
        return {"count": self.count, "average": self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a stored state."""
        self.count = state["count"]
        for own, stored in zip(self._average, state["average"], strict=True):
            own.copy_(stored)
