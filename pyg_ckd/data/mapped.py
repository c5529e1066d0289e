"""Feature matrices that stay in their files: which are mapped, what was found out about them, and reading in blocks."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from pyg_ckd.errors import InputError

BLOCK = 2**22
"""Values that are looked at together."""

FINITE = "first row that is not finite"
"""Name under which :func:`first_row_not_finite` is remembered."""

FLOATS = (torch.float32, torch.float16)
"""Types that matrices keep in their files; others are converted in memory."""


class Stamp(NamedTuple):
    """What tells whether a file is the one that was opened.

    Attributes:
        inode: Its number in the file system.
        size: Its bytes.
        changed: When it was last written to, in nanoseconds.
    """

    inode: int
    size: int
    changed: int

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Stamp | None:
        """Return the stamp of a file, or :obj:`None` if it cannot be reached."""
        try:
            about = Path(path).stat()
        except OSError:
            return None
        return cls(about.st_ino, about.st_size, about.st_mtime_ns)


class _Mapping(NamedTuple):
    file: Path
    stamp: Stamp | None
    known: dict[Any, Any]


_mappings: dict[int, _Mapping] = {}
_known_tensors: WeakIdKeyDictionary = WeakIdKeyDictionary()


def register(x: Tensor, file: str | os.PathLike[str]) -> Tensor:
    """Remember that a tensor lies in a memory-mapped file, for as long as its memory is in use; return it.

    Args:
        x: A tensor over the memory of the mapping; its views count too.
        file: The file.
    """
    storage = x.untyped_storage()
    place = storage.data_ptr()
    if x.numel() and place not in _mappings:
        path = Path(file).absolute()
        _mappings[place] = _Mapping(path, Stamp.of(path), {})
        weakref.finalize(storage, _mappings.pop, place, None)
    return x


def file_of(x: Any) -> Path | None:
    """Return the file that a tensor is mapped from, or :obj:`None` if it is in memory.

    Args:
        x: Anything.
    """
    mapping = _mapping_of(x)
    return None if mapping is None else mapping.file


def remembered(x: Tensor, name: str, compute: Callable[[Tensor], Any]) -> Any:
    """Return ``compute(x)``, which is computed once for as long as a matrix stays as it is.

    A tensor in memory is known by itself, and its result is computed anew after a change in place. A change behind
    PyTorch's back, as of an array that shares the memory, is not noticed.

    Args:
        x: The matrix.
        name: What is computed; different results have different names.
        compute: The function.

    Raises:
        InputError: If the matrix is mapped from a file that has been written to since it was opened.
    """
    mapping = _mapping_of(x)
    if mapping is None:
        if x.is_inference():
            return compute(x)
        version, known = _known_tensors.get(x, (None, {}))
        if version != x._version:
            version, known = x._version, {}
            _known_tensors[x] = version, known
        key: Any = name
    else:
        check_unchanged(x)
        known = mapping.known
        key = name, x.dtype, x.shape, x.stride(), x.storage_offset(), x._version
    if key not in known:
        known[key] = compute(x)
    return known[key]


def check_unchanged(x: Tensor) -> None:
    """Refuse a matrix whose file has been written to since it was opened; one that was replaced lives on in memory.

    Args:
        x: A matrix, mapped or not.

    Raises:
        InputError: If the file has another size or time of change.
    """
    mapping = _mapping_of(x)
    if mapping is None or mapping.stamp is None:
        return
    now = Stamp.of(mapping.file)
    if now is not None and now.inode == mapping.stamp.inode and now != mapping.stamp:
        found = f"{now.size} bytes" if now.size != mapping.stamp.size else "another time of change"
        raise InputError(
            f"{mapping.file}: found {found}, expected the file of {mapping.stamp.size} bytes as it was when it was "
            "opened; read the data again, and replace files rather than write to them"
        )


def first_row_not_finite(x: Tensor) -> int:
    """Return the first row of a matrix with a NaN or infinite value, or -1 if there is none.

    It is computed once, see :func:`remembered`, and in blocks.

    Args:
        x: The matrix ``[N, d]``.
    """

    def find(x: Tensor) -> int:
        for start, block in row_blocks(x):
            bad = ~block.isfinite().all(dim=1)
            if bool(bad.any()):
                return start + int(bad.nonzero()[0])
        return -1

    return remembered(x, FINITE, find)


def check_all_finite(x: Tensor, modality: str, file: Path | None = None) -> None:
    """Refuse features that hold NaN or infinite values; a matrix is looked through once.

    Args:
        x: The features ``[N, d]``.
        modality: Their modality, for the message.
        file: The file that they come from, for the message. (default: :obj:`None`, the one that ``x`` is mapped from)

    Raises:
        InputError: If a value is not finite.
    """
    row = first_row_not_finite(x)
    if row >= 0:
        file = file or file_of(x)
        where = f"features of {modality!r}" if file is None else f"{file}: features of {modality!r}"
        raise InputError(f"{where}: found NaN or infinite values, first in row {row}; impute them")


def check_squares(x: Tensor, modality: str) -> None:
    """Refuse features whose rows have squared norms beyond single precision.

    It reads the matrix once more, for what has failed already.

    Args:
        x: The features ``[N, d]``.
        modality: Their modality, for the message.

    Raises:
        InputError: If the square of a row's norm overflows.
    """
    largest = 0.0
    for _, block in row_blocks(x):
        rows = block.detach().float()
        if bool(rows.square().sum(dim=1).isinf().any()):
            largest = max(largest, float(rows.abs().max()))
    if largest:
        file = file_of(x)
        where = f"features of {modality!r}" if file is None else f"{file}: features of {modality!r}"
        raise InputError(
            f"{where} are up to {largest:.2g}, whose squares overflow float32; use --transform standardize or l2 "
            "(transform= in Python)"
        )


def row_blocks(x: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield runs of rows of a matrix, with the number of the first, of about :data:`BLOCK` values each.

    Args:
        x: The matrix ``[N, d]``.
    """
    rows = max(1, BLOCK // max(x.size(1), 1))
    for start in range(0, x.size(0), rows):
        yield start, x[start : start + rows]


def mean_of_rows(x: Tensor) -> Tensor:
    """Return the mean over the rows of a matrix, ``[1, d]``; of half precision it is summed in double, and single.

    Args:
        x: The matrix ``[N, d]``.
    """
    if x.dtype != torch.float16 or x.requires_grad:
        return x.mean(dim=0, keepdim=True)
    total = x.new_zeros(1, x.size(1), dtype=torch.float64)
    for _, block in row_blocks(x):
        total += block.sum(dim=0, keepdim=True, dtype=torch.float64)
    return (total / x.size(0)).float()


def _mapping_of(x: Any) -> _Mapping | None:
    if not _mappings or not isinstance(x, Tensor) or x.layout != torch.strided or x.device.type != "cpu":
        return None
    try:
        return _mappings.get(x.untyped_storage().data_ptr())
    except (RuntimeError, NotImplementedError):  # A tensor without memory, as of torch.export.
        return None
