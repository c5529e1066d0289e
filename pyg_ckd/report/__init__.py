"""How results look: the report of a study, its plots, and the description of a data set."""

from pyg_ckd.report.description import render_description, write_description
from pyg_ckd.report.report import write_report
from pyg_ckd.study.findings import verdict
from pyg_ckd.study.results import render_console_table, results_table

__all__ = [
    "render_console_table",
    "render_description",
    "results_table",
    "verdict",
    "write_description",
    "write_report",
]
