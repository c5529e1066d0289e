"""Which users each of several processes has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class UserRows:
    """Runs of users, one after the other, and which of them is this process's.

    Attributes:
        starts: First user of every process, and at the end the number of all users.
        rank: Number of this process.
    """

    starts: tuple[int, ...]
    rank: int

    @property
    def first(self) -> int:
        """First user of this process."""
        return self.starts[self.rank]

    @property
    def last(self) -> int:
        """First user after those of this process."""
        return self.starts[self.rank + 1]

    @property
    def own(self) -> int:
        """Number of this process's users."""
        return self.last - self.first

    @property
    def all(self) -> int:
        """Number of all users."""
        return self.starts[-1]

    @classmethod
    def balanced(cls, user: Tensor, num_users: int, size: int, rank: int) -> UserRows:
        """Return runs of users of about as much work each: their interactions, and one for their own row.

        Args:
            user: Users of all interactions, int64 ``[E]``.
            num_users: Number of users, at least ``size``.
            size: Number of processes; each gets a user at least.
            rank: Number of this process.
        """
        work = (torch.bincount(user, minlength=num_users) + 1).cumsum(0)
        shares = torch.arange(1, size, device=user.device) * (work[-1] / size)
        ends = (torch.searchsorted(work.double(), shares.double()) + 1).tolist()
        starts = [0]
        for left, end in zip(range(size - 1, 0, -1), ends, strict=True):
            starts.append(max(starts[-1] + 1, min(end, num_users - left)))
        return cls((*starts, num_users), rank)
