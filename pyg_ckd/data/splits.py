"""Splitting interactions into training, validation and test parts, and thinning them to a k-core.

Every function takes interactions of shape ``[2, E]``, or a data frame with the columns ``user`` and ``item`` (or
``user_id`` and ``item_id``) of ids of any type. Interactions keep the order of the input. Arrays are split into int64
arrays, frames into frames with all their columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pyg_ckd.arguments import as_integer, as_number
from pyg_ckd.data.checks import as_edge_index
from pyg_ckd.data.frames import as_frame, is_frame, pair_columns
from pyg_ckd.data.timestamps import as_dates, warn_of_units
from pyg_ckd.errors import InputError

Split = tuple[Any, Any, Any]

TRAIN, VAL, TEST = 0, 1, 2


def random_split(interactions: Any, ratios: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0) -> Split:
    r"""Split the interactions of each user at random; every user keeps at least one for training.

    The interactions of a user are shuffled and cut at the ratios, with an offset drawn per user instead of rounding, so
    that users with few interactions are held out as often as the ratios require.

    Args:
        interactions: Integers of shape ``[2, E]`` (user row, item row), or a data frame, without duplicates.
        ratios: Shares of training, validation and test interactions; they sum to one. (default: ``(0.8, 0.1, 0.1)``)
        seed: The same seed gives the same split. (default: :obj:`0`)

    Returns:
        ``(train, val, test)``, each int64 ``[2, E']``, or a frame with all columns where a frame was given.

    Raises:
        InputError: If the interactions are no ``[2, E]`` integers, the ratios do not sum to one, or the seed is
            negative.
    """
    interactions, pairs = _as_pairs(interactions, "split")
    return _parts(interactions, _random_parts(pairs[0], check_ratios(ratios), _generator(seed)))


def leave_one_out_split(interactions: Any, timestamps: Any = None, seed: int = 0) -> Split:
    r"""Hold out two interactions of each user: the last one for testing, the one before for validation.

    Users with fewer than three interactions are in the training part only.

    Args:
        interactions: Integers of shape ``[2, E]`` (user row, item row), or a data frame, without duplicates.
        timestamps: Numbers or dates ``[E]`` in the order of the interactions; equal ones keep the order of the input.
            (default: :obj:`None`, a random order)
        seed: Seeds the random order. (default: :obj:`0`)

    Returns:
        ``(train, val, test)``, each int64 ``[2, E']``, or a frame with all columns where a frame was given.

    Raises:
        InputError: If the interactions are no ``[2, E]`` integers, a timestamp is missing or a series of them has
            another order, or the seed is negative.

    Warns:
        UserWarning: If timestamps seem to mix seconds with milliseconds, microseconds or nanoseconds.
    """
    interactions, pairs = _as_pairs(interactions, "split")
    size = pairs.shape[1]
    when = _generator(seed).random((size,)) if timestamps is None else _check_timestamps(timestamps, size, interactions)
    rank, count, _ = _rank_within_user(pairs[0], when)
    from_end = count - 1 - rank
    part = np.select([(count >= 3) & (from_end == 0), (count >= 3) & (from_end == 1)], [TEST, VAL], TRAIN)
    return _parts(interactions, part)


def temporal_split(interactions: Any, timestamps: Any, ratios: Sequence[float] = (0.8, 0.1, 0.1)) -> Split:
    r"""Split at two moments: the oldest interactions are for training, the newest for testing.

    Equal timestamps keep the order of the input. Users who appear late may have no training interaction.

    Args:
        interactions: Integers of shape ``[2, E]`` (user row, item row), or a data frame, without duplicates.
        timestamps: Numbers or dates ``[E]`` in the order of the interactions.
        ratios: Shares of training, validation and test interactions; they sum to one. (default: ``(0.8, 0.1, 0.1)``)

    Returns:
        ``(train, val, test)``, each int64 ``[2, E']``, or a frame with all columns where a frame was given.

    Raises:
        InputError: If the interactions are no ``[2, E]`` integers, a timestamp is missing or a series of them has
            another order, or the ratios do not sum to one.

    Warns:
        UserWarning: If timestamps seem to mix seconds with milliseconds, microseconds or nanoseconds.
    """
    interactions, pairs = _as_pairs(interactions, "split")
    size = pairs.shape[1]
    order = np.argsort(_check_timestamps(timestamps, size, interactions), kind="stable")
    bounds = np.rint(np.cumsum(check_ratios(ratios))[:2] * size).astype(np.int64)
    part = np.empty(size, dtype=np.int64)
    part[order] = np.searchsorted(bounds, np.arange(size), side="right")
    return _parts(interactions, part)


def cold_start_split(
    interactions: Any, ratios: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0, cold_share: float = 0.2
) -> Split:
    r"""Hold out whole items: a share of them has no training interaction at all.

    The cold items are drawn at random among those with interactions and belong to either validation or test, in
    proportion to their ratios (evenly if both are zero). The interactions of the other items are split for each user as
    by :func:`random_split`, so that cold and warm items can be evaluated apart. With ``ratios=(1, 0, 0)`` nothing but
    cold items is held out. Users who only know cold items have no training interaction.

    Args:
        interactions: Integers of shape ``[2, E]`` (user row, item row), or a data frame, without duplicates.
        ratios: Shares of training, validation and test interactions of warm items; they sum to one. (default: ``(0.8,
            0.1, 0.1)``)
        seed: The same seed gives the same split. (default: :obj:`0`)
        cold_share: Share of the items that are cold, rounded to a whole number of items. (default: :obj:`0.2`)

    Returns:
        ``(train, val, test)``, each int64 ``[2, E']``, or a frame with all columns where a frame was given.

    Raises:
        InputError: If the interactions are no ``[2, E]`` integers, the ratios do not sum to one, the seed is negative,
            or ``cold_share`` is not between 0 and 1 or leaves no cold or no warm item.
    """
    interactions, pairs = _as_pairs(interactions, "split")
    shares = check_ratios(ratios)
    items, item = np.unique(pairs[1], return_inverse=True)
    cold_share = as_number(cold_share, "cold_share")
    num_cold = round(cold_share * items.size) if 0 < cold_share < 1 else 0
    if not 0 < num_cold < items.size:
        raise InputError(
            f"split: cold_share is {cold_share}, which makes {num_cold} of {items.size} items cold, expected a share "
            "between 0 and 1 that leaves cold items and others"
        )
    rng = _generator(seed)
    num_val = round(num_cold * (shares[1] / (shares[1] + shares[2]) if shares[1] + shares[2] else 0.5))
    kind = np.full(items.size, TRAIN)
    kind[rng.permutation(items.size)[:num_cold]] = np.where(np.arange(num_cold) < num_val, VAL, TEST)
    part = kind[item]
    warm = np.flatnonzero(part == TRAIN)
    part[warm] = _random_parts(pairs[0, warm], shares, rng)
    return _parts(interactions, part)


def k_core(interactions: Any, k: int, k_item: int | None = None) -> np.ndarray:
    r"""Mark the interactions of the k-core: the largest subset in which every user and item has enough interactions.

    Args:
        interactions: Integers of shape ``[2, E]`` (user row, item row).
        k: The fewest interactions of a user.
        k_item: The fewest interactions of an item. (default: :obj:`None`, the same as ``k``)

    Returns:
        A bool mask ``[E]`` of the interactions to keep.

    Raises:
        InputError: If nothing is left, with the largest ``k`` that would leave something; or if ``k`` is negative.
    """
    check_core(k, k_item)
    k, k_item = int(k), None if k_item is None else int(k_item)
    _, pairs = _as_pairs(interactions, "k-core")
    rows = [np.unique(row, return_inverse=True)[1] for row in pairs]
    keep = _core(rows, k, k if k_item is None else k_item)
    if pairs.shape[1] and not keep.any():
        largest = _largest_k(rows, k, k_item)
        fixed = "" if k_item is None else f", k_item={k_item}"
        advice = f"the largest k that does is {largest}" if largest else "no k does, lower k_item"
        raise InputError(f"k-core: k={k}{fixed} leaves none of the {pairs.shape[1]} interactions; {advice}")
    return keep


def check_ratios(ratios: Sequence[float]) -> np.ndarray:
    """Return the shares of training, validation and test interactions, float64 ``[3]``.

    Raises:
        InputError: If they are not three shares that sum to one, the first above zero.
    """
    try:
        array = np.asarray(ratios, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.shape != (3,) or not (array >= 0).all() or abs(array.sum() - 1) > 1e-6 or array[0] == 0:
        raise InputError(
            f"split: ratios are {ratios!r}, expected three shares (train, val, test) that sum to 1, train above 0"
        )
    return array


def check_core(k: Any, k_item: Any = None) -> None:
    """Refuse fewest interactions of a k-core that are no integers of at least 0.

    Raises:
        InputError: If one is not.
    """
    try:
        low = min(as_integer(x, "k") for x in (k, 0 if k_item is None else k_item))
    except InputError:
        low = -1
    if low < 0:
        raise InputError(f"k-core: k={k!r}, k_item={k_item!r}, expected integers of at least 0, such as 5") from None


def check_seed(seed: int) -> int:
    """Return the seed of a split.

    Raises:
        InputError: If it is negative.
    """
    try:
        return as_integer(seed, "seed", least=0)
    except InputError:
        raise InputError(f"split: seed is {seed!r}, expected an integer of at least 0") from None


def _core(rows: list[np.ndarray], k_user: int, k_item: int) -> np.ndarray:
    kept = np.arange(rows[0].size)
    while True:
        users, items = rows[0][kept], rows[1][kept]
        enough = (np.bincount(users)[users] >= k_user) & (np.bincount(items)[items] >= k_item)
        if enough.all():
            break
        kept = kept[enough]
    keep = np.zeros(rows[0].size, dtype=bool)
    keep[kept] = True
    return keep


def _largest_k(rows: list[np.ndarray], k: int, k_item: int | None) -> int:
    low, high = 0, k  # Cores are nested: `low` leaves something (or is zero), `high` leaves nothing.
    while high - low > 1:
        middle = (low + high) // 2
        leaves = _core(rows, middle, middle if k_item is None else k_item).any()
        low, high = (middle, high) if leaves else (low, middle)
    return low


def _generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(check_seed(seed))


def _random_parts(users: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the part of each interaction, at random within its user."""
    rank, count, user = _rank_within_user(users, rng.random((users.size,)))
    offset = rng.random(int(user.max(initial=-1)) + 1)
    position = (rank + offset[user]) / count
    part = np.searchsorted(np.cumsum(shares)[:2], position, side="right")
    return np.where(rank == 0, TRAIN, part)


def _rank_within_user(users: np.ndarray, key: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rank of each interaction within its user by ascending key, number of the user's, and compact user row."""
    _, user, counts = np.unique(users, return_inverse=True, return_counts=True)
    order = np.lexsort((key, user))
    starts = np.cumsum(counts) - counts
    rank = np.empty(users.size, dtype=np.int64)
    rank[order] = np.arange(users.size) - starts[user[order]]
    return rank, counts[user], user


def _as_pairs(interactions: Any, source: str) -> tuple[Any, np.ndarray]:
    """Return interactions, a table as a frame, and the same as integers ``[2, E]``; ids of frames are numbered."""
    interactions = as_frame(interactions)
    if not is_frame(interactions):
        pairs = as_edge_index(interactions, "interactions", source)
        return pairs, pairs
    columns = pair_columns(interactions, f"{source}: interactions").values()
    integers = all(map(pd.api.types.is_integer_dtype, columns))  # In their order, as those of arrays.
    return interactions, np.stack([pd.factorize(column, sort=integers)[0].astype(np.int64) for column in columns])


def _parts(interactions: Any, part: np.ndarray) -> Split:
    """Return the interactions of each part, of a frame or of pairs ``[2, E]``."""
    masks = [part == one for one in (TRAIN, VAL, TEST)]
    train, val, test = (interactions[mask] if is_frame(interactions) else interactions[:, mask] for mask in masks)
    return train, val, test


def _check_timestamps(timestamps: Any, size: int, interactions: Any) -> np.ndarray:
    if isinstance(timestamps, pd.Series) and isinstance(interactions, pd.DataFrame):
        _check_order(timestamps.index, interactions.index)
    array = as_dates(timestamps)
    if array.shape != (size,) or array.dtype.kind not in "iufM":
        raise InputError(
            f"split: timestamps are {array.dtype} of shape {list(array.shape)}, expected {size} numbers or dates"
        )
    missing = np.flatnonzero(np.isnat(array) if array.dtype.kind == "M" else np.isnan(array))
    if missing.size:
        value = list(timestamps)[missing[0]]
        if value is np.ma.masked or pd.isna(value):
            raise InputError(f"split: {missing.size} timestamps are missing, first in row {missing[0]}; drop them")
        raise InputError(
            f"split: {missing.size} timestamps are neither numbers nor dates, the first is {_plain(value)!r} in row "
            f"{missing[0]}; write dates like 2024-05-31 12:00:00"
        )
    infinite = np.flatnonzero(np.isinf(array)) if array.dtype.kind == "f" else np.empty(0, dtype=np.int64)
    if infinite.size:
        raise InputError(
            f"split: {infinite.size} timestamps are infinite, the first is {array[infinite[0]].item()!r} in row "
            f"{infinite[0]}, expected numbers or dates; drop them"
        )
    warn_of_units(array, timestamps.index if isinstance(timestamps, pd.Series) else None)
    return array


def _check_order(index: pd.Index, rows: pd.Index) -> None:
    """Refuse timestamps with the labels of the interactions in another order."""
    if len(index) != len(rows) or index.equals(rows) or not (index.isin(rows).all() and rows.isin(index).all()):
        return
    row = next((n for n, (label, other) in enumerate(zip(index, rows, strict=True)) if label != other), None)
    if row is None:  # The same labels, in types of their own.
        return
    raise InputError(
        f"split: timestamps have the index of the interactions in another order, {index[row]!r} in row {row} where "
        f"these have {rows[row]!r}, expected the same; give timestamps.loc[interactions.index], or "
        "timestamps.to_numpy() if only their order counts"
    )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
