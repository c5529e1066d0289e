"""The part of the report about a search for settings: what it found, what it cost, the line that trains the winner."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyg_ckd.report.axes import DASHED, DOTTED, TEXT, grid_columns, new_figure, short_names, style
from pyg_ckd.report.cells import LATE
from pyg_ckd.report.html import Cell, Row, code, details, paragraph, table
from pyg_ckd.report.labels import in_columns
from pyg_ckd.report.theme import LIGHT, Theme
from pyg_ckd.study.formats import BATCH, PLAIN
from pyg_ckd.study.results import run_title
from pyg_ckd.study.text import DASH, NAN, counted, duration, joined, number, percent, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OPEN = "pruned"
"""The state of trials that are drawn as open dots."""
WINNER = ", winner"


def search_section(results: Mapping[str, Any], picture: str) -> str:
    """Return what the search found for every contender, the importance of knobs, the cost, and the line that trains.

    Args:
        results: The results of a study; nothing is returned of one without a search.
        picture: The HTML of the picture.
    """
    tuning = results.get("tuning") or {}
    searches = tuning.get("searches") or []
    if not searches:
        return ""
    metric, strongest = str(tuning.get("metric") or "the metric"), tuning.get("baseline")
    closed = "; baselines of a closed form chose their knobs by themselves" if tuning.get("baselines") else ""
    note = (
        f"{_budgets(searches)} under seed {tuning['seed']}, the first with its defaults{closed}. {tuning['winner']} is "
        "the winner"
    )
    note += f" and {run_title(strongest)} the strongest baseline" if strongest else ""
    note += ", both named by these numbers before the test part was read."
    parts = [paragraph(note), _found_table(tuning, searches, metric), picture]
    left_out = tuning.get("left_out") or {}
    parts += [paragraph(f"{run_title(name)} was left out: {reason}.") for name, reason in left_out.items()]
    parts += [_importance_table(searches, metric), _cost_table(results, searches)]
    parts.append(details("Every trial", _trials_table(searches, metric)))
    if tuning.get("command"):
        parts += [
            paragraph("This line trains the winner again:"),
            code("Line that trains the winner", tuning["command"]),
        ]
    else:
        parts.append(paragraph("The command line does not know this backbone: train the winner again from Python."))
    return "".join(parts)


def search_curves(results: Mapping[str, Any], theme: Theme = LIGHT) -> Figure:
    """Draw the best validation value against the number of trials, a panel for each contender.

    Dots are single trials, open ones were pruned. The dashed line is plain training in all other panels, the dotted one
    the strongest baseline.

    Args:
        results: The results of a study with a search.
        theme: The colours.
    """
    from matplotlib.ticker import MaxNLocator

    tuning = results["tuning"]
    searches = tuning["searches"]
    steps = {search["name"]: _steps(search) for search in searches}
    columns = grid_columns(len(searches))
    rows = math.ceil(len(searches) / columns)
    figure = new_figure(0.4 + 2.2 * rows, theme)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    beside, level = len(WINNER) if columns > 1 else 0, _level(tuning)
    titles = short_names([run_title(name) for name in steps], in_columns(columns, beside))
    for place, (ax, search, title) in enumerate(zip(axes.flat, searches, titles, strict=False)):
        name, last = search["name"], place + columns >= len(searches)
        winner = name == tuning["winner"]
        style(ax, theme, f"{title}{WINNER}" if winner else title, "trials" if last else "", grid="y")
        ax.tick_params(labelbottom=last)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if not math.isnan(level):
            ax.axhline(level, color=theme.muted, linewidth=1.1, linestyle=DOTTED)
        if name != PLAIN and PLAIN in steps:
            ax.step(*steps[PLAIN], where="post", color=theme.muted, linewidth=1.1, linestyle=DASHED)
        ax.step(*steps[name], where="post", color=theme.ink, linewidth=2.0, zorder=3)
        for x, trial in enumerate(search["trials"], 1):
            value = number(trial.get("value"))
            face = theme.paper if trial["state"] == OPEN else theme.palette[0]
            ax.plot(x, value, "o", color=theme.palette[0], markerfacecolor=face, markersize=4.5, zorder=4)
        best = search["trials"][search["best"]]
        box = {"facecolor": theme.paper, "edgecolor": "none", "alpha": 0.8, "pad": 1}
        font: dict[str, Any] = {"fontsize": TEXT, "color": theme.ink, "fontweight": "bold" if winner else "normal"}
        text = f"{show(number(best.get('value')))}, trial {search['best'] + 1}"
        ax.annotate(text, (0.97, 0.06), xycoords="axes fraction", ha="right", va="bottom", bbox=box, zorder=5, **font)
    for ax in axes.flat[len(searches) :]:
        ax.set_visible(False)
    low, high = axes[0][0].get_ylim()
    axes[0][0].set_ylim(low - 0.2 * (high - low), high)  # Room for the numbers, in all panels alike.
    figure.supylabel(f"validation {tuning['metric']}", color=theme.muted, fontsize=TEXT)
    return figure


def search_words(results: Mapping[str, Any]) -> str:
    """Describe :func:`search_curves`."""
    parts = []
    for search in results["tuning"]["searches"]:
        values = [number(trial.get("value")) for trial in search["trials"]]
        first, best = show(values[0]), show(values[search["best"]])
        parts.append(
            f"{run_title(search['name'])} from {first} to {best} at trial {search['best'] + 1} of {len(values)}"
        )
    return f"Curves of the best validation {results['tuning']['metric']} over trials: {'; '.join(parts)}."


def _budgets(searches: Sequence[Mapping[str, Any]]) -> str:
    """Return who had how many trials; a contender without knobs has one."""
    names: dict[int, list[str]] = {}
    for search in searches:
        names.setdefault(len(search["trials"]), []).append(run_title(search["name"]))
    return joined([f"{joined(who)} had {counted(num, 'trials')}" for num, who in names.items()])


def _steps(search: Mapping[str, Any]) -> tuple[list[int], list[float]]:
    values = [number(trial.get("best_so_far")) for trial in search["trials"]]
    return list(range(1, len(values) + 1)), values


def _level(tuning: Mapping[str, Any]) -> float:
    name = tuning.get("baseline")
    found = (tuning.get("baselines") or {}).get(name) or (tuning.get("best") or {}).get(name) or {}
    return number(found.get("value"))


def _found_table(tuning: Mapping[str, Any], searches: Sequence[Mapping[str, Any]], metric: str) -> str:
    groups: dict[str, list[Row]] = {"Contenders": [], "Baselines": []}
    chosen = {search["name"]: number(search["trials"][search["best"]].get("value")) for search in searches}
    closed = tuning.get("baselines") or {}
    values = {"Contenders": [v for n, v in chosen.items() if n in tuning["contenders"]]}
    values["Baselines"] = [v for n, v in chosen.items() if n not in tuning["contenders"]]
    values["Baselines"] += [number(about.get("value")) for about in closed.values()]
    for search in searches:
        kind = "Contenders" if search["name"] in tuning["contenders"] else "Baselines"
        first, best = search["trials"][0], search["trials"][search["best"]]
        before, after = number(first.get("value")), number(best.get("value"))
        change = percent(after / before - 1, 1, sign=True) if before > 0 and search["best"] else DASH
        top = Cell(show(after), best=after == max(values[kind]))
        name = _name(tuning, search["name"], best.get("converged") is False)
        where = f"{search['best'] + 1}" if search["best"] else "1, its defaults"
        groups[kind].append([name, show(before), top, change, where, Cell(_listed(best["values"]), wrap=True)])
    for name, about in closed.items():
        value = number(about.get("value"))
        top = Cell(show(value), best=value == max(values["Baselines"]))
        settings = Cell(_listed(about.get("settings") or {}), wrap=True)
        groups["Baselines"].append([_name(tuning, name), DASH, top, DASH, DASH, settings])
    header = ["", "defaults", f"best validation {metric}", "over its defaults", "trial", "settings of the best trial"]
    return table(f"Best validation {metric} of every contender and baseline", header, groups)


def _importance_table(searches: Sequence[Mapping[str, Any]], metric: str) -> str:
    known = [search for search in searches if search.get("importance")]
    if not known:
        return ""
    knobs = list(dict.fromkeys(knob for search in known for knob in search["space"]))
    rows: list[Row] = []
    for search in known:
        shares = {knob: number(search["importance"].get(knob)) for knob in knobs}
        top = max(value for value in shares.values() if not math.isnan(value))
        rows.append([run_title(search["name"]), *(Cell(percent(v), best=v == top) for v in shares.values())])
    note = (
        f"Importance of a knob: which share of the variance of validation {metric} over the trials it explains, by "
        "fANOVA. With a dozen trials this is a hint, no measurement."
    )
    return paragraph(note) + table("Importance of knobs", ["", *knobs], rows)


def _cost_table(results: Mapping[str, Any], searches: Sequence[Mapping[str, Any]]) -> str:
    rows: list[Row] = []
    seconds = {search["name"]: _sum(search, "seconds") for search in searches}
    for search in searches:
        states = Counter(trial["state"] for trial in search["trials"])
        counts = [str(states[state]) if states[state] else DASH for state in ("complete", "pruned", "failed")]
        spent = _sum(search, "steps") / _whole(search)
        ratio = seconds[search["name"]] / seconds[PLAIN] if seconds.get(PLAIN) else NAN
        times = DASH if math.isnan(ratio) else f"{show(ratio, 2)} ×"
        row = [run_title(search["name"]), *counts, f"{_sum(search, 'steps'):,.0f}", percent(spent)]
        rows.append([*row, duration(seconds[search["name"]]), times])
    header = ["", "finished", "pruned", "failed", "steps", "of all steps", "training", f"times {PLAIN}"]
    note = "What the trials cost, without evaluation and without teachers, which are trained once for all trials."
    return paragraph(note) + table("Cost of the search", header, rows)


def _trials_table(searches: Sequence[Mapping[str, Any]], metric: str) -> str:
    groups: dict[str, list[Row]] = {}
    for search in searches:
        rows: list[Row] = []
        for place, trial in enumerate(search["trials"]):
            value = Cell(show(number(trial.get("value"))), best=place == search["best"])
            epochs = [show(number(trial.get(key)), 0) for key in ("best_epoch", "epochs")]
            end = str(trial.get("stopped") or DASH)
            settings = Cell(_listed(trial["values"]), wrap=True)
            rows.append([f"{place + 1}", value, *epochs, settings, Cell(end, wrap=True)])
        groups[run_title(search["name"])] = rows
    header = ["trial", f"validation {metric}", "best epoch", "epochs", "settings", "end"]
    return table("Trials of every contender", header, groups)


def _name(tuning: Mapping[str, Any], name: str, late: bool = False) -> Cell:
    notes = {tuning["winner"]: "winner", tuning.get("baseline"): "strongest baseline"}
    said = [note for note in (notes.get(name, ""), LATE if late else "") if note]
    return Cell(run_title(name), "\n".join(said), below=True)


def _sum(search: Mapping[str, Any], key: str) -> float:
    return sum(number(trial.get(key)) for trial in search["trials"] if trial.get(key) is not None)


def _whole(search: Mapping[str, Any]) -> float:
    """Return the steps of all trials if none had ended early; of older results only if all had batches of one size."""
    trials = search["trials"]
    if all(trial.get("budget") for trial in trials):
        return _sum(search, "budget")
    return NAN if BATCH in search["space"] else search["budget"] * len(trials)


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {_value(value)}" for name, value in values.items()) or DASH


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " + ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
