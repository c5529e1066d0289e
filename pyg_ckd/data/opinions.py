"""Which of several interactions of a user with an item counts: the first or the last, by time where times are known.

It is chosen among all of them, before ratings and labels say which interactions are likes: somebody who takes a like
back does not like the item any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pyg_ckd.data.checks import repeated
from pyg_ckd.data.frames import COLUMNS
from pyg_ckd.data.timestamps import as_dates, warn_of_units
from pyg_ckd.errors import InputError

TIME = "timestamp"


def chosen(pairs: np.ndarray, keep: str, times: np.ndarray | None = None, part: np.ndarray | None = None) -> np.ndarray:
    """Return which interactions stay, one of each user and item, bool ``[E]``.

    Args:
        pairs: Interactions ``[2, E]``, not negative.
        keep: ``"first"`` or ``"last"``.
        times: The time of each; equal ones follow each other by row. (default: :obj:`None`, they go by row)
        part: The number of the split of each; the first split comes first, whatever the times. (default: :obj:`None`)
    """
    keys = [key for key in (times, part) if key is not None]
    if not keys:
        return ~repeated(pairs, keep)
    several = np.flatnonzero(repeated(pairs, "first") | repeated(pairs, "last"))
    rows = several[np.lexsort([key[several] for key in keys])]  # Ties stay in order.
    out = np.ones(pairs.shape[1], dtype=bool)
    out[rows] = ~repeated(pairs[:, rows], keep)
    return out


def coded(*columns: pd.Series) -> np.ndarray:
    """Return columns of ids as numbers ``[columns, E]``, equal where ids are; nobody is the same as a missing id."""
    out = []
    for column in columns:
        integers = pd.api.types.is_integer_dtype(column)
        codes = pd.factorize(column if integers else column.astype(str).where(column.notna()))[0].astype(np.int64)
        missing = codes < 0
        codes[missing] = codes.max(initial=-1) + 1 + np.arange(missing.sum())
        out.append(codes)
    return np.stack(out)


def opinions_of(frames: Mapping[str, Any], keep: str, source: str) -> list[np.ndarray] | None:
    """Return which rows of the frames of splits stay, bool ``[E]`` each; :obj:`None` if the columns of ids are missing.

    Args:
        frames: The frame of each split, in their order. Times are those of the column ``timestamp``, if all have it.
        keep: ``"first"`` or ``"last"``.
        source: Where they came from, for messages.

    Raises:
        InputError: If one of several interactions of a user and an item has no time, an infinite one, or none that can
            be read.
    """
    columns = []
    for names in COLUMNS.values():
        found = [next((name for name in names if name in frame.columns), None) for frame in frames.values()]
        if None in found:
            return None  # Whoever reads the ids says so.
        columns.append(_together([frame[name] for frame, name in zip(frames.values(), found, strict=True)]))
    pairs, sizes = coded(*columns), [len(frame) for frame in frames.values()]
    times = None
    if all(TIME in frame.columns for frame in frames.values()):
        times = as_dates(_together([frame[TIME] for frame in frames.values()]))
        several = repeated(pairs, "first") | repeated(pairs, "last")
        missing = np.isnat(times) if times.dtype.kind == "M" else ~np.isfinite(times)
        if (wrong := np.flatnonzero(several & missing)).size:
            split = int(np.searchsorted(np.cumsum(sizes), wrong[0], side="right"))
            name, frame = list(frames.items())[split]
            row = int(wrong[0] - sum(sizes[:split]))
            value = pd.Series(np.asarray(frame[TIME])[[row]]).tolist()[0]
            raise InputError(
                f"{source}: {name}, column {TIME!r} holds {value!r} in row {row} (rows count from zero), expected a "
                f"number or a date, by which keep={keep!r} goes; fill or drop the row, or leave the column out"
            )
        warn_of_units(times)
    mask = chosen(pairs, keep, times, np.repeat(np.arange(len(sizes)), sizes))
    return np.split(mask, np.cumsum(sizes)[:-1])


def _together(columns: list[Any]) -> pd.Series:
    series = [pd.Series(column if isinstance(column, pd.Series) else np.asarray(column)) for column in columns]
    return pd.concat([one for one in series if len(one)] or series, ignore_index=True)
