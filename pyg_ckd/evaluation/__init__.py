"""Full-ranking evaluation, imbalance diagnostics, statistics and the report."""

from pyg_ckd.evaluation.description import render_description, write_description
from pyg_ckd.evaluation.metrics import user_metrics
from pyg_ckd.evaluation.ranking import Evaluator, Metrics, embed, evaluate, popularity, unimodal_gap
from pyg_ckd.evaluation.report import render_console_table, results_table, verdict, write_report
from pyg_ckd.evaluation.statistics import PairedTest, mean_std, paired_test

__all__ = [
    "Evaluator",
    "Metrics",
    "PairedTest",
    "embed",
    "evaluate",
    "mean_std",
    "paired_test",
    "popularity",
    "render_console_table",
    "render_description",
    "results_table",
    "unimodal_gap",
    "user_metrics",
    "verdict",
    "write_description",
    "write_report",
]
