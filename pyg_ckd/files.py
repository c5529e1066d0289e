"""Writing files so that nobody ever sees half of one, and plain values as JSON."""

from __future__ import annotations

import codecs
import io
import json
import math
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyg_ckd.errors import InputError
from pyg_ckd.locks import CAN_LOCK, locks, unlock

PARTIAL = "partial-"
"""What names of temporary files and folders have behind the name that they are going to take."""
EARLIER = r"(?=\w*[a-z_])[a-z0-9_]{8}"
"""What names of temporary files had there in earlier versions; a date is none."""
OLD = 3600
"""Seconds after which a temporary file is not taken for one that another machine writes, whose lock is unseen."""
_URL = re.compile(r"(?i:[a-z][a-z0-9+.-]+://|(?:s3a?|gs|gcs|abfss?|wasbs?|hdfs|dbfs|hf|https?|ftp|file):/)")
_DEVICES = re.compile(r"\b(CUDA|HIP|XPU|MPS)\b|cuDNN|CUDNN|CUBLAS")
_UTF32 = codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE
_cleared: set[Path] = set()  # Names of which this process has removed what was left; it is done once.

__all__ = [
    "as_path",
    "atomic_folder",
    "atomic_path",
    "encoding_of",
    "plain_values",
    "read_json",
    "read_text",
    "remove_leftovers",
    "write_json",
]


def as_path(path: str | os.PathLike[str]) -> Path:
    """Return a path in which a leading ``~`` stands for the home folder.

    Args:
        path: The path.

    Raises:
        InputError: If it is no path, is empty or an address such as ``s3://bucket``, holds a null character, or names
            the home folder of nobody.
    """
    if isinstance(path, str) and not path:
        raise InputError("path: found an empty text, expected the name of a file or folder; the current folder is '.'")
    text = str(path)
    address = _URL.match(text)  # Of which a path swallows a slash.
    if address is not None:
        raise InputError(f"path: found the address {text!r:.200}, expected a path; {_local(text, address[0])}")
    try:
        found = Path(path).expanduser()
    except TypeError:
        raise InputError(f"path: found {path!r} ({type(path).__name__}), expected text or a pathlib.Path") from None
    except RuntimeError:
        raise InputError(f"{path}: there is no such home folder; write the path without ~") from None
    if "\0" in str(found):
        raise InputError(f"path: found {str(found)!r} with a null character, expected a name without; remove it")
    return found


def _local(address: str, start: str) -> str:
    """Return what to write instead of an address."""
    scheme, rest = start.partition(":")[0].lower(), address[len(start) :]
    if scheme == "file":
        return f"write it without file://, as in /{rest.removeprefix('localhost').lstrip('/')}"
    if scheme in ("http", "https", "ftp"):
        return "download the file, and give the path of what was downloaded"
    return "give a path on this machine, and copy the files from or to the address, or mount it as a folder"


def encoding_of(path: str | os.PathLike[str]) -> str:
    """Return the encoding of a text file: UTF-8, or UTF-16 where a byte-order mark says so.

    Args:
        path: The file.

    Raises:
        InputError: If the mark says that it is UTF-32.
    """
    with as_path(path).open("rb") as file:
        start = file.read(4)
    if start in _UTF32:
        raise InputError(f"{path}: is UTF-32, expected UTF-8; save it as UTF-8")
    return _encoding(start)


