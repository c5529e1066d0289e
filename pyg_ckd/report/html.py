"""The few pieces of HTML that the report is made of: every text that enters is escaped here, nothing is loaded."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from pyg_ckd.report.style import STYLE


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: What it says.
        small: A quieter addition, such as a deviation; several lines if it is set below.
        best: Whether it is the best of its column.
        below: Whether the addition stands below, on lines of its own.
        color: Colour of a dot in front.
        wrap: Whether it is text that may take several lines.
    """

    text: str
    small: str = ""
    best: bool = False
    below: bool = False
    color: str = ""
    wrap: bool = False


Row = Sequence[Cell | str]


def table(
    caption: str,
    header: Sequence[str],
    rows: Iterable[Row] | Mapping[str, Iterable[Row]],
    spans: Sequence[tuple[str, int]] = (),
) -> str:
    """Return a table in a frame that scrolls on its own, by keyboard too.

    Args:
        caption: What the table shows; no two tables of a page may have the same one.
        header: Column titles.
        rows: Cells; the first of each row is its name, a plain string is a cell without decoration. A mapping gives
            groups of rows their titles; a group without rows is left out.
        spans: Titles above the titles of columns, from the second column on, and how many columns each covers; an empty
            one leaves its column with a single title.
    """
    given = rows if isinstance(rows, Mapping) else {"": rows}
    groups = {title: [list(row) for row in group] for title, group in given.items()}
    first: Row = next((row for group in groups.values() for row in group), ())
    text = {place for place, cell in enumerate(first) if isinstance(cell, Cell) and cell.wrap}
    bodies = []
    for title, group in groups.items():
        lines = [_row(row) for row in group]
        head = f'<tr><th scope="rowgroup" colspan="{len(header)}">{escape(title)}</th></tr>' if title else ""
        bodies += [f"<tbody>\n{head}{''.join(lines)}</tbody>\n"] if lines else []
    inside = f"<thead>{_head(header, spans, text)}</thead>\n{''.join(bodies)}"
    return _frame(caption, f"<table><caption>{escape(caption)}</caption>{inside}</table>")


def facts(caption: str, values: Mapping[str, Any]) -> str:
    """Return a table of names and values, nested dicts flattened to dotted names.

    Args:
        caption: What the table shows; no two tables of a page may have the same one.
        values: The values.
    """
    rows = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>' for name, text in _flatten(values)
    )
    inside = f"<caption>{escape(caption)}</caption><tbody>\n{rows}\n</tbody>"
    return _frame(caption, f'<table class="facts">{inside}</table>') if rows else ""


def figure(title: str, pictures: tuple[bytes, bytes], alt: str, caption: str) -> str:
    """Return a picture that is part of the page.

    Args:
        title: Its name, which no other picture or table of the page may have.
        pictures: It as PNG, for light and for dark screens; paper gets the light one.
        alt: What is to be seen on it, with the numbers, for those who do not see it.
        caption: The text below.
    """
    light, dark = (f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}" for png in pictures)
    source = f'<source media="screen and (prefers-color-scheme: dark)" srcset="{dark}">'
    image = f'<picture>{source}<img src="{light}" alt="{escape(alt)}"></picture>'
    return f"<figure>{_frame(title, image)}<figcaption>{escape(caption)}</figcaption></figure>\n"


def paragraph(text: str, kind: str = "note") -> str:
    """Return a paragraph.

    Args:
        text: Its text.
        kind: Its class in the style sheet.
    """
    return f'<p class="{kind}">{escape(text)}</p>\n'


def code(label: str, text: str) -> str:
    """Return a line for a terminal, broken before options alone, in a frame that scrolls on its own.

    Args:
        label: Its name, which no other picture or table of the page may have.
        text: The line.
    """
    words = " ".join(f"<span>{part}</span>" for part in escape(text).replace(" --", "\n--").split("\n"))
    return _frame(label, f"<pre><code>{words}</code></pre>")


