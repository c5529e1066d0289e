"""The report of a study: one HTML file that holds everything, and its plots as pictures beside it."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyg_ckd.evaluation.statistics import mean_std
from pyg_ckd.files import atomic_path
from pyg_ckd.report.html import Cell, box, details, facts, figure, page, paragraph, section, table
from pyg_ckd.report.plots import effect_bars, effects_over_time, learning_curves, metric_bars, modality_colors
from pyg_ckd.study.findings import WARNING, verdict
from pyg_ckd.study.results import (
    DASH,
    TEACHER,
    best_runs,
    check_results,
    comparison,
    gaps,
    headline_metric,
    main_metrics,
    metric_names,
    modality_names,
    number,
    p_text,
    percent,
    render_console_table,
    results_table,
    run_mean,
    run_names,
    run_title,
    run_values,
    show,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["render_console_table", "results_table", "verdict", "write_report"]

DPI = 200
EFFECT_COLUMNS = {
    "ratio": "relative effect",
    "weight": "distillation weight",
    "recall_drop": "recall lost without it",
    "recall_alone": "recall of it alone",
}


def write_report(
    folder: str | os.PathLike[str], results: Mapping[str, Any], histories: Mapping[tuple[str, int], pd.DataFrame]
) -> Path:
    """Write ``report.html``, one file without any external resource, and the plots it shows as PNG files.

    The plots are ``learning_curves.png``, ``effects.png``, ``effect_bars.png`` and ``results.png``, each only if there
    is something to draw. Parts that the study lacks (no distilled student, one seed, one modality) are left out.

    Args:
        folder: Where to write; created if need be.
        results: The results of the study, the dict that ``results.json`` holds.
        histories: From (name of the run, seed) to its history, indexed by epoch; see
            :class:`~pyg_ckd.training.history.History`.

    Returns:
        The path of ``report.html``.

    Raises:
        InputError: If these are not the results of a study.
    """
    check_results(results)
    folder = Path(folder)
    pictures = {name: _save(folder / name, plot) for name, plot in _plots(results, histories).items()}
    found = verdict(results)
    content = "".join(
        [
            _verdict_boxes(found),
            section("Results on the test split", _results_section(results, pictures)),
            section("How the student's views grow", _curves_section(pictures, histories)),
            section("Each modality alone, against its teacher", _gap_section(results)),
            section("Which modality the model uses", _effects_section(results, pictures)),
            section("Cold and warm items", _cold_section(results)),
            section("The data", _data_section(results)),
            section("How it was run", _run_section(results)),
        ]
    )
    target = folder / "report.html"
    with atomic_path(target) as path:
        path.write_text(page(*_title(results), content), encoding="utf-8")
    return target


def _save(path: Path, plot: Figure) -> bytes:
    buffer = io.BytesIO()
    plot.savefig(buffer, format="png", dpi=DPI)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return buffer.getvalue()


def _plots(results: Mapping[str, Any], histories: Mapping[tuple[str, int], pd.DataFrame]) -> dict[str, Figure]:
    metric, names, plots = headline_metric(results), modality_names(results), {}
    plain, ckd = _shown(histories, "plain"), _shown(histories, "ckd")
    curves = [frame for frame in (plain, ckd) if frame is not None and f"val/{metric}" in frame]
    if curves:
        levels = {m: run_mean(results, TEACHER + m, metric, "val") for m in names}
        plots["learning_curves.png"] = learning_curves(plain, ckd, levels, metric)
    if ckd is not None and any(f"effect/{m}" in ckd for m in names):
        plots["effects.png"] = effects_over_time(ckd, names)
    effects = results.get("effects") or {}
    if any(not math.isnan(number(effect.get("mean"))) for effect in effects.values()):
        plots["effect_bars.png"] = effect_bars({m: effects[m] for m in names if m in effects}, names)
    if any(run_values(results, name, metric) for name in run_names(results)):
        plots["results.png"] = metric_bars(results, metric)
    return plots


def _shown(histories: Mapping[tuple[str, int], pd.DataFrame], name: str) -> pd.DataFrame | None:
    """Return the history of the first seed."""
    seeds = sorted(seed for run, seed in histories if run == name and not histories[run, seed].empty)
    return histories[name, seeds[0]] if seeds else None


def _title(results: Mapping[str, Any]) -> tuple[str, str]:
    data, settings = results.get("data") or {}, results.get("settings") or {}
    backbone = settings.get("backbone") or next((r["backbone"] for r in results["runs"] if r.get("backbone")), "model")
    names, seeds = modality_names(results), settings.get("seeds") or []
    parts = [
        f"{len(names)} modalities: {', '.join(names)}" if len(names) > 1 else "".join(names),
        f"{_amount(data['num_users'])} users" if "num_users" in data else "",
        f"{_amount(data['num_items'])} items" if "num_items" in data else "",
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}" if seeds else "",
        str(results.get("started") or "").replace("T", " ")[:16],
    ]
    return f"{backbone} on {data.get('source', 'unnamed data')}", " · ".join(filter(None, parts))


def _verdict_boxes(lines: list[str]) -> str:
    alarms = [line for line in lines if line.startswith(WARNING)]
    calm = [line for line in lines if line not in alarms]
    return (box(alarms, alarm=True) if alarms else "") + (box(calm) if calm else "")


def _results_section(results: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    if not results["runs"]:
        return paragraph("The study holds no run yet.")
    metrics, metric = main_metrics(results), headline_metric(results)
    seeds = max(len(run_values(results, name, metric)) for name in run_names(results))
    note = f"Mean ± standard deviation over {seeds} seeds. " if seeds > 1 else "One seed. "
    parts = [paragraph(f"{note}All items are ranked for every user; the best of each column is in bold.")]
    parts.append(_metric_table(results, metrics))
    rest = [name for name in metric_names(results) if name not in metrics]
    if rest:
        parts.append(details("More metrics", _metric_table(results, rest)))
    if "results.png" in pictures:
        dots = ": bars are means over seeds, dots single seeds, ± one standard deviation" if seeds > 1 else ""
        caption = f"Test {metric}{dots}."
        if "popularity" in run_names(results):
            caption += " The dotted line is popularity, which any model should beat."
        parts.append(figure(pictures["results.png"], f"Bar chart of test {metric} of every model", caption))
    return "".join(parts)


def _metric_table(results: Mapping[str, Any], metrics: list[str]) -> str:
    frame, colors = results_table(results, metrics), modality_colors(modality_names(results))
    best = {metric: best_runs(frame, metric) for metric in metrics}
    rows: list[list[Cell | str]] = []
    for name in frame.index:
        row: list[Cell | str] = [Cell(run_title(name), color=colors.get(name.removeprefix(TEACHER), ""))]
        for metric in metrics:
            mean, std, num = frame.loc[name, metric][["mean", "std", "num"]]
            row.append(_spread_cell(mean, std, num, name in best[metric]))
        rows.append(row)
    both = {"plain", "ckd"} <= set(frame.index)
    if both:
        rows.append(["CKD − plain", *(_difference_cell(results, metric) for metric in metrics)])
    return table(["model", *metrics], rows, strong_last=both)


def _spread_cell(mean: float, std: float, num: float, best: bool = False) -> Cell:
    return Cell(show(mean), f"± {show(std)}" if num > 1 else "", best=best)


def _difference_cell(results: Mapping[str, Any], metric: str) -> Cell:
    plain, ckd = run_mean(results, "plain", metric), run_mean(results, "ckd", metric)
    relative = percent(ckd / plain - 1, 1, sign=True) if plain > 0 and not math.isnan(ckd) else ""
    test = comparison(results, metric)
    tested = p_text(test["p_value"]) if test else ""
    return Cell(show(ckd - plain, sign=True), ", ".join(filter(None, [relative, tested])), below=True)


def _curves_section(pictures: Mapping[str, bytes], histories: Mapping[tuple[str, int], pd.DataFrame]) -> str:
    if "learning_curves.png" not in pictures:
        return ""
    seeds = sorted(seed for run, seed in histories if run in ("plain", "ckd"))
    caption = (
        f"Validation curves of seed {seeds[0]}. A uni-modal curve that stays below its teacher's level belongs to a "
        "modality that the joint model could have used better; labels give the gap at the last evaluation and, in "
        "brackets, the share of the teacher's level reached."
    )
    return figure(pictures["learning_curves.png"], "Learning curves of plain training and of CKD", caption)


def _gap_section(results: Mapping[str, Any]) -> str:
    rows, colors = gaps(results), modality_colors(modality_names(results))
    rows = [row for row in rows if not (math.isnan(row.plain) and math.isnan(row.ckd))]
    if not rows:
        return ""
    metric = headline_metric(results)
    note = (
        f"Test {metric} when only one modality keeps its real features and all others are replaced with their mean. "
        "The teacher was trained on that modality alone."
    )
    header = ["modality", "plain", "with CKD", "teacher", "gap before", "gap after", "gap closed"]
    cells: list[list[Cell | str]] = [
        [
            Cell(row.modality, color=colors[row.modality]),
            Cell(show(row.plain), percent(row.reach_plain) if not math.isnan(row.reach_plain) else ""),
            Cell(show(row.ckd), percent(row.reach_ckd) if not math.isnan(row.reach_ckd) else ""),
            show(row.teacher),
            show(row.before),
            show(row.after),
            percent(row.closed),
        ]
        for row in rows
    ]
    return paragraph(note) + table(header, cells)


def _effects_section(results: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    parts = []
    if "effects.png" in pictures:
        caption = (
            "While CKD trains: how much each modality adds to the joint decision relative to what it can do alone, and "
            "the weight its distillation gets for it. The weakest modality gets the largest weight; the dotted line "
            "is equal weight."
        )
        parts.append(figure(pictures["effects.png"], "Effect and weight of every modality per epoch", caption))
    effects = results.get("effects") or {}
    if effects:
        note = (
            "Measured on the trained model. Causal effect: how much the lead in score of a held-out item over a random "
            "one shrinks when the modality is replaced with its mean; relative effect: the same as a share of the lead "
            "by that modality alone."
        )
        parts.append(paragraph(note) + _effect_table(results, effects))
    if "effect_bars.png" in pictures:
        caption = "Causal effect of every modality on the trained model, with its interval."
        parts.append(figure(pictures["effect_bars.png"], "Causal effect of every modality with its interval", caption))
    return "".join(parts)


def _effect_table(results: Mapping[str, Any], effects: Mapping[str, Mapping[str, Any]]) -> str:
    names, colors = [m for m in modality_names(results) if m in effects], modality_colors(modality_names(results))
    extra = {key: title for key, title in EFFECT_COLUMNS.items() if any(key in effects[m] for m in names)}
    rows: list[list[Cell | str]] = []
    for m in names:
        effect = effects[m]
        interval = _interval(effect, "low", "high")
        row: list[Cell | str] = [Cell(m, color=colors[m]), show(number(effect.get("mean"))), interval]
        for key in extra:
            ends = _interval(effect, f"{key}_low", f"{key}_high")
            row.append(Cell(show(number(effect.get(key))), ends if ends != DASH else ""))
        rows.append(row)
    return table(["modality", "causal effect", "95 % interval", *extra.values()], rows)


def _interval(effect: Mapping[str, Any], low: str, high: str) -> str:
    ends = number(effect.get(low)), number(effect.get(high))
    return DASH if any(map(math.isnan, ends)) else f"[{show(ends[0])}, {show(ends[1])}]"


def _cold_section(results: Mapping[str, Any]) -> str:
    metric = headline_metric(results)
    rows: list[list[Cell | str]] = []
    for name in run_names(results):
        groups = [run_values(results, name, f"{group}/{metric}") for group in ("warm", "cold")]
        if any(groups):
            rows.append([run_title(name), *(_spread_cell(*mean_std(g), len(g)) if g else DASH for g in groups)])
    if not rows:
        return ""
    note = f"Test {metric} on items with training interactions (warm) and on items without a single one (cold)."
    return paragraph(note) + table(["model", "warm items", "cold items"], rows)


def _data_section(results: Mapping[str, Any]) -> str:
    data = results.get("data") or {}
    if not data:
        return ""
    titles = {
        "source": "source",
        "num_users": "users",
        "num_items": "items",
        "num_train": "training interactions",
        "num_val": "validation interactions",
        "num_test": "test interactions",
        "density": "density",
        "cold_items": "items without training interactions",
        "cold_users": "users without training interactions",
        "fingerprint": "fingerprint",
    }
    values = {title: _amount(data[key]) for key, title in titles.items() if key in data}
    if "density" in data:
        values["density"] = percent(number(data["density"]), 3)
    return facts(values) + _modality_table(data)


def _modality_table(data: Mapping[str, Any]) -> str:
    modalities, planted = data.get("modalities") or {}, data.get("planted") or {}
    if not modalities:
        return ""
    colors = modality_colors(list(modalities))
    header = ["modality", "dimensions", "items that have it", *(["planted share of the signal"] if planted else [])]
    rows: list[list[Cell | str]] = []
    for m, about in modalities.items():
        row: list[Cell | str] = [Cell(m, color=colors[m]), _amount(about.get("dim", DASH))]
        row.append(percent(number(about.get("coverage")), 1))
        rows.append([*row, percent(number(planted.get(m)))] if planted else row)
    return table(header, rows)


def _run_section(results: Mapping[str, Any]) -> str:
    parts = []
    if results.get("settings"):
        parts.append(details("Settings", facts(results["settings"])))
    timing = [run for run in results["runs"] if run.get("best_epoch") or run.get("seconds_per_epoch")]
    if timing:
        keys = ("seed", "best_epoch", "seconds_per_epoch")
        rows: list[list[Cell | str]] = [
            [run_title(run["name"]), *(_timing(run, key) for key in keys)] for run in timing
        ]
        parts.append(details("Every run", table(["run", "seed", "best epoch", "seconds per epoch"], rows)))
    if results.get("versions"):
        parts.append(details("Versions", facts(results["versions"])))
    seconds = number(results.get("duration_seconds"))
    lasted = f"The study took {_duration(seconds)}." if not math.isnan(seconds) else ""
    return "".join(parts) + (paragraph(lasted) if lasted else "")


def _timing(run: Mapping[str, Any], key: str) -> str:
    value = number(run.get(key))
    return DASH if math.isnan(value) else show(value, 2 if key == "seconds_per_epoch" else 0)


def _amount(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} seconds"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