def _encoding(start: bytes) -> str:
    return "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the content of a text file without its byte-order mark, lines ended by line feeds.

    It is read once, so that it can be a pipe.

    Args:
        path: The file.

    Raises:
        OSError: If it cannot be read.
        UnicodeError: If it is neither UTF-8 nor, with a byte-order mark, UTF-16.
    """
    content = as_path(path).read_bytes()
    if content[:4] in _UTF32:
        raise UnicodeError("it is UTF-32; save it as UTF-8")
    return io.TextIOWrapper(io.BytesIO(content), encoding=_encoding(content)).read()


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block ends without an error.

    The data reaches the disk before the rename, so that a killed process leaves the old file or the new one. What a
    killed process has left of a temporary file more than an hour ago goes first. A link stays a link unless it leads to
    a file that its owner must not write, as in stores that name files by their content. A file that is replaced keeps
    its mode.

    Args:
        path: The file to write; its folder is created if need be.

    Raises:
        InputError: If ``path`` is a pipe or a device.
    """
    target = _file_to_replace(as_path(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    _clear(target)
    handle, temporary = _make_temporary(target)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        kept = target.is_file() and not target.is_symlink()
        temporary.chmod(target.stat().st_mode & 0o777 if kept else 0o666 & ~_umask())
        temporary.replace(target)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
        if handle is not None:
            unlock(handle)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that takes its name when the block ends without an error.

    The files reach the disk before the rename, so that a killed process leaves the whole folder or none. What one has
    left of a temporary folder more than an hour ago goes first.

    Args:
        path: The folder to write. It may exist if it is empty; its parents are created if need be.

    Raises:
        InputError: As :func:`check_folder_is_free`.
    """
    check_folder_is_free(path)
    target = _resolved(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    _clear(target)
    handle, temporary = _make_temporary(target, folder=True)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb+") as stream:
                    os.fsync(stream.fileno())
        temporary.chmod(target.stat().st_mode & 0o777 if target.is_dir() else 0o777 & ~_umask())
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if handle is not None:
            unlock(handle)


def check_folder_is_free(path: str | os.PathLike[str]) -> None:
    """Refuse what no new folder can take the place of.

    Args:
        path: The folder.

    Raises:
        InputError: If it is a file, a folder that is not empty, the current folder, or one where a disk is mounted.
    """
    target = _resolved(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        found = "is a folder with files in it" if target.is_dir() else "is a file"
        raise InputError(f"{path}: {found}, expected a new or empty folder to write to; choose another name")
    mounted, here = os.path.ismount(target), None
    with suppress(OSError):  # The current folder may be gone.
        here = Path.cwd()
    if mounted or target == here:
        found = "is where a disk is mounted" if mounted else "is the current folder"
        raise InputError(f"{path}: {found}, expected a folder that can be replaced; take a new name inside it")


def is_leftover(path: str | os.PathLike[str], other: Path) -> bool:
    """Return whether a file is a temporary one that :func:`atomic_path` has made for a name.

    Args:
        path: The file that it would have become.
        other: The file.
    """
    target = as_path(path)
    name = re.escape(f".{target.name}.") + _partial(target)
    return other.parent == target.parent and re.fullmatch(name, other.name) is not None and not other.is_dir()


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove the temporary files and folders that killed processes have left of a name, those of earlier versions too.

    Those that a process of this machine writes at the moment are locked and stay. Where files cannot be locked, all
    stay.

    Args:
        path: The file or the folder that they would have become.
    """
    target = as_path(path)
    _remove(target, rf"({_partial(target)}|{EARLIER}{re.escape(target.suffix)})", 0)


def _clear(target: Path) -> None:
    """Remove old leftovers of a name that anybody may have chosen, once in a process: folders may be large."""
    if target not in _cleared:
        _cleared.add(target)
        _remove(target, _partial(target), OLD)


def _partial(target: Path) -> str:
    """Return the pattern of what follows a name in those of its temporary files and folders."""
    return rf"{PARTIAL}\w{{8}}({re.escape(target.suffix)})?"


def _remove(target: Path, pattern: str, age: float) -> None:
    start, until = f".{target.name}.", time.time() - age
    name = re.compile(re.escape(start) + pattern)
    with suppress(OSError), os.scandir(target.parent) as entries:  # No such folder.
        for entry in [entry for entry in entries if entry.name.startswith(start) and name.fullmatch(entry.name)]:
            with suppress(OSError):
                path, is_folder = Path(entry.path), entry.is_dir(follow_symlinks=False)
                if is_folder and not entry.name.startswith(f"{start}{PARTIAL}"):
                    continue
                if not age or max(one.lstat().st_mtime for one in (path, *path.rglob("*"))) < until:
                    _remove_unlocked(path, is_folder)


def _remove_unlocked(path: Path, is_folder: bool) -> None:
    handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        if locks(handle, wait=False):
            shutil.rmtree(path) if is_folder else path.unlink()
    finally:
        unlock(handle)


def _make_temporary(target: Path, folder: bool = False) -> tuple[int | None, Path]:
    """Create a temporary file or folder and lock it, if that can be done; its lock goes with the process."""
    start = f".{target.name}.{PARTIAL}"
    while True:
        if folder:
            path = Path(tempfile.mkdtemp(dir=target.parent, prefix=start))
            if not CAN_LOCK:
                return None, path
            try:
                handle = os.open(path, os.O_RDONLY)
            except FileNotFoundError:  # As below.
                continue
        else:
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=start, suffix=target.suffix)
            path = Path(name)
            if not CAN_LOCK:  # Nor can open files be renamed there.
                os.close(handle)
                return None, path
        locks(handle)
        if path.exists():  # Else it was taken for a leftover before it was locked.
            return handle, path
        os.close(handle)


def _file_to_replace(path: Path) -> Path:
    """Return the file that a new one takes the place of: what a path leads to, or a link to what stays as it is.

    Raises:
        InputError: If it is a pipe, a device or a socket, or a link that leads back to itself.
    """
    mode = None
    with suppress(OSError):
        mode = path.stat().st_mode
    if mode is not None and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path}: is a pipe, a device or a socket, expected the name of a file; choose another")
    if mode is not None and stat.S_ISREG(mode) and not mode & stat.S_IWUSR and path.is_symlink():
        return _resolved(path.parent) / path.name
    return _resolved(path)


