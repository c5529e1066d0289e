"""Which runs differ by more than chance, and how that is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyg_ckd.study.formats import PLAIN, TEACHER
from pyg_ckd.study.results import (
    SIGNIFICANT,
    comparison,
    contender_names,
    modality_names,
    p_holm,
    run_mean,
    run_title,
    winner_name,
)
from pyg_ckd.study.text import counted, joined, p_text, percent, show

WITHOUT_CONTENT = ("lightgcn", "item-knn")
"""Whoever is behind these gains nothing from the modalities: they see the interactions alone."""


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


def against(results: Mapping[str, Any], a: str, b: str, metric: str) -> str:
    """Return the relative difference of two runs, or the difference where there is nothing to divide by."""
    first, second = run_mean(results, a, metric), run_mean(results, b, metric)
    return percent(first / second - 1, 1, sign=True) if second > 0 else show(first - second, sign=True)


def chance(results: Mapping[str, Any], a: str, b: str, metric: str) -> str:
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


def tested(results: Mapping[str, Any], metric: str, sign: int) -> list[str]:
    """Return the contenders besides the winner that are better (1) or worse (-1) than plain by a tested difference."""
    parts = []
    for name in contender_names(results):
        if name not in (PLAIN, winner_name(results)) and direction(results, name, PLAIN, metric) == sign:
            test = comparison(results, name, PLAIN, metric)
            assert test is not None  # Or there would be no direction.
            p_value = f"{p_text(p_holm(test))} over {counted(test['num'], test['over'])}"
            parts.append(f"{name} ({against(results, name, PLAIN, metric)}, {p_value})")
    return parts


def ahead_alone(results: Mapping[str, Any], name: str, metric: str) -> list[str]:
    """Return the modalities whose teachers are ahead of a contender by a tested difference, the best teacher first."""
    found = [m for m in modality_names(results) if direction(results, name, TEACHER + m, metric) < 0]
    return sorted(found, key=lambda m: -run_mean(results, TEACHER + m, metric))


def behind_without_content(results: Mapping[str, Any], metric: str) -> list[str]:
    """Return what is said if every contender is behind a baseline that does without content, in a list of one."""
    names = contender_names(results)
    ahead = {n: [b for b in WITHOUT_CONTENT if direction(results, n, b, metric) < 0] for n in names}
    if not all(ahead.values()):
        return []
    who = [b for b in WITHOUT_CONTENT if any(b in found for found in ahead.values())]
    values = [f"{run_title(b)} ({show(run_mean(results, b, metric))})" for b in who]
    behind = "every contender is" if len(names) > 1 else f"{run_title(names[0])} is"
    return [
        f"{behind} behind {joined(values)} by a tested difference in test {metric}, so all modalities together do not "
        "pay off here."
    ]
