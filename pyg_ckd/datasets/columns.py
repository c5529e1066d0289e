"""Columns by the names that people give them: in small or capital letters, and times by their usual other names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pyg_ckd.errors import InputError

ALIASES: dict[str, tuple[str, ...]] = {"timestamp": ("time", "datetime", "date")}
"""Further names of a column, which count where the first is not there."""


def plain(name: object) -> str:
    """Return the name of a column in small letters, without blanks around it."""
    return str(name).strip().lower()


def find_column(columns: Sequence[str], name: str, file: Path, types: Sequence[str] = ("",)) -> str | None:
    """Return which column has a name, in any case, or one of its usual other names; :obj:`None` if there is none.

    Args:
        columns: The columns that are there.
        name: The name.
        file: The file, for messages.
        types: What follows the name, *e.g.*, ``":float"`` in an atomic file.

    Raises:
        InputError: If there are two of them.
    """
    for names in ((name,), ALIASES.get(name, ())):
        wanted = {f"{other}{kind}" for other in names for kind in types}
        found = [column for column in columns if plain(column) in wanted]
        if len(found) > 1:
            raise InputError(
                f"{file}: has the columns {found[0]!r} and {found[1]!r}, expected one column {name!r}; drop or rename "
                f"one"
            )
        if found:
            return found[0]
    return None
