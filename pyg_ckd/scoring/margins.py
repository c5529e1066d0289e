"""Margins of triples with one read of each table, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyg_ckd.scoring.sparse import csr_matrix, inner_products
from pyg_ckd.scoring.triples import SortedTriples, Triples, check_ids, sorted_triples


class Reading(NamedTuple):
    """What was read from two tables for several lists of triples.

    Attributes:
        margins: Margins ``[B]`` of every list.
        squared_norm: Sum of the squares of all rows that the first list names, a scalar.
    """

    margins: tuple[Tensor, ...]
    squared_norm: Tensor


def read_margins(
    user: Tensor | None,
    item: Tensor,
    triples: Sequence[Triples],
    gathered: bool = False,
    norm: bool = True,
    sparse: bool = False,
    users_gathered: bool = False,
) -> Reading:
    """Return how much each user scores one item above another, for several lists of triples at once.

    Each table is read once, and its gradient is written once however many lists there are. Second derivatives are not
    available.

    Args:
        user: User table ``[num_users, D]``, or :obj:`None` if the items have a bias only.
        item: Item table ``[num_items, D]``, of a bias ``[num_items]``.
        triples: The lists of triples, at least one.
        gathered: Whether ``item`` holds the rows of :func:`item_index` already.
        norm: Whether the squared norm is wanted; if not, it is zero.
        sparse: Whether tables that are parameters get sparse gradients, which hold the rows that were read alone.
        users_gathered: Whether ``user`` holds the rows of all users of the triples already.
    """
    sizes = [t[0].numel() for t in triples]
    if not (gathered or users_gathered or sparse) and _can_sort(user, item, 2 * sum(sizes)):
        lists = sorted_triples(triples, user.size(0), item.size(0))
        margin, squared_norm = _SortedMargins.apply(user, item, lists, norm)
        return Reading(margin.split(sizes), squared_norm)
    users, preferred, other = (torch.cat(rows) if len(rows) > 1 else rows[0] for rows in zip(*triples, strict=True))
    if user is not None and not (norm or gathered or users_gathered) and _is_constant(user, item):
        margin = _constant_margins(user.index_select(0, users), item, preferred, other)
        return Reading(margin.split(sizes), item.new_zeros(()))
    items = (None, None) if gathered else (preferred, other)
    count = sizes[0] if norm else 0
    margin, squared_norm = _Margins.apply(user, item, None if users_gathered else users, *items, count, sparse)
    return Reading(margin.split(sizes), squared_norm)


def item_index(triples: Sequence[Triples]) -> Tensor:
    """Return the row numbers of all preferred items and then of all other items."""
    return torch.cat([t[1] for t in triples] + [t[2] for t in triples])


def user_index(triples: Sequence[Triples]) -> Tensor:
    """Return the row numbers of all users."""
    return torch.cat([t[0] for t in triples])


def squared_norm(x: Tensor) -> Tensor:
    """Return the sum of squares of all elements, a scalar; its gradient costs one product."""
    return _SquaredNorm.apply(x)


class _SquaredNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _square(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x * (2 * grad).to(x.dtype)


class _Margins(torch.autograd.Function):
    """Margins of all triples and the squared norm of the rows of the first ``count``.

    Rows are kept for the first ``count`` triples; of the others the difference of the two items is all that is needed,
    which one pass over the item table gives without a copy of its rows.
    """

    @staticmethod
    def forward(
        ctx: Any,
        user: Tensor | None,
        item: Tensor,
        users: Tensor | None,
        preferred: Tensor | None,
        other: Tensor | None,
        count: int,
        sparse: bool,
    ) -> tuple[Tensor, Tensor]:
        # index_select is an order of magnitude faster than advanced indexing on the CPU, in both directions.
        if preferred is None or other is None:
            first, second = item.chunk(2)
            difference = first - second
            first, second = first[:count], second[:count]
        else:
            first, second = item.index_select(0, preferred[:count]), item.index_select(0, other[:count])
            difference = first - second if preferred.numel() == count else _difference(item, preferred, other)
        norm = _square(first) + _square(second)
        if user is None:
            left, margin = None, difference
            norm = norm + count
        else:
            left = user if users is None else user.index_select(0, users)
            margin = (left * difference).sum(dim=-1)
            norm = norm + _square(left[:count])
        ctx.save_for_backward(left, difference, first, second, users, preferred, other)
        ctx.of_user = None if user is None else (user.shape, user.dtype, sparse and user.is_leaf)
        ctx.of_item = (item.shape, item.dtype, sparse and item.is_leaf)
        ctx.set_materialize_grads(False)
        return margin, norm

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, margin: Tensor | None, norm: Tensor | None) -> tuple[Tensor | None, ...]:
        left, difference, first, second, users, preferred, other = ctx.saved_tensors
        count, double = first.size(0), None if norm is None else 2 * norm
        if margin is None:
            margin = difference.new_zeros(difference.size(0))
        column = margin if left is None else margin.unsqueeze(-1)
        grad_user = grad_item = None
        if left is not None and ctx.needs_input_grad[0]:
            grad = difference * column
            if double is not None:
                grad[:count].addcmul_(left[:count], double)
            shape, dtype, sparse = ctx.of_user
            grad_user = grad.to(dtype) if users is None else _table(shape, sparse, (users, grad.to(dtype)))
        if ctx.needs_input_grad[1]:
            shape, dtype, sparse = ctx.of_item
            grad = (column.clone() if left is None else left * column).to(dtype)
            up, down = grad, -grad
            if double is not None:
                up[:count].addcmul_(first, double)
                down[:count].addcmul_(second, double)
            if preferred is None or other is None:
                grad_item = torch.cat([up, down])
            else:
                grad_item = _table(shape, sparse, (preferred, up), (other, down))
        return grad_user, grad_item, None, None, None, None, None


class _SortedMargins(torch.autograd.Function):
    """What :class:`_Margins` returns, of so many triples that sorting them pays."""

    @staticmethod
    def forward(ctx: Any, user: Tensor, item: Tensor, lists: SortedTriples, with_norm: bool) -> tuple[Tensor, Tensor]:
        # Most items are read several times, few users are: theirs are counted, of these rows are copied.
        rows = user.index_select(0, lists.first_users) if with_norm else None
        norm = item.new_zeros(())
        if rows is not None:
            norm = _square(rows) + torch.dot(torch.linalg.vector_norm(item, dim=1).square_(), lists.count_items(item))
        ctx.lists = lists  # Numbers of rows, which may come from inference mode, are not saved.
        ctx.save_for_backward(user, item, rows)
        ctx.set_materialize_grads(False)
        return lists.margins(user, item), norm

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, margin: Tensor | None, norm: Tensor | None) -> tuple[Tensor | None, ...]:
        user, item, rows = ctx.saved_tensors
        with_norm, double = norm is not None and rows is not None, 0.0 if norm is None else 2 * norm
        if margin is None:
            margin = item.new_zeros(ctx.lists.size)
        grad_user = grad_item = None
        if ctx.needs_input_grad[0]:
            grad_user = ctx.lists.user_gradient(margin, item)
            if with_norm:
                grad_user.index_add_(0, ctx.lists.first_users, rows * double)
        if ctx.needs_input_grad[1]:
            grad_item = ctx.lists.item_gradient(margin, user)
            if with_norm:
                grad_item.addcmul_(item, (ctx.lists.count_items(item) * double).unsqueeze(-1))
        return grad_user, grad_item, None, None


def _can_sort(user: Tensor | None, item: Tensor, reads: int) -> TypeGuard[Tensor]:
    """Return whether two tables suit sorted triples, and a row is read every other time at least."""
    if user is None or not suits_sparse(user, item):
        return False
    fits = reads <= min(user.size(0) * item.size(0), 2**31 - 1)
    return fits and user.size(0) + item.size(0) <= 2 * reads


def suits_sparse(user: Tensor, item: Tensor) -> bool:
    """Return whether products of two tables can be read as entries of a sparse matrix: on the CPU, of one type.

    Args:
        user: The first table.
        item: The second table.
    """
    on_cpu = user.device.type == item.device.type == "cpu" and not torch.compiler.is_compiling()
    return on_cpu and user.dtype == item.dtype and item.dtype in (torch.float32, torch.float64)


def _is_constant(user: Tensor, item: Tensor) -> bool:
    """Return whether no gradient reaches two tables on the CPU, as those of teachers."""
    grad = torch.is_grad_enabled() and (user.requires_grad or item.requires_grad)
    return not grad and suits_sparse(user, item) and item.size(0) > 1


def _constant_margins(rows: Tensor, item: Tensor, preferred: Tensor, other: Tensor) -> Tensor:
    """Return margins of users' rows, one for every triple, without a copy of the items' rows."""
    count = preferred.numel()
    crow = torch.arange(0, 2 * count + 1, 2, device=item.device)
    col = torch.stack([preferred, other], dim=1).view(-1)
    check_ids(col, item.size(0))
    pattern = csr_matrix(crow, col, item.new_zeros(2 * count), count, item.size(0))
    of_preferred, of_other = inner_products(pattern, rows, item).view(-1, 2).unbind(dim=1)
    return of_preferred - of_other


def _table(shape: torch.Size, sparse: bool, *rows: tuple[Tensor, Tensor]) -> Tensor:
    """Return a gradient: zero but for the sum of values at each of the rows that are given with their numbers."""
    if sparse:
        index, values = (torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*rows, strict=True))
        return torch.sparse_coo_tensor(index.unsqueeze(0), values, shape, check_invariants=False)
    table = rows[0][1].new_zeros(shape)
    for index, values in rows:
        table.index_add_(0, index, values)
    return table


def _difference(table: Tensor, preferred: Tensor, other: Tensor) -> Tensor:
    """Return ``table[preferred] - table[other]``."""
    if table.dim() == 1:
        return table.index_select(0, preferred) - table.index_select(0, other)
    sign = torch.arange(1, -2, -2, dtype=table.dtype, device=table.device)  # Made there: a copy would be waited for.
    sign = sign.expand(preferred.numel(), 2)
    return F.embedding_bag(torch.stack([preferred, other], dim=1), table, per_sample_weights=sign, mode="sum")


def _square(x: Tensor) -> Tensor:
    x = x.reshape(-1).float() if x.dtype in (torch.float16, torch.bfloat16) else x.reshape(-1)
    return torch.dot(x, x) if x.device.type == "cpu" else x.square().sum()  # cuBLAS fails to capture some of its own.
