"""Metrics that are at their maximum for almost every user, so that nothing can be read from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyg_ckd.evaluation.custom import smaller
from pyg_ckd.study.formats import PLAIN
from pyg_ckd.study.results import run_mean, winner_name

BOUNDED = ("recall", "ndcg", "precision", "map", "mrr", "hit")
"""Families of metrics of which no user can have more than 1."""
FULL, ROUNDING = 0.99, 1e-9


def is_saturated(results: Mapping[str, Any], metric: str) -> bool:
    """Return whether plain training or the winner reaches the maximum of a metric for almost every test user.

    Args:
        results: The results in format 2.
        metric: The metric.
    """
    names = [name for name in (PLAIN, winner_name(results)) if name is not None]
    known = metric.partition("@")[0] in BOUNDED
    return known and any(run_mean(results, name, metric) >= FULL - ROUNDING for name in names)


def smaller_cutoff(metric: str) -> str:
    """Return the options of a smaller cut-off, empty if there is none.

    Args:
        metric: The metric.
    """
    family, _, cut = metric.partition("@")
    k = smaller(int(cut)) if cut.isdigit() else 0
    if not k:
        return ""
    return f"--k {k} --trainer.monitor {family}@{k}"