def _resolved(path: str | os.PathLike[str]) -> Path:
    """Return a path without links: what is written takes the place of what they lead to."""
    target = as_path(path)
    try:
        return target.resolve()
    except FileNotFoundError:
        raise InputError(f"{target}: the current folder is gone, expected one; change to another folder") from None
    except (OSError, RuntimeError):
        raise InputError(f"{target}: is a link that leads back to itself, expected a file; remove the link") from None


@contextmanager
def writing(path: str | os.PathLike[str], what: str = "out") -> Iterator[None]:
    """Turn a failure to write into the error of the conventions.

    Args:
        path: The file, for the message.
        what: What begins the message.

    Raises:
        InputError: In the place of an :class:`OSError`.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"{what} {path}: cannot be written ({reason}); nothing half-written is left there, free some space or "
            "choose another"
        ) from error.__cause__  # What a library said, see to_disk.


@contextmanager
def to_disk() -> Iterator[None]:
    """Turn the errors by which PyTorch, safetensors and FAISS say that a disk is full into an :class:`OSError`.

    For a block that does nothing but write. Errors of an accelerator, from which tensors are copied, stay as they are.
    """
    try:
        yield
    except (InputError, OSError):
        raise
    except Exception as error:
        names = {cls.__name__ for cls in type(error).__mro__}
        if names & {"OutOfMemoryError", "AcceleratorError"} or _DEVICES.search(str(error)):
            raise
        if isinstance(error, RuntimeError) or type(error).__name__ == "SafetensorError":
            raise OSError("not all of it has reached the disk") from error
        raise


def write_json(path: str | os.PathLike[str], content: Mapping[Any, Any]) -> None:
    """Write plain values to a temporary name and rename it.

    Args:
        path: The file.
        content: The values.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(plain_values(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def plain_values(value: Any) -> Any:
    """Return what JSON holds of a value: lists for tuples, string keys, :obj:`None` for numbers that are not finite.

    Args:
        value: Nested mappings, sequences and plain values.
    """
    if isinstance(value, Mapping):
        return {str(key): plain_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the content of a JSON file, or :obj:`None` if it is missing or damaged.

    Args:
        path: The file.
    """
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError):
        return None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
