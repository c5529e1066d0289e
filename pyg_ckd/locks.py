"""Locks on open files and folders, which go with the process that holds them; no file stays behind for them."""

from __future__ import annotations

import logging
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
GUARD = "flock"
"""Name of the program that holds a folder for the command it starts, such as ``flock out pyg-ckd train --out out``."""
LOGGER = logging.getLogger("pyg_ckd.training")
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


def unlock(handle: int) -> None:
    """Close an open file that may be locked, also where a process that was forked meanwhile has it open as well.

    Args:
        handle: The file.
    """
    with suppress(OSError):
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


@contextmanager
def held(folder: Path, waiting: str | None = None) -> Iterator[None]:
    """Hold the folder of a training for the length of a block, so that no other one trains in it at the same time.

    It is created if need be, and removed if nothing was written to it. Where folders cannot be locked, nobody is
    refused, and neither is a command that :data:`GUARD` holds the folder for. A block inside of one that holds the
    folder holds it as well.

    Args:
        folder: The folder.
        waiting: What is waited for until whoever holds the folder has ended, for the log. (default: :obj:`None`, do not
            wait)

    Raises:
        InputError: If another process, or another thread of this one, holds it, and it is not waited for.
    """
    place = folder.resolve()
    if place in _mine.get():
        yield
        return
    made = [path for path in (place, *place.parents) if not path.exists()]
    handle = _take(place, waiting)
    token = _mine.set(_mine.get() | {place})
    try:
        yield
    finally:
        _mine.reset(token)
        with suppress(OSError):  # There is something in it.
            for path in made:
                path.rmdir()
        if handle is not None:
            unlock(handle)


def _take(folder: Path, waiting: str | None) -> int | None:
    """Return a handle of a folder that this process has locked; :obj:`None` where that cannot be done."""
    told = False
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
            if _is_guarded(handle, holder):
                os.close(handle)
                return None
            who = "another process is training here" + ("" if holder is None else f" (pid {holder})")
            if holder == os.getpid():
                who = "this process is training here already"
            if waiting is None:
                os.close(handle)
                raise InputError(
                    f"checkpoint folder {folder}: {who}, expected one at a time; wait for it to end, or choose another "
                    "folder"
                ) from None
            if not told:
                LOGGER.warning("%s: waiting, for %s, in %s", waiting, who, folder)
            told = True
            try:
                locked = _lock(handle, wait=True)
            except BaseException:  # Such as Ctrl-C.
                os.close(handle)
                raise
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


def _holder(handle: int) -> int | None:
    """Return the number of the process that has locked an open file, where the system says it."""
    place = place_in_list(os.fstat(handle))
    with suppress(OSError):
        for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines():
            words = line.split()
            if not {"FLOCK", place} <= set(words) or "->" in words:  # An arrow is one who waits.
                continue
            if (number := words[words.index(place) - 1]).isdecimal():
                return int(number)
    return None


def place_in_list(found: os.stat_result) -> str:
    """Return what the system calls a file or a folder in its list of locks: by its device and its number there.

    Args:
        found: What is known of it.
    """
    return f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"


def _is_guarded(handle: int, holder: int | None) -> bool:
    """Return whether a folder that is locked is held for this process: by a file that it was started with, or above."""
    found = os.fstat(handle)
    with suppress(OSError):
        for other in [int(path.name) for path in Path("/dev/fd").iterdir()]:
            with suppress(OSError):
                # Python opens none to be inherited. If this is the one that has the lock, it can be locked again.
                if os.get_inheritable(other) and os.path.samestat(os.fstat(other), found):
                    return _lock(other, wait=False)
    return holder is not None and _is_guard_above(holder)


def _is_guard_above(holder: int) -> bool:
    """Return whether a process is a guard that this one was started by, directly or not."""
    number = os.getpid()
    with suppress(OSError, ValueError, IndexError):
        while number > 1:
            name, _, more = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")
            if number == holder:
                return name.partition("(")[2] == GUARD
            number = int(more.split()[1])
    return False
