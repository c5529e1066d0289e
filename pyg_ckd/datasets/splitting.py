"""Ways to split the interactions of a table: as it says, at random, by time, by items, or not at all."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd

from pyg_ckd.data.splits import cold_start_split, leave_one_out_split, random_split, temporal_split
from pyg_ckd.datasets.tables import as_timestamps
from pyg_ckd.errors import InputError, unknown_name

TIMED = ("leave-one-out", "temporal")
"""The ways to split that go by timestamps."""

AS_GIVEN = ("auto", "given", "none")
"""The ways that tables which are parts already allow."""

RATIOS = (0.8, 0.1, 0.1)
"""Shares of training, validation and test interactions where nobody says otherwise."""

_METHODS = ("auto", "given", "random", "leave-one-out", "temporal", "cold-start", "none")


def split_method(name: str) -> str:
    """Return the name of a way to split, which may be written with underscores.

    Args:
        name: What was given.

    Raises:
        InputError: If there is no such way.
    """
    if not isinstance(name, str) or name.replace("_", "-") not in _METHODS:
        raise unknown_name("split", name, _METHODS)
    return name.replace("_", "-")


def shares_of(split: str, ratios: Sequence[float] | None) -> Sequence[float]:
    """Return the shares of training, validation and test interactions.

    Args:
        split: The way to split.
        ratios: What was given; :obj:`None` if nothing was.

    Raises:
        InputError: If shares were given, but nothing is split.
    """
    if split != "none":
        return RATIOS if ratios is None else ratios
    if ratios is not None:
        raise InputError(
            f"ratios: found {ratios!r} beside split='none', which makes all interactions training interactions; leave "
            "one of them out"
        )
    return (1.0, 0.0, 0.0)


def split_pairs(
    pairs: np.ndarray,
    frame: pd.DataFrame,
    split: str,
    ratios: Sequence[float],
    seed: int,
    cold_share: float,
    where: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split interactions by the columns ``split`` or ``timestamp`` of their frame, or at random.

    A leave-one-out split without timestamps is at random; a temporal one needs them.

    Args:
        pairs: Interactions, ``[2, E]``.
        frame: Their frame.
        split: The way to split.
        ratios: What :func:`shares_of` returned.
        seed: Seeds what is random.
        cold_share: Share of cold items in a cold-start split.
        where: The source, for the warning of parts that should not be empty, and are.
    """
    parts = _parts_of(pairs, frame, split, ratios, seed, cold_share)
    given = split == "given" or (split == "auto" and "split" in frame.columns)
    wanted = (True, True) if split == "leave-one-out" else tuple(share > 0 for share in ratios[1:])
    empty = [
        n for n, part, asked in zip(("validation", "test"), parts[1:], wanted, strict=True) if asked and not part.size
    ]
    if empty and not given and pairs.size:
        how = repr("random" if split == "auto" else split)
        shares = "" if split == "leave-one-out" else f" with the shares {', '.join(f'{share:g}' for share in ratios)}"
        both = len(empty) > 1
        lost = "nothing is measured" if both else "no epoch is chosen" if empty == ["validation"] else "no test is made"
        warnings.warn(
            f"{where}: split={how}{shares} of {pairs.shape[1]} interactions leaves the {' and '.join(empty)} "
            f"part{'s' if both else ''} empty, so that {lost}; give more interactions, or a column 'split'",
            stacklevel=2,
        )
    return parts


def _parts_of(
    pairs: np.ndarray, frame: pd.DataFrame, split: str, ratios: Sequence[float], seed: int, cold_share: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    given = "split" in frame.columns
    timed = split in TIMED and "timestamp" in frame.columns
    # With the index, which has the rows of the file.
    timestamps = pd.Series(as_timestamps(frame["timestamp"]), index=frame.index) if timed else None
    if split == "given" or (split == "auto" and given):
        if not given:
            raise InputError("split='given' needs a column 'split' in interactions, or train, val and test files")
        part = frame["split"].to_numpy()
        return pairs[:, part == "train"], pairs[:, part == "val"], pairs[:, part == "test"]
    if split == "none":
        return pairs, pairs[:, :0], pairs[:, :0]
    if split == "leave-one-out":
        return leave_one_out_split(pairs, timestamps, seed)
    if split == "temporal":
        return temporal_split(pairs, timestamps, ratios)
    if split == "cold-start":
        return cold_start_split(pairs, ratios, seed, cold_share)
    return random_split(pairs, ratios, seed)
