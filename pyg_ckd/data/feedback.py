"""Feedback that is no like: interactions with a rating or a label, of which only some count."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pyg_ckd.errors import InputError

Positive = str | int | float | bool | Sequence[str | int | float | bool] | None

RATINGS = ("rating", "ratings", "stars", "overall")
_TRUTH = {"true": 1.0, "false": 0.0}
LABELS = ("label", "labels", "liked", "like", "is_like")


def feedback_columns(names: Iterable[Any]) -> list[Any]:
    """Return the names of columns that hold ratings or labels, with or without a type as in ``rating:float``."""
    return [name for name in names if _plain(name) in (*RATINGS, *LABELS)]


def check_feedback(min_rating: float | None, positive: Positive) -> None:
    """Refuse a lowest rating that is no number, and what is no value, or no values, that count as a like.

    Raises:
        InputError: If one is wrong.
    """
    if min_rating is not None:
        try:
            float(min_rating)
        except (TypeError, ValueError):
            raise InputError(f"min_rating: found {min_rating!r}, expected a number such as 4") from None
    if positive is not None and not _values(positive):
        raise InputError("positive: found no values, expected those that count as a like, such as 1")


def liked(frame: Any, min_rating: float | None, positive: Positive, where: str) -> np.ndarray | None:
    """Return which interactions count, bool ``[E]``, or :obj:`None` if all do.

    Args:
        frame: A data frame, in which a column ``rating`` or ``label`` is looked for.
        min_rating: The lowest rating that counts; the column ``rating`` is taken, else ``label``.
        positive: The value or values that count; the column ``label`` is taken, else ``rating``.
        where: What the frame is, for messages.

    Raises:
        InputError: If there is no such column, a value is missing or no number, or nothing is left.

    Warns:
        UserWarning: If there is a column whose values differ, and neither option is given.
    """
    check_feedback(min_rating, positive)
    names = feedback_columns(frame.columns)
    if min_rating is None and positive is None:
        for name in names:
            _warn(_column(frame, name), name, where)
        return None
    keep = np.ones(len(frame), dtype=bool)
    if min_rating is not None:
        name = _choose(names, RATINGS, "min_rating", frame.columns, where)
        ratings = pd.to_numeric(_column(frame, name), errors="coerce").to_numpy(dtype=np.float64)
        _refuse_missing(np.isnan(ratings), _column(frame, name), name, "a number", where)
        keep &= ratings >= float(min_rating)
        if not keep.any() and keep.size:
            raise InputError(
                f"{where}: min_rating={min_rating} leaves no interaction, as {name!r} goes from {ratings.min():g} to "
                f"{ratings.max():g}; lower it"
            )
    if positive is not None:
        name = _choose(names, LABELS, "positive", frame.columns, where)
        column = _column(frame, name)
        _refuse_missing(column.isna().to_numpy(dtype=bool), column, name, "a value", where)
        wanted = _values(positive)
        values, numbers = _numbers(column), _numbers(pd.Series(wanted))
        keep &= (column.astype(str).isin(list(map(str, wanted))) | values.isin(numbers.dropna())).to_numpy(dtype=bool)
        if not keep.any() and keep.size:
            raise InputError(
                f"{where}: positive={positive!r} leaves no interaction, as {name!r} holds {_some(column)}; mend it"
            )
    return keep


def _warn(column: pd.Series, name: str, where: str) -> None:
    values = column.dropna()
    if column.nunique(dropna=False) > 1 or bool((_numbers(values) <= 0).any()):
        option = "min_rating" if _plain(name) in RATINGS else "positive"
        warnings.warn(
            f"{where}: the column {str(name)!r} ({_some(column)}) is not used, so that all {len(column)} interactions "
            f"count as likes; choose with {option}=, or drop the column",
            stacklevel=2,
        )


def _choose(names: Sequence[Any], first: Sequence[str], option: str, columns: Iterable[Any], where: str) -> Any:
    if not names:
        found = ", ".join(map(str, columns)) or "none"
        raise InputError(f"{where}: {option} needs a column 'rating' or 'label', but found {found}; add it")
    return next((name for name in names if _plain(name) in first), names[0])


def _refuse_missing(missing: np.ndarray, column: pd.Series, name: Any, expected: str, where: str) -> None:
    rows = np.flatnonzero(missing)
    if rows.size:
        value = column.iloc[[int(rows[0])]].tolist()[0]
        raise InputError(
            f"{where}: column {str(name)!r} holds {value!r} in row {rows[0]} (rows count from zero, without the "
            f"header), expected {expected}; fill or drop the row"
        )


def _column(frame: Any, name: Any) -> pd.Series:
    column = frame[name]
    column = column.reset_index(drop=True) if isinstance(column, pd.Series) else pd.Series(column.to_numpy())
    text = pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column)
    return column.replace("", None) if text else column


def _values(positive: Any) -> list[Any]:
    if hasattr(positive, "tolist"):  # Of NumPy or PyTorch.
        positive = positive.tolist()
    if isinstance(positive, (str, int, float)):
        return [positive]
    if not isinstance(positive, Iterable) or isinstance(positive, Iterator):  # Which could be gone through only once.
        raise InputError(f"positive: found {positive!r}, expected a value that counts as a like, or a list of values")
    return list(positive)


def _numbers(column: pd.Series) -> pd.Series:
    """Return values as numbers, truth values and their names as 1 and 0, anything else as NaN."""
    numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
    return numbers.fillna(column.astype(str).str.lower().map(_TRUTH))


def _some(column: pd.Series) -> str:
    counts = column.value_counts(dropna=False).sort_index()
    shown = ", ".join(f"{value} {count}x" for value, count in list(counts.items())[:4])
    return shown + (", ..." if len(counts) > 4 else "")


def _plain(name: Any) -> str:
    return str(name).partition(":")[0].strip().lower()
