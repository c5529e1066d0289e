"""Features and media in files that are not read, of which somebody may believe that they are."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Collection
from pathlib import Path

_SUFFIXES = (
    *(".pt", ".pth", ".npz", ".parquet", ".csv", ".tsv", ".feather", ".pkl", ".pickle", ".h5", ".hdf5", ".mat"),
    *(".safetensors", ".npy.gz", ".csv.gz", ".pt.gz"),
)
_WORDS = re.compile(
    r"(^|[_.-])(visual|vision|image|img|video|frame|textual|text|txt|audio|acoustic|sound|feat|feature|emb|embed|"
    r"embedding|vector)s?([_.-]|$)"
)
_DECIMAL = re.compile(rb"(?:^|[,;\t| ])-?\d+\.\d")
_GRAPHS = re.compile(r"adj|graph|model|checkpoint")
_MEDIA = {
    "image": (
        (".jpg", ".jpeg", ".png", ".webp", ".gif"),
        re.compile(r"visual|vision|image|img|picture|photo|video|frame|pixel|cover|poster|thumb"),
    ),
    "audio": ((".wav", ".mp3", ".flac"), re.compile(r"audio|acoustic|sound|music|song|track|voice")),
}
"""By kind, what the names of media files end in, and what the name of a modality that was made of them may contain."""


def overlooked(folder: Path, read: Collection[str], suffix: str = "") -> list[str]:
    """Return the names of files that look like features by their names, and are in another format than ``.npy``.

    Args:
        folder: The folder.
        read: The stems of the feature files that are read.
        suffix: What the stems of feature files end in, *e.g.*, ``"_feat"``.
    """
    known = {stem.lower() for stem in read} | {stem.lower().removesuffix(suffix) for stem in read}
    masks = {file.stem[4:].lower() for file in folder.glob("has_*.npy")}
    found = []
    for file in folder.iterdir():
        ending = next((ending for ending in _SUFFIXES if file.name.lower().endswith(ending)), None)
        if ending is None or file.name.startswith("."):
            continue
        stem = file.name.lower()[: -len(ending)]
        like = stem in masks or (_WORDS.search(stem) is not None and _GRAPHS.search(stem) is None)
        if ending in (".csv", ".tsv") and not _has_decimals(file):  # A table of titles or addresses.
            continue
        if like and not {stem, stem.removesuffix(suffix)} & known:
            found.append(file.name)
    return sorted(found)


def media(folder: Path, read: Collection[str], suffix: str = "") -> list[str]:
    """Return what is said of image and audio files in a folder and in its sub-folders that no modality was made of.

    A single file counts as an ornament, and so do the pictures in the folder of a report.

    Args:
        folder, read, suffix: As in :func:`overlooked`.
    """
    known = {stem.lower().removesuffix(suffix) for stem in read}
    below = [place for place in folder.iterdir() if place.is_dir() and not place.name.startswith(".")]
    found = []
    for place in (folder, *sorted(below)):
        names = [file.name.lower() for file in place.iterdir()] if os.access(place, os.R_OK | os.X_OK) else []
        if place.name.lower() in known or {"report.html", "settings.json"} & set(names):
            continue
        for kind, (endings, words) in _MEDIA.items():
            count = sum(name.endswith(endings) and not name.startswith(".") for name in names)
            if count > 1 and not any(words.search(stem) for stem in known):
                own = re.sub(r"\W+", "_", place.name) if place != folder and place.name.isprintable() else ""
                name = own if own.isidentifier() else "visual" if kind == "image" else "acoustic"
                start = f"{place.name}/: " if place != folder else ""
                found.append(
                    f"{start}{count} {kind} files, not read; encode them with pyg_ckd.datasets.encode_files and save "
                    f"the vectors as {name}{suffix}.npy, one row per item in the order of the items"
                )
    return found


def warn_of_overlooked(folder: Path, read: Collection[str], suffix: str = "") -> None:
    """Warn of files that look like features, and of image and audio files, that are not read.

    Args:
        folder, read, suffix: As in :func:`overlooked`.

    Warns:
        UserWarning: If there are any.
    """
    for text in media(folder, read, suffix):
        warnings.warn(f"{folder}: {text}", stacklevel=2)
    names = overlooked(folder, read, suffix)
    if names:
        warnings.warn(
            f"{folder}: {', '.join(names)}: not read, for features are .npy files; if these are some, write them as "
            f"<modality>{suffix}.npy of shape [num_items, d] with numpy.save",
            stacklevel=2,
        )


def _has_decimals(file: Path) -> bool:
    """Return whether the second line of a text file has several numbers with a decimal point."""
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        line = [stream.readline(1 << 16) for _ in range(2)][1]
    return len(_DECIMAL.findall(line)) > 1
