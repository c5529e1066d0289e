"""Whether all numbers of a tensor are finite."""

from __future__ import annotations

import torch
from torch import Tensor


def all_finite(x: Tensor) -> bool:
    """Return whether no number is NaN or infinite.

    The sum tells, and is faster; only where it is not finite, for it may have overflowed, every number is looked at.

    Args:
        x: The numbers, of any shape.
    """
    return bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())
