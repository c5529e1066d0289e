"""Triples for pairwise ranking losses, drawn on the device of the interactions without a loop over them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pyg_ckd.arguments import as_integer, as_seed
from pyg_ckd.data.negatives import HardNegatives, Positives, negatives_of
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.processes import ALONE, Processes
from pyg_ckd.scoring.embeddings import Embeddings

SHUFFLES = ("whole", "blocks")

_RUN = 1024  # Interactions one after the other that stay in one block.


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
        return _Batch(self, weight, self._processes, self.whole, self._chosen)

    @property
    def whole(self) -> TripletBatch:
        """The batch that this is a share of, or the batch itself if it is none.

        Its items may be read in all layouts of a training. Its users are numbered as in the whole graph.
        """
        return getattr(self, "_all", None) or self

    @property
    def _processes(self) -> Processes:
        return getattr(self, "_of", ALONE)

    @property
    def _chosen(self) -> slice | Tensor:
        return getattr(self, "_rows", slice(None))

    def shared(
        self, chosen: slice | Tensor, random: slice | Tensor, processes: Processes, first_user: int = 0
    ) -> TripletBatch:
        """Return the share of the batch that one of several processes has.

        Args:
            chosen: Which training triples it has.
            random: Which random triples it has.
            processes: The processes that have the others.
            first_user: The user that is row 0 of the process's tables.
        """
        rows = TripletBatch(*(x[chosen] for x in self[:3]), *(x[random] for x in self[3:]))
        if first_user:
            rows = rows._replace(user=rows.user - first_user, random_user=rows.random_user - first_user)
        return _Batch(rows, None if self.weight is None else self.weight[chosen], processes, self, chosen)

    def by_rows(self, user: Tensor, item: Tensor) -> TripletBatch:
        """Return the same triples by the row numbers of a part of the graph; what they weigh and share stays.

        Args:
            user: Users of the part by their numbers in the whole graph, in increasing order, int64 ``[U']``, with all
                of the triples among them.
            item: Its items, likewise, int64 ``[I']``. Those of the :attr:`whole` batch that are not among them get the
                number ``I'``, which no row has.
        """
        kinds = [user, item, item] * 2
        rows = TripletBatch(*(torch.searchsorted(ids, x) for ids, x in zip(kinds, self, strict=True)))
        if self._processes.alone:
            return rows if self.weight is None else rows.weighted(self.weight)
        whole, weight = self.whole, self.whole.weight
        items = {name: _row_of(item, getattr(whole, name)) for name in whole._fields if "user" not in name}
        placed = TripletBatch(*whole)._replace(**items)
        placed = placed if weight is None else placed.weighted(weight)
        return _Batch(rows, self.weight, self._processes, placed, self._chosen)

    def own(self, x: Tensor) -> Tensor:
        """Return the rows of a share, of values for all triples of the :attr:`whole` batch.

        Args:
            x: Values ``[B, ...]``, a row for every training triple of the whole batch.
        """
        return x if self._processes.alone else x[self._chosen]

    def gathered(self, x: Tensor) -> Tensor:
        """Return the values of all shares, in the order of the :attr:`whole` batch, with gradient; of no share ``x``.

        For what is no mean over triples, such as a maximum: all processes compute it alike, and the gradients of their
        shares of it add up to the gradient of one.

        Args:
            x: Values ``[B, ...]``, a row for every training triple of this share.
        """
        if self._processes.alone:
            return x
        dtype = torch.uint8 if x.dtype == torch.bool else x.dtype
        placed = x.new_zeros(self.whole.user.size(0), *x.shape[1:], dtype=dtype)
        rows = torch.arange(placed.size(0), device=x.device)[self._chosen]
        return self._processes.total(placed.index_copy(0, rows, x.to(dtype))).to(x.dtype)

    def mean_of_random(self, loss: Tensor, known: Tensor | None = None) -> Tensor:
        """Return the mean of a loss over the random triples that count; zero if none does.

        Of a share of a batch it is the mean over all shares, for what is multiplied with means over training triples:
        a product of means is no mean of products.

        Args:
            loss: Loss of every random triple, ``[R]``, or several losses ``[K, R]``.
            known: Which of them count, bool of the same shape. (default: :obj:`None`, all)

        Returns:
            A scalar, or ``[K]``.
        """
        if self._processes.alone:
            return loss.mean(dim=-1) if known is None else (loss * known).sum(dim=-1) / known.sum(dim=-1).clamp(min=1)
        known = torch.ones_like(loss, dtype=torch.bool) if known is None else known
        counted, count = (loss * known).sum(dim=-1), known.sum(dim=-1).to(loss.dtype)
        both = self._processes.total(torch.stack([counted, count]))
        return both[0] / both[1].clamp(min=1)


def _row_of(ids: Tensor, x: Tensor) -> Tensor:
    """Return where numbers stand among increasing ones, and the number of these where they do not."""
    place = torch.searchsorted(ids, x)
    return torch.where(ids[place.clamp(max=ids.numel() - 1)] == x, place, ids.numel())


class _Batch(TripletBatch):
    """A batch with weights, or a share of one."""

    _weight: Tensor | None
    _of: Processes
    _all: TripletBatch | None
    _rows: slice | Tensor

    def __new__(
        cls, batch: TripletBatch, weight: Tensor | None, of: Processes, whole: TripletBatch, rows: slice | Tensor
    ) -> _Batch:
        self = super().__new__(cls, *batch)
        self._weight, self._of, self._rows = weight, of, rows
        self._all = None if of.alone else whole
        return self


class TripletSampler:
    """Iterates over all training interactions in random order, each with a negative.

    A negative is exact by construction, not by rejection: it is found among the items that are missing from the user's
    sorted list by one binary search over all users' lists at once. The cost does not depend on how much a user
    interacted with.

    ================= ==============================================================================================
    ``negatives``     what is drawn
    ================= ==============================================================================================
    ``"uniform"``     every item that the user did not interact with, with the same probability
    ``"popularity"``  with a probability that grows with the item's popularity, to the power of ``alpha``; an item
                      without interactions counts as one with a single one
    ``"hard"``        the one of several ``candidates``, drawn uniformly, that scores highest for the user at the start
                      of the epoch; :meth:`update` takes the embeddings to score with
    ================= ==============================================================================================

    ================= ==============================================================================================
    ``shuffle``       the order of an epoch
    ================= ==============================================================================================
    ``"whole"``       any order of all interactions with the same probability, for 8 bytes for each of them
    ``"blocks"``      runs of 1,024 interactions in random order, shuffled together with those of the same ``block``;
                      the memory is that of a block. Every interaction comes once, and is as likely to be in a batch as
                      any other. Two of one run are together in a batch more often than two of different runs: in a
                      batch of 2,048 of a block of 1,048,576, two interactions of a run meet in an epoch with
                      probability 1/512, whatever their number. Up to ``block`` interactions there is no difference
    ================= ==============================================================================================

    Args:
        edge_index: Training interactions (user row, item row), int64 ``[2, E]``, not copied unless some are left out;
            batches appear on its device.
        num_users: Number of users.
        num_items: Number of items.
        batch_size: Interactions in a batch; the last batch of an epoch may be smaller.
        num_random_triples: Random triples (any user, any two items) beside every batch.
        seed: Seed of the generator; the same seed gives the same batches.
        negatives: How negatives are drawn.
        alpha: Power of the popularity.
        candidates: Items that a hard negative is chosen from.
        num_negatives: Negatives of every interaction. With several, a batch holds all its interactions once after the
            other as often, each time with other negatives, so that a mean over triples is one over negatives too.
        known: Further interactions that no negative may be among, int64 ``[2, E']``: all of them, where ``edge_index``
            is the share of one process. (default: :obj:`None`, none)
        shuffle: How an epoch is shuffled.
        block: Interactions that ``shuffle="blocks"`` shuffles together, 1,024 at least.

    Raises:
        InputError: If there is no interaction that a negative exists for, a size is not positive, ``negatives`` or
            ``shuffle`` is unknown, or ``alpha`` is negative.

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
            self.shuffle, self.block = shuffle, as_integer(block, "block", _RUN)
        self.batch_size, self.num_random_triples = batch_size, num_random_triples
        self.negatives, self.alpha, self.candidates = negatives, alpha, candidates
        met = edge_index if known is None else torch.cat([edge_index, known.to(edge_index.device)], dim=1)
        positives = Positives(met, num_users, num_items)
        self._negatives = negatives_of(negatives, positives, alpha, candidates)
        saturated = positives.degree >= num_items
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
        self.generator = torch.Generator(edge_index.device).manual_seed(seed)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-self._user.numel() // self.batch_size)

    def __iter__(self) -> Iterator[TripletBatch]:
        """Yield the batches of one epoch."""
        for chosen in self._order():
            user, item = self._user[chosen], self._item[chosen]
            if self.num_negatives > 1:
                user, item = user.repeat(self.num_negatives), item.repeat(self.num_negatives)
            yield TripletBatch(user, item, self.sample_negatives(user), *self.sample_random())

    def _order(self) -> Iterator[Tensor]:
        """Yield which interactions are in each batch of one epoch."""
        size, device, block = self._user.numel(), self._user.device, getattr(self, "block", None)
        if block is None:
            yield from torch.randperm(size, generator=self.generator, device=device).split(self.batch_size)
            return
        runs = torch.randperm(-(-size // _RUN), generator=self.generator, device=device)
        inside, left = torch.arange(_RUN, device=device), runs[:0]
        for group in runs.split(max(1, block // _RUN)):
            members = (group.unsqueeze(1) * _RUN + inside).view(-1)
            members = members[members < size] if bool((group == runs.numel() - 1).any()) else members
            members = members[torch.randperm(members.numel(), generator=self.generator, device=device)]
            left = torch.cat([left, members])
            whole = left.numel() // self.batch_size * self.batch_size
            if whole:
                yield from left[:whole].split(self.batch_size)
            left = left[whole:]
        if left.numel():
            yield left

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

    def sample_random(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return :attr:`num_random_triples` triples of any user and any two items."""
        device, size = self._user.device, (self.num_random_triples,)
        user = torch.randint(self.num_users, size, generator=self.generator, device=device)
        items = torch.randint(self.num_items, (2, *size), generator=self.generator, device=device)
        return user, items[0], items[1]
