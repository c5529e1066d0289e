"""Cells that several tables of the report share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pyg_ckd.report.html import Cell
from pyg_ckd.report.theme import modality_colors
from pyg_ckd.study.formats import PLAIN, TEACHER
from pyg_ckd.study.results import (
    comparison,
    modality_names,
    not_converged,
    p_holm,
    run_mean,
    run_title,
    winner_name,
)
from pyg_ckd.study.text import DASH, counted, p_number, percent, show

LATE = "not converged"


def state(results: Mapping[str, Any], name: str) -> list[str]:
    """Return what has to be said of a run wherever it is shown: that it won, that it had not converged."""
    late, num = not_converged(results, name)
    notes = ["winner"] if name == winner_name(results) else []
    return notes + ([LATE if num == 1 else f"{LATE} ({late} of {num})"] if late else [])


def name_cell(results: Mapping[str, Any], name: str, title: str | None = None) -> Cell:
    """Return the name of a run with what has to be said of it; a teacher has the colour of its modality."""
    colors = modality_colors(modality_names(results)) if name.startswith(TEACHER) else {}
    text = run_title(name) if title is None else title
    return Cell(text, "\n".join(state(results, name)), below=True, color=colors.get(name.removeprefix(TEACHER), ""))


def spread_cell(mean: float, std: float, num: float, best: bool = False, mark: str = "") -> Cell:
    """Return a mean with its deviation over seeds and the marks of a tested difference."""
    text = show(mean) + (f" {mark}" if mark else "")
    return Cell(text, f"± {show(std)}" if num > 1 and not math.isnan(mean) else "", best=best)


def difference_cell(results: Mapping[str, Any], a: str, b: str, metric: str, interval: bool = False) -> Cell:
    """Return the difference of two runs, below it the relative one and, if wanted, its interval.

    Args:
        results: The results.
        a: Name of the first run.
        b: Name of the second run.
        metric: The metric.
        interval: Whether to show the interval of the test over users (over seeds, if that is the only one).
    """
    first, second = run_mean(results, a, metric), run_mean(results, b, metric)
    if a == b or math.isnan(first - second):
        return Cell(DASH)
    below = [percent(first / second - 1, 1, sign=True)] if second > 0 else []
    test = comparison(results, a, b, metric) if interval else None
    if test is not None and test.get("low") is not None and test.get("high") is not None:
        below.append(f"[{show(test['low'], sign=True)}, {show(test['high'], sign=True)}]")
    return Cell(show(first - second, sign=True), "\n".join(below), below=True)


def tested_cell(results: Mapping[str, Any], a: str, b: str, metric: str) -> Cell:
    """Return the difference of two runs, below it the corrected p-values over users and over seeds."""
    cell = difference_cell(results, a, b, metric)
    found = [(over, comparison(results, a, b, metric, over)) for over in ("users", "seeds")]
    below = [f"p {_equal(p_holm(test))} over {over}" for over, test in found if test is not None]
    return cell._replace(small="\n".join(below)) if cell.text != DASH else cell


def p_cell(results: Mapping[str, Any], a: str, b: str, metric: str, over: str) -> str:
    """Return the corrected p-value of a comparison, a dash where there is none."""
    return p_number(p_holm(comparison(results, a, b, metric, over)))


def p_title(results: Mapping[str, Any], b: str, metric: str, over: str) -> str:
    """Return the title of a column of p-values, which says over what and over how many."""
    tests = results.get("comparisons") or ()
    nums = {t["num"] for t in tests if (t["b"], t["metric"], t["over"]) == (b, metric, over)}
    return f"p over {counted(nums.pop(), over)}" if len(nums) == 1 else f"p over {over}"


def tested_over(results: Mapping[str, Any], b: str, metric: str) -> list[str]:
    """Return over what contenders were compared with a run on a metric."""
    found = {t["over"] for t in results.get("comparisons") or () if (t["b"], t["metric"]) == (b, metric)}
    return [over for over in ("users", "seeds") if over in found]


def has_tests(results: Mapping[str, Any], b: str = PLAIN) -> bool:
    """Return whether anything was compared with a run."""
    return any(test["b"] == b for test in results.get("comparisons") or ())


def _equal(value: float) -> str:
    text = p_number(value)
    return text if text.startswith("<") else f"= {text}"
