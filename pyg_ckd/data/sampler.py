"""Triples for pairwise ranking losses, drawn on the device of the interactions without a loop over them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from itertools import repeat

import torch
from torch import Tensor

from pyg_ckd.arguments import as_integer, as_seed
from pyg_ckd.data.batch import TripletBatch as TripletBatch
from pyg_ckd.data.negatives import HardNegatives, Positives, negatives_of
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.scoring.embeddings import Embeddings

SHUFFLES = ("whole", "users", "blocks", "own")

_RUN = 1024  # Interactions one after the other that stay in one block.


def num_batches(interactions: int, batch_size: int) -> int:
    """Return the number of batches that the interactions of an epoch make, the last of which may be smaller.

    Args:
        interactions: Number of interactions.
        batch_size: Interactions in a batch.
    """
    return -(-interactions // batch_size)


def _check_pairs(pairs: object, name: str, num_users: int, num_items: int) -> None:
    expected = "expected a tensor of integers [2, E]"
    if not isinstance(pairs, Tensor):
        raise InputError(f"{name}: found {type(pairs).__name__}, {expected}")
    if pairs.is_floating_point() or pairs.is_complex() or pairs.dtype == torch.bool or pairs.shape[:-1] != (2,):
        found = str(pairs.dtype).removeprefix("torch.")
        raise InputError(f"{name}: found {found} {list(pairs.shape)}, {expected}")
    for row, kind, size in zip(pairs, ("user", "item"), (num_users, num_items), strict=True):
        least, most = row.aminmax() if row.numel() else (0, size - 1)
        if least < 0 or most >= size:
            raise InputError(f"{name}: found {kind} {int(least if least < 0 else most)}, expected 0 to {size - 1}")


class TripletSampler:
    """Iterates over all training interactions in random order, each with a sampled negative item.

    Negatives are drawn exactly, without rejection: one binary search over the sorted lists of all users finds them
    among the items that are not in the list of their user. The cost does not depend on the number of interactions of a
    user.

    ================= ==============================================================================================
    ``negatives``     what is drawn
    ================= ==============================================================================================
    ``"uniform"``     every item that the user did not interact with, with the same probability
    ``"popularity"``  with a probability proportional to the item's popularity to the power of ``alpha``; an item
                      without interactions counts as if it had one
    ``"hard"``        the one of several ``candidates``, drawn uniformly, that scores highest for the user at the start
                      of the epoch; :meth:`update` takes the embeddings to score with
    ================= ==============================================================================================

    ================= ==============================================================================================
    ``shuffle``       the order of an epoch
    ================= ==============================================================================================
    ``"whole"``       all interactions in uniformly random order; 8 bytes per interaction
    ``"users"``       users in uniformly random order, with all interactions of a user one after the other, in the order
                      of the graph: a batch holds few users, with all of their interactions, except for the first and
                      the last user. For losses whose cost depends on the number of users, such as a softmax over all
                      items; 24 bytes per interaction
    ``"blocks"``      runs of 1,024 interactions in random order, shuffled together with those of the same ``block``;
                      the memory is that of a block. Every interaction comes once, and is as likely to be in a batch as
                      any other. Two of one run are together in a batch more often than two of different runs: in a
                      batch of 2,048 of a block of 1,048,576, two interactions of a run meet in an epoch with
                      probability 1/512, whatever their number. Up to ``block`` interactions there is no difference
    ``"own"``         as ``"blocks"``; where several processes train with ``strategy="users"``, each draws from the
                      interactions of its own users alone, see :class:`~pyg_ckd.training.own_batches.OwnBatches`
    ================= ==============================================================================================

    Args:
        edge_index: Training interactions (user row, item row), int64 or int32 ``[2, E]``, not copied unless some are
            left out; batches are on its device.
        num_users: Number of users.
        num_items: Number of items.
        batch_size: Interactions in a batch; the last batch of an epoch may be smaller.
        num_random_triples: Random triples (any user, any two items) beside every batch.
        seed: Seed of the generator; the same seed gives the same batches.
        negatives: How negatives are drawn.
        alpha: Power of the popularity.
        candidates: Number of items from which a hard negative is chosen.
        num_negatives: Number of negatives per interaction. With several, a batch repeats all of its interactions that
            many times, each time with other negatives, so that a mean over triples is also a mean over negatives.
        known: Further interactions that are never drawn as negatives, int64 ``[2, E']``: those of all processes if
            ``edge_index`` is the share of one process. (default: :obj:`None`, none)
        shuffle: How an epoch is shuffled.
        block: Number of interactions that ``shuffle="blocks"`` and ``"own"`` shuffle together, at least 1,024.

    Raises:
        InputError: If there is no interaction that a negative exists for (with ``shuffle="own"``, once an epoch
            begins), interactions are no integers ``[2, E]`` or out of range, a size is not positive, ``negatives`` or
            ``shuffle`` is unknown, ``alpha`` is negative, or ``known`` is given with ``shuffle="own"``.

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
        negatives: str = "uniform",
        alpha: float = 0.75,
        candidates: int = 8,
        num_negatives: int = 1,
        known: Tensor | None = None,
        shuffle: str = "whole",
        block: int = 2**20,
    ) -> None:
        num_users, num_items = as_integer(num_users, "num_users"), as_integer(num_items, "num_items")
        batch_size, seed = as_integer(batch_size, "batch_size"), as_seed(seed)
        num_random_triples = as_integer(num_random_triples, "num_random_triples")
        if batch_size < 1:
            raise InputError(f"batch_size: found {batch_size}, expected a positive number of triples")
        if num_random_triples < 0:
            raise InputError(f"num_random_triples: found {num_random_triples}, expected zero or more")
        self.num_negatives = as_integer(num_negatives, "num_negatives", 1)
        if shuffle not in SHUFFLES:
            raise unknown_name("shuffle", shuffle, SHUFFLES)
        self.num_users, self.num_items = num_users, num_items
        if shuffle != "whole":  # Named only where it is in use: runs are told apart by these attributes.
            self.shuffle = shuffle
        if shuffle in ("blocks", "own"):
            self.block = as_integer(block, "block", _RUN)
        self.batch_size, self.num_random_triples = batch_size, num_random_triples
        self.negatives, self.alpha, self.candidates = negatives, alpha, candidates
        if self.draws_own and known is not None:
            raise InputError(
                "known: found interactions beside shuffle='own', which knows all of its users, expected none"
            )
        _check_pairs(edge_index, "edge_index", num_users, num_items)
        if known is not None:
            _check_pairs(known, "known", num_users, num_items)
        met = edge_index if known is None else torch.cat([edge_index, known.to(edge_index.device)], dim=1)
        positives = Positives(met, num_users, num_items)
        self._negatives = negatives_of(negatives, positives, alpha, candidates)
        self._positives = positives if self.draws_own and negatives == "popularity" else None
        saturated = positives.degree >= num_items
        self.saturated_users = saturated.nonzero().view(-1)
        kept = edge_index[:, ~saturated[edge_index[0]]] if self.saturated_users.numel() else edge_index
        self._user, self._item = kept
        if not self.draws_own:  # One of several processes may have none.
            check_any(self.num_interactions)
        if self.saturated_users.numel():
            warnings.warn(
                f"{self.saturated_users.numel()} users interacted with all {num_items} items and have no negatives; "
                f"they are left out of training (first: user {int(self.saturated_users[0])})",
                stacklevel=2,
            )
        self.generator = torch.Generator(edge_index.device).manual_seed(seed)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return num_batches(self.num_interactions, self.batch_size)

    def __iter__(self) -> Iterator[TripletBatch]:
        """Yield the batches of one epoch."""
        check_any(self.num_interactions)
        yield from self.batches(repeat(self.batch_size), repeat(self.num_random_triples))

    def batches(self, sizes: Iterable[int], random: Iterable[int]) -> Iterator[TripletBatch]:
        """Yield batches of an epoch with the given sizes, until all interactions have been used.

        Args:
            sizes: Interactions of every batch, zero or more; the last batch has the remaining ones.
            random: Random triples beside every batch.
        """
        for chosen, count in zip(_pieces(self._order(), sizes), random):  # noqa: B905, the sizes may go on for ever.
            user, item = self._user[chosen].long(), self._item[chosen].long()
            if self.num_negatives > 1:
                user, item = user.repeat(self.num_negatives), item.repeat(self.num_negatives)
            yield TripletBatch(user, item, self.sample_negatives(user), *self.sample_random(count))

    def _order(self) -> Iterator[Tensor]:
        """Yield the interactions of one epoch in random order, those of a block at a time."""
        size, device, block = self.num_interactions, self._user.device, getattr(self, "block", None)
        if getattr(self, "shuffle", "") == "users":
            place = torch.randperm(self.num_users, generator=self.generator, device=device)
            yield place[self._user].argsort(stable=True)
            return
        if block is None:
            yield torch.randperm(size, generator=self.generator, device=device)
            return
        runs = torch.randperm(-(-size // _RUN), generator=self.generator, device=device)
        inside = torch.arange(_RUN, device=device)
        for group in runs.split(max(1, block // _RUN)):
            members = (group.unsqueeze(1) * _RUN + inside).view(-1)
            members = members[members < size] if bool((group == runs.numel() - 1).any()) else members
            yield members[torch.randperm(members.numel(), generator=self.generator, device=device)]

    @property
    def num_interactions(self) -> int:
        """Number of interactions of an epoch, without those of saturated users."""
        return self._user.numel()

    @property
    def draws_own(self) -> bool:
        """Whether each of several processes takes only the interactions of its own users, numbered from zero."""
        return getattr(self, "shuffle", "") == "own"

    def popularity(self) -> Tensor | None:
        """Return the number of users of each item if negatives and :attr:`draws_own` need it, int64 ``[num_items]``."""
        return None if self._positives is None else self._positives.popularity()

    def weigh(self, popularity: Tensor) -> None:
        """Draw negatives by a given popularity instead of that among the process's own users.

        Args:
            popularity: Number of users of each item over all processes, int64 ``[num_items]``.
        """
        assert self._positives is not None
        self._negatives = negatives_of(self.negatives, self._positives, self.alpha, self.candidates, popularity)
        self._positives = None

    @property
    def wants_embeddings(self) -> bool:
        """Whether :meth:`update` is to be called before every epoch."""
        return self._negatives.wants_embeddings

    def update(self, embeddings: Embeddings) -> None:
        """Take the embeddings that hard negatives are scored with from now on.

        Args:
            embeddings: The tables, without gradient, on the device of the interactions.
        """
        if isinstance(self._negatives, HardNegatives):
            self._negatives.update(embeddings)

    def sample_negatives(self, user: Tensor) -> Tensor:
        """Return for each user an item drawn from those without a training interaction.

        Args:
            user: Users, none of them saturated, int64 ``[B]``.
        """
        return self._negatives.draw(user, self.generator)

    def sample_random(self, count: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return triples of any user and any two items.

        Args:
            count: How many. (default: :obj:`None`, :attr:`num_random_triples`)
        """
        device, size = self._user.device, (self.num_random_triples if count is None else count,)
        user = torch.randint(self.num_users, size, generator=self.generator, device=device)
        items = torch.randint(self.num_items, (2, *size), generator=self.generator, device=device)
        return user, items[0], items[1]


def check_any(interactions: int) -> None:
    """Refuse an epoch without an interaction.

    Args:
        interactions: Interactions of an epoch, those of saturated users left out.

    Raises:
        InputError: If there is none.
    """
    if interactions == 0:
        raise InputError(
            "training interactions: found none that a negative item exists for, "
            "expected at least one user who did not interact with every item"
        )


def _pieces(parts: Iterable[Tensor], sizes: Iterable[int]) -> Iterator[Tensor]:
    """Yield vectors that follow each other in pieces of given sizes, and at the end what is left."""
    wanted = iter(sizes)
    size, left = next(wanted, None), None
    for part in parts:
        left = part if left is None or not left.numel() else torch.cat([left, part])
        while size is not None and size <= left.numel():
            yield left[:size]
            size, left = next(wanted, None), left[size:]
    if left is not None and left.numel():
        yield left
