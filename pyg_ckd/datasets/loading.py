"""One function for every source of a graph, so that a command line option can name any of them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch_geometric.data import HeteroData

from pyg_ckd.datasets.npz import Transform, read_npz
from pyg_ckd.errors import InputError, unknown_name


def load(path: str | os.PathLike[str], transform: Transform = "standardize", **options: Any) -> HeteroData:
    r"""Load a graph from whatever ``path`` is.

    Args:
        path: A ``.npz`` file (:func:`read_npz`).
        transform: The feature transform, see :func:`pyg_ckd.data.feature_transform`. (default: :obj:`"standardize"`)
        **options: Further arguments of the function that reads this source.

    Raises:
        InputError: If ``path`` is none of these, if an option is unknown, or if the content is wrong.
    """
    return _call(_reader(path), path, transform, options)


def _reader(path: str | os.PathLike[str]) -> Callable[..., HeteroData]:
    if Path(path).is_file() and Path(path).suffix == ".npz":
        return read_npz
    raise InputError(f"{path}: expected an .npz file")


def _call(reader: Callable[..., HeteroData], path: Any, transform: Transform, options: dict[str, Any]) -> HeteroData:
    valid = [name for name in inspect.signature(reader).parameters if name not in ("path", "transform")]
    for name in options:
        if name not in valid:
            raise unknown_name(f"option of {reader.__name__}", name, valid)
    return reader(path, transform=transform, **options)
