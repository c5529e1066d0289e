"""Files in folders as people have them: suffixes in capitals, and companions of macOS that are none of ours."""

from __future__ import annotations

from pathlib import Path


def files_in(folder: Path, suffix: str = "") -> list[Path]:
    """Return the files of a folder whose names end in a suffix, in the order of their names.

    Hidden files, such as the ``._*`` files that macOS leaves on other disks, are left out.

    Args:
        folder: The folder.
        suffix: The end of the names, *e.g.*, ``"_feat.npy"``; letters may be small or capital. (default: any)
    """
    return sorted(
        file
        for file in folder.iterdir()
        if file.name.lower().endswith(suffix.lower()) and not file.name.startswith(".") and file.is_file()
    )


def find_file(folder: Path, name: str) -> Path | None:
    """Return the file of a name in a folder, or :obj:`None`; the suffix may be in capitals.

    Args:
        folder: The folder.
        name: The name.
    """
    if (folder / name).is_file():
        return folder / name
    stem, dot, suffix = name.rpartition(".")
    names = [f"{stem}.{suffix.upper()}", f"{stem}.{suffix.capitalize()}"] if dot else []
    if suffix == "gz":  # The one before it as well.
        stem, dot, before = stem.rpartition(".")
        names += [f"{stem}{dot}{before.upper()}.{other}" for other in ("gz", "GZ")]
    return next((folder / other for other in names if (folder / other).is_file()), None)
