"""Writing a graph in the format of a name, with the place checked before the work that fills it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch_geometric.data import HeteroData

from pyg_ckd.datasets.formats import write_diffmm, write_lattice, write_mmrec, write_recbole
from pyg_ckd.datasets.npz import write_npz
from pyg_ckd.datasets.stored import write_folder
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.files import as_path, check_folder_is_free

WRITERS: dict[str, Callable[..., None]] = {
    "npz": write_npz,
    "folder": write_folder,
    "mmrec": write_mmrec,
    "lattice": write_lattice,
    "diffmm": write_diffmm,
    "recbole": write_recbole,
}


def check_target(target: str | os.PathLike[str], format: str) -> None:
    """Refuse an unknown format, and a place that is taken.

    Args:
        target: The file or the folder to write; it must not exist, or be an empty folder.
        format: ``"npz"``, ``"folder"``, ``"mmrec"``, ``"lattice"``, ``"diffmm"`` or ``"recbole"``.
    """
    if format not in WRITERS:
        raise unknown_name("format", format, WRITERS)
    place = as_path(target)
    is_folder(place)
    if format != "npz":
        check_folder_is_free(place)
    elif place.exists() or place.suffix.lower() != ".npz":
        found = "exists" if place.exists() else "is no name of an .npz file"
        raise InputError(f"{place}: {found}, expected the name of a new .npz file; choose another one or remove it")


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; one that cannot be looked at, such as a name of 300 letters, is refused."""
    try:
        return path.is_dir()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be reached ({error.strerror or error}), expected a file or folder; choose another"
        ) from None


def write_graph(data: HeteroData, target: str | os.PathLike[str], format: str, **options: Any) -> None:
    """Write a graph, whole or not at all.

    Args:
        data: The graph.
        target: The file or the folder to write.
        format: See :func:`check_target`.
        **options: Further arguments of the writer, *e.g.*, of :func:`write_folder`.

    Raises:
        InputError: If the graph does not pass the checks, or the target is there or cannot be written.
    """
    check_target(target, format)
    try:
        WRITERS[format](data, as_path(target), **options)
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({error.strerror or error}), nothing was; make room or choose another place"
        ) from None
