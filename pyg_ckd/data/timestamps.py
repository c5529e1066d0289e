"""Timestamps of any kind as values that sort: numbers as they are, dates in a unit that holds all of them."""

from __future__ import annotations

from datetime import date, datetime, timezone
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor


def as_dates(values: Any) -> np.ndarray:
    """Return numbers as they are, and anything else as dates, ``datetime64`` in UTC.

    Nanoseconds hold the years from 1678 to 2261 only: where a date is beyond, all of them are in microseconds.

    Args:
        values: Numbers, dates or texts by ISO 8601, ``[E]``. In a column, a text that is no date becomes NaT.
    """
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    if not isinstance(values, pd.Series):
        array = np.asarray(values)
        if array.dtype.kind in "iufM" or array.ndim != 1:
            return array
        if array.dtype.kind == "U":
            dates = _parsed(pd.Series(array.tolist()))
            return array if np.isnat(dates).any() else dates
        values = pd.Series(values if isinstance(values, pd.Index) else list(values))
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(values.cat.categories.dtype)
    if pd.api.types.is_datetime64_any_dtype(values):
        return _naive(values).to_numpy()
    if pd.api.types.is_numeric_dtype(values):
        nullable = pd.api.types.is_extension_array_dtype(values) and bool(values.isna().any())
        return values.to_numpy(dtype=np.float64, na_value=np.nan) if nullable else values.to_numpy()
    return _parsed(values)


def _parsed(column: pd.Series) -> np.ndarray:
    dates = _naive(pd.to_datetime(column, errors="coerce", utc=True, format="ISO8601"))
    left = np.flatnonzero(dates.isna() & column.notna())
    if not left.size:
        return dates.to_numpy()
    # Dates beyond the range of the unit that pandas chose, or none at all.
    beyond = np.array([_microseconds(value) for value in column.iloc[left]], dtype="datetime64[us]")
    if np.isnat(beyond).all():
        return dates.to_numpy()
    out = dates.to_numpy().astype("datetime64[us]")
    out[left] = beyond
    return out


def _naive(dates: pd.Series) -> pd.Series:
    return dates if dates.dt.tz is None else dates.dt.tz_convert("UTC").dt.tz_localize(None)


def _microseconds(value: Any) -> np.datetime64:
    """Return one date, or NaT if it is none."""
    try:
        if isinstance(value, str):
            text = value.strip()
            if text[:1].isdigit() and text[4:5] == "-":
                value = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
            else:  # Years of more than four digits, or before Christ.
                return np.datetime64(text, "us") if text.count("-") >= 2 else np.datetime64("NaT", "us")
        if isinstance(value, datetime) and value.tzinfo is not None:
            value = value.astimezone(timezone.utc).replace(tzinfo=None)
        return np.datetime64(value, "us") if isinstance(value, date) else np.datetime64("NaT", "us")
    except (ValueError, OverflowError):
        return np.datetime64("NaT", "us")
