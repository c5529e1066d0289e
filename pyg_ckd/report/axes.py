"""What all plots share: the figure, the style of axes, labels that keep out of each other's way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pyg_ckd.report.labels import BAR, shortened
from pyg_ckd.report.theme import Theme

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, TEXT, TITLE = 10.0, 9.5, 11.0
DOTTED, DASHED = (0, (1, 2)), (0, (5, 3))


def new_figure(height: float, theme: Theme) -> Figure:
    """Return an empty figure, drawn without any global state.

    Args:
        height: Its height in inches.
        theme: Its colours.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06, wspace=0.04)
    return Figure(figsize=(WIDTH, height), dpi=100, layout=layout, facecolor=theme.paper)


def style(ax: Axes, theme: Theme, title: str, xlabel: str, grid: Literal["x", "y"]) -> None:
    """Give axes the look of the report.

    Args:
        ax: The axes.
        theme: Their colours.
        title: Title, at the left.
        xlabel: Label of the horizontal axis; ``"epoch"`` has whole numbers.
        grid: The axis whose values are read; the other one has no grid.
    """
    from matplotlib.ticker import MaxNLocator

    ax.set_facecolor(theme.paper)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines["left" if grid == "y" else "bottom"].set_visible(False)
    ax.spines["bottom" if grid == "y" else "left"].set_color(theme.faint)
    ax.grid(axis=grid, color=theme.grid, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(length=0, labelsize=TEXT, labelcolor=theme.muted)
    ax.set_title(plain_text(title), loc="left", fontsize=TITLE, fontweight="bold", color=theme.ink, pad=8)
    ax.set_xlabel(xlabel, fontsize=TEXT, color=theme.muted)
    if xlabel == "epoch":
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def series(frame: pd.DataFrame, column: str) -> tuple[list[float], list[float]]:
    """Return the epochs with a value and the values; nothing if there is no such column, or one without numbers."""
    import pandas as pd

    if column not in frame:
        return [], []
    try:
        values = pd.to_numeric(frame[column]).dropna()
    except (TypeError, ValueError):
        return [], []
    return [float(x) for x in values.index], [float(y) for y in values]


def value_at(frame: pd.DataFrame, column: str, epoch: float | None) -> tuple[float, float] | None:
    """Return the last epoch up to a given one at which a column has a value, and the value.

    Args:
        frame: A history, indexed by epoch.
        column: The column.
        epoch: The epoch; :obj:`None` for the last one.
    """
    x, y = series(frame, column)
    places = [i for i, at in enumerate(x) if epoch is None or at <= epoch]
    return (x[places[-1]], y[places[-1]]) if places else None


def mark_kept(ax: Axes, epoch: float | None, theme: Theme) -> None:
    """Draw the epoch whose weights were kept as a line with its number.

    Args:
        ax: The axes.
        epoch: The epoch; nothing is drawn for :obj:`None`.
        theme: The colours.
    """
    if epoch is None:
        return
    ax.axvline(epoch, color=theme.muted, linewidth=1, linestyle=DOTTED, zorder=1.5)
    low, high = ax.get_xlim()
    right = (epoch - low) / (high - low) > 0.5
    ax.annotate(
        f"kept: epoch {epoch:.0f}",
        (epoch, 0),
        (-4 if right else 4, 4),
        xycoords=ax.get_xaxis_transform(),
        textcoords="offset points",
        ha="right" if right else "left",
        fontsize=TEXT - 1,
        color=theme.muted,
        bbox={"facecolor": theme.paper, "edgecolor": "none", "pad": 1, "alpha": 0.8},
        zorder=5,
    )


def end_labels(figure: Figure, ax: Axes, ends: Sequence[tuple[float, float, str, str]], theme: Theme) -> None:
    """Label points at the right of the panel: ``(x, y, text, colour)``, moved apart where they would collide.

    Args:
        figure: The figure, laid out.
        ax: The axes, with their final limits.
        ends: The points.
        theme: The colours.
    """
    if not ends:
        return
    low, high = ax.get_ylim()
    height = 0.9 * ax.get_position().height * figure.get_figheight()
    line = 1.3 * TEXT / 72 / height * (high - low)
    ends = sorted(ends, key=lambda end: end[1])
    sizes = [line * (end[2].count("\n") + 1.25) for end in ends]
    for (x, y, text, color), place in zip(ends, spread([end[1] for end in ends], sizes, low, high), strict=True):
        ax.annotate(
            plain_text(text),
            (x, y),
            (1.035, place),
            textcoords=ax.get_yaxis_transform(),
            va="center",
            color=theme.text(color),
            fontsize=TEXT,
            linespacing=1.25,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "alpha": 0.7, "shrinkA": 1, "shrinkB": 3},
            annotation_clip=False,
        )


def spread(places: Sequence[float], sizes: Sequence[float], low: float, high: float) -> list[float]:
    """Return sorted places moved apart as little as a sweep up and a sweep down can, within the limits if they fit.

    Args:
        places: The places, ascending.
        sizes: How much room each needs.
        low: Lower limit.
        high: Upper limit.
    """
    out = list(places)
    for i in range(len(out)):
        floor = low + sizes[i] / 2 if i == 0 else out[i - 1] + (sizes[i - 1] + sizes[i]) / 2
        out[i] = max(out[i], floor)
    for i in reversed(range(len(out))):
        roof = high - sizes[i] / 2 if i == len(out) - 1 else out[i + 1] - (sizes[i + 1] + sizes[i]) / 2
        out[i] = min(out[i], roof)
    return out


def value_label(ax: Axes, x: float, place: int, text: str, theme: Theme, bold: bool = False) -> None:
    """Write a value beside the end of a bar.

    Args:
        ax: The axes.
        x: Where the bar ends.
        place: Which bar.
        text: The value.
        theme: The colours.
        bold: Whether it is the best.
    """
    font: dict[str, Any] = {"fontsize": TEXT, "color": theme.ink, "fontweight": "bold" if bold else "normal"}
    ax.annotate(text, (x, place), (7, 0), textcoords="offset points", va="center", annotation_clip=False, **font)


def name_bars(ax: Axes, names: Sequence[str], theme: Theme) -> None:
    """Write names at the left of bars, the first one at the top.

    Args:
        ax: The axes.
        names: The names.
        theme: The colours.
    """
    ax.set_yticks(range(len(names)), [plain_text(name) for name in names])
    ax.tick_params(axis="y", labelcolor=theme.ink, pad=6)
    ax.set_ylim(len(names) - 0.45, -0.55)
    low, high = ax.get_xlim()
    ax.set_xlim(min(low, 0.0), high)


def grid_columns(num: int, most: int = 4) -> int:
    """Return the number of columns of a grid of panels whose rows are as equal as can be."""
    rows = max(1, -(-num // most))
    return max(1, -(-num // rows))


def plain_text(text: str) -> str:
    """Return text that matplotlib does not read as mathematics."""
    return text.replace("$", r"\$")


def short_names(names: Sequence[str], most: int = BAR) -> list[str]:
    """Return import paths without the package, as far as they stay different: ``my_pkg.Mine`` becomes ``Mine``.

    Other names with dots, such as ``mine-0.1``, stay as they are. Long names lose their middle.

    Args:
        names: The names.
        most: Most characters of a name, see :func:`~pyg_ckd.report.labels.shortened`.
    """
    last = [_end(name) for name in names]
    return shortened([end if last.count(end) == 1 else name for name, end in zip(names, last, strict=True)], most)


def _end(name: str) -> str:
    parts = name.split(".")
    return parts[-1] if all(map(str.isidentifier, parts)) else name
