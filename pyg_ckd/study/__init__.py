"""Studies: what is compared with what, run by run, and what the numbers say."""

from pyg_ckd.study.findings import verdict
from pyg_ckd.study.results import render_console_table, results_table
from pyg_ckd.study.study import Study, StudySettings

__all__ = ["Study", "StudySettings", "render_console_table", "results_table", "verdict"]
