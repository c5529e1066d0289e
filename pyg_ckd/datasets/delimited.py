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
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd

from pyg_ckd.datasets.arrays import one_line
from pyg_ckd.datasets.columns import ALIASES, known, plain
from pyg_ckd.datasets.separators import NUMBER, advice_on_tabs, separator_of
from pyg_ckd.datasets.signatures import first_bytes, refuse_other
from pyg_ckd.errors import InputError
from pyg_ckd.files import encoding_of

Quoting: TypeAlias = Literal[0, 3]
"""``csv.QUOTE_MINIMAL`` or ``csv.QUOTE_NONE``."""

_MARKS = ("\x1f", "\x1e", "\x1d", "\x1c")
"""Characters that texts do not hold, to stand in for ``::``."""


def read_csv(path: Path, required: Sequence[str], dtypes: Mapping[str, type] | None = None) -> pd.DataFrame:
    r"""Read a table in which only an empty field is missing, so that a user may be called ``NA``.

    Fields are separated by ``,``, ``;``, a tab, ``|`` or ``::``, whichever the header is. Quotation marks hold a field
    together, except where tabs or ``::`` separate and neither the header nor every id has them, or where lines would be
    lost by it.

    Args:
        path: The file.
        required: Names of columns that have to be there, in small letters; the file may have them in any case.
        dtypes: The types of some columns. (default: :obj:`None`, those that pandas infers)

    Raises:
        InputError: If there is no header, lines are longer than it, something else separates the fields, or a quotation
            mark that is not closed swallows lines.
        ValueError: If the file cannot be parsed.
    """
    skipped, header = _first_line(path)
    separator = separator_of(header, required, path)
    quoting: Quoting = csv.QUOTE_NONE if separator in ("\t", "::") and '"' not in header else csv.QUOTE_MINIMAL
    layout = _Layout(path, separator, encoding_of(path), quoting, skipped, f"{separator} " in header)
    _refuse_twice(layout, required)
    frame = _parsed(layout, dtypes)
    _refuse_header_again(frame, path)
    if quoting == csv.QUOTE_NONE and _quoted(frame, required):
        held = replace(layout, quoting=csv.QUOTE_MINIMAL)
        try:
            again = _parsed(held, dtypes)
        except ValueError:  # An InputError is one, too.
            again = frame.iloc[:0]
        if len(again) < len(frame):  # Marks in other columns are characters: each line was a row.
            return _bare(frame, required, dtypes)
        layout, frame = held, again
    if layout.quoting == csv.QUOTE_MINIMAL and dtypes is None:
        ids = [name for name in frame.columns if known(name) in required]
        if len(ids) == len(required):
            _check_lines(layout, frame, ids)
    return frame


