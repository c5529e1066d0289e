"""What happens to memory that tensors on the CPU free: kept for the next step, or returned at once."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
LARGE = 32 * 2**20
"""Bytes from which on a tensor gets memory of its own; malloc by itself comes to this value at most."""
SMALL = 2**20
"""Bytes from which on a tensor has memory of its own where memory is returned at once."""
KEPT = 2**30
"""Bytes at the end of the heap that are kept."""
SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")
"""Variables of the environment by which the user decides; another is ``GLIBC_TUNABLES``."""

_lock = threading.Lock()
_inside = _returning = 0


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep what tensors on the CPU free for those that come after them, as PyTorch always does on a GPU.

    A training step makes and frees the same tensors again and again. glibc's malloc returns their memory to the system
    in between, which hands it out page by page, each filled with zeros: up to a quarter of a step. When the last of
    several trainings ends, what is kept at the end of the heap is returned; where malloc turns to blocks of their own
    stays at :data:`LARGE`, its own limit, for the rest of the process. Another C library, or settings of malloc in the
    environment, are left as they are.
    """
    global _inside
    library = _glibc()
    if library is None:
        yield
        return
    with _lock:
        _inside += 1
        library.mallopt(MMAP_THRESHOLD, LARGE)
        library.mallopt(TRIM_THRESHOLD, KEPT)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                library.mallopt(TRIM_THRESHOLD, 2 * LARGE)
                library.malloc_trim(0)


@contextmanager
def returned_memory() -> Iterator[None]:
    """Return the memory of every larger tensor on the CPU to the system as soon as nobody needs it.

    Tables of some hundred thousand rows that come and go side by side with small tensors leave holes in the heap into
    which the next ones do not fit, so that it grows by a table every time. Here they have memory of their own. glibc's
    malloc alone, and settings of the environment, are treated as in :func:`kept_memory`, and what it does inside of a
    training comes back at the end.
    """
    global _returning
    library = _glibc()
    if library is None:
        yield
        return
    with _lock:
        _returning += 1
        library.mallopt(MMAP_THRESHOLD, SMALL)
    try:
        yield
    finally:
        with _lock:
            _returning -= 1
            if not _returning:
                library.mallopt(MMAP_THRESHOLD, LARGE)
                if not _inside:
                    library.mallopt(TRIM_THRESHOLD, 2 * LARGE)


def _glibc() -> ctypes.CDLL | None:
    chosen = any(name in os.environ for name in SETTINGS) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    return None if chosen else _load()


@functools.cache
def _load() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018
        library.mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
        library.malloc_trim.argtypes = (ctypes.c_size_t,)
    except (OSError, AttributeError):
        return None
    return library
