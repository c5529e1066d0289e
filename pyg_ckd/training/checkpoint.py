"""Checkpoints: written whole or not at all, read without executing anything, refused where they do not fit."""

from __future__ import annotations

import os
import random
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import numpy as np
import torch

from pyg_ckd.errors import InputError
from pyg_ckd.files import as_path, atomic_path, to_disk

FORMAT = 3
"""Version of the layout of a checkpoint; raised whenever an older reader or file would be misunderstood."""
FORMATS = {"model": 4, "recommender": 1, "index": 1}
"""The same for kinds that have a number of their own."""
READABLE = {"model": (1, 2, 3, FORMATS["model"]), "teacher": (1, 2, FORMAT)}
"""Versions that can be read, by kind; of other kinds, only the present one. A model of version 3 knows no ids. A run
of version 1 has one group of parameters in its optimizer, and one of version 2 lacks the curve that the early stopping
goes by."""

_MODEL, _RUN = "model.pt", "last.pt"
INSTEAD = {
    "run": "; take the model.pt beside it, which is there when the training has ended",
    "run in parts": "; take the model.pt beside it, which is there when the training has ended",
    "recommender": "; it only serves, with pyg-ckd recommend and Recommender.load: take the model that it was made of",
    "index": "; it only serves, with ItemIndex.load: take the model that it was made of",
}
"""What to do with files of other kinds where a model is asked for."""


