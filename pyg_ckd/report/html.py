"""The few pieces of HTML that the report is made of: every text that enters is escaped here, nothing is loaded."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

STYLE = """
:root { --ink: #1c1f24; --muted: #5f6873; --rule: #dfe3e8; --wash: #f5f7f9; --accent: #0072b2; --alarm: #b34700;
  color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 3rem 0 .35rem; letter-spacing: -0.005em; }
p { margin: .35rem 0 .9rem; max-width: 46rem; }
.lead, .note, figcaption { color: var(--muted); }
.lead { margin: 0 0 1.6rem; max-width: none; overflow-wrap: anywhere; }
.note, figcaption { font-size: .9rem; }
.verdict { border-left: 4px solid var(--accent); background: #f0f6fa; padding: .9rem 1.2rem;
  border-radius: 0 6px 6px 0; }
.verdict p { margin: .35rem 0; max-width: none; font-size: 1.05rem; overflow-wrap: anywhere; }
.verdict.alarm { border-color: var(--alarm); background: #fff4ea; margin-bottom: .8rem; }
.verdict.alarm strong { color: var(--alarm); }
.wide { overflow-x: auto; margin: .8rem 0 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; width: 100%; }
th, td { padding: .42rem .2rem .42rem 1rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child { text-align: left; padding-left: .2rem; background: #fff; position: sticky; left: 0; }
thead th { font-weight: 600; color: var(--muted); font-size: .85rem; border-bottom: 1.5px solid var(--ink);
  vertical-align: bottom; white-space: normal; line-height: 1.3; }
tbody th { font-weight: 500; }
tr.strong th, tr.strong td { border-top: 1.5px solid var(--ink); }
td.best { font-weight: 700; }
td small { color: var(--muted); font-weight: 400; font-size: .85em; margin-left: .3em; }
td small.below { display: block; margin: 0; line-height: 1.3; }
table.facts { width: auto; min-width: 22rem; max-width: 100%; }
table.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.facts th { color: var(--muted); font-weight: 400; padding-right: 1.5rem; }
.dot { display: inline-block; width: .62em; height: .62em; border-radius: 50%; margin-right: .5em; }
figure { margin: .8rem 0 0; }
figure img { display: block; width: 100%; height: auto; }
figcaption { margin-top: .4rem; max-width: 46rem; }
details { border-top: 1px solid var(--rule); padding: .55rem 0; }
details:last-of-type { border-bottom: 1px solid var(--rule); }
summary { cursor: pointer; font-weight: 600; }
h2 + details { margin-top: .8rem; }
.wide + details { margin-top: 1rem; }
@media (max-width: 640px) {
  main { padding: 1.4rem 1rem 3rem; }
  h1 { font-size: 1.5rem; }
  .verdict p { font-size: 1rem; }
  figure .wide img { width: 46rem; max-width: none; }
  table.facts { min-width: 0; }
}
@media print {
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  h2 { break-after: avoid; margin-top: 1.6rem; }
  figure, tr, .verdict { break-inside: avoid; }
  .verdict { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: What it says.
        small: A quieter addition, such as a deviation.
        best: Whether it is the best of its column.
        below: Whether the addition stands on a line of its own.
        color: Colour of a dot in front.
    """

    text: str
    small: str = ""
    best: bool = False
    below: bool = False
    color: str = ""


def table(header: Sequence[str], rows: Iterable[Sequence[Cell | str]], strong_last: bool = False) -> str:
    """Return a table; the first column is the row's name, the others are numbers.

    Args:
        header: Column titles.
        rows: Cells; a plain string is a cell without decoration.
        strong_last: Whether a rule sets the last row apart.
    """
    lines = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in header)
    body = []
    for place, row in enumerate(lines):
        cells = f'<th scope="row">{_inside(row[0])}</th>' + "".join(
            ('<td class="best">' if cell.best else "<td>") + f"{_inside(cell)}</td>" for cell in row[1:]
        )
        strong = ' class="strong"' if strong_last and place == len(lines) - 1 else ""
        body.append(f"<tr{strong}>{cells}</tr>")
    rows_html = "\n".join(body)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows_html}\n</tbody></table></div>\n'


def facts(values: Mapping[str, Any]) -> str:
    """Return a table of names and values, nested dicts flattened to dotted names.

    Args:
        values: The values.
    """
    rows = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>' for name, text in _flatten(values)
    )
    return f'<div class="wide"><table class="facts"><tbody>\n{rows}\n</tbody></table></div>\n'


def figure(png: bytes, alt: str, caption: str) -> str:
    """Return a picture that is part of the page.

    Args:
        png: The picture.
        alt: What it shows, for those who do not see it.
        caption: The text below.
    """
    source = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    image = f'<div class="wide"><img src="{source}" alt="{escape(alt)}"></div>'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>\n"


def paragraph(text: str, kind: str = "note") -> str:
    """Return a paragraph.

    Args:
        text: Its text.
        kind: Its class in the style sheet.
    """
    return f'<p class="{kind}">{escape(text)}</p>\n'


def box(lines: Sequence[str], alarm: bool = False) -> str:
    """Return sentences in a box that catches the eye; the word before a colon of an alarm is set in bold.

    Args:
        lines: The sentences.
        alarm: Whether they are a warning.
    """
    texts = [_glued(escape(line)) for line in lines]
    if alarm:
        texts = [f"<strong>{head}:</strong>{rest}" for head, _, rest in (text.partition(":") for text in texts)]
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
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n{paragraph(lead, 'lead')}{content}</main>\n</body>\n</html>\n"
    )


def _glued(text: str) -> str:
    """Keep a number and its sign on one line."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%").replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")


def _inside(cell: Cell) -> str:
    dot = f'<span class="dot" style="background:{escape(cell.color)}"></span>' if cell.color else ""
    below = ' class="below"' if cell.below else ""
    return dot + escape(cell.text) + (f"<small{below}>{escape(cell.small)}</small>" if cell.small else "")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{prefix}{name}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            rows.append((f"{prefix}{name}", text))
    return rows
