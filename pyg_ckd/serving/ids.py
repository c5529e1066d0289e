"""Ids on the way in, rows inside, ids again on the way out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from pyg_ckd.errors import InputError

_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,18}")  # As Python writes integers: 007 is another id than 7.
_MANY = 20_000  # More ids than that are searched for a misspelt one only near its place in the order.


class Ids:
    """The ids behind the rows of one kind of nodes.

    Args:
        kind: ``"user"`` or ``"item"``, for messages.
        values: The id of every row, integers or strings; :obj:`None` if ids are the row numbers.
        size: Number of rows.

    Raises:
        InputError: If there are more or fewer ids than rows, an id is there twice, or ids are of mixed types.
    """

    def __init__(self, kind: str, values: Any, size: int) -> None:
        self.kind, self.given = kind, values is not None
        self.index = pd.RangeIndex(size) if values is None else _stored(_checked(values, kind, f"{kind}_id"))
        if not self.integers:
            _check_type(self.index, False, f"{kind}_id")
        if len(self.index) != size:
            raise InputError(f"{kind}_id: found {len(self.index)} ids, expected {size}, one per {kind}")
        if not self.index.is_unique:
            twice = self.index[self.index.duplicated()][0]
            raise InputError(f"{kind}_id: found {_plain(twice)!r} more than once, expected every {kind} once")

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def integers(self) -> bool:
        """Whether ids are integers; if not, they are strings."""
        return pd.api.types.is_integer_dtype(self.index)

    @property
    def nothing(self) -> int | None:
        """What stands in an empty slot."""
        return -1 if self.integers else None

    def rows(self, ids: Any) -> Tensor:
        """Return the rows of one id or many, int64 ``[n]`` on the CPU.

        Ids that are text here and integers in the graph, or the other way round, are compared as text.

        Args:
            ids: An id, or a sequence, array or tensor of ids; :obj:`None` means all.

        Raises:
            InputError: If an id is unknown; the message has the closest ones.
        """
        if ids is None:
            return torch.arange(len(self))
        array, rows = self._found(_checked(ids, self.kind))
        unknown = np.flatnonzero(rows.numpy() < 0)
        if unknown.size:
            raise self._unknown(_plain(array[unknown[0]]), unknown.size)
        return rows

    def rows_of_each(self, lists: Iterable[Any], name: Callable[[int], str]) -> tuple[Tensor, Tensor]:
        """Return (place of the list, row) of every id of several lists, one list after another, int64 ``[E]`` each.

        All ids are looked up together.

        Args:
            lists: Ids as in :meth:`rows`; a list that is :obj:`None` has none.
            name: Returns the name of the list at a place, for messages.

        Raises:
            InputError: As :meth:`rows`, for the first list with an unknown id.
        """
        parts = []
        for place, ids in enumerate(lists):
            try:
                parts.append(_checked([] if ids is None else ids, self.kind))
            except InputError as error:
                raise InputError(f"{name(place)}: {error}") from None
        places = torch.arange(len(parts)).repeat_interleave(torch.tensor([part.size for part in parts]).long())
        filled = [part for part in parts if part.size]
        array, rows = self._found(np.concatenate(filled) if filled else _array([]))
        unknown = (rows < 0).nonzero().view(-1)
        if unknown.numel():
            first = int(places[unknown[0]])
            count = int((places[unknown] == first).sum())
            raise InputError(f"{name(first)}: {self._unknown(_plain(array[unknown[0]]), count)}")
        return places, rows

    def find(self, ids: Any) -> tuple[np.ndarray, Tensor]:
        """Return one id or many as an array ``[n]``, and their rows, int64 ``[n]``, -1 for those that are unknown.

        Args:
            ids: An id, or a sequence, array or tensor of ids.

        Raises:
            InputError: If an id is missing, or neither text nor an integer.
        """
        given, rows = self._found(_checked(ids, self.kind))
        unknown = np.flatnonzero(rows.numpy() < 0)
        kinds = set(map(type, given[unknown].tolist()))
        wrong = {kind for kind in kinds if kind is bool or not issubclass(kind, (str, int, np.integer, UUID))}
        if wrong:
            place = next(place for place in unknown if type(given[place : place + 1].tolist()[0]) in wrong)
            one = given[place : place + 1].tolist()[0]
            raise InputError(
                f"{self.kind} ids: found {_plain(one)!r:.60} ({type(one).__name__}) at position {place}, expected "
                "text or an integer; drop those without an id"
            )
        return given, rows

    def _found(self, given: np.ndarray) -> tuple[np.ndarray, Tensor]:
        array = given
        if not array.size:
            return given, torch.empty(0, dtype=torch.int64)
        alike = array.dtype.kind in "iu" if self.integers else _all_text(array)
        if not alike:
            array = _array([self._alike(one) for one in array])
        found = alike or (array.dtype.kind in "iu" if self.integers else _all_text(array))
        rows = self.index.get_indexer(_index(array)) if found else np.array([self._row(one) for one in array])
        return given, torch.from_numpy(rows.astype(np.int64))

    def parse(self, texts: Iterable[str]) -> list[Any]:
        """Return ids that were typed or read from a text file.

        Args:
            texts: The ids; where those of the graph are integers, the ones that are written as integers become such.
        """
        return [self._alike(text) for text in texts]

    def misfit(self, ids: Iterable[Any]) -> int | None:
        """Return the place of the first id that is not of the type of these, :obj:`None` if all are.

        Args:
            ids: The ids.
        """
        fits = [_is_int64(one) if self.integers else isinstance(one, str) for one in ids]
        return None if all(fits) else fits.index(False)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the ids of rows of any shape, -1 or :obj:`None` where the row is negative.

        Args:
            rows: int64 of any shape.
        """
        if isinstance(self.index, pd.RangeIndex):
            return rows
        ids = self.index.to_numpy()[rows]  # A copy; negative rows give the last id for the moment.
        ids[rows < 0] = self.nothing
        return ids

    def arrow(self, rows: np.ndarray) -> pa.Array:
        """Return the ids of rows, int64 ``[n]``, as a column of Arrow.

        Args:
            rows: int64 ``[n]``, none negative.
        """
        rows = pa.array(rows)
        return rows if isinstance(self.index, pd.RangeIndex) else self._column.take(rows)

    @cached_property
    def _column(self) -> pa.Array:
        try:
            return pa.array(self.index.to_numpy(), pa.int64() if self.integers else pa.string())
        except UnicodeEncodeError as error:
            raise InputError(
                f"{self.kind}_id: found {error.object!r:.60}, which UTF-8 cannot write, expected text without lone "
                "surrogates; read the ids with their right encoding"
            ) from None

    def extended(self, ids: Any, count: int) -> Ids:
        """Return the ids of these rows and of new ones behind them.

        Args:
            ids: The new ids; :obj:`None` for row numbers, where these ids are row numbers too.
            count: Number of new rows.

        Raises:
            InputError: If ids are missing, of another type, not as many as rows, or there already.
        """
        if ids is None:
            if self.given:
                raise InputError(f"new {self.kind}s: found no ids, expected one for each, as those of the graph have")
            return Ids(self.kind, None, len(self) + count)
        new = _checked(ids, self.kind, f"new {self.kind}s")
        if new.size != count:
            raise InputError(f"new {self.kind}s: found {new.size} ids for {count} of them, expected as many")
        if count:
            _check_type(new, self.integers, f"new {self.kind}s")
        there = np.flatnonzero(self.index.get_indexer(_index(new)) >= 0)
        if there.size:
            raise InputError(f"new {self.kind}s: {self.kind} {_plain(new[there[0]])!r} is in the graph already")
        return Ids(self.kind, np.concatenate([self.index.to_numpy(), new]), len(self) + count)

    def _alike(self, one: Any) -> Any:
        """Return an id in the type of those of the graph if it is written alike, else as it is."""
        if self.integers:
            return int(one) if isinstance(one, str) and _WHOLE.fullmatch(one) else one
        return str(one) if isinstance(one, (int, np.integer, UUID)) and not isinstance(one, bool) else one

    def _row(self, one: object) -> int:
        if not self.integers:
            return int(self.index.get_indexer(_index(_array(one)))[0]) if isinstance(one, str) else -1
        if isinstance(one, (int, np.integer)) and not isinstance(one, (bool, np.bool_)):
            return int(self.index.get_indexer(pd.Index([one]))[0])
        return -1

    def _unknown(self, one: Any, count: int) -> InputError:
        near = " or ".join(map(repr, self._closest(one)))
        hint = f"did you mean {near}? " if near else ""
        more = f" ({count} such ids)" if count > 1 else ""
        if isinstance(one, float) and one.is_integer():
            hint += f"write {one:.0f} without a fraction, as .astype('int64') does; "
        kind = "integers" if self.integers else "strings"
        if len(self):
            kind += f" from {_plain(self.index.min())!r} to {_plain(self.index.max())!r}"
        return InputError(
            f"unknown {self.kind} {one!r}{more}: {hint}expected one of the {len(self)} {self.kind} ids of the graph, "
            f"{kind}"
        )

    def _closest(self, one: Any) -> list[Any]:
        """Return up to three ids that are near: in value where both are integers, else in spelling."""
        values = self.index.to_numpy()
        if self.integers and isinstance(one, int):
            distance = np.abs(values.astype(np.float64) - float(one))
            return [_plain(v) for v in values[np.argsort(distance, kind="stable")[:3]]]
        names = values.astype(str) if len(values) <= _MANY else self._around(str(one), values)
        near = difflib.get_close_matches(str(one), names.tolist(), n=3, cutoff=0.6)
        return [int(name) for name in near] if self.integers else near

    @staticmethod
    def _around(one: str, values: np.ndarray) -> np.ndarray:
        names = np.sort(values.astype(str))
        place = int(np.searchsorted(names, one))
        return names[max(0, place - _MANY // 4) : place + _MANY // 4]


def _check_type(ids: Iterable[Any], integers: bool, where: str) -> None:
    """Refuse ids that are not all strings where they are strings, or not integers where they are integers."""
    if _array(ids).dtype.kind in "iu" if integers else _all_text(ids):
        return
    for place, one in enumerate(ids):
        if isinstance(one, (int, np.integer)) and not (isinstance(one, bool) or _is_int64(one)):
            raise InputError(
                f"{where}: found id {one} at position {place}, expected integers from -2^63 to 2^63 - 1, or text; give "
                "all ids as text"
            )
        if integers != _is_int64(one) or not (integers or isinstance(one, str)):
            kind = "an integer" if integers else "a string"
            raise InputError(
                f"{where}: found id {_plain(one)!r} ({type(one).__name__}) at position {place}, expected {kind} as the "
                "others are; give all ids the same type"
            )


def _index(array: np.ndarray) -> pd.Index:
    """Return ids to look up; texts stay objects, for those of Arrow hold no lone surrogates."""
    return pd.Index(array, dtype=array.dtype)


def _stored(array: np.ndarray) -> pd.Index:
    """Return the ids of rows as an index of int64, or of objects."""
    return pd.Index(array, dtype=np.int64 if array.dtype.kind in "iu" else object)


def _all_text(ids: Any) -> bool:
    return pd.api.types.infer_dtype(ids, skipna=False) == "string"


def _checked(values: Any, kind: str, where: str = "") -> np.ndarray:
    """Return one id or many as :func:`_array` does, and refuse what holds more than a list of ids."""
    shape = list(getattr(values, "shape", ()))
    if hasattr(values, "columns"):
        found, mend = f"a {type(values).__name__}", f"take the column that holds them, such as frame[{kind!r}]"
    elif isinstance(values, Mapping):
        found, mend = f"a {type(values).__name__}", "take its keys or its values, such as list(ids)"
    elif len(shape) > 1:
        found, mend = f"an array of shape {shape}", "take one row or column, or all ids as ids.reshape(-1)"
    else:
        return _array(values)
    raise InputError(f"{where or kind + ' ids'}: found {found}, expected one id or a list of ids; {mend}")


def _array(values: Any) -> np.ndarray:
    """Return one id or many as an array ``[n]`` of integers, or of objects if they are anything else."""
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        values = values.to_pylist()
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    if isinstance(values, np.ndarray) and values.dtype == np.uint64:
        fits = not values.size or int(values.max()) < 2**63
        return values.reshape(-1).astype(np.int64 if fits else object)
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
        return values.reshape(-1)
    if isinstance(values, np.ndarray) and values.ndim == 0:
        values = values.item()
    values = list(values) if isinstance(values, Iterable) and not isinstance(values, (str, bytes)) else [values]
    if values and isinstance(values[0], pa.Scalar):
        values = [one.as_py() if isinstance(one, pa.Scalar) else one for one in values]
    if values and all(_is_int64(value) for value in values):
        return np.array(values, dtype=np.int64)
    return np.fromiter(values, dtype=object, count=len(values))


def _is_int64(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and -(2**63) <= int(value) < 2**63


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
