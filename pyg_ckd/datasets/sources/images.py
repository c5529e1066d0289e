"""The binary files of image features of the 2014 edition: ids and vectors, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pyg_ckd.errors import InputError

_RECORD = np.dtype([("item", "S10"), ("x", "<f4", 4096)])
_BLOCK = 4096  # Records; 64 MiB are mapped at once.


def read_image_features(path: Path, items: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    r"""Read the features of some items; of several records of an item, the first counts.

    The file holds records of 16394 bytes: ten characters of the id and 4096 little-endian float32. It is mapped into
    memory, and for other items, only the id is read.

    Args:
        path: The file.
        items: The ids of the items, all different.

    Returns:
        The features, float32 ``[N, 4096]``, zero where there are none, and the mask of the items that have them, bool
        ``[N]``.

    Raises:
        InputError: If the file is missing, its size is no multiple of that of a record, it lists none of the items, or
            a vector is not finite.
    """
    records = _map(path)
    index = pd.Index([item.encode() for item in items], dtype=object)
    features = np.zeros((len(items), _RECORD["x"].shape[0]), dtype=np.float32)
    has = np.zeros(len(items), dtype=bool)
    for start in range(0, len(records), _BLOCK):
        block = records[start : start + _BLOCK]
        rows = index.get_indexer(pd.Index(block["item"].astype(object)))
        at = np.flatnonzero(rows >= 0)
        at = at[~has[rows[at]]]
        at = at[np.unique(rows[at], return_index=True)[1]]
        features[rows[at]] = block["x"][at]
        has[rows[at]] = True
        wrong = at[~np.isfinite(features[rows[at]]).all(axis=1)]
        if wrong.size:
            raise InputError(
                f"{path}: the vector of item {items[rows[wrong[0]]]!r} in record {start + wrong[0]} (counted from "
                f"zero) is not finite, so the file is damaged; remove it and download it again"
            )
    if not has.any():
        raise InputError(
            f"{path}: lists none of the {len(items)} items, such as {next(iter(items), '')!r}; give the image features "
            f"of the category of the reviews"
        )
    return features, has


def _map(path: Path) -> np.ndarray:
    try:
        size = path.stat().st_size
        count, rest = divmod(size, _RECORD.itemsize)
        if rest or not count:
            raise InputError(
                f"{path}: has {size} bytes, {count} records of {_RECORD.itemsize} bytes and {rest} more, expected "
                f"whole records, at least one; it is cut short or of another kind, so remove it and download it again"
            )
        return np.memmap(path, dtype=_RECORD, mode="r")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}), expected image features") from None
