"""Tables of interactions and ids of any type, read from CSV or Parquet files and mapped to zero-based rows."""

from __future__ import annotations

import mmap
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyg_ckd.errors import InputError, unknown_name

SUFFIXES = (".parquet", ".csv")

_IDS = ("user", "item")
_LARGEST = np.iinfo(np.int64).max


def find_table(folder: Path, stem: str) -> Path | None:
    """Return ``stem.parquet`` or ``stem.csv`` in ``folder``, or :obj:`None`; both at once are refused."""
    found = [folder / f"{stem}{suffix}" for suffix in SUFFIXES if (folder / f"{stem}{suffix}").is_file()]
    if len(found) > 1:
        raise InputError(f"{folder}: holds {found[0].name} and {found[1].name}, expected one of them; remove the other")
    return found[0] if found else None


def read_table(path: Path, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read the named columns of a table.

    Ids in CSV files are integers if all are written as Python writes them, and else text: ``007`` is not ``7``.

    Raises:
        InputError: If the file cannot be parsed, a required column is missing, or an id is missing (with its row).
    """
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    except (
        ValueError,
        OSError,
        pd.errors.ParserError,
        pd.errors.ParserWarning,
    ) as error:  # Arrow's errors are ValueErrors or OSErrors.
        raise InputError(f"{path}: cannot be read as a {path.suffix[1:]} table ({_first_line(error)})") from None
    for name in required:
        if name not in frame.columns:
            columns = [str(column) for column in frame.columns]
            raise InputError(f"{path}: column {name!r} is missing; {_renaming(name, columns)}")
    frame = frame[[*required, *(name for name in optional if name in frame.columns)]]
    for name in frame.columns:
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
    wrong = column % 1 != 0 if pd.api.types.is_float_dtype(column) else ~column.map(type).isin([str, int])
    row = int(np.flatnonzero(wrong)[0]) if wrong.any() else 0
    raise InputError(
        f"{path}: column {name!r} has dtype {column.dtype}, expected integers or strings as ids; "
        f"found {value_at(column, row)!r} in row {row} (rows count from zero, without the header)"
    )


def as_timestamps(column: pd.Series) -> np.ndarray:
    """Return numbers as they are and anything else as dates; text that is no date is refused."""
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy()
    dates = pd.to_datetime(column, errors="coerce", utc=True, format="ISO8601")
    wrong = np.flatnonzero(dates.isna())
    if wrong.size:
        raise InputError(
            f"column {column.name!r} has {wrong.size} values that are neither numbers nor dates, the first is "
            f"{value_at(column, wrong[0])!r} in row {wrong[0]}; write dates like 2024-05-31 12:00:00"
        )
    return dates.dt.tz_localize(None).to_numpy(dtype="datetime64[ns]")


def map_ids(column: pd.Series) -> tuple[np.ndarray, Tensor | list[str]]:
    """Map ids to rows, in ascending order of the ids.

    Returns:
        The row of each entry, int64, and the ids: an int64 tensor if all are integers, else a list of strings.
    """
    integers = pd.api.types.is_integer_dtype(column)
    rows, unique = pd.factorize(column if integers else column.astype(str), sort=True)
    return rows.astype(np.int64), as_ids(unique)


def rows_of(column: pd.Series, ids: Tensor | list[str], path: Path, source: Path) -> np.ndarray:
    """Return the row of each id of ``column`` in ``ids``; an id that is not there is refused."""
    index = pd.Index(ids.numpy() if isinstance(ids, Tensor) else ids)
    rows = index.get_indexer(column if isinstance(ids, Tensor) else column.astype(str))
    unknown = np.flatnonzero(rows < 0)
    if unknown.size:
        raise InputError(
            f"{path}: {unknown.size} interactions are with items that {source.name} does not list, the first is "
            f"{value_at(column, unknown[0])!r} in row {unknown[0]}; add them to {source.name} with their features"
        )
    return rows.astype(np.int64)


def as_ids(values: pd.Series | pd.Index | np.ndarray) -> Tensor | list[str]:
    """Return ids as an int64 tensor if they are integers that fit, else as a list of strings."""
    if pd.api.types.is_integer_dtype(values) and (not len(values) or int(values.max()) <= _LARGEST):
        return torch.from_numpy(np.array(values, dtype=np.int64))
    return list(map(str, values.tolist()))


def value_at(column: pd.Series, row: int) -> object:
    """Return one value as a plain Python object, for messages."""
    return column.iloc[[row]].tolist()[0]


def _read_csv(path: Path) -> pd.DataFrame:
    """Read a table in which only an empty field is missing, so that a user may be called ``NA``."""
    frame = _parse_csv(path)
    ids = [frame[name] for name in _IDS if name in frame.columns]
    beyond = [str(column.name) for column in ids if column.dtype == object]  # Numbers of more than 64 bits among them.
    integers = [str(column.name) for column in ids if pd.api.types.is_integer_dtype(column)]
    doubtful = [*beyond, *(integers if _has_padding(path) else [])]
    if doubtful:
        text = _parse_csv(path, dict.fromkeys(doubtful, str))[doubtful]
        frame = frame.assign(
            **{name: text[name] for name in doubtful if name in beyond or _differ(text[name], frame[name])}
        )
    return frame


def _parse_csv(path: Path, dtypes: Mapping[str, type] | None = None) -> pd.DataFrame:
    with warnings.catch_warnings():
        # Else pandas takes the first field of lines that are longer than the header for a name of the row.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(path, index_col=False, low_memory=False, dtype=dtypes, keep_default_na=False, na_values=[""])


def _differ(text: pd.Series, numbers: pd.Series) -> bool:
    return bool((text != numbers.astype(str)).any())


def _has_padding(path: Path) -> bool:
    """Return whether any field begins with a zero and a digit or with a plus, which would be lost in an integer."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return re.search(rb'[,"\s](?:\+|-0|0[0-9])', content) is not None


def _renaming(name: str, columns: list[str]) -> str:
    near = unknown_name("column", name, columns)
    prefixed = [column for column in columns if column.lower().startswith(name)]
    return f"rename {prefixed[0]!r} to {name!r}; found {', '.join(columns)}" if prefixed else str(near)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
