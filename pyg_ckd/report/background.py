"""The sections of the report behind the comparison: cost, cold items, the data, how it was run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pyg_ckd.evaluation.statistics import mean_std
from pyg_ckd.report.cells import LATE, name_cell, spread_cell
from pyg_ckd.report.html import Cell, Row, details, facts, paragraph, table
from pyg_ckd.report.theme import modality_colors
from pyg_ckd.study.formats import PLAIN, TEACHER
from pyg_ckd.study.results import baseline_names, contender_names, headline_metric, run_names, run_title, run_values
from pyg_ckd.study.text import DASH, NAN, amount, duration, joined, number, percent, show

FACTS = {
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


def cost_section(results: Mapping[str, Any]) -> str:
    """Return what training cost, against plain training and with the teachers that a contender needs."""
    names = [*baseline_names(results), *contender_names(results)]
    times = {name: _mean(results, name, "training_seconds") for name in names}
    speeds = {name: _mean(results, name, "seconds_per_epoch") for name in names}
    if all(math.isnan(value) for value in [*times.values(), *speeds.values()]):
        return ""
    needing = {entry["name"] for entry in results.get("contenders") or () if entry.get("needs_teachers")}
    teachers = [_mean(results, name, "training_seconds") for name in run_names(results) if name.startswith(TEACHER)]
    rows: list[Row] = []
    for name in names:
        total = times[name] + (sum(teachers) if name in needing else 0.0)
        speed = show(speeds[name], 3 if speeds[name] < 0.1 else 2)
        epochs = [show(_mean(results, name, key), 0) for key in ("best_epoch", "epochs")]
        ratios = [_times(speeds[name], speeds.get(PLAIN, NAN)), _times(total, times.get(PLAIN, NAN))]
        spent = [_seconds(times[name]), _seconds(total)]
        rows.append([name_cell(results, name), speed, ratios[0], *epochs, *spent, ratios[1]])
    header = ["model", "seconds per epoch", f"times {PLAIN}", "kept epoch", "epochs", "training, seconds"]
    header += ["with its teachers", f"times {PLAIN}"]
    note = "Training of one seed without evaluation, mean over seeds."
    if needing & set(names):
        note += f" {joined([n for n in names if n in needing])} need{'s' * (len(needing) == 1)} the teachers first."
    return paragraph(note) + table("Cost of training", header, rows)


def cold_section(results: Mapping[str, Any]) -> str:
    """Return the headline metric on items with training interactions and on items without."""
    metric = headline_metric(results)
    rows: list[Row] = []
    for name in run_names(results):
        groups = [run_values(results, name, f"{group}/{metric}") for group in ("warm", "cold")]
        if any(groups):
            cells = (spread_cell(*mean_std(g), len(g)) if g else DASH for g in groups)
            rows.append([name_cell(results, name), *cells])
    if not rows:
        return ""
    note = f"Test {metric} on items with training interactions (warm) and on items without a single one (cold)."
    return paragraph(note) + table("Warm and cold items", ["model", "warm items", "cold items"], rows)


def data_section(results: Mapping[str, Any]) -> str:
    """Return sizes of the data set and its modalities."""
    data = results.get("data") or {}
    values = {title: amount(data[key]) for key, title in FACTS.items() if key in data}
    if "density" in data:
        values["density"] = percent(number(data["density"]), 3)
    modalities, planted = data.get("modalities") or {}, data.get("planted") or {}
    colors = modality_colors(list(modalities))
    header = ["modality", "dimensions", "items that have it", *(["planted share of the signal"] if planted else [])]
    rows: list[Row] = []
    for m, about in modalities.items():
        row: list[Cell | str] = [Cell(m, color=colors[m]), amount(about.get("dim", DASH))]
        row.append(percent(number(about.get("coverage")), 1))
        rows.append([*row, percent(number(planted.get(m)))] if planted else row)
    return facts("Facts about the data", values) + (table("Modalities of the data", header, rows) if rows else "")


def run_section(results: Mapping[str, Any]) -> str:
    """Return contenders with their options, settings, every run, and versions."""
    parts = []
    contenders: list[Row] = [
        [
            name_cell(results, str(entry["name"])),
            Cell(str(entry.get("strategy") or DASH), wrap=True),
            Cell(_options(entry.get("options") or {}), wrap=True),
        ]
        for entry in results.get("contenders") or ()
    ]
    if contenders:
        parts.append(table("Contenders and their options", ["contender", "strategy", "options"], contenders))
    if results.get("settings"):
        parts.append(details("Settings", facts("Settings of the study", results["settings"])))
    if results["runs"]:
        parts.append(details("Every run", _runs_table(results)))
    if results.get("versions"):
        parts.append(details("Versions", facts("Versions of the packages", results["versions"])))
    seconds = number(results.get("duration_seconds"))
    return "".join(parts) + ("" if math.isnan(seconds) else paragraph(f"The study took {duration(seconds)}."))


def _runs_table(results: Mapping[str, Any]) -> str:
    metric = headline_metric(results)
    header = ["run", "seed", f"validation {metric}", f"test {metric}", "kept epoch", "epochs", "seconds per epoch"]
    order = {name: place for place, name in enumerate(run_names(results))}
    rows: list[Row] = []
    for run in sorted(results["runs"], key=lambda run: order[run["name"]]):
        values = [show(number((run.get(part) or {}).get(metric))) for part in ("val", "test")]
        epochs = [show(number(run.get(key)), 0) for key in ("best_epoch", "epochs")]
        speed = show(number(run.get("seconds_per_epoch")), 2)
        late = LATE if run.get("converged") is False else ""
        ended = [str(run["stopped"])] if run.get("stopped") else []
        ended += [_options(run["settings"])] if run.get("settings") else []
        name, end = Cell(run_title(run["name"]), late, below=True), Cell("; ".join(ended) or DASH, wrap=True)
        rows.append([name, str(run.get("seed", DASH)), *values, *epochs, speed, end])
    return table("Every run with its end", [*header, "end, chosen settings"], rows)


def _mean(results: Mapping[str, Any], name: str, key: str) -> float:
    values = [number(run.get(key)) for run in results["runs"] if run["name"] == name]
    values = [value for value in values if not math.isnan(value)]
    return mean_std(values)[0] if values else NAN


def _seconds(value: float) -> str:
    return DASH if math.isnan(value) else f"{value:,.1f}"


def _times(value: float, base: float) -> str:
    return f"{show(value / base, 2)} ×" if base > 0 and not math.isnan(value) else DASH


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in options.items()) or DASH
