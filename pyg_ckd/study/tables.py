"""The results of a study for other programs: ``results.csv``, a number per row, and ``table.tex`` for a paper."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pyg_ckd.evaluation.statistics import mean_std
from pyg_ckd.files import atomic_path
from pyg_ckd.study.results import not_converged
from pyg_ckd.study.settings import REFERENCE, TEACHER

COLUMNS = ("run", "kind", "seed", "part", "view", "metric", "value", "converged")
FULL = "full"
MARKS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
LATE = r"$^{\dagger}$"
"""The mark of a run that had not converged."""
SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{\ttfamily\char34}",  # Without T1 fonts there is no \textquotedbl.
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
HEAD = r"""% Written by pyg-ckd. Works with and without \usepackage{booktabs}.
\providecommand{\toprule}{\hline}
\providecommand{\midrule}{\hline}
\providecommand{\bottomrule}{\hline}
"""
Row = tuple[str, list[tuple[float, float, str]]]


def write_csv(path: Path, results: Mapping[str, Any]) -> None:
    """Write every metric of every run as a row ``run, kind, seed, part, view, metric, value, converged``.

    ``view`` is ``full`` or the modality that alone is factual. A metric that a run does not have is an empty value, and
    so is ``converged`` where nothing was trained. It is ``False`` if the metric still rose when the epochs were used
    up, or it was too early to tell.

    Args:
        path: The file.
        results: The results.
    """
    import pandas as pd

    rows = []
    for run in results["runs"]:
        groups = [("val", FULL, run["val"]), ("test", FULL, run["test"])]
        groups += [("test", m, metrics) for m, metrics in run["views"].items()]
        for part, view, metrics in groups:
            first, late = (run["name"], run["kind"], run["seed"], part, view), run.get("converged")
            rows += [(*first, name, value, late) for name, value in metrics.items()]
    with atomic_path(path) as temporary:
        pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(temporary, index=False)


def write_tex(path: Path, results: Mapping[str, Any], metrics: Sequence[str]) -> None:
    """Write two LaTeX tables: test metrics of all runs, and what every contender's modalities reach alone.

    A cell is the mean and, with several seeds, the standard deviation over seeds. The best of baselines and contenders
    is bold; stars say that a contender differs from plain training over users, and a dagger that a run had not
    converged under a seed or more.

    Args:
        path: The file.
        results: The results.
        metrics: The metrics of the first table; the first one is that of the second table.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(f"{HEAD}\n{_joint(results, metrics)}\n{_alone(results, metrics[0])}", encoding="utf-8")


def escape(text: str) -> str:
    r"""Return text such that LaTeX prints it as it is.

    A text that begins with ``[`` or ``*`` gets empty braces in front: after ``\\`` these would be its arguments.

    Args:
        text: The text.
    """
    shown = re.sub(r'[\\~^&%$#_{}<>|"]', lambda found: SPECIAL[found[0]], text)
    return f"{{}}{shown}" if shown.startswith(("[", "*")) else shown


def _joint(results: Mapping[str, Any], metrics: Sequence[str]) -> str:
    groups = [
        list(dict.fromkeys(run["name"] for run in results["runs"] if run["kind"] == kind))
        for kind in ("baseline", "teacher", "contender")
    ]
    rivals = groups[0] + groups[2]
    best = {metric: max((_spread(results, n, metric)[0] for n in rivals), default=math.nan) for metric in metrics}

    def cells(name: str) -> list[str]:
        found = []
        for metric in metrics:
            mean, std, num = _spread(results, name, metric)
            bold = name in rivals and f"{mean:.4f}" == f"{best[metric]:.4f}"
            found.append(_cell(mean, std, num, bold, _stars(results, name, metric)))
        return found

    body = [[f"{_name(results, name)} & {' & '.join(cells(name))}" for name in group] for group in groups if group]
    caption = (
        f"Test metrics{_over(results)}. Bold: the best baseline or contender. "
        "Stars: different from plain training over users, $p < 0.05$ (*), $0.01$ (**), $0.001$ (***) after Holm's "
        f"correction.{_note(results, [name for group in groups for name in group])}"
    )
    return _table("run", [escape(metric) for metric in metrics], body, caption, "tab:runs")


