"""Names of the columns of features: later frames are joined by them, matrices and numbered columns by place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pyg_ckd.errors import InputError

COLUMN_LABELS = "columns"
"""Where records of :mod:`pyg_ckd.data.prepared` hold the names of the columns as they were read."""


def text_labels(frame: pd.DataFrame) -> list[str] | None:
    """Return the names of the columns of a frame, if all are text and none is there twice.

    Args:
        frame: The frame.
    """
    labels = list(frame.columns)
    named = all(isinstance(label, str) for label in labels) and len(set(labels)) == len(labels)
    return [str(label) for label in labels] if named else None


def labels_of(record: Mapping[str, Any] | None) -> list[str] | None:
    """Return the names that a record of features holds; those of arrays, and older ones, hold none.

    Args:
        record: The record, or :obj:`None`.
    """
    return None if record is None else record.get(COLUMN_LABELS)


def places(found: Sequence[str] | None, wanted: Sequence[str] | None) -> list[int] | None:
    """Return where each wanted column stands among others that have the same names in another order, or :obj:`None`.

    Args:
        found: The names that there are; :obj:`None` where columns go by place.
        wanted: The names in the order that is wanted.
    """
    if found is None or wanted is None or list(found) == list(wanted) or sorted(found) != sorted(wanted):
        return None
    at = {name: place for place, name in enumerate(found)}
    return [at[name] for name in wanted]


def check_labels(found: Sequence[str] | None, wanted: Sequence[str] | None, where: str) -> None:
    """Refuse columns of other names.

    Args:
        found, wanted: As in :func:`places`.
        where: What the features are, for messages.

    Raises:
        InputError: If a name is missing or new; the message has the first ones.
    """
    if found is None or wanted is None or sorted(found) == sorted(wanted):
        return
    new, missing = (
        [name for name in one if name not in set(other)] for one, other in ((found, wanted), (wanted, found))
    )
    parts = [f"{text} {_listed(names)}" for text, names in (("the new columns", new), ("no column", missing)) if names]
    raise InputError(
        f"{where}: found {' and '.join(parts)}, expected the names that the earlier features have, such as "
        f"{_listed(wanted)}; rename or select the columns of the frame, or give an array (frame.to_numpy()), whose "
        "columns go by place"
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:3]))
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
