"""Encoding many inputs in batches that survive an interruption."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pyg_ckd.arguments import as_integer
from pyg_ckd.code import code_of
from pyg_ckd.data.arrays import as_array, without_tensors
from pyg_ckd.datasets.arrays import read_array
from pyg_ckd.datasets.progress import progress_bar
from pyg_ckd.errors import InputError
from pyg_ckd.files import as_path, atomic_path
from pyg_ckd.options import is_plain

_PLAIN = (bytes, np.generic, datetime.date, datetime.time, datetime.timedelta, uuid.UUID, Decimal)
"""Types whose objects are equal if they print alike."""

Encoder = Callable[[list[Any]], Any]


def encode_batches(
    inputs: Sequence[Any],
    encode: Encoder,
    batch_size: int = 256,
    cache: str | os.PathLike[str] | None = None,
    name: str = "encoder",
    progress: bool = True,
    version: str = "",
) -> np.ndarray:
    r"""Turn inputs into vectors, batch by batch.

    Args:
        inputs: Texts, paths or any other objects.
        encode: Maps a list of at most ``batch_size`` inputs to an array ``[B, d]``, with the same ``d`` every time.
        batch_size: Number of inputs of a batch. (default: :obj:`256`)
        cache: A folder that keeps every finished batch for the next call. Its file name is a digest of ``name``,
            ``version`` and the inputs, which are texts, paths, numbers, arrays, tensors, or lists and dicts of texts
            and numbers; for files (:class:`pathlib.Path`), also of their size and modification time. (default:
            :obj:`None`, nothing is kept)
        name: Name of the encoder in messages, on the progress bar and in the cache. (default: :obj:`"encoder"`)
        progress: If set to :obj:`False`, show no progress bar. (default: :obj:`True`)
        version: Version of the encoder; each version has its own batches in the cache. (default: ``""``)

    Returns:
        The vectors, float32 ``[N, d]``.

    Raises:
        InputError: If there are no inputs, the encoder returns something else, inputs of another type are to be kept in
            a cache, or the cache cannot be written; finished batches stay there.
    """
    if isinstance(inputs, (str, bytes)):
        raise InputError(f"{name}: got {inputs!r:.60}, expected a list of inputs")
    batch_size = as_integer(batch_size, f"{name}: batch_size")
    if not len(inputs):
        raise InputError(f"{name}: got nothing to encode, expected at least one input")
    if batch_size < 1:
        raise InputError(f"{name}: batch_size is {batch_size}, expected a positive number of inputs")
    out = np.empty((len(inputs), 0), dtype=np.float32)
    with progress_bar(name, len(inputs), show=progress) as advance:
        for start in range(0, len(inputs), batch_size):
            batch = list(inputs[start : start + batch_size])
            file = None if cache is None else as_path(cache) / f"{_digest(name, version, batch, start)}.npy"
            rows = _read(file, len(batch))
            if rows is None:
                rows = _checked(encode(batch), len(batch), start, name)
                _write(rows, file)
            if start == 0:
                out = np.empty((len(inputs), rows.shape[1]), dtype=np.float32)
            if rows.shape[1] != out.shape[1]:
                raise InputError(
                    f"{name}: gives {rows.shape[1]} columns from input {start} on, but {out.shape[1]} before; delete "
                    f"the cache if the encoder has changed"
                )
            out[start : start + len(batch)] = rows
            advance(len(batch))
    return out


def version_of(encoder: str | Encoder) -> str:
    """Return a hash of the code of an encoder and of the weights that it holds; one that is known by name has none."""
    return "" if isinstance(encoder, str) else code_of(encoder)


def _checked(rows: Any, size: int, start: int, name: str) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):  # What float32 cannot hold becomes infinite and is reported below.
            array = np.asarray(without_tensors(rows, name), dtype=np.float32)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: gives no array of numbers for the batch from input {start} on ({error})") from None
    if array.ndim != 2 or array.shape[0] != size or array.shape[1] == 0:
        raise InputError(
            f"{name}: gives shape {list(array.shape)} for the batch from input {start} on, expected [{size}, d], one "
            f"vector per input"
        )
    wrong = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if wrong.size:
        raise InputError(f"{name}: the vector of input {start + wrong[0]} is not finite; repair or leave out the input")
    return array


def _digest(name: str, version: str, batch: list[Any], start: int) -> str:
    texts = [_stamped(one, f"{name}: input {start + n}") for n, one in enumerate(batch)]
    return hashlib.sha256(json.dumps([f"{name}{version}", *texts]).encode()).hexdigest()[:32]


def _stamped(one: Any, where: str) -> str:
    """Return an input as text: of a file with its size and time of change, of an array with a digest of its numbers."""
    if isinstance(one, Path) and one.is_file():
        return f"{one} {one.stat().st_size} {one.stat().st_mtime_ns}"
    if isinstance(one, (str, Path)):
        return str(one)
    if isinstance(one, (np.ndarray, Tensor)):
        array = np.ascontiguousarray(as_array(one, where))
        return f"{type(one).__name__} {one.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
    if isinstance(one, Mapping):
        return f"{type(one).__name__} {[_stamped(part, where) for pair in one.items() for part in pair]}"
    if isinstance(one, (list, tuple)):
        return f"{type(one).__name__} {[_stamped(part, where) for part in one]}"
    if isinstance(one, _PLAIN) or is_plain(one):
        return f"{type(one).__name__} {one!r}"
    raise InputError(
        f"{where} is a {type(one).__name__}, expected texts, paths, numbers or arrays, also in lists and dicts, by "
        "which a cache tells inputs apart; give these, such as the paths of files, or leave out cache"
    )


def _read(file: Path | None, size: int) -> np.ndarray | None:
    """Return a batch of the cache, or :obj:`None` if it is not there, or damaged."""
    if file is None or not file.is_file():
        return None
    try:
        rows = read_array(file)
    except InputError:
        return None
    usable = rows.ndim == 2 and rows.shape[0] == size and rows.dtype == np.float32 and bool(np.isfinite(rows).all())
    return rows if usable else None


def _write(rows: np.ndarray, file: Path | None) -> None:
    if file is None:
        return
    try:
        with atomic_path(file) as temporary:
            np.save(temporary, rows)
    except OSError as error:
        raise InputError(
            f"{file}: cannot be written ({error.strerror or error}), and nothing half-written stays; make room and run "
            f"the same again, the batches before it are kept"
        ) from None
