"""Embeddings as blocks of columns that are computed late and shared between views: what a training step sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyg_ckd.scoring.column_sums import check_rows, column_sum, column_sums
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.margins import Reading, item_index, read_margins, user_index
from pyg_ckd.scoring.tracing import Recording
from pyg_ckd.scoring.triples import Triples, tensors_key

_BLOCK = 2**20  # Values of features that are converted together.

_Key = tuple[bool, tuple[tuple[int, int], ...]]


def _key(index: Sequence[Tensor], grad: bool) -> _Key:
    """Return what tells index tensors apart, and rows with a gradient from rows without."""
    return grad, tensors_key(index)


class Columns(ABC):
    """Columns of a table that are still to be computed: few rows one by one, many by computing all of them once."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._tables: dict[bool, Tensor] = {}

    @property
    def table(self) -> Tensor:
        """All rows ``[size, D]``."""
        mode = torch.is_grad_enabled()
        if mode not in self._tables:
            self._tables[mode] = self._all()
        return self._tables[mode]

    def take(self, index: Tensor) -> Tensor | None:
        """Return the rows ``[B, D]`` if that is less work than computing all of them, else :obj:`None`."""
        if index.numel() >= self._size or torch.is_grad_enabled() in self._tables:
            return None
        return self._rows(index)

    @abstractmethod
    def _all(self) -> Tensor: ...

    def _rows(self, index: Tensor) -> Tensor:
        return self.table.index_select(0, index)


