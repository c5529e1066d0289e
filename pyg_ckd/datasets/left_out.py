"""What files of our own do not hold of a graph."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch_geometric.data import HeteroData

from pyg_ckd.data import prepared
from pyg_ckd.data.inputs import HELD_OUT, RATES


def left_out_of(data: HeteroData) -> list[str]:
    """Return what a checked graph has that our files do not hold, as it is written in Python.

    Args:
        data: The graph.
    """
    kept: dict[Any, set[str]] = {
        None: {"modalities", "source", prepared.KEY, "user_id", "item_id"},
        "user": {"num_nodes"},
        "item": {"num_nodes", *data.modalities, *(f"has_{m}" for m in data.modalities)},
        RATES: {"edge_index", *HELD_OUT},
    }
    left = []
    for store in data.stores:
        key = store._key
        if key not in kept:
            left.append(f"data[{key!r}]")
            continue
        for name in store.keys():  # noqa: SIM118, a storage is no dictionary.
            numbers = name == "n_id" and torch.equal(store[name], torch.arange(store.num_nodes))
            if name not in kept[key] and not numbers:
                left.append(f"data.{name}" if key is None else f"data[{key!r}].{name}")
    return left


def warn_of(left_out: Sequence[str], target: str | os.PathLike[str], kind: str) -> None:
    """Name what a file or folder was written without, if anything.

    Args:
        left_out: What :func:`left_out_of` returned.
        target: The file or folder.
        kind: What it is, with its article.
    """
    if left_out:
        warnings.warn(
            f"{target}: written without {', '.join(left_out)}; {kind} holds sizes, interactions, features, masks and "
            "ids alone",
            stacklevel=3,
        )
