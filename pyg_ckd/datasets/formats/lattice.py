"""Folders of LATTICE, MICRO and CKD: one JSON file of item lists per split.

LATTICE: Zhang et al., *Mining Latent Structures for Multimedia Recommendation*, ACM MM 2021; MICRO: its extension in
IEEE TKDE 2022; CKD: Zhang et al., *Modality-Balanced Learning for Multimedia Recommendation*, ACM MM 2024.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from torch_geometric.data import HeteroData

from pyg_ckd.arguments import as_integer
from pyg_ckd.data import check_data
from pyg_ckd.data.checks import SPLITS
from pyg_ckd.datasets.arrays import one_line
from pyg_ckd.datasets.folder import listing
from pyg_ckd.datasets.formats.common import SIDECAR, Contents, build, parts_of, read_sidecar, write_features
from pyg_ckd.datasets.npz import Impute, Transform
from pyg_ckd.datasets.parts import find_part
from pyg_ckd.datasets.places import check_link
from pyg_ckd.datasets.signatures import refuse_other
from pyg_ckd.errors import InputError
from pyg_ckd.files import as_path, atomic_folder, read_text

_CORE = "5-core"


def read_lattice(
    path: str | os.PathLike[str],
    transform: Transform = "standardize",
    core: int | None = None,
    impute: Impute = "mean",
    strict: bool = True,
    keep: str = "error",
) -> HeteroData:
    r"""Read a graph from a folder of LATTICE, MICRO or CKD.

    ================================ ========================================================================
    file                             content
    ================================ ========================================================================
    ``5-core/train.json``            an object from user row (a string) to the list of item rows, from 0
    ``5-core/val.json, test.json``   the same for the held-out interactions (optional); ``valid.json``,
                                     ``validation.json`` and the like are read as well
    ``<modality>_feat.npy``          ``[num_items, d_m]``, see :mod:`pyg_ckd.datasets.formats.common`
    ================================ ========================================================================

    The JSON files are looked for in ``path/<k>-core``, else in ``path`` itself; the features in ``path``, else in the
    folder of the JSON files, else in its parent.

    Args:
        path: The folder.
        transform: The feature transform, see :func:`pyg_ckd.data.feature_transform`. (default: :obj:`"standardize"`)
        core: The ``k`` of the folder ``<k>-core``. (default: :obj:`None`, the only one)
        impute: What stands in for missing features, see :func:`pyg_ckd.data.imputation`. (default: :obj:`"mean"`)
        strict: See :func:`pyg_ckd.data.build_data`. (default: :obj:`True`)
        keep: Which of repeated interactions to keep: ``"first"``, ``"last"``, or ``"error"``, which refuses them.
            (default: :obj:`"error"`)

    Returns:
        The graph, see :func:`pyg_ckd.data.build_data`. Interactions come user by user, unless the folder was written
        by :func:`write_lattice`, which keeps their order.

    Raises:
        InputError: If a file is missing, damaged or inconsistent with another.
    """
    folder = as_path(path)
    home = json_folder(folder, core)
    parts, files, num_users = {}, {}, 0
    extras = read_sidecar(folder)
    for split in SPLITS:
        file = find_part(home, split, ".json") or home / f"{split}.json"
        if split == "train" or file.is_file():
            part, users = _read_split(file)
            files[split] = file
            parts[split] = _in_order(part, extras, split, folder / SIDECAR, file)
            num_users = max(num_users, users)
    places = list(dict.fromkeys([folder, home, home.absolute().parent]))
    contents = Contents(folder, files["train"], parts, num_users, None, places, files)
    return build(contents, transform, impute, strict, extras, keep)


def write_lattice(data: HeteroData, path: str | os.PathLike[str]) -> None:
    r"""Write a graph as a folder for :func:`read_lattice`, atomically.

    Features are written as they are, so read them back with ``transform="none"``. The order of interactions, which the
    JSON files lose unless they are grouped by user, is kept in the sidecar.

    Args:
        data: The graph; it is checked first, see :func:`pyg_ckd.data.check_data`.
        path: The folder, new or empty.

    Raises:
        InputError: If the graph does not pass the checks or the folder is not empty.
    """
    data = check_data(data, impute="given")
    order = {}
    with atomic_folder(path) as folder:
        (folder / _CORE).mkdir()
        for split, part in parts_of(data).items():
            grouped = np.argsort(part[0], kind="stable")
            users = range(data["user"].num_nodes) if split == "train" else np.unique(part[0]).tolist()
            counts = np.bincount(part[0], minlength=data["user"].num_nodes)
            lists = np.split(part[1, grouped], np.cumsum(counts)[:-1])
            content = {str(user): lists[user].tolist() for user in users}
            (folder / _CORE / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")
            if (np.diff(part[0]) < 0).any():
                order[f"order_{split}"] = np.argsort(grouped)
        write_features(data, folder, **order)


def cores_in(folder: Path) -> list[Path]:
    """Return the folders ``<k>-core`` in a folder."""
    places = sorted(folder.glob("[!.]*-core"))
    for place in places:
        check_link(place)
    return [place for place in places if place.is_dir()]


def json_folder(folder: Path, core: int | None = None) -> Path:
    """Return the folder of the JSON files: ``<k>-core`` in ``folder``, or ``folder`` itself."""
    if core is not None:
        return folder / f"{as_integer(core, 'core')}-core"
    if not folder.is_dir():
        raise InputError(f"{folder}: {'is a file' if folder.exists() else 'does not exist'}, expected a folder")
    found = [place for place in cores_in(folder) if find_part(place, "train", ".json") is not None]
    if len(found) > 1:
        cores = [name for place in found if (name := place.name.removesuffix("-core")).isdecimal()]
        choices = " or ".join(f"core={name}" for name in cores) or "the path of one"
        raise InputError(f"{folder}: holds {', '.join(f.name for f in found)}; choose one with {choices}")
    return found[0] if found else folder


def _read_split(file: Path) -> tuple[np.ndarray, int]:
    """Return the interactions ``[2, E]`` in the order of the file, and the number of users that it implies."""
    content = _read_object(file)
    for key, items in content.items():
        if not (key.isascii() and key.isdigit()) or len(key) > 18:
            raise InputError(f"{file}: key {key!r} is no user row, expected an integer from 0; map ids to rows first")
        if not isinstance(items, list):
            raise InputError(
                f"{file}: user {key!r} has {_short(items)}, expected a list of item rows like [3, 17]; repair the entry"
            )
    users = np.fromiter(map(int, content), dtype=np.int64, count=len(content))
    if np.unique(users).size < users.size:
        raise InputError(f"{file}: writes the same user in two ways, such as '1' and '01'; merge the two lists")
    counts = np.fromiter(map(len, content.values()), dtype=np.int64, count=len(content))
    part = np.stack([np.repeat(users, counts), _items(content, file)])
    return part, 1 + int(users.max(initial=-1))


def _items(content: dict[str, list[Any]], file: Path) -> np.ndarray:
    values = list(chain.from_iterable(content.values()))
    kinds = set(map(type, values))
    if kinds == {str} and all(map(_is_row, values)):
        return np.array(list(map(int, values)), dtype=np.int64)
    if kinds <= {int} and all(map(_is_row, values)):
        return np.array(values, dtype=np.int64)
    first = type(next((value for value in values if _is_row(value)), 0))  # Whichever kind begins is the expected one.
    for user, items in content.items():
        for position, item in enumerate(items):
            if type(item) is not first or not _is_row(item):
                mixed = " (ids are mixed, some are text, some numbers)" if _is_row(item) else ""
                raise InputError(
                    f"{file}: user {user!r} has item {_short(item)} at position {position}{mixed}, expected a row "
                    f"number from 0, like {1 if first is int else '1'!r}; map ids to rows first"
                )
    raise AssertionError("every item is a row number of one type")


def _is_row(value: Any) -> bool:
    if type(value) is str:
        return value.isascii() and value.isdigit() and len(value) <= 18
    return type(value) is int and 0 <= value < 10**18


def _in_order(part: np.ndarray, extras: dict[str, np.ndarray], split: str, sidecar: Path, file: Path) -> np.ndarray:
    order = extras.get(f"order_{split}")
    if order is None:
        return part
    if order.dtype.kind not in "iu" or not np.array_equal(np.sort(order, axis=None), np.arange(part.shape[1])):
        raise InputError(
            f"{sidecar}: 'order_{split}' of shape {list(order.shape)} is no order of the {part.shape[1]} interactions "
            f"in {file.name}; delete {sidecar.name}, it belongs to other interactions"
        )
    return part[:, order]


def _read_object(file: Path) -> dict[str, Any]:
    if not file.is_file():
        found = listing(file.parent) if file.parent.is_dir() else f"{file.parent} is no folder"
        raise InputError(f"{file}: does not exist, expected a JSON object from user row to list of item rows; {found}")
    refuse_other(file, "cannot be read as JSON")
    try:
        content = json.loads(read_text(file), object_pairs_hook=_without_repetition)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{file}: line {error.lineno}, column {error.colno}: not JSON ({error.msg}), cut short or damaged; "
            f"copy or write it again"
        ) from None
    except (ValueError, OSError, RecursionError, MemoryError) as error:
        raise InputError(f"{file}: cannot be read as JSON ({one_line(error)}); copy or write it again") from None
    if not isinstance(content, dict):
        raise InputError(
            f"{file}: holds {_short(content)}, expected an object from user row to list of item rows, like "
            f'{{"0": [3, 17]}}; rewrite it so'
        )
    return content


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"key {twice!r} is there twice; merge the two lists")
    return content


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
