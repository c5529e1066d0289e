"""Rows of items that several processes add up, each of which has the rows of its own users."""

from __future__ import annotations

from torch import Tensor

from pyg_ckd.processes import Processes


class ItemSums:
    """Adds up what processes find for items; rows of users are those of this process alone.

    Args:
        processes: The processes.
        num_users: Users of this process, the first rows of its tables.
        all_users: Users of all processes.
    """

    def __init__(self, processes: Processes, num_users: int, all_users: int) -> None:
        self.processes, self.num_users, self.all_users = processes, num_users, all_users

    def add_up(self, x: Tensor) -> Tensor:
        """Replace the rows of items by their sums over processes, in place, and return the table.

        Args:
            x: Rows of own users and all items ``[U_k + I, D]``, contiguous.
        """
        self.processes.add_to(x[self.num_users :])
        return x

    def once(self, x: Tensor) -> Tensor:
        """Return a table of which rows of items, the same in all processes, count once in a sum over processes.

        Args:
            x: Rows of own users and all items ``[U_k + I, D]``.
        """
        if self.processes.first:
            return x
        x = x.clone()
        x[self.num_users :] = 0
        return x

    def mean_of_users(self, x: Tensor) -> Tensor:
        """Return the mean over the users of all processes, ``[1, D]``.

        Args:
            x: Rows of own users ``[U_k, D]``.
        """
        return self.processes.total(x.sum(dim=0, keepdim=True)) / self.all_users
