"""Sparse matrices in CSR format, without PyTorch's remarks about them."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)
"""Types without sparse products on the CPU: there, products are made in float32 and rounded."""


def csr_matrix(crow: Tensor, col: Tensor, value: Tensor, rows: int, cols: int | None = None) -> Tensor:
    """Return a CSR matrix, whose indices are not checked.

    Args:
        crow: Where the entries of every row begin, ``[rows + 1]``.
        col: Column of every entry ``[E]``.
        value: The entries ``[E]``.
        rows: Number of rows.
        cols: Number of columns, by default as many.
    """
    _hear_remarks()
    size = (rows, rows if cols is None else cols)
    return torch.sparse_csr_tensor(crow, col, value, size=size, check_invariants=False)


def row_starts(count: Tensor) -> Tensor:
    """Return where the entries of every row begin, and where the last ends, ``[rows + 1]``.

    Args:
        count: Number of entries of every row, ``[rows]``.
    """
    return torch.cat([count.new_zeros(1), count.cumsum(0)])


@functools.cache
def _hear_remarks() -> None:
    """Make a first matrix: PyTorch says once per process that it is in beta and does not check invariants."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse (CSR tensor support|invariant checks)")
        torch.sparse_csr_tensor([0, 0], [], [], size=(1, 1), device="cpu")


def inner_products(pattern: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return the inner product of a row of ``left`` and one of ``right`` for every entry of a matrix, ``[E]``.

    On the CPU that is several times faster than copies of the rows, which are never made.

    Args:
        pattern: CSR matrix ``[N, K]`` whose entries, ``N * K`` of them at most, tell which rows; their values do not
            count but must be finite.
        left: Table ``[N, D]``.
        right: Table ``[K, D]``.
    """
    if _lacks_kernel(left):
        return inner_products(_in_single(pattern), left.float(), right.float()).to(left.dtype)
    return torch.sparse.sampled_addmm(pattern, left, right.t(), beta=0.0).values()


def product(matrix: Tensor, x: Tensor, start: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """Return ``matrix @ x``, or ``start + matrix @ x``.

    PyTorch's ``@`` makes a result of zeros, copies it and adds the product to the copy; writing the product into memory
    that nobody has touched takes half the time.

    Args:
        matrix: CSR matrix ``[N, K]``.
        x: Table ``[K, D]``.
        start: Table ``[N, D]`` to add to.
        out: Memory of the result ``[N, D]``.
    """
    if _lacks_kernel(x):
        found = product(_in_single(matrix), x.float(), None if start is None else start.float())
        return found.to(x.dtype) if out is None else out.copy_(found)
    out = x.new_empty(matrix.size(0), x.size(1)) if out is None else out
    if start is None:
        return torch.addmm(out, matrix, x, beta=0, out=out)
    return torch.addmm(start, matrix, x, out=out)


def _lacks_kernel(x: Tensor) -> bool:
    return x.dtype in _HALF and x.device.type == "cpu"


def _in_single(matrix: Tensor) -> Tensor:
    return csr_matrix(matrix.crow_indices(), matrix.col_indices(), matrix.values().float(), *matrix.shape)