def box(lines: Sequence[str], alarm: bool = False, strong: str = "") -> str:
    """Return sentences in a box that catches the eye; the word before a colon of an alarm is set in bold.

    Args:
        lines: The sentences.
        alarm: Whether they are a warning.
        strong: Sentences that start with this have it in bold.
    """
    texts = [_glued(escape(line)) for line in lines]
    if alarm:
        texts = [f"<strong>{head}:</strong>{rest}" for head, _, rest in (text.partition(":") for text in texts)]
    elif strong:
        texts = [
            f"<strong>{text[: len(strong)]}</strong>{text[len(strong) :]}" if text.startswith(strong) else text
            for text in texts
        ]
    inside = "\n".join(f"<p>{text}</p>" for text in texts)
    role = ' role="alert"' if alarm else ""
    kind = "verdict alarm" if alarm else "verdict"
    return f'<div class="{kind}"{role}>\n{inside}\n</div>\n'


def section(title: str, *parts: str) -> str:
    """Return a titled section; nothing if it has no content.

    Args:
        title: Its title.
        parts: Its HTML.
    """
    content = "".join(parts)
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}</section>\n" if content else ""


def details(title: str, content: str) -> str:
    """Return content that unfolds on a click.

    Args:
        title: What is always shown.
        content: The HTML inside.
    """
    return f"<details><summary>{escape(title)}</summary>\n{content}</details>\n"


def page(title: str, lead: str, content: str) -> str:
    """Return the whole document.

    Args:
        title: Its title.
        lead: The line below it.
        content: The HTML of its body.
    """
    whole = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n{paragraph(lead, 'lead')}{content}</main>\n</body>\n</html>\n"
    )
    return whole.encode("utf-8", "replace").decode("utf-8")  # Paths may hold bytes that are no text.


def _glued(text: str) -> str:
    """Keep a number and its sign on one line."""
    space = "\N{NO-BREAK SPACE}"
    for sign in ("=", "&lt;"):
        text = text.replace(f" {sign} ", f"{space}{sign}{space}")
    return text.replace(" %", f"{space}%")


def _frame(label: str, content: str) -> str:
    """Return content that scrolls sideways within itself where it is wider than the page."""
    return f'<div class="wide" role="region" aria-label="{escape(label)}" tabindex="0">{content}</div>\n'


def _head(header: Sequence[str], spans: Sequence[tuple[str, int]], text: set[int]) -> str:
    def title(place: int, more: str = "") -> str:
        kind = ' class="text"' if place in text else ""
        return f'<th scope="col"{kind}{more}>{escape(header[place])}</th>'

    if not spans:
        return f"<tr>{''.join(map(title, range(len(header))))}</tr>"
    first, place = [title(0, ' rowspan="2"')], 1
    second: list[str] = []
    for name, width in spans:
        covered = range(place, place + width)
        place += width
        if name:
            first.append(f'<th scope="colgroup" colspan="{width}">{escape(name)}</th>')
            second += map(title, covered)
        else:
            first += [title(column, ' rowspan="2"') for column in covered]
    return f"<tr>{''.join(first)}</tr><tr>{''.join(second)}</tr>"


def _row(row: Row) -> str:
    name, *cells = (cell if isinstance(cell, Cell) else Cell(cell) for cell in row)
    inside = []
    for cell in cells:
        kinds = " ".join(kind for kind, given in (("best", cell.best), ("text", cell.wrap)) if given)
        start = f'<td class="{kinds}">' if kinds else "<td>"
        inside.append(f"{start}{_inside(cell)}</td>")
    return f'<tr><th scope="row">{_inside(name)}</th>{"".join(inside)}</tr>\n'


def _inside(cell: Cell) -> str:
    dot = f'<span class="dot" style="background:{escape(cell.color)}"></span>' if cell.color else ""
    if cell.below:
        small = "".join(f' <small class="below">{escape(line)}</small>' for line in cell.small.splitlines())
    else:
        small = f" <small>{escape(cell.small)}</small>" if cell.small else ""
    return dot + escape(cell.text) + small


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{prefix}{name}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            rows.append((f"{prefix}{name}", text))
    return rows
