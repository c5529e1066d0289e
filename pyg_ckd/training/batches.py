"""Batches that grow with the data, and the learning rate and patience that go with them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pyg_ckd.arguments import as_integer
from pyg_ckd.errors import InputError

GROWING = "large"
"""The batch size that is chosen by the number of interactions."""
BASE, MOST = 2048, 16_384
"""The least large batch, for which rates and patience are given unless said otherwise, and the largest one:
beyond it, quality was not kept on a million interactions."""
STEPS = 3
"""Steps that an epoch of large batches has, roughly, before they stop growing."""
LEAST_PATIENCE = 500
"""Steps that are waited for with large batches at the least."""


def as_batch_size(value: Any) -> int | str:
    """Return a batch size, or the word for one that is chosen by the number of interactions.

    Args:
        value: A positive integer, or ``"large"``.

    Raises:
        InputError: If it is neither.
    """
    if isinstance(value, str):
        if value != GROWING:
            raise InputError(f"batch_size: found {value!r}, expected a number of triples, or {GROWING!r}")
        return value
    return as_integer(value, "batch_size", 1)


@dataclass(frozen=True)
class Pace:
    r"""Triples in a step, and what depends on them.

    Attributes:
        batch_size: Triples in a step.
        lr: Learning rate.
        patience: Steps without a rise after which training stops.
    """

    batch_size: int
    lr: float
    patience: int

    @classmethod
    def of(cls, batch_size: int | str, lr: float, patience: int, interactions: int, *, base: int | None = None) -> Pace:
        r"""Return the pace of a training.

        A number stays what it is, and so do rate and patience. ``"large"`` is the power of two nearest to a third of
        the interactions, from 2,048 to 16,384. Rate and patience are taken as given for batches of :math:`B_0` triples:
        the rate is :math:`\sqrt{B / B_0}` times as high, as Adam's steps want it; patience is divided by
        :math:`B / B_0`, but is 500 steps at the least, or what was given if that is less. :class:`Trainer` takes
        :math:`B_0` from the backbone's recommended settings: 8,192 for MMGCN, 4,096 for EgoGCN, GRCN, LATTICE, MGCN
        and MICRO, and 2,048 for all others.

        Args:
            batch_size: Triples in a step, or ``"large"``.
            lr: Learning rate, for batches of :math:`B_0` if the size is ``"large"``.
            patience: Steps without a rise, as the rate.
            interactions: Number of training interactions.
            base: The batch :math:`B_0`; :obj:`None` is 2,048.
        """
        if not isinstance(batch_size, str):
            return cls(batch_size, lr, patience)
        size = 2 ** round(math.log2(max(interactions / STEPS, BASE)))
        size = min(size, MOST)
        times = size / (BASE if base is None else base)
        return cls(size, lr * math.sqrt(times), min(patience, max(round(patience / times), LEAST_PATIENCE)))
