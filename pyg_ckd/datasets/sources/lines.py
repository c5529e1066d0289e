"""Files with one object per line, compressed or not: blocks of whole lines, and lines as dictionaries."""

from __future__ import annotations

import ast
import codecs
import gzip
import json
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyg_ckd.datasets.arrays import one_line
from pyg_ckd.errors import InputError

_BLOCK = 1 << 24
_LONGEST = 1 << 26
_NO_OBJECT = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)


def read_blocks(path: Path, size: int = _BLOCK) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file, many at once.

    Args:
        path: A text file, compressed with gzip or not, whatever its name says.
        size: Number of bytes to read at once. (default: 16 MiB)

    Yields:
        The number of the first line, counted from 1, and whole lines.

    Raises:
        InputError: If the file is missing, cut short, damaged, or has a line of more than 64 MiB.
    """
    first, rest = 1, b""
    try:
        with path.open("rb") as raw, gzip.open(raw) if _is_gzip(path) else raw as plain:
            file = _as_utf8(plain, path)
            while content := file.read(size):
                if first == 1 and not rest:
                    content = content.removeprefix(b"\xef\xbb\xbf")  # A byte-order mark.
                whole, newline, left = content.rpartition(b"\n")
                if not newline:
                    rest += left
                    if len(rest) > _LONGEST:
                        raise InputError(f"{path}: line {first} has more than 64 MiB, expected one object per line")
                    continue
                block = rest + whole + newline
                yield first, block
                first, rest = first + block.count(b"\n"), left
    except (EOFError, zlib.error, OSError) as error:
        if isinstance(error, FileNotFoundError | IsADirectoryError | PermissionError):
            raise InputError(f"{path}: cannot be read ({error.strerror}), expected a file of lines") from None
        raise InputError(
            f"{path}: the file is cut short or damaged behind line {first - 1} ({one_line(error)}); remove it and "
            f"download it again"
        ) from None
    if rest:
        yield first, rest


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield every line that is not blank, without white space around it, and its number, counted from 1."""
    for first, block in read_blocks(path):
        yield from numbered(first, block)


def numbered(first: int, block: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a block that are not blank, and their numbers."""
    for number, line in enumerate(block.split(b"\n"), start=first):
        stripped = line.strip()
        if stripped:
            yield number, stripped


def parse_line(line: bytes, where: str) -> dict[str, Any]:
    """Return the object of one line: JSON, or a literal of Python, which is never evaluated.

    Args:
        line: The line.
        where: File and line, for messages.

    Raises:
        InputError: If the line is neither, or no object.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        record = _literal(line)
        if record is None:
            raise InputError(
                f"{where}: is no JSON object ({one_line(error)}), so it is damaged or cut short; repair or remove "
                f"the line, or download the file again"
            ) from None
    if not isinstance(record, dict):
        raise InputError(f"{where}: holds a {type(record).__name__}, expected an object such as {{...}}; remove it")
    return record


def _literal(line: bytes) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of escapes that Python does not know.
        try:
            record = ast.literal_eval(line.decode())
            repr(record)  # Fails for integers of thousands of digits, which nothing could print later.
        except _NO_OBJECT:
            return None
    return record


def _as_utf8(file: Any, path: Path) -> Any:
    """Return a file that gives UTF-8, also where a byte-order mark says that it holds UTF-16; UTF-32 is refused."""
    mark = file.read(4)
    if mark in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
        raise InputError(f"{path}: is UTF-32, expected UTF-8; save it as UTF-8")
    mark = mark[:2]
    file.seek(0)
    return codecs.EncodedFile(file, "utf-8", "utf-16") if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else file


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"
