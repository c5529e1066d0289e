"""What is shown while something goes on, and how results look in a notebook."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from html import escape
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def progress_console() -> Console | None:
    """Return where bars are shown: stderr if that is a terminal, the output of a cell in a notebook, else nowhere.

    Rich draws bars in notebooks with the widgets of ``ipywidgets``; without that package, a warning says so and there
    is no bar.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_jupyter:
        if find_spec("ipywidgets") is not None:
            return console
        warnings.warn("progress: bars in a notebook need a package: pip install ipywidgets", stacklevel=2)
        return None
    return console if console.is_terminal else None


class Best(str):
    """A cell that is the best of its column."""


def html_table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], notes: Sequence[str] = ()) -> str:
    """Return a table for a notebook, which screen readers can follow: a caption, and titles of columns and rows.

    Colours are those of the notebook, so that it is readable on dark backgrounds as well. All text is escaped.

    Args:
        caption: What the table shows.
        header: Titles of the columns.
        rows: Cells; the first of every row is its title. A :class:`Best` is bold.
        notes: Lines below the table.
    """
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in header)
    lines = []
    for title, *cells in rows:
        inside = "".join(f'<td style="text-align: right">{_inside(cell)}</td>' for cell in cells)
        lines.append(f'<tr><th scope="row" style="text-align: left">{escape(title)}</th>{inside}</tr>')
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    text = escape(caption)
    return (
        f'<table><caption style="text-align: left">{text}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>{below}"
    )


def _inside(cell: str) -> str:
    return f"<strong>{escape(cell)}</strong>" if isinstance(cell, Best) else escape(cell)
