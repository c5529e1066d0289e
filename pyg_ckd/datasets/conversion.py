"""Which format a path is in, and who reads it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from torch_geometric.data import HeteroData

from pyg_ckd.datasets.delimited import read_header
from pyg_ckd.datasets.folder import SHEETS, read_folder
from pyg_ckd.datasets.formats import read_diffmm, read_lattice, read_mmrec, read_recbole
from pyg_ckd.datasets.formats.diffmm import MATRIX
from pyg_ckd.datasets.formats.lattice import cores_in
from pyg_ckd.datasets.formats.recbole import is_typed
from pyg_ckd.datasets.npz import read_npz
from pyg_ckd.datasets.parts import find_part
from pyg_ckd.datasets.places import files_in
from pyg_ckd.datasets.tables import SUFFIXES, find_table
from pyg_ckd.datasets.writing import is_folder
from pyg_ckd.errors import InputError
from pyg_ckd.files import as_path

READERS: dict[str, Callable[..., HeteroData]] = {
    "npz": read_npz,
    "mmrec": read_mmrec,
    "lattice": read_lattice,
    "diffmm": read_diffmm,
    "recbole": read_recbole,
    "folder": read_folder,
}


def recognise(path: str | os.PathLike[str]) -> str:
    r"""Return the name of the format that a path is in.

    ============ ==========================================================================================
    name         recognised by
    ============ ==========================================================================================
    ``npz``      a file that ends in ``.npz``
    ``mmrec``    a folder with ``*.inter``, its columns without types
    ``recbole``  a folder with ``*.inter``, its columns with types, such as ``user_id:token``
    ``lattice``  a folder with ``<k>-core/train.json`` or ``train.json``
    ``diffmm``   a folder with ``trnMat.pkl``
    ``folder``   any other folder, see :func:`read_folder`
    ============ ==========================================================================================

    Args:
        path: A file or folder.

    Raises:
        InputError: If ``path`` is neither, or a folder holds files of several formats.
    """
    folder = as_path(path)
    if not is_folder(folder):
        if folder.suffix.lower() == ".npz":
            return "npz"
        found = f"is a {folder.suffix or 'nameless'} file" if folder.is_file() else "does not exist"
        own = next((suffix for suffix in SUFFIXES if folder.name.lower().endswith(suffix)), "")
        if folder.is_file() and (own or folder.suffix.lower() in SHEETS):
            mend = f"put it into a folder as interactions{own}" if own else "save it as interactions.csv in a folder"
            raise InputError(
                f"{path}: {found}, expected a folder or an .npz file; {mend}, with one <modality>.npy beside it"
            )
        raise InputError(
            f"{path}: {found}, expected an .npz file, a folder with interactions and <modality>.npy files, "
            f"a folder of {', '.join([*READERS][1:-1])}, or the word 'synthetic'"
        )
    try:
        found_by = _signs(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror or error}); make it readable") from None
    if len(found_by) > 1:
        signs = ", ".join(f"{file.relative_to(folder)} ({name})" for name, file in found_by.items())
        raise InputError(f"{folder}: holds files of several formats: {signs}; keep those of one format in the folder")
    return next(iter(found_by), "folder")


def _signs(folder: Path) -> dict[str, Path]:
    """Return a file of each format that a folder has files of."""
    found: dict[str, Path] = {}
    for file in files_in(folder, ".inter")[:1]:
        found["recbole" if is_typed(read_header(file)) else "mmrec"] = file
    for format, place, ending in [
        *(("lattice", place, ".json") for place in (*cores_in(folder), folder)),
        ("diffmm", folder, MATRIX),
    ]:
        table = find_part(place, "train", ending)
        if table is not None:
            found.setdefault(format, table)
    for table in (find_table(folder, "interactions"), find_part(folder, "train", *SUFFIXES)):
        if table is not None:
            found.setdefault("folder", table)
    return found
