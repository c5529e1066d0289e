"""Two tables as scores: inner products of a block of users with all items."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyg_ckd.errors import InputError
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.finite import all_finite

HALF = (torch.float16, torch.bfloat16)
"""Types of tables that are ranked by in single precision."""

GPU_BLOCK_BYTES = 2**27
"""Scores held at once on a GPU, which is idle between small blocks."""


def check_best(best: Tensor, left: Callable[[], Tensor]) -> None:
    """Refuse the largest scores if they show that scores have overflowed.

    Args:
        best: The largest scores of every user, ``-inf`` in empty slots, ``[B, K]`` on the CPU.
        left: Returns how many items could have been found for each of them, int64 ``[B]``; called only where a slot is
            empty.

    Raises:
        InputError: If one is NaN or infinite, or slots are empty although items are left.
    """
    finite = torch.isfinite(best)
    if bool(finite.all()):
        return
    if bool((finite | (best == -math.inf)).all()):
        filled = finite.sum(dim=1)
        if bool((filled >= left().clamp(max=best.size(1))).all()):
            return
    raise InputError(
        f"scores: found NaN or infinite values, expected finite numbers: products are too large for {best.dtype}; "
        "divide the tables by their largest value, or convert them with .double()"
    )


def check_dense(table: Tensor) -> None:
    """Refuse a sparse table, and one without numbers.

    Args:
        table: The table.

    Raises:
        InputError: If it is sparse, or on the meta device.
    """
    if table.is_meta:
        raise InputError(
            "embeddings: found tables on the meta device, which have no memory behind them, expected numbers; compute "
            "them on another device"
        )
    if table.layout != torch.strided:
        raise InputError("embeddings: found sparse tensors, expected dense ones; pass table.to_dense()")


class Tables:
    """Two tables as a :class:`~pyg_ckd.scoring.neighbourhood.Scorer`, checked and laid out once for all blocks.

    Scores of tables in half precision are computed in single precision.

    Args:
        embeddings: Rows of users ``[U, D]`` and of items ``[I, D]``.
        sizes: Numbers of rows that are expected.
        users: The users whose rows these are, increasing, int64 ``[U]``. (default: :obj:`None`, all)

    Raises:
        InputError: If they are no dense tensors, types or shapes are others, or a number is not finite.
    """

    def __init__(self, embeddings: Embeddings, sizes: tuple[int, int], users: Tensor | None = None) -> None:
        user, item = embeddings
        for table in embeddings:
            if not isinstance(table, Tensor):
                raise InputError(
                    f"embeddings: found {type(table).__name__}, expected tensors; convert arrays with torch.from_numpy"
                )
            check_dense(table)
        if user.dtype != item.dtype or not user.is_floating_point():
            raise InputError(
                f"embeddings: found {user.dtype} for users and {item.dtype} for items, expected floating-point "
                "numbers of one type; convert them with .float()"
            )
        wide = user.dim() == item.dim() == 2 and user.size(1) == item.size(1)
        if not wide or (user.size(0), item.size(0)) != sizes:
            raise InputError(
                f"embeddings: found shapes {list(user.shape)} and {list(item.shape)}, expected [{sizes[0]}, D] and "
                f"[{sizes[1]}, D], a row for every user and item of the graph"
            )
        for name, table in (("user", user), ("item", item)):
            if not all_finite(table):
                raise InputError(f"{name} embeddings: found NaN or infinite values, expected finite numbers")
        user, item = (table.float() if table.dtype in HALF else table for table in (user, item))
        self.user, self.transposed, self.dtype = user, item.t().contiguous(), item.dtype
        self.users = None if users is None else users.to(user.device)

    def scores(self, users: Tensor) -> Tensor:
        """Return the scores of all items ``[B, I]``.

        Args:
            users: Users, int64 ``[B]``, all of them among those that there are rows of.
        """
        rows = users.to(self.user.device)
        return self.user[rows if self.users is None else torch.searchsorted(self.users, rows)] @ self.transposed
