"""Checkpoints as safetensors: tensors under dotted names, and all else as JSON in the metadata of the same file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyg_ckd.code import bytes_of
from pyg_ckd.errors import InputError
from pyg_ckd.files import as_path, atomic_path, to_disk
from pyg_ckd.training.checkpoint import FORMATS, check_content, check_file, damaged, load_checkpoint

SUFFIX = ".safetensors"
KEY = "pyg_ckd"
"""What the JSON stands under in the metadata."""
DIGEST = "sha256"
"""What the digest of the JSON and of all tensors stands under; files of before have none."""
NEEDED = {"backbone", "options", "sizes", "feature_dims", "state", "data"}
_LONG = 1000  # Texts of a list that are stored as a tensor of their bytes: the header of a file must stay small.


def save_safetensors(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write a checkpoint to a temporary name and rename it.

    Args:
        path: The file.
        content: Tensors and plain values, nested; what it is stands under ``kind``.

    Raises:
        InputError: If the package safetensors is not installed.
        OSError: If not all of it can be written.
    """
    save_file = _package(path).torch.save_file
    tensors: dict[str, Tensor] = {}

    def store(name: str, tensor: Tensor) -> str:
        tensors[name] = tensor.detach().cpu().contiguous().clone()  # No two may share memory.
        return name

    def plain(value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            return {"tensor": store(name, value)}
        if isinstance(value, Mapping):
            if all(isinstance(key, str) for key in value):
                return {"map": {key: plain(item, f"{name}.{key}" if name else key) for key, item in value.items()}}
            return {"pairs": [[plain(key, name), plain(item, f"{name}.{key}")] for key, item in value.items()]}
        if isinstance(value, (list, tuple)):
            if len(value) > _LONG and all(isinstance(item, str) for item in value):
                return {"texts": store(name, _as_bytes(json.dumps(value)))}
            return [plain(item, f"{name}.{place}") for place, item in enumerate(value)]
        return value

    text = json.dumps(plain({"format": FORMATS[content["kind"]], **content}, ""))
    digest = _digest(text, tensors)
    with atomic_path(path) as temporary, to_disk():
        save_file(tensors, temporary, {KEY: text, DIGEST: digest})


def load_safetensors(path: str | os.PathLike[str], kind: str | None) -> dict[str, Any]:
    """Read what :func:`save_safetensors` wrote; tuples are lists now.

    Args:
        path: The file.
        kind: What it must hold, the value of its key ``kind``; :obj:`None` is any kind.

    Raises:
        InputError: If the file is missing, damaged, of another version or kind, or the package is not installed.
    """
    place, package = check_file(path), _package(path)
    try:
        with package.safe_open(place, "pt") as file:
            metadata = file.metadata() or {}
            text = metadata.get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  It is no dict.
        if text is None:
            raise InputError(
                f"checkpoint {path}: found safetensors without what pyg-ckd writes beside them, expected a file of "
                "save_model or pyg-ckd export"
            )
        if DIGEST in metadata and metadata[DIGEST] != _digest(text, tensors):
            raise InputError(
                f"checkpoint {path}: found other content than its digest {metadata[DIGEST][:12]} says, expected what "
                f"was written with it; it is damaged, train again, or if another tool has saved it anew, remove "
                f"{DIGEST!r} from its metadata"
            )

        def whole(value: Any) -> Any:
            if isinstance(value, list):
                return list(map(whole, value))
            if not isinstance(value, dict):
                return value
            (how, inner), *more = value.items()
            if more or how not in ("tensor", "texts", "map", "pairs"):
                raise ValueError(f"unknown entry {how!r}")
            if how == "tensor":
                return tensors[inner]
            if how == "texts":
                return json.loads(bytes(tensors[inner].tolist()))
            return {whole(k): whole(v) for k, v in (inner.items() if how == "map" else inner)}

        content = whole(json.loads(text))
    except InputError:
        raise
    except Exception as error:  # A damaged file makes the reader fail in any way.
        raise damaged(place, error) from None
    return check_content(path, content, kind)


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of a text and of the names, types, shapes and bytes of tensors."""
    digest: Any = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}\0{tensor.dtype}{tuple(tensor.shape)}:".encode())
        digest.update(bytes_of(tensor))
    return str(digest.hexdigest())


def _as_bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def _package(path: str | os.PathLike[str]) -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError:
        raise InputError(
            f"checkpoint {path}: found no package safetensors; install it with pip install 'pyg-ckd[safetensors]', or "
            "take a name that ends in .pt"
        ) from None
    return safetensors


def read_model(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a model file holds, without building the model.

    Args:
        path: The file.

    Raises:
        InputError: If it is missing or damaged, of another version or no model.
    """
    return read_file(path, "model")


def read_file(path: str | os.PathLike[str], kind: str | None = None) -> dict[str, Any]:
    """Return what a file holds, of a model without building it.

    Args:
        path: The file.
        kind: What it must hold; :obj:`None` is any kind.

    Raises:
        InputError: If it is missing or damaged, of another version or kind.
    """
    read = load_safetensors if as_path(path).suffix.lower() == SUFFIX else load_checkpoint
    content = read(path, kind)
    if content["kind"] != "model":
        return content
    missing = sorted(NEEDED - content.keys())
    if missing:
        raise InputError(f"checkpoint {path}: lacks {', '.join(missing)}; it is damaged, train again")
    return content
