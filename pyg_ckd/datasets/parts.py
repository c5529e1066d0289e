"""What people call the parts of a split: files, columns and arrays may say ``valid`` where others say ``val``."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pyg_ckd.data.checks import SPLITS
from pyg_ckd.datasets.places import find_among
from pyg_ckd.errors import InputError, unknown_name

SPELLINGS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "vld", "dev"),
    "test": ("test", "testing", "tst"),
}
"""The names of each part, the first of which is ours."""

_PART_OF = {spelling: part for part, spellings in SPELLINGS.items() for spelling in spellings}


def part_of(name: object) -> str | None:
    """Return ``"train"``, ``"val"`` or ``"test"`` for a part by any of its names, or :obj:`None`.

    Args:
        name: The name; letters may be small or capital, with blanks around them.
    """
    return _PART_OF.get(name.strip().lower()) if isinstance(name, str) else None


def find_part(folder: Path, part: str, *endings: str) -> Path | None:
    """Return the file of a part under any of its names, or :obj:`None`.

    Args:
        folder: The folder.
        part: ``"train"``, ``"val"`` or ``"test"``.
        endings: What may follow the name of the part, *e.g.*, ``".json"``.

    Raises:
        InputError: If there are two of them, or one is a link to nothing or a folder.
    """
    return find_among(folder, [f"{spelling}{ending}" for ending in endings for spelling in SPELLINGS[part]])


def parts_in(column: pd.Series, where: str) -> pd.Series:
    """Return a column of names of parts with our names.

    Args:
        column: The column.
        where: Where it is from; begins every message.

    Raises:
        InputError: If a value names no part, or two names of one part are there side by side.
    """
    try:
        names = {value: part_of(value) for value in column.unique().tolist()}
    except TypeError:  # Of lists, as Parquet files may hold them.
        row, value = next((row, value) for row, value in enumerate(column) if pd.api.types.is_list_like(value))
        raise InputError(
            f"{where}: column {column.name!r} holds {value!r} in row {row}, expected the name of a part, such as "
            f"'train'; write one name per row"
        ) from None
    parts = column.map(names)
    wrong = parts.isna().to_numpy(dtype=bool).nonzero()[0]
    if wrong.size:
        first = unknown_name(str(column.name), column.iloc[wrong[0]], SPLITS)
        raise InputError(f"{where}: column {column.name!r} has {wrong.size} wrong values, in row {wrong[0]} {first}")
    seen: dict[str | None, str] = {}
    for value, part in names.items():
        other = seen.setdefault(part, value)
        if other.strip().lower() != value.strip().lower():
            raise InputError(
                f"{where}: column {column.name!r} holds {other!r} and {value!r}, expected one name for the part "
                f"{part!r}; rename one"
            )
    return parts
