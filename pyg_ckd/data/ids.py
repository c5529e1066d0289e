"""Ids of users and items: what may be one, and the rows that they stand for; mixed types are compared as text."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyg_ckd.arguments import plain_number, shown
from pyg_ckd.errors import InputError

_LARGEST = np.iinfo(np.int64).max
_MANY = 1 << 16
_IDS = (str, int, np.integer, UUID)
_MENDS = {
    bytes: "; decode them with .str.decode('utf-8')",
    Decimal: "; convert them with .astype('int64') if they are whole numbers, else with .astype(str)",
}


def id_column(values: Any, where: str, rows: np.ndarray | None = None) -> pd.Series:
    """Return ids as a column of integers if all are, else of text.

    Args:
        values: A column, an index, an array, a tensor or a list of integers, strings or UUIDs.
        where: What the ids are, for messages.
        rows: The row of each id, for messages. (default: :obj:`None`, its position)

    Raises:
        InputError: If an id is missing, or of another type; the message has its row.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise InputError(f"{where}: found {shown(values)}, expected a list of ids, one per row")
    if isinstance(values, pd.MultiIndex):
        levels = ", ".join(repr(name) for name in values.names)
        raise InputError(
            f"{where}: found an index of {values.nlevels} levels ({levels}), expected one id per row; take the level "
            "of the ids alone, as frame.reset_index().set_index(NAME) does"
        )
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    if getattr(values, "ndim", 1) != 1:
        raise InputError(f"{where} has shape {list(values.shape)}, expected a list of ids, one per row")
    values = values if isinstance(values, (pd.Series, pd.Index, np.ndarray)) else list(values)
    try:
        column = pd.Series(values)
    except UnicodeEncodeError:
        raise _unwritable(values, where, rows) from None
    column = column.reset_index(drop=True)
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    missing = np.flatnonzero(column.isna())
    if missing.size:
        first = missing[0] if rows is None else rows[missing[0]]
        raise InputError(
            f"{where} has {missing.size} rows without an id, the first is row {first} (rows count from zero); "
            f"fill or drop them"
        )
    if pd.api.types.is_integer_dtype(column):
        large = len(column) > 0 and column.max() > _LARGEST
        return pd.Series(column.to_numpy(dtype=np.uint64 if large else np.int64))
    if _is_text(column):
        if pd.api.types.is_object_dtype(column) and not _can_be_written(column.tolist()):
            raise _unwritable(column, where, rows)
        return column
    if not len(column):
        return column.astype(str)
    if pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column):
        kinds = column.map(type)
        if kinds.map(lambda kind: issubclass(kind, _IDS) and kind is not bool).all():
            whole = kinds.map(lambda kind: issubclass(kind, (int, np.integer))).all()
            numbers = pd.Series(column.tolist()) if whole else column
            if pd.api.types.is_integer_dtype(numbers):
                return numbers
            if not _can_be_written(list(map(str, column))):
                raise _unwritable(column, where, rows)
            return column.astype(str)
    raise wrong_id(column, where, rows)


def _can_be_written(texts: list[str]) -> bool:
    """Return whether UTF-8 can write all texts."""
    try:
        for start in range(0, len(texts), _MANY):
            "".join(texts[start : start + _MANY]).encode()
    except UnicodeEncodeError:
        return False
    return True


def _unwritable(values: Iterable[Any], where: str, rows: np.ndarray | None) -> InputError:
    """Return the error for ids of which UTF-8 cannot write one, with the row of the first."""
    row, one = next((n, one) for n, one in enumerate(values) if not _can_be_written([str(one)]))
    return InputError(
        f"{where}: found {str(one)!r:.60} in row {row if rows is None else rows[row]} (rows count from zero), which "
        "UTF-8 cannot write, expected text without lone surrogates; read the ids with their right encoding"
    )


def wrong_id(column: pd.Series, where: str, rows: np.ndarray | None = None, mend: str = "") -> InputError:
    """Return the error for a column of which some values are no ids, with the row of the first one.

    Args:
        column: The column.
        where: What the ids are.
        rows: The row of each value. (default: :obj:`None`, its position)
        mend: How to mend it. (default: :obj:`""`, what the values suggest)
    """
    if not mend and pd.api.types.is_float_dtype(column):
        wrong = (column % 1 != 0).to_numpy(dtype=bool)
        mend = "read them as text (dtype=str, a Parquet file) if they were written like 1e3"
        if wrong.any():
            mend = f"; {mend}"
        else:
            start = "; whole numbers became floats, as they do beside a missing one: convert with .astype('int64')"
            mend = f"{start}, or {mend}"
    else:
        wrong = ~column.map(lambda value: isinstance(value, _IDS) and not isinstance(value, bool)).to_numpy(dtype=bool)
    row = int(np.flatnonzero(wrong)[0]) if wrong.any() else 0
    mend = mend or _MENDS.get(type(value_at(column, row)), "; convert them with .astype(str)")
    return InputError(
        f"{where} has dtype {column.dtype}, expected integers or strings as ids; found {value_at(column, row)!r} in "
        f"row {row if rows is None else rows[row]} (rows count from zero, without the header){mend}"
    )


