"""Plots over epochs: how the views of contenders grow, and how modalities are weighed while one is trained.

The weights of a run are those of the epoch that was best on the validation part. That epoch is marked in every plot,
what came after it is drawn pale, and all labels are about it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyg_ckd.errors import InputError
from pyg_ckd.report.axes import (
    DASHED,
    DOTTED,
    TEXT,
    end_labels,
    grid_columns,
    mark_kept,
    new_figure,
    plain_text,
    series,
    short_names,
    style,
    value_at,
)
from pyg_ckd.report.labels import LABEL, in_columns, shortened
from pyg_ckd.report.theme import LIGHT, Theme, modality_colors
from pyg_ckd.study.text import percent, show

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_OVERLAY = 3
EFFECT_KINDS = {"effect": "Effect on the joint decision", "weight": "Weight that the strategy gives it"}


def kept_epoch(frame: pd.DataFrame, metric: str, recorded: float | None = None) -> float | None:
    """Return the epoch whose weights were kept.

    Args:
        frame: A history, indexed by epoch.
        metric: The metric that decided.
        recorded: The epoch that the run recorded; by default the first one with the highest validation metric.
    """
    if recorded is not None:
        return float(recorded)
    x, y = series(frame, f"val/{metric}")
    return x[y.index(max(y))] if y else None


def learning_curves(
    frames: Mapping[str, pd.DataFrame],
    teacher_levels: Mapping[str, float],
    metric: str = "recall@20",
    kept: Mapping[str, float | None] | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw validation curves of contenders side by side against the teachers' levels.

    The strong line is the joint view; each coloured line is the view of one modality, the dashed line of the same
    colour its teacher, and the shade between them the gap. Up to three modalities share a panel; more get a row of
    panels each. This is Figure 1 of `"Modality-Balanced Learning for Multimedia Recommendation"
    <https://arxiv.org/abs/2408.06360>`_.

    Args:
        frames: From the title of a panel to a history, indexed by epoch, with columns ``val/<metric>`` and
            ``val/<modality>/<metric>``; epochs without a value are skipped. Two fit best.
        teacher_levels: From modality to the metric of its teacher on the same split; :obj:`nan` if unknown.
        metric: The metric.
        kept: From title to the epoch whose weights were kept; by default the one with the highest metric.
        theme: The colours.

    Raises:
        InputError: If there is no history.
    """
    drawn = {title: frame for title, frame in frames.items() if not frame.empty}
    if not drawn:
        raise InputError("learning curves: found no history, expected the one of a contender")
    marked = {title: kept_epoch(frame, metric, (kept or {}).get(title)) for title, frame in drawn.items()}
    names, colors = list(teacher_levels), modality_colors(list(teacher_levels), theme)
    groups = [names] if len(names) <= MAX_OVERLAY else [[name] for name in names]
    figure = new_figure(4.4 if len(groups) == 1 else 0.5 + 2.3 * len(groups), theme)
    axes = figure.subplots(len(groups), len(drawn), sharex="col", sharey=True, squeeze=False)
    _limits(axes[0][0], list(drawn.values()), teacher_levels, metric)
    above, below = shortened(list(drawn), in_columns(len(drawn))), _named(names)
    for place, (row, group) in enumerate(zip(axes, groups, strict=True)):
        for ax, shown, (title, frame) in zip(row, above, drawn.items(), strict=True):
            style(ax, theme, shown if place == 0 else "", "epoch" if place == len(groups) - 1 else "", grid="y")
            views = {m: (colors[m], teacher_levels[m]) for m in group}
            _curves(figure, ax, frame, views, below, metric, marked[title], theme)
        row[0].set_ylabel(f"validation {metric}", color=theme.muted, fontsize=TEXT)
    _curve_key(figure, theme, with_views=bool(names))
    return figure


