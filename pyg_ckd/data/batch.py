"""A batch of triples, and what a share of one knows of the whole that several processes have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyg_ckd.errors import InputError
from pyg_ckd.processes import ALONE, Processes


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
        return _Batch(self, weight, self._processes, getattr(self, "_all", None), self._chosen, self.whole_size)

    @property
    def whole(self) -> TripletBatch:
        """The batch that this is a share of, or the batch itself if it is none.

        Its items may be read in all layouts of a training. Its users are numbered as in the whole graph.

        Raises:
            InputError: If it is :attr:`drawn_apart`: then no process has it.
        """
        if self.drawn_apart:
            raise InputError(
                "shuffle: found 'own' for a strategy that reads the whole batch (batch.whole), of which every process "
                "draws a share by itself, expected shuffle='blocks'"
            )
        return getattr(self, "_all", None) or self

    @property
    def whole_size(self) -> int:
        """Training triples of the :attr:`whole` batch."""
        size: int | None = getattr(self, "_size", None)
        return self.user.size(0) if size is None else size

    @property
    def drawn_apart(self) -> bool:
        """Whether this is a share that its process has drawn by itself, from the interactions of its own users.

        Its users are numbered from the first one of the process.
        """
        return not self._processes.alone and getattr(self, "_all", None) is None

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
        weight = None if self.weight is None else self.weight[chosen]
        return _Batch(rows, weight, processes, self, chosen, self.user.size(0))

    def drawn_beside(self, counts: Sequence[int], processes: Processes) -> TripletBatch:
        """Return the batch as the share that one of several processes has drawn by itself, see :attr:`drawn_apart`.

        Args:
            counts: Training triples of every process, in the order of the :attr:`whole` batch.
            processes: The processes.
        """
        start = sum(counts[: processes.rank])
        return _Batch(self, self.weight, processes, None, slice(start, start + counts[processes.rank]), sum(counts))

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
        return _Batch(rows, self.weight, self._processes, placed, self._chosen, self.whole_size)

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
        placed = x.new_zeros(self.whole_size, *x.shape[1:], dtype=dtype)
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
    _size: int

    def __new__(
        cls,
        batch: TripletBatch,
        weight: Tensor | None,
        of: Processes,
        whole: TripletBatch | None,
        rows: slice | Tensor,
        size: int,
    ) -> _Batch:
        self = super().__new__(cls, *batch)
        self._weight, self._of, self._rows, self._size = weight, of, rows, size
        self._all = None if of.alone else whole
        return self
