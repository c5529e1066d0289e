"""Triples for pairwise ranking losses, drawn on the device of the interactions without a loop over them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pyg_ckd.arguments import as_integer, as_seed
from pyg_ckd.errors import InputError


class TripletBatch(NamedTuple):
    """A batch of training triples and, beside it, random triples for generic distillation.

    Attributes:
        user: Users ``u``, int64 ``[B]``.
        positive: Items ``i`` that ``u`` interacted with, int64 ``[B]``.
        negative: Items ``j`` that ``u`` did not interact with, int64 ``[B]``.
        random_user: Any users, int64 ``[R]``; ``R`` may be zero.
        random_first: Any items, int64 ``[R]``.
        random_second: Any items, int64 ``[R]``.
    """

    user: Tensor
    positive: Tensor
    negative: Tensor
    random_user: Tensor
    random_first: Tensor
    random_second: Tensor

    @property
    def weight(self) -> Tensor | None:
        """Weight of every training triple in the main loss, ``[B]``, or :obj:`None` if all weigh 1."""
        return getattr(self, "_weight", None)

    def weighted(self, weight: Tensor) -> TripletBatch:
        """Return the same triples with a weight each.

        Args:
            weight: The weights ``[B]``.
        """
        return _WeightedBatch(self, weight)


class _WeightedBatch(TripletBatch):
    _weight: Tensor

    def __new__(cls, batch: TripletBatch, weight: Tensor) -> _WeightedBatch:
        self = super().__new__(cls, *batch)
        self._weight = weight
        return self


class TripletSampler:
    """Iterates over all training interactions in random order, each with a uniform negative.

    A negative is exact by construction, not by rejection: for a user with ``n`` distinct items a rank ``r`` is drawn
    from the ``num_items - n`` others, and the ``r``-th item that is missing from the user's sorted list is found by one
    binary search over all users' lists at once. The cost does not depend on how much a user interacted with.

    Args:
        edge_index: Training interactions (user row, item row), int64 ``[2, E]``, not copied unless some are left out;
            batches appear on its device.
        num_users: Number of users.
        num_items: Number of items.
        batch_size: Triples in a batch; the last batch of an epoch may be smaller.
        num_random_triples: Random triples (any user, any two items) beside every batch.
        seed: Seed of the generator; the same seed gives the same batches.

    Raises:
        InputError: If there is no interaction that a negative exists for, or a size is not positive.

    Users who interacted with every item have no negative: they are reported with a warning, listed in
    :attr:`saturated_users`, and their interactions are left out.
    """

    def __init__(
        self,
        edge_index: Tensor,
        num_users: int,
        num_items: int,
        batch_size: int = 2048,
        num_random_triples: int = 0,
        seed: int = 0,
    ) -> None:
        num_users, num_items = as_integer(num_users, "num_users"), as_integer(num_items, "num_items")
        batch_size, seed = as_integer(batch_size, "batch_size"), as_seed(seed)
        num_random_triples = as_integer(num_random_triples, "num_random_triples")
        if batch_size < 1:
            raise InputError(f"batch_size: found {batch_size}, expected a positive number of triples")
        if num_random_triples < 0:
            raise InputError(f"num_random_triples: found {num_random_triples}, expected zero or more")
        self.num_users, self.num_items = num_users, num_items
        self.batch_size, self.num_random_triples = batch_size, num_random_triples
        device = edge_index.device
        key = torch.unique(edge_index[0] * num_items + edge_index[1])  # Sorted by user, then item.
        user, item = key.div(num_items, rounding_mode="floor"), key % num_items
        self._degree = torch.bincount(user, minlength=num_users)
        self._start = self._degree.cumsum(0) - self._degree
        # Within a user, item[j] - j is the number of missing items below the j-th positive: it never decreases.
        missing_below = item - (torch.arange(key.numel(), device=device) - self._start[user])
        self._missing_key = user * (num_items + 1) + missing_below

        saturated = self._degree >= num_items
        self.saturated_users = saturated.nonzero().view(-1)
        kept = edge_index[:, ~saturated[edge_index[0]]] if self.saturated_users.numel() else edge_index
        self._user, self._item = kept
        if self._user.numel() == 0:
            raise InputError(
                "training interactions: found none that a negative item exists for, "
                "expected at least one user who did not interact with every item"
            )
        if self.saturated_users.numel():
            warnings.warn(
                f"{self.saturated_users.numel()} users interacted with all {num_items} items and have no negatives; "
                f"they are left out of training (first: user {int(self.saturated_users[0])})",
                stacklevel=2,
            )
        self.generator = torch.Generator(device).manual_seed(seed)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-self._user.numel() // self.batch_size)

    def __iter__(self) -> Iterator[TripletBatch]:
        """Yield the batches of one epoch."""
        order = torch.randperm(self._user.numel(), generator=self.generator, device=self._user.device)
        for chosen in order.split(self.batch_size):
            user = self._user[chosen]
            yield TripletBatch(user, self._item[chosen], self.sample_negatives(user), *self.sample_random())

    def sample_negatives(self, user: Tensor) -> Tensor:
        """Return for each user an item drawn uniformly from those without a training interaction.

        Args:
            user: Users, none of them saturated, int64 ``[B]``.
        """
        draw = torch.rand(user.numel(), generator=self.generator, device=user.device, dtype=torch.float64)
        free = self.num_items - self._degree[user]
        rank = (draw * free).long().clamp_(max=self.num_items - 1)
        rank = torch.minimum(rank, free - 1)
        key = user * (self.num_items + 1) + rank
        return rank + torch.searchsorted(self._missing_key, key, right=True) - self._start[user]

    def sample_random(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return :attr:`num_random_triples` triples of any user and any two items."""
        device, size = self._user.device, (self.num_random_triples,)
        user = torch.randint(self.num_users, size, generator=self.generator, device=device)
        items = torch.randint(self.num_items, (2, *size), generator=self.generator, device=device)
        return user, items[0], items[1]
