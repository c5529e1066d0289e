"""What the numbers of a study say, in plain sentences.

A difference is called one only if it was tested: its p-value after Holm's correction is below 0.05, over users where
that was tested and over seeds otherwise. The winner and the strongest baseline are those of the validation part; what
they are worth is read on the test part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pyg_ckd.study.formats import PLAIN, TEACHER, current_results
from pyg_ckd.study.results import (
    SIGNIFICANT,
    Gap,
    baseline_names,
    best_trial,
    comparison,
    contender_names,
    content_alone,
    enough_epochs,
    gaps,
    headline_metric,
    late_trials,
    modality_names,
    not_converged,
    p_holm,
    run_mean,
    run_names,
    run_title,
    run_values,
    strongest_baseline,
    strongest_on,
    tied_names,
    tried_names,
    winner_name,
    without_content,
)
from pyg_ckd.study.text import counted, joined, number, p_text, percent, show

WARNING = "Warning: "
ADVICE = "What to do:"
STARVING = 0.9
"""A modality starves if its view of the plain student reaches less than this share of its teacher."""
WITHOUT_CONTENT = ("lightgcn", "item-knn")
"""Whoever is behind these gains nothing from the modalities: they see the interactions alone."""


def verdict(results: Mapping[str, Any]) -> list[str]:
    """Return what a study found, one sentence per entry; entries that start with ``"Warning: "`` come first.

    They say whether a model is no better than recommending the most popular items to everybody, which runs had not
    converged, whether content pays at all, which modalities have no content, which starve in the plain student, who
    wins on validation and what that is worth on the test part over plain and over the strongest baseline, and which
    contenders are worse. The last sentence says what to do.

    Args:
        results: The results of a study, of any format; parts may be missing.

    Raises:
        InputError: If these are not the results of a study.
    """
    results = current_results(results)
    metric = headline_metric(results)
    if not contender_names(results):
        return ["Nothing to compare yet: the study holds no run of a contender."]
    warnings = _below_popularity(results, metric) + _not_converged(results) + _late_trials(results)
    warnings += _without_content(results, metric)
    lines = _modalities(results, metric) + _winner(results, metric)
    lines += _worse(results, metric) + _few_seeds(results, metric)
    return [*(WARNING + line for line in warnings), *lines, *_advice(results, metric)]


def direction(results: Mapping[str, Any], a: str, b: str, metric: str) -> int:
    """Return whether the test metric of one run is higher than that of another by a tested difference.

    Args:
        results: The results.
        a: Name of the first run.
        b: Name of the second run.
        metric: The metric.

    Returns:
        1 if it is higher, -1 if it is lower, 0 if that was not tested or may be chance.
    """
    test = comparison(results, a, b, metric)
    difference = run_mean(results, a, metric) - run_mean(results, b, metric)
    # The test must be about the difference that is printed, so its sign has to agree.
    if test is None or not p_holm(test) < SIGNIFICANT or not difference * test["difference"] > 0:
        return 0
    return 1 if difference > 0 else -1


def _below_popularity(results: Mapping[str, Any], metric: str) -> list[str]:
    floor = run_mean(results, "popularity", metric)
    values = {name: run_mean(results, name, metric) for name in run_names(results) if name != "popularity"}
    below = [f"{_in_prose(name)} ({show(value)})" for name, value in values.items() if value <= floor]
    if not below:
        return []
    return [
        f"recommending the most popular items to everybody reaches {metric} {show(floor)}, and {joined(below)} "
        f"{'does' if len(below) == 1 else 'do'} not beat that."
    ]


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


def _without_content(results: Mapping[str, Any], metric: str) -> list[str]:
    names = contender_names(results)
    ahead = {n: [b for b in WITHOUT_CONTENT if direction(results, n, b, metric) < 0] for n in names}
    if not all(ahead.values()):
        return []
    who = [b for b in WITHOUT_CONTENT if any(b in found for found in ahead.values())]
    values = [f"{run_title(b)} ({show(run_mean(results, b, metric))})" for b in who]
    behind = "every contender is" if len(names) > 1 else f"{run_title(names[0])} is"
    return [
        f"{behind} behind {joined(values)} by a tested difference in test {metric}, so the modalities do not pay off "
        "here."
    ]


def _modalities(results: Mapping[str, Any], metric: str) -> list[str]:
    none = without_content(results)
    rows = [row for row in gaps(results, metric) if row.modality not in none]
    return _nothing_to_learn(results, none) + _balance(results, metric, rows, none)


def _nothing_to_learn(results: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Return what is said of modalities whose features are alike for all items."""
    if not names:
        return []
    verb, them = ("has", "it") if len(names) == 1 else ("have", "them")
    so = "nothing to balance" if len(modality_names(results)) < len(names) + 2 else f"nothing to learn from {them}"
    return [f"{joined(names)} {verb} no content that tells items apart, so there is {so}."]


