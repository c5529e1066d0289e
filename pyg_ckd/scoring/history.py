"""Embeddings of users who are the sum of what they have met, from which an item can be left out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyg_ckd.scoring.blocks import Block, BlockEmbeddings, Columns
from pyg_ckd.scoring.pairs import pair_products
from pyg_ckd.scoring.triples import Triples, shared_in_step

NOTHING_LEFT = 1e-8
"""Squared norm below which nothing is left of a sum of rows of norm one."""
SHARE_LEFT = 1e-6
"""The same as a share of the sum's squared norm, where what is left is a difference of products and not of rows."""


class Sums(ABC):
    """Sums of the rows of what users have met, ``[U, D]``."""

    num_users: int

    @property
    @abstractmethod
    def table(self) -> Tensor:
        """The sums of all users, ``[U, D]``."""

    @abstractmethod
    def of(self, user: Tensor) -> tuple[Tensor, Tensor]:
        """Return sums of all or some users ``[n, D]``, and where those of given users stand among them, int64 ``[B]``.

        Args:
            user: Row numbers of users, int64 ``[B]``.
        """


class HistoryEmbeddings(BlockEmbeddings):
    """Embeddings of users who are the sum of their items, so that an item can be left out of a user.

    Margins of a training triple must not come from the very interaction that is to be predicted: the preferred item is
    taken out of the user's sum where it is in it.

    Args:
        sums: Sums of the rows of each user's items.
        row: Rows of the items that users are sums of, of norm one or zero, ``[I, D]``.
        bias: Biases of items ``[I]``.
        known: Sorted keys ``user * I + item`` of the interactions, int64 ``[E]``, or :obj:`None` to leave out nothing.
        temperature: What cosines are divided by.
    """

    def __init__(self, sums: Sums, row: Tensor, bias: Tensor, known: Tensor | None, temperature: float) -> None:
        super().__init__([Block(_Users(sums), _Items(row, bias, temperature))])
        self.row, self.known, self.temperature = row, known, temperature
        self._sums, self._bias = sums, bias

    def without(self, user: Tensor, item: Tensor) -> Tensor:
        """Return the rows of users as they are without an item each, ``[B, D + 1]``.

        Args:
            user: Row numbers of users, int64 ``[B]``.
            item: Row numbers of items, int64 ``[B]``; one that the user has not met changes nothing.
        """
        total, place = self._sums.of(user)
        left = total.index_select(0, place)
        if self.known is not None and self.known.numel():
            left = left - self._met(user, item).to(left.dtype).unsqueeze(1) * self.row.index_select(0, item)
        return with_one(unit(left))

    def scores(self, user: Tensor, drawn: Tensor | None = None) -> Tensor:
        """Return the scores of users for items, ``[n, I]`` or ``[n, N]``, every item left out of the users who met it.

        Args:
            user: Row numbers of users, int64 ``[n]``.
            drawn: Row numbers of items, int64 ``[N]``. (default: :obj:`None`, all items)
        """
        total, place = self._sums.of(user)
        total, row, bias = total.index_select(0, place), self.row, self._bias
        if drawn is not None:
            row, bias = row.index_select(0, drawn), bias.index_select(0, drawn)
        with torch.autocast(user.device.type, enabled=False):  # What is left of a short sum is a small difference.
            product, squared = total @ row.to(total.dtype).t(), total.square().sum(dim=1, keepdim=True)
        cosine = _cosine(product, squared, NOTHING_LEFT)
        if self.known is not None and self.known.numel():
            first, start, count = self._of_users(user)
            if drawn is None and user.device.type == "cpu":  # Elsewhere their number would have to be waited for.
                u, i = _pairs(self.known, first, start, count)
                left = _left(product[u, i], _squares(row.detach(), i), squared[u, 0], (count > 1)[u])
                cosine = cosine.index_put((u, i), left.to(cosine.dtype))
            else:
                items = torch.arange(row.size(0), device=user.device) if drawn is None else drawn
                met, own = self._is_known(first.unsqueeze(1) + items), row.detach().square().sum(dim=1)
                cosine = torch.where(met, _left(product, own, squared, (count > 1).unsqueeze(1)), cosine)
        return torch.add(bias, cosine, alpha=1 / self.temperature)

    def table_margins(self, *triples: Triples) -> list[Tensor]:
        """As :meth:`BlockEmbeddings.margins`, nothing left out: what is compared with the margins of other tables."""
        return super().margins(*triples)

    def margins(self, *triples: Triples) -> list[Tensor]:
        """As :meth:`BlockEmbeddings.margins`, every preferred item left out of its user."""
        if self.known is None or self.known.numel() == 0:
            return super().margins(*triples)
        return [self._margin(*t) for t in triples]

    def _margin(self, user: Tensor, preferred: Tensor, other: Tensor) -> Tensor:
        r"""Return the margins of triples by inner products alone.

        With :math:`\mathbf{r} = \mathbf{h} - \mathbf{x}_i`, products with it are those with :math:`\mathbf{h}` less
        those with :math:`\mathbf{x}_i`.
        """
        (total, place), row = self._sums.of(user), self.row
        with torch.autocast(user.device.type, enabled=False):
            row = row.to(total.dtype)
            first = pair_products(total, row, place, preferred)
            second = pair_products(total, row, place, other)
            alike = pair_products(row, row, preferred, other)
            squared = _squares(total, place)
        own = _squares(row.detach(), preferred)  # One, but of rows that are zero.
        met, more = shared_in_step(
            ("met", self.row.size(0)),
            [cast(Tensor, self.known), user, preferred],
            lambda: (self._met(user, preferred), self._of_users(user)[2] > 1),
        )
        some = _left(first, own, squared, more, second - alike)
        whole = _cosine(first - second, squared, NOTHING_LEFT)
        bias = self._bias.index_select(0, preferred) - self._bias.index_select(0, other)
        return torch.add(bias, torch.where(met, some, whole), alpha=1 / self.temperature)

    def _of_users(self, user: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the least key of every user, where its keys begin, and how many there are."""
        assert self.known is not None
        first = user * self.row.size(0)
        start, stop = torch.searchsorted(self.known, torch.stack([first, first + self.row.size(0)]))
        return first, start, stop - start

    def _met(self, user: Tensor, item: Tensor) -> Tensor:
        return self._is_known(user * self.row.size(0) + item)

    def _is_known(self, key: Tensor) -> Tensor:
        assert self.known is not None
        return self.known[torch.searchsorted(self.known, key).clamp(max=self.known.numel() - 1)] == key


class _Users(Columns):
    """Users of norm one with a column of ones, as their sums are."""

    def __init__(self, sums: Sums) -> None:
        super().__init__(sums.num_users)
        self._sums = sums

    def _all(self) -> Tensor:
        return with_one(unit(self._sums.table))

    def _rows(self, index: Tensor) -> Tensor:
        total, place = self._sums.of(index)
        return with_one(unit(total.index_select(0, place)))


class _Items(Columns):
    """Rows over the temperature with a column of biases."""

    def __init__(self, row: Tensor, bias: Tensor, temperature: float) -> None:
        super().__init__(row.size(0))
        self._row, self._bias, self._temperature = row, bias, temperature

    def _all(self) -> Tensor:
        return torch.cat([self._row / self._temperature, self._bias.unsqueeze(1)], dim=1)

    def _rows(self, index: Tensor) -> Tensor:
        rows, bias = self._row.index_select(0, index), self._bias.index_select(0, index)
        return torch.cat([rows / self._temperature, bias.unsqueeze(1)], dim=1)


def unit(x: Tensor, least: float = NOTHING_LEFT) -> Tensor:
    """Return rows of norm one; rows that are zero up to rounding, as of nothing left in a sum, are constant zeros.

    The gradient of a zero row over its norm would be as large as numbers get, and ruin those that it is added to.
    Second derivatives are not available.

    Args:
        x: Rows ``[N, D]``.
        least: Squared norm up to which a row is taken for zero.
    """
    if x.dtype == torch.float16:  # In which `least` is zero.
        return unit(x.float(), least).half()
    with torch.autocast(x.device.type, enabled=False):  # Under which products of rows are rounded.
        return _Unit.apply(x, least)


class _Unit(torch.autograd.Function):
    """As operators of its own the backward pass would go over the table twice as often."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, least: float) -> Tensor:
        squared = torch.linalg.vecdot(x, x).unsqueeze(1)
        inverse = squared.clamp(min=least).rsqrt_().mul_(squared > least)
        out = x * inverse
        ctx.save_for_backward(out, inverse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        out, inverse = ctx.saved_tensors
        along = torch.linalg.vecdot(out, grads[0]).unsqueeze(1)
        return torch.addcmul(grads[0], out, along, value=-1).mul_(inverse), None


def with_one(x: Tensor) -> Tensor:
    """Return rows with a column of ones, which the bias of items is multiplied by.

    Args:
        x: Rows ``[N, D]``.
    """
    return torch.cat([x, x.new_ones(x.size(0), 1)], dim=1)


def _squares(x: Tensor, index: Tensor) -> Tensor:
    """Return the squared norms of some rows, ``[B]``."""
    if x.size(0) < index.numel():
        return x.square().sum(dim=1).index_select(0, index)
    return x.index_select(0, index).square().sum(dim=1)


def _pairs(known: Tensor, first: Tensor, start: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Return all users with an item that they met, as numbers of users among those given and rows of items."""
    place = torch.arange(count.numel()).repeat_interleave(count)
    inside = torch.arange(place.numel()) - (count.cumsum(0) - count)[place]
    return place, known[start[place] + inside] - first[place]


def _left(product: Tensor, own: Tensor, squared: Tensor, some: Tensor, other: Tensor | None = None) -> Tensor:
    """Return cosines with sums that an item is taken out of; zero where nothing is left.

    Args:
        product: Inner products of sums and the item.
        own: Its squared norm.
        squared: Squared norms of the sums.
        some: Whether the sums are of more than the item.
        other: Inner products of what is left and another item, to subtract. (default: :obj:`None`, none)
    """
    least = SHARE_LEFT * squared
    top = product - own if other is None else product - own - other
    return _cosine(top, squared - 2 * product + own, least) * some


def _cosine(product: Tensor, squared: Tensor, least: float | Tensor) -> Tensor:
    """Return products with rows of norm one over the norms of what they are of; zero where nothing is left of that."""
    return product * (squared > least) * squared.clamp(min=NOTHING_LEFT).rsqrt()
