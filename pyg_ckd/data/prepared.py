"""What became of the features of a graph since they were read, kept with the graph in ``data.prepared``.

For every modality it holds plain values and tensors: a digest of what was read, the transforms with their settings and
what they learnt (means, components), the imputation, and the names of columns where a frame had some. Derived numbers
depend on threads and processors in their last bits; what is here does not, so that :func:`pyg_ckd.data.fingerprint`
rests on it, and new items can be prepared alike.

PyG batches dictionaries by their keys, which differ where graphs were prepared differently: leave these out of such a
batch, with ``Batch.from_data_list(graphs, exclude_keys=["prepared"])``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.code import bytes_of
from pyg_ckd.data.mapped import BLOCK, file_of, remembered
from pyg_ckd.errors import InputError
from pyg_ckd.options import is_plain

KEY = "prepared"
BITS = "bits"

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def digest_of(x: Tensor, kept: Tensor | None = None, finite: bool = False) -> str:
    """Return a SHA-256 digest of a tensor: type, shape and content.

    Args:
        x: The tensor.
        kept: Which rows count, bool ``[N]``. (default: :obj:`None`, all)
        finite: Whether zeros stand in for what is not finite.
    """
    shape = x.shape if kept is None else (int(kept.sum()), *x.shape[1:])
    digest: Any = hashlib.sha256(f"{x.dtype}{tuple(shape)}:".encode())
    size = max(1, BLOCK // max(x[:1].numel(), 1))
    for n, block in enumerate(x.detach().split(size)):
        rows: Tensor = block if kept is None else block[kept[n * size : (n + 1) * size]]
        rows = torch.where(torch.isfinite(rows), rows, 0.0) if finite else rows
        digest.update(bytes_of(rows))
    return digest.hexdigest()


def begin(x: Tensor, has: Tensor | None, given: bool) -> dict[str, Any]:
    """Return the record of features as they were read.

    Args:
        x: The features ``[num_items, d]``.
        has: The items that have the modality, or :obj:`None` for all.
        given: Whether the rows of the others stay as they are.
    """
    missing = has is not None and not bool(has.all())
    read = digest_of(x, None if given else has, finite=given) if missing else digest_of(x)
    return {"read": read, "dim": x.size(1), "steps": [], "imputation": None if given else {"name": "MeanImputation"}}


def current(data: HeteroData, modality: str) -> dict[str, Any] | None:
    """Return the record of a modality, or :obj:`None` if there is none, or the features were changed since."""
    record = (getattr(data, KEY, None) or {}).get(modality)
    return record if record is not None and record["bits"] == bits_of(data["item"][modality]) else None


def changed(data: HeteroData, modality: str) -> bool:
    """Return whether the features of a modality were changed since they were prepared."""
    return modality in (getattr(data, KEY, None) or {}) and current(data, modality) is None


def keep(data: HeteroData, modality: str, record: Mapping[str, Any] | None) -> None:
    """Keep the record of the features that a graph has now; :obj:`None` says that nobody knows what became of them."""
    new = {"bits": None} if record is None else {**record, "bits": bits_of(data["item"][modality])}
    setattr(data, KEY, {**(getattr(data, KEY, None) or {}), modality: new})


def settings_of(steps: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    """Return names and settings of transforms, without what they learnt.

    Args:
        steps: What :func:`step_of` returned of each.
    """
    return [(step["name"], step.get("settings")) for step in steps]


def step_of(transform: Any, fitted: Mapping[str, Tensor] | None = None) -> dict[str, Any] | None:
    """Return a transform or imputation as plain values, or :obj:`None` if it is none of this package.

    Args:
        transform: The transform; its attributes are its settings.
        fitted: What it learnt.
    """
    settings = {name: value for name, value in vars(transform).items() if name != "modalities"}
    if not type(transform).__module__.startswith("pyg_ckd.") or not is_plain(settings):
        return None
    step: dict[str, Any] = {"name": type(transform).__name__}
    if settings:
        step["settings"] = settings
    return step if fitted is None else {**step, "fitted": dict(fitted)}


def same_steps(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether transforms have the same settings and have learnt the same numbers.

    Args:
        one, other: What :func:`step_of` returned of each.
    """
    if settings_of(one) != settings_of(other):
        return False
    for mine, theirs in ((s.get("fitted", {}), t.get("fitted", {})) for s, t in zip(one, other, strict=True)):
        if mine.keys() != theirs.keys() or any(mine[k].shape != theirs[k].shape for k in mine):
            return False
        if not all(torch.allclose(mine[k], theirs[k]) for k in mine):
            return False
    return True


