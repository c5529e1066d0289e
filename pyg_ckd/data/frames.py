"""Interactions and features in frames, joined by the ids of users and items: never by position where there are ids."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from pyg_ckd.data.arrays import as_matrix
from pyg_ckd.data.checks import as_edge_index
from pyg_ckd.data.columns import check_labels, places, text_labels
from pyg_ckd.data.ids import as_ids, comparable, id_column, known_ids, map_ids, rows_among, value_at
from pyg_ckd.errors import InputError, unknown_name

COLUMNS = {"user": ("user", "user_id"), "item": ("item", "item_id")}

_NO_FEATURES = {"item", "itemid", "iid", "id", "asin", "parentasin", "productid", "index", "level0", "unnamed0"}
"""Columns of ids under other names, and row numbers as they are left by ``reset_index`` and by files that hold them."""


@dataclass
class Joined:
    """What was given, by row number.

    Args:
        parts: Interactions of each split.
        features: The features of each modality, by row of the items.
        has: The masks, by row of the items.
        user_id: The ids behind the rows of users, if there are any.
        item_id: The ids behind the rows of items, if there are any.
        columns: The names of the columns of features, of those modalities whose columns have names.
    """

    parts: dict[str, Any]
    features: dict[str, Any]
    has: dict[str, Any]
    user_id: Tensor | list[str] | None = None
    item_id: Tensor | list[str] | None = None
    columns: Mapping[str, list[str]] = field(default_factory=dict)


@dataclass
class _Rows:
    """Rows of items, and the ids and the names of columns that came with them."""

    values: Any
    ids: pd.Series | None
    where: str
    labels: list[str] | None = None


def is_frame(values: Any) -> bool:
    """Return whether interactions are a data frame, of pandas or of another library."""
    return hasattr(values, "columns")


def as_frame(values: Any) -> Any:
    """Return a table of another library, such as Arrow, as a frame of pandas, and anything else as it is.

    Args:
        values: Interactions, features or masks.
    """
    other = is_frame(values) and not isinstance(values, pd.DataFrame) and hasattr(values, "to_pandas")
    return values.to_pandas() if other else values


def pair_columns(frame: Any, where: str, rows: np.ndarray | None = None) -> dict[str, pd.Series]:
    """Return the ids of users and items of interactions, as columns.

    Args:
        frame: A data frame with the columns ``user`` and ``item``, or ``user_id`` and ``item_id``.
        where: What the frame is, for messages.
        rows: Which rows are left of the frame that was given, for messages. (default: :obj:`None`, all)

    Raises:
        InputError: If a column is missing, or holds something else than ids.
    """
    found = {}
    for kind, names in COLUMNS.items():
        name = next((name for name in names if name in frame.columns), None)
        if name is None:
            in_index = set(names) & set(getattr(getattr(frame, "index", None), "names", ()))
            found_there = "it is in the index, take it out with reset_index()"
            mend = found_there if in_index else unknown_name("column", kind, map(str, frame.columns))
            raise InputError(f"{where} lacks the column {kind!r}; {mend}")
        column = frame[name]
        if not isinstance(column, pd.Series):
            column = column.to_numpy()
        found[kind] = id_column(column, f"{where}, column {name!r}", rows)
    return found


def join(
    parts: Mapping[str, Any],
    features: Mapping[str, Any],
    has: Mapping[str, Any],
    user_id: Any,
    item_id: Any,
    num_users: int | None,
    source: str,
    kept: Mapping[str, np.ndarray] | None = None,
) -> Joined:
    """Return interactions, features and masks by row number, with the ids behind the rows.

    Args:
        parts: Interactions of each split: frames or arrays.
        features: Features of each modality: frames or series indexed by item id, or arrays.
        has: Masks of some modalities: series indexed by item id, or arrays.
        user_id: The id of each user row, if it is given.
        item_id: The id of each item row, if it is given.
        num_users: The number of users, if it is given.
        source: Where the input came from, for messages.
        kept: Which rows are left of the frames that were given, for messages. (default: :obj:`None`, all)

    Raises:
        InputError: If an id has no row, a row has no id, an id is there twice, or rows cannot be told.
    """
    tables = {m: _rows(x, f"{source}: features of {m!r}") for m, x in features.items()}
    masks = {m: _rows(x, f"{source}: has_{m}", mask=True) for m, x in has.items()}
    frames = any(map(is_frame, parts.values()))
    with_ids = any(rows.ids is not None for rows in (*tables.values(), *masks.values()))
    if not frames and not with_ids and user_id is None and item_id is None:
        return Joined(dict(parts), _values(tables), _values(masks), columns=_labels(tables))
    pairs = {split: _pairs(part, split, source, (kept or {}).get(split)) for split, part in parts.items()}
    users, user_ids = _users(
        {split: pair["user"] for split, pair in pairs.items()}, parts, user_id, num_users if frames else None, source
    )
    item_ids = None
    if item_id is not None:
        item_ids = _unique(id_column(item_id, f"{source}: item_id"), f"{source}: item_id")
    elif with_ids:
        item_ids = _listed(tables, masks)
    items = {
        split: _items(pair["item"], item_ids, item_id is not None and not is_frame(parts[split]), f"{source}: {split}")
        for split, pair in pairs.items()
    }
    if item_ids is not None:
        listed, in_order = item_id is not None, _in_order([*tables.values(), *masks.values()])
        joined = {m: _aligned(rows, item_ids, listed, in_order) for m, rows in masks.items()}
        lacking = {m: ~mask for m, mask in joined.items() if isinstance(mask, np.ndarray) and mask.dtype.kind == "b"}
        tables_by_row = {m: _aligned(rows, item_ids, listed, in_order, lacking.get(m)) for m, rows in tables.items()}
    else:
        joined, tables_by_row = _values(masks), _values(tables)
    by_row = {split: np.stack([users[split], items[split]]) for split in pairs}
    all_ids = user_ids, None if item_ids is None else as_ids(item_ids)
    return Joined(by_row, tables_by_row, joined, *all_ids, _labels(tables))


def in_order_of(
    tables: Mapping[str, Any], ids: Any, where: str, columns: Mapping[str, list[str]]
) -> tuple[dict[str, Any], Any, dict[str, list[str]]]:
    """Return features as matrices in the order of ids, the ids, and names of columns; frames are joined by id.

    Args:
        tables: Features of each modality: frames or series indexed by item id, or matrices in the order of ``ids``.
        ids: The id of each row; :obj:`None` for those of the frames, in ascending order.
        where: What the items are, for messages.
        columns: By modality, the names of the columns in the order that is wanted; those of frames are brought to it.

    Raises:
        InputError: If an id has no row or a row no id, an id is there twice, rows cannot be told, or columns have other
            names.
    """
    rows = {m: _rows(x, f"{where}: features of {m!r}", columns=columns.get(m)) for m, x in tables.items()}
    if all(one.ids is None for one in rows.values()):
        return _values(rows), ids, _labels(rows)
    wanted = _listed(rows, {}) if ids is None else _unique(id_column(ids, f"{where}: ids"), f"{where}: ids")
    in_order = _in_order(rows.values())
    matrices = {m: _aligned(one, wanted, ids is not None, in_order) for m, one in rows.items()}
    return matrices, as_ids(wanted) if ids is None else ids, _labels(rows)


def _pairs(part: Any, split: str, source: str, kept: np.ndarray | None) -> dict[str, pd.Series]:
    if is_frame(part):
        columns = pair_columns(part, f"{source}: {split}", kept)
        return columns if kept is None else {kind: column.set_axis(kept) for kind, column in columns.items()}
    rows = as_edge_index([] if part is None else part, split, source)
    return {kind: pd.Series(row) for kind, row in zip(COLUMNS, rows, strict=True)}


def _users(
    columns: Mapping[str, pd.Series], parts: Mapping[str, Any], user_id: Any, num_users: int | None, source: str
) -> tuple[dict[str, np.ndarray], Tensor | list[str] | None]:
    """Return the row of the user of each interaction, and the ids behind the rows."""
    if user_id is not None:
        ids = _unique(id_column(user_id, f"{source}: user_id"), f"{source}: user_id")
        rows = {
            split: _found(column, ids, f"{source}: {split}", "users that user_id does not list")
            if is_frame(parts[split])
            else _within(column, len(ids), f"{source}: {split}", "user")
            for split, column in columns.items()
        }
        return rows, as_ids(ids)
    if not any(map(is_frame, parts.values())):
        return {split: column.to_numpy() for split, column in columns.items()}, None
    alike = dict(zip(columns, comparable(*columns.values()), strict=True))
    integers = all(pd.api.types.is_integer_dtype(column) for column in alike.values() if len(column))
    for split, column in alike.items():
        if not integers and len(column) and not is_frame(parts[split]):
            raise InputError(
                f"{source}: {split} holds row numbers, but users of other parts have ids, e.g. "
                f"{next(value_at(alike[name], 0) for name in alike if is_frame(parts[name]))!r}; give all parts as "
                f"frames, or user_id, the id of each row"
            )
    if num_users is not None and integers:  # Their number says that these are row numbers.
        return {split: column.to_numpy() for split, column in alike.items()}, None
    codes, known = map_ids(pd.concat([column for column in alike.values() if len(column)] or [*alike.values()][:1]))
    if num_users is not None and num_users != len(known):
        raise InputError(
            f"{source}: num_users is {num_users}, but {len(known)} users are named by id; give user_id, the id of each "
            f"of the {num_users} rows"
        )
    ends = np.cumsum([len(column) for column in alike.values()])
    return dict(zip(alike, np.split(codes, ends[:-1]), strict=True)), known


def _items(column: pd.Series, ids: pd.Series | None, by_row: bool, where: str) -> np.ndarray:
    """Return the row of the item of each interaction."""
    if ids is None:
        if len(column) and not pd.api.types.is_integer_dtype(column):
            raise InputError(
                f"{where}: items are text, e.g. {value_at(column, 0)!r}, leaving open which row of the features is "
                f"which; give features as frames indexed by item id, or item_id, the id of each row"
            )
        return column.to_numpy(dtype=np.int64)
    if by_row:
        return _within(column, len(ids), where, "item")
    return _found(column, ids, where, "items that have no row in the features")


def _found(column: pd.Series, ids: pd.Series, where: str, problem: str) -> np.ndarray:
    rows = rows_among(column, ids)
    unknown = np.flatnonzero(rows < 0)
    if unknown.size:
        first = value_at(column, unknown[0])
        raise InputError(
            f"{where} has {unknown.size} interactions with {problem}, the first is {first!r} in row "
            f"{column.index[unknown[0]]}, {known_ids(ids, first)}; add the ids, or drop the interactions"
        )
    return rows


def _within(column: pd.Series, size: int, where: str, kind: str) -> np.ndarray:
    rows = column.to_numpy(dtype=np.int64)
    if rows.size and rows.max() >= size:
        raise InputError(f"{where} reaches {kind} row {rows.max()}, but {kind}_id lists {size}; list one id per row")
    return rows


def _listed(tables: Mapping[str, _Rows], masks: Mapping[str, _Rows]) -> pd.Series:
    """Return all ids of items in ascending order."""
    columns = comparable(*(rows.ids for rows in (*tables.values(), *masks.values()) if rows.ids is not None))
    return pd.Series(pd.factorize(pd.concat(columns), sort=True)[1])


def _in_order(rows: Iterable[_Rows]) -> bool:
    """Return whether all ids that rows have are integers in ascending order, as row numbers are."""
    return all(
        one.ids is None or (pd.api.types.is_integer_dtype(one.ids) and one.ids.is_monotonic_increasing) for one in rows
    )


def _aligned(
    rows: _Rows, ids: pd.Series, listed: bool, in_order: bool, may_lack: np.ndarray | None = None
) -> np.ndarray:
    """Return rows in the order of ids; rows without ids are in that order if the ids are listed, or row numbers.

    Args:
        rows: The rows.
        ids: The ids.
        listed: Whether they were given as such.
        in_order: Whether all rows that have ids are in ascending order of these.
        may_lack: Which items may have no row.
    """
    if rows.ids is None:
        numbers = pd.api.types.is_integer_dtype(ids) and len(ids) == len(rows.values) and bool((ids == ids.index).all())
        mend = (
            "index them by item id, as in pandas.DataFrame(x, index=ids), or give item_id (a default index of pandas "
            "is no id)"
        )
        if not listed and not numbers:
            raise InputError(
                f"{rows.where} come without ids beside features that have them, so that their order is unknown; {mend}"
            )
        if not listed and not in_order:
            warnings.warn(
                f"{rows.where} come without ids beside features whose {len(ids)} row numbers are not in ascending "
                f"order; row n is taken for item n; {mend}",
                stacklevel=5,
            )
        return rows.values
    at, extra = rows_among(ids, rows.ids), rows_among(rows.ids, ids) < 0
    if extra.any():
        first = value_at(rows.ids, int(np.flatnonzero(extra)[0]))
        raise InputError(
            f"{rows.where} have {int(extra.sum())} rows of items that are not in item_id, the first is {first!r} in "
            f"row {np.flatnonzero(extra)[0]}, {known_ids(ids, first)}; add their ids, or drop the rows"
        )
    lost = at < 0 if may_lack is None or len(may_lack) != len(at) else (at < 0) & ~may_lack
    if lost.any():
        first = value_at(ids, int(np.flatnonzero(lost)[0]))
        raise InputError(
            f"{rows.where} have no row for {int(lost.sum())} of {len(ids)} items, the first is {first!r}; add the "
            f"rows, or mark the items in the mask has, a Series of bool indexed by item id, as lacking the modality"
        )
    values = rows.values[np.maximum(at, 0)]
    if (at < 0).any():
        values = values.astype(np.float64)
        values[at < 0] = np.nan
    return values


def _rows(values: Any, where: str, mask: bool = False, columns: list[str] | None = None) -> _Rows:
    """Return rows as an array with the ids of their items, if they have any, and columns in an order by name."""
    values = as_frame(values)
    if not isinstance(values, (pd.DataFrame, pd.Series)):
        return _Rows(values, None, where)
    if not len(values):
        raise InputError(f"{where}: found no rows, expected one per item; add them, or leave it out")
    if isinstance(values.index, pd.MultiIndex):
        raise InputError(f"{where} have an index of {values.index.nlevels} levels, expected one: the item ids")
    ids = None if _is_default(values.index) else values.index
    if isinstance(values, pd.DataFrame):
        name = next((name for name in COLUMNS["item"] if name in values.columns and values.shape[1] > 1), None)
        _check_columns(values, name, where)
        if name is not None and ids is not None and not pd.api.types.is_integer_dtype(ids):
            raise InputError(
                f"{where} have ids in the index, e.g. {ids[0]!r}, and the column {name!r}, expected one of them; drop "
                f"the column, or the index with reset_index(drop=True)"
            )
        if name is not None:  # An index of integers is what is left of row numbers in shuffled or filtered frames.
            ids, values = values[name], values.drop(columns=name)
    if ids is not None:
        ids = _unique(id_column(ids, where), where)
    labels = text_labels(values) if isinstance(values, pd.DataFrame) and not mask else None
    check_labels(labels, columns, where)
    order = places(labels, columns)
    if order is not None:
        values, labels = values.iloc[:, order], columns
    return _Rows((_as_mask if mask else as_matrix)(values, where), ids, where, labels)


def _check_columns(frame: pd.DataFrame, taken: Any, where: str) -> None:
    """Refuse columns beside the one that is taken for ids whose names say that they hold ids or row numbers, too."""
    other = next((name for name in frame.columns if name != taken and _letters(name) in _NO_FEATURES), None)
    if other is None:
        return
    if frame.shape[1] == 1:
        raise InputError(
            f"{where}: found the column {other!r} alone, a name of ids or row numbers, expected columns of features "
            "beside it; add them, or rename it if it is a feature"
        )
    mend = "drop it" if taken is not None else "rename it to 'item' if it holds the ids of the items, else drop it"
    beside = "" if taken is None else f" beside the ids in {taken!r}"
    raise InputError(
        f"{where}: found the column {other!r}{beside}, a name of ids or row numbers, expected features; {mend}, or "
        "rename it if it is a feature"
    )


def _letters(name: Any) -> str:
    """Return the letters and digits of the name of a column."""
    return re.sub(r"[\W_]", "", str(name)).lower()


def _is_default(index: pd.Index) -> bool:
    return isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1


def _as_mask(values: pd.DataFrame | pd.Series, where: str) -> np.ndarray:
    column = values.iloc[:, 0] if isinstance(values, pd.DataFrame) and values.shape[1] == 1 else values
    missing = np.flatnonzero(np.asarray(column.isna()))
    if missing.size:
        raise InputError(f"{where} is missing in row {missing[0]}, expected True or False; fill it")
    return column.to_numpy(dtype=bool) if column.ndim == 1 and pd.api.types.is_bool_dtype(column) else column.to_numpy()


def _unique(ids: pd.Series, where: str) -> pd.Series:
    twice = np.flatnonzero(comparable(ids, pd.Series(dtype=object))[0].duplicated())
    if twice.size:
        raise InputError(
            f"{where}: id {value_at(ids, int(twice[0]))!r} is there again in row {twice[0]}, expected every id once; "
            f"keep one of each"
        )
    return ids


def _values(tables: Mapping[str, _Rows]) -> dict[str, Any]:
    return {m: rows.values for m, rows in tables.items()}


def _labels(tables: Mapping[str, _Rows]) -> dict[str, list[str]]:
    return {m: rows.labels for m, rows in tables.items() if rows.labels is not None}
