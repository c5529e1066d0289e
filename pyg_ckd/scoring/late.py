"""Tables that are computed for the rows alone that a step reads, where these are few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor

from pyg_ckd.scoring.blocks import Block, BlockEmbeddings, Deferred, Output
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.margins import item_index, read_margins, user_index
from pyg_ckd.scoring.tracing import Recording
from pyg_ckd.scoring.triples import Triples, check_ids, tensors_key

MOST = 0.75
"""Share of all rows up to which it pays to compute those that are read alone."""
T = TypeVar("T")


class Selection:
    """Some users and some items of two tables, each once and in ascending order.

    Args:
        user: Row numbers of users, int64 ``[B]``, in any order and with repetitions.
        item: Row numbers of items, as those of users.
        num_users: Number of all users.
        num_items: Number of all items.

    Attributes:
        num_users: Number of all users.
        user: Row numbers of the users, int64 ``[S]``.
        item: Row numbers of the items, int64 ``[T]``.
    """

    def __init__(self, user: Tensor, item: Tensor, num_users: int, num_items: int) -> None:
        self.num_users = num_users
        self.user, self._user_place = _distinct(user, num_users)
        self.item, self._item_place = _distinct(item, num_items)
        self._known: dict[object, object] = {}
        self._renumbered: dict[object, tuple[Triples, Triples]] = {}

    @property
    def size(self) -> int:
        """Number of rows of both tables."""
        return self.user.numel() + self.item.numel()

    def split(self, x: Tensor) -> Embeddings:
        """Cut rows of users and then items ``[S + T, D]`` into two tables.

        Args:
            x: The rows.
        """
        return Embeddings(*x.split([self.user.numel(), self.item.numel()]))

    def places(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return where users and items stand in the selection, or :obj:`None` if some are not in it.

        Args:
            user: Row numbers of users, int64 ``[B]``.
            item: Row numbers of items, int64 ``[C]``.
        """
        check_ids(user, self._user_place.numel())
        check_ids(item, self._item_place.numel())
        users, items = self._user_place.index_select(0, user), self._item_place.index_select(0, item)
        inside = all(x.numel() == 0 or int(x.min()) >= 0 for x in (users, items))
        return (users, items) if inside else None

    @torch.inference_mode(False)
    def user_places(self, user: Tensor) -> Tensor:
        """Return where users stand in the selection, the same tensor whenever the same tensor comes.

        Args:
            user: Row numbers of users, int64 ``[B]``, all of which are in the selection.
        """
        key = ("places", *tensors_key([user]))
        return self.once(key, lambda: (self._user_place.index_select(0, user), user))[0]  # Held: the key is an id.

    @torch.inference_mode(False)
    def renumber(self, triples: Triples) -> Triples:
        """Return triples by the places of their users and items, the same tensors whenever the same triples come.

        Args:
            triples: Triples all of whose users and items are in the selection.
        """
        key = tensors_key(triples)
        if key not in self._renumbered:
            user, first, second = triples
            places = tuple(
                place.index_select(0, x)
                for place, x in zip(
                    (self._user_place, self._item_place, self._item_place), (user, first, second), strict=True
                )
            )
            self._renumbered[key] = cast(Triples, places), (user, first, second)  # Held: the key is made of ids.
        return self._renumbered[key][0]

    def once(self, name: object, compute: Callable[[], T]) -> T:
        """Return what ``compute`` makes, the same for all that read the selection.

        Args:
            name: What is computed.
            compute: Computes it.
        """
        if name not in self._known:
            self._known[name] = compute()
        return cast(T, self._known[name])


