"""What the numbers of a study say, in plain sentences.

A difference is called one only if it was tested: its p-value after Holm's correction is below 0.05, over users where
that was tested and over seeds otherwise. The winner and the strongest baseline are those of the validation part; what
they are worth is read on the test part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pyg_ckd.data.describe import FEW_USERS
from pyg_ckd.study.advice import ADVICE as ADVICE  # Its address for reports.
from pyg_ckd.study.advice import advice
from pyg_ckd.study.differences import against, ahead_alone, behind_without_content, chance, tested
from pyg_ckd.study.formats import PLAIN, TEACHER, current_results
from pyg_ckd.study.results import (
    best_trial,
    contender_names,
    enough_epochs,
    headline_metric,
    late_trials,
    not_converged,
    run_mean,
    run_names,
    run_title,
    run_values,
    strongest_baseline,
    strongest_on,
    tied_baselines,
    tied_names,
    tried_names,
    winner_name,
)
from pyg_ckd.study.saturation import is_saturated, smaller_cutoff
from pyg_ckd.study.starving import modality_lines, scaling_lines
from pyg_ckd.study.text import NAN, counted, joined, number, show

WARNING = "Warning: "


def verdict(results: Mapping[str, Any]) -> list[str]:
    """Return what a study found, one sentence per entry; entries that start with ``"Warning: "`` come first.

    They say whether the metric can tell models apart, whether a model is no better than recommending the most popular
    items to everybody, which runs had not converged, whether content pays at all, whose features should not be
    standardized, which modalities have no content, which starve in the plain student, who wins on validation and what
    that is worth on the test part over plain and over the strongest baseline, which modality alone ranks better than
    all together, and which contenders are worse.
    The last sentence says what to do.

    Args:
        results: The results of a study, of any format; parts may be missing.

    Raises:
        InputError: If these are not the results of a study.
    """
    results = current_results(results)
    metric = headline_metric(results)
    if not contender_names(results):
        return ["Nothing to compare yet: the study holds no run of a contender."]
    full = _saturated(results, metric)
    warnings = (full or _below_popularity(results, metric)) + _not_converged(results) + _late_trials(results)
    warnings += ([] if full else behind_without_content(results, metric)) + scaling_lines(results)
    lines = modality_lines(results, metric) + _winner(results, metric)
    lines += _alone(results, metric) + _worse(results, metric) + _few_seeds(results, metric)
    return [*(WARNING + line for line in warnings), *lines, *advice(results, metric)]


def _saturated(results: Mapping[str, Any], metric: str) -> list[str]:
    if not is_saturated(results, metric):
        return []
    options = smaller_cutoff(metric)
    mend = f": choose a smaller cut-off in another folder ({options})" if options else ""
    return [f"{metric} is at its maximum for almost every user, so that it cannot tell models apart{mend}."]


def _below_popularity(results: Mapping[str, Any], metric: str) -> list[str]:
    values = {name: run_mean(results, name, metric) for name in run_names(results)}
    floor, where = values.pop("popularity", NAN), ""
    if math.isnan(floor):  # A search tests the strongest baseline alone.
        values, where = _searched(results, metric), "on validation, "
        floor = values.pop("popularity", NAN)
    below = [f"{_in_prose(name)} ({show(value)})" for name, value in values.items() if value <= floor]
    if not below:
        return []
    return [
        f"{where}recommending the most popular items to everybody reaches {metric} {show(floor)}, and {joined(below)} "
        f"{'does' if len(below) == 1 else 'do'} not beat that."
    ]


def _searched(results: Mapping[str, Any], metric: str) -> dict[str, float]:
    """Return what a search found on validation: of baselines and contenders the best trial, of teachers the mean."""
    tuning = results.get("tuning") or {}
    if tuning.get("metric") != metric:
        return {}
    found = {name: one for part in ("baselines", "best") for name, one in (tuning.get(part) or {}).items()}
    teachers = [name for name in run_names(results) if name.startswith(TEACHER)]
    values = {name: number(one.get("value")) for name, one in found.items()}
    return values | {name: run_mean(results, name, metric, "val") for name in teachers}


def _not_converged(results: Mapping[str, Any]) -> list[str]:
    found = {name: not_converged(results, name) for name in run_names(results)}
    parts = [
        _in_prose(name) + (f" ({late} of {num} seeds)" if num > 1 else "")
        for name, (late, num) in found.items()
        if late
    ]
    if not parts:
        return []
    line = f"{joined(parts)} had not converged when the epochs were used up, so more of them may change the numbers"
    enough = enough_epochs(results)
    if enough is not None:
        line += f"; in another folder, --trainer.max_epochs {enough} is enough unless they rise again"
    return [f"{line}."]


def _late_trials(results: Mapping[str, Any]) -> list[str]:
    """Return what is said of best trials that had not converged, of those that a search did not train again."""
    names = [run_title(name) for name in late_trials(results) if name not in run_names(results)]
    if not names:
        return []
    trials = "the best trial" if len(names) == 1 else "the best trials"
    return [
        f"{trials} of {joined(names)} had not converged when the epochs were used up, so more of them may change who "
        "wins."
    ]


def _winner(results: Mapping[str, Any], metric: str) -> list[str]:
    name, base = winner_name(results), strongest_baseline(results, metric)
    if name is None:
        return []
    few = _few_users(results)
    scores = f"{show(number(results['winner'].get('val')))}{few}", show(run_mean(results, name, metric))
    trial, tied = best_trial(results), tied_names(results)
    if len(tried_names(results)) == 1:
        line = f"{name} is the only contender: {metric} {scores[0]} on validation, {scores[1]} on the test part"
    elif tied:
        value, last = scores[0] if math.isnan(trial) else f"{show(trial)}{few}", f"has {scores[1]} on the test part"
        line = f"{joined([name, *tied])} are equal on validation ({metric} {value}); {name}, the first of them, {last}"
    elif not math.isnan(trial):
        line = f"{name} has the best trial on validation ({metric} {show(trial)}{few}) and {scores[1]} on the test part"
    else:
        line = f"{name} wins on validation ({metric} {scores[0]}) and has {scores[1]} on the test part"
    if name != PLAIN and PLAIN in contender_names(results):
        other = f"{PLAIN} ({show(run_mean(results, PLAIN, metric))})"
        line += f": {against(results, name, PLAIN, metric)} against {other}, {chance(results, name, PLAIN, metric)}"
    lines = [f"{line}."]
    if base is not None:
        other = f"{run_title(base)} ({show(run_mean(results, base, metric))})"
        said = f"{against(results, name, base, metric)}, {chance(results, name, base, metric)}"
        strongest = f"the strongest baseline on {strongest_on(results, metric)}{_tied_with(results, metric)}"
        lines.append(f"Against {other}, {strongest}, that is {said}.")
    return lines


def _few_users(results: Mapping[str, Any]) -> str:
    """Return over how many users the winner was chosen, if they are few."""
    num = number((results.get("held_out_users") or {}).get("val"))
    return f" over {counted(int(num), 'users')}" if num < FEW_USERS else ""


def _tied_with(results: Mapping[str, Any], metric: str) -> str:
    """Return which baselines are equal to the strongest one, in brackets."""
    tied, second = tied_baselines(results, metric)
    if not tied:
        return ""
    chosen = f"{second} is higher" if second else "the first of them"
    return f" (equal there to {joined([run_title(name) for name in tied])} in {metric}; {chosen})"


def _alone(results: Mapping[str, Any], metric: str) -> list[str]:
    """Return which modalities rank better alone than all of them together, in plain training and in the winner."""
    lines = []
    for name in dict.fromkeys([PLAIN, winner_name(results) or PLAIN]):
        found = ahead_alone(results, name, metric)
        if found:
            teacher = TEACHER + found[0]
            others = f"; so {'does' if len(found) == 2 else 'do'} {joined(found[1:])}" if len(found) > 1 else ""
            lines.append(
                f"{found[0]} alone ranks better than {name} with all modalities: "
                f"{against(results, teacher, name, metric)} in test {metric}, {chance(results, name, teacher, metric)}"
                f"{others}."
            )
    return lines


def _worse(results: Mapping[str, Any], metric: str) -> list[str]:
    parts = tested(results, metric, -1)
    if not parts:
        return []
    return [f"Worse than {PLAIN} in test {metric} by a tested difference: {joined(parts)}."]


def _few_seeds(results: Mapping[str, Any], metric: str) -> list[str]:
    trained = [name for name in run_names(results) if name.startswith(TEACHER) or name in contender_names(results)]
    most = max((len(run_values(results, name, metric)) for name in trained), default=0)
    if most == 1:
        return ["One seed only: how much the numbers vary between trainings is unknown."]
    return [f"{most} seeds only: a test over seeds finds none but large differences."] if 1 < most < 3 else []


def _in_prose(name: str) -> str:
    return f"the teacher of {name.removeprefix(TEACHER)}" if name.startswith(TEACHER) else run_title(name)
