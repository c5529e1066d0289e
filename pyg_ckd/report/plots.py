"""The bar charts of the report: pure functions from results to a matplotlib figure, drawn without any global state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyg_ckd.evaluation.statistics import mean_std
from pyg_ckd.report.axes import (
    DASHED,
    DOTTED,
    TEXT,
    grid_columns,
    name_bars,
    new_figure,
    short_names,
    style,
    value_label,
)
from pyg_ckd.report.curves import contender_curves, effects_over_time, learning_curves
from pyg_ckd.report.labels import in_columns, shortened
from pyg_ckd.report.theme import LIGHT, PALETTE, Theme, modality_colors
from pyg_ckd.study.formats import PLAIN, TEACHER, current_results
from pyg_ckd.study.results import (
    Gap,
    best_runs,
    best_views,
    contender_names,
    headline_metric,
    marks,
    modality_names,
    not_converged,
    results_table,
    run_names,
    run_title,
    run_values,
    winner_name,
)
from pyg_ckd.study.text import number, percent, show, spread_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "PALETTE",
    "contender_curves",
    "degree_distribution",
    "effect_bars",
    "effects_over_time",
    "learning_curves",
    "metric_bars",
    "modality_colors",
    "teacher_shares",
]


def metric_bars(results: Mapping[str, Any], metric: str | None = None, theme: Theme = LIGHT) -> Figure:
    """Draw a test metric of every run: the mean over seeds as a bar, each seed as a dot, the deviation as a number.

    The best value is bold, the darkest bar is the winner's, and significant differences from plain training are marked.

    Args:
        results: The results of a study, of any format.
        metric: The metric; by default the headline metric, ``recall@20``.
        theme: The colours.
    """
    results = current_results(results)
    metric, winner = metric or headline_metric(results), winner_name(results)
    values = {name: run_values(results, name, metric) for name in run_names(results)}
    values = {name: seeds for name, seeds in values.items() if seeds}
    best = best_runs(results_table(results, [metric]), metric)
    figure = new_figure(0.9 + 0.38 * max(1, len(values)), theme)
    ax = figure.subplots()
    style(ax, theme, "", f"test {metric}", grid="x")
    for place, (name, seeds) in enumerate(values.items()):
        mean, std = mean_std(seeds)
        ax.barh(place, mean, height=0.62, color=_bar_color(results, name, theme))
        if len(seeds) > 1:
            dots: dict[str, Any] = {"markeredgecolor": theme.ink, "markersize": 4.5, "alpha": 0.9}
            ax.plot(seeds, [place] * len(seeds), "o", color=theme.paper, **dots)
        text = f"{spread_text(mean, std, len(seeds))} {marks(results, name, metric)}".rstrip()
        value_label(ax, max(mean, *seeds), place, text, theme, bold=name in best)
    if "popularity" in values:
        ax.axvline(values["popularity"][0], color=theme.muted, linewidth=1, linestyle=DOTTED, zorder=0.5)
    titles = dict(zip(values, short_names([run_title(name) for name in values]), strict=True))
    notes = {name: ["winner"] if name == winner else [] for name in values}
    notes = {name: note + ["not converged"] * (not_converged(results, name)[0] > 0) for name, note in notes.items()}
    name_bars(ax, [", ".join([titles[name], *notes[name]]) for name in values], theme)
    return figure


def teacher_shares(
    rows: Sequence[Gap],
    names: Mapping[str, str] | None = None,
    theme: Theme = LIGHT,
    modalities: Sequence[str] = (),
) -> Figure:
    """Draw the metric of every contender's view relative to its teacher, a panel for each modality.

    The dashed line is the teacher, the dotted line is plain training; the best value is bold.

    Args:
        rows: The gaps; see :func:`~pyg_ckd.study.results.gaps`.
        names: From contender to the label of its bar; by default its name.
        theme: The colours.
        modalities: All modalities, if their colours should be those of other plots.
    """
    contenders = list(dict.fromkeys(row.contender for row in rows))
    found = list(dict.fromkeys(row.modality for row in rows))
    reach = {(row.modality, row.contender): row.reach for row in rows}
    colors, best = modality_colors(list(dict.fromkeys([*modalities, *found])), theme), best_views(rows)
    figure, axes = _panels(found, contenders, names, theme, "share of its teacher")
    # Labels stand in a column at the right: beside the bars they would lie on the teacher's line.
    edge = 1.02 * max([1.0, *(value for value in reach.values() if not math.isnan(value))])
    for m, ax in axes.items():
        for place, c in enumerate(contenders):
            value = reach.get((m, c), math.nan)
            _bar(ax, place, value, percent(value), colors[m], c, theme, bold=c in best[m], label=edge)
        ax.axvline(1.0, color=theme.ink, linewidth=1.2, linestyle=DASHED)
        before = reach.get((m, PLAIN), math.nan)
        if not math.isnan(before):
            ax.axvline(before, color=theme.muted, linewidth=1, linestyle=DOTTED)
    _share_limits(list(axes.values()), [1.0, *(value for value in reach.values() if not math.isnan(value))])
    return figure


def effect_bars(
    effects: Mapping[str, Mapping[str, Mapping[str, Any]]],
    modalities: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw the effect of every modality on every contender's model, a panel for each modality.

    It is the share of the mean lead, which can be compared between models. Where a study did not measure it, it is the
    mean causal effect in units of the score, with its interval.

    Args:
        effects: From contender to modality to a dict with ``share``, or with ``mean`` and, where known, ``low`` and
            ``high``.
        modalities: All modalities, if their colours should be those of other plots.
        names: From contender to the label of its bar; by default its name.
        theme: The colours.
    """
    contenders = list(effects)
    found = list(dict.fromkeys([*modalities, *(m for table in effects.values() for m in table)]))
    colors, shares = modality_colors(found, theme), has_shares(effects)
    found = [m for m in found if any(m in table for table in effects.values())]
    label = "share of the mean lead" if shares else "effect on the score"
    figure, axes = _panels(found, contenders, names, theme, label)
    values = []
    for m, ax in axes.items():
        for place, c in enumerate(contenders):
            effect = effects[c].get(m) or {}
            value, low, high = (number(effect.get(key)) for key in ("share" if shares else "mean", "low", "high"))
            text = percent(value) if shares else show(value, 3)
            ends = () if shares or math.isnan(low) or math.isnan(high) else (low, high)
            values += [v for v in (value, *ends) if not math.isnan(v)]
            _bar(ax, place, value, text, colors[m], c, theme, ends=ends)
    _share_limits(list(axes.values()), values, shares)
    return figure


