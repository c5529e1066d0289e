"""Graphs in folders whose features and interactions stay in their files, memory-mapped: prepared and checked once.

============================== ========================================================================================
file                           content
============================== ========================================================================================
``interactions/<split>.npy``   ``[2, E]`` int64 (user row, item row), for ``train``, ``val`` and ``test``; int32, of
                               earlier versions, is converted in memory
``<modality>.npy``             ``[num_items, d_m]`` float32 or float16
``has_<modality>.npy``         ``[num_items]`` bool: items that have the modality, if some lack it
``pyg_ckd.npz``                sizes, order of the modalities, ids, what was done to the features, and for each file its
                               size and time of change, so that it is not read again to see that it is whole
============================== ========================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data import build_data, held_out, prepared
from pyg_ckd.data.arrays import as_floats
from pyg_ckd.data.build import check_data
from pyg_ckd.data.checks import CHECKED, SPLITS
from pyg_ckd.data.impute import Impute, MeanImputation
from pyg_ckd.data.mapped import FINITE, Stamp, file_of, first_row_not_finite, register, remembered, row_blocks
from pyg_ckd.data.transforms import FittedTransform, HalfFeatures, StandardizeFeatures, feature_transform
from pyg_ckd.datasets.arrays import as_original_ids, as_size, ids_of, read_array, read_arrays
from pyg_ckd.datasets.left_out import left_out_of, warn_of
from pyg_ckd.datasets.npz import Transform
from pyg_ckd.datasets.places import is_there
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.files import as_path, atomic_folder

SIDECAR, INTERACTIONS, STAMPS, EDGE_STAMPS = "pyg_ckd.npz", "interactions", "stamps", "interaction_stamps"
DTYPES = {"float32": torch.float32, "float16": torch.float16}

_HALF = prepared.settings_of([{"name": HalfFeatures.__name__}])


def write_folder(
    data: HeteroData, path: str | os.PathLike[str], features: Transform = "none", dtype: str = "float32"
) -> None:
    r"""Write a graph as a folder whose features and interactions stay in their files when :func:`read_folder` opens it.

    The features are transformed as they are written, and the folder remembers it, so that reading transforms them no
    more. Standardization goes through the rows in blocks: features in ``.npy`` files need no memory. Other transforms
    are made in memory. Items that lack a modality get the mean of the others, unless ``features`` is
    ``"none"``: then all rows stay as they are.

    What is kept are sizes, interactions of all splits, features with their masks, their order and what was done to
    them, and ids. Further edge types and node types, and further attributes of interactions (such as times), users,
    items and the graph are left out, with one warning that names them.

    Args:
        data: The graph; it is checked first, see :func:`pyg_ckd.data.check_data`.
        path: The folder to write; it must not exist, or be empty.
        features: The feature transform, see :func:`pyg_ckd.data.feature_transform`. (default: :obj:`"none"`)
        dtype: ``"float32"``, or ``"float16"``, which takes half the room. (default: :obj:`"float32"`)

    Raises:
        InputError: If the graph does not pass the checks, a number is too large for float16, ``dtype`` is unknown, or
            the folder is there; nothing half-written stays behind.

    Example:
        >>> write_folder(read_folder("my_data", transform="none"), "ready", "standardize")  # doctest: +SKIP
        >>> data = read_folder("ready")  # doctest: +SKIP
    """
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    target, transform = as_path(path), feature_transform(features)
    asked = prepared.steps_of(transform)
    steps: list[FittedTransform] = []
    data = check_data(data, impute="given")
    left_out = left_out_of(data)
    known = [prepared.current(data, m) for m in data.modalities]
    if asked and all(record and prepared.settings_of(record["steps"]) == asked for record in known):
        asked = []  # It has been done.
    elif asked == prepared.steps_of(StandardizeFeatures()):
        steps = [StandardizeFeatures()]
    for m, record in zip(data.modalities, known, strict=True):
        if asked != [] and record and record["imputation"] is None and not record["steps"]:
            x, has = data["item"][m], data["item"].get(f"has_{m}")
            prepared.keep(data, m, prepared.begin(x, has, False))  # Rows that are filled in are not what was read.
    if asked != [] and not steps:
        data = MeanImputation()(transform(data))
    if dtype == "float16":
        steps.append(HalfFeatures())
    with atomic_folder(target) as folder:
        records, bad = {}, {}
        for m in data.modalities:
            has = data["item"].get(f"has_{m}")
            records[m], bad[m] = _write_features(data, m, has, steps, folder / f"{m}.npy", target, fill=asked != [])
            if has is not None:
                np.save(folder / f"has_{m}.npy", has.numpy())
        (folder / INTERACTIONS).mkdir()
        for split in SPLITS:
            np.save(folder / INTERACTIONS / f"{split}.npy", held_out(data, split).numpy())
        _write_sidecar(data, folder, records, bad)
    warn_of(left_out, target, "a folder")


def is_stored(folder: Path) -> bool:
    """Return whether a folder is one of :func:`write_folder`.

    Args:
        folder: The folder.
    """
    return is_there(folder / SIDECAR) and (folder / INTERACTIONS).is_dir()


def read_stored(folder: Path, transform: Transform, impute: Impute, strict: bool, keep: str) -> HeteroData:
    """Read a folder of :func:`write_folder`, whose features and interactions stay in their files.

    What the folder says that has been done to the features is not done again, and interactions are not checked again if
    no file of them has been changed since.

    Args:
        folder: The folder.
        transform: The feature transform, see :func:`pyg_ckd.data.feature_transform`.
        impute: What stands in for missing features, see :func:`pyg_ckd.data.imputation`.
        strict: See :func:`pyg_ckd.data.build_data`.
        keep: Which of repeated interactions stays, see :func:`pyg_ckd.data.build_data`.

    Raises:
        InputError: If a file is missing, damaged, of a wrong shape or type, or has been changed since.
    """
    sidecar = folder / SIDECAR
    arrays = read_arrays(sidecar)
    records = prepared.unpack(arrays, str(sidecar)) or {}
    names = arrays.get("modalities", np.array([], dtype=str))
    stamps = arrays.get(STAMPS, np.empty((0, 0)))
    whole = names.ndim == 1 and names.dtype.kind == "U" and names.size and set(names.tolist()) == set(records)
    if not whole or stamps.shape != (names.size, 3) or stamps.dtype.kind not in "iu":
        raise InputError(f"{sidecar}: is damaged or of another version; write the folder again with convert")
    num_items = as_size(arrays, "num_items", str(sidecar))
    features = {
        m: _open_features(folder / f"{m}.npy", records[m][prepared.BITS], tuple(stamp), num_items or 0)
        for m, stamp in zip(names.tolist(), stamps.tolist(), strict=True)
    }
    done = [prepared.settings_of(records[m]["steps"]) for m in features]
    asked = prepared.steps_of(feature_transform(transform))
    if asked and all(asked == [step for step in steps if step not in _HALF] for steps in done):
        transform = "none"
    masks = {m: folder / f"has_{m}.npy" for m in features}
    num_users = as_size(arrays, "num_users", str(sidecar))
    edges = _interactions(folder, arrays, (num_users, num_items))
    data = build_data(
        edges["train"],
        features,
        val=edges["val"],
        test=edges["test"],
        num_users=num_users,
        num_items=num_items,
        has={m: read_array(file) for m, file in masks.items() if is_there(file)},
        source=str(folder),
        transform=transform,
        impute=impute,
        strict=strict,
        keep=keep,
        prepared=records,
    )
    for name in ("user_id", "item_id"):
        if name in arrays:
            data[name] = as_original_ids(arrays[name], name, data[name[:4]].num_nodes, str(sidecar))
    return data


def _write_features(
    data: HeteroData, m: str, has: Tensor | None, steps: list[FittedTransform], file: Path, target: Path, fill: bool
) -> tuple[dict[str, Any], int]:
    """Write one matrix in blocks and return its record, and its first row that is not finite."""
    x, record = data["item"][m], prepared.current(data, m)
    record = prepared.begin(x, has, True) if record is None else dict(record)
    has = None if has is None or bool(has.all()) else has
    fitted: list[Mapping[str, Tensor]] = []
    for step in steps:
        standard = isinstance(step, StandardizeFeatures)
        fitted.append(step.fit_blocks(lambda: _present(x, has), x.size(1)) if standard else {})

    def ready(rows: Tensor) -> Tensor:
        for step, learnt in zip(steps, fitted, strict=True):
            rows = step.apply_rows(as_floats(rows), learnt)
        return rows

    mean = None
    if fill and has is not None:
        total = torch.zeros(x.size(1), dtype=torch.float64)
        for rows in _present(x, has):
            total += ready(rows).sum(dim=0, dtype=torch.float64)
        mean = total / int(has.sum())

    half = bool(steps) and isinstance(steps[-1], HalfFeatures)

    def finished() -> Iterator[Tensor]:
        for n, rows in row_blocks(x):
            out = ready(rows)
            if half:  # First the rows of items that have it: the mean of one too large is in all that are filled in.
                bad = ~out.isfinite().all(dim=1)
                bad = bad if has is None else bad & has[n : n + len(rows)]
                if bool(bad.any()):
                    raise _beyond_half(target / file.name, f"row {n + int(bad.nonzero()[0])}")
            if mean is not None and has is not None:
                out = torch.where(has[n : n + len(rows)].unsqueeze(1), out, mean.to(out.dtype))
            yield out

    dtype = torch.float16 if half else x.dtype
    _write_matrix(file, finished(), tuple(x.shape), dtype, target / file.name)
    written = register(torch.from_numpy(read_array(file, mapped=True)), file)
    row = first_row_not_finite(written)
    if half and row >= 0:
        raise _beyond_half(target / file.name, f"row {row}, of an item without the modality,")
    record["steps"] = [
        *record["steps"],
        *({**(prepared.step_of(s) or {}), "fitted": dict(f)} for s, f in zip(steps, fitted, strict=True)),
    ]
    if fill:
        record["imputation"] = {"name": MeanImputation.__name__}
    return {**record, prepared.BITS: prepared.bits_of(written)}, row


def _beyond_half(file: Path, row: str) -> InputError:
    return InputError(
        f"{file}: {row} has a number beyond 65504, the largest of float16; write float32, or features='standardize'"
    )


def _present(x: Tensor, has: Tensor | None) -> Iterator[Tensor]:
    """Yield the rows of the items that have a modality, block by block."""
    for n, rows in row_blocks(x):
        yield rows if has is None else rows[has[n : n + len(rows)]]


def _write_matrix(file: Path, blocks: Iterator[Tensor], shape: tuple[int, ...], dtype: torch.dtype, name: Path) -> None:
    kind = np.dtype(np.float16 if dtype == torch.float16 else np.float32)
    with file.open("wb") as stream:
        header = {"descr": npy.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(stream, header)
        for rows in blocks:
            stream.write(np.ascontiguousarray(rows.numpy(), dtype=kind).data)


def _write_sidecar(
    data: HeteroData, folder: Path, records: Mapping[str, Mapping[str, Any]], bad: Mapping[str, int]
) -> None:
    arrays: dict[str, Any] = {"num_users": data["user"].num_nodes, "num_items": data["item"].num_nodes}
    arrays["modalities"] = np.array(data.modalities)
    stamps = {m: Stamp.of(folder / f"{m}.npy") for m in data.modalities}
    arrays[STAMPS] = np.array([(s.size, s.changed, bad[m]) for m, s in stamps.items() if s is not None], np.int64)
    edges = [Stamp.of(folder / INTERACTIONS / f"{split}.npy") for split in SPLITS]
    arrays[EDGE_STAMPS] = np.array([(s.size, s.changed) for s in edges if s is not None], np.int64)
    arrays |= prepared.pack_records(records)
    arrays |= ids_of(data)
    np.savez_compressed(folder / SIDECAR, **arrays)


def _open_features(file: Path, bits: str, stamp: tuple[int, int, int], num_items: int) -> Tensor:
    """Map one matrix; where its size or time of change is another than when it was written, it is read once."""
    array = read_array(file, mapped=True)
    if array.ndim != 2 or array.shape[0] != num_items or not array.flags.c_contiguous:
        raise InputError(f"{file}: has shape {list(array.shape)}, expected [{num_items}, d], one row per item")
    if array.dtype not in (np.float32, np.float16):
        raise InputError(f"{file}: has dtype {array.dtype}, expected {' or '.join(DTYPES)}; write the folder again")
    x = register(torch.from_numpy(array), file)
    now = Stamp.of(file)
    if now is not None and (now.size, now.changed) == stamp[:2]:
        remembered(x, prepared.BITS, lambda _: bits)
        remembered(x, FINITE, lambda _: stamp[2])
    elif prepared.bits_of(x) != bits:
        raise InputError(
            f"{file}: has been changed since {SIDECAR} was written, expected the features that were prepared together; "
            "write the folder again, or put the file back"
        )
    return x


def _interactions(
    folder: Path, arrays: Mapping[str, np.ndarray], sizes: tuple[int | None, int | None]
) -> dict[str, np.ndarray | Tensor | None]:
    """Map the interactions of each split, and note that they were checked if no file has been changed since."""
    found: dict[str, np.ndarray | Tensor | None] = {}
    now = []
    for split in SPLITS:
        file = folder / INTERACTIONS / f"{split}.npy"
        array = read_array(file, mapped=True) if is_there(file) or split == "train" else None
        stamp = Stamp.of(file)
        now.append((stamp.size, stamp.changed) if stamp is not None else (-1, -1))
        whole = array is not None and array.dtype == np.int64 and array.ndim == 2 and array.flags.c_contiguous
        found[split] = register(torch.from_numpy(array), file) if whole else array
    if np.array_equal(arrays.get(EDGE_STAMPS, np.empty(0)), now):
        checked = ((str(folder), now[0]), *sizes)
        for edges in found.values():
            if isinstance(edges, Tensor) and file_of(edges) is not None:
                remembered(edges, CHECKED, lambda _: checked)
    return found
