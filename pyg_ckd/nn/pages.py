"""Huge pages of memory for large tables whose rows are read in any order."""

from __future__ import annotations

import ctypes
import errno
import functools
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from pyg_ckd.scoring.sparse import product

HUGE_PAGE = 2 * 2**20
FOR_FAULTS, NOW = 14, 25  # MADV_HUGEPAGE, MADV_COLLAPSE
SMALLEST = {FOR_FAULTS: 8 * 2**20, NOW: 128 * 2**20}
"""Bytes of a table from which on it pays: collapsing copies the table, which many more misses have to pay for."""

_refused: set[int] = set()


def use_huge_pages(table: Tensor, untouched: bool = False) -> None:
    """Ask Linux to hold a large table in huge pages, so that reading a row seldom misses the table of pages.

    Values stay what they are. Where the system, the device, the size or the kind of memory (a mapped file) does not
    suit, nothing happens; what the system refuses for want of huge pages is not asked for again by this process.

    Args:
        table: The table, on the CPU and contiguous.
        untouched: Whether nobody has written to it yet: it then gets huge pages as it is written. If not, its pages
            are collapsed now, which costs a copy, and next to nothing where they have been collapsed before.
    """
    advice = FOR_FAULTS if untouched else NOW
    if (
        torch.compiler.is_compiling()
        or table.device.type != "cpu"
        or table.nbytes < SMALLEST[advice]
        or advice in _refused
    ):
        return
    advise = _madvise()
    if advise is not None and table.is_contiguous():
        start = -(-table.data_ptr() // HUGE_PAGE) * HUGE_PAGE
        size = (table.data_ptr() + table.nbytes - start) // HUGE_PAGE * HUGE_PAGE
        if advise(start, size, advice) != 0 and ctypes.get_errno() != errno.EINVAL:  # That one is about this table.
            _refused.add(advice)


def paged_product(matrix: Tensor, x: Tensor, start: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """Return ``matrix @ x``, or ``start + matrix @ x``, in huge pages where tables are large.

    Args:
        matrix: CSR matrix ``[N, K]``.
        x: Table ``[K, D]``.
        start: Table ``[N, D]`` to add to.
        out: Memory of the result ``[N, D]``.
    """
    out = x.new_empty(matrix.size(0), x.size(1)) if out is None else out
    use_huge_pages(x)
    use_huge_pages(out, untouched=True)
    return product(matrix, x, start, out)


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if sys.platform != "linux":
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True).madvise
    except (OSError, AttributeError):
        return None
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int), ctypes.c_int
    return function
