"""Tables of interactions and ids of any type, read from CSV or Parquet files and mapped to zero-based rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import numpy as np
import pandas as pd
from torch import Tensor

from pyg_ckd.data.feedback import feedback_columns
from pyg_ckd.data.ids import as_ids, id_column, known_ids, map_ids, rows_among, value_at, wrong_id
from pyg_ckd.data.timestamps import as_dates
from pyg_ckd.datasets.arrays import one_line
from pyg_ckd.datasets.columns import find_column, known
from pyg_ckd.datasets.delimited import decompressed, has_padding, read_csv
from pyg_ckd.datasets.origins import Origin
from pyg_ckd.datasets.places import find_among
from pyg_ckd.datasets.signatures import refuse_other
from pyg_ckd.errors import InputError, unknown_name

__all__ = ["as_ids", "as_timestamps", "check_ids", "find_table", "map_ids", "read_table", "rows_of", "value_at"]

SUFFIXES = (".parquet", ".csv", ".tsv", ".csv.gz", ".tsv.gz")

_IDS = ("user", "item")
_INTEGER = r"0|-?[1-9][0-9]{0,17}"


def find_table(folder: Path, stem: str) -> Path | None:
    """Return ``stem`` with one of the suffixes in ``folder``, or :obj:`None`; two at once are refused."""
    return find_among(folder, [f"{stem}{suffix}" for suffix in SUFFIXES])


def read_table(
    path: Path, required: tuple[str, ...], optional: tuple[str, ...] = (), mends: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Read columns of a table by name, in any case; with the column ``user``, also ratings and labels.

    Ids in text files are integers if all are written as Python writes them, and else text: ``007`` is not ``7``. White
    space around ids is removed. The index of a Parquet file counts as a column if it has a name. ``attrs["columns"]``
    of the frame names all columns that are there. ``mends`` says what else to do about missing values, by column.

    Raises:
        InputError: If the file cannot be parsed, a required column is missing, or an id is missing (with its row).
    """
    kind = re.sub(r"\.gz$", "", path.name, flags=re.IGNORECASE).rpartition(".")[2].lower()
    try:
        if kind == "parquet":
            frame = _read_parquet(path)
        else:
            with decompressed(path) as file:
                frame = _read_text(file, required)
    except InputError:
        raise
    except (
        ValueError,
        OSError,
        pd.errors.ParserError,
        pd.errors.ParserWarning,
    ) as error:  # Arrow's errors are ValueErrors or OSErrors.
        raise InputError(f"{path}: cannot be read as a {kind} table ({one_line(error)})") from None
    columns = [str(column) for column in frame.columns]
    taken = {name: find_column(columns, name, path) for name in (*required, *optional)}
    for name in required:
        if taken[name] is None:
            raise InputError(f"{path}: column {name!r} is missing; {_renaming(name, columns)}{_header(frame, kind)}")
    feedback = feedback_columns(frame.columns) if "user" in required else []
    at = {name: columns.index(column) for name, column in taken.items() if column is not None}
    places = [*at.values(), *(n for n, name in enumerate(frame.columns) if name in feedback)]
    frame = frame.iloc[:, places].set_axis([*at, *feedback], axis=1)
    for name in at:
        missing = np.flatnonzero(frame[name].isna())
        if missing.size:
            raise InputError(
                f"{path}: column {name!r} has {missing.size} missing values, the first in row {missing[0]} "
                f"(rows count from zero, without the header); fill or drop these rows{(mends or {}).get(name, '')}"
            )
    frame.attrs["columns"] = columns
    return frame


def check_ids(frame: pd.DataFrame, name: str, path: Path) -> None:
    """Refuse ids that are neither integers nor strings nor UUIDs, with the row of the first one."""
    column = frame[name]
    if pd.api.types.is_integer_dtype(column) or pd.api.types.is_string_dtype(column):
        return
    if column.map(type).eq(UUID).all():
        return
    mend = ""
    if pd.api.types.is_bool_dtype(column):
        mend = f"; name the column of ids {name!r}, or write ids that are no truth values, such as 0 and 1"
    raise wrong_id(column, f"{path}: column {name!r}", mend=mend)


