"""Many triples of a step, sorted once, so that products with sparse matrices read and write tables in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from pyg_ckd.scoring.sparse import csr_matrix, inner_products, product

Triples = tuple[Tensor, Tensor, Tensor]
"""Row numbers of users, preferred items and other items, int64 ``[B]`` each."""


class SortedTriples:
    r"""Triples as a sparse matrix :math:`\mathbf{S}` of users and items and as its transpose.

    With the tables :math:`\mathbf{U}` and :math:`\mathbf{I}`, margins are differences of the entries of
    :math:`\mathbf{U} \mathbf{I}^\top` where :math:`\mathbf{S}` has entries. If the margin of user ``u`` and items ``i``
    and ``j`` has the gradient ``g``, then :math:`S_{ui}` is ``g`` and :math:`S_{uj}` is ``-g``, and the gradients of
    the tables are :math:`\mathbf{S} \mathbf{I}` and :math:`\mathbf{S}^\top \mathbf{U}`.

    Args:
        triples: Lists of triples on the CPU, one after the other.
        num_users: Number of users.
        num_items: Number of items.

    Attributes:
        size: Number of triples.
        first_users: Users of the first list.
    """

    def __init__(self, triples: Sequence[Triples], num_users: int, num_items: int) -> None:
        user, preferred, other = (torch.cat(parts) for parts in zip(*triples, strict=True))
        self.num_users, self.num_items, self.size = num_users, num_items, user.numel()
        self._order = order_of(user)
        pairs = torch.stack([preferred, other], dim=1).index_select(0, self._order).view(-1).int()
        self._of_users = 2 * starts_of(user, num_users), pairs
        item = torch.cat([preferred, other])
        self._order_of_items = order_of(item)
        users = torch.cat([user, user]).index_select(0, self._order_of_items).int()
        self._of_items = starts_of(item, num_items), users
        self._patterns: dict[torch.dtype, Tensor] = {}
        self.first_users, *self._first_items = triples[0]
        self._counts: dict[torch.dtype, Tensor] = {}

    def margins(self, user: Tensor, item: Tensor) -> Tensor:
        """Return the margins ``[B]`` of all triples, in the order in which they were given.

        Args:
            user: User table ``[num_users, D]``.
            item: Item table ``[num_items, D]``, of the same type.
        """
        if item.dtype not in self._patterns:
            zeros = torch.zeros(2 * self.size, dtype=item.dtype)
            self._patterns[item.dtype] = csr_matrix(*self._of_users, zeros, self.num_users, self.num_items)
        scores = inner_products(self._patterns[item.dtype], user, item)
        of_preferred, of_other = scores.view(-1, 2).unbind(dim=1)
        return torch.empty_like(of_other).index_copy_(0, self._order, of_preferred - of_other)

    def count_items(self, item: Tensor) -> Tensor:
        """Return how often the first list names every item, ``[num_items]``, of the type of the item table.

        Args:
            item: Item table ``[num_items, D]``.
        """
        if item.dtype not in self._counts:
            count = torch.bincount(torch.cat(self._first_items), minlength=self.num_items)
            self._counts[item.dtype] = count.to(item.dtype)
        return self._counts[item.dtype]

    def user_gradient(self, grad: Tensor, item: Tensor) -> Tensor:
        """Return the gradient of the user table ``[num_users, D]``.

        Args:
            grad: Gradients of the margins ``[B]``.
            item: Item table ``[num_items, D]``.
        """
        grad = grad.index_select(0, self._order)
        value = torch.stack([grad, -grad], dim=1).view(-1)
        return product(csr_matrix(*self._of_users, value, self.num_users, self.num_items), item)

    def item_gradient(self, grad: Tensor, user: Tensor) -> Tensor:
        """Return the gradient of the item table ``[num_items, D]``.

        Args:
            grad: Gradients of the margins ``[B]``.
            user: User table ``[num_users, D]``.
        """
        value = torch.cat([grad, -grad]).index_select(0, self._order_of_items)
        return product(csr_matrix(*self._of_items, value, self.num_items, self.num_users), user)


T = TypeVar("T")

_shared: ContextVar[dict[tuple[Any, ...], tuple[list[Tensor], Any]] | None] = ContextVar("_shared", default=None)


@contextmanager
def shared_triples() -> Iterator[None]:
    """Sort triples once inside, as long as their tensors stay as they are.

    All views of a student and all its teachers score the same triples in a step. Outside nothing is remembered.
    """
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def sorted_triples(triples: Sequence[Triples], num_users: int, num_items: int) -> SortedTriples:
    """Return triples sorted, or what was returned for them before inside :func:`shared_triples`.

    Args:
        triples: Lists of triples on the CPU, one after the other.
        num_users: Number of users.
        num_items: Number of items.
    """
    tensors = [x for t in triples for x in t]
    return shared_in_step((num_users, num_items), tensors, lambda: SortedTriples(triples, num_users, num_items))


@torch.inference_mode(False)
def shared_in_step(name: tuple[Any, ...], tensors: list[Tensor], make: Callable[[], T]) -> T:
    """Return what is made of tensors, or what was made of them before inside :func:`shared_triples`.

    Args:
        name: What is made.
        tensors: What it is made of.
        make: Makes it.
    """
    known = _shared.get()
    if known is None:
        return make()
    key = (*name, *tensors_key(tensors))
    if key not in known:
        known[key] = tensors, make()  # Held, or others could get their ids.
    return cast(T, known[key][1])


def tensors_key(tensors: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
    """Return what tells tensors apart, and a tensor from itself before it was changed, as long as they are held."""
    return tuple((id(x), 0 if x.is_inference() else x._version) for x in tensors)


def order_of(ids: Tensor) -> Tensor:
    """Return in which order ids ascend, equal ones as they come, int64 ``[B]``.

    Args:
        ids: The ids ``[B]``.
    """
    # Sorting numbers is several times faster in NumPy than torch.argsort, and so than finding the order by itself.
    bits = max(1, ids.numel() - 1).bit_length()
    keys = (ids.long() << bits) + torch.arange(ids.numel())
    return torch.from_numpy(np.sort(keys.numpy())) & ((1 << bits) - 1)


def starts_of(ids: Tensor, size: int) -> Tensor:
    """Return where the entries of every id begin once they are sorted, int32 ``[size + 1]``.

    Args:
        ids: The ids ``[B]``.
        size: Number of rows that they are of.
    """
    check_ids(ids, size)
    starts = torch.zeros(size + 1, dtype=torch.int32)
    torch.cumsum(torch.bincount(ids, minlength=size), dim=0, dtype=torch.int32, out=starts[1:])
    return starts


def check_ids(ids: Tensor, size: int) -> None:
    """Raise an IndexError unless ids are rows of a table: sparse products would read beyond it without a word.

    Args:
        ids: The ids.
        size: Number of rows.
    """
    if ids.numel():
        least, most = (int(x) for x in torch.aminmax(ids))
        if least < 0 or most >= size:
            raise IndexError(f"triples: found row {least if least < 0 else most} of a table of {size} rows")
