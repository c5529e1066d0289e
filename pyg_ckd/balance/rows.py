"""Rows of the whole graph in steps on a sampled subgraph: by them objectives read what they know of all users."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pyg_ckd.balance.names import STEPS
from pyg_ckd.balance.signatures import passes_on
from pyg_ckd.data.sampler import TripletBatch

STEP_METHODS = ("balance", "triple_weights", "add_terms", "weigh")
"""Methods of objectives and wrappers that are called with the output of all views and triples by its row numbers."""

WHOLE: Mapping[str, Tensor] = {}  # Plain, so that objectives can be copied and pickled.


class KnowsRows(nn.Module):
    """Base of objectives: knows, inside a step, which users and items the rows of a subgraph are.

    The output of a view says which subgraph it is of. Methods that are called with outputs are wrapped, so that
    whatever they read of the whole graph is right wherever they are called from. Tables and masks of all users or items
    are read with :meth:`here` and :meth:`items_in_whole`; outside of steps on a subgraph both return what they are
    given.

    Attributes:
        n_id_dict: Row numbers of the step's users and items in the whole graph, under ``"user"`` and ``"item"``; empty
            if it works on all of them.
    """

    n_id_dict: Mapping[str, Tensor] = WHOLE
    batch_items: int | None = 0
    """How many positives of ``batch.whole``, the first ones, a step reads rows of beside those of its own triples, such
    as for a contrast between items. Where several processes sample neighbourhoods, each expands these too. It is
    :obj:`None`, all items of the batch, for a subclass that overrides a method of a step and does not say."""

    _masked: frozenset[str] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let every method of a step know the rows."""
        super().__init_subclass__(**kwargs)
        if "batch_items" not in cls.__dict__ and STEPS & cls.__dict__.keys():
            cls.batch_items = None
        for name in STEP_METHODS:
            if name in cls.__dict__:
                setattr(cls, name, _knowing(cls.__dict__[name]))

    def read_of_batch(self, batch: TripletBatch) -> tuple[Tensor, Tensor]:
        """Return items of a batch that a process reads whatever its share: those read by rows, and by masks alone.

        Args:
            batch: The whole batch.
        """
        items, number = torch.cat([batch.positive, batch.negative]), self.batch_items
        return items if number is None else batch.positive[:number], items if self._masked else items[:0]

    @contextmanager
    def rows_of(self, n_id_dict: Mapping[str, Tensor] | None) -> Iterator[None]:
        """Return a block in which rows are those of a subgraph.

        Args:
            n_id_dict: Row numbers in the whole graph; nothing for the whole graph itself.
        """
        before = self.n_id_dict
        self.n_id_dict = n_id_dict or WHOLE
        try:
            yield
        finally:
            self.n_id_dict = before

    def here(self, table: Tensor, kind: str) -> Tensor:
        """Return the rows of a table of all users or items that the step works on, in its order.

        Args:
            table: The table ``[U, ...]`` or ``[I, ...]``.
            kind: ``"user"`` or ``"item"``.
        """
        rows = self.n_id_dict.get(kind)
        return table if rows is None else table.index_select(0, rows)

    def users_in_whole(self, users: Tensor) -> Tensor:
        """Return the row numbers that users of the step have in the whole graph.

        Args:
            users: Users by the rows of the step, int64 ``[B]``.
        """
        rows = self.n_id_dict.get("user")
        return users if rows is None else rows[users]

    def items_in_whole(self, items: Tensor) -> Tensor:
        """Return the row numbers that items of the step have in the whole graph.

        Args:
            items: Items by the rows of the step, int64 ``[B]``.
        """
        rows = self.n_id_dict.get("item")
        return items if rows is None else rows[items]


def _knowing(method: Callable[..., Any]) -> Callable[..., Any]:
    @passes_on(method)
    def known(self: KnowsRows, out: Mapping[Any, Any], *args: Any, **kw: Any) -> Any:
        with self.rows_of(getattr(next(iter(out.values()), None), "n_id_dict", None)):
            return method(self, out, *args, **kw)

    return known
