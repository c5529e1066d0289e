"""The plots of the report: pure functions from tables to a matplotlib figure, drawn without any global state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pyg_ckd.errors import InputError
from pyg_ckd.evaluation.statistics import mean_std
from pyg_ckd.study.results import (
    TEACHER,
    headline_metric,
    modality_names,
    number,
    percent,
    run_names,
    run_title,
    run_values,
    show,
    spread_text,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by every kind of colour vision, without those too pale for lines on white.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#b0528b", "#c98a00", "#3a9bd0", "#7a5195", "#8c6d46")
INK, MUTED, FAINT, GRID = "#1c1f24", "#5f6873", "#aab2bb", "#e6e9ed"
WIDTH, TEXT, TITLE = 10.0, 9.5, 11.0
MAX_OVERLAY = 3


def modality_colors(modalities: Sequence[str]) -> dict[str, str]:
    """Return the colour of every modality, the same in all plots that name them in the same order."""
    return {m: PALETTE[i % len(PALETTE)] for i, m in enumerate(modalities)}


def learning_curves(
    frame_plain: pd.DataFrame | None,
    frame_ckd: pd.DataFrame | None,
    teacher_levels: Mapping[str, float],
    metric: str = "recall@20",
) -> Figure:
    """Draw validation curves of plain training (left) and of distillation (right) against the teachers' levels.

    The strong line is the joint view; each coloured line is the student's view of one modality, the dashed line of the
    same colour its teacher, and the shade between them the gap. Up to three modalities share a panel; more get a row
    of panels each. This is Figure 1 of `"Modality-Balanced Learning for Multimedia Recommendation"
    <https://arxiv.org/abs/2408.06360>`_.

    Args:
        frame_plain: The history of the plain student, indexed by epoch, with columns ``val/<metric>`` and
            ``val/<modality>/<metric>``; epochs without a value are skipped. :obj:`None` if there is none.
        frame_ckd: The same of the distilled student.
        teacher_levels: From modality to the metric of its teacher on the same split; :obj:`nan` if unknown.
        metric: The metric.

    Raises:
        InputError: If there is neither history.
    """
    runs = [("Plain training", frame_plain), ("With CKD", frame_ckd)]
    drawn = [(title, frame) for title, frame in runs if frame is not None and not frame.empty]
    if not drawn:
        raise InputError("learning curves: found no history, expected the one of the plain or of the CKD student")
    names, colors = list(teacher_levels), modality_colors(list(teacher_levels))
    groups = [names] if len(names) <= MAX_OVERLAY else [[name] for name in names]
    figure = _figure(4.4 if len(groups) == 1 else 0.5 + 2.3 * len(groups))
    axes = figure.subplots(len(groups), len(drawn), sharey=True, squeeze=False)
    _limits(axes[0][0], [frame for _, frame in drawn], teacher_levels, metric)
    for place, (row, group) in enumerate(zip(axes, groups, strict=True)):
        for ax, (title, frame) in zip(row, drawn, strict=True):
            _style(ax, title if place == 0 else "", "epoch" if place == len(groups) - 1 else "", grid="y")
            _curves(figure, ax, frame, {m: (colors[m], teacher_levels[m]) for m in group}, metric)
        row[0].set_ylabel(f"validation {metric}", color=MUTED, fontsize=TEXT)
    _curve_key(figure, with_views=bool(names))
    return figure


def effects_over_time(frame_ckd: pd.DataFrame, modalities: Sequence[str]) -> Figure:
    """Draw the mean effect (left) and the mean distillation weight (right) of every modality per epoch.

    Args:
        frame_ckd: The history of the distilled student, with columns ``effect/<modality>`` and ``weight/<modality>``.
        modalities: Names of the modalities.
    """
    figure = _figure(3.4)
    colors = modality_colors(modalities)
    panels = {"effect": "Effect on the joint decision", "weight": "Weight of its distillation"}
    for ax, (kind, title) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        _style(ax, title, "epoch", grid="y")
        ends = []
        for m in modalities:
            x, y = _series(frame_ckd, f"{kind}/{m}")
            if x:
                ax.plot(x, y, color=colors[m], linewidth=1.8)
                ax.plot(x[-1], y[-1], "o", color=colors[m], markersize=4)
                ends.append((x[-1], y[-1], f"{m}  {show(y[-1], 2)}", colors[m]))
        _room(ax, around=1.0 if kind == "weight" else 0.0)
        _end_labels(figure, ax, ends)
    return figure


def effect_bars(effects: Mapping[str, Mapping[str, Any]], modalities: Sequence[str] = ()) -> Figure:
    """Draw the mean effect of every modality with its interval.

    Args:
        effects: From modality to a dict with ``mean`` and, where known, ``low`` and ``high``.
        modalities: All modalities, if their colours should be those of other plots.
    """
    colors = modality_colors(list(dict.fromkeys([*modalities, *effects])))
    figure = _figure(0.9 + 0.45 * max(1, len(effects)))
    ax = figure.subplots()
    _style(ax, "", "causal effect on the margin, in units of the score", grid="x")
    for place, (m, effect) in enumerate(effects.items()):
        mean, low, high = (number(effect.get(key)) for key in ("mean", "low", "high"))
        if math.isnan(mean):
            ax.annotate("–", (0, place), (6, 0), textcoords="offset points", va="center", fontsize=TEXT, color=MUTED)
            continue
        ax.barh(place, mean, height=0.56, color=colors[m])
        whiskers = not (math.isnan(low) or math.isnan(high))
        if whiskers:
            ax.plot([low, high], [place, place], color=INK, linewidth=1.2, solid_capstyle="butt")
            ax.plot([low, high], [place, place], "|", color=INK, markersize=6)
        text = f"{show(mean)}   [{show(low)}, {show(high)}]" if whiskers else show(mean)
        _value_label(ax, max(mean, high if whiskers else mean, 0), place, text)
    _name_bars(ax, list(effects))
    return figure


def metric_bars(results: Mapping[str, Any], metric: str | None = None) -> Figure:
    """Draw a test metric of every run: the mean over seeds as a bar, each seed as a dot, the deviation as a number.

    Args:
        results: The results of a study.
        metric: The metric; by default the headline metric, ``recall@20``.
    """

    metric = metric or headline_metric(results)
    colors = modality_colors(modality_names(results))
    values = {name: run_values(results, name, metric) for name in run_names(results)}
    values = {name: seeds for name, seeds in values.items() if seeds}
    figure = _figure(0.9 + 0.42 * max(1, len(values)))
    ax = figure.subplots()
    _style(ax, "", f"test {metric}", grid="x")
    for place, (name, seeds) in enumerate(values.items()):
        mean, std = mean_std(seeds)
        teacher = colors.get(name.removeprefix(TEACHER)) if name.startswith(TEACHER) else None
        color = _mixed(teacher, 0.3) if teacher else {"ckd": INK, "plain": MUTED}.get(name, FAINT)
        ax.barh(place, mean, height=0.6, color=color)
        if len(seeds) > 1:
            ax.plot(seeds, [place] * len(seeds), "o", color="white", markeredgecolor=INK, markersize=4.5, alpha=0.9)
        _value_label(ax, max(mean, *seeds), place, spread_text(mean, std, len(seeds)), bold=name == "ckd")
    if "popularity" in values:
        ax.axvline(values["popularity"][0], color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=0.5)
    _name_bars(ax, [run_title(name) for name in values])
    return figure


def degree_distribution(degrees: Mapping[str, Any]) -> Figure:
    """Draw which share of the nodes has at least so many interactions, on logarithmic axes, a panel for each kind.

    Args:
        degrees: From the kind of node, such as ``user``, to the number of interactions of every node, ``[N]`` integer.
    """
    import numpy as np

    figure = _figure(3.4)
    axes = figure.subplots(1, len(degrees), squeeze=False)[0]
    for ax, (kind, degree), color in zip(axes, degrees.items(), PALETTE, strict=False):
        _style(ax, f"{kind.capitalize()}s", "training interactions, at least", grid="y")
        values, count = np.unique(degree[degree > 0], return_counts=True)
        share = count[::-1].cumsum()[::-1] / max(len(degree), 1)
        ax.plot(values, share, color=color, linewidth=1.6, marker="o", markersize=3)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(lambda value, place: percent(value, max(0, -2 - math.floor(math.log10(value)))))
        ax.xaxis.set_major_formatter(lambda value, place: f"{value:,.0f}")
        ax.minorticks_off()
        ax.set_xlim(0.9, max(12.0, 1.2 * max(values, default=1)))
        ax.set_ylim(top=1.3)
        ax.set_ylabel(f"share of {kind}s", color=MUTED, fontsize=TEXT)
    return figure


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06, wspace=0.04)
    return Figure(figsize=(WIDTH, height), dpi=100, layout=layout, facecolor="white")


def _style(ax: Axes, title: str, xlabel: str, grid: Literal["x", "y"]) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_facecolor("white")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines["left" if grid == "y" else "bottom"].set_visible(False)
    ax.spines["bottom" if grid == "y" else "left"].set_color(FAINT)
    ax.grid(axis=grid, color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(length=0, labelsize=TEXT, labelcolor=MUTED)
    ax.set_title(title, loc="left", fontsize=TITLE, fontweight="bold", color=INK, pad=8)
    ax.set_xlabel(xlabel, fontsize=TEXT, color=MUTED)
    if xlabel == "epoch":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _series(frame: pd.DataFrame, column: str) -> tuple[list[float], list[float]]:
    """Return the epochs with a finite value and the values."""
    if column not in frame:
        return [], []
    values = frame[column].dropna()
    return [float(x) for x in values.index], [float(y) for y in values]


def _limits(ax: Axes, frames: Sequence[pd.DataFrame], levels: Mapping[str, float], metric: str) -> None:
    """Fix the shared limits before anything is drawn: the places of labels depend on them."""
    columns = [f"val/{metric}", *(f"val/{m}/{metric}" for m in levels)]
    values = [y for frame in frames for column in columns for y in _series(frame, column)[1]]
    values += [level for level in levels.values() if not math.isnan(level)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    pad = 0.06 * ((high - low) or abs(high) or 1.0)
    ax.set_ylim(max(low - pad, 0.0) if low >= 0 else low - pad, high + pad)


def _curves(
    figure: Figure, ax: Axes, frame: pd.DataFrame, modalities: Mapping[str, tuple[str, float]], metric: str
) -> None:
    epochs, joint = _series(frame, f"val/{metric}")
    first, last = (min(frame.index), max(frame.index))
    span, ends = float(last - first) or 1.0, []
    ax.set_xlim(first - 0.02 * span, last + (0.03 + 0.025 * len(modalities)) * span)
    if epochs:
        ax.plot(epochs, joint, color=INK, linewidth=2.6, zorder=4)
        ax.plot(epochs[-1], joint[-1], "o", color=INK, markersize=5, zorder=4)
        ends.append((epochs[-1], joint[-1], f"all modalities\n{show(joint[-1])}", INK))
    for place, (m, (color, level)) in enumerate(modalities.items()):
        x, y = _series(frame, f"val/{m}/{metric}")
        if not math.isnan(level):
            ax.axhline(level, color=color, linewidth=1.2, linestyle=(0, (5, 3)), zorder=2)
        if not x:
            continue
        ax.plot(x, y, color=color, linewidth=1.7, zorder=3)
        ax.plot(x[-1], y[-1], "o", color=color, markersize=4, zorder=3)
        side = x[-1] + (0.025 + 0.025 * place) * span
        if math.isnan(level):
            ends.append((x[-1], y[-1], f"{m}\n{show(y[-1])}", color))
            continue
        below = [value < level for value in y]
        ax.fill_between(x, y, level, where=below, interpolate=True, color=color, alpha=0.09, linewidth=0, zorder=1)
        ax.annotate(
            "", (side, y[-1]), (side, level), arrowprops={"arrowstyle": "|-|,widthA=.25,widthB=.25"} | _thin(color)
        )
        ends.append((side, (y[-1] + level) / 2, f"{m}\n{_gap_text(y[-1], level)}", color))
    _end_labels(figure, ax, ends)


def _gap_text(value: float, level: float) -> str:
    share = f" ({percent(value / level)})" if level > 0 else ""
    return f"gap {show(level - value)}{share}" if value < level else f"ahead by {show(value - level)}"


def _thin(color: str) -> dict[str, Any]:
    return {"color": color, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0}


def _end_labels(figure: Figure, ax: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Label curves at the right of the panel: ``(x, y, text, colour)``, moved apart where they would collide."""
    if not ends:
        return
    low, high = ax.get_ylim()
    height = 0.9 * ax.get_position().height * figure.get_figheight()
    line = 1.3 * TEXT / 72 / height * (high - low)
    ends = sorted(ends, key=lambda end: end[1])
    sizes = [line * (end[2].count("\n") + 1.25) for end in ends]
    for (x, y, text, color), place in zip(ends, _spread([end[1] for end in ends], sizes, low, high), strict=True):
        ax.annotate(
            text.replace("$", r"\$"),
            (x, y),
            (1.035, place),
            textcoords=ax.get_yaxis_transform(),
            va="center",
            color=_mixed(color, 0.22, other=0.0),
            fontsize=TEXT,
            linespacing=1.25,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 3},
            annotation_clip=False,
        )


