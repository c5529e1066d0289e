"""Full-ranking evaluation, imbalance diagnostics and the report."""

from pyg_ckd.evaluation.metrics import user_metrics
from pyg_ckd.evaluation.ranking import Evaluator, Metrics, embed, evaluate, popularity, unimodal_gap

__all__ = ["Evaluator", "Metrics", "embed", "evaluate", "popularity", "unimodal_gap", "user_metrics"]
