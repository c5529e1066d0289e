"""What strategies recorded while they trained: who taught whom, weights over epochs, and whatever else.

Nothing here knows a strategy. A record is a column of the history that is neither a loss nor a validation metric:
``kind/modality``, ``kind/modality/modality`` (from whom, to whom), or any other name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from pyg_ckd.report.axes import (
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
from pyg_ckd.report.cells import state
from pyg_ckd.report.curves import draw_line
from pyg_ckd.report.html import Cell, Row, details, paragraph, table
from pyg_ckd.report.labels import LABEL, in_columns, shortened
from pyg_ckd.report.theme import LIGHT, Theme
from pyg_ckd.report.theme import modality_colors as colors_of
from pyg_ckd.study.results import contender_names, modality_names
from pyg_ckd.study.text import DASH, show

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OTHER = ("loss/", "val/")
"""How columns of a history begin that are no records."""
ALL = ""
"""The place of what belongs to no modality."""
DIGITS = 3
MOST_OPEN = 9
"""Panels up to which the picture is shown without a click."""


class Recorded(NamedTuple):
    """What a contender recorded, of its first seed.

    Attributes:
        frame: Its history, indexed by epoch.
        kept: The epoch whose weights were kept, or :obj:`None`.
        seed: The seed.
        kinds: From kind to its columns: a dict from who acts (a modality, or any word) to a dict from modality to
            column. Who is empty where the kind has none, and the modality where the record belongs to none.
    """

    frame: pd.DataFrame
    kept: float | None
    seed: int
    kinds: dict[str, dict[str, dict[str, str]]]


def kinds_of(frame: pd.DataFrame, modalities: Sequence[str]) -> dict[str, dict[str, dict[str, str]]]:
    """Return the records of a history, see :attr:`Recorded.kinds`.

    Args:
        frame: The history, indexed by epoch.
        modalities: Names of the modalities.
    """
    found: dict[str, dict[str, dict[str, str]]] = {}
    for column in frame:
        if column.startswith(OTHER) or not series(frame, column)[1]:
            continue
        kind, _, rest = column.partition("/")
        who, _, whom = rest.rpartition("/")
        if rest in modalities:
            who, whom = "", rest
        elif whom not in modalities or who not in modalities:
            who, whom = rest, ALL
        found.setdefault(kind, {}).setdefault(who, {})[whom] = column
    return found


def records(results: Mapping[str, Any], histories: Mapping[tuple[str, int], pd.DataFrame]) -> dict[str, Recorded]:
    """Return what every contender recorded under its first seed; those that recorded nothing are left out.

    Args:
        results: The results of a study.
        histories: From (name of the run, seed) to its history.
    """
    found = {}
    for name in contender_names(results):
        seeds = sorted(seed for run, seed in histories if run == name)
        if not seeds:
            continue
        frame = histories[name, seeds[0]]
        kinds = kinds_of(frame, modality_names(results))
        runs = [run for run in results["runs"] if (run["name"], run.get("seed")) == (name, seeds[0])]
        kept = runs[0].get("best_epoch") if runs else None
        if kinds:
            found[name] = Recorded(frame, None if kept is None else float(kept), seeds[0], kinds)
    return found


def happens(recorded: Recorded, kind: str) -> bool:
    """Return whether a kind says in which epochs something happened: it is 1 in some and 0 in others.

    Args:
        recorded: The records.
        kind: The kind.
    """
    columns = [column for row in recorded.kinds[kind].values() for column in row.values()]
    return {value for column in columns for value in series(recorded.frame, column)[1]} == {0.0, 1.0}


def records_section(results: Mapping[str, Any], found: Mapping[str, Recorded], picture: str) -> str:
    """Return the table of all records, the picture before it.

    Args:
        results: The results of a study.
        found: The records, see :func:`records`.
        picture: The HTML of the picture, or nothing.
    """
    if not found:
        return ""
    names, meaning = modality_names(results), meanings(results)
    alone = any(ALL in row for one in found.values() for kind in one.kinds.values() for row in kind.values())
    note = (
        f"What strategies wrote down after every epoch, seed {min(one.seed for one in found.values())}: the value at "
        "the kept epoch and, smaller, that of the first epoch. What happens in some epochs alone is counted."
    )
    groups = {
        ", ".join([name, *state(results, name)]): list(_rows(one, meaning.get(name, {}), names, alone))
        for name, one in found.items()
    }
    picture = details("Over epochs", picture) if len(drawn_panels(found)) > MOST_OPEN else picture
    header = ["record", "what it is", *names, *(["of no modality"] if alone else [])]
    return paragraph(note) + picture + table("What every strategy recorded while it trained", header, groups)


def record_curves(found: Mapping[str, Recorded], modalities: Sequence[str], theme: Theme = LIGHT) -> Figure:
    """Draw the records of modalities over epochs, a panel for each kind of each contender.

    Values are lines in the colours of the modalities. Who acts on whom is a bar for every modality that is acted on, in
    the colour and with the name of the one that acts.

    Args:
        found: The records, see :func:`records`.
        modalities: Names of the modalities.
        theme: The colours.
    """
    panels = drawn_panels(found)
    columns = grid_columns(len(panels), most=3)
    rows = math.ceil(len(panels) / columns)
    figure, colors = new_figure(2.5 * rows, theme), colors_of(list(modalities), theme)
    axes = figure.subplots(rows, columns, squeeze=False)
    longest = max((len(kind) for _, kind in panels), default=0) + 2
    titles = dict(zip(found, short_names(list(found), in_columns(columns, longest)), strict=True))
    names = dict(zip(modalities, shortened(modalities, LABEL), strict=True))
    last = []
    for place, (ax, (name, kind)) in enumerate(zip(axes.flat, panels, strict=False)):
        one = found[name]
        pairs = "" not in one.kinds[kind]
        label = "epoch" if place + columns >= len(panels) else ""
        style(ax, theme, f"{titles[name]}: {kind}", label, grid="x" if pairs else "y")
        if pairs:
            _draw_pairs(ax, one, kind, names, colors, theme)
            continue
        ends = []
        for m, column in one.kinds[kind][""].items():
            if m == ALL:
                continue
            draw_line(ax, one.frame, column, colors[m], 1.8, one.kept, theme)
            point = value_at(one.frame, column, one.kept)
            if point is not None:
                ax.plot(*point, "o", color=colors[m], markersize=4)
                ends.append((*point, f"{names[m]}  {show(point[1], 2)}", colors[m]))
        low, high = ax.get_ylim()
        ax.set_ylim(low - 0.15 * (high - low), high)  # Room for the number of the kept epoch.
        mark_kept(ax, one.kept, theme)
        last.append((ax, ends))
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    for ax, ends in last:
        end_labels(figure, ax, ends, theme)
    return figure


def drawn_panels(found: Mapping[str, Recorded]) -> list[tuple[str, str]]:
    """Return contender and kind of everything that is drawn: values of modalities, and who acts on whom.

    Args:
        found: The records, see :func:`records`.
    """
    return [
        (name, kind)
        for name, one in found.items()
        for kind, rows in one.kinds.items()
        if len(one.frame) > 1 and (any(rows.get("", {})) or (any(map(any, rows.values())) and happens(one, kind)))
    ]


def records_words(found: Mapping[str, Recorded]) -> str:
    """Describe :func:`record_curves` in words and numbers.

    Args:
        found: The records, see :func:`records`.
    """
    parts = []
    for name, kind in drawn_panels(found):
        one = found[name]
        cells = [
            f"{f'{who} to ' if who else ''}{m} {_cell(one, kind, column).text}"
            for who, row in one.kinds[kind].items()
            for m, column in row.items()
            if m != ALL
        ]
        parts.append(f"{name}, {kind}: {', '.join(cells)}.")
    return " ".join(["What strategies recorded over epochs; values at the kept epoch.", *parts])


def meanings(results: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    """Return what the records of every contender mean, by their kind.

    Args:
        results: The results of a study.
    """
    return {str(entry["name"]): entry.get("reports") or {} for entry in results.get("contenders") or ()}


def _rows(one: Recorded, meanings: Mapping[str, str], modalities: Sequence[str], alone: bool) -> Iterator[Row]:
    for kind, rows in one.kinds.items():
        for who, row in rows.items():
            places = [*modalities, *([ALL] if alone else [])]
            cells = [_cell(one, kind, row[m]) if m in row else DASH for m in places]
            yield [f"{kind}: {who}" if who else kind, Cell(meanings.get(kind, DASH), wrap=True), *cells]


def _cell(one: Recorded, kind: str, column: str) -> Cell:
    """Return the value at the kept epoch with the first one, or in how many epochs something happened."""
    _, values = series(one.frame, column)
    if happens(one, kind):
        return Cell(f"{sum(value == 1 for value in values)} of {len(values)} epochs")
    point = value_at(one.frame, column, one.kept) or (0.0, values[0])
    now, first = show(point[1], DIGITS), show(values[0], DIGITS)
    return Cell(now, f"from {first}" if first != now else "")


def _draw_pairs(
    ax: Axes, one: Recorded, kind: str, names: Mapping[str, str], colors: Mapping[str, str], theme: Theme
) -> None:
    """Draw for every modality that is acted on, from epoch to epoch, which one acts."""
    acting: dict[str, dict[float, str]] = {}
    for who, row in one.kinds[kind].items():
        for whom, column in row.items():
            for epoch, value in zip(*series(one.frame, column), strict=True):
                if value == 1:
                    acting.setdefault(whom, {})[epoch] = who
    taught = [m for m in names if m in acting]
    for place, m in enumerate(taught):
        steps = sorted(acting[m].items())
        # Epochs in a row under one name are one bar.
        for (who, _), group in groupby(enumerate(steps), key=lambda step: (step[1][1], step[1][0] - step[0])):
            epochs = [epoch for _, (epoch, _) in group]
            left, width = epochs[0] - 0.5, epochs[-1] - epochs[0] + 1
            ax.barh(place, width, left=left, height=0.55, color=theme.mixed(colors[who], 0.55))
            font: dict[str, Any] = {"fontsize": TEXT, "color": theme.ink, "va": "center", "clip_on": False}
            ax.text(left, place, f" {plain_text(names[who])}", **font)
    ax.set_yticks(range(len(taught)), [plain_text(names[m]) for m in taught])
    ax.tick_params(axis="y", labelcolor=theme.ink)
    ax.set_ylim(len(taught) - 0.4, -0.6)