def as_timestamps(column: pd.Series) -> np.ndarray:
    """Return numbers as they are and anything else as dates; infinite numbers and text that is no date are refused.

    Args:
        column: The column; its index has the number of each row in the file.

    Raises:
        InputError: If a number is infinite or a text no date; the message has its row.
    """
    dates = as_dates(column)
    if dates.dtype.kind != "M":
        infinite = np.flatnonzero(np.isinf(dates)) if dates.dtype.kind == "f" else np.empty(0, dtype=np.int64)
        if infinite.size:
            raise InputError(
                f"column {column.name!r} has {infinite.size} infinite values, the first is "
                f"{dates[infinite[0]].item()!r} in row {column.index[infinite[0]]}, expected numbers or dates; repair "
                "or drop these rows"
            )
        return dates
    unread = np.isnat(dates)
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    words = unread & ~np.isfinite(numbers)
    wrong = np.flatnonzero(words if words.any() else unread)
    if wrong.size:
        raise InputError(
            f"column {column.name!r} has {wrong.size} values that are neither numbers nor dates, the first is "
            f"{value_at(column, wrong[0])!r} in row {column.index[wrong[0]]}; write dates like 2024-05-31 12:00:00"
        )
    return dates


def rows_of(column: pd.Series, ids: Tensor | list[str], origin: Origin, source: Path) -> np.ndarray:
    """Return the row of each id of ``column`` in ``ids``, compared as text unless both are integers.

    Args:
        column: The ids of interactions.
        ids: The ids that are known.
        origin: Where the rows of the column are from.
        source: Where the known ids are from.

    Raises:
        InputError: If an id is not there.
    """
    known = id_column(ids, str(source))
    rows = rows_among(id_column(column, "items"), known)
    unknown = np.flatnonzero(rows < 0)
    if unknown.size:
        path, row = origin.of(column, unknown[0])
        first = value_at(column, unknown[0])
        raise InputError(
            f"{path}: {unknown.size} interactions are with items that {source.name} does not list, the first is "
            f"{first!r} in row {row}, {known_ids(known, first)}; "
            f"add them to {source.name} with their features, or mend the ids"
        )
    return rows


def _read_parquet(path: Path) -> pd.DataFrame:
    """Read a file or a folder, with what was its index as columns."""
    refuse_other(path, "cannot be read as a parquet table", b"PAR1")
    if path.is_dir() and not any(file.is_file() for file in path.rglob("[!._]*")):
        raise InputError(f"{path}: is a folder without files, expected Parquet files in it; write the table again")
    frame = pd.read_parquet(path)
    named = [name for name in frame.index.names if name is not None and name not in frame.columns]
    frame = frame.reset_index(level=named) if named else frame
    sorts = {name: kind for name, kind in frame.dtypes.items() if isinstance(kind, pd.CategoricalDtype)}
    return frame.astype({name: kind.categories.dtype for name, kind in sorts.items() if known(name) in _IDS})


def _header(frame: pd.DataFrame, kind: str) -> str:
    """Return what else may be wrong where a column is missing."""
    if kind != "parquet":
        return "; if the first line is no header, put one above it"
    index = frame.index
    if index.nlevels > 1 or isinstance(index, pd.RangeIndex):
        return ""
    return f"; if the index, e.g. {value_at(index.to_series(), 0)!r}, holds it, name it: frame.rename_axis('...')"


def _read_text(path: Path, required: tuple[str, ...]) -> pd.DataFrame:
    frame = read_csv(path, required)
    ids = [frame[name] for name in frame.columns if known(name) in _IDS]
    beyond = [str(column.name) for column in ids if column.dtype == object]  # Numbers of more than 64 bits among them.
    integers = [str(column.name) for column in ids if pd.api.types.is_integer_dtype(column)]
    doubtful = [*beyond, *(integers if has_padding(path) else [])]
    if doubtful:
        text = read_csv(path, required, dict.fromkeys(doubtful, str))[doubtful].apply(_without_blanks)
        frame = frame.assign(
            **{name: text[name] for name in doubtful if name in beyond or _differ(text[name], frame[name])}
        )
    return frame.assign(**{str(column.name): _without_blanks(frame[column.name]) for column in ids})


def _without_blanks(column: pd.Series) -> pd.Series:
    """Return ids without the blanks around them, as integers if these were all that made them text."""
    if pd.api.types.infer_dtype(column, skipna=True) != "string":  # Text is of dtype object before pandas 3.
        return column
    text = column.str.strip()
    if text.equals(column):
        return column
    text = text.mask(text == "")
    return text.astype(np.int64) if text.str.fullmatch(_INTEGER).fillna(False).all() else text


def _differ(text: pd.Series, numbers: pd.Series) -> bool:
    return bool((text != numbers.astype(str)).any())


def _renaming(name: str, columns: list[str]) -> str:
    near = unknown_name("column", name, columns)
    prefixed = [column for column in columns if column.lower().startswith(name)]
    return f"rename {prefixed[0]!r} to {name!r}; found {', '.join(columns)}" if prefixed else str(near)
