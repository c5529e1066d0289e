"""Downloads over HTTP that go on where they were broken off, and show a file only when it is whole."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, BinaryIO

from pyg_ckd.datasets.arrays import one_line
from pyg_ckd.datasets.progress import progress_bar
from pyg_ckd.errors import InputError
from pyg_ckd.files import as_path

_CHUNK = 1 << 20
_TIMEOUT = 60  # Seconds without a byte.
_TRIES = 5  # In a row without a new byte.
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # Codes of HTTP that may be gone at the next try.
_NETWORK = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


def download(
    url: str, path: str | os.PathLike[str], size: int | None = None, sha256: str | None = None, progress: bool = True
) -> Path:
    r"""Download a file, unless it exists.

    The bytes go to ``<path>.part``. An interrupted download is resumed there: by this call, until five attempts in a
    row bring no new byte, and by the next call. The file gets its name when its size (``size``, and the length that the
    server states) and its checksum are right.

    Args:
        url: The address, ``http`` or ``https``.
        path: The file to write; its folder is created if need be.
        size: The number of bytes, if the source publishes it. (default: :obj:`None`)
        sha256: The checksum in hexadecimal digits, if the source publishes it. (default: :obj:`None`)
        progress: If set to :obj:`False`, show no progress bar. (default: :obj:`True`)

    Returns:
        The path.

    Raises:
        InputError: If the server refuses, the connection breaks down for good, the disk is full, or the size or
            checksum is wrong. What was received is kept if it can be used again.
    """
    target = as_path(path)
    if target.is_file():
        return target
    if not re.match("https?://", url):
        raise InputError(f"{url}: cannot be downloaded, expected an address that begins with http:// or https://")
    part = target.with_name(f"{target.name}.part")
    _fetch(url, part, size, progress)
    _check_sum(part, sha256, url)
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    return part.replace(target)


def _fetch(url: str, part: Path, size: int | None, progress: bool) -> None:
    """Request the rest of the file until it is complete."""
    failures = 0
    while True:
        before = _length(part)
        try:
            total, problem = _request(url, part, size, progress), "the connection was closed"
            if total is None or _length(part) == total:
                return
        except urllib.error.HTTPError as error:
            if error.code not in _PASSING:
                raise InputError(
                    f"{url}: the server answers {error.code} {error.reason}; check the address and the name of the "
                    f"category, or download the file by other means"
                ) from None
            total, problem = size, f"{error.code} {error.reason}"
        except _NETWORK as error:
            total, problem = size, one_line(error)
        failures = 0 if _length(part) > before else failures + 1
        if failures == _TRIES:
            of = "" if total is None else f" of {total}"
            raise InputError(
                f"{url}: broke off after {_length(part)}{of} bytes ({problem}); run the same again, it goes on from "
                f"{part.name}"
            )
        time.sleep(2**failures if failures else 0)


def _request(url: str, part: Path, size: int | None, progress: bool) -> int | None:
    """Append what one request brings; return the length of the whole file if the server states it."""
    done = _length(part)
    headers = {"User-Agent": "pyg-ckd"} | ({"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        total = _total(error.headers, 0)  # Nothing is left to send: all is there, or it is another file by now.
        if total == done:
            return _checked(url, total, size, part)
        part.unlink()
        return _request(url, part, size, progress)
    with response:
        if response.status != 206 or not str(response.headers["Content-Range"]).startswith(f"bytes {done}-"):
            if response.status == 206:
                raise InputError(f"{url}: the server sends another part than asked for; remove {part} and try again")
            done = 0
        total = _checked(url, _total(response.headers, done), size, part)
        with (
            _open(part, "ab" if done else "wb") as file,
            progress_bar(part.stem, total, done, progress, in_bytes=True) as advance,
        ):
            while chunk := response.read(_CHUNK):
                _append(file, chunk, part)
                advance(len(chunk))
    return total


def _open(part: Path, mode: str) -> Any:
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        return part.open(mode, buffering=0)
    except OSError as error:
        raise InputError(f"{part}: cannot be written ({error.strerror or error}); choose another folder") from None


def _append(file: Any, chunk: bytes, part: Path) -> None:
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise InputError(
            f"{part}: cannot be written ({error.strerror or error}); make room and run the same again, it goes on "
            f"after the {_length(part)} bytes that are there"
        ) from None


def _total(headers: Any, done: int) -> int | None:
    """Return the length of the whole file by the headers of a response that leaves out ``done`` bytes."""
    match = re.fullmatch(r"bytes .*/([0-9]+)", headers["Content-Range"] or "")
    if match:
        return int(match[1])
    length = headers["Content-Length"]
    return done + int(length) if length is not None and length.isdigit() else None


def _checked(url: str, total: int | None, size: int | None, part: Path) -> int | None:
    """Refuse a length other than the published one."""
    if size is None or total in (None, size):
        return size if total is None else total
    part.unlink(missing_ok=True)
    raise InputError(
        f"{url}: has {total} bytes, expected {size}; the file at the source has changed, so check what is new there"
    )


def _check_sum(part: Path, sha256: str | None, url: str) -> None:
    if sha256 is None:
        return
    digest = hashlib.sha256()
    with part.open("rb") as file:
        _feed(digest, file)
    if digest.hexdigest() != sha256.lower():
        part.unlink()
        raise InputError(
            f"{url}: has the SHA-256 checksum {digest.hexdigest()}, expected {sha256.lower()}; what was received is "
            f"removed, so try again, and if that changes nothing the file at the source is another one"
        )


def _feed(digest: Any, file: BinaryIO) -> None:
    while chunk := file.read(_CHUNK):
        digest.update(chunk)


def _length(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0
