"""What is known of items, from a file: columns to choose items by, and what they shall be."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pyg_ckd.cli.yaml_files import as_flag, parse_word
from pyg_ckd.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from pyg_ckd.serving import Recommender
    from pyg_ckd.serving.ids import Ids


def read_columns(path: str) -> pd.DataFrame:
    """Read columns of items.

    In a table of text, ids are texts, and so are columns of digits with leading zeros, such as ``00003``. Integers that
    floats cannot hold stay integers where some are missing.

    Args:
        path: The file.

    Raises:
        InputError: If it cannot be read, or has no ids or no row.
    """
    from pyarrow.parquet import read_table

    from pyg_ckd.datasets.delimited import decompressed, read_csv
    from pyg_ckd.files import as_path
    from pyg_ckd.serving.catalogue import ID_COLUMNS

    place = as_path(path)
    try:
        if place.suffix.lower() == ".parquet":
            frame = read_table(place).to_pandas(integer_object_nulls=True)  # Floats would round large integers.
        else:
            with decompressed(place) as file:
                frame = read_csv(file, ID_COLUMNS[:1])
                name, found = _id_column(frame, place)
                if found is not None:  # Once more: an id such as 01001 stays what it is.
                    frame = read_csv(file, (name,))
                    frame = _exact(frame, read_csv(file, (name,), dict.fromkeys([found, *_numbers(frame)], str)), found)
        name, found = _id_column(frame, place)
        frame = frame if found is None else frame.rename(columns={found: name})
    except InputError as error:
        raise InputError(f"items_file {error}") from None
    except Exception as error:  # Readers raise whatever they like.
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:160]
        raise InputError(f"items_file {path}: cannot be read ({reason}), expected a .csv or .parquet file") from None
    if not any(name in frame.columns for name in ID_COLUMNS):
        raise InputError(
            f"items_file {path}: found the columns {', '.join(map(str, frame.columns))}, expected 'item' or 'item_id' "
            "with the ids of items; rename one"
        )
    if frame.empty:
        raise InputError(f"items_file {path}: found a header alone, expected a row for every item")
    return frame


def with_columns(recommender: Recommender, frame: pd.DataFrame, path: str) -> Recommender:
    """Return a recommender with columns of items.

    Args:
        recommender: The recommender.
        frame: The columns, as :func:`read_columns` returned them.
        path: Their file, for messages.

    Raises:
        InputError: If an item is there twice, or none is one of the recommender.
    """
    import numpy as np

    from pyg_ckd.serving.catalogue import ID_COLUMNS

    frame = _without_blanks(frame, recommender.items)
    name = next(name for name in ID_COLUMNS if name in frame.columns)
    ids = frame[name]
    again = np.flatnonzero((ids.duplicated() & ids.notna()).to_numpy(dtype=bool))
    if again.size:
        raise InputError(
            f"items_file {path}: {name!r} holds {ids.iloc[again[0]]!r} again in row {again[0]}, expected a row for "
            "every item; remove one of them"
        )
    try:
        return recommender.with_columns(frame)
    except InputError as error:
        raise InputError(f"items_file {path}: {error}") from None


def wanted(columns: pd.DataFrame | None, where: Mapping[str, Any]) -> dict[str, Any]:
    """Return what columns shall be: texts as numbers, truth values or dates where a column holds such.

    Args:
        columns: What is known of items, a row for each.
        where: What was typed, by the names of columns.

    Raises:
        InputError: If a text with commas is no value of its column, as a list of several is written in brackets.
    """
    out = {}
    for name, value in where.items():
        if columns is None or name not in columns:
            out[name] = value  # Refused later, with the names that there are.
            continue
        column = columns[name]
        out[name] = found = _like(column, value)
        if isinstance(found, str) and "," in found and not _has(column, found):
            there = ", ".join(map(repr, column.dropna().unique()[:5].tolist()))
            raise InputError(
                f"where: no item has {name} = {found!r}; it is, for instance, {there}; for one of several values, "
                f"write --where.{name} '[{found}]'"
            )
    return out


def _has(column: pd.Series, text: str) -> bool:
    """Return whether a text is a value of a column; of one of lists and the like, which are refused later, it is."""
    try:
        return bool(column.isin([text]).any())
    except TypeError:
        return True


def _like(column: pd.Series, value: Any) -> Any:
    """Return what was typed in the type of a column; texts as they are where they stand for no such value."""
    parse = _parser(column)
    parts = value if isinstance(value, list) else [value]
    if parse is None:  # Texts, perhaps of digits.
        found = [str(part) if isinstance(part, int) and not isinstance(part, bool) else part for part in parts]
    else:
        found = [parse(part) if isinstance(part, str) else part for part in parts]
    return found if isinstance(value, list) else found[0]


def _parser(column: pd.Series) -> Callable[[str], Any] | None:
    """Return what turns a text into a value of a column, :obj:`None` where that holds texts."""
    import pandas as pd
    from pandas.api.types import infer_dtype

    if isinstance(column.dtype, pd.CategoricalDtype):
        column = pd.Series(column.cat.categories)
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        return lambda text: _date(text, column.dtype.tz)
    kind = infer_dtype(column, skipna=True)
    if kind == "boolean":
        return lambda text: as_flag(parse_word(text))
    if kind in ("integer", "floating", "mixed-integer-float"):
        return parse_word
    if kind in ("datetime64", "datetime"):
        return _date
    return _day if kind == "date" else None


def _date(text: str, zone: Any = None) -> Any:
    import pandas as pd

    try:
        found = pd.Timestamp(datetime.datetime.fromisoformat(text))
    except ValueError:
        return text
    return found.tz_localize(zone) if zone is not None and found.tzinfo is None else found


def _day(text: str) -> Any:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        return text


def _without_blanks(frame: pd.DataFrame, known: Ids) -> pd.DataFrame:
    """Return columns of items without the blanks around ids that are unknown with them, and known without."""
    import numpy as np
    from pandas.api.types import infer_dtype

    from pyg_ckd.serving.catalogue import ID_COLUMNS

    name = next(name for name in ID_COLUMNS if name in frame.columns)
    ids = frame[name]
    if infer_dtype(ids, skipna=True) != "string":
        return frame
    bare = ids.str.strip()
    rows = np.flatnonzero((ids.notna() & (ids != bare)).to_numpy(dtype=bool))
    if rows.size:
        was, now = (known.find(column.iloc[rows].tolist())[1].numpy() for column in (ids, bare))
        mended = rows[(was < 0) & (now >= 0)]
        values = ids.astype(object)
        values.iloc[mended] = bare.iloc[mended]
        frame = frame.assign(**{name: values})
    return frame


def _id_column(frame: pd.DataFrame, file: Path) -> tuple[str, str | None]:
    """Return what the column of ids is called by us and in a file: just so, else with capital letters or blanks."""
    from pyg_ckd.datasets.columns import find_column
    from pyg_ckd.serving.catalogue import ID_COLUMNS

    for name in ID_COLUMNS:
        if name in frame.columns:
            return name, name
    for name in ID_COLUMNS:
        found = find_column([str(column) for column in frame.columns], name, file)
        if found is not None:
            return name, found
    return ID_COLUMNS[0], None


def _numbers(frame: pd.DataFrame) -> list[str]:
    """Return the columns that were read as integers, or as floats, which may have been integers of which some lack."""
    from pandas.api.types import is_float_dtype, is_integer_dtype

    return [
        str(name)
        for name, column in frame.items()
        if is_integer_dtype(column) or (is_float_dtype(column) and column.hasnans)
    ]


def _exact(frame: pd.DataFrame, texts: pd.DataFrame, ids: str) -> pd.DataFrame:
    """Return a table with the columns that say less than what is written as they are written, or as integers.

    Args:
        frame: The table as pandas reads it.
        texts: The same, with ids and the columns of :func:`_numbers` as texts.
        ids: The column of ids.
    """
    values = {name: _as_written(frame[name], texts[name]) for name in _numbers(frame) if name != ids}
    return texts.assign(**values)


def _as_written(numbers: pd.Series, texts: pd.Series) -> pd.Series:
    import pandas as pd

    from pyg_ckd.serving.catalogue import EXACT

    bare = texts.dropna().str.strip()
    if bare.str.fullmatch("0[0-9]+").any():
        return texts
    if numbers.dtype.kind != "f" or not bare.str.fullmatch("[+-]?[0-9]+").all() or not (numbers.abs() >= EXACT).any():
        return numbers
    whole = [None if text is None else int(text) for text in texts.astype(object).where(texts.notna(), None)]
    for dtype in ("Int64", "UInt64"):
        try:
            return pd.Series(pd.array(whole, dtype=dtype), index=texts.index)
        except (OverflowError, TypeError, ValueError):
            continue
    return texts  # Integers beyond 64 bits.
