"""Pairs of rows as numbers; and inner products of many, sorted once, so that sparse products read tables in order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyg_ckd.scoring.margins import suits_sparse
from pyg_ckd.scoring.sparse import csr_matrix, inner_products, product
from pyg_ckd.scoring.triples import order_of, shared_in_step, starts_of


def pair_keys(user: Tensor, item: Tensor, num_items: int) -> Tensor:
    """Return pairs as the numbers ``user * num_items + item``, int64 ``[E]``, whatever integers the rows are.

    Args:
        user: Row numbers of users, integers ``[E]``; 32 bits would not hold the product.
        item: Row numbers of items, integers ``[E]``.
        num_items: Number of items.
    """
    return user.long() * num_items + item.long()


class SortedPairs:
    """Pairs of a row of one table and one of another as a sparse matrix and as its transpose.

    Args:
        row: Row numbers of the first table on the CPU, int64 ``[B]``.
        col: Row numbers of the second table, int64 ``[B]``.
        num_rows: Size of the first table.
        num_cols: Size of the second table.
    """

    def __init__(self, row: Tensor, col: Tensor, num_rows: int, num_cols: int) -> None:
        self.shape = num_rows, num_cols
        self.order, self._transposed_order = order_of(row), order_of(col)
        self._entries = starts_of(row, num_rows), col.index_select(0, self.order).int()
        self._transposed = starts_of(col, num_cols), row.index_select(0, self._transposed_order).int()

    def matrix(self, value: Tensor) -> Tensor:
        """Return the sparse matrix of a value for every pair, CSR ``[num_rows, num_cols]``."""
        return csr_matrix(*self._entries, value.index_select(0, self.order), *self.shape)

    def transposed(self, value: Tensor) -> Tensor:
        """Return the transpose of :meth:`matrix`, CSR ``[num_cols, num_rows]``."""
        return csr_matrix(*self._transposed, value.index_select(0, self._transposed_order), *self.shape[::-1])


def pair_products(left: Tensor, right: Tensor, row: Tensor, col: Tensor) -> Tensor:
    """Return the inner products of pairs of rows, ``[B]``.

    Many pairs of tables on the CPU are computed as entries of a sparse matrix, without copies of rows; inside
    :func:`~pyg_ckd.scoring.triples.shared_triples` pairs are sorted once. Second derivatives are not available then.

    Args:
        left: Table ``[N, D]``.
        right: Table ``[K, D]``.
        row: Row numbers of ``left``, int64 ``[B]``.
        col: Row numbers of ``right``, int64 ``[B]``.
    """
    most = min(left.size(0) * right.size(0), 2**31 - 1)
    if not suits_sparse(left, right) or not 0 < row.numel() <= most:
        return (left.index_select(0, row) * right.index_select(0, col)).sum(dim=1)
    sizes = left.size(0), right.size(0)
    pairs = shared_in_step(("pairs", *sizes), [row, col], lambda: SortedPairs(row, col, *sizes))
    return _Products.apply(left, right, pairs)


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, pairs: SortedPairs) -> Tensor:
        ctx.pairs = pairs
        ctx.save_for_backward(left, right)
        found = inner_products(pairs.matrix(left.new_zeros(pairs.order.numel())), left, right)
        return torch.empty_like(found).index_copy_(0, pairs.order, found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        left, right = ctx.saved_tensors
        of_left = product(ctx.pairs.matrix(grad), right) if ctx.needs_input_grad[0] else None
        of_right = product(ctx.pairs.transposed(grad), left) if ctx.needs_input_grad[1] else None
        return of_left, of_right, None
