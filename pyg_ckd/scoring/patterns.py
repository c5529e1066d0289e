"""Which pairs of rows there are, as the pattern of a sparse matrix, sorted by counting in few bytes for each pair."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array
from torch import Tensor

from pyg_ckd.scoring.sparse import row_starts

BLOCK = 2**22
"""Entries that are worked on together."""


def pattern_of(row: Tensor, col: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return distinct pairs as the pattern of a CSR matrix.

    On the CPU, pairs are sorted by counting: no key of 64 bits is made for any of them, and beyond the result no more
    than 13 bytes are held for a pair. Elsewhere the device sorts keys.

    Args:
        row: Row of every pair, ``[E]``; repetitions are allowed.
        col: Column of every pair, ``[E]``.
        size: Number of rows and columns.

    Returns:
        Where the entries of every row begin, ``[rows + 1]``, and the columns ``[P]`` of the distinct pairs, ascending
        within a row; int32 on the CPU where that suffices for both, else int64.
    """
    if row.device.type != "cpu":
        return _pattern_by_keys(row, col, size)
    index: Any = np.int32 if max(row.numel(), *size) < np.iinfo(np.int32).max else np.int64
    rows, cols = (numbers.numpy().astype(index, copy=False) for numbers in (row, col))
    matrix = coo_array((np.ones(row.numel(), dtype=np.int8), (rows, cols)), shape=size).tocsr()
    del rows, cols
    matrix.sum_duplicates()  # Sorts the columns of each row as well.
    return torch.from_numpy(matrix.indptr), torch.from_numpy(matrix.indices)


def transposed_pattern(crow: Tensor, col: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the pattern of the transposed matrix, sorted alike.

    Args:
        crow: As :func:`pattern_of` returns it.
        col: As :func:`pattern_of` returns it.
        size: Number of rows and columns of the matrix.
    """
    if crow.device.type != "cpu":
        return _transposed_by_order(crow, col, size)
    entries = np.ones(col.numel(), dtype=np.int8)
    turned = csr_array((entries, col.numpy(), crow.numpy()), shape=size).tocsc()
    return torch.from_numpy(turned.indptr), torch.from_numpy(turned.indices)


def row_blocks(crow: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield runs of rows with about :data:`BLOCK` entries, one row at least, and the entries of each.

    Args:
        crow: Where the entries of every row begin, ``[rows + 1]``.
    """
    starts = crow.long()
    ends = torch.arange(BLOCK, int(starts[-1]) + BLOCK, BLOCK, device=crow.device)
    last = torch.searchsorted(starts[1:], ends).add_(1).clamp_(max=crow.numel() - 1)
    rows = [0, *last.unique().tolist()]
    entries = starts[rows].tolist()
    for n in range(1, len(rows)):
        yield slice(rows[n - 1], rows[n]), slice(entries[n - 1], entries[n])


def _pattern_by_keys(row: Tensor, col: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    key = torch.unique(row.long() * size[1] + col)  # Sorted by row, then column.
    count = torch.bincount(key.div(size[1], rounding_mode="floor"), minlength=size[0])
    return row_starts(count), key % size[1]


def _transposed_by_order(crow: Tensor, col: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    row = torch.repeat_interleave(torch.arange(size[0], device=col.device), crow.diff())
    return row_starts(torch.bincount(col, minlength=size[1])), row[col.argsort(stable=True)]
