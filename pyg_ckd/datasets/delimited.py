"""Tables in text files: which character separates the fields, and whether every line is one row."""

from __future__ import annotations

import csv
import gzip
import mmap
import re
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pyg_ckd.datasets.arrays import one_line
from pyg_ckd.datasets.columns import plain
from pyg_ckd.datasets.signatures import refuse_other
from pyg_ckd.errors import InputError
from pyg_ckd.files import encoding_of

SEPARATORS = (",", ";", "\t", "|", "::")

_NAMES = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars", "::": "double colons"}
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")


def read_csv(path: Path, required: Sequence[str], dtypes: Mapping[str, type] | None = None) -> pd.DataFrame:
    r"""Read a table in which only an empty field is missing, so that a user may be called ``NA``.

    Fields are separated by ``,``, ``;``, a tab, ``|`` or ``::``, whichever the header is. Quotation marks hold a field
    together, except where tabs or ``::`` separate and the header has none.

    Args:
        path: The file.
        required: Names of columns that have to be there, in small letters; the file may have them in any case.
        dtypes: The types of some columns. (default: :obj:`None`, those that pandas infers)

    Raises:
        InputError: If there is no header, lines are longer than it, blanks separate the fields, or a quotation mark
            that is not closed swallows lines.
        ValueError: If the file cannot be parsed.
    """
    header, encoding = _first_line(path), encoding_of(path)
    separator = _separator(header, required, path)
    quoting = csv.QUOTE_NONE if separator in ("\t", "::") and '"' not in header else csv.QUOTE_MINIMAL
    options: dict[str, Any] = {"engine": "python"} if len(separator) > 1 else {"low_memory": False}
    if f"{separator} " in header:  # Written for people: "user, item".
        options["skipinitialspace"] = True
    try:
        with warnings.catch_warnings():
            # Else pandas takes the first field of lines that are longer than the header for a name of the row.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path, sep=separator, index_col=False, dtype=dtypes, keep_default_na=False, na_values=[""],
                encoding=encoding, quoting=quoting, **options,
            )  # fmt: skip
    except pd.errors.ParserWarning:
        raise _long_line(path, separator, encoding) from None
    if quoting == csv.QUOTE_MINIMAL and len(separator) == 1 and dtypes is None:
        ids = [name for name in frame.columns if plain(name) in required]
        if len(ids) == len(required):
            _check_lines(path, separator, encoding, frame, ids)
    return frame


@contextmanager
def decompressed(path: Path) -> Iterator[Path]:
    """Yield the file of a table of text, which is a decompressed copy for the time being where a name ends in ``.gz``.

    Args:
        path: The file. Messages from inside the block name it in the place of the copy.

    Raises:
        InputError: If the file is no text by its first bytes, or cannot be decompressed.
    """
    if path.suffix.lower() != ".gz":
        refuse_other(path, f"cannot be read as a {path.suffix[1:].lower()} table")
        yield path
        return
    refuse_other(path, "cannot be decompressed", b"\x1f\x8b")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.stem
        try:
            with gzip.open(path) as source, file.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(
                f"{path}: cannot be decompressed ({one_line(error)}), damaged or cut short; copy it again"
            ) from None
        try:
            refuse_other(file, f"cannot be read as a {file.suffix[1:].lower()} table")
            yield file
        except InputError as error:
            raise InputError(str(error).replace(str(file), str(path))) from None


def has_padding(path: Path) -> bool:
    """Return whether any field may begin with a zero and a digit or with a plus, which would be lost in an integer."""
    if encoding_of(path) == "utf-16":
        return True
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return re.search(rb'[,;|:"\s\xbf](?:\+|-0|0[0-9])', content) is not None


def read_header(file: Path) -> list[str]:
    """Return the column names of a tab-separated file."""
    refuse_other(file, "cannot be read as a tab-separated table")
    try:
        return _first_line(file).split("\t")
    except (ValueError, OSError) as error:
        raise InputError(f"{file}: cannot be read as a tab-separated table ({one_line(error)})") from None


def missing_column(file: Path, advice: str, header: Sequence[str]) -> InputError:
    """Return the error for a column that a tab-separated file lacks.

    Args:
        file: The file.
        advice: What is missing, and how to mend it.
        header: The column names that were found.
    """
    line = "\t".join(header)
    other = next((mark for mark in SEPARATORS if mark != "\t" and mark in line and "\t" not in line), None)
    if other is None and len(header) == 1 and len(line.split()) > 1:
        advice += "; the header is separated by blanks, expected tabs: write the file with sep='\\t'"
    elif other is not None:
        advice += f"; the header is separated by {_NAMES[other]}, expected tabs: write the file with sep='\\t'"
    elif any(_NUMBER.fullmatch(field) for field in header):
        advice += f"; the first line {line!r:.60} is no header: put one above it"
    return InputError(f"{file}: {advice}")


def read_tab_separated(file: Path, columns: Sequence[str], dtypes: Mapping[str, type]) -> pd.DataFrame:
    """Read columns that are there; quotation marks are characters like all others.

    Raises:
        ValueError: If values do not fit ``dtypes``, or a line has more fields than the header.
    """
    encoding = encoding_of(file)
    # All columns are read, as pandas ignores further fields of a line when it is given `usecols`.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.ParserWarning)  # Of long lines, which are refused below.
        frame = pd.read_csv(
            file, sep="\t", dtype=dict(dtypes), index_col=False, keep_default_na=False, low_memory=False,
            quoting=csv.QUOTE_NONE, encoding=encoding,
        )  # fmt: skip
    with file.open(encoding=encoding) as lines:  # pandas takes the width of the first line of data on trust.
        widths = [next(lines, "").count("\t") for _ in range(2)]
    if widths[1] > widths[0]:
        raise ValueError(f"Expected {widths[0] + 1} fields in line 2, saw {widths[1] + 1}")
    return frame[list(columns)]


