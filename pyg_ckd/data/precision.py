"""Features that single precision does not hold: numbers that lie far from zero and close to each other, such as dates.

Graphs hold float32. Where a column would lose what it says, transforms read the matrix in double precision, and their
result is rounded instead of the numbers that were read. The record of such a modality says so (``dtype``), so that new
items are prepared alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data import prepared
from pyg_ckd.data.arrays import as_array
from pyg_ckd.data.checks import as_features

DTYPE = "dtype"
"""Entry of the record of a modality whose transforms read it in double precision."""
NARROW = 2.0**-14
"""Range of a column as a share of its largest number below which float32 leaves it less than eleven bits."""
ROUNDING = 2.0**-40
"""Share of its largest number by which a column of double precision may vary by rounding alone, after many sums."""
_BLOCK = 2**22  # Numbers looked at at once.


def feature_matrix(
    features: Any, modality: str, source: str, has: Any, record: Mapping[str, Any] | None, centred: bool
) -> Tensor:
    """Return features ``[num_items, d_m]`` in float32, or in double precision where a transform is to read them so.

    Args:
        features: The features as they were given.
        modality: The modality.
        source: Where they came from, for messages.
        has: The items that have the modality; :obj:`None` if all have it.
        record: What became of the features of an earlier graph, if the transform repeats it.
        centred: Whether the transform subtracts the means of columns.

    Raises:
        InputError: As :func:`~pyg_ckd.data.checks.as_features`.

    Warns:
        UserWarning: If columns lose in float32 what they say, and the transform does not subtract their means.
    """
    matrix = as_features(features, modality, source)
    narrow = narrow_columns(features, has)
    if reads_double(record) or (narrow and centred):
        return as_double(features, source)
    warn_of_narrow(narrow, modality, source)
    return matrix


def narrow_columns(matrix: Any, has: Any = None) -> list[int]:
    """Return the columns that say something in the precision that they are given in, and less in float32.

    Args:
        matrix: Features ``[N, d]``. Those of 32 bits and fewer, integers apart, lose nothing.
        has: The items that have the modality, bool ``[N]``; others do not count. (default: :obj:`None`, all)
    """
    x = _wide(matrix)
    if x is None:
        return []
    has = None if has is None else np.asarray(has.cpu() if isinstance(has, Tensor) else has)
    if has is not None and (has.dtype.kind != "b" or has.shape != x.shape[:1]):
        has = None  # It is refused by whoever reads it.
    low, high = np.full(x.shape[1], np.inf), np.full(x.shape[1], -np.inf)
    exact = np.ones(x.shape[1], dtype=bool)
    size = max(1, _BLOCK // x.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, x.shape[0], size):
            rows = x[start : start + size]
            rows = rows if has is None else rows[has[start : start + size]]
            if rows.shape[0]:
                low, high = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))
        largest, spread = np.maximum(np.abs(low), np.abs(high)), high - low
        found = np.flatnonzero((spread < NARROW * largest) & (spread > ROUNDING * largest))
        for start in range(0, x.shape[0] if found.size else 0, size):
            rows = x[start : start + size, found]
            rows = rows if has is None else rows[has[start : start + size]]
            exact[found] &= (rows.astype(np.float32).astype(np.float64) == rows).all(axis=0)
    return [int(column) for column in found if not exact[column]]


def as_double(matrix: Any, source: str) -> Tensor:
    """Return a copy of features in double precision, ``[N, d]``.

    Args:
        matrix: The features.
        source: Where they came from, for messages.
    """
    return torch.from_numpy(np.array(as_array(matrix, source), dtype=np.float64, order="C"))


def reads_double(record: Mapping[str, Any] | None) -> bool:
    """Return whether the transforms of a modality read it in double precision.

    Args:
        record: What was done to its features, see :mod:`pyg_ckd.data.prepared`.
    """
    return record is not None and record.get(DTYPE) == "float64"


def subtracts_means(transform: Any) -> bool:
    """Return whether a transform is one of this package that subtracts the mean of every column.

    Args:
        transform: The feature transform.
    """
    steps = prepared.steps_of(transform)
    return any(name in ("StandardizeFeatures", "PCAFeatures") for name, _ in steps or [])


def warn_of_narrow(columns: list[int], modality: str, source: str) -> None:
    """Warn of columns that lose in float32 what they say.

    Args:
        columns: What :func:`narrow_columns` returned.
        modality: The modality.
        source: Where its features came from.
    """
    if columns:
        more = f" and {len(columns) - 1} more" if len(columns) > 1 else ""
        warnings.warn(
            f"{source}: features of {modality!r}: column {columns[0]}{more} varies by so little around large numbers "
            "that float32 does not tell the rows apart; subtract an offset such as the smallest number before, or "
            "choose the transform 'standardize'",
            stacklevel=4,
        )


def in_single(data: HeteroData) -> HeteroData:
    """Return a graph with features of double precision rounded to float32, and the record of what became of them.

    Args:
        data: The graph.
    """
    for m in data.modalities:
        x, record = data["item"][m], prepared.current(data, m)
        if x.dtype == torch.float64 and record is not None:
            data["item"][m] = x.float()
            prepared.keep(data, m, {**record, DTYPE: "float64"})
    return data


def _wide(matrix: Any) -> np.ndarray | None:
    """Return features of which float32 does not hold every number, or nothing."""
    if isinstance(matrix, Tensor) and matrix.dtype not in (torch.float64, torch.int32, torch.int64):
        return None
    x = as_array(matrix, "features")
    large = x.dtype.kind in "fiu" and x.dtype.itemsize >= (8 if x.dtype.kind == "f" else 4)
    return x if large and x.ndim == 2 and x.size else None