def _spread(places: Sequence[float], sizes: Sequence[float], low: float, high: float) -> list[float]:
    """Return sorted places moved apart as little as a sweep up and a sweep down can, within the limits if they fit."""
    out = list(places)
    for i in range(len(out)):
        floor = low + sizes[i] / 2 if i == 0 else out[i - 1] + (sizes[i - 1] + sizes[i]) / 2
        out[i] = max(out[i], floor)
    for i in reversed(range(len(out))):
        roof = high - sizes[i] / 2 if i == len(out) - 1 else out[i + 1] - (sizes[i + 1] + sizes[i]) / 2
        out[i] = min(out[i], roof)
    return out


def _mixed(color: str, share: float, other: float = 1.0) -> tuple[float, ...]:
    """Return a colour with a share of white, or of black if ``other`` is 0, as small text needs."""
    from matplotlib.colors import to_rgb

    return tuple((1 - share) * part + share * other for part in to_rgb(color))


def _curve_key(figure: Figure, with_views: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Line2D([], [], color=INK, linewidth=2.6, label="all modalities")]
    if with_views:
        handles += [
            Line2D([], [], color=MUTED, linewidth=1.7, label="one modality alone"),
            Line2D([], [], color=MUTED, linewidth=1.2, linestyle=(0, (5, 3)), label="its teacher"),
            Patch(color=MUTED, alpha=0.18, linewidth=0, label="gap to the teacher"),
        ]
    style: dict[str, Any] = {"frameon": False, "fontsize": TEXT, "labelcolor": MUTED, "handlelength": 2.2}
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), **style)


def _room(ax: Axes, around: float) -> None:
    """Show the level that values are compared with: the axis at zero, or a dotted line with values on both sides."""
    low, high = ax.get_ylim()
    if around:
        ax.axhline(around, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
        low, high = min(low, around - 0.1), max(high, around + 0.1)
    ax.set_ylim(low if around else 0, high)


def _value_label(ax: Axes, x: float, place: int, text: str, bold: bool = False) -> None:
    style: dict[str, Any] = {"fontsize": TEXT, "color": INK, "fontweight": "bold" if bold else "normal"}
    ax.annotate(text, (x, place), (7, 0), textcoords="offset points", va="center", annotation_clip=False, **style)


def _name_bars(ax: Axes, names: Sequence[str]) -> None:
    ax.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names])
    ax.tick_params(axis="y", labelcolor=INK, pad=6)
    ax.invert_yaxis()
    low, high = ax.get_xlim()
    ax.set_xlim(min(low, 0.0), high)
