"""Locks on open files and folders, which go with the process that holds them; no file stays behind for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from pyg_ckd.errors import InputError

try:
    import fcntl
except ImportError:  # Not on Windows.
    fcntl = None  # type: ignore[assignment]

CAN_LOCK = fcntl is not None
_mine: ContextVar[frozenset[Path]] = ContextVar("mine", default=frozenset())


def locks(handle: int, wait: bool = True) -> bool:
    """Lock an open file, and return whether that worked: it may be locked, or the file system may have no locks.

    Args:
        handle: The file.
        wait: Whether to wait for whoever holds it.
    """
    try:
        return _lock(handle, wait)
    except BlockingIOError:
        return False


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the folder of a training for the length of a block, so that no other one trains in it at the same time.

    It is created if need be, and removed if nothing was written to it. Where folders cannot be locked, nobody is
    refused. A block inside of one that holds the folder holds it as well.

    Args:
        folder: The folder.

    Raises:
        InputError: If another process, or another thread of this one, holds it.
    """
    place = folder.resolve()
    if place in _mine.get():
        yield
        return
    made = [path for path in (place, *place.parents) if not path.exists()]
    handle = _take(place)
    token = _mine.set(_mine.get() | {place})
    try:
        yield
    finally:
        _mine.reset(token)
        with suppress(OSError):  # There is something in it.
            for path in made:
                path.rmdir()
        if handle is not None:
            os.close(handle)


def _take(folder: Path) -> int | None:
    """Return a handle of a folder that this process has locked; :obj:`None` where that cannot be done."""
    while CAN_LOCK:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder, os.O_RDONLY)
        except OSError:  # What is wrong with it, writing to it will say.
            return None
        try:
            locked = _lock(handle, wait=False)
        except BlockingIOError:
            holder = _holder(handle)
            os.close(handle)
            raise InputError(
                f"checkpoint folder {folder}: another process is training here{holder}, expected one at a time; wait "
                "for it to end, or choose another folder"
            ) from None
        with suppress(OSError):
            if not locked or os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        os.close(handle)  # It was removed before it was locked.
    return None


def _lock(handle: int, wait: bool) -> bool:
    """Lock an open file, and return whether the file system has locks.

    Raises:
        BlockingIOError: If somebody holds it.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _holder(handle: int) -> str:
    """Return the number of the process that has locked an open file, in brackets, where the system says it."""
    found = os.fstat(handle)
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    with suppress(OSError):
        for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines():
            words = line.split()
            if "FLOCK" in words and place in words and (number := words[words.index(place) - 1]).isdecimal():
                return f" (pid {number})"
    return ""