def comparable(*columns: pd.Series) -> list[pd.Series]:
    """Return columns of ids in one type: integers if all that have rows hold such, else text.

    Where some are integers of 64 bits without a sign and others are not, no type of integers holds both: all are text.
    """
    filled = [column for column in columns if len(column)]
    if all(pd.api.types.is_integer_dtype(column) for column in filled):
        large = {bool(column.max() > _LARGEST) for column in filled}
        if len(large) < 2:
            dtype = np.dtype(np.uint64 if True in large else np.int64)
            return [column if column.dtype == dtype else column.astype(dtype) for column in columns]
    return [column if _is_text(column) else column.astype(str) for column in columns]


def rows_among(column: pd.Series, ids: pd.Series) -> np.ndarray:
    """Return the row of each id of ``column`` in ``ids``, int64, -1 for those that are not there."""
    one, other = comparable(column, ids)
    return pd.Index(other).get_indexer(pd.Index(one)).astype(np.int64)


def known_ids(ids: Iterable[Any], unknown: Any) -> str:
    """Return what ids there are, for the message of one that is not among them.

    Args:
        ids: The ids.
        unknown: The one that is not there; where it is but for its Unicode normal form, or for marks that nobody sees,
            the text says so.
    """
    text = _visible(str(unknown))
    near = next((one for one in ids if _visible(str(one)) == text), None)
    if near is not None:
        marks = _marks(str(near), str(unknown))
        if not marks:
            return (
                f"which has another Unicode normal form than {near!a} ({unknown!a} here): write both in one, with "
                ".str.normalize('NFC')"
            )
        names = ", ".join(f"U+{ord(mark):04X}" for mark in marks)
        codes = "".join(ascii(mark)[1:-1] for mark in marks)
        what, call = ("it", f"'{codes}', ''") if len(marks) == 1 else ("them", f"'[{codes}]', '', regex=True")
        return f"which differs from {near!r} by the invisible {names}; remove {what}, e.g. with .str.replace({call})"
    first = next(iter(ids), None)
    return "but there are no ids" if first is None else f"but ids are like {plain_number(first)!r}"


def _visible(text: str) -> str:
    """Return a text in one normal form and without the marks of :func:`_without_marks`."""
    return text if text.isascii() else unicodedata.normalize("NFC", _without_marks(text))


def _without_marks(text: str) -> str:
    """Return a text without characters of Unicode's category Cf, which show nothing by themselves."""
    return "".join(char for char in text if unicodedata.category(char) != "Cf")


def _marks(first: str, second: str) -> list[str]:
    """Return the invisible marks by which two texts differ, none if it is their normal form."""
    every = sorted(char for char in {*first, *second} if unicodedata.category(char) == "Cf")
    different = [mark for mark in every if first.count(mark) != second.count(mark)]
    return different or (every if _without_marks(first) == _without_marks(second) else [])


def as_ids(values: pd.Series | pd.Index | np.ndarray) -> Tensor | list[str]:
    """Return ids as an int64 tensor if they are integers that fit, else as a list of strings."""
    if pd.api.types.is_integer_dtype(values) and (not len(values) or int(values.max()) <= _LARGEST):
        return torch.from_numpy(np.array(values, dtype=np.int64))
    return list(map(str, values.tolist()))


def map_ids(column: pd.Series) -> tuple[np.ndarray, Tensor | list[str]]:
    """Map ids to rows, in ascending order of the ids.

    Returns:
        The row of each entry, int64, and the ids: an int64 tensor if all are integers, else a list of strings.
    """
    integers = pd.api.types.is_integer_dtype(column)
    rows, unique = pd.factorize(column if integers else column.astype(str), sort=True)
    return rows.astype(np.int64), as_ids(unique)


def value_at(column: pd.Series, row: int) -> object:
    """Return one value as a plain Python object, for messages."""
    value = column.iloc[[row]].tolist()[0]
    return value.item() if isinstance(value, np.generic) else value


def _is_text(column: pd.Series) -> bool:
    if pd.api.types.is_object_dtype(column):
        return pd.api.types.infer_dtype(column, skipna=False) == "string"
    return isinstance(column.dtype, pd.StringDtype)