def _alone(results: Mapping[str, Any], metric: str) -> str:
    modalities = list(results["data"]["modalities"])

    def row(title: str, of: Callable[[str], tuple[float, float, int]], gap: bool) -> str:
        cells = []
        for m in modalities:
            mean, std, num = of(m)
            teacher = _spread(results, TEACHER + m, metric)[0]
            late = "" if gap else _late(results, TEACHER + m)
            cells += [_cell(mean, std, num) + late, _number(teacher - mean) if gap else "--"]
        return f"{title} & {' & '.join(cells)}"

    teachers = [row("teachers", lambda m: _spread(results, TEACHER + m, metric), False)]
    names = [contender["name"] for contender in results["contenders"]]
    rows = [row(_name(results, n), partial(_spread, results, n, metric), True) for n in names]
    columns = [text for m in modalities for text in (escape(m), "gap")]
    caption = (
        f"{escape(metric)} of every modality alone{_over(results)}, and how far it is behind its teacher "
        f"(negative: ahead of it).{_note(results, [*names, *(TEACHER + m for m in modalities)])}"
    )
    return _table("model", columns, [teachers, rows], caption, "tab:modalities")


def _late(results: Mapping[str, Any], name: str) -> str:
    return LATE if not_converged(results, name)[0] else ""


def _name(results: Mapping[str, Any], name: str) -> str:
    return escape(name) + _late(results, name)


def _note(results: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return what a caption says about the dagger, nothing if no run has one."""
    seeds = " under at least one seed" if len(results["settings"]["seeds"]) > 1 else ""
    return f" {LATE}: not converged{seeds}." if any(_late(results, name) for name in names) else ""


def _table(first: str, columns: Sequence[str], body: Sequence[Sequence[str]], caption: str, label: str) -> str:
    lines = [r"\begin{table}", r"\centering", f"\\caption{{{caption}}}", f"\\label{{{label}}}"]
    lines += [f"\\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule", f"{first} & {' & '.join(columns)} \\\\"]
    for group in body:
        lines += [r"\midrule", *(f"{row} \\\\" for row in group)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _spread(results: Mapping[str, Any], name: str, metric: str, view: str | None = None) -> tuple[float, float, int]:
    """Return mean, standard deviation and number of a run's test metric over seeds."""
    runs = [run for run in results["runs"] if run["name"] == name]
    values = [(run["test"] if view is None else run["views"].get(view, {})).get(metric, math.nan) for run in runs]
    return (*mean_std(values), len(values)) if values else (math.nan, math.nan, 0)


def _stars(results: Mapping[str, Any], name: str, metric: str) -> str:
    for item in results["comparisons"]:
        if (item["a"], item["b"], item["metric"], item["over"]) == (name, REFERENCE, metric, "users"):
            return next((stars for level, stars in MARKS if item["p_holm"] < level), "")
    return ""


def _cell(mean: float, std: float, num: int, bold: bool = False, stars: str = "") -> str:
    if math.isnan(mean):
        return "--"
    text = f"\\textbf{{{mean:.4f}}}" if bold else _number(mean)
    text += f" {{\\footnotesize $\\pm$ {std:.4f}}}" if num > 1 else ""
    return f"{text}$^{{{stars}}}$" if stars else text


def _number(value: float) -> str:
    return "--" if math.isnan(value) else f"{value:.4f}" if value >= 0 else f"$-${-value:.4f}"


def _over(results: Mapping[str, Any]) -> str:
    num = len(results["settings"]["seeds"])
    return f", mean and standard deviation over {num} seeds" if num > 1 else ", one seed"
