"""One function for every source of a graph, so that an option can name any of them, and the way to another format."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.datasets.conversion import READERS, recognise
from pyg_ckd.datasets.npz import Transform
from pyg_ckd.datasets.stored import is_stored
from pyg_ckd.datasets.synthetic import synthetic_multimodal
from pyg_ckd.datasets.writing import check_target, write_graph
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.files import as_path


def load(path: str | os.PathLike[str], transform: Transform = "standardize", **options: Any) -> HeteroData:
    r"""Load a graph from a file or folder in any known format.

    Args:
        path: A file or folder in any format of :func:`recognise`, or the word ``"synthetic"``
            (:func:`synthetic_multimodal`).
        transform: The feature transform, see :func:`pyg_ckd.data.feature_transform`. (default: :obj:`"standardize"`)
        **options: Further arguments of the reader, *e.g.*, ``split`` for a folder, ``impute`` for any file or folder,
            or ``seed`` for the synthetic graph.

    Returns:
        The graph, see :func:`pyg_ckd.data.build_data`.

    Raises:
        InputError: If ``path`` is none of these, if an option is unknown or of the wrong type, or if the content is
            wrong.
    """
    reader, arguments = _reader(path)
    options = {name: _plain(value) for name, value in options.items()}
    _check_options(reader, options)
    return reader(*arguments, transform=transform, **options)


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    format: str,
    features: Transform = "none",
    dtype: str = "float32",
    **options: Any,
) -> HeteroData:
    r"""Write a graph in another format. Interactions, their order and splits, features (as float32) and ids are kept.

    With ``format="folder"``, features can be transformed once, see :func:`write_folder`.

    Args:
        source: A file or folder in any format of :func:`recognise`, or the word ``"synthetic"``.
        target: The file or the folder to write; it must not exist, or be an empty folder.
        format: ``"npz"``, ``"folder"``, ``"mmrec"``, ``"lattice"``, ``"diffmm"`` or ``"recbole"``.
        features: The feature transform, for ``"folder"`` alone. (default: :obj:`"none"`)
        dtype: ``"float32"`` or ``"float16"``, for ``"folder"`` alone. (default: :obj:`"float32"`)
        **options: Further arguments of the reader of the source, *e.g.*, ``keep`` or ``split``.

    Returns:
        The graph, with features as in the source.

    Raises:
        InputError: If the source cannot be read, the format is unknown, an option is unknown or of the wrong type, or
            the target is there or cannot be written; nothing half-written stays behind.
    """
    check_target(target, format)
    prepares = {"features": features, "dtype": dtype}
    if format != "folder" and prepares != {"features": "none", "dtype": "float32"}:
        raise InputError(
            f"format: found {format!r} beside features={features!r} and dtype={dtype!r}, expected 'folder': others "
            "hold features as they are in the source"
        )
    raw = {} if str(source) == "synthetic" else {"impute": "given"}
    if features != "none" and options.get("impute", "mean") == "mean":
        options = {name: value for name, value in options.items() if name != "impute"}
    elif features != "none":  # What stands in for missing features is found after the transform.
        data = load(source, features, **options)
        write_graph(data, target, format, dtype=dtype)
        return data
    data = load(source, "none", **{**raw, **options})
    write_graph(data, target, format, **(prepares if format == "folder" else {}))
    return data


def reader_options() -> list[str]:
    """Return the names of all arguments that any reader of files takes, in alphabetical order."""
    return sorted({name for reader in READERS.values() for name in inspect.signature(reader).parameters} - {"path"})


def reader_flags() -> set[str]:
    """Return the names of the arguments of readers that are truth values."""
    found = [parameter for reader in READERS.values() for parameter in inspect.signature(reader).parameters.values()]
    return {parameter.name for parameter in found if isinstance(parameter.default, bool)}


def splits_itself(path: str | os.PathLike[str]) -> bool:
    """Return whether a graph is split as it is read, so that ``split="none"`` keeps all of it for training.

    Args:
        path: As in :func:`load`.
    """
    reader, arguments = _reader(path)
    return "split" in inspect.signature(reader).parameters and not any(map(is_stored, arguments))


def _reader(path: str | os.PathLike[str]) -> tuple[Callable[..., HeteroData], tuple[Path, ...]]:
    if str(path) == "synthetic":
        return synthetic_multimodal, ()
    return READERS[recognise(path)], (as_path(path),)


def _plain(value: Any) -> Any:
    """Return a number of NumPy or PyTorch as one of Python, and an array as a list."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return value.detach().cpu().tolist() if isinstance(value, Tensor) else value


def _check_options(reader: Callable[..., HeteroData], options: Mapping[str, Any]) -> None:
    """Refuse options that the reader does not have, and values that its annotations do not allow."""
    valid = {k: p for k, p in inspect.signature(reader).parameters.items() if k not in ("path", "transform")}
    hints = get_type_hints(reader)
    for name, value in options.items():
        where = f"option {name!r} of {reader.__name__}"
        if name == "features" and name not in valid:
            raise InputError(
                f"unknown option of {reader.__name__} 'features': did you mean 'transform'? It names the transform of "
                "the features"
            )
        if name not in valid:
            raise unknown_name(f"option of {reader.__name__}", name, valid)
        if not _fits(value, hints[name]):
            kind, default = valid[name].annotation, valid[name].default
            raise InputError(
                f"{where}: found {value!r} ({type(value).__name__}), expected {kind}, such as the default {default!r}"
            )
        if name == "seed" and not 0 <= value < 2**63:
            raise InputError(f"{where}: found {value}, expected an integer from 0 to 2^63 - 1")


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value is of an annotated type; an integer is a float as well, a bool is no number."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            _fits(k, arguments[0]) and _fits(v, arguments[1]) for k, v in value.items()
        )
    if origin is not None and issubclass(origin, Sequence):
        return (
            isinstance(value, Iterable)
            and not isinstance(value, (str, Mapping))
            and all(_fits(item, arguments[0]) for item in value)
        )
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    return isinstance(value, origin or hint)