def contender_curves(
    frames: Mapping[str, pd.DataFrame],
    metric: str = "recall@20",
    kept: Mapping[str, float | None] | None = None,
    reference: str = "plain",
    notes: Mapping[str, str] | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw the joint validation curve of every contender in its own small panel, in front of that of a reference.

    Args:
        frames: From the name of a contender to its history, with a column ``val/<metric>``.
        metric: The metric.
        kept: From name to the epoch whose weights were kept; by default the one with the highest metric.
        reference: The contender whose curve is in all panels.
        notes: From name to further text in its panel.
        theme: The colours.
    """
    columns = grid_columns(len(frames))
    rows = math.ceil(len(frames) / columns)
    figure = new_figure(0.4 + 2.1 * rows, theme)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    _limits(axes[0][0], list(frames.values()), {}, metric)
    titles = short_names(list(frames), in_columns(columns))
    for place, (ax, (name, frame)) in enumerate(zip(axes.flat, frames.items(), strict=False)):
        style(ax, theme, titles[place], "epoch" if place + columns >= len(frames) else "", grid="y")
        ax.tick_params(labelbottom=place + columns >= len(frames))
        if reference in frames and name != reference:
            ax.plot(*series(frames[reference], f"val/{metric}"), color=theme.muted, linewidth=1.1, linestyle=DASHED)
        epoch = kept_epoch(frame, metric, (kept or {}).get(name))
        draw_line(ax, frame, f"val/{metric}", theme.ink, 2.0, epoch, theme)
        point = value_at(frame, f"val/{metric}", epoch)
        if point is not None:
            ax.plot(*point, "o", color=theme.ink, markersize=4.5)
            lines = [show(point[1]), f"epoch {point[0]:.0f}", *filter(None, [(notes or {}).get(name)])]
            text = plain_text("\n".join(lines))
            font: dict[str, Any] = {"fontsize": TEXT, "color": theme.ink, "linespacing": 1.2}
            box = {"facecolor": theme.paper, "edgecolor": "none", "alpha": 0.8, "pad": 1}
            ax.annotate(text, (0.97, 0.06), xycoords="axes fraction", ha="right", va="bottom", bbox=box, **font)
    for ax in axes.flat[len(frames) :]:
        ax.set_visible(False)
    figure.supylabel(f"validation {metric}", color=theme.muted, fontsize=TEXT)
    return figure


def effects_over_time(
    frame: pd.DataFrame, modalities: Sequence[str], kept: float | None = None, theme: Theme = LIGHT
) -> Figure:
    """Draw what a strategy reports about every modality per epoch: its effect (left) and its weight (right).

    Args:
        frame: The history of a contender, with columns ``effect/<modality>`` or ``weight/<modality>``.
        modalities: Names of the modalities.
        kept: The epoch whose weights were kept; by default the last one.
        theme: The colours.
    """
    kinds = effect_kinds(frame, modalities) or list(EFFECT_KINDS)
    figure, colors, names = new_figure(3.4, theme), modality_colors(modalities, theme), _named(modalities)
    for ax, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        style(ax, theme, EFFECT_KINDS[kind], "epoch", grid="y")
        ends = []
        for m in modalities:
            draw_line(ax, frame, f"{kind}/{m}", colors[m], 1.8, kept, theme)
            point = value_at(frame, f"{kind}/{m}", kept)
            if point is not None:
                ax.plot(*point, "o", color=colors[m], markersize=4)
                ends.append((*point, f"{names[m]}  {show(point[1], 2)}", colors[m]))
        _room(ax, theme, around=1.0 if kind == "weight" else 0.0)
        mark_kept(ax, kept, theme)
        end_labels(figure, ax, ends, theme)
    return figure


def effect_kinds(frame: pd.DataFrame, modalities: Sequence[str]) -> list[str]:
    """Return which of ``effect`` and ``weight`` a history has of any modality."""
    return [kind for kind in EFFECT_KINDS if any(f"{kind}/{m}" in frame for m in modalities)]


def draw_line(
    ax: Axes, frame: pd.DataFrame, column: str, color: str, width: float, kept: float | None, theme: Theme
) -> None:
    """Draw a curve, pale after the kept epoch.

    Args:
        ax: The axes.
        frame: A history, indexed by epoch.
        column: Its column; epochs without a value are skipped.
        color: The colour.
        width: Width of the line in points.
        kept: The epoch whose weights were kept, or :obj:`None`.
        theme: The colours.
    """
    x, y = series(frame, column)
    end = len(x) if kept is None else sum(at <= kept for at in x)
    ax.plot(x[:end], y[:end], color=color, linewidth=width, zorder=3)
    start = max(end - 1, 0)
    if len(x) > start + 1:
        ax.plot(x[start:], y[start:], color=theme.mixed(color, 0.62), linewidth=0.8 * width, zorder=2.5)


def _named(modalities: Sequence[str]) -> dict[str, str]:
    return dict(zip(modalities, shortened(modalities, LABEL), strict=True))


def _limits(ax: Axes, frames: Sequence[pd.DataFrame], levels: Mapping[str, float], metric: str) -> None:
    """Fix the shared limits before anything is drawn: the places of labels depend on them."""
    columns = [f"val/{metric}", *(f"val/{m}/{metric}" for m in levels)]
    values = [y for frame in frames for column in columns for y in series(frame, column)[1]]
    values += [level for level in levels.values() if not math.isnan(level)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    pad = 0.06 * ((high - low) or abs(high) or 1.0)
    ax.set_ylim(max(low - pad, 0.0) if low >= 0 else low - pad, high + pad)


def _curves(
    figure: Figure,
    ax: Axes,
    frame: pd.DataFrame,
    modalities: Mapping[str, tuple[str, float]],
    names: Mapping[str, str],
    metric: str,
    kept: float | None,
    theme: Theme,
) -> None:
    first, last = (float(min(frame.index)), float(max(frame.index)))
    span, ends = last - first or 1.0, []
    ax.set_xlim(first - 0.02 * span, last + (0.03 + 0.025 * len(modalities)) * span)
    for place, (m, (color, level)) in enumerate(modalities.items()):
        if not math.isnan(level):
            ax.axhline(level, color=color, linewidth=1.2, linestyle=DASHED, zorder=2)
        x, y = series(frame, f"val/{m}/{metric}")
        draw_line(ax, frame, f"val/{m}/{metric}", color, 1.7, kept, theme)
        point = value_at(frame, f"val/{m}/{metric}", kept)
        if point is None:
            continue
        ax.plot(*point, "o", color=color, markersize=4, zorder=3.5)
        if math.isnan(level):
            ends.append((*point, f"{names[m]}\n{show(point[1])}", color))
            continue
        past = [at <= point[0] for at in x]
        below = [near and value < level for near, value in zip(past, y, strict=True)]
        ax.fill_between(x, y, level, where=below, interpolate=True, color=color, alpha=0.1, linewidth=0, zorder=1)
        side = point[0] + (0.018 + 0.022 * place) * span
        bracket = {"arrowstyle": "|-|,widthA=.25,widthB=.25", "color": color, "linewidth": 1.1, "shrinkA": 0}
        ax.annotate("", (side, point[1]), (side, level), arrowprops={**bracket, "shrinkB": 0}, zorder=3.5)
        ends.append((side, (point[1] + level) / 2, f"{names[m]}\n{gap_text(point[1], level)}", color))
    draw_line(ax, frame, f"val/{metric}", theme.ink, 2.6, kept, theme)
    joint = value_at(frame, f"val/{metric}", kept)
    if joint is not None:
        ax.plot(*joint, "o", color=theme.ink, markersize=5.5, zorder=4)
        ends.append((*joint, f"all modalities\n{show(joint[1])}", theme.ink))
    mark_kept(ax, kept, theme)
    end_labels(figure, ax, ends, theme)


def gap_text(value: float, level: float) -> str:
    """Return how far a view is from its teacher: ``gap 0.0126 (79 %)``, ``ahead by 0.0010``."""
    share = f" ({percent(value / level)})" if level > 0 else ""
    return f"gap {show(level - value)}{share}" if value < level else f"ahead by {show(value - level)}"


def _room(ax: Axes, theme: Theme, around: float) -> None:
    """Show the level that values are compared with: the axis at zero, or a dotted line with values on both sides."""
    low, high = ax.get_ylim()
    if around:
        ax.axhline(around, color=theme.muted, linewidth=1, linestyle=DOTTED, zorder=1)
        low, high = min(low, around - 0.1), max(high, around + 0.1)
        low -= 0.1 * (high - low)  # Room for the number of the kept epoch.
    ax.set_ylim(low if around else min(low, 0), high)


def _curve_key(figure: Figure, theme: Theme, with_views: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Line2D([], [], color=theme.ink, linewidth=2.6, label="all modalities")]
    if with_views:
        handles += [
            Line2D([], [], color=theme.muted, linewidth=1.7, label="one modality alone"),
            Line2D([], [], color=theme.muted, linewidth=1.2, linestyle=DASHED, label="its teacher"),
            Patch(color=theme.muted, alpha=0.18, linewidth=0, label="gap to the teacher"),
        ]
    handles.append(Line2D([], [], color=theme.mixed(theme.muted, 0.62), linewidth=1.7, label="after the kept epoch"))
    font: dict[str, Any] = {"frameon": False, "fontsize": TEXT, "labelcolor": theme.muted, "handlelength": 2.2}
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), **font)
