"""Columns by the names that people give them: in small or capital letters, ids and times by their usual other names."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from pyg_ckd.errors import InputError

ALIASES: dict[str, tuple[str, ...]] = {
    "timestamp": ("time", "datetime", "date"),
    "user": ("user_id",),
    "item": ("item_id",),
}
"""Further names of a column, which count where the first is not there."""

_KIND_OF = {name: kind for kind in ("user", "item") for name in ALIASES[kind]}


def plain(name: object) -> str:
    """Return the name of a column in small letters, without blanks around it."""
    return str(name).strip().lower()


def known(name: object) -> str:
    """Return the name of a column in small letters, and ``user`` or ``item`` for the other names of columns of ids."""
    name = plain(name)
    return _KIND_OF.get(name, name)


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


def check_times(columns: Sequence[str], split: str, file: Path) -> None:
    """Refuse a temporal split of a table without a column of times, and warn of a leave-one-out split of one.

    Args:
        columns: The columns that are there.
        split: ``"temporal"`` or ``"leave-one-out"``.
        file: The file, for messages.

    Raises:
        InputError: If the split is temporal.

    Warns:
        UserWarning: If it is not, as interactions are then held out at random.
    """
    found = f"{file}: split={split!r} goes by a column 'timestamp', but found {', '.join(columns)}"
    mend = f"rename the column of times to 'timestamp' (or {', '.join(ALIASES['timestamp'])})"
    if split == "temporal":
        raise InputError(f"{found}; {mend}, or choose another split")
    warnings.warn(f"{found}, so that interactions are held out at random; {mend}", stacklevel=2)
