"""One function for every source of a graph, so that a command line option can name any of them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch_geometric.data import HeteroData

from pyg_ckd.datasets.folder import read_folder
from pyg_ckd.datasets.npz import Transform, read_npz
from pyg_ckd.datasets.synthetic import synthetic_multimodal
from pyg_ckd.errors import InputError, unknown_name


def load(path: str | os.PathLike[str], transform: Transform = "standardize", **options: Any) -> HeteroData:
    r"""Load a graph from whatever ``path`` is.

    Args:
        path: A ``.npz`` file (:func:`read_npz`), a folder (:func:`read_folder`), or the word ``"synthetic"``
            (:func:`synthetic_multimodal`).
        transform: The feature transform, see :func:`pyg_ckd.data.feature_transform`. (default: :obj:`"standardize"`)
        **options: Further arguments of that function, *e.g.*, ``split`` for a folder or ``seed`` for the synthetic
            graph.

    Returns:
        The graph, see :func:`pyg_ckd.data.build_data`.

    Raises:
        InputError: If ``path`` is none of these, if an option is unknown, or if the content is wrong.
    """
    reader, arguments = _reader(path)
    valid = [name for name in inspect.signature(reader).parameters if name not in ("path", "transform")]
    for name in options:
        if name not in valid:
            raise unknown_name(f"option of {reader.__name__}", name, valid)
    return reader(*arguments, transform=transform, **options)


def _reader(path: str | os.PathLike[str]) -> tuple[Callable[..., HeteroData], tuple[Path, ...]]:
    if str(path) == "synthetic":
        return synthetic_multimodal, ()
    file = Path(path)
    if file.is_dir():
        return read_folder, (file,)
    if file.suffix == ".npz":
        return read_npz, (file,)
    found = f"is a {file.suffix or 'nameless'} file" if file.is_file() else "does not exist"
    raise InputError(
        f"{path}: {found}, expected an .npz file, a folder with interactions and <modality>.npy files, "
        f"or the word 'synthetic'"
    )
