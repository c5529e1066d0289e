"""Small results of long computations, kept for the next one who asks: in this process, and in a folder."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyg_ckd.code import code_of
from pyg_ckd.files import atomic_path

KEPT = 16
"""Results that a process keeps, the ones that were asked for last."""

_solved: dict[Any, tuple[Tensor, ...]] = {}
_folder: ContextVar[Path | None] = ContextVar("_folder", default=None)
_lock = threading.Lock()


def solved(key: tuple[Any, ...], solve: Callable[..., tuple[Tensor, ...]], *inputs: Any) -> tuple[Tensor, ...]:
    """Return what a function returns, which is not called if it is known.

    Processes that want the same at the same time and keep it in the same folder wait for the first one.

    Args:
        key: What decides about the result beside the function's code: plain values and digests.
        solve: The function.
        *inputs: What it is called with.
    """
    key, folder = (solve.__module__, solve.__qualname__, *key), _folder.get()
    with torch.inference_mode(False), torch.no_grad():
        if folder is None:
            found = _solved.get(key) or solve(*inputs)
        else:
            found = _in_folder(folder / _name(key, solve), _solved.get(key), lambda: solve(*inputs))
    with _lock:
        _solved.pop(key, None)
        while len(_solved) >= KEPT:
            del _solved[next(iter(_solved))]  # The one that was asked for longest ago.
        _solved[key] = found
    return found


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Keep what is solved inside the block in a folder, too, for other processes and later calls.

    Args:
        folder: The folder; created once there is something to keep.
    """
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def _in_folder(
    file: Path, known: tuple[Tensor, ...] | None, solve: Callable[[], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """Return what is known, what the file holds or what is solved now, which the file holds then, if it can."""
    from filelock import FileLock

    if known is not None and file.exists():
        return known
    lock = FileLock(file.with_suffix(".lock"))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError:  # Of a disk that is full or must not be written to.
        return known or _read(file) or solve()
    try:
        found = known or _read(file) or solve()
        if not file.exists():
            with suppress(OSError), atomic_path(file) as path:
                np.savez(path, *(x.numpy() for x in found))
    finally:
        lock.release()
    return found


def _name(key: tuple[Any, ...], solve: Callable[..., Any]) -> str:
    return hashlib.sha256(f"{key} {code_of(solve)}".encode()).hexdigest()[:32] + ".npz"


def _read(file: Path) -> tuple[Tensor, ...] | None:
    """Return what a file holds; nothing if there is none, or a damaged one, which is written anew."""
    try:
        with np.load(file) as content:  # Checksums are compared.
            return tuple(torch.from_numpy(content[f"arr_{n}"]) for n in range(len(content.files)))
    except Exception:  # Whatever is wrong with it.
        with suppress(OSError):
            file.unlink(missing_ok=True)
        return None
