"""Files in folders as people have them: suffixes in capitals, links to nothing, and companions of macOS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pyg_ckd.errors import InputError


def is_there(path: Path) -> bool:
    """Return whether a file is there.

    Args:
        path: The file.

    Raises:
        InputError: If the path is a link to nothing, as of a file that was not fetched, or a folder.
    """
    if path.is_file():
        return True
    check_link(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a file; rename it, or put the file in its place")
    return False


def check_link(path: Path) -> None:
    """Refuse a link to nothing.

    Args:
        path: The file or folder.

    Raises:
        InputError: If the path is a link, and what it stands for is not there.
    """
    if path.is_symlink() and not path.exists():
        raise InputError(
            f"{path}: is a link to nothing, expected what it stands for, {path.readlink()}; fetch it, e.g. with "
            f"'dvc pull' or 'git annex get', or remove the link"
        )


def files_in(folder: Path, suffix: str = "") -> list[Path]:
    """Return the files of a folder whose names end in a suffix, in the order of their names.

    Hidden files, such as the ``._*`` files that macOS leaves on other disks, are left out.

    Args:
        folder: The folder.
        suffix: The end of the names, *e.g.*, ``"_feat.npy"``; letters may be small or capital. (default: any)

    Raises:
        InputError: If one of them is a link to nothing or a folder.
    """
    return sorted(
        file
        for file in folder.iterdir()
        if file.name.lower().endswith(suffix.lower()) and not file.name.startswith(".") and is_there(file)
    )


def find_file(folder: Path, name: str) -> Path | None:
    """Return the file of a name in a folder, in small or capital letters, or :obj:`None`.

    Args:
        folder: The folder, which need not be there.
        name: The name.

    Raises:
        InputError: If there are two of them, or it is a link to nothing or a folder.
    """
    return find_among(folder, [name])


def find_among(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the file in a folder that has one of several names, in small or capital letters, or :obj:`None`.

    Args:
        folder: The folder, which need not be there.
        names: The names. What ends in ``.parquet`` may be a folder, as Spark and Dask write them.

    Raises:
        InputError: If there are two of them, or one is a link to nothing or another folder.
    """
    if not folder.is_dir():
        return None
    order = {name.lower(): n for n, name in enumerate(names)}
    found = sorted(
        (file for file in folder.iterdir() if file.name.lower() in order),
        key=lambda file: (order[file.name.lower()], file.name),
    )
    found = [file for file in found if is_parquet_folder(file) or is_there(file)]
    if len(found) > 1:
        raise InputError(f"{folder}: holds {found[0].name} and {found[1].name}, expected one of them; remove the other")
    return found[0] if found else None


def is_parquet_folder(path: Path) -> bool:
    """Return whether a path is a table in a folder, as Spark and Dask write them."""
    return path.suffix.lower() == ".parquet" and path.is_dir()
