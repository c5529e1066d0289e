"""The sections of the report about contenders: who wins, all metrics, curves, gaps to the teachers, effects."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pyg_ckd.report.cells import (
    difference_cell,
    has_tests,
    name_cell,
    p_cell,
    p_title,
    spread_cell,
    tested_cell,
    tested_over,
)
from pyg_ckd.report.html import Cell, Row, details, paragraph, table
from pyg_ckd.report.theme import modality_colors
from pyg_ckd.study.formats import PLAIN, TEACHER
from pyg_ckd.study.results import (
    MARKS_NOTE,
    Gap,
    baseline_names,
    best_runs,
    best_views,
    chosen_by,
    contender_names,
    content_alone,
    gaps,
    headline_metric,
    main_metrics,
    marks,
    metric_names,
    modality_names,
    results_table,
    run_mean,
    run_names,
    run_title,
    run_values,
    strongest_baseline,
    strongest_on,
)
from pyg_ckd.study.text import DASH, NAN, joined, number, p_number, percent, show

WIDEST = 3
"""Modalities in one table: more would not fit on paper."""
EFFECT_COLUMNS = {
    "weight": "weight",
    "recall_drop": "recall lost without it",
    "recall_alone": "recall of it alone",
    "snr": "signal to noise",
}


def winner_section(results: Mapping[str, Any]) -> str:
    """Return who is best on validation and what every contender is worth on the test part."""
    names, metric = contender_names(results), headline_metric(results)
    if not names:
        return ""
    others = [PLAIN] if PLAIN in names and len(names) > 1 else []
    base = strongest_baseline(results, metric)
    others += [base] if base is not None else []
    header, spans = ["contender", f"validation {metric}", f"test {metric}"], [("", 2)]
    for other in others:
        tested = tested_over(results, other, metric)
        header += ["difference", *(p_title(results, other, metric, over) for over in tested)]
        strongest = f", the strongest baseline on {strongest_on(results, metric)}" if other == base else ""
        spans.append(
            (f"test, against {run_title(other)} ({show(run_mean(results, other, metric))}){strongest}", 1 + len(tested))
        )
    values = {part: {name: run_mean(results, name, metric, part) for name in names} for part in ("val", "test")}
    best = {part: _best(found.values()) for part, found in values.items()}
    rows: list[Row] = []
    for name in names:
        row: list[Cell | str] = [name_cell(results, name)]
        row += [Cell(show(values[part][name]), best=show(values[part][name]) == best[part]) for part in values]
        for other in others:
            row.append(difference_cell(results, name, other, metric, interval=True))
            row += [p_cell(results, name, other, metric, over) for over in tested_over(results, other, metric)]
        rows.append(row)
    tested_only = base is not None and strongest_on(results, metric) != "validation"
    note = f"The winner is the {chosen_by(results)} on the validation part; the test part decided nothing"
    note += " but which baseline is the strongest, for none was validated. " if tested_only else ". "
    if any(has_tests(results, other) for other in others):
        note += (
            "Below a difference: it as a share, and its 95 % interval. p-values are those of paired t-tests after "
            "Holm's correction over the contenders."
        )
    return paragraph(note) + table("Contenders: chosen on validation, tested on the test part", header, rows, spans)


def results_section(results: Mapping[str, Any], pictures: str) -> str:
    """Return all test metrics of all runs, the picture of the headline, and every tested difference."""
    if not results["runs"]:
        return paragraph("The study holds no run yet.")
    metrics, metric = main_metrics(results), headline_metric(results)
    seeds = max(len(run_values(results, name, metric)) for name in run_names(results))
    note = f"Mean ± standard deviation over {seeds} seeds. " if seeds > 1 else "One seed. "
    note += "All items are ranked for every user; the best of each column is in bold."
    marked = any(marks(results, name, m) for name in contender_names(results) for m in metric_names(results))
    parts = [paragraph(f"{note} {MARKS_NOTE}." if marked else note)]
    parts.append(_metric_table("Test metrics of every run", results, metrics))
    left_out = results.get("left_out") or {}
    parts += [paragraph(f"{run_title(name)} was left out: {reason}.") for name, reason in left_out.items()]
    parts.append(pictures)
    rest = [name for name in metric_names(results) if name not in metrics]
    if rest:
        parts.append(details("More metrics", _metric_table("Further test metrics of every run", results, rest)))
    tested = _tested_tables(results)
    if tested:
        parts.append(details("Every tested difference", tested))
    return "".join(parts)


def gap_section(results: Mapping[str, Any], pictures: str) -> str:
    """Return how far every view of every contender is from its teacher, before balancing and after."""
    metric = headline_metric(results)
    rows = gaps(results, metric)
    if not rows:
        return ""
    modalities = [m for m in modality_names(results) if any(row.modality == m for row in rows)]
    note = (
        f"Test {metric} of the uni-modal views: the modality keeps its real features and all others are replaced with "
        "their mean. The teacher was trained on that modality alone. The gap is what its teacher is ahead; closed is "
        f"the share of the gap of {PLAIN} that a contender closes. The best of each column is in bold."
    )
    best, parts = best_views(rows), []
    for chunk in (modalities[start : start + WIDEST] for start in range(0, len(modalities), WIDEST)):
        header, spans = ["model"], []
        for m in chunk:
            header += ["view", "of teacher", "gap", "closed"]
            spans.append((f"{m}, teacher {show(run_mean(results, TEACHER + m, metric))}", 4))
        body: list[Row] = []
        for name in contender_names(results):
            own = {row.modality: row for row in rows if row.contender == name}
            cells = [cell for m in chunk for cell in _gap_cells(own.get(m), name in best[m])]
            body += [[name_cell(results, name), *cells]] if own else []
        parts.append(table(f"Views of every contender against their teachers: {joined(chunk)}", header, body, spans))
    return "".join([paragraph(note), *parts, pictures, _content_table(results)])


def _content_table(results: Mapping[str, Any]) -> str:
    """Return how every modality ranks by its features alone."""
    alone = content_alone(results)
    if not alone:
        return ""
    metric, colors = str(results["content"].get("metric", "recall")), modality_colors(modality_names(results))
    note = (
        f"By features alone: {metric} on the validation part, without any training, if items are ranked by the cosine "
        "of their features with the mean of the user's training items, and the same with shuffled rows of features. "
        "Where the difference may be chance (p of 0.05 or more) or the second is higher, cosines do not show what the "
        "features tell about users, if they tell anything."
    )
    rows: list[Row] = [
        [Cell(m, color=colors.get(m, "")), show(found.recall), show(found.shuffled), p_number(found.p_value)]
        for m, found in alone.items()
    ]
    header = ["modality", "by its features", "by shuffled ones", "p"]
    return paragraph(note) + table("Ranking by one modality alone", header, rows)


def effects_section(results: Mapping[str, Any], pictures: str) -> str:
    """Return the effects of every modality on every contender's model."""
    effects = {name: table for name, table in (results.get("effects") or {}).items() if table}
    if not effects:
        return pictures
    split = {"val": "validation", "test": "test"}.get(str(results.get("effects_split") or "val"), "held-out")
    note = (
        f"Measured on the trained model of every contender with the interactions of the {split} part, mean over seeds. "
        f"Causal effect: how much the lead in score of a {split} item over a random one shrinks when the modality is "
        "replaced with its mean, in units of the score, which differ between models. "
    )
    shares = any("share" in row for found in effects.values() for row in found.values())
    if shares:
        note += "Share of the lead: the mean effect divided by the mean lead of the full view, which can be compared."
    if any("snr" in row for found in effects.values() for row in found.values()):
        note += (
            " Signal to noise: what the modality alone adds to that lead without the ids, mean by standard deviation."
        )
    extra = [key for key in EFFECT_COLUMNS if any(key in row for found in effects.values() for row in found.values())]
    header = ["modality", *(["share of the lead"] if shares else []), "causal effect", "95 % interval"]
    groups = {
        _group(results, name): list(_effect_rows(results, effects[name], shares, extra))
        for name in [*(n for n in contender_names(results) if n in effects), *effects]
        if name in effects
    }
    caption = f"Effects of every modality on every contender's model, {split} part"
    drawn = table(caption, [*header, *(EFFECT_COLUMNS[key] for key in extra)], groups)
    return paragraph(note.strip()) + pictures + drawn


