"""Graphs in one NumPy archive: the arrays of :func:`pyg_ckd.data.build_data`, each under its own name."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from torch_geometric.data import HeteroData, InMemoryDataset

from pyg_ckd.data import build_data, check_data
from pyg_ckd.data.checks import IMAGES, TEXTS
from pyg_ckd.data.impute import Impute
from pyg_ckd.data.prepared import pack, unpack
from pyg_ckd.datasets.arrays import as_original_ids, as_size, ids_of, read_arrays
from pyg_ckd.datasets.cached import check_functions
from pyg_ckd.datasets.left_out import left_out_of, warn_of
from pyg_ckd.datasets.parts import part_of
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.files import as_path, atomic_path

Transform = str | Callable[[HeteroData], HeteroData] | None

_INTERACTIONS = {"train": "edge_index", "val": "val_edge_index", "test": "test_edge_index"}
_IDS = ("user_id", "item_id")
_KNOWN = ("num_users", "num_items", *_INTERACTIONS, "modalities", *_IDS, "prepared")


class MultimodalNpz(InMemoryDataset):
    r"""The graph of one ``.npz`` file, in the layout of :func:`read_npz`, as a PyG dataset of length one.

    The file is read once and nothing is written beside it.

    Args:
        path: The ``.npz`` file.
        features: The feature transform, see :func:`pyg_ckd.data.feature_transform`. (default: :obj:`"standardize"`)
        transform: Applied to the graph at every access. (default: :obj:`None`)
        pre_transform: Applied to the graph once. (default: :obj:`None`)

    Raises:
        InputError: As :func:`read_npz`, and if a transform is no function.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        features: Transform = "standardize",
        transform: Callable[[HeteroData], Any] | None = None,
        pre_transform: Callable[[HeteroData], HeteroData] | None = None,
    ) -> None:
        check_functions(transform=transform, pre_transform=pre_transform)
        super().__init__(None, transform, pre_transform)
        data = read_npz(path, features)
        self.data, self.slices = self.collate([data if pre_transform is None else pre_transform(data)])


def read_npz(
    path: str | os.PathLike[str],
    transform: Transform = "standardize",
    impute: Impute = "mean",
    strict: bool = True,
    keep: str = "error",
) -> HeteroData:
    r"""Read a graph from a NumPy archive.

    ====================== =========================== ============================================================
    key                    shape and dtype             meaning
    ====================== =========================== ============================================================
    ``train``              ``[2, E]`` integer          user row and item row of the training interactions
    ``val``, ``test``      ``[2, E]`` integer          held-out interactions (optional); also ``valid`` and the like
    ``num_users``          scalar integer              number of users (optional, else inferred)
    ``num_items``          scalar integer              number of items (optional, else inferred)
    any other name ``m``   ``[num_items, d_m]`` real   features of modality ``m``
    ``has_m``              ``[num_items]`` bool        which items really have modality ``m`` (optional)
    ``modalities``         ``[M]`` string              the modalities in order (optional, else the order of the file)
    ``user_id, item_id``   ``[N]`` integer or string   the ids behind the rows (optional)
    ``prepared``           text                        transforms and imputation of the features (optional)
    ====================== =========================== ============================================================

    Args:
        path: The ``.npz`` file.
        transform: The feature transform, see :func:`pyg_ckd.data.feature_transform`. (default: :obj:`"standardize"`)
        impute: What stands in for missing features, see :func:`pyg_ckd.data.imputation`. (default: :obj:`"mean"`)
        strict: See :func:`pyg_ckd.data.build_data`. (default: :obj:`True`)
        keep: Which of repeated interactions to keep: ``"first"``, ``"last"``, or ``"error"``, which refuses them.
            (default: :obj:`"error"`)

    Returns:
        The graph, see :func:`pyg_ckd.data.build_data`; ``data.user_id`` and ``data.item_id`` are int64 tensors or
        lists of strings, if the file holds them.

    Raises:
        InputError: If the file is missing, damaged, holds Python objects, lacks a key or has an array of a wrong shape.
    """
    path = as_path(path)
    arrays = read_arrays(path)
    source = str(path)
    arrays = _with_parts(arrays, source)
    if "train" not in arrays:
        raise InputError(f"{source}: the interactions 'train' are missing; {unknown_name('key', 'train', arrays)}")
    modalities = _modalities(arrays, source)
    data = build_data(
        arrays["train"],
        {m: arrays[m] for m in modalities},
        val=arrays.get("val"),
        test=arrays.get("test"),
        num_users=as_size(arrays, "num_users", source),
        num_items=as_size(arrays, "num_items", source),
        has={name[4:]: array for name, array in arrays.items() if name.startswith("has_")},
        source=source,
        transform=transform,
        impute=impute,
        strict=strict,
        keep=keep,
        prepared=unpack(arrays, source),
    )
    for name in _IDS:
        if name in arrays:
            data[name] = as_original_ids(arrays[name], name, data[name[:4]].num_nodes, source)
    return data


