"""Closed-form baselines: what every table of trained models has to be compared with."""

from pyg_ckd.evaluation.baselines.fit import BASELINES, Baseline, fit_baseline
from pyg_ckd.evaluation.baselines.linear import ease, ease_content
from pyg_ckd.evaluation.baselines.neighbours import item_knn, item_knn_content

__all__ = ["BASELINES", "Baseline", "ease", "ease_content", "fit_baseline", "item_knn", "item_knn_content"]
