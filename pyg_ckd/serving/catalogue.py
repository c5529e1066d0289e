"""The items to choose from: all, some, some for each user, by their columns, and how much lists shall vary."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyg_ckd.arguments import as_number
from pyg_ckd.data.ids import id_column, rows_among, value_at
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.serving.ids import Ids
from pyg_ckd.serving.search import SeenItems

Where = Mapping[str, Any]
ID_COLUMNS = ("item", "item_id")
EXACT = 2**53
"""Larger integers are not all floats."""


class Catalogue(NamedTuple):
    """The items to choose from, prepared once for any number of users.

    Attributes:
        table: Their embeddings ``[C, D]``.
        rows: Their rows, int64 ``[C]`` on the CPU, or :obj:`None` if they are all items.
        position: Where every item stands among them, int64 ``[I]``, -1 for the others; or :obj:`None`.
        exclude: What single users do not get, or :obj:`None`.
        among: What alone single users get, or :obj:`None`.
        diversity: How much lists vary, from 0 to 1.
    """

    table: Tensor
    rows: Tensor | None = None
    position: Tensor | None = None
    exclude: SeenItems | None = None
    among: SeenItems | None = None
    diversity: float = 0.0

    def inside(self, row: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """Return pairs (row, item) of those items that are among these, by their places.

        Args:
            row: Rows, int64 ``[E]``.
            item: Rows of items, int64 ``[E]``.
        """
        if self.position is None:
            return row, item
        item = self.position[item]
        return row[item >= 0], item[item >= 0]


def catalogue(
    table: Tensor,
    users: Ids,
    items: Ids,
    columns: pd.DataFrame | None,
    candidates: Any = None,
    exclude: Any = None,
    where: Where | None = None,
    diversity: float = 0.0,
) -> Catalogue:
    """Prepare the items to choose from, see :meth:`Recommender.recommend`.

    Args:
        table: Item embeddings ``[I, D]``.
        users: The ids of users.
        items: The ids of items.
        columns: A row for every item.
        candidates, exclude, where, diversity: As in :meth:`Recommender.recommend`.

    Raises:
        InputError: If an id or a column is unknown, nothing is left to choose from, or ``diversity`` is out of range.
    """
    if where is not None and not isinstance(where, Mapping):
        raise InputError(
            f"where: found {where!r:.60} ({type(where).__name__}), expected a mapping from names of columns to what "
            "they shall be, such as {'kind': 'hat'}"
        )
    diversity = as_number(diversity, "diversity")
    if not 0 <= diversity <= 1:
        raise InputError(f"diversity: found {diversity}, expected 0 (none) to 1")
    candidates, exclude = _by_id(candidates, "candidates"), _by_id(exclude, "exclude")
    chosen, among = torch.ones(len(items), dtype=torch.bool), None
    if isinstance(candidates, Mapping):
        among = _by_user(candidates, users, items, "candidates")
    elif candidates is not None:
        chosen = torch.zeros_like(chosen).index_fill(0, _rows(items, candidates, "candidates"), True)
        if not bool(chosen.any()):
            raise InputError("candidates: found none, expected at least one item; leave them out for all items")
    single = _by_user(exclude, users, items, "exclude") if isinstance(exclude, Mapping) else None
    if exclude is not None and single is None:
        chosen[_rows(items, exclude, "exclude")] = False
    for name, wanted in (where or {}).items():
        chosen &= torch.from_numpy(_matches(columns, name, wanted))
    if bool(chosen.all()):
        return Catalogue(table, None, None, single, among, diversity)
    rows = chosen.nonzero().view(-1)
    if not rows.numel():
        raise InputError("recommend: found no item that candidates, exclude and where leave, expected at least one")
    position = torch.full((len(items),), -1)
    position[rows] = torch.arange(rows.numel())
    return Catalogue(table[rows.to(table.device)], rows, position, single, among, diversity)


def item_columns(frame: pd.DataFrame | None, items: Ids) -> pd.DataFrame | None:
    """Return what is known of items in columns, a row for every item in their order.

    Args:
        frame: A column ``item`` or ``item_id`` holds ids, or else the index does. Items that it lacks have missing
            values; ids that are unknown are left out.
        items: The ids.

    Raises:
        InputError: If it is no frame, or an id is there twice.
    """
    if frame is None:
        return None
    if not isinstance(frame, pd.DataFrame):
        raise InputError(f"columns: found {type(frame).__name__}, expected a data frame with a row for every item")
    name = next((name for name in ID_COLUMNS if name in frame.columns), None)
    ids = id_column(frame.index if name is None else frame[name], f"columns: {name or 'index'}")
    if not ids.is_unique:
        raise InputError(
            f"columns: found item {value_at(ids[ids.duplicated()], 0)!r} twice, expected a row for every item"
        )
    rows = rows_among(id_column(items.take(np.arange(len(items))), "item_id"), ids)
    if len(ids) and len(items) and not bool((rows >= 0).any()):
        found = "the index and the columns " + ", ".join(map(str, frame.columns)) if name is None else repr(name)
        raise InputError(
            f"columns: found no item of the graph in {found} (there {value_at(ids, 0)!r}, in the graph "
            f"{items.take(np.zeros(1, dtype=np.int64)).tolist()[0]!r}), expected ids of items in the index or in a "
            "column 'item' or 'item_id'"
        )
    content = frame if name is None else frame.drop(columns=name)
    if not content.columns.is_unique:
        raise InputError("columns: found a name twice, expected different ones")
    kept = at_rows(content.reset_index(drop=True), np.where(rows < 0, len(content), rows))
    return kept.reset_index(drop=True)


def at_rows(frame: pd.DataFrame, rows: Any) -> pd.DataFrame:
    """Return rows of a frame, missing values where it lacks one; integers that floats cannot hold stay integers.

    Args:
        frame: The frame.
        rows: What its index shall be.
    """
    if bool(np.isin(rows, frame.index).all()):
        return frame.reindex(rows)
    large = {
        name: column.dtype.name.replace("i", "I", 1).replace("u", "U", 1)
        for name, column in frame.items()
        if isinstance(column.dtype, np.dtype) and column.dtype.kind in "iu" and len(column)
        if max(int(column.max()), -int(column.min())) > EXACT
    }
    return frame.astype(large).reindex(rows)


def _matches(columns: pd.DataFrame | None, name: str, wanted: Any) -> np.ndarray:
    if columns is None:
        raise InputError(f"where: found {name!r} but no columns of items; give them as Recommender(..., columns=frame)")
    if name not in columns:
        raise unknown_name("column of items", name, map(str, columns.columns))
    column = columns[name]
    if callable(wanted):
        return _mask(wanted, column, name)
    values = list(wanted) if isinstance(wanted, Iterable) and not isinstance(wanted, (str, bytes)) else [wanted]
    try:
        found = np.array(column.isin(values), dtype=bool)
        if len(values) == 1 and found.any():
            return found
        known = column.dropna().unique().tolist()
        lacking = _lacking(column, known, values) if found.any() else values
    except TypeError:  # Lists and the like, which pandas cannot look up.
        raise InputError(
            f"where: {name!r} or what it shall be holds values that cannot be looked up, expected numbers, texts or "
            f"dates; give a function of the column, such as lambda column: column.map(lambda x: 'a' in x)"
        ) from None
    if found.any() and not lacking:
        return found
    shown = [*map(repr, lacking[:5]), *["..."] * (len(lacking) > 5)] or ["[]"]
    text = f"where: no item has {name} = {' or '.join(shown)}; it is, for instance, {', '.join(map(repr, known[:5]))}"
    if any(isinstance(value, bool) for value in lacking) and any(isinstance(value, str) for value in known):
        text += '; write a text that looks like a truth value in quotes, such as "no"'
    if not found.any():
        raise InputError(text)
    warnings.warn(f"{text}; the lists have items of the other values alone", stacklevel=4)
    return found


def _lacking(column: pd.Series, known: list[Any], values: list[Any]) -> list[Any]:
    """Return the values that no row of a column has."""
    there = set(known)
    unseen = [value for value in dict.fromkeys(values) if value not in there]
    if not column.isin(unseen).any():
        return unseen
    return [value for value in unseen if not column.isin([value]).any()]  # pandas takes more for equal than Python.


def _mask(function: Callable[[pd.Series], Any], column: pd.Series, name: str) -> np.ndarray:
    try:
        got = function(column)
        if isinstance(getattr(got, "dtype", None), pd.BooleanDtype):  # What is missing is not what was asked for.
            got = got.to_numpy(dtype=bool, na_value=False)
        found = np.array(got)  # A copy, which may be written to.
    except Exception as error:  # Whatever a function of the user's raises.
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"where: the function of {name!r} raised {type(error).__name__} ({reason}) on the column, of dtype "
            f"{column.dtype}; it must return a mask, such as lambda column: column < 20"
        ) from error
    if found.dtype != bool or found.shape != (len(column),):
        raise InputError(
            f"where: the function of {name!r} returned {found.dtype} of shape {list(found.shape)}, expected bool "
            f"[{len(column)}], such as lambda column: column < 20"
        )
    return found


def _by_id(given: Any, what: str) -> Any:
    """Return a mapping for a series of lists, whose index has the ids of users; anything else as it is."""
    if not isinstance(given, pd.Series) or not any(isinstance(x, (list, tuple, set, np.ndarray)) for x in given):
        return given
    if not given.index.is_unique:
        raise InputError(
            f"{what}: found user {given.index[given.index.duplicated()][0]!r} twice, expected one list for each; join "
            "the lists of a user"
        )
    return given.to_dict()


def _rows(known: Ids, ids: Any, what: str) -> Tensor:
    try:
        return known.rows(ids)
    except InputError as error:
        raise InputError(f"{what}: {error}") from None


def pairs_by_user(given: Mapping[Any, Any], users: Ids, items: Ids, what: str) -> Tensor:
    """Return what users have by their ids as rows of users and items, int64 ``[2, E]``.

    Args:
        given: From user id to ids of items; :obj:`None` means none.
        users: The ids of users.
        items: The ids of items.
        what: What it is, for messages.

    Raises:
        InputError: If an id is unknown.
    """
    names = list(given)
    owners = _rows(users, names, what)
    place, item = items.rows_of_each(given.values(), lambda place: f"{what} of user {names[place]!r}")
    return torch.stack([owners[place], item])


def _by_user(given: Mapping[Any, Any], users: Ids, items: Ids, what: str) -> SeenItems:
    return SeenItems(pairs_by_user(given, users, items, what), len(users))
