"""The last sentence of a verdict: what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pyg_ckd.study.differences import ahead_alone, behind_without_content, direction, tested
from pyg_ckd.study.formats import PLAIN, TEACHER
from pyg_ckd.study.results import (
    SIGNIFICANT,
    baseline_names,
    comparison,
    contender_names,
    not_converged,
    p_holm,
    run_mean,
    run_title,
    strongest_baseline,
    tried_names,
    winner_name,
)
from pyg_ckd.study.saturation import is_saturated, smaller_cutoff
from pyg_ckd.study.text import joined

ADVICE = "What to do:"


def advice(results: Mapping[str, Any], metric: str) -> list[str]:
    """Return what to do, in one sentence; nothing if no winner is known.

    Args:
        results: The results in format 2.
        metric: The metric that the story is told with.
    """
    winner = winner_name(results)
    if winner is None:
        return []
    gain = direction(results, winner, PLAIN, metric)
    ahead = [name for name in baseline_names(results) if direction(results, winner, name, metric) < 0]
    late = [name for name in dict.fromkeys([PLAIN, winner]) if _mostly_late(results, name)]
    alone = ahead_alone(results, winner, metric)
    if is_saturated(results, metric) and smaller_cutoff(metric):
        return [f"{ADVICE} choose a smaller cut-off before choosing a model ({smaller_cutoff(metric)})."]
    # More training can only widen the lead of a winner that is ahead of a converged plain student.
    if late and not (late == [winner] and gain > 0 and not ahead and not alone):
        return [f"{ADVICE} {_longer(results)} before choosing, for {joined(late)} had not converged{_line(results)}"]
    level = _level(results, winner, metric)
    simpler = list(dict.fromkeys([*ahead, *([level] if level else [])]))
    if alone and _best_alone(results, alone[0], simpler, metric):
        also = f", and in the mean than {joined([run_title(n) for n in simpler])}, which was not tested" * bool(simpler)
        return [f"{ADVICE} use {alone[0]} alone; it ranks better than {winner} with all modalities{also}."]
    if ahead:
        best = strongest_baseline(results, metric, ahead)
        reason = "content does not pay here" if behind_without_content(results, metric) else f"{winner} is behind it"
        return [f"{ADVICE} use {run_title(best or ahead[0])}; {reason}."]
    if level is not None and not direction(results, PLAIN, level, metric) > 0:
        beaten = any(direction(results, name, level, metric) > 0 for name in contender_names(results))
        return [
            f"{ADVICE} {winner if beaten else 'no contender'} is {'not ' if beaten else ''}shown to beat "
            f"{run_title(level)}, which is simpler: use it, or gather more test users."
        ]
    return [f"{ADVICE} {_choice(results, winner, metric)}."]


def _choice(results: Mapping[str, Any], winner: str, metric: str) -> str:
    """Return whether to deploy the winner or to keep plain training, where nothing else is better."""
    if winner == PLAIN:
        better, others = tested(results, metric, 1), len(tried_names(results)) > 1
        if not better:
            return f"keep {PLAIN}; {'balancing buys nothing here' if others else 'nothing else was tried'}"
        return (
            f"keep {PLAIN}, which validation chose; {joined(better)} {'is' if len(better) == 1 else 'are'} higher on "
            "the test part, so more seeds or more validation data may tell"
        )
    if direction(results, winner, PLAIN, metric) <= 0:
        return f"keep {PLAIN}; the lead of {winner} on validation is not confirmed by the test part"
    if not p_holm(comparison(results, winner, PLAIN, metric, "seeds")) < SIGNIFICANT:
        return f"deploy {winner}, after further seeds have confirmed its lead over {PLAIN}"
    return f"deploy {winner}"


def _best_alone(results: Mapping[str, Any], modality: str, baselines: Sequence[str], metric: str) -> bool:
    """Return whether a modality alone ranks better than baselines, on both parts."""
    teacher = TEACHER + modality
    return all(
        run_mean(results, teacher, metric, part) > run_mean(results, name, metric, part)
        for name in baselines
        for part in ("val", "test")
    )


def _level(results: Mapping[str, Any], winner: str, metric: str) -> str | None:
    """Return the baseline that the winner is not shown to beat, or :obj:`None`.

    It is the strongest one on validation, or one that is not below the winner on the test part. A lead that nobody
    tested is no reason to prefer the baseline.
    """
    own, strongest = run_mean(results, winner, metric), strongest_baseline(results, metric)
    found = []
    for name in baseline_names(results):
        value, test = run_mean(results, name, metric), comparison(results, winner, name, metric)
        counts = value >= own or (name == strongest and test is not None and not math.isnan(value - own))
        if counts and direction(results, winner, name, metric) <= 0:
            found.append(name)
    return strongest_baseline(results, metric, found)


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
