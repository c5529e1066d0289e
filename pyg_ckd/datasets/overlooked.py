"""Features in files that are not read, of which somebody may believe that they are."""

from __future__ import annotations

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


def warn_of_overlooked(folder: Path, read: Collection[str], suffix: str = "") -> None:
    """Warn of files that look like features and are not read.

    Args:
        folder, read, suffix: As in :func:`overlooked`.

    Warns:
        UserWarning: If there are any.
    """
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
