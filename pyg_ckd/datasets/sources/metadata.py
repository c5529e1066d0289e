"""What a catalogue says about its items: texts and addresses of images."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyg_ckd.datasets.markup import plain_text
from pyg_ckd.datasets.sources.lines import parse_line, read_lines
from pyg_ckd.errors import InputError, unknown_name

_PAGE = "getTime"  # The script of a whole page, which stands for the title in some records of 2018.
_IMAGES = ("imUrl", "imageURLHighRes", "imageURL", "images")
_SIZES = ("hi_res", "large", "thumb")


@dataclass
class Metadata:
    """Texts and images of the items.

    Args:
        texts: One text per item, empty if there is none.
        images: The address of one image per item, empty if there is none.
    """

    texts: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)


def read_metadata(path: Path, items: Sequence[str], key: str, fields: Sequence[str]) -> Metadata:
    r"""Read what a catalogue says about some items; of several records of an item, the first counts.

    Args:
        path: A file with one JSON object or literal of a Python dictionary per line, compressed with gzip or not.
            Lines of other items are skipped unread.
        items: The ids of the items, all different.
        key: The name of the id in the objects.
        fields: Names of the fields that make up the text, in this order; lists are joined, and HTML is
            taken out, see :func:`pyg_ckd.datasets.markup.plain_text`.

    Raises:
        InputError: If the file is damaged, lists none of the items, or no record has one of the fields.
    """
    fields = [fields] if isinstance(fields, str) else list(fields)
    rows = {item: row for row, item in enumerate(items)}
    found = Metadata([""] * len(items), [""] * len(items))
    seen: set[str] = set()
    names: dict[str, None] = {}
    for item, record in _records(path, rows, key):
        if item in seen:
            continue
        seen.add(item)
        names |= dict.fromkeys(map(str, record))
        found.texts[rows[item]] = " ".join(filter(None, (_text(record.get(name)) for name in fields)))
        found.images[rows[item]] = _image(record)
    if not seen:
        raise InputError(
            f"{path}: lists none of the {len(items)} items, such as {next(iter(items), '')!r}; give the metadata of "
            f"the category and edition of the reviews"
        )
    for name in fields:
        if name not in names:
            raise InputError(f"{path}: no item has the text asked for; {unknown_name('field', name, names)}")
    return found


def _records(path: Path, rows: Mapping[str, int], key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the records of the items; lines that show the ids of other items only are not parsed."""
    shown = re.compile(rb"""["']%b["']\s*:\s*(["'])([^"'\\]+)\1""" % re.escape(key).encode())
    wanted = {item.encode() for item in rows}
    for number, line in read_lines(path):
        where = f"{path}: line {number}"
        if not (line.startswith(b"{") and line.endswith(b"}")):
            raise InputError(
                f"{where}: is no object in braces, so it is damaged or cut short; repair or remove the line, or "
                f"download the file again"
            )
        ids = [match[2] for match in shown.finditer(line)]
        if ids and wanted.isdisjoint(ids):
            continue
        record = parse_line(line, where)
        if key not in record:
            raise InputError(f"{where}: lacks a field; {unknown_name('field', key, map(str, record))}")
        if not isinstance(record[key], str):
            raise InputError(
                f"{where}: {key!r} is {record[key]!r:.80} ({type(record[key]).__name__}), expected text; write ids "
                f"as text"
            )
        if record[key] in rows:
            yield record[key], record


def _text(value: Any) -> str:
    """Return a value as one line of text; whatever is nested is joined."""
    if isinstance(value, Mapping):
        value = [part for pair in value.items() for part in pair]
    if isinstance(value, (list, tuple, set)):
        return " ".join(filter(None, map(_text, value)))
    return "" if isinstance(value, str) and _PAGE in value else plain_text(value)


def _image(record: Mapping[str, Any]) -> str:
    value = next((record[name] for name in _IMAGES if record.get(name)), "")
    if isinstance(value, list):
        main = [image for image in value if isinstance(image, Mapping) and image.get("variant") == "MAIN"]
        value = (main or value)[0]
    if isinstance(value, Mapping):
        value = next((value[size] for size in _SIZES if value.get(size)), "")
    return value if isinstance(value, str) else ""
