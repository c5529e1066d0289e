"""Studies: what is compared with what, run by run, and what the numbers say."""

from pyg_ckd.study.contenders import Contender
from pyg_ckd.study.findings import verdict
from pyg_ckd.study.results import render_console_table, results_table
from pyg_ckd.study.settings import StudySettings
from pyg_ckd.study.study import Study
from pyg_ckd.study.tune import Tuning

__all__ = [
    "Contender",
    "Study",
    "StudySettings",
    "Tuning",
    "render_console_table",
    "results_table",
    "verdict",
]
