"""Reading the results of a study: the one place that knows how ``results.json`` is laid out.

Tables, plots, verdict and report ask here, and every question has an answer even if a part of the study is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyg_ckd.errors import InputError
from pyg_ckd.evaluation.statistics import mean_std

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

HEADLINE = "recall@20"
TEACHER = "teacher:"
FAMILIES = ("recall", "ndcg", "precision", "map", "mrr", "hit", "coverage", "personalization")
TITLES = {"popularity": "Popularity", "lightgcn": "LightGCN", "plain": "Plain", "ckd": "CKD"}
DASH = "–"
NAN = float("nan")


@dataclass(frozen=True)
class Gap:
    """How far a modality's view of the student is from the modality's teacher, without and with distillation.

    Attributes:
        modality: The modality.
        plain: Metric of its uni-modal view of the plain student.
        ckd: The same of the distilled student.
        teacher: Metric of its teacher.
    """

    modality: str
    plain: float
    ckd: float
    teacher: float

    @property
    def before(self) -> float:
        """The teacher's lead over the plain student."""
        return self.teacher - self.plain

    @property
    def after(self) -> float:
        """The teacher's lead over the distilled student; negative once it is overtaken."""
        return self.teacher - self.ckd

    @property
    def closed(self) -> float:
        """Share of the gap that distillation closed; :obj:`nan` if there was none."""
        return 1 - self.after / self.before if self.before > 0 else NAN

    @property
    def reach_plain(self) -> float:
        """The plain student's view as a share of its teacher."""
        return self.plain / self.teacher if self.teacher > 0 else NAN

    @property
    def reach_ckd(self) -> float:
        """The distilled student's view as a share of its teacher."""
        return self.ckd / self.teacher if self.teacher > 0 else NAN


def check_results(results: Mapping[str, Any]) -> None:
    """Refuse what is not the results of a study.

    Args:
        results: The dict that ``results.json`` holds.

    Raises:
        InputError: If the format is unknown or a run has no name or no test metrics.
    """
    if results.get("format", 1) != 1:
        raise InputError(f"results: found format {results['format']!r}, expected 1; update pyg-ckd to read newer files")
    runs = results.get("runs")
    if not isinstance(runs, Sequence):
        raise InputError("results: found no list 'runs', expected the dict that a study writes to results.json")
    for index, run in enumerate(runs):
        for key in ("name", "test"):
            if key not in run:
                raise InputError(f"results: runs[{index}] has no {key!r}, expected a name and a dict of test metrics")


def number(value: Any) -> float:
    """Return a number, :obj:`nan` for what is missing: JSON has ``null`` for it."""
    return NAN if value is None else float(value)


def run_names(results: Mapping[str, Any]) -> list[str]:
    """Return the names of the runs: baselines, teachers in the order of the modalities, plain, CKD, then the rest."""
    found = list(dict.fromkeys(run["name"] for run in results["runs"]))
    order = ["popularity", "lightgcn", *(TEACHER + m for m in modality_names(results)), "plain", "ckd"]
    return [name for name in order if name in found] + [name for name in found if name not in order]


def modality_names(results: Mapping[str, Any]) -> list[str]:
    """Return the modalities in the order of the data set; whatever else has results follows."""
    views = (m for run in results["runs"] for m in run.get("views") or {})
    teachers = (run["name"].removeprefix(TEACHER) for run in results["runs"] if run["name"].startswith(TEACHER))
    declared = (results.get("data") or {}).get("modalities") or {}
    return list(dict.fromkeys([*declared, *teachers, *views, *(results.get("effects") or {})]))


def run_values(results: Mapping[str, Any], name: str, metric: str, part: str = "test") -> list[float]:
    """Return a metric of every seed of a run; missing values are left out.

    Args:
        results: The results.
        name: Name of the run.
        metric: Name of the metric.
        part: ``"test"``, ``"val"``, or ``"views/<modality>"``.
    """
    group, _, modality = part.partition("/")
    values = []
    for run in results["runs"]:
        if run["name"] == name:
            metrics = run.get(group) or {}
            metrics = (metrics.get(modality) or {}) if modality else metrics
            values.append(number(metrics.get(metric)))
    return [value for value in values if not math.isnan(value)]


def run_mean(results: Mapping[str, Any], name: str, metric: str, part: str = "test") -> float:
    """Return the mean over seeds of a metric of a run, :obj:`nan` if there is none; arguments as `run_values`."""
    values = run_values(results, name, metric, part)
    return mean_std(values)[0] if values else NAN


def metric_names(results: Mapping[str, Any]) -> list[str]:
    """Return all test metrics but those of cold and warm items, by family and cut-off."""
    found = dict.fromkeys(metric for run in results["runs"] for metric in run["test"] if "/" not in metric)

    def order(metric: str) -> tuple[int, int]:
        family, _, cut = metric.partition("@")
        return FAMILIES.index(family) if family in FAMILIES else len(FAMILIES), int(cut) if cut.isdigit() else 0

    return sorted(found, key=order)


def headline_metric(results: Mapping[str, Any]) -> str:
    """Return the metric that the story is told with.

    It is the one that the study's trainer monitored; ``recall@20`` if the results do not say, and the first one that
    there is if it was not measured.
    """
    found = metric_names(results)
    wanted = results.get("monitor") or HEADLINE
    return wanted if wanted in found or not found else found[0]


