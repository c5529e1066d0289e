"""Weights of triples: what a sampler or a strategy may give, and what is refused."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError


def checked_weights(source: str, weights: Any, batch: TripletBatch) -> Tensor:
    """Return weights of triples without gradient.

    Args:
        source: Where they are from, for messages.
        weights: The weights ``[B]``; whether they are negative or infinite is not looked at.
        batch: The triples.

    Raises:
        InputError: If they are no floating-point tensor of one weight per triple.
    """
    if not isinstance(weights, Tensor):
        raise InputError(f"{source}: found {type(weights).__name__}, expected a tensor of weights, one per triple")
    weights = weights.detach()
    if weights.shape != batch.user.shape:
        raise InputError(
            f"{source}: found shape {list(weights.shape)}, expected [{batch.user.numel()}], one weight for every triple"
        )
    if not weights.is_floating_point():
        raise InputError(f"{source}: found {weights.dtype}, expected floating-point numbers")
    return weights