def write_npz(data: HeteroData, path: str | os.PathLike[str]) -> None:
    r"""Write a graph in the layout of :func:`read_npz`; a killed process leaves no half-written file.

    Features are written as they are, so read them back with ``transform="none"``. Further edge types and node types,
    and further attributes of interactions (such as times), users, items and the graph are left out, with one warning
    that names them.

    Args:
        data: The graph; it is checked first, see :func:`pyg_ckd.data.check_data`.
        path: The file to write, ending in ``.npz``.

    Raises:
        InputError: If the graph does not pass the checks or the name does not end in ``.npz``.
    """
    if as_path(path).suffix.lower() != ".npz":
        raise InputError(f"{path}: expected a file name that ends in .npz")
    data = check_data(data, impute="given")
    item, rates = data["item"], data["user", "rates", "item"]
    arrays: dict[str, Any] = {"num_users": data["user"].num_nodes, "num_items": item.num_nodes}
    arrays |= {split: rates[name].numpy() for split, name in _INTERACTIONS.items()}
    arrays["modalities"] = np.array(data.modalities)
    for m in data.modalities:
        arrays |= {name: item[name].numpy() for name in (m, f"has_{m}") if name in item}
    arrays |= pack(data)
    arrays |= ids_of(data)
    with atomic_path(path) as temporary, temporary.open("wb") as file:  # A name would get another suffix.
        np.savez_compressed(file, **arrays)
    warn_of(left_out_of(data), path, "an .npz file")


def _with_parts(arrays: dict[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """Return arrays with our names of the parts, whose integers ``[2, E]`` may be under others such as ``valid``."""
    taken: dict[str, str] = {}
    for name, array in arrays.items():
        part = part_of(name)
        if part is None or (name != part and (array.dtype.kind not in "iu" or array.ndim != 2 or len(array) != 2)):
            continue
        if part in taken:
            raise InputError(f"{source}: holds {taken[part]!r} and {name!r}, expected one array {part!r}; remove one")
        taken[part] = name
    names = {name: part for part, name in taken.items()}
    return {names.get(name, name): array for name, array in arrays.items()}


def _modalities(arrays: dict[str, np.ndarray], source: str) -> list[str]:
    candidates = [name for name in arrays if name not in _KNOWN and not name.startswith(("has_", "prepared_"))]
    for name in candidates:
        if arrays[name].ndim != 2:
            hint = TEXTS if arrays[name].dtype.kind == "U" else IMAGES if arrays[name].ndim > 2 else ""
            raise InputError(
                f"{source}: array {name!r} has shape {list(arrays[name].shape)}, expected the features of a modality "
                f"[num_items, d]; remove it, or if the name is misspelt, valid names are {', '.join(_KNOWN)}, has_<m>"
                f"{hint}"
            )
    if "modalities" not in arrays:
        return candidates
    if arrays["modalities"].dtype.kind != "U" or arrays["modalities"].ndim != 1:
        raise InputError(f"{source}: 'modalities' has dtype {arrays['modalities'].dtype}, expected a list of strings")
    order = arrays["modalities"].tolist()
    for name in order:
        if name not in candidates:
            raise InputError(
                f"{source}: 'modalities' names an array that is missing; {unknown_name('modality', name, candidates)}"
            )
    left_over = [name for name in candidates if name not in order]
    if left_over or len(set(order)) < len(order):
        raise InputError(f"{source}: 'modalities' is {order}, expected each of {candidates} once; remove the others")
    return order
