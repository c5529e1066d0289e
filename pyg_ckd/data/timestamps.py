"""Timestamps of any kind as values that sort: numbers as they are, dates in a unit that holds all of them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from datetime import date, datetime, timezone
from decimal import Decimal, InvalidOperation
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd

from pyg_ckd.data.arrays import without_tensors
from pyg_ckd.errors import InputError

_ZONE = re.compile(r"(?:(?<=[ T]\d\d:\d\d)|(?<=[ T]\d\d:\d\d:\d\d))(?P<fraction>\.\d+)? ?UTC\s*$")

UNITS = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
YEARS = 3e8, 5e9
"""Seconds since 1970 in which dates are looked for, of the years 1979 to 2128. Those of other units lie far apart."""


def as_dates(values: Any) -> np.ndarray:
    """Return numbers as they are, and anything else as dates, ``datetime64`` in UTC.

    Nanoseconds hold the years from 1678 to 2261 only: where a date is beyond, all of them are in microseconds. Numbers
    that are text, or that 64 bits do not hold, become their ranks.

    Args:
        values: Numbers, dates or texts by ISO 8601, also with the zone ``UTC`` at their end, ``[E]``. In a column, a
            text that is no date becomes NaT.

    Raises:
        InputError: If they are lists of unequal length, or tensors that NumPy cannot read.

    Warns:
        UserWarning: As :func:`warn_of_units`, if they are numbers that become ranks.
    """
    values = without_tensors(values, "timestamps")
    if np.ma.is_masked(values):
        values = pd.Series(values)
    if not isinstance(values, pd.Series):
        if isinstance(values, (list, tuple)) and any(isinstance(value, np.datetime64) for value in values):
            return _in_one_unit(values)
        try:
            array = np.asarray(values)
        except ValueError:
            raise InputError("timestamps: found lists of unequal length, expected one number or date each") from None
        if array.dtype.kind in "iufM" or array.ndim != 1:
            return array
        if array.dtype.kind == "U":
            return _parsed(pd.Series(array.tolist()))
        values = pd.Series(values if isinstance(values, pd.Index) else list(values))
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(values.cat.categories.dtype)
    if isinstance(values.dtype, pd.ArrowDtype) and str(values.dtype).startswith("date"):
        values = values.astype(object)  # Days, which have no accessor for time zones.
    if pd.api.types.is_datetime64_any_dtype(values):
        return _naive(values).to_numpy()
    if pd.api.types.is_numeric_dtype(values):
        nullable = pd.api.types.is_extension_array_dtype(values) and bool(values.isna().any())
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan) if nullable else values.to_numpy()
        return _parsed(values.astype(object)) if numbers.dtype.kind == "O" else numbers
    return _parsed(values)


def warn_of_units(numbers: np.ndarray, rows: pd.Index | None = None) -> None:
    """Warn if some numbers are seconds since 1970 and others milliseconds, or the like, which do not sort.

    All positive numbers must be dates of the years 1979 to 2128 in one of the units, so that ranks, years, counters and
    dates such as 20240531 are none.

    Args:
        numbers: Timestamps ``[E]``; anything but numbers is left alone.
        rows: The row of each, for the message. (default: :obj:`None`, its position)
    """
    if numbers.dtype.kind not in "iuf" or numbers.ndim != 1:
        return
    numbers, first = numbers.astype(np.float64), {}
    left = int((numbers > 0).sum())
    for unit, factor in UNITS.items():
        found = (numbers >= YEARS[0] * factor) & (numbers < YEARS[1] * factor)
        count = int(found.sum())
        left -= count
        if count:
            first[unit] = int(found.argmax())
    if left or len(first) < 2:
        return
    shown = ", ".join(
        f"{unit} ({numbers[row].item():.0f} in row {row if rows is None else rows[row]})" for unit, row in first.items()
    )
    warnings.warn(
        f"timestamps: found what looks like numbers of several units since 1970, {shown}, so that their order is not "
        "that of time; expected one unit (rows count from zero, without the header): bring all of them to seconds",
        stacklevel=4,
    )


def _parsed(column: pd.Series) -> np.ndarray:
    if pd.api.types.is_object_dtype(column):
        if column.map(lambda value: isinstance(value, np.datetime64)).any():
            return _in_one_unit(column.tolist())
        if column.map(lambda value: isinstance(value, (Real, Decimal))).all():
            numbers = _ranks(column)
            return pd.to_numeric(column).to_numpy(dtype=np.float64) if numbers is None else numbers
        column = column.map(lambda value: str(value) if isinstance(value, (int, Decimal)) else value)
    dates = _naive(pd.to_datetime(column, errors="coerce", utc=True, format="ISO8601"))
    left = np.flatnonzero(dates.isna() & column.notna())
    if not left.size:
        return dates.to_numpy()
    if column.iloc[left].map(lambda value: isinstance(value, str) and bool(_ZONE.search(value))).any():
        return _parsed(column.astype(object).map(_without_zone))
    numbers = _ranks(column)
    if numbers is not None:
        return numbers
    # Dates beyond the range of the unit that pandas chose, or none at all.
    beyond = np.array([_microseconds(value) for value in column.iloc[left]], dtype="datetime64[us]")
    if np.isnat(beyond).all():
        return dates.to_numpy()
    out = dates.to_numpy().astype("datetime64[us]")
    out[left] = beyond
    return out


def _without_zone(value: Any) -> Any:
    """Return a text like ``2024-05-31 12:00:00 UTC``, as BigQuery writes it, without the zone, which is the default."""
    return _ZONE.sub(r"\g<fraction>", value) if isinstance(value, str) else value


def _ranks(column: pd.Series) -> np.ndarray | None:
    """Return the rank of each value, int64, if all of them are finite numbers."""
    try:
        numbers = [Decimal(int(value) if isinstance(value, Integral) else value) for value in column]
        if not all(number.is_finite() for number in numbers):
            return None
        warn_of_units(np.array(numbers, dtype=np.float64), column.index)
        return np.unique(np.array(numbers, dtype=object), return_inverse=True)[1].astype(np.int64)
    except (InvalidOperation, TypeError, ValueError):
        return None


def _in_one_unit(values: Sequence[Any]) -> np.ndarray:
    """Return dates of NumPy of several units, and others, in one that holds all of them."""
    fine = np.array([_microseconds(value) for value in values], dtype="datetime64[us]")
    exact = fine.astype("datetime64[ns]")
    if (exact.astype("datetime64[us]") != fine).any():
        return fine
    for row, value in enumerate(values):
        if isinstance(value, np.datetime64):
            exact[row] = value
    return exact


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
        if isinstance(value, np.datetime64):
            return value.astype("datetime64[us]")
        if isinstance(value, datetime) and value.tzinfo is not None:
            value = value.astimezone(timezone.utc).replace(tzinfo=None)
        return np.datetime64(value, "us") if isinstance(value, date) else np.datetime64("NaT", "us")
    except (ValueError, OverflowError):
        return np.datetime64("NaT", "us")
