"""Two tables as scores: inner products of a block of users with all items."""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_ckd.errors import InputError
from pyg_ckd.scoring.embeddings import Embeddings

GPU_BLOCK_BYTES = 2**27
"""Scores held at once on a GPU, which is idle between small blocks."""


class Tables:
    """Two tables as a :class:`~pyg_ckd.scoring.neighbourhood.Scorer`, checked and laid out once for all blocks.

    Args:
        embeddings: Rows of users ``[U, D]`` and of items ``[I, D]``.
        sizes: Numbers of rows that are expected.
        users: The users whose rows these are, increasing, int64 ``[U]``. (default: :obj:`None`, all)

    Raises:
        InputError: If types or shapes are others, or a number is not finite.
    """

    def __init__(self, embeddings: Embeddings, sizes: tuple[int, int], users: Tensor | None = None) -> None:
        user, item = embeddings
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
            if not torch.isfinite(table).all():
                raise InputError(f"{name} embeddings: found NaN or infinite values, expected finite numbers")
        self.user, self.transposed, self.dtype = user, item.t().contiguous(), item.dtype
        self.users = None if users is None else users.to(user.device)

    def scores(self, users: Tensor) -> Tensor:
        """Return the scores of all items ``[B, I]``.

        Args:
            users: Users, int64 ``[B]``, all of them among those that there are rows of.
        """
        rows = users.to(self.user.device)
        return self.user[rows if self.users is None else torch.searchsorted(self.users, rows)] @ self.transposed