@contextmanager
def decompressed(path: Path) -> Iterator[Path]:
    """Yield the file of a table of text, which is a decompressed copy for the time being where a name ends in ``.gz``.

    Args:
        path: The file. Messages from inside the block name it instead of the copy.

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
            if first_bytes(path)[:2] != b"\x1f\x8b":
                raise InputError(f"{path}: cannot be decompressed: it is not compressed; name it {path.stem}")
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
        return _first_line(file)[1].split("\t")
    except (ValueError, OSError) as error:
        raise InputError(f"{file}: cannot be read as a tab-separated table ({one_line(error)})") from None


def missing_column(file: Path, advice: str, header: Sequence[str]) -> InputError:
    """Return the error for a column that a tab-separated file lacks.

    Args:
        file: The file.
        advice: What is missing, and how to mend it.
        header: The column names that were found.
    """
    return InputError(f"{file}: {advice}{advice_on_tabs(header)}")


def read_tab_separated(file: Path, columns: Sequence[str], dtypes: Mapping[str, type]) -> pd.DataFrame:
    """Read columns that are there; quotation marks are characters like all others.

    Raises:
        ValueError: If values do not fit ``dtypes``, or a line has more fields than the header.
    """
    encoding, (skipped, _) = encoding_of(file), _first_line(file)
    # All columns are read, as pandas ignores further fields of a line when it is given `usecols`.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.ParserWarning)  # Of long lines, which are refused below.
        frame = pd.read_csv(
            file, sep="\t", dtype=dict(dtypes), index_col=False, keep_default_na=False, low_memory=False,
            quoting=csv.QUOTE_NONE, encoding=encoding, skiprows=skipped,
        )  # fmt: skip
    with file.open(encoding=encoding) as lines:  # pandas takes the width of the first line of data on trust.
        filled = ((number, line.count("\t")) for number, line in enumerate(lines, start=1) if line.strip())
        (_, header), (number, width) = next(filled, (1, 0)), next(filled, (2, 0))
    if width > header:
        raise ValueError(f"Expected {header + 1} fields in line {number}, saw {width + 1}")
    _refuse_header_again(frame, file)
    return frame[list(columns)]


@dataclass(frozen=True)
class _Layout:
    """How a table is written: what separates and holds fields, lines above the header, blanks behind separators."""

    path: Path
    separator: str
    encoding: str
    quoting: Quoting
    skipped: int
    blanks: bool

    def rows(self, taken: list[str] | None = None) -> Iterator[list[str]]:
        """Yield the fields of each row below the lines that are skipped, as pandas reads them, also of blank lines.

        Args:
            taken: Where to put the lines that a row is made of. (default: :obj:`None`, nowhere)
        """
        with self.path.open(encoding=self.encoding, newline="") as file:
            lines = islice(file, self.skipped, None)
            mark = self.separator if len(self.separator) == 1 else _MARKS[0]
            marked = (line.replace(self.separator, mark) for line in _recorded(lines, taken))
            for row in csv.reader(marked, delimiter=mark, quoting=self.quoting):
                yield [field.replace(mark, self.separator) for field in row]


def _first_line(path: Path) -> tuple[int, str]:
    """Return how many blank lines a file begins with, and the line behind them."""
    with path.open(encoding=encoding_of(path)) as file:
        return next(((n, line.rstrip("\r\n")) for n, line in enumerate(file) if line.strip()), (0, ""))


def _parsed(layout: _Layout, dtypes: Mapping[str, type] | None) -> pd.DataFrame:
    source: Path | BytesIO = layout.path
    separator, encoding = layout.separator, layout.encoding
    if len(separator) > 1:  # Which the fast parser, the only one that knows quotation marks, does not read.
        content = layout.path.read_bytes()
        if encoding == "utf-16":
            content, encoding = content.decode(encoding).encode(), "utf-8"
        mark = next((mark for mark in _MARKS if mark.encode() not in content), _MARKS[0])
        source, separator = BytesIO(content.replace(separator.encode(), mark.encode())), mark
    try:
        with warnings.catch_warnings():
            # Else pandas takes the first field of lines that are longer than the header for a name of the row.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                source, sep=separator, index_col=False, dtype=dtypes, keep_default_na=False, na_values=[""],
                encoding=encoding, quoting=layout.quoting, skiprows=layout.skipped, skipinitialspace=layout.blanks,
                low_memory=False,
            )  # fmt: skip
    except (pd.errors.ParserWarning, pd.errors.ParserError) as error:
        if "inside string" in str(error):
            raise _unclosed(layout) from None
        raise _long_line(layout, error) from None
    held = separator != layout.separator and layout.quoting == csv.QUOTE_MINIMAL
    return _put_back(frame, separator, layout.separator) if held else frame


def _refuse_twice(layout: _Layout, required: Sequence[str]) -> None:
    """Refuse a column that may be read and is there twice, of which pandas renames the second."""
    try:
        header = next(layout.rows(), [])
    except csv.Error:  # Whoever reads the rows says so.
        return
    read = {*required, *(other for name in required for other in ALIASES.get(name, ()))}
    if "user" in required:
        read |= {"timestamp", *ALIASES["timestamp"], "split", "rating", "label"}
    twice = next((name for name in header if plain(name) in read and header.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"{layout.path}: has the column {twice!r} twice, expected one column of that name; drop or rename one"
        )


def _refuse_header_again(frame: pd.DataFrame, path: Path) -> None:
    """Refuse a header among the rows, as in files that were put one behind the other."""
    again = np.full(len(frame), frame.shape[1] > 1)
    for name, column in frame.items():
        if not again.any() or pd.api.types.is_numeric_dtype(column):
            return
        again &= (column == name).to_numpy(dtype=bool, na_value=False)
    if again.any():
        raise InputError(
            f"{path}: row {again.argmax()} (rows count from zero, without the header) is the header again, "
            f"{', '.join(map(str, frame.columns))!r:.60}, expected it once; remove the line, as where several files "
            "were put one behind the other"
        )


def _put_back(frame: pd.DataFrame, mark: str, separator: str) -> pd.DataFrame:
    """Return a frame in which the mark that stood for the separator between quotation marks is the separator again.

    Args:
        frame: The frame.
        mark: What stood in for the separator.
        separator: What separates fields.
    """
    texts = {name: column.str.replace(mark, separator, regex=False) for name, column in frame.items() if _text(column)}
    return frame.assign(**texts).rename(columns=lambda name: name.replace(mark, separator))


def _bare(frame: pd.DataFrame, required: Sequence[str], dtypes: Mapping[str, type] | None) -> pd.DataFrame:
    """Return a frame without the quotation marks around ids, which are integers if all are written as such.

    Args:
        frame: The frame.
        required: Names of the columns of ids, in small letters.
        dtypes: The types of some columns.
    """
    ids = {name: frame[name].str[1:-1].str.replace('""', '"') for name in frame.columns if known(name) in required}
    for name, column in ids.items():
        if name not in (dtypes or {}) and column.str.fullmatch(r"0|-?[1-9][0-9]{0,17}").all():
            ids[name] = column.astype(np.int64)
        else:
            ids[name] = column.mask(column == "")
    return frame.assign(**ids)


def _text(column: pd.Series) -> bool:
    return pd.api.types.infer_dtype(column, skipna=True) == "string"


def _quoted(frame: pd.DataFrame, required: Sequence[str]) -> bool:
    """Return whether every id is between quotation marks."""
    ids = [frame[name] for name in frame.columns if known(name) in required]
    return (
        len(ids) > 0
        and len(frame) > 0
        and all(str(column.iloc[0]).startswith('"') for column in ids)
        and all(column.astype(str).str.fullmatch(r'".*"').all() for column in ids)
    )


def _long_line(layout: _Layout, error: Exception) -> Exception:
    """Return the error for lines that have more fields than the header, with the first of them."""
    taken: list[str] = []
    header: list[str] = []
    number = layout.skipped + 1
    try:
        for row in layout.rows(taken):
            if row and not header:
                header = row
            elif len(row) > len(header):
                break
            number += len(taken)
            taken.clear()
        else:
            return error if isinstance(error, ValueError) else ValueError(one_line(error))
    except csv.Error:
        return error if isinstance(error, ValueError) else ValueError(one_line(error))
    named, mark = layout.separator.join(header), layout.separator
    mend = "name all of them, or write the table without names of rows (row.names=FALSE in R, index=False in pandas)"
    if layout.quoting == csv.QUOTE_NONE and any('"' in field for field in row):
        mend = "put the names of the header between quotation marks too, if these hold fields together, or " + mend
    elif len(taken) > 1:
        mend = f"if a quotation mark in line {number} is not closed, close or remove it, else {mend}"
    elif number > layout.skipped + 2:
        mend = f"repair the line, or put a field that holds {mark!r} between quotation marks"
    return InputError(
        f"{layout.path}: line {number} has {len(row)} fields, but the header names {len(header)}, {named!r:.60}; {mend}"
    )


def _unclosed(layout: _Layout) -> InputError:
    """Return the error for a quotation mark that is not closed up to the end of the file, with its line."""
    taken: list[str] = []
    number = first = layout.skipped + 1
    try:
        for _ in layout.rows(taken):
            first = number
            number += len(taken)
            taken.clear()
    except csv.Error:  # A field that is too long.
        first = number
    return InputError(
        f"{layout.path}: a quotation mark in line {first} is not closed, so that its field runs to the end of the "
        f"file; close or remove it, or write the table as Parquet"
    )


def _check_lines(layout: _Layout, frame: pd.DataFrame, ids: Sequence[str]) -> None:
    """Refuse a field that runs over lines which are rows of their own: its quotation mark is not closed."""
    path, separator = layout.path, layout.separator
    if not _may_run_over_lines(path, len(frame)) or not set(ids) <= set(frame.columns):
        return
    tests = {frame.columns.get_loc(name): _id_test(frame[name]) for name in ids}
    taken: list[str] = []
    number = layout.skipped + 1
    try:
        for _ in layout.rows(taken):
            for line in taken[1:]:
                fields = line.rstrip("\r\n").split(separator)
                if len(fields) == len(frame.columns) and _is_row({at: fields[at] for at in tests}, tests):
                    raise InputError(
                        f"{path}: a field that begins in line {number} runs to line {number + len(taken) - 1}, over "
                        f"lines that are rows of their own, such as {line.strip()!r:.60}; close or remove the "
                        f"quotation mark in line {number}, or write the table as Parquet"
                    )
            number += len(taken)
            taken.clear()
    except csv.Error as error:
        raise InputError(
            f"{path}: line {number}: cannot be read ({one_line(error)}); a quotation mark may not be closed: "
            f"remove it, or write the table as Parquet"
        ) from None


def _recorded(lines: Iterable[str], taken: list[str] | None) -> Iterator[str]:
    for line in lines:
        if taken is not None:
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


def _is_row(fields: Mapping[int, str], tests: Mapping[int, _id_test]) -> bool:
    """Return whether fields look like ids, and one of them is known if any are texts: most words look like ids."""
    if not all(tests[at](text) for at, text in fields.items()):
        return False
    texts = [text.strip('"') in tests[at].known for at, text in fields.items() if not tests[at].integers]
    return any(texts) or not texts


class _id_test:
    """Whether a text looks like the ids of a column."""

    def __init__(self, column: pd.Series) -> None:
        self.integers = pd.api.types.is_integer_dtype(column)
        self.known: set[str] = set() if self.integers else set(column.dropna().astype(str))
        self.spaced = any(map(_has_space, self.known))

    def __call__(self, text: str) -> bool:
        text = text.strip('"')
        if self.integers:
            return NUMBER.fullmatch(text) is not None
        return text in self.known if self.spaced else bool(text) and not _has_space(text)


def _has_space(text: str) -> bool:
    return any(map(str.isspace, text))