class Selections:
    """The selections of one pass, which all its views share.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        most: Share of all rows from which on no selection is made.
    """

    def __init__(self, num_users: int, num_items: int, most: float = MOST) -> None:
        self.num_users, self.num_items, self.most = num_users, num_items, most
        self._found: list[Selection] = []
        self._of_triples: dict[object, tuple[list[Triples], Selection]] = {}
        self._whole = False

    @torch.inference_mode(False)
    def of(self, triples: Sequence[Triples]) -> Selection | None:
        """Return the rows that lists of triples read, or :obj:`None` if all rows had better be computed.

        Args:
            triples: The lists.
        """
        if self._whole:  # Some table is there already, and others were made for triples like these.
            return None
        key = tensors_key([x for t in triples for x in t])
        if key in self._of_triples:
            return self._of_triples[key][1]
        user, item = user_index(triples), item_index(triples)
        found = self.covering(user, item)
        if found is None:
            found = Selection(user, item, self.num_users, self.num_items)
            if found.size > self.most * (self.num_users + self.num_items):
                self._whole = True
                return None
            self._found.append(found)
        self._of_triples[key] = list(triples), found  # Held: the key is made of ids.
        return found

    @torch.inference_mode(False)
    def of_users(self, user: Tensor) -> Selection | None:
        """Return the rows of some users alone, or :obj:`None` if those of all had better be computed.

        Args:
            user: Row numbers of users, int64 ``[B]``, in any order and with repetitions.
        """
        if self._whole:
            return None
        none = user.new_zeros(0)
        found = self.covering(user, none)
        if found is None:
            found = Selection(user, none, self.num_users, self.num_items)
            if found.user.numel() > self.most * self.num_users:
                self._whole = True
                return None
            self._found.append(found)
        return found

    @torch.inference_mode(False)
    def covering(self, user: Tensor, item: Tensor) -> Selection | None:
        """Return a selection that holds all of some users and items, if there is one.

        Args:
            user: Row numbers of users, int64 ``[B]``.
            item: Row numbers of items, int64 ``[C]``.
        """
        return next((found for found in self._found if found.places(user, item) is not None), None)


class LateBlock(Block):
    """Columns of the two tables that are computed when somebody reads them.

    Margins compute the rows alone that triples name, where they are few; all else computes the tables.

    Args:
        tables: Returns the tables.
        rows: Returns the rows of a selection, ``[S, D]`` and ``[T, D]``.
        selections: The selections of the pass.
    """

    def __init__(
        self, tables: Callable[[], Embeddings], rows: Callable[[Selection], Embeddings], selections: Selections
    ) -> None:
        self._deferred, self._compute, self._selections = Deferred(tables), rows, selections
        self._recording = Recording()
        self._rows: dict[int, Embeddings] = {}
        super().__init__(self._deferred.user, self._deferred.item)

    def item_rows(self, items: Tensor) -> Tensor:
        """Return the rows of items, from a selection that was read before if they are in it."""
        found = None if self._deferred.known else self._selections.covering(items.new_zeros(0), items)
        if found is None:
            return super().item_rows(items)
        places = found.places(items.new_zeros(0), items)
        assert places is not None
        return self._of(found).item.index_select(0, places[1])

    def compute(self) -> None:
        """Compute the tables."""
        self._deferred.compute()

    def _of(self, selection: Selection) -> Embeddings:
        key = id(selection)  # Held by the selections.
        if key not in self._rows:
            with self._recording.again():
                self._rows[key] = self._compute(selection)
        return self._rows[key]

    def _read(self, triples: Sequence[Triples]) -> None:
        selection = None if self._deferred.known else self._selections.of(triples)
        if selection is None:
            super()._read(triples)
            return
        rows = self._of(selection)
        self._keep(triples, read_margins(rows.user, rows.item, [selection.renumber(t) for t in triples]))


def compute_tables(output: Output) -> None:
    """Compute the tables of late blocks now, for somebody will ask for them.

    Args:
        output: The output of a view.
    """
    for block in output.blocks if isinstance(output, BlockEmbeddings) else []:
        if isinstance(block, LateBlock):
            block.compute()


def _distinct(ids: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return distinct ids in ascending order, and of every id its place among them or -1, ``[size]``."""
    check_ids(ids, size)
    there = torch.zeros(size, dtype=torch.bool, device=ids.device)
    there[ids] = True
    found = there.nonzero()[:, 0]
    place = torch.full((size,), -1, dtype=torch.long, device=ids.device)
    place[found] = torch.arange(found.numel(), device=ids.device)
    return found, place
