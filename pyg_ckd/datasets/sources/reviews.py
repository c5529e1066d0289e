"""Reviews, one JSON object per line, as interactions: read, freed of duplicates and thinned to a k-core."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import json as arrow_json

from pyg_ckd.data.splits import k_core as core_mask
from pyg_ckd.datasets.folder import naming
from pyg_ckd.datasets.sources.lines import numbered, parse_line, read_blocks
from pyg_ckd.errors import InputError, unknown_name

_LIMIT = 1 << 63


@dataclass(frozen=True)
class Interactions:
    """Interactions between users and items, each kind numbered in ascending order of its ids.

    Args:
        pairs: User row and item row, int64 ``[2, E]``.
        timestamps: When, int64 ``[E]``, in the unit of the source.
        user_id: The ids of the users.
        item_id: The ids of the items.
    """

    pairs: np.ndarray
    timestamps: np.ndarray
    user_id: list[str]
    item_id: list[str]


def read_reviews(path: Path, fields: tuple[str, str, str], rating: str | None = None) -> pd.DataFrame:
    r"""Read who reviewed what and when.

    Args:
        path: A file with one JSON object per line, compressed with gzip or not.
        fields: The names of user, item and time in the objects; the first two hold text, the last an integer. Other
            fields are ignored.
        rating: The name of the rating, a number. (default: :obj:`None`, ratings are not read)

    Returns:
        A frame with the categorical columns ``user`` and ``item``, the int64 column ``timestamp`` and, if asked for,
        the float64 column ``rating``, in the order of the file.

    Raises:
        InputError: If the file is damaged or empty, or a line lacks a field or holds something else in it.
    """
    names = fields if rating is None else (*fields, rating)
    schema = pa.schema(zip(names, (pa.string(), pa.string(), pa.int64(), pa.float64()), strict=False))
    blocks = [_compact(_parse(block, first, schema, path)) for first, block in read_blocks(path)]
    if not sum(block.num_rows for block in blocks):
        raise InputError(f"{path}: has no lines, expected one review in each")
    frame = pa.concat_tables(blocks).unify_dictionaries().to_pandas()
    return frame.set_axis(["user", "item", "timestamp", "rating"][: len(names)], axis=1)


def thin(frame: pd.DataFrame, k_core: int, path: Path, likes: np.ndarray | None = None) -> Interactions:
    r"""Keep the earliest interaction of each user and item, then the k-core of these, and number what is left.

    Args:
        frame: The result of :func:`read_reviews`.
        k_core: The fewest interactions of a user and of an item; ``0`` and ``1`` keep all.
        path: Where the frame came from, for messages.
        likes: Which interactions are likes, bool ``[E]``; only these are left of the earliest ones. (default:
            :obj:`None`, all)

    Raises:
        InputError: If nothing is left.
    """
    pairs = np.stack([frame[name].cat.codes.to_numpy(np.int64) for name in ("user", "item")])
    timestamps = frame["timestamp"].to_numpy()
    key = pairs[0] * len(frame["item"].cat.categories) + pairs[1]
    order = np.lexsort((timestamps, key))
    kept = np.sort(order[np.diff(key[order], prepend=-1) != 0])
    kept = kept if likes is None else kept[likes[kept]]
    with naming(path):
        kept = kept[core_mask(pairs[:, kept], k_core)]
    users, user_id = _number(frame["user"].cat, pairs[0, kept])
    items, item_id = _number(frame["item"].cat, pairs[1, kept])
    return Interactions(np.stack([users, items]), timestamps[kept], user_id, item_id)


def _number(categories: Any, codes: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return the rank of the id of each code among the ids that occur, and these ids in order."""
    used, rows = np.unique(codes, return_inverse=True)
    names = categories.categories.to_numpy(dtype=object)[used]
    order = np.argsort(names)
    rank = np.empty(order.size, dtype=np.int64)
    rank[order] = np.arange(order.size)
    return rank[rows], names[order].tolist()


def _compact(table: pa.Table) -> pa.Table:
    columns = [table[0].dictionary_encode(), table[1].dictionary_encode(), *table.columns[2:]]
    return pa.table(columns, names=table.column_names)


def _parse(block: bytes, first: int, schema: pa.Schema, path: Path) -> pa.Table:
    """Parse a block at once, or line by line if it is in any way unusual; that also names what is wrong, and where."""
    table = _parse_at_once(block, schema)
    return _parse_lines(block, first, schema, path) if table is None else table


def _parse_at_once(block: bytes, schema: pa.Schema) -> pa.Table | None:
    lines = block.count(b"\n") + (not block.endswith(b"\n"))
    # Arrow takes objects for lines, and reads what is no object at its own risk.
    if not block.startswith(b"{") or block.count(b"\n{") != lines - 1:
        return None
    if block.count(b"}\n") + block.endswith(b"}") != lines:
        return None
    try:
        table = arrow_json.read_json(
            pa.BufferReader(block),
            arrow_json.ReadOptions(block_size=len(block)),
            arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
        table.validate(full=True)
    except ValueError:
        return None
    usual = table.num_rows == lines and not any(column.null_count for column in table.columns)
    usual &= all(bool(np.isfinite(column.to_numpy()).all()) for column in table.columns[3:])
    if not usual or not all(_is_id(name) for column in table.columns[:2] for name in column.unique().to_pylist()):
        return None
    return table


def _parse_lines(block: bytes, first: int, schema: pa.Schema, path: Path) -> pa.Table:
    rows = list(_rows(block, first, schema.names, path))
    return pa.table([[row[i] for row in rows] for i in range(len(schema))], schema=schema)


def _rows(block: bytes, first: int, fields: list[str], path: Path) -> Iterator[tuple[Any, ...]]:
    for number, line in numbered(first, block):
        where = f"{path}: line {number}"
        record = parse_line(line, where)
        for name in fields:
            if name not in record:
                raise InputError(f"{where}: lacks a field; {unknown_name('field', name, map(str, record))}")
        user, item, timestamp, *rating = (record[name] for name in fields)
        for name, value in zip(fields, (user, item), strict=False):
            if not isinstance(value, str) or not _is_id(value):
                raise InputError(
                    f"{where}: {name!r} is {value!r:.80} ({type(value).__name__}), expected an id: text that can be "
                    f"printed, in every line; write ids as text"
                )
        if type(timestamp) is not int or not -_LIMIT <= timestamp < _LIMIT:
            raise InputError(
                f"{where}: {fields[2]!r} is {timestamp!r:.80} ({type(timestamp).__name__}), expected an integer that "
                f"counts from 1970; repair or remove the line"
            )
        if rating and not _is_finite(rating[0]):
            raise InputError(
                f"{where}: {fields[3]!r} is {rating[0]!r:.80} ({type(rating[0]).__name__}), expected a number of "
                f"stars; repair or remove the line"
            )
        yield user, item, timestamp, *rating


def _is_finite(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)
    except OverflowError:  # An integer that no float holds.
        return False


def _is_id(value: str) -> bool:
    return bool(value) and value.isprintable()