def steps_of(transform: Any) -> list[tuple[str, Any]] | None:
    """Return names and settings of a transform and of those that it is composed of, as :func:`settings_of` does.

    Args:
        transform: The transform.

    Returns:
        Names and settings, or :obj:`None` if one is none of this package or acts on some modalities alone.
    """
    if hasattr(transform, "transforms"):
        inner = [steps_of(part) for part in transform.transforms]
        return None if any(part is None for part in inner) else [step for part in inner for step in part or []]
    step = step_of(transform) if hasattr(transform, "forward") else None
    return None if step is None or getattr(transform, "modalities", None) is not None else settings_of([step])


def describe_record(record: Mapping[str, Any] | None, x: Tensor, missing: bool) -> str:
    """Return what a fingerprint says of a modality: what was read, and the settings of what was done to it.

    Args:
        record: The record, or :obj:`None`: then the features are what was read.
        x: The features.
        missing: Whether any item lacks the modality.
    """
    if record is None:
        return digest_of(x)
    steps = [{name: value for name, value in step.items() if name != "fitted"} for step in record["steps"]]
    imputation = record["imputation"] if missing else None
    return record["read"] + (json.dumps([steps, imputation], sort_keys=True) if steps or imputation else "")


def bits_of(x: Tensor) -> str:
    """Return a digest of the sums of a matrix's bits over rows and columns, which differ if anything does.

    Of a matrix in a memory-mapped file it is computed once, see :func:`~pyg_ckd.data.mapped.remembered`.
    """
    return _bits_of(x) if file_of(x) is None else remembered(x, BITS, _bits_of)


def _bits_of(x: Tensor) -> str:
    size = x.element_size()
    if x.dim() != 2 or size not in _INTEGERS:
        return digest_of(x)
    rows, columns = [], torch.zeros(x.size(1), dtype=torch.int64, device=x.device)
    for block in x.detach().split(max(1, BLOCK // max(x.size(1), 1))):
        numbers = block.contiguous().view(_INTEGERS[size])
        rows.append(numbers.sum(dim=1, dtype=torch.int64))
        columns += numbers.sum(dim=0, dtype=torch.int64)
    both = torch.cat([*rows, columns]).cpu().numpy()
    return hashlib.sha256(f"{x.dtype}{tuple(x.shape)}".encode() + both.tobytes()).hexdigest()[:32]


def pack(data: HeteroData) -> dict[str, np.ndarray]:
    """Return the records of a graph as arrays, none if there is no record; :func:`unpack` reads them."""
    return pack_records({m: record for m in data.modalities if (record := current(data, m)) is not None})


def pack_records(records: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return records by modality as arrays, none if there is no record.

    Args:
        records: The records.
    """
    arrays: list[np.ndarray] = []

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            arrays.append(value.detach().cpu().numpy())
            return {"array": len(arrays) - 1}
        if isinstance(value, Mapping):
            return {name: plain(item) for name, item in value.items()}
        return list(map(plain, value)) if isinstance(value, (list, tuple)) else value

    if not records:
        return {}
    text = json.dumps(plain(records))
    return {KEY: np.array(text)} | {f"{KEY}_{n}": array for n, array in enumerate(arrays)}


def unpack(arrays: Mapping[str, np.ndarray], source: str) -> dict[str, Any] | None:
    """Return the records that :func:`pack` made arrays of, or :obj:`None` if they are not there.

    Raises:
        InputError: If they are damaged.
    """
    if KEY not in arrays:
        return None

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            if set(value) == {"array"}:
                return torch.from_numpy(np.array(arrays[f"{KEY}_{int(value['array'])}"], dtype=np.float64))
            return {name: whole(item) for name, item in value.items()}
        return list(map(whole, value)) if isinstance(value, list) else value

    try:
        records = whole(json.loads(str(arrays[KEY])))
        for record in records.values():
            if not {"read", "dim", "steps", "imputation", "bits"} <= set(record):
                raise KeyError("a record that lacks an entry")
        return records
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{source}: {KEY!r} is damaged ({error}); write the file again, or remove the array") from None
