"""Full-ranking evaluation, effects of modalities and statistics."""

from importlib import import_module
from typing import Any

from pyg_ckd.evaluation.baselines import (
    BASELINES,
    Baseline,
    ease,
    ease_content,
    fit_baseline,
    item_knn,
    item_knn_content,
)
from pyg_ckd.evaluation.content import content_ranking
from pyg_ckd.evaluation.custom import CustomMetric
from pyg_ckd.evaluation.described import with_content
from pyg_ckd.evaluation.effects import EffectReport, estimate_effects
from pyg_ckd.evaluation.metrics import parse_metric, user_metrics
from pyg_ckd.evaluation.ranking import Evaluator, Metrics, embed, evaluate, popularity, unimodal_gap
from pyg_ckd.evaluation.statistics import PairedTest, mean_std, paired_test

__all__ = [
    "BASELINES",
    "Baseline",
    "CustomMetric",
    "EffectReport",
    "Evaluator",
    "Metrics",
    "PairedTest",
    "content_ranking",
    "ease",
    "ease_content",
    "embed",
    "estimate_effects",
    "evaluate",
    "fit_baseline",
    "item_knn",
    "item_knn_content",
    "mean_std",
    "paired_test",
    "parse_metric",
    "popularity",
    "render_console_table",
    "render_description",
    "results_table",
    "unimodal_gap",
    "user_metrics",
    "verdict",
    "with_content",
    "write_description",
    "write_report",
]

_MOVED = (
    "render_console_table",
    "render_description",
    "results_table",
    "verdict",
    "write_description",
    "write_report",
)
"""What :mod:`pyg_ckd.report` defines now; found here too, where it used to be."""


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        return getattr(import_module("pyg_ckd.report"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