class Projection(Columns):
    r"""Item columns that are a linear map of features, :math:`\mathbf{F} \mathbf{W}^\top + \mathbf{b}`.

    Features of another type than the weight, or on another device, such as half precision in a memory-mapped file, stay
    what they are: rows are brought to the weight when they are read, all of them in blocks.

    Args:
        feature: Features ``[num_items, d]``.
        weight: Weight ``[D, d]``.
        bias: Bias ``[D]``.
    """

    def __init__(self, feature: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(feature.size(0))
        self.feature, self.weight, self.bias = feature, weight, bias

    def _all(self) -> Tensor:
        feature, weight = self.feature, self.weight
        if (feature.dtype, feature.device) == (weight.dtype, weight.device):
            return F.linear(feature, weight, self.bias)
        blocks = feature.split(max(1, _BLOCK // feature.size(1)))
        if torch.is_grad_enabled():
            return torch.cat([F.linear(block.to(weight), weight, self.bias) for block in blocks])
        # Memory of each block's own would lie between the results, where no later block fits into it.
        out, here = weight.new_empty(feature.size(0), weight.size(0)), weight.new_empty(blocks[0].shape)
        for block, target in zip(blocks, out.split(blocks[0].size(0)), strict=True):
            target.copy_(F.linear(here[: block.size(0)].copy_(block), weight, self.bias))
        return out

    def _rows(self, index: Tensor) -> Tensor:
        rows = self.feature.index_select(0, index.to(self.feature.device))
        return F.linear(rows.to(self.weight), self.weight, self.bias)


class Deferred:
    """Two tables that nobody may ask for, computed when somebody does, with the parameters of that time.

    Args:
        compute: Returns the tables; gradients are recorded if they are now.
    """

    def __init__(self, compute: Callable[[], Embeddings]) -> None:
        self._compute, self._recording = compute, Recording()
        self._tables: Embeddings | None = None

    @property
    def user(self) -> Columns:
        """The first table, still to be computed."""
        return _Side(self, 0)  # Not held: a circle would keep what the tables are computed from.

    @property
    def item(self) -> Columns:
        """The second table, still to be computed."""
        return _Side(self, 1)

    @property
    def known(self) -> bool:
        """Whether somebody has asked for the tables."""
        return self._tables is not None

    @property
    def tables(self) -> Embeddings:
        """The tables."""
        return self.compute() if self._tables is None else self._tables

    def compute(self) -> Embeddings:
        """Compute the tables."""
        with self._recording.again():
            self._tables = self._compute()
        return self._tables


class _Side(Columns):
    def __init__(self, deferred: Deferred, side: int) -> None:
        super().__init__(0)  # All rows or none.
        self._deferred, self._number = deferred, side

    def _all(self) -> Tensor:
        return self._deferred.tables[self._number]


class Combination(Columns):
    """Columns that are the sum or the mean of tables, for some of their rows.

    The tables' gradients of few rows are sparse: a table must come from :func:`with_sparse_gradient`.

    Args:
        tables: The tables ``[N, D]``.
        first: First row of the tables that belongs to the columns.
        size: Number of rows that do.
        mean: Whether the sum is divided by the number of tables.
    """

    def __init__(self, tables: Sequence[Tensor], first: int, size: int, mean: bool) -> None:
        super().__init__(size)
        self._parts, self._first, self._mean = list(tables), first, mean

    def _all(self) -> Tensor:
        return self._combine(table.narrow(0, self._first, self._size) for table in self._parts)

    def _rows(self, index: Tensor) -> Tensor:
        return self._combine(_Take.apply(table, index + self._first) for table in self._parts)

    def _combine(self, parts: Iterable[Tensor]) -> Tensor:
        total = reduce(torch.add, parts)
        return total / len(self._parts) if self._mean else total


def with_sparse_gradient(table: Tensor) -> Tensor:
    """Return the table; its gradient may be sparse, and is made dense where it leaves to whatever made the table."""
    return _Densify.apply(table)


def take_rows(table: Tensor, index: Tensor) -> Tensor:
    """Return rows of a table, whose gradient is then sparse.

    Args:
        table: The table ``[N, ...]``.
        index: Row numbers, int64 ``[B]``.
    """
    return _Take.apply(table, index)


class _Take(torch.autograd.Function):
    """Rows of a table, with a sparse gradient whatever the table is."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = table.shape
        return table.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return torch.sparse_coo_tensor(index.unsqueeze(0), grad, ctx.shape, check_invariants=False), None


class _Densify(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor) -> Tensor:
        return table.view_as(table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.to_dense() if grad.is_sparse else grad


class _Known(NamedTuple):
    margin: Tensor
    squared_norm: Tensor | None
    triples: Triples  # Held, so that no other tensors can get the ids that the key is made of.


class Block:
    """Some columns of the two tables, shared by all views that hold them.

    What has been read for a list of triples is remembered, so that views which share a block share the work.

    Args:
        user: User columns ``[num_users, D]``, given or still to be computed, or :obj:`None` for a bias of the items.
        item: Item columns ``[num_items, D]``, given or still to be computed; of a bias ``[num_items]``.
        constant: Whether all items have the same row, so that no margin comes from the block.
        sparse: Whether columns that are parameters get sparse gradients.
    """

    def __init__(
        self,
        user: Tensor | Columns | None,
        item: Tensor | Columns,
        constant: bool = False,
        sparse: bool = False,
    ) -> None:
        self._user, self._item, self.constant, self._sparse = user, item, constant, sparse
        self._known: dict[_Key, _Known] = {}

    @property
    def user(self) -> Tensor | None:
        """User columns ``[num_users, D]``; none of a bias."""
        return self._user.table if isinstance(self._user, Columns) else self._user

    @property
    def item(self) -> Tensor:
        """Item columns ``[num_items, D]``; of a bias ``[num_items]``."""
        return self._item.table if isinstance(self._item, Columns) else self._item

    def rows(self, user: Tensor, *items: Tensor) -> list[Tensor]:
        """Return the rows of users (ones for a bias) and of each list of items."""
        ones = self.item.new_ones(user.numel())
        users = ones if self.user is None else self.user.index_select(0, user)
        return [users, *(self.item.index_select(0, index) for index in items)]

    def with_users(self, user: Tensor) -> Block:
        """Return a block of the same item columns that scores with other users.

        Args:
            user: Their columns ``[num_users, D]``.
        """
        return Block(user, self._item, self.constant, self._sparse)

    def item_rows(self, items: Tensor) -> Tensor:
        """Return the rows of items ``[B, D]``; of a bias ``[B, 1]``."""
        if isinstance(self._item, Columns):
            rows = self._item.take(items)
            rows = self.item.index_select(0, items) if rows is None else rows
        elif self._sparse and self._item.is_leaf:
            rows = _Take.apply(self._item, items)
        else:
            rows = self._item.index_select(0, items)
        return rows if rows.dim() > 1 else rows.unsqueeze(-1)

    def margins(self, *triples: Triples) -> list[Tensor]:
        """Return what the block adds to the margins ``[B]`` of several lists of triples."""
        missing = [t for t in triples if self._find(t) is None]
        if missing:
            self._read(missing)
        return [cast(_Known, self._find(t)).margin for t in triples]

    def squared_norm(self, *triple: Tensor) -> Tensor:
        """Return the sum of squares of the rows that triples name (a bias has a row of one for users), a scalar."""
        user, preferred, other = triple
        known = self._find((user, preferred, other))
        if known is None or known.squared_norm is None:
            self._read([(user, preferred, other)])
            known = self._find((user, preferred, other))
        return cast(Tensor, cast(_Known, known).squared_norm)

    def _find(self, triples: Triples) -> _Known | None:
        """Return what is known; without gradient, also what was read with one."""
        grad = torch.is_grad_enabled()
        return self._known.get(_key(triples, True)) or (None if grad else self._known.get(_key(triples, False)))

    def _read(self, triples: Sequence[Triples]) -> None:
        items = self._item.take(item_index(triples)) if isinstance(self._item, Columns) else None
        users = self._user.take(user_index(triples)) if isinstance(self._user, Columns) else None
        reading = read_margins(
            self.user if users is None else users,
            self.item if items is None else items,
            triples,
            gathered=items is not None,
            sparse=self._sparse,
            users_gathered=users is not None,
        )
        self._keep(triples, reading)

    def _keep(self, triples: Sequence[Triples], reading: Reading) -> None:
        norms = [reading.squared_norm, *[None] * (len(triples) - 1)]
        for t, margin, norm in zip(triples, reading.margins, norms, strict=True):
            self._known[_key(t, torch.is_grad_enabled())] = _Known(margin, norm, (t[0], t[1], t[2]))


class BlockEmbeddings:
    """Embeddings whose columns are blocks side by side, so that a score is the sum of the blocks' scores.

    Args:
        blocks: The blocks, in the order of their columns.

    Attributes:
        n_id_dict: Row numbers of the users and items of a sampled subgraph, whose rows these are, or empty.
    """

    n_id_dict: Mapping[str, Tensor] = MappingProxyType({})

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = list(blocks)

    def margins(self, *triples: Triples) -> list[Tensor]:
        """As :meth:`Embeddings.margins`."""
        return column_sums(self._margins, "margins", (self,), triples)

    def _margins(self, *triples: Triples) -> list[Tensor]:
        parts = [block.margins(*triples) for block in self.blocks if not block.constant]
        if not parts:
            return [self.blocks[0].item.new_zeros(t[0].numel()) for t in triples]
        return parts[0] if len(parts) == 1 else [torch.stack(part).sum(dim=0) for part in zip(*parts, strict=True)]

    def margin(self, user: Tensor, preferred: Tensor, other: Tensor) -> Tensor:
        """As :meth:`Embeddings.margin`."""
        return self.margins((user, preferred, other))[0]

    def squared_norm(self, user: Tensor, preferred: Tensor, other: Tensor) -> Tensor:
        """As :meth:`Embeddings.squared_norm`."""
        triple = (user, preferred, other)

        def compute() -> Tensor:
            return torch.stack([block.squared_norm(*triple) for block in self.blocks]).sum()

        return column_sum(compute, "squared norm", self, *triple)

    def rows(self, user: Tensor, *items: Tensor) -> list[Tensor]:
        """Return the rows of users and of each list of items, block by block."""
        check_rows("rows")
        return [row for block in self.blocks for row in block.rows(user, *items)]

    def item_rows(self, items: Tensor) -> Tensor:
        """Return the rows of items in the columns that tell items apart, for strategies that compare items.

        Blocks in which all items have the same row are left out, so that no column comes from a modality that is
        intervened on and has a block of its own; a bias of the items is one column. Rows are read block by block: of
        columns that are still to be computed, those of the items alone where that is less work.

        Args:
            items: Row numbers of items, int64 ``[B]``.

        Returns:
            The rows ``[B, D]``, of a view in which nothing tells items apart ``[B, 0]``.
        """
        check_rows("rows of items")
        parts = [block.item_rows(items) for block in self.blocks if not block.constant]
        if not parts:
            return self.blocks[0].item.new_zeros(items.numel(), 0)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def dense(self) -> Embeddings:
        """Return the two tables; a bias becomes a column of ones and one of biases."""
        check_rows("all rows")
        num_users = next(block.user.size(0) for block in self.blocks if block.user is not None)
        user, item = [], []
        for block in self.blocks:
            bias = block.user is None
            user.append(block.item.new_ones(num_users, 1) if block.user is None else block.user)
            item.append(block.item.unsqueeze(-1) if bias else block.item)
        if len(self.blocks) == 1:
            return Embeddings(user[0], item[0])
        return Embeddings(torch.cat(user, dim=1), torch.cat(item, dim=1))


Output = Embeddings | BlockEmbeddings
"""What a view of a backbone is inside a training step; both have ``margins``, ``squared_norm``, ``rows``,
``item_rows`` and ``dense``."""
