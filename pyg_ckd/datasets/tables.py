"""Tables of interactions and ids of any type, read from CSV or Parquet files and mapped to zero-based rows."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import numpy as np
import pandas as pd
from torch import Tensor

from pyg_ckd.data.feedback import feedback_columns
from pyg_ckd.data.ids import as_ids, id_column, map_ids, rows_among, value_at, wrong_id
from pyg_ckd.data.timestamps import as_dates
from pyg_ckd.datasets.arrays import one_line
from pyg_ckd.datasets.delimited import has_padding, read_csv
from pyg_ckd.datasets.places import find_file
from pyg_ckd.errors import InputError, unknown_name

__all__ = ["as_ids", "as_timestamps", "check_ids", "find_table", "map_ids", "read_table", "rows_of", "value_at"]

SUFFIXES = (".parquet", ".csv", ".tsv")

_IDS = ("user", "item")


def find_table(folder: Path, stem: str) -> Path | None:
    """Return ``stem`` with one of the suffixes in ``folder``, or :obj:`None`; two at once are refused."""
    found = [file for suffix in SUFFIXES if (file := find_file(folder, f"{stem}{suffix}")) is not None]
    if len(found) > 1:
        raise InputError(f"{folder}: holds {found[0].name} and {found[1].name}, expected one of them; remove the other")
    return found[0] if found else None


def read_table(path: Path, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read the named columns of a table, and ratings and labels where users are asked for.

    Ids in text files are integers if all are written as Python writes them, and else text: ``007`` is not ``7``.

    Raises:
        InputError: If the file cannot be parsed, a required column is missing, or an id is missing (with its row).
    """
    kind = path.suffix.lower()
    try:
        frame = pd.read_parquet(path) if kind == ".parquet" else _read_text(path, required)
    except InputError:
        raise
    except (
        ValueError,
        OSError,
        pd.errors.ParserError,
        pd.errors.ParserWarning,
    ) as error:  # Arrow's errors are ValueErrors or OSErrors.
        raise InputError(f"{path}: cannot be read as a {kind[1:]} table ({one_line(error)})") from None
    for name in required:
        if name not in frame.columns:
            columns = [str(column) for column in frame.columns]
            header = "" if kind == ".parquet" else "; if the first line is no header, put one above it"
            raise InputError(f"{path}: column {name!r} is missing; {_renaming(name, columns)}{header}")
    feedback = feedback_columns(frame.columns) if "user" in required else []
    frame = frame[[*required, *(name for name in optional if name in frame.columns), *feedback]]
    for name in frame.columns.difference(feedback, sort=False):
        missing = np.flatnonzero(frame[name].isna())
        if missing.size:
            raise InputError(
                f"{path}: column {name!r} has {missing.size} missing values, the first in row {missing[0]} "
                f"(rows count from zero, without the header); fill or drop these rows"
            )
    return frame


def check_ids(frame: pd.DataFrame, name: str, path: Path) -> None:
    """Refuse ids that are neither integers nor strings nor UUIDs, with the row of the first one."""
    column = frame[name]
    if pd.api.types.is_integer_dtype(column) or pd.api.types.is_string_dtype(column):
        return
    if column.map(type).eq(UUID).all():
        return
    raise wrong_id(column, f"{path}: column {name!r}")


def as_timestamps(column: pd.Series) -> np.ndarray:
    """Return numbers as they are and anything else as dates; text that is no date is refused."""
    dates = as_dates(column)
    if dates.dtype.kind != "M":
        return dates
    wrong = np.flatnonzero(np.isnat(dates))
    if wrong.size:
        raise InputError(
            f"column {column.name!r} has {wrong.size} values that are neither numbers nor dates, the first is "
            f"{value_at(column, wrong[0])!r} in row {wrong[0]}; write dates like 2024-05-31 12:00:00"
        )
    return dates


def rows_of(column: pd.Series, ids: Tensor | list[str], path: Path, source: Path) -> np.ndarray:
    """Return the row of each id of ``column`` in ``ids``, compared as text unless both are integers.

    Raises:
        InputError: If an id is not there.
    """
    rows = rows_among(id_column(column, str(path)), id_column(ids, str(source)))
    unknown = np.flatnonzero(rows < 0)
    if unknown.size:
        raise InputError(
            f"{path}: {unknown.size} interactions are with items that {source.name} does not list, the first is "
            f"{value_at(column, unknown[0])!r} in row {unknown[0]}; add them to {source.name} with their features"
        )
    return rows


def _read_text(path: Path, required: tuple[str, ...]) -> pd.DataFrame:
    frame = read_csv(path, required)
    ids = [frame[name] for name in _IDS if name in frame.columns]
    beyond = [str(column.name) for column in ids if column.dtype == object]  # Numbers of more than 64 bits among them.
    integers = [str(column.name) for column in ids if pd.api.types.is_integer_dtype(column)]
    doubtful = [*beyond, *(integers if has_padding(path) else [])]
    if doubtful:
        text = read_csv(path, required, dict.fromkeys(doubtful, str))[doubtful]
        frame = frame.assign(
            **{name: text[name] for name in doubtful if name in beyond or _differ(text[name], frame[name])}
        )
    return frame


def _differ(text: pd.Series, numbers: pd.Series) -> bool:
    return bool((text != numbers.astype(str)).any())


def _renaming(name: str, columns: list[str]) -> str:
    near = unknown_name("column", name, columns)
    prefixed = [column for column in columns if column.lower().startswith(name)]
    return f"rename {prefixed[0]!r} to {name!r}; found {', '.join(columns)}" if prefixed else str(near)
