"""What the numbers of a study say, in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pyg_ckd.study.results import (
    TEACHER,
    Gap,
    check_results,
    comparison,
    gaps,
    headline_metric,
    modality_names,
    p_text,
    percent,
    run_mean,
    run_names,
    run_title,
    run_values,
    show,
)

WARNING = "Warning: "
SIGNIFICANT = 0.05
STARVING = 0.9
"""A modality starves if its view of the plain student reaches less than this share of its teacher."""


def verdict(results: Mapping[str, Any]) -> list[str]:
    """Return what a study found, one sentence or two per entry; entries that start with ``"Warning: "`` come first.

    They say whether a model is worse than recommending the most popular items to everybody, which modality starves and
    what distillation does to it, and whether the joint ranking gained. A difference is called one only if its p-value
    is below 0.05.

    Args:
        results: The results of a study; parts may be missing.

    Raises:
        InputError: If these are not the results of a study.
    """
    check_results(results)
    metric = headline_metric(results)
    lines = _below_popularity(results, metric)
    lines += _modalities(results, metric) + _joint(results, metric)
    lines += _without_content(results, metric) + _few_seeds(results)
    lines = lines or ["Nothing to compare yet: the study holds no plain student next to teachers or CKD."]
    return sorted(lines, key=lambda line: not line.startswith(WARNING))


def _below_popularity(results: Mapping[str, Any], metric: str) -> list[str]:
    floor = run_mean(results, "popularity", metric)
    below = []
    for name in run_names(results):
        value = run_mean(results, name, metric)
        if name != "popularity" and value <= floor:
            below.append(f"{run_title(name)} ({show(value)})")
    if not below:
        return []
    return [
        f"{WARNING}recommending the most popular items to everybody reaches {metric} {show(floor)}; "
        f"{_join(below)} {'does' if len(below) == 1 else 'do'} not beat that. "
        "Do not read much into differences between such models."
    ]


def _modalities(results: Mapping[str, Any], metric: str) -> list[str]:
    rows = [row for row in gaps(results, metric) if not math.isnan(row.reach_plain)]
    if not rows:
        return []
    if len(modality_names(results)) == 1:
        return [f"One modality only, {rows[0].modality}: there is nothing to balance."]
    rows.sort(key=lambda row: row.reach_plain)
    worst = rows[0]
    if worst.reach_plain >= STARVING:
        who = "every modality" if len(rows) > 1 else worst.modality
        return [
            f"No modality is starving: {who} reaches at least {percent(worst.reach_plain)} of its teacher's {metric} "
            "in the plain student."
        ]
    lines = [
        f"{worst.modality} is starving: its view of the plain student reaches {percent(worst.reach_plain)} of its "
        f"teacher's {metric}{_with_ckd(worst)}."
    ]
    others = [row for row in rows[1:] if row.reach_plain < STARVING]
    if others:
        parts = [f"{row.modality} ({percent(row.reach_plain)}{_arrow(row)})" for row in others]
        lines.append(f"Short of {'its teacher' if len(others) == 1 else 'their teachers'} as well: {_join(parts)}.")
    return lines


def _with_ckd(row: Gap) -> str:
    if math.isnan(row.reach_ckd):
        return ""
    if percent(row.reach_ckd) == percent(row.reach_plain):
        return "; CKD leaves it there"
    return f"; CKD {'lifts' if row.reach_ckd > row.reach_plain else 'lowers'} it to {percent(row.reach_ckd)}"


def _arrow(row: Gap) -> str:
    return "" if math.isnan(row.reach_ckd) else f", with CKD {percent(row.reach_ckd)}"


def _joint(results: Mapping[str, Any], metric: str) -> list[str]:
    plain, ckd = run_mean(results, "plain", metric), run_mean(results, "ckd", metric)
    if math.isnan(plain) or math.isnan(ckd):
        return []
    relative = percent(ckd / plain - 1, 1, sign=True) if plain > 0 else ""
    test = comparison(results, metric)
    if test is None:
        change = ", ".join(filter(None, [relative, "not tested for chance"]))
        return [f"With CKD the joint {metric} is {show(ckd)}, without {show(plain)} ({change})."]
    change = ", ".join(filter(None, [relative, f"{p_text(test['p_value'])} over {_count(test)}"]))
    # The test must be about the difference that is printed, so its sign has to agree.
    if test["p_value"] >= SIGNIFICANT or (ckd - plain) * test["difference"] <= 0:
        return [
            f"CKD makes no clear difference to the joint {metric}: {show(plain)} without, {show(ckd)} with ({change})."
        ]
    line = (
        f"CKD {'lifts' if ckd > plain else 'lowers'} the joint {metric} from {show(plain)} to {show(ckd)} ({change})."
    )
    return [("" if ckd > plain else WARNING) + line + _doubt(results, metric, test)]


def _doubt(results: Mapping[str, Any], metric: str, test: Mapping[str, Any]) -> str:
    seeds = comparison(results, metric, over="seeds")
    if seeds is None or test["over"] == "seeds" or seeds["p_value"] < SIGNIFICANT:
        return ""
    return f" Between seeds it is not certain ({p_text(seeds['p_value'])} over {_count(seeds)})."


def _without_content(results: Mapping[str, Any], metric: str) -> list[str]:
    base = run_mean(results, "lightgcn", metric)
    behind = [n for n in ("plain", "ckd") if run_mean(results, n, metric) <= base]
    if not behind:
        return []
    names = _join([f"{run_title(n)} ({show(run_mean(results, n, metric))})" for n in behind])
    return [
        f"{WARNING}LightGCN, which sees no content at all, reaches {metric} {show(base)}; {names} "
        f"{'does' if len(behind) == 1 else 'do'} not beat that, so the modalities do not pay off here."
    ]


def _few_seeds(results: Mapping[str, Any]) -> list[str]:
    trained = [n for n in run_names(results) if n != "popularity" and not n.startswith(TEACHER)]
    counts = [len(run_values(results, name, headline_metric(results))) for name in trained]
    if not counts or max(counts) > 1:
        return []
    return ["One seed only: how much the numbers vary between trainings is unknown."]


def _count(test: Mapping[str, Any]) -> str:
    return f"{test['num']:,} {test['over']}"


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
