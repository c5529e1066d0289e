"""Metrics that are at their maximum for almost every user, so that nothing can be read from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyg_ckd.study.formats import PLAIN
from pyg_ckd.study.results import run_mean

BOUNDED = ("recall", "ndcg", "precision", "map", "mrr", "hit")
"""Families of metrics of which no user can have more than 1."""
FULL, ROUNDING = 0.99, 1e-9
SMALLER = 5
"""The cut-off to go down to from larger ones."""


def is_saturated(results: Mapping[str, Any], metric: str) -> bool:
    """Return whether popularity or plain training reaches the maximum of a metric for almost every test user.

    Args:
        results: The results in format 2.
        metric: The metric.
    """
    known = metric.partition("@")[0] in BOUNDED
    return known and any(run_mean(results, name, metric) >= FULL - ROUNDING for name in ("popularity", PLAIN))


def smaller_cutoff(metric: str) -> str:
    """Return the options of a smaller cut-off, empty if there is none.

    Args:
        metric: The metric.
    """
    family, _, cut = metric.partition("@")
    if not cut.isdigit() or int(cut) < 2:
        return ""
    k = SMALLER if int(cut) > SMALLER else int(cut) // 2
    return f"--k {k} --trainer.monitor {family}@{k}"
