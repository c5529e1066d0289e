"""What the folder formats in circulation share: feature files, and a place for what they cannot say.

In all of them the features of a modality are one ``.npy`` file, and ids are row numbers. The mapping of names is

=================== ====================================================
file                modality
=================== ====================================================
``image_feat.npy``  ``visual``
``text_feat.npy``   ``textual``
``audio_feat.npy``  ``acoustic``
``<m>_feat.npy``    ``m``; a modality really called ``image``, ``text`` or ``audio`` gets one more underscore
=================== ====================================================

``has_<m>.npy`` (bool, ``[num_items]``, by the name of the modality) marks the items that have it, as in
:func:`pyg_ckd.datasets.read_folder`. Our writers put the rest (number of users, order of the modalities, original ids)
into ``pyg_ckd.npz``, which other programs ignore and which may be deleted.

Graphs hold float32: float16 and float32 features survive bit for bit, float64 is rounded to float32, as these programs
do when they make a float tensor of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch_geometric.data import HeteroData

from pyg_ckd.data import build_data, held_out
from pyg_ckd.data.checks import SPLITS
from pyg_ckd.data.prepared import pack, unpack
from pyg_ckd.datasets.arrays import as_original_ids, as_size, ids_of, read_array, read_arrays
from pyg_ckd.datasets.folder import listing
from pyg_ckd.datasets.npz import Impute, Transform
from pyg_ckd.datasets.overlooked import media, warn_of_overlooked
from pyg_ckd.datasets.places import files_in, find_file, is_there
from pyg_ckd.errors import InputError

SIDECAR = "pyg_ckd.npz"
_MODALITY_OF = {"image": "visual", "text": "textual", "audio": "acoustic"}
_STEM_OF = {modality: stem for stem, modality in _MODALITY_OF.items()}
_SHADOWED = re.compile("(image|text|audio)_*")
_SUFFIX = "_feat.npy"


@dataclass
class Contents:
    """What a reader found in a folder, before it becomes a graph.

    Args:
        folder: The folder, for messages.
        interactions: The file of the interactions, for messages.
        parts: Interactions of each split, int64 ``[2, E]``, not negative.
        num_users: Number of users, as far as the interactions tell.
        num_items: Number of items, if it is known.
        feature_folders: Where to look for the feature files; the first folder that has any is taken.
        files: The file of each split, for messages, where there are several.
    """

    folder: Path
    interactions: Path
    parts: Mapping[str, np.ndarray]
    num_users: int | None = None
    num_items: int | None = None
    feature_folders: Sequence[Path] = ()
    files: Mapping[str, Path] = field(default_factory=dict)

    def file_of(self, split: str) -> Path:
        """Return the file of a split, for messages."""
        return self.files.get(split, self.interactions)


def build(
    contents: Contents,
    transform: Transform,
    impute: Impute,
    strict: bool,
    extras: Mapping[str, np.ndarray] | None = None,
    keep: str = "error",
) -> HeteroData:
    """Build the graph of what a reader found.

    Args:
        contents: What was found.
        transform: The feature transform, see :func:`pyg_ckd.data.feature_transform`.
        impute: What stands in for missing features, see :func:`pyg_ckd.data.imputation`.
        strict: See :func:`pyg_ckd.data.build_data`.
        extras: The content of the sidecar. (default: :obj:`None`, read it)
        keep: Which of repeated interactions stays, see :func:`pyg_ckd.data.build_data`. (default: :obj:`"error"`)

    Raises:
        InputError: If the features do not fit the interactions, or the graph does not pass the checks.
    """
    folders = contents.feature_folders or [contents.folder]
    extras = read_sidecar(contents.folder) if extras is None else extras
    sidecar = str(contents.folder / SIDECAR)
    files = feature_files(folders, _order(extras, sidecar))
    features = {m: _read_features(file) for m, file in files.items()}
    _check_rows(features, files, contents)
    reached = {split: 1 + int(part[0].max(initial=-1)) for split, part in contents.parts.items()}
    widest, users = max(reached.items(), key=lambda found: found[1])
    known = as_size(extras, "num_users", sidecar)
    listed = contents.num_users or users
    if known is not None and known < max(users, listed):
        file = contents.file_of(widest)
        found = f"{file} reaches user {users - 1}" if known < users else f"beside {file} there are {listed}"
        raise InputError(
            f"{sidecar}: says that there are {known} users, but {found}; delete {SIDECAR}, it belongs to other "
            "interactions"
        )
    num_users = known or listed
    masks = {m: find_file(files[m].parent, f"has_{m}.npy") for m in files}
    data = build_data(
        contents.parts.get("train"),
        features,
        val=contents.parts.get("val"),
        test=contents.parts.get("test"),
        num_users=num_users or None,
        num_items=next(iter(features.values())).shape[0],
        has={m: read_array(file) for m, file in masks.items() if file is not None},
        source=str(contents.folder),
        transform=transform,
        impute=impute,
        strict=strict,
        keep=keep,
        prepared=unpack(extras, sidecar),
    )
    for name in ("user_id", "item_id"):
        if name in extras:
            data[name] = as_original_ids(extras[name], name, data[name[:4]].num_nodes, sidecar)
    return data


def write_features(data: HeteroData, folder: Path, **extras: np.ndarray) -> None:
    """Write the features, masks and the sidecar of a checked graph into a folder.

    Args:
        data: The graph.
        folder: The folder.
        **extras: Further arrays for the sidecar.
    """
    item = data["item"]
    for m in data.modalities:
        np.save(folder / file_of(m), item[m].numpy())
        if f"has_{m}" in item:
            np.save(folder / f"has_{m}.npy", item[f"has_{m}"].numpy())
    extras |= {"num_users": np.array(data["user"].num_nodes), "modalities": np.array(data.modalities)}
    extras |= ids_of(data)
    extras |= pack(data)
    np.savez_compressed(folder / SIDECAR, **extras)  # type: ignore[arg-type]  # The stubs take **extras for allow_pickle.


def read_sidecar(folder: Path) -> dict[str, np.ndarray]:
    """Return the arrays of the sidecar of a folder, none if there is no such file."""
    return read_arrays(folder / SIDECAR) if is_there(folder / SIDECAR) else {}


def parts_of(data: HeteroData) -> dict[str, np.ndarray]:
    """Return the interactions of each split of a graph as ``[2, E]`` arrays."""
    return {split: held_out(data, split).numpy() for split in SPLITS}


def file_of(modality: str) -> str:
    """Return the name of the feature file of a modality."""
    shadowed = _SHADOWED.fullmatch(modality)
    return (f"{modality}_" if shadowed else _STEM_OF.get(modality, modality)) + _SUFFIX


def modality_of(file: Path) -> str:
    """Return the modality of a feature file."""
    stem = file.name[: -len(_SUFFIX)]
    if stem in _MODALITY_OF:
        return _MODALITY_OF[stem]
    return stem[:-1] if _SHADOWED.fullmatch(stem) else stem


def feature_files(folders: Sequence[Path], order: Sequence[str] = ()) -> dict[str, Path]:
    """Return the feature file of each modality.

    Args:
        folders: Where to look; the first folder that has any feature file is taken.
        order: Modalities to begin with; the others follow, image, text and audio first, then by name.

    Raises:
        InputError: If there is none, or a modality of ``order`` has none.
    """
    usual = [*_STEM_OF]
    for folder in filter(Path.is_dir, folders):
        found = {modality_of(file): file for file in files_in(folder, _SUFFIX) if not _is_mask(file)}
        if found:
            missing = [m for m in order if m not in found]
            if missing:
                raise InputError(
                    f"{folder}: {SIDECAR} names the modality {missing[0]!r}, but {file_of(missing[0])} is missing; "
                    f"add it or delete {SIDECAR}; {listing(folder)}"
                )
            warn_of_overlooked(folder, {file.stem for file in found.values()}, _SUFFIX.removesuffix(".npy"))
            rest = sorted(found, key=lambda m: (usual.index(m) if m in usual else len(usual), m))
            return {m: found[m] for m in dict.fromkeys([*order, *rest])}
    places = " or ".join(str(folder) for folder in folders)
    raise InputError(
        f"{places}: no features, expected image_feat.npy, text_feat.npy or <modality>_feat.npy of shape "
        f"[num_items, d]; {'; '.join([listing(folders[0]), *media(folders[0], (), _SUFFIX.removesuffix('.npy'))])}"
    )


def _is_mask(file: Path) -> bool:
    return file.name.startswith("has_") or file.name.lower() == _SUFFIX  # No modality is called so.


def _order(extras: Mapping[str, np.ndarray], sidecar: str) -> list[str]:
    names = extras.get("modalities", np.array([], dtype=str))
    if names.ndim != 1 or names.dtype.kind != "U":
        raise InputError(
            f"{sidecar}: 'modalities' has dtype {names.dtype}, expected a list of strings; delete the file"
        )
    return names.tolist()


def _read_features(file: Path) -> np.ndarray:
    array = read_array(file, mapped=True)
    if array.ndim != 2:
        raise InputError(f"{file}: has shape {list(array.shape)}, expected [num_items, d], one row per item")
    return array


def _check_rows(features: Mapping[str, np.ndarray], files: Mapping[str, Path], contents: Contents) -> None:
    """Refuse feature files that differ in their number of rows, and items that have no row."""
    first = next(iter(features))
    rows = features[first].shape[0]
    for m, array in features.items():
        if array.shape[0] != rows:
            raise InputError(
                f"{files[m]}: has {array.shape[0]} rows, but {files[first].name} has {rows}; "
                f"give one row per item in each, in the order of the item numbers"
            )
    if contents.num_items not in (None, rows):
        raise InputError(
            f"{files[first]}: has {rows} rows, but there are {contents.num_items} items by {contents.interactions} "
            f"(or the list beside it); give one row per item, in their order"
        )
    for split, part in contents.parts.items():
        outside = np.flatnonzero(part[1] >= rows)
        if outside.size:
            raise InputError(
                f"{files[first]}: has {rows} rows, but {contents.file_of(split)} reaches item {part[1].max()} "
                f"({split}, the first beyond the rows is item {part[1, outside[0]]}); give one row per item, numbered "
                f"from 0"
            )