def has_shares(effects: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> bool:
    """Return whether any effect is known as a share of the mean lead."""
    return any(not math.isnan(number(row.get("share"))) for table in effects.values() for row in table.values())


def degree_distribution(degrees: Mapping[str, Any], theme: Theme = LIGHT) -> Figure:
    """Draw the share of nodes with at least a number of interactions, on logarithmic axes, a panel for each kind.

    Args:
        degrees: From the kind of node, such as ``user``, to the number of interactions of every node, ``[N]`` integer.
        theme: The colours.
    """
    import numpy as np

    figure = new_figure(3.4, theme)
    axes = figure.subplots(1, len(degrees), squeeze=False)[0]
    for ax, (kind, degree), color in zip(axes, degrees.items(), theme.palette, strict=False):
        style(ax, theme, f"{kind.capitalize()}s", "training interactions, at least", grid="y")
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
        ax.set_ylabel(f"share of {kind}s", color=theme.muted, fontsize=TEXT)
    return figure


def _bar_color(results: Mapping[str, Any], name: str, theme: Theme) -> Any:
    if name.startswith(TEACHER):
        colors = modality_colors(modality_names(results), theme)
        return theme.mixed(colors[name.removeprefix(TEACHER)], 0.3)
    if name in contender_names(results):
        special = {PLAIN: theme.muted, winner_name(results): theme.ink}
        return special[name] if name == winner_name(results) else special.get(name, theme.mixed(theme.muted, 0.35))
    return theme.faint


def _panels(
    modalities: Sequence[str], contenders: Sequence[str], names: Mapping[str, str] | None, theme: Theme, label: str
) -> tuple[Figure, dict[str, Axes]]:
    """Return a figure with a panel of horizontal bars per modality, a bar per contender."""
    columns = grid_columns(len(modalities))
    rows = max(1, math.ceil(len(modalities) / columns))
    figure = new_figure(rows * (0.85 + 0.32 * max(1, len(contenders))), theme)
    axes = figure.subplots(rows, columns, squeeze=False)
    titles = dict(zip(contenders, short_names(list(contenders)), strict=True)) | dict(names or {})
    left = max(map(len, titles.values()), default=0) * 3 // 4  # Labels of bars are smaller than titles of panels.
    above = shortened(modalities, in_columns(columns, left // columns))
    for place, ax in enumerate(axes.flat):
        if place >= len(modalities):
            ax.set_visible(False)
            continue
        style(ax, theme, above[place], label if place + columns >= len(modalities) else "", grid="x")
        name_bars(ax, [titles[c] if place % columns == 0 else "" for c in contenders], theme)
    return figure, dict(zip(modalities, axes.flat, strict=False))


def _bar(
    ax: Axes,
    place: int,
    value: float,
    text: str,
    color: str,
    name: str,
    theme: Theme,
    bold: bool = False,
    ends: tuple[float, ...] = (),
    label: float | None = None,
) -> None:
    if math.isnan(value):
        value_label(ax, label or 0.0, place, text, theme)
        return
    ax.barh(place, value, height=0.6, color=theme.mixed(color, 0.55) if name == PLAIN else color)
    if ends:
        ax.plot(ends, [place, place], color=theme.ink, linewidth=1.2, marker="|", markersize=6)
    value_label(ax, max(value, 0.0, *ends) if label is None else label, place, text, theme, bold)


def _share_limits(axes: Sequence[Axes], values: Sequence[float], shares: bool = True) -> None:
    """Leave room for the labels at the end of the longest bar."""
    from matplotlib.ticker import MaxNLocator

    low, high = min([0.0, *values]), max([0.0, *values]) or 1.0
    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=3, steps=[1, 2, 5, 10]))
        ax.set_xlim(1.05 * low, low + 1.32 * (high - low))
        if shares:
            ax.xaxis.set_major_formatter(lambda value, place: percent(value))
