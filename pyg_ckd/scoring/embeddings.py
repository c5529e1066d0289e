"""What every backbone returns and the only thing that evaluation and serving see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyg_ckd.scoring.column_sums import check_rows, column_sum, column_sums
from pyg_ckd.scoring.margins import read_margins
from pyg_ckd.scoring.triples import Triples


class Embeddings(NamedTuple):
    """The two tables of a recommender; the score of user ``u`` for item ``i`` is the dot product of their rows.

    Attributes:
        user: User embeddings ``[num_users, D]``.
        item: Item embeddings ``[num_items, D]``.
    """

    user: Tensor
    item: Tensor

    def margins(self, *triples: Triples) -> list[Tensor]:
        """Return :meth:`margin` for several lists of triples, each table read once.

        Args:
            *triples: Row numbers of users, preferred items and other items, int64 ``[B]`` each.
        """
        return column_sums(self._margins, "margins", (self.user, self.item), triples)

    def _margins(self, *triples: Triples) -> Sequence[Tensor]:
        return read_margins(self.user, self.item, triples, norm=False).margins

    def margin(self, user: Tensor, preferred: Tensor, other: Tensor) -> Tensor:
        """Return by how much each user scores one item above another, ``score(u, i) - score(u, j)``.

        Args:
            user: Row numbers of the users ``u``, int64 ``[B]``.
            preferred: Row numbers of the items ``i``, int64 ``[B]``.
            other: Row numbers of the items ``j``, int64 ``[B]``.
        """
        return self.margins((user, preferred, other))[0]

    def squared_norm(self, user: Tensor, preferred: Tensor, other: Tensor) -> Tensor:
        """Return the sum of squares of the rows that triples name, each as often as it is named, a scalar.

        Args:
            user: As in :meth:`margin`.
            preferred: As in :meth:`margin`.
            other: As in :meth:`margin`.
        """
        triple = (user, preferred, other)
        of = (self.user, self.item, *triple)
        return column_sum(lambda: read_margins(self.user, self.item, [triple]).squared_norm, "squared norm", *of)

    def rows(self, user: Tensor, *items: Tensor) -> list[Tensor]:
        """Return the rows of users and of each list of items, ``[B, D]`` each.

        Args:
            user: Row numbers of users, int64 ``[B]``.
            *items: Row numbers of items, int64 ``[B]``.
        """
        check_rows("rows")
        return [self.user.index_select(0, user), *(self.item.index_select(0, index) for index in items)]

    def item_rows(self, items: Tensor) -> Tensor:
        """Return the rows of items in the columns that tell items apart, for strategies that compare items.

        Columns in which all items agree, as those of a modality that is intervened on, are zero in the result: they
        change no distance between items, and no inner product or cosine should come from them. Looking for them costs
        one pass over the table; no number is sent to the host.

        Args:
            items: Row numbers of items, int64 ``[B]``.

        Returns:
            The rows ``[B, D]``.
        """
        check_rows("rows of items")
        return self.item.index_select(0, items) * varying_columns(self.item)

    def detach(self) -> Embeddings:
        """Return the same tables outside the graph of differentiation."""
        return Embeddings(self.user.detach(), self.item.detach())

    def dense(self) -> Embeddings:
        """Return the two tables and nothing beside them."""
        check_rows("all rows")
        return Embeddings(self.user, self.item)


class DetailedEmbeddings(Embeddings):
    """Embeddings with the intermediate representations that a backbone's own losses need.

    Attributes:
        parts: The representations by name, with any shapes.
        n_id_dict: As in :class:`BlockEmbeddings`.
    """

    parts: Mapping[str, Tensor]
    n_id_dict: Mapping[str, Tensor] = MappingProxyType({})

    def __new__(cls, user: Tensor, item: Tensor, parts: Mapping[str, Tensor]) -> DetailedEmbeddings:
        """Hold two tables and the parts."""
        self = super().__new__(cls, user, item)
        self.parts = parts
        return self

    def __getnewargs__(self) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
        """Return what a copy is made of."""
        return *self, self.parts

    def _replace(self, **tables: Any) -> DetailedEmbeddings:
        """Return the same parts with other tables."""
        out = super()._replace(**tables)
        vars(out).update(vars(self))
        return out


@torch.no_grad()
def varying_columns(table: Tensor) -> Tensor:
    """Return 1 for each column of a table in which rows differ, else 0, ``[D]`` in the type of the table.

    Differences within the rounding of a product, at most 1e-5 of the largest number of the column, do not count.

    Args:
        table: The table ``[N, D]``.
    """
    low, high = table.aminmax(dim=0)
    rounding = max(1e-5, 4 * torch.finfo(table.dtype).eps)
    return (high - low > rounding * torch.maximum(low.abs(), high.abs())).to(table.dtype)