def gaps(results: Mapping[str, Any], metric: str | None = None) -> list[Gap]:
    """Return the gap of every modality that has a view of a student or a teacher, on the test split.

    Args:
        results: The results.
        metric: The metric; by default the headline metric.
    """
    metric = metric or headline_metric(results)
    rows = [
        Gap(
            modality,
            plain=run_mean(results, "plain", metric, f"views/{modality}"),
            ckd=run_mean(results, "ckd", metric, f"views/{modality}"),
            teacher=run_mean(results, TEACHER + modality, metric),
        )
        for modality in modality_names(results)
    ]
    return [row for row in rows if not all(map(math.isnan, (row.plain, row.ckd, row.teacher)))]


def comparison(
    results: Mapping[str, Any], metric: str, over: str | None = None, a: str = "ckd", b: str = "plain"
) -> Mapping[str, Any] | None:
    """Return the comparison of two runs on a metric, the one over users first, or :obj:`None`.

    Args:
        results: The results.
        metric: The metric.
        over: ``"users"`` or ``"seeds"``; by default any.
        a: Name of the first run.
        b: Name of the second run.
    """
    found = [
        item
        for item in results.get("comparisons") or ()
        if (item["a"], item["b"], item["metric"]) == (a, b, metric) and item["over"] == (over or item["over"])
    ]
    return min(found, key=lambda item: item["over"] != "users", default=None)


def run_title(name: str) -> str:
    """Return the name of a run as a person reads it."""
    return f"Teacher: {name.removeprefix(TEACHER)}" if name.startswith(TEACHER) else TITLES.get(name, name)


def show(value: float, digits: int = 4, sign: bool = False) -> str:
    """Return a number as text with a true minus sign; a dash for :obj:`nan`."""
    if math.isnan(value):
        return DASH
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def percent(value: float, digits: int = 0, sign: bool = False) -> str:
    """Return a share as text; a dash for :obj:`nan`."""
    return DASH if math.isnan(value) else f"{show(100 * value, digits, sign)} %"


def p_text(value: float) -> str:
    """Return a p-value as text: ``p = 0.003``, ``p < 0.001``."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


def spread_text(mean: float, std: float, num: int) -> str:
    """Return a mean with its deviation over seeds, without it if there is one seed only."""
    return f"{show(mean)} ± {show(std)}" if num > 1 and not math.isnan(mean) else show(mean)


def results_table(results: Mapping[str, Any], metrics: Iterable[str] | None = None) -> pd.DataFrame:
    """Return mean and standard deviation over seeds of every test metric of every run.

    Args:
        results: The results of a study.
        metrics: The metrics; by default all but those of cold and warm items.

    Returns:
        A row per run (index ``name``: ``popularity``, ``lightgcn``, teachers, ``plain``, ``ckd``) and the columns
        ``(metric, "mean")``, ``(metric, "std")`` and ``(metric, "num")``, the number of seeds; :obj:`nan` where a run
        does not have the metric.

    Raises:
        InputError: If these are not the results of a study.
    """
    import pandas as pd

    check_results(results)
    names, columns = run_names(results), {}
    for metric in metric_names(results) if metrics is None else metrics:
        values = [run_values(results, name, metric) for name in names]
        pairs = [mean_std(seeds) if seeds else (NAN, NAN) for seeds in values]
        columns[metric, "mean"] = [mean for mean, _ in pairs]
        columns[metric, "std"] = [std for _, std in pairs]
        columns[metric, "num"] = [len(seeds) for seeds in values]
    header = pd.MultiIndex.from_tuples(list(columns), names=["metric", "statistic"]) if columns else None
    return pd.DataFrame(columns, index=pd.Index(names, name="name"), columns=header)


def main_metrics(results: Mapping[str, Any]) -> list[str]:
    """Return the metrics of the main table: the headline, recall at every cut-off, the others at the largest one."""
    headline = headline_metric(results)
    largest: dict[str, str] = {metric.partition("@")[0]: metric for metric in metric_names(results)}
    chosen = [m for m in metric_names(results) if m.startswith("recall@") or m in largest.values()]
    main = {m for m in chosen if m.partition("@")[0] not in ("map", "mrr", "hit")} | {headline}
    return [m for m in metric_names(results) if m in main]


def best_runs(table: pd.DataFrame, metric: str) -> set[str]:
    """Return the runs with the highest mean of a metric, as far as the table shows digits; none if all are equal."""
    mean = table[metric, "mean"].round(4)
    return set(mean.index[mean == mean.max()]) if mean.nunique() > 1 else set()


def render_console_table(results: Mapping[str, Any]) -> Table:
    """Return the results table for the terminal, the best value of every column in bold.

    Args:
        results: The results of a study.
    """
    from rich.table import Table
    from rich.text import Text

    metrics = main_metrics(results)
    table = results_table(results, metrics)
    out = Table(title="Test metrics, mean ± standard deviation over seeds", title_justify="left")
    out.add_column("model")
    for metric in metrics:
        out.add_column(metric, justify="right")
    for name in table.index:
        cells = [Text(run_title(name))]
        for metric in metrics:
            text = spread_text(*table.loc[name, metric][["mean", "std", "num"]])
            cells.append(Text(text, style="bold" if name in best_runs(table, metric) else ""))
        out.add_row(*cells)
    return out
