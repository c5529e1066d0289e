"""The charts of the suite's tables, one figure for each benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.common import Bars, Lines, Table, show
from pyg_ckd.files import atomic_path
from pyg_ckd.report.theme import FAINT, GRID, INK, MUTED, PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(tables: Sequence[Table], path: Path) -> None:
    """Write one PNG with a panel for every table that has rows and a chart, or nothing if none has.

    Args:
        tables: The tables.
        path: The file.
    """
    from matplotlib.figure import Figure

    drawn = [(table, table.chart) for table in tables if table.rows and table.chart]
    if not drawn:
        return
    heights = [4.0 if isinstance(chart, Lines) else 0.9 + 0.32 * len(table.rows) for table, chart in drawn]
    figure = Figure(figsize=(10, sum(heights)), dpi=100, layout="constrained", facecolor="white")
    axes = figure.subplots(len(drawn), squeeze=False, height_ratios=heights)[:, 0]
    for ax, (table, chart) in zip(axes, drawn, strict=True):
        ax.set_title(table.title, loc="left", fontsize=11, fontweight="bold", color=INK)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(length=0, labelcolor=MUTED)
        ax.set_axisbelow(True)
        _bars(ax, table, chart) if isinstance(chart, Bars) else _lines(ax, table, chart)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _bars(ax: Axes, table: Table, chart: Bars) -> None:
    values = [row[chart.value] for row in table.rows]
    labels = [", ".join(show(row[column]) for column in chart.label) for row in table.rows]
    ax.barh(range(len(values)), values, color=PALETTE[0], height=0.6)
    for place, (row, value) in enumerate(zip(table.rows, values, strict=True)):
        wanted = row.get("wanted, at most", row.get("wanted, at least")) if _is_wanted(chart.value) else None
        if wanted is not None:
            ax.plot([wanted, wanted], [place - 0.4, place + 0.4], color=PALETTE[1], linewidth=2)
        end = max(value, wanted or 0)
        ax.annotate(show(value), (end, place), (4, 0), textcoords="offset points", va="center", color=INK)
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.grid(axis="x", color=GRID)
    ax.set_xlabel(chart.value, color=MUTED)


def _is_wanted(column: str) -> bool:
    """Return whether the columns of what is wanted are about this one."""
    return "/" in column or column.startswith(("ratio", "share", "seconds"))


def _lines(ax: Axes, table: Table, chart: Lines) -> None:
    x = [row[chart.x] for row in table.rows]
    for name, color in zip(chart.values, PALETTE, strict=False):
        ax.plot(x, [row[name] for row in table.rows], marker="o", color=color, label=name)
    ax.set_xscale("log")
    ax.set_yscale("log")
    for name, place in chart.marks.items():
        ax.axvline(place, color=FAINT, linestyle="--", label=f"{name}, {show(place)}")
    ax.grid(color=GRID)
    ax.set_xlabel(chart.x, color=MUTED)
    ax.legend(frameon=False, labelcolor=MUTED)
