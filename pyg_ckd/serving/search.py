"""Exact search for the largest dot products, block by block in memory that is allocated once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from pyg_ckd.scoring.pairs import pair_keys
from pyg_ckd.scoring.sparse import row_starts
from pyg_ckd.scoring.tables import GPU_BLOCK_BYTES, check_best

BLOCK_BYTES = 2**25
"""Scores held at once; blocks that stay near the caches of a CPU are searched fastest."""

_GROUP = 32  # Columns that are looked at as one.

Masked = Callable[[int, int], tuple[Tensor, Tensor]]
Score = Callable[[int, int, Tensor], object]


def search(
    query: Tensor,
    items: Tensor,
    k: int,
    masked: Masked | None = None,
    block_bytes: int | None = None,
    among: Masked | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Return for every query the ``k`` items with the largest dot products.

    Memory is that of the result and of one block of scores. Of a wide row only the ``k`` groups of adjacent items with
    the largest maxima are sorted, for no other group can hold one of the ``k`` best.

    Args:
        query: Rows ``[n, D]``.
        items: Rows ``[I, D]`` on the same device.
        k: From 1 to ``I``.
        masked: Called with the first and last-plus-one query of a block; returns the pairs (query within the block,
            item) that must not be found, int64 each. (default: :obj:`None`, none)
        block_bytes: Scores held at once, but at least those of one query. (default: :obj:`None`, as many as suit the
            device)
        among: As ``masked``; returns the pairs that alone may be found. (default: :obj:`None`, all)

    Returns:
        Scores in decreasing order, of the dtype of ``query``, ``-inf`` in empty slots; and the rows of the items,
        int64, -1 in empty slots. Both are ``[n, k]`` on the CPU.

    Raises:
        InputError: If scores overflow.
    """

    def score(start: int, stop: int, out: Tensor) -> None:
        torch.mm(query[start:stop], items.t(), out=out)

    return search_scores(score, (query.size(0), items.size(0)), k, query, masked, block_bytes, among)


