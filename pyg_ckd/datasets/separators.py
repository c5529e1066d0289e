"""Which character separates the fields of a table in a text file, and what to do where it is none that is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pyg_ckd.datasets.columns import known
from pyg_ckd.errors import InputError

SEPARATORS = (",", ";", "\t", "|", "::")
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")

_NAMES = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars", "::": "double colons"}
_EXCEL = re.compile(r"[\"']?sep=(.{1,2}?)[\"']?[,;\t|]*", re.IGNORECASE)
_OF_NAMES = set("._-:/ ")
"""Characters inside of names of columns, such as ``item-id`` or ``item:token``."""


def separator_of(header: str, required: Sequence[str], path: Path) -> str:
    """Return what separates the fields of a header.

    Args:
        header: The first line of the file.
        required: Names of columns that have to be there, in small letters.
        path: The file, for messages.

    Raises:
        InputError: If something else separates the fields, or the line is no header.
    """
    found = {mark: [known(field.strip().strip('"')) for field in header.split(mark)] for mark in SEPARATORS}
    for mark, fields in found.items():
        if all(name in fields for name in required):
            return mark
    best = max(SEPARATORS, key=lambda mark: len(found[mark]))
    if header.lstrip().startswith(("#", "%", "//")):
        raise InputError(
            f"{path}: begins with a comment, {header!r:.60}, expected the names of the columns in the first line; "
            f"remove the comment, or the mark in front of the names"
        )
    if _EXCEL.fullmatch(header.strip(" ")):
        raise InputError(
            f"{path}: begins with {header.strip(' ')!r:.20}, which tells Excel what separates the fields, expected the "
            f"names of the columns in the first line; remove this line"
        )
    if set(required) <= {known(field.strip("'")) for field in found[best]}:
        raise InputError(
            f"{path}: the names of the columns are in single quotation marks, {header!r:.60}, expected none or double "
            f'ones; write it with pandas.read_csv(..., sep={best!r}, quotechar="\'").to_csv(...)'
        )
    if len(found[best]) == 1:
        _refuse_other(header, required, path)
    if any(NUMBER.fullmatch(field) for field in found[best]):
        raise InputError(
            f"{path}: has no header, the first line is {header!r:.60}, expected the names of the columns with the same "
            f"separator; put the line {best.join(required)!r} above it"
        )
    return best


def advice_on_tabs(header: Sequence[str]) -> str:
    """Return what else may be wrong with a header of a tab-separated file in which a column is missing.

    Args:
        header: The names of the columns that were found.
    """
    line = "\t".join(header)
    mend = "expected tabs: write the file with sep='\\t'"
    if len(header) == 1:
        other = next((mark for mark in SEPARATORS if mark in line), None)
        if other is not None:
            return f"; the header is separated by {_NAMES[other]}, {mend}"
        if len(line.split()) > 1:
            return f"; the header is separated by blanks, {mend}"
        if "\\t" in line:
            return f"; the header is separated by a backslash and a t, {mend}"
        odd = _odd_marks(line)
        if odd:
            return f"; the header is separated by {odd[0]!r}, {mend}"
    if any(NUMBER.fullmatch(field) for field in header):
        return f"; the first line {line!r:.60} is no header: put one above it"
    return ""


def _refuse_other(header: str, required: Sequence[str], path: Path) -> None:
    """Refuse a header whose fields are separated by something that is not read."""
    words = [known(field.strip("\"'")) for field in header.split()]
    if len(words) > 1 and (set(required) <= set(words) or any(map(NUMBER.fullmatch, words))):
        raise InputError(
            f"{path}: blanks separate the fields of the first line, {header!r:.60}, expected one of , ; | :: or tabs, "
            f"below a line like {','.join(required)!r}; write it with pandas.read_csv(..., sep=r'\\s+').to_csv(...)"
        )
    odd = _odd_marks(header)
    within = [mark for mark in sorted(_OF_NAMES & set(header)) if len(required) > 1]
    for mark in ("\\t", *odd, *within):
        fields = [known(field.strip().strip("\"'")) for field in header.split(mark)]
        numbers = mark not in _OF_NAMES and len(fields) > 1 and all(map(NUMBER.fullmatch, fields))
        if (len(fields) > 1 and set(required) <= set(fields)) or numbers:
            below = f", below a line like {','.join(required)!r}" if numbers else ""
            given = "header=None, " if numbers else ""
            sep = r"r'\\t'" if mark == "\\t" else repr(mark)
            raise InputError(
                f"{path}: {mark!r} separates the fields of the first line, {header!r:.60}, expected one of , ; | :: or "
                f"tabs{below}; write it with pandas.read_csv(..., {given}sep={sep}).to_csv(..., index=False)"
            )


def _odd_marks(line: str) -> list[str]:
    """Return the characters of a line that are neither letters nor digits, nor usual in names, nor quotation marks."""
    return [
        mark for mark in dict.fromkeys(line) if not mark.isalnum() and mark not in _OF_NAMES and mark not in "\"'\\"
    ]