def _best(values: Any) -> str:
    """Return the largest value as the table shows it; what fits no value if all look the same."""
    shown = {show(value): value for value in values if not math.isnan(value)}
    return max(shown, key=lambda text: shown[text]) if len(shown) > 1 else ""


def _metric_table(caption: str, results: Mapping[str, Any], metrics: list[str]) -> str:
    frame = results_table(results, metrics)
    best = {metric: best_runs(frame, metric) for metric in metrics}

    def rows(names: Sequence[str]) -> Iterator[Row]:
        for name in names:
            cells: list[Cell | str] = [name_cell(results, name)]
            for metric in metrics:
                mean, std, num = frame.loc[name, metric][["mean", "std", "num"]]
                mark = marks(results, name, metric)
                cells.append(spread_cell(mean, std, num, name in best[metric], mark))
            yield cells

    kinds = {"Baselines": baseline_names(results), "Contenders": contender_names(results)}
    known = {name for names in kinds.values() for name in names}
    teachers = [name for name in frame.index if name not in known]
    groups = {"Baselines": kinds["Baselines"], "Teachers": teachers, "Contenders": kinds["Contenders"]}
    return table(caption, ["model", *metrics], {title: rows(names) for title, names in groups.items()})


def _tested_tables(results: Mapping[str, Any]) -> str:
    tests, metric = results.get("comparisons") or (), headline_metric(results)
    metrics = list(dict.fromkeys(test["metric"] for test in tests if test["b"] == PLAIN))
    names, parts = contender_names(results), ""
    note = "Test difference, below it the p-value after Holm's correction over the contenders, which says over what."
    if metrics:
        rows = [[name_cell(results, n), *(tested_cell(results, n, PLAIN, m) for m in metrics)] for n in names]
        rows = [row for row, name in zip(rows, names, strict=True) if name != PLAIN]
        parts += table(f"Every contender against {PLAIN}", ["contender", *metrics], rows)
    bases = [name for name in baseline_names(results) if has_tests(results, name)]
    if bases:
        rows = [[name_cell(results, n), *(tested_cell(results, n, b, metric) for b in bases)] for n in names]
        parts += table(f"Every contender against every baseline, {metric}", ["contender", *map(run_title, bases)], rows)
    return paragraph(note) + parts if parts else ""