def search_scores(
    score: Score,
    shape: tuple[int, int],
    k: int,
    like: Tensor,
    masked: Masked | None = None,
    block_bytes: int | None = None,
    among: Masked | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Return for every query the ``k`` items with the largest scores, which are computed block by block.

    Args:
        score: Called with the first and last-plus-one query of a block and the memory ``[block, I]`` to write their
            scores to.
        shape: Number of queries and of items.
        k: From 1 to the number of items.
        like: A tensor of the dtype and on the device of the scores.
        masked: As in :func:`search`.
        block_bytes: As in :func:`search`.
        among: As in :func:`search`.

    Returns:
        As :func:`search`.

    Raises:
        InputError: If scores are not finite.
    """

    def left(start: int, stop: int) -> Tensor:
        """Return how many items each query of a block may find, int64 ``[block]``."""
        out = torch.full((stop - start,), num_items)
        without = torch.empty(0, dtype=torch.int64) if masked is None else _cells(masked(start, stop), num_items)
        if among is None:
            return out - torch.bincount(without // num_items, minlength=stop - start)
        cells = _cells(among(start, stop), num_items)
        return torch.bincount(cells[~torch.isin(cells, without)] // num_items, minlength=stop - start)

    num, num_items = shape
    width = -(-num_items // _GROUP) * _GROUP
    if block_bytes is None:
        block_bytes = BLOCK_BYTES if like.device.type == "cpu" else GPU_BLOCK_BYTES
    size = max(1, min(num, block_bytes // (width * like.element_size())))
    block = like.new_full((size, width), -math.inf)  # Columns behind the last item are never found.
    groups = like.new_empty(size, width // _GROUP)
    value = torch.empty(num, k, dtype=like.dtype)
    index = torch.empty(num, k, dtype=torch.int64)
    for start, stop in blocks(num, size):
        scores = block[: stop - start]
        score(start, stop, scores[:, :num_items])
        if among is not None:
            row, column = (index.to(scores.device) for index in among(start, stop))
            kept = scores[row, column]
            scores.fill_(-math.inf)
            scores[row, column] = kept
        if masked is not None:
            row, column = masked(start, stop)
            scores[row.to(scores.device), column.to(scores.device)] = -math.inf
        best, found = _largest(scores, k, groups[: stop - start])
        value[start:stop] = best
        check_best(value[start:stop], partial(left, start, stop))
        index[start:stop] = found.masked_fill_(best == -math.inf, -1)
    return value, index


def _cells(pairs: tuple[Tensor, Tensor], width: int) -> Tensor:
    """Return pairs (row, column) as numbers, each once."""
    row, column = (index.cpu() for index in pairs)
    return pair_keys(row, column, width).unique()


def blocks(num: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the first and last-plus-one index of every block of at most ``size`` of ``num`` things."""
    for start in range(0, num, size):
        yield start, min(start + size, num)


def _largest(scores: Tensor, k: int, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ``k`` largest values of every row and their columns; the width is a multiple of the group."""
    if groups.size(1) <= 2 * k:
        best = scores.topk(k, dim=1)
        return best.values, best.indices
    torch.amax(scores.unflatten(1, (-1, _GROUP)), dim=2, out=groups)
    group = groups.topk(k, dim=1, sorted=False).indices
    column = (group.unsqueeze(2) * _GROUP + torch.arange(_GROUP, device=scores.device)).flatten(1)  # [B, k * _GROUP]
    value, place = scores.gather(1, column).topk(k, dim=1)
    return value, column.gather(1, place)


def distinct_pairs(pairs: Tensor) -> Tensor:
    """Return pairs (row, column) each once and in ascending order, int64 ``[2, E]``.

    Args:
        pairs: Rows and columns from 0 on, int64 ``[2, E]``.
    """
    width = int(pairs[1].max()) + 1 if pairs.numel() else 1
    key = (pairs[0] * width + pairs[1]).unique()
    return torch.stack([key // width, key % width])


class SeenItems:
    """The items that every user has met, as rows packed one user after another.

    Args:
        edge_index: Interactions (user row, item row), integers ``[2, E]``; may have repetitions.
        num_users: Number of users.
    """

    def __init__(self, edge_index: Tensor, num_users: int) -> None:
        user, item = edge_index.cpu().long()
        self.ptr = row_starts(torch.bincount(user, minlength=num_users))
        self.item = item[user.argsort(stable=True)]

    def of(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Return (position in ``users``, item row) of everything that these users have met.

        Args:
            users: Rows of users, int64 ``[n]``.
        """
        first, count = self.ptr[users], self.ptr[users + 1] - self.ptr[users]
        position = torch.repeat_interleave(torch.arange(users.numel()), count)
        offset = torch.arange(position.numel()) - torch.repeat_interleave(count.cumsum(0) - count, count)
        return position, self.item[first[position] + offset]

    def pairs(self) -> Tensor:
        """Return all interactions (user row, item row), int64 ``[2, E]``, one user after another."""
        return torch.stack([torch.repeat_interleave(torch.arange(self.ptr.numel() - 1), self.ptr.diff()), self.item])

    def with_pairs(self, edge_index: Tensor) -> SeenItems:
        """Return this with further interactions of the same users.

        Args:
            edge_index: Interactions (user row, item row), int64 ``[2, E]``.
        """
        new, count = edge_index.cpu(), self.ptr.diff()
        users = new[0].unique()
        place, item = self.of(users)
        row, item = distinct_pairs(torch.cat([torch.stack([users[place], item]), new], dim=1))
        changed = torch.zeros_like(count, dtype=torch.bool).index_fill(0, users, True)
        others = self.item[~changed.repeat_interleave(count)]
        count = torch.where(changed, torch.bincount(row, minlength=count.numel()), count)
        out = SeenItems.__new__(SeenItems)
        out.ptr, inside = row_starts(count), changed.repeat_interleave(count)
        out.item = item.new_empty(inside.numel()).masked_scatter(inside, item).masked_scatter(~inside, others)
        return out

    def extended(self, row: Tensor, item: Tensor, count: int) -> SeenItems:
        """Return this with further users behind the present ones.

        Args:
            row: Numbers of the new users, int64 ``[E]`` in ascending order, from 0 to ``count - 1``.
            item: Rows of items they have met, int64 ``[E]``.
            count: Number of new users.
        """
        out = SeenItems.__new__(SeenItems)
        out.ptr = torch.cat([self.ptr, self.ptr[-1] + torch.bincount(row, minlength=count).cumsum(0)])
        out.item = torch.cat([self.item, item])
        return out