def _balance(results: Mapping[str, Any], metric: str, rows: Sequence[Gap], none: Sequence[str]) -> list[str]:
    found = [row for row in rows if not math.isnan(row.reach)]
    every = sorted((row for row in found if row.contender == PLAIN), key=lambda row: row.reach)
    if not every and all(math.isnan(row.teacher) for row in rows):
        return []
    if every and len(modality_names(results)) == 1:
        return [f"There is one modality only, {every[0].modality}: nothing is there to balance."]
    alone, known = content_alone(results), [row.modality for row in every]
    unknown = _unknown([m for m in modality_names(results) if m not in known and m not in none])
    silent = [row for row in every if row.reach < STARVING and row.modality in alone and alone[row.modality].silent]
    others = [row for row in every if row not in silent]
    return [*unknown, *_starving(results, metric, others, found), *_silent(results, silent, found)]


def _unknown(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    verb = "starves" if len(names) == 1 else "starve"
    return [f"Whether {joined(names)} {verb} is unknown, for no teacher above 0 is there to compare with."]


def _silent(results: Mapping[str, Any], rows: Sequence[Gap], found: Sequence[Gap]) -> list[str]:
    """Return what is said of modalities that are short of their teachers, but whose features say nothing alone."""
    if not rows:
        return []
    alone, winner = content_alone(results), _of_winner(results, found)
    who = joined([_short(row, winner) for row in rows])
    values = joined(
        [f"{show(alone[row.modality].recall)} against {show(alone[row.modality].shuffled)}" for row in rows]
    )
    return [
        f"{who} {'is short of its teacher' if len(rows) == 1 else 'are short of their teachers'}, but the features "
        f"alone rank no better than shuffled ones ({results['content'].get('metric', 'recall')} on validation "
        f"{values}), so there may be nothing to learn from them."
    ]


def _of_winner(results: Mapping[str, Any], found: Sequence[Gap]) -> dict[str, Gap]:
    return {row.modality: row for row in found if row.contender == winner_name(results) != PLAIN}


def _starving(results: Mapping[str, Any], metric: str, rows: Sequence[Gap], found: Sequence[Gap]) -> list[str]:
    """Return who starves among modalities from the one that is furthest behind its teacher to the one that is least."""
    if not rows:
        return []
    worst = rows[0]
    if worst.reach >= STARVING:
        names = modality_names(results)
        known = sum(row.contender == PLAIN for row in found) == len(names)
        every = "every modality" if len(rows) == len(names) else "every other modality"
        who = worst.modality if len(rows) == 1 else every
        return [
            f"{'No modality' if known else 'No other modality'} starves: {who} reaches at least "
            f"{percent(worst.reach)} of its teacher's test {metric} in {PLAIN}."
        ]
    winner = _of_winner(results, found)
    after = f" ({percent(winner[worst.modality].reach)} in {winner_name(results)})" if worst.modality in winner else ""
    others = [_short(row, winner) for row in rows[1:] if row.reach < STARVING]
    more = f"; short as well: {joined(others)}" if others else ""
    return [
        f"{worst.modality} starves: its view of {PLAIN} reaches {percent(worst.reach)} of its teacher's test "
        f"{metric}{after}{more}."
    ]


def _short(row: Gap, winner: Mapping[str, Gap]) -> str:
    after = (
        f", {percent(winner[row.modality].reach)} in {winner[row.modality].contender}" if row.modality in winner else ""
    )
    return f"{row.modality} ({percent(row.reach)}{after})"


def _winner(results: Mapping[str, Any], metric: str) -> list[str]:
    name, base = winner_name(results), strongest_baseline(results, metric)
    if name is None:
        return []
    scores = show(number(results["winner"].get("val"))), show(run_mean(results, name, metric))
    trial, tied = best_trial(results), tied_names(results)
    if len(tried_names(results)) == 1:
        line = f"{name} is the only contender: {metric} {scores[0]} on validation, {scores[1]} on the test part"
    elif tied:
        value, last = scores[0] if math.isnan(trial) else show(trial), f"has {scores[1]} on the test part"
        line = f"{joined([name, *tied])} are equal on validation ({metric} {value}); {name}, the first of them, {last}"
    elif not math.isnan(trial):
        line = f"{name} has the best trial on validation ({metric} {show(trial)}) and {scores[1]} on the test part"
    else:
        line = f"{name} wins on validation ({metric} {scores[0]}) and has {scores[1]} on the test part"
    if name != PLAIN and PLAIN in contender_names(results):
        other = f"{PLAIN} ({show(run_mean(results, PLAIN, metric))})"
        line += f": {_against(results, name, PLAIN, metric)} against {other}, {_chance(results, name, PLAIN, metric)}"
    lines = [f"{line}."]
    if base is not None:
        other = f"{run_title(base)} ({show(run_mean(results, base, metric))})"
        tested = f"{_against(results, name, base, metric)}, {_chance(results, name, base, metric)}"
        lines.append(f"Against {other}, the strongest baseline on {strongest_on(results, metric)}, that is {tested}.")
    return lines


def _against(results: Mapping[str, Any], a: str, b: str, metric: str) -> str:
    """Return the relative difference of two runs, or the difference where there is nothing to divide by."""
    first, second = run_mean(results, a, metric), run_mean(results, b, metric)
    return percent(first / second - 1, 1, sign=True) if second > 0 else show(first - second, sign=True)


def _chance(results: Mapping[str, Any], a: str, b: str, metric: str) -> str:
    """Return whether a difference is more than chance, with p-values that say over what."""
    found = [comparison(results, a, b, metric, over) for over in ("users", "seeds")]
    tests = [test for test in found if test is not None]
    if not tests:
        return "not tested for chance"
    texts = [f"{p_text(p_holm(test))} over {counted(test['num'], test['over'])}" for test in tests]
    if direction(results, a, b, metric) == 0:
        words = "which may be chance"
    elif p_holm(tests[-1]) < SIGNIFICANT:
        words = "more than chance"
    else:
        words = f"more than chance over {tests[0]['over']} but not for certain over {tests[-1]['over']}"
    return f"{words} ({', '.join(texts)}, after Holm's correction)"


def _worse(results: Mapping[str, Any], metric: str) -> list[str]:
    parts = _tested(results, metric, -1)
    if not parts:
        return []
    return [f"Worse than {PLAIN} in test {metric} by a tested difference: {joined(parts)}."]


def _tested(results: Mapping[str, Any], metric: str, sign: int) -> list[str]:
    """Return the contenders besides the winner that are better (1) or worse (-1) than plain by a tested difference."""
    parts = []
    for name in contender_names(results):
        if name not in (PLAIN, winner_name(results)) and direction(results, name, PLAIN, metric) == sign:
            test = comparison(results, name, PLAIN, metric)
            assert test is not None  # Or there would be no direction.
            p_value = f"{p_text(p_holm(test))} over {counted(test['num'], test['over'])}"
            parts.append(f"{name} ({_against(results, name, PLAIN, metric)}, {p_value})")
    return parts


def _few_seeds(results: Mapping[str, Any], metric: str) -> list[str]:
    trained = [name for name in run_names(results) if name.startswith(TEACHER) or name in contender_names(results)]
    most = max((len(run_values(results, name, metric)) for name in trained), default=0)
    if most == 1:
        return ["One seed only: how much the numbers vary between trainings is unknown."]
    return [f"{most} seeds only: a test over seeds finds none but large differences."] if 1 < most < 3 else []


def _advice(results: Mapping[str, Any], metric: str) -> list[str]:
    winner = winner_name(results)
    if winner is None:
        return []
    gain = direction(results, winner, PLAIN, metric)
    ahead = [name for name in baseline_names(results) if direction(results, winner, name, metric) < 0]
    late = [name for name in dict.fromkeys([PLAIN, winner]) if _mostly_late(results, name)]
    # More training can only widen the lead of a winner that is ahead of a converged plain student.
    if late and not (late == [winner] and gain > 0 and not ahead):
        return [f"{ADVICE} {_longer(results)} before choosing, for {joined(late)} had not converged{_line(results)}"]
    if ahead:
        best = strongest_baseline(results, metric, ahead)
        reason = "content does not pay here" if _without_content(results, metric) else f"{winner} is behind it"
        return [f"{ADVICE} use {run_title(best or ahead[0])}; {reason}."]
    if winner == PLAIN:
        better, others = _tested(results, metric, 1), len(tried_names(results)) > 1
        if better:
            verb = "is" if len(better) == 1 else "are"
            return [
                f"{ADVICE} keep {PLAIN}, which validation chose; {joined(better)} {verb} higher on the test part, so "
                "more seeds or more validation data may tell."
            ]
        return [f"{ADVICE} keep {PLAIN}; {'balancing buys nothing here' if others else 'nothing else was tried'}."]
    if gain <= 0:
        return [f"{ADVICE} keep {PLAIN}; the lead of {winner} on validation is not confirmed by the test part."]
    if not p_holm(comparison(results, winner, PLAIN, metric, "seeds")) < SIGNIFICANT:
        return [f"{ADVICE} deploy {winner}, after further seeds have confirmed its lead over {PLAIN}."]
    return [f"{ADVICE} deploy {winner}."]


def _longer(results: Mapping[str, Any]) -> str:
    """Return how to train longer: folders keep their number of epochs, and a search does not extend trainings."""
    if "tuning" in results:
        return "search again with a larger max_epochs in another folder"
    return "raise max_epochs or extend and run again in another folder"


def _line(results: Mapping[str, Any]) -> str:
    """Return the end of the sentence: the line that searches longer, if it is known."""
    line = (results.get("tuning") or {}).get("longer")
    return f": {line}" if line else "."


def _mostly_late(results: Mapping[str, Any], name: str) -> bool:
    late, num = not_converged(results, name)
    return 2 * late >= num > 0


def _in_prose(name: str) -> str:
    return f"the teacher of {name.removeprefix(TEACHER)}" if name.startswith(TEACHER) else run_title(name)
