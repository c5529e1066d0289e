"""Dropout of large tables, whose random numbers cost more than the step that they are for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHOICES = 2**16
"""Random numbers of 16 bits: the share that is dropped is met to 1 / 65,536."""


def dropout(x: Tensor, share: float) -> Tensor:
    """Return a table without a share of its entries, the others scaled up so that the mean stays, as in training.

    On the CPU four entries share a draw of 64 bits, which is several times faster than
    :func:`torch.nn.functional.dropout`, see ``python -m benchmarks dropout``. On other devices it is that function.

    Args:
        x: The table, floating point, of any shape.
        share: Share of the entries that are dropped, from 0 to below 1.
    """
    if x.device.type != "cpu":
        return F.dropout(x, share)
    kept = max(1, round((1 - share) * CHOICES))
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    chosen = draws.view(torch.int16)[: x.numel()].view(x.shape) <= kept - 1 - CHOICES // 2
    return chosen.to(x.dtype).mul_(CHOICES / kept).mul_(x)
