"""Feedback that is no like: interactions with a rating or a label, of which only some count."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pyg_ckd.arguments import shown
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
            raise InputError(f"min_rating: found {shown(min_rating)}, expected a number such as 4") from None
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
    masks = liked_parts({where: frame}, min_rating, positive, where)
    return None if masks is None else masks[0]


def liked_parts(
    frames: Mapping[Any, Any], min_rating: float | None, positive: Positive, where: str
) -> list[np.ndarray] | None:
    """Return which interactions of several frames count, bool ``[E]`` each, or :obj:`None` if all do.

    Args:
        frames: From what a frame is, for messages, to the frame, see :func:`liked`; the same kind of column is taken in
            all of them, though its name may differ.
        min_rating: The lowest rating that counts.
        positive: The value or values that count.
        where: What the frames are together, for messages.

    Raises:
        InputError: If a frame has no such column, a value is missing or no number, or nothing is left of all frames.

    Warns:
        UserWarning: If there is a column whose values differ, and neither option is given.
    """
    check_feedback(min_rating, positive)
    if min_rating is None and positive is None:
        names: dict[Any, Any] = {}
        columns = []
        for frame in frames.values():
            own = {name: _plain(name) for name in feedback_columns(frame.columns)}
            keys = {name: kind if [*own.values()].count(kind) == 1 else name for name, kind in own.items()}
            names = {key: name for name, key in keys.items()} | names
            own_columns = {key: _column(frame, name) for name, key in keys.items()}
            columns.append(pd.DataFrame(own_columns, index=range(len(frame))))
        filled = [frame for frame in columns if len(frame)]  # The others would turn integers into floats.
        together = pd.concat(filled or columns, ignore_index=True)
        for key in together.columns:
            _warn(together[key], names[key], where)
        return None
    keep = [np.ones(len(frame), dtype=bool) for frame in frames.values()]
    if min_rating is not None:
        ratings = {}
        for part, (name, column) in _chosen(frames, RATINGS, "min_rating").items():
            numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
            _refuse(np.isnan(numbers), column, name, "a number", part, _as_number)
            ratings[part] = pd.Series(numbers, name=name)
        keep = [
            one & (rating >= float(min_rating)).to_numpy() for one, rating in zip(keep, ratings.values(), strict=True)
        ]
        if not any(map(np.any, keep)) and any(map(len, keep)):
            every = pd.concat([*ratings.values()])
            raise InputError(
                f"{where}: min_rating={min_rating} leaves no interaction, as {_name_of(ratings)!r} goes from "
                f"{every.min():g} to {every.max():g}; lower it"
            )
    if positive is not None:
        labels = {}
        for part, (name, column) in _chosen(frames, LABELS, "positive").items():
            _refuse(column.isna().to_numpy(dtype=bool), column, name, "a value", part)
            labels[part] = column.rename(name)
        keep = [one & _are(label, positive) for one, label in zip(keep, labels.values(), strict=True)]
        if not any(map(np.any, keep)) and any(map(len, keep)):
            every = pd.concat([*labels.values()], ignore_index=True)
            raise InputError(
                f"{where}: positive={positive!r} leaves no interaction, as {_name_of(labels)!r} holds {_some(every)}; "
                "name one of these values, or several as a list such as [buy, cart]"
            )
    return keep


def _warn(column: pd.Series, name: str, where: str) -> None:
    if _are_lists(column).any():
        return
    values = column.dropna()
    if column.nunique(dropna=False) > 1 or bool((_numbers(values) <= 0).any()):
        option = "min_rating" if _plain(name) in RATINGS and not _numbers(values).isna().any() else "positive"
        warnings.warn(
            f"{where}: the column {str(name)!r} ({_some(column)}) is not used, so that all {len(column)} interactions "
            f"count as likes; choose with {option}=, or drop the column",
            stacklevel=2,
        )


def _chosen(frames: Mapping[Any, Any], first: Sequence[str], option: str) -> dict[Any, tuple[Any, pd.Series]]:
    """Return the name and the values of the column of each frame that an option goes by."""
    names = {part: feedback_columns(frame.columns) for part, frame in frames.items()}
    usual = {part: [name for name in found if _plain(name) in first] for part, found in names.items()}
    names = usual if any(usual.values()) else names
    taken = next((_plain(found[0]) for found in names.values() if found), "")
    chosen = {}
    for part, frame in frames.items():
        name = next((name for name in names[part] if _plain(name) == taken), next(iter(names[part]), None))
        if name is None and (len(frame) or len(frames) == 1):
            columns = ", ".join(map(str, frame.columns)) or "none"
            wanted = f"{taken!r}, as the others have" if taken else "'rating' or 'label'"
            raise InputError(f"{part}: {option} needs a column {wanted}, but found {columns}; add it")
        column = pd.Series(dtype=object) if name is None else _column(frame, name)
        _refuse(_are_lists(column), column, name, "a single value", part)
        chosen[part] = (name, column)
    return chosen


def _are_lists(column: pd.Series) -> np.ndarray:
    """Return which values are lists, arrays or dicts, as Parquet files may hold them, bool ``[E]``."""
    if isinstance(column.dtype, pd.ArrowDtype):
        return np.full(len(column), column.dtype.pyarrow_dtype.num_fields > 0)
    if not (pd.api.types.is_object_dtype(column) and pd.api.types.infer_dtype(column).startswith("mixed")):
        return np.zeros(len(column), dtype=bool)
    return column.map(pd.api.types.is_list_like).to_numpy(dtype=bool)


def _name_of(columns: Mapping[Any, pd.Series]) -> str:
    return str(next(column.name for column in columns.values() if column.name is not None))


def _are(column: pd.Series, positive: Positive) -> np.ndarray:
    """Return which values are one of those that count, as numbers or as text."""
    wanted = _values(positive)
    numbers = _numbers(pd.Series(wanted)).dropna()
    return (column.astype(str).isin(list(map(str, wanted))) | _numbers(column).isin(numbers)).to_numpy(dtype=bool)


def _as_number(value: Any) -> str:
    """Return how to mend a rating that is no number."""
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+,\d+\s*", value):
        return f"write {value.strip().replace(',', '.')}"
    if isinstance(value, str) and value.strip():
        return f"if these are labels, choose them with positive={value.strip()}"
    return "fill or drop the row"


def _refuse(
    wrong: np.ndarray,
    column: pd.Series,
    name: Any,
    expected: str,
    where: str,
    mend: Callable[[Any], str] = lambda _: "fill or drop the row",
) -> None:
    rows = np.flatnonzero(wrong)
    if rows.size:
        value = column.iloc[[int(rows[0])]].tolist()[0]
        raise InputError(
            f"{where}: column {str(name)!r} holds {value!r} in row {rows[0]} (rows count from zero, without the "
            f"header), expected {expected}; {mend(value)}"
        )


def _column(frame: Any, name: Any) -> pd.Series:
    column = frame[name]
    column = column.reset_index(drop=True) if isinstance(column, pd.Series) else pd.Series(column.to_numpy())
    text = pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column)
    return column.replace("", None) if text and not _are_lists(column).any() else column


def _values(positive: Any) -> list[Any]:
    if hasattr(positive, "tolist"):  # Of NumPy or PyTorch.
        positive = positive.tolist()
    if isinstance(positive, (str, int, float)):
        return [positive]
    if not isinstance(positive, Iterable) or isinstance(positive, Iterator):  # Which could be gone through only once.
        raise InputError(
            f"positive: found {shown(positive)}, expected a value that counts as a like, or a list of values"
        )
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