def save_checkpoint(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write a checkpoint to a temporary name and rename it.

    Args:
        path: The file.
        content: Tensors and plain values; what it is stands under ``kind``.

    Raises:
        OSError: If not all of it can be written.
    """
    with atomic_path(path) as temporary, _with_sums(), to_disk():
        torch.save({"format": _format(content.get("kind")), **content}, temporary)


@contextmanager
def _with_sums() -> Iterator[None]:
    """Let PyTorch write checksums, whatever the program chose for files of its own."""
    options = torch.serialization
    before = options.get_crc32_options() if hasattr(options, "get_crc32_options") else True
    if before:
        yield
        return
    options.set_crc32_options(True)
    try:
        yield
    finally:
        options.set_crc32_options(False)


def load_checkpoint(
    path: str | os.PathLike[str], kind: str | None, device: str | torch.device = "cpu", mmap: bool = False
) -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``.

    Args:
        path: The file.
        kind: What it must hold, the value of its key ``kind``; :obj:`None` is any kind.
        device: Where its tensors shall lie.
        mmap: Whether tensors stay in the file until they are read. Checksums are compared before, which reads it once.

    Raises:
        InputError: If the file is missing, damaged, of another version or of another kind.
    """
    path = check_file(path)
    try:
        check_sums(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # What is wrong with a hostile file is said below, in one line.
            content = torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    except Exception as error:  # A damaged file makes the reader fail in any way, IndexError and TypeError included.
        raise damaged(path, error) from None
    return check_content(path, content, kind)


def check_sums(path: Path) -> None:
    """Compare the checksums in a file of PyTorch, which PyTorch does not look at, with its content.

    Args:
        path: The file.

    Raises:
        ValueError: If a part has changed since it was written.
        zipfile.BadZipFile: If the file is cut short.
    """
    if zipfile.is_zipfile(path):  # What is none, PyTorch refuses.
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
        if part is not None:
            raise ValueError(f"the part {part} has changed since it was written, or was written without its checksum")


def check_file(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that is there; a leading ``~`` is the home folder.

    Args:
        path: The file.

    Raises:
        InputError: If there is no such file.
    """
    path = as_path(path)
    try:
        is_file = path.is_file()
    except OSError as error:  # A name that no file can have.
        raise InputError(f"checkpoint {path}: {error.strerror}, expected a file written by pyg-ckd") from None
    if not is_file and path.is_dir():
        inside = sorted(file.name for file in path.glob("*.pt") if file.name != _RUN)
        none = "none; model.pt is written when a training has ended" if (path / _RUN).is_file() else "none"
        mend = f"take {path / _MODEL}" if _MODEL in inside else f"of such files it holds {', '.join(inside) or none}"
        raise InputError(f"checkpoint {path}: is a folder, expected a file; {mend}")
    if not is_file:
        raise InputError(f"checkpoint {path}: found no such file, expected one written by pyg-ckd")
    return path


def damaged(path: Path, error: Exception) -> InputError:
    """Return the error for a file that the reader does not understand.

    Args:
        path: The file.
        error: What the reader raised.
    """
    if not _may_be_of_pytorch(path):
        return InputError(f"checkpoint {path}: is no model file, expected a model.pt of train or compare")
    text = re.sub(r"^\[enforce fail at [^\]]*\]\s*", "", str(error).strip())
    reason = text.partition("\n")[0].partition(". ")[0][:120].strip() or type(error).__name__
    if isinstance(error, (UnpicklingError, IndexError)):  # PyTorch gives advice that would execute what is in it.
        reason = "it is no file of PyTorch, or holds more than tensors and plain values"
    return InputError(f"checkpoint {path}: cannot be read ({reason}); it is damaged or no checkpoint, train again")


def _may_be_of_pytorch(path: Path) -> bool:
    """Return whether a file is no archive of another kind, such as one of NumPy."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError):
        return True


def check_content(path: str | os.PathLike[str], content: Any, kind: str | None) -> dict[str, Any]:
    """Return what was read from a file if it is a checkpoint of a kind and of a version that can be read.

    Args:
        path: The file, for the message.
        content: What was read.
        kind: What it must hold; :obj:`None` is any kind.

    Raises:
        InputError: If it is of another version or of another kind.
    """
    found = content.get("kind") if isinstance(content, dict) else None
    if kind is not None and isinstance(found, str) and found != kind:
        raise _other_kind(path, found, kind)
    expected = _format(kind or found)
    if not isinstance(content, dict) or content.get("format") not in READABLE.get(str(kind or found), (expected,)):
        number = content.get("format", "none") if isinstance(content, dict) else type(content).__name__
        newer = isinstance(number, int) and number > expected
        if kind in (None, "model") and isinstance(content, dict) and not content.keys() & {"kind", "format"}:
            raise InputError(
                f"checkpoint {path}: found a file that pyg-ckd did not write, such as a state_dict, expected one of "
                "save_model; load weights with model.load_state_dict(torch.load(path)) and pass the model"
            )
        mend = "a newer version wrote it, update pyg-ckd" if newer else "another version wrote it, train again"
        raise InputError(f"checkpoint {path}: found format {number}, expected {expected}; {mend}")
    if kind is not None and found != kind:
        raise _other_kind(path, found, kind)
    return content


def _other_kind(path: str | os.PathLike[str], found: Any, kind: str) -> InputError:
    mend = INSTEAD.get(str(found), "") if kind == "model" else ""
    return InputError(f"checkpoint {path}: found a checkpoint of kind {found!r}, expected {kind!r}{mend}")


def _format(kind: Any) -> int:
    return FORMATS.get(kind, FORMAT) if isinstance(kind, str) else FORMAT


def check_settings(path: str | os.PathLike[str], found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise an InputError that names the first setting in which a checkpoint differs from the present run.

    Args:
        path: The file, for the message.
        found: Settings stored in the checkpoint; may be nested.
        expected: Settings of the present run; may be nested.

    Raises:
        InputError: If a setting differs, named by its whole path, such as ``trainer.lr``.
    """
    found, expected = _flat(found), _flat(expected)
    for key in sorted({*found, *expected}):
        if found.get(key) != expected.get(key):
            if key == "data":
                raise InputError(
                    f"checkpoint {path}: it was trained on other data (or features or splits), expected the same; "
                    "choose another folder or the same data"
                )
            raise InputError(
                f"checkpoint {path}: found {key} = {found.get(key)!r}, expected {expected.get(key)!r} as in this run; "
                "choose another folder or the same settings"
            )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators of PyTorch, NumPy and Python inside the block and leave them as they were outside.

    Args:
        seed: The seed.
    """
    import rich.style  # noqa: F401 - Draws from Python's generator when it is imported first.

    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - What PyG and modules draw from.
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002


def drawn_elsewhere() -> dict[str, Any]:
    """Return the states of the generators of NumPy and Python, for :func:`draw_on_elsewhere`."""
    name, key, *rest = cast(tuple[Any, ...], np.random.get_state())  # noqa: NPY002
    return {"python": random.getstate(), "numpy": (name, torch.from_numpy(key.astype(np.int64)), *rest)}


def draw_on_elsewhere(states: Mapping[str, Any]) -> None:
    """Set the generators of NumPy and Python.

    Args:
        states: What :func:`drawn_elsewhere` returned.
    """
    version, internal, *last = states["python"]
    random.setstate((version, tuple(internal), *last))
    name, key, *rest = states["numpy"]
    np.random.set_state((name, key.cpu().numpy().astype(np.uint32), *rest))  # noqa: NPY002
