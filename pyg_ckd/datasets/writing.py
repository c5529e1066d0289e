"""Writing a graph in the format of a name, with the place checked before the work that fills it."""

from __future__ import annotations

import os
from pathlib import Path

from torch_geometric.data import HeteroData

from pyg_ckd.datasets.conversion import WRITERS
from pyg_ckd.errors import InputError, unknown_name


def check_target(target: str | os.PathLike[str], format: str) -> None:
    """Refuse an unknown format, and a place that is taken.

    Args:
        target: The file or the folder to write; it must not exist, or be an empty folder.
        format: ``"npz"``, ``"mmrec"``, ``"lattice"``, ``"diffmm"`` or ``"recbole"``.
    """
    if format not in WRITERS:
        raise unknown_name("format", format, WRITERS)
    place = Path(target)
    if format == "npz" and (place.exists() or place.suffix != ".npz"):
        found = "exists" if place.exists() else "is no name of an .npz file"
        raise InputError(f"{place}: {found}, expected the name of a new .npz file; choose another one or remove it")
    if format != "npz" and place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise InputError(f"{place}: exists, expected a new or empty folder to write to; choose another name")


def write_graph(data: HeteroData, target: str | os.PathLike[str], format: str) -> None:
    """Write a graph, whole or not at all.

    Args:
        data: The graph.
        target: The file or the folder to write.
        format: See :func:`check_target`.

    Raises:
        InputError: If the graph does not pass the checks, or the target is there or cannot be written.
    """
    check_target(target, format)
    try:
        WRITERS[format](data, Path(target))
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({error.strerror or error}), nothing was; make room or choose another place"
        ) from None