def _gap_cells(row: Gap | None, best: bool) -> list[Cell | str]:
    if row is None:
        return [DASH] * 4
    closed = NAN if row.contender == PLAIN else row.closed
    values = show(row.view), percent(row.reach), show(row.after), percent(closed)
    return [Cell(text, best=best and text != DASH) for text in values]


def _group(results: Mapping[str, Any], name: str) -> str:
    cell = name_cell(results, name)
    return ", ".join([cell.text, *cell.small.splitlines()])


def _effect_rows(
    results: Mapping[str, Any], effects: Mapping[str, Mapping[str, Any]], shares: bool, extra: Sequence[str]
) -> Iterator[Row]:
    colors = modality_colors(modality_names(results))
    for m in [m for m in modality_names(results) if m in effects]:
        effect = effects[m]
        row: list[Cell | str] = [Cell(m, color=colors[m])]
        row += [percent(number(effect.get("share")), 1)] if shares else []
        row += [show(number(effect.get("mean"))), _interval(effect, "low", "high")]
        for key in extra:
            ends = _interval(effect, f"{key}_low", f"{key}_high")
            row.append(Cell(show(number(effect.get(key))), ends if ends != DASH else ""))
        yield row


def _interval(effect: Mapping[str, Any], low: str, high: str) -> str:
    ends = number(effect.get(low)), number(effect.get(high))
    return DASH if any(map(math.isnan, ends)) else f"[{show(ends[0])}, {show(ends[1])}]"
