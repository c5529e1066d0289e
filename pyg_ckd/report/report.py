"""The report of a study: one HTML file that holds everything, and its plots as pictures beside it."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyg_ckd.files import as_path, atomic_path
from pyg_ckd.report import words
from pyg_ckd.report.axes import short_names
from pyg_ckd.report.background import cold_section, cost_section, data_section, run_section
from pyg_ckd.report.cells import LATE, state
from pyg_ckd.report.curves import (
    EFFECT_KINDS,
    contender_curves,
    effect_kinds,
    effects_over_time,
    kept_epoch,
    learning_curves,
)
from pyg_ckd.report.html import box, details, figure, page, section
from pyg_ckd.report.labels import add_fonts, fonts_for
from pyg_ckd.report.plots import effect_bars, metric_bars, teacher_shares
from pyg_ckd.report.records import drawn_panels, meanings, record_curves, records, records_section, records_words
from pyg_ckd.report.sections import effects_section, gap_section, results_section, winner_section
from pyg_ckd.report.theme import DARK, LIGHT, Theme
from pyg_ckd.report.tuning import search_curves, search_section, search_words
from pyg_ckd.study.findings import ADVICE, WARNING, verdict
from pyg_ckd.study.formats import PLAIN, TEACHER, current_results
from pyg_ckd.study.results import (
    contender_names,
    gaps,
    headline_metric,
    modality_names,
    render_console_table,
    results_table,
    run_mean,
    run_names,
    run_title,
    run_values,
    winner_name,
)
from pyg_ckd.study.text import amount, joined, number

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["render_console_table", "results_table", "verdict", "write_report"]

DPI = 200
RECORDS = "Picture: what strategies recorded"
Histories = Mapping[tuple[str, int], "pd.DataFrame"]


class Plot(NamedTuple):
    """A plot that is drawn twice, for light and for dark paper.

    Attributes:
        title: Its name on the page.
        alt: What is to be seen on it.
        caption: The text below.
        draw: Draws it with the colours that it is given.
    """

    title: str
    alt: str
    caption: str
    draw: Callable[[Theme], Figure]


def write_report(folder: str | os.PathLike[str], results: Mapping[str, Any], histories: Histories) -> Path:
    """Write ``report.html``, one file without any external resource, and the plots it shows as PNG files.

    The plots are ``search.png`` (of a study with a search for settings), ``results.png``, ``learning_curves.png``
    (plain training beside the winner), ``contenders.png``, ``gaps.png``, ``effect_bars.png``, ``effects.png`` and
    ``records.png`` (what strategies recorded in every epoch), each only if there is something to draw. Parts that the
    study lacks (no teachers, one seed, one modality) are left out.

    Args:
        folder: The folder to write to; created if it does not exist.
        results: The results of the study, the dict that ``results.json`` holds, of any format.
        histories: From (name of the run, seed) to its history, indexed by epoch; see
            :class:`~pyg_ckd.training.history.History`.

    Returns:
        The path of ``report.html``.

    Raises:
        InputError: If these are not the results of a study.
    """
    results = current_results(results)
    folder = as_path(folder)
    fonts = _fonts(results)
    plots = {name: _with_fonts(plot, fonts) for name, plot in _plots(results, histories).items()}
    shown = {name: _shown(plot, folder / f"{name}.png") for name, plot in plots.items()}

    def picture(name: str) -> str:
        return shown.get(name, "")

    curves = picture("learning_curves")
    if picture("contenders"):
        curves += details("Every contender", picture("contenders"))
    content = "".join(
        [
            _verdict_boxes(verdict(results)),
            section("Who wins, and what it is worth", winner_section(results)),
            section("What the search found", search_section(results, picture("search"))),
            section("Results on the test split", results_section(results, picture("results"))),
            section("How the views grow", curves),
            section("Each modality alone, against its teacher", gap_section(results, picture("gaps"))),
            section(
                "Which modality each model uses",
                effects_section(results, picture("effect_bars")) + picture("effects"),
            ),
            section(
                "What each strategy did", records_section(results, records(results, histories), picture("records"))
            ),
            section("What it costs", cost_section(results)),
            section("Cold and warm items", cold_section(results)),
            section("The data", data_section(results)),
            section("How it was run", run_section(results)),
        ]
    )
    target = folder / "report.html"
    with atomic_path(target) as path:
        path.write_text(page(*_title(results), content), encoding="utf-8")
    return target


def _fonts(results: Mapping[str, Any]) -> list[str]:
    """Return further fonts that names need, and say once which letters none has."""
    searched = [search["name"] for search in (results.get("tuning") or {}).get("searches") or ()]
    fonts, lacking = fonts_for([*run_names(results), *modality_names(results), *searched])
    if lacking:
        warnings.warn(
            f"report: found no font with {lacking[:20]}, which pictures show as boxes; install one, such as Noto Sans "
            "CJK, and write the report again. Tables have the names as they are",
            stacklevel=3,
        )
    return fonts


def _with_fonts(plot: Plot, fonts: Sequence[str]) -> Plot:
    return plot._replace(draw=lambda theme: add_fonts(plot.draw(theme), fonts))


def _shown(plot: Plot, path: Path) -> str:
    """Draw a plot, write the light one to a file and return the HTML of both."""
    pictures = []
    for theme in (LIGHT, DARK):
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # Said once for all pictures.
            plot.draw(theme).savefig(buffer, format="png", dpi=DPI)
        pictures.append(buffer.getvalue())
    with atomic_path(path) as temporary:
        temporary.write_bytes(pictures[0])
    return figure(plot.title, (pictures[0], pictures[1]), plot.alt, plot.caption)


def _plots(results: Mapping[str, Any], histories: Histories) -> dict[str, Plot]:
    found = {
        "search": _search_plot(results),
        "results": _results_plot(results),
        "learning_curves": _curves_plot(results, histories),
        "contenders": _contenders_plot(results, histories),
        "gaps": _gaps_plot(results),
        "effect_bars": _effects_plot(results),
        "effects": _over_time_plot(results, histories),
        "records": _records_plot(results, histories),
    }
    return {name: plot for name, plot in found.items() if plot is not None}


def _search_plot(results: Mapping[str, Any]) -> Plot | None:
    tuning = results.get("tuning") or {}
    if not tuning.get("searches"):
        return None
    base = tuning.get("baseline")
    caption = (
        f"Best validation {tuning['metric']} against the number of trials. Dots are single trials, open ones were "
        f"pruned; the dashed line is {PLAIN}."
    )
    caption += f" The dotted line is {run_title(base)}, the strongest baseline." if base else ""
    return Plot("Picture: the search", search_words(results), caption, _drawn(search_curves, results))


def _results_plot(results: Mapping[str, Any]) -> Plot | None:
    metric = headline_metric(results)
    values = {name: run_values(results, name, metric) for name in run_names(results)}
    if not any(values.values()):
        return None
    several = max(map(len, values.values())) > 1
    caption = f"Test {metric}"
    caption += ": bars are means over seeds, dots single seeds, ± one standard deviation." if several else "."
    caption += " The best value is bold; the darkest bar is the winner's."
    if "popularity" in values:
        caption += " The dotted line is popularity, which any model should beat."
    draw = _drawn(metric_bars, results, metric)
    return Plot(f"Picture: test {metric} of every run", words.bars_words(results, metric), caption, draw)


def _curves_plot(results: Mapping[str, Any], histories: Histories) -> Plot | None:
    metric, names = headline_metric(results), modality_names(results)
    found = _first_seed(results, histories, metric)
    pair = [name for name in dict.fromkeys([PLAIN, winner_name(results), *found]) if name in found][:2]
    if not pair:
        return None
    titles = {name: ", ".join([name, *state(results, name)]) for name in pair}
    frames = {titles[name]: found[name][0] for name in pair}
    kept = {titles[name]: found[name][1] for name in pair}
    seed = found[pair[0]][2]
    levels = {m: _value(results, TEACHER + m, seed, metric) for m in names}
    caption = (
        f"Validation {metric} of {joined(pair)}, seed {seed}. Dashed lines are the teachers, each trained on one "
        "modality alone, and the shade is the gap to them. The dotted line marks the epoch whose weights were kept: "
        "labels are about it, and what came after it is pale."
    )
    alt = words.curves_words(frames, levels, metric, kept)
    return Plot("Picture: learning curves", alt, caption, _drawn(learning_curves, frames, levels, metric, kept))


def _contenders_plot(results: Mapping[str, Any], histories: Histories) -> Plot | None:
    metric = headline_metric(results)
    found = _first_seed(results, histories, metric)
    if len(found) < 3:
        return None
    frames = {name: frame for name, (frame, _, _) in found.items()}
    kept = {name: epoch for name, (_, epoch, _) in found.items()}
    notes = {name: "\n".join(_short_state(results, name)) for name in found}
    caption = (
        f"Validation {metric} of the joint view of every contender, seed {min(s for _, _, s in found.values())}, up to "
        f"the kept epoch in ink and pale after it; the dashed curve is {PLAIN}."
    )
    alt = words.contender_curves_words(frames, metric, kept)
    draw = _drawn(contender_curves, frames, metric, kept, PLAIN, notes)
    return Plot("Picture: learning curves of every contender", alt, caption, draw)


def _gaps_plot(results: Mapping[str, Any]) -> Plot | None:
    rows = [row for row in gaps(results) if not math.isnan(row.reach)]
    if not rows:
        return None
    caption = (
        f"Which share of its teacher's test {headline_metric(results)} every view reaches. The dashed line is the "
        f"teacher, the dotted one and the pale bar {PLAIN}; the best of each panel is bold."
    )
    draw = _drawn(teacher_shares, rows, _labels(results), modalities=modality_names(results))
    return Plot("Picture: views against their teachers", words.shares_words(rows), caption, draw)


def _effects_plot(results: Mapping[str, Any]) -> Plot | None:
    names, found = modality_names(results), results.get("effects") or {}
    ordered = [*(name for name in contender_names(results) if name in found), *found]
    effects = {name: found[name] for name in dict.fromkeys(ordered)}
    if all(math.isnan(number(row.get("mean"))) for table in effects.values() for row in table.values()):
        return None
    split = {"val": "validation", "test": "test"}.get(str(results.get("effects_split") or "val"), "held-out")
    caption = f"Effect of every modality on every contender's trained model, {split} part; {PLAIN} is pale."
    draw = _drawn(effect_bars, effects, names, _labels(results))
    return Plot("Picture: effects of every modality", words.effects_words(effects, names), caption, draw)


def _over_time_plot(results: Mapping[str, Any], histories: Histories) -> Plot | None:
    names, metric = modality_names(results), headline_metric(results)
    found = _first_seed(results, histories, metric)
    order = [name for name in dict.fromkeys([winner_name(results), *found]) if name in found]
    name = next((name for name in order if effect_kinds(found[name][0], names)), None)
    if name is None:
        return None
    frame, kept, seed = found[name]
    kinds, meaning = effect_kinds(frame, names), meanings(results).get(name, {})
    said = "; ".join(f"{kind}: {meaning.get(kind, EFFECT_KINDS[kind].lower())}" for kind in kinds)
    caption = (
        f"While {name} trains, seed {seed}. What it records of every modality: {said}. The dotted vertical line marks "
        "the epoch whose weights were kept, and the numbers are those at it."
    )
    alt = words.over_time_words(name, frame, names, kept)
    draw = _drawn(effects_over_time, frame, names, kept)
    return Plot("Picture: effects and weights over epochs", alt, caption, draw)


def _records_plot(results: Mapping[str, Any], histories: Histories) -> Plot | None:
    found = records(results, histories)
    if not drawn_panels(found):
        return None
    caption = (
        "What strategies recorded about modalities in every epoch. Lines are pale after the kept epoch; a bar names "
        "who acts on the modality at its left."
    )
    return Plot(RECORDS, records_words(found), caption, _drawn(record_curves, found, modality_names(results)))


def _drawn(function: Callable[..., Figure], *args: Any, **more: Any) -> Callable[[Theme], Figure]:
    return lambda theme: function(*args, theme=theme, **more)


def _labels(results: Mapping[str, Any]) -> dict[str, str]:
    """Return what stands beside the bars of contenders."""
    names = contender_names(results)
    titles = dict(zip(names, short_names(names), strict=True))
    return {name: ", ".join([titles[name], *_short_state(results, name)]) for name in names}


def _short_state(results: Mapping[str, Any], name: str) -> list[str]:
    return [LATE if note.startswith(LATE) else note for note in state(results, name)]


def _first_seed(
    results: Mapping[str, Any], histories: Histories, metric: str
) -> dict[str, tuple[pd.DataFrame, float | None, int]]:
    """Return the history, the kept epoch and the seed of every contender that has a curve, of its first seed."""
    found = {}
    for name in contender_names(results):
        seeds = sorted(seed for run, seed in histories if run == name and len(histories[run, seed]) > 1)
        frame = histories[name, seeds[0]] if seeds else None
        if frame is not None and f"val/{metric}" in frame and frame[f"val/{metric}"].notna().any():
            runs = [run for run in results["runs"] if (run["name"], run.get("seed")) == (name, seeds[0])]
            recorded = runs[0].get("best_epoch") if runs else None
            found[name] = (frame, kept_epoch(frame, metric, recorded), seeds[0])
    return found


def _value(results: Mapping[str, Any], name: str, seed: int, metric: str) -> float:
    """Return the validation metric of a run of a seed, its mean over seeds if there is no such run."""
    for run in results["runs"]:
        if (run["name"], run.get("seed")) == (name, seed):
            return number((run.get("val") or {}).get(metric))
    return run_mean(results, name, metric, "val")


def _title(results: Mapping[str, Any]) -> tuple[str, str]:
    data, settings = results.get("data") or {}, results.get("settings") or {}
    backbone = settings.get("backbone") or next((r["backbone"] for r in results["runs"] if r.get("backbone")), "model")
    names, seeds = modality_names(results), settings.get("seeds") or []
    parts = [
        f"{len(names)} modalities: {', '.join(names)}" if len(names) > 1 else "".join(names),
        f"{amount(data['num_users'])} users" if "num_users" in data else "",
        f"{amount(data['num_items'])} items" if "num_items" in data else "",
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}" if seeds else "",
        str(results.get("started") or "").replace("T", " ")[:16],
    ]
    return f"{backbone} on {data.get('source', 'unnamed data')}", " · ".join(filter(None, parts))


def _verdict_boxes(lines: list[str]) -> str:
    alarms = [line for line in lines if line.startswith(WARNING)]
    calm = [line for line in lines if line not in alarms]
    return (box(alarms, alarm=True) if alarms else "") + (box(calm, strong=ADVICE) if calm else "")