def _first_line(path: Path) -> str:
    with path.open(encoding=encoding_of(path)) as file:
        return next((line.rstrip("\r\n") for line in file if line.strip()), "")


def _separator(header: str, required: Sequence[str], path: Path) -> str:
    """Return what separates the fields of a header."""
    found = {mark: [plain(field.strip().strip('"')) for field in header.split(mark)] for mark in SEPARATORS}
    for mark, fields in found.items():
        if all(name in fields for name in required):
            return mark
    best = max(SEPARATORS, key=lambda mark: len(found[mark]))
    if header.lstrip().startswith(("#", "%", "//")):
        raise InputError(
            f"{path}: begins with a comment, {header!r:.60}, expected the names of the columns in the first line; "
            f"remove the comment, or the mark in front of the names"
        )
    words = [plain(field.strip('"')) for field in header.split()]
    if len(found[best]) == 1 < len(words) and (set(required) <= set(words) or any(map(_NUMBER.fullmatch, words))):
        raise InputError(
            f"{path}: blanks separate the fields of the first line, {header!r:.60}, expected one of , ; | :: or tabs, "
            f"below a line like {','.join(required)!r}; write it with pandas.read_csv(..., sep=r'\\s+').to_csv(...)"
        )
    if any(_NUMBER.fullmatch(field) for field in found[best]):
        raise InputError(
            f"{path}: has no header, the first line is {header!r:.60}, expected the names of the columns with the same "
            f"separator; put the line {best.join(required)!r} above it"
        )
    return best


def _long_line(path: Path, separator: str, encoding: str) -> InputError:
    """Return the error for lines that have more fields than the header, with the first of them."""
    with path.open(encoding=encoding, newline="") as file:
        rows = csv.reader(file, delimiter=separator) if len(separator) == 1 else (row.split(separator) for row in file)
        filled = ((number, row) for number, row in enumerate(rows, start=1) if row)
        _, header = next(filled)
        number, row = next((found for found in filled if len(found[1]) > len(header)), (2, []))
    return InputError(
        f"{path}: line {number} has {len(row)} fields, but the header names {len(header)}, "
        f"{separator.join(header)!r:.60}; name all of them, or write the table without names of rows (row.names=FALSE "
        f"in R, index=False in pandas)"
    )


def _check_lines(path: Path, separator: str, encoding: str, frame: pd.DataFrame, ids: Sequence[str]) -> None:
    """Refuse a field that runs over lines which are rows of their own: its quotation mark is not closed."""
    if not _may_run_over_lines(path, len(frame)) or not set(ids) <= set(frame.columns):
        return
    tests = {frame.columns.get_loc(name): _id_test(frame[name]) for name in ids}
    taken: list[str] = []
    number = 1
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(_recorded(file, taken), delimiter=separator)
        while True:
            try:
                if next(reader, None) is None:
                    return
            except csv.Error as error:
                raise InputError(
                    f"{path}: line {number}: cannot be read ({one_line(error)}); a quotation mark may not be closed: "
                    f"remove it, or write the table as Parquet"
                ) from None
            for line in taken[1:]:
                fields = line.rstrip("\r\n").split(separator)
                if len(fields) == len(frame.columns) and all(test(fields[at]) for at, test in tests.items()):
                    raise InputError(
                        f"{path}: a field that begins in line {number} runs to line {number + len(taken) - 1}, over "
                        f"lines that are rows of their own, such as {line.strip()!r:.60}; close or remove the "
                        f"quotation mark in line {number}, or write the table as Parquet"
                    )
            number += len(taken)
            taken.clear()


def _recorded(lines: Iterable[str], taken: list[str]) -> Iterator[str]:
    for line in lines:
        taken.append(line)
        yield line


def _may_run_over_lines(path: Path, rows: int) -> bool:
    """Return whether a file has quotation marks, and more lines than rows and a header."""
    if path.stat().st_size == 0:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(b'"') < 0:
            return False
        ends = {b"\n": 0, b"\r": 0}  # Old files of macOS end their lines with the second alone.
        for start in range(0, len(content), 1 << 24):
            part = content[start : start + (1 << 24)]
            ends = {mark: count + part.count(mark) for mark, count in ends.items()}
        return max(ends.values()) + (content[-1:] not in ends) > rows + 1


class _id_test:
    """Whether a text looks like the ids of a column."""

    def __init__(self, column: pd.Series) -> None:
        self.integers = pd.api.types.is_integer_dtype(column)
        texts = np.array([]) if self.integers else column.dropna().astype(str)
        self.known = set(texts) if any(map(_has_space, texts)) else None

    def __call__(self, text: str) -> bool:
        text = text.strip('"')
        if self.integers:
            return _NUMBER.fullmatch(text) is not None
        return text in self.known if self.known is not None else bool(text) and not _has_space(text)


def _has_space(text: str) -> bool:
    return any(map(str.isspace, text))
