"""Reading the results of a study: the one place that knows how ``results.json`` is laid out.

Tables, plots, verdict and report ask here, and every question has an answer even if a part of the study is missing.
Nothing here knows a contender by name but ``plain``, which all others are compared with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from pyg_ckd.display import Best, html_table
from pyg_ckd.evaluation.content import is_silent
from pyg_ckd.evaluation.statistics import mean_std
from pyg_ckd.study.formats import HEADLINE, PLAIN, TEACHER, current_results
from pyg_ckd.study.settings import budget_for
from pyg_ckd.study.text import NAN, number, show

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

FAMILIES = ("recall", "ndcg", "precision", "map", "mrr", "hit", "coverage", "personalization")
TITLES = {
    "popularity": "Popularity",
    "item-knn": "Item-kNN",
    "item-knn-content": "Item-kNN with content",
    "ease": "EASE",
    "ease-content": "EASE with content",
    "lightgcn": "LightGCN",
}
"""What baselines are called; contenders keep the names that the study gave them."""
LENGTH = {"max_epochs", "extend", "schedule", "scheduler"}
"""Options of a trainer that how many epochs it may take depends on."""
SIGNIFICANT = 0.05
"""A difference is called one if its corrected p-value is below this."""
NAME = 36
"""Characters of a name in a line of the table on the terminal."""
CONSOLE_TITLE = "Test metrics, mean ± standard deviation over seeds"
MARKS = {"users": "*", "seeds": "†"}
MARKS_NOTE = f"* differs from {PLAIN} over users, † over seeds (p < {SIGNIFICANT} after Holm's correction)"


@dataclass(frozen=True)
class Alone:
    """How a modality ranks by its features alone, see :func:`~pyg_ckd.evaluation.content_ranking`.

    Attributes:
        recall: Recall of its features.
        shuffled: Recall of its features in the rows of other items.
        p_value: Whether the two differ, after Holm's correction over modalities.
        high: Upper limit of the recall.
    """

    recall: float
    shuffled: float
    p_value: float
    high: float

    @property
    def silent(self) -> bool:
        """Whether the features rank no better than shuffled ones; not where that is unknown."""
        return is_silent(self.recall, self.shuffled, self.p_value, self.high)

    @property
    def unclear(self) -> bool:
        """Whether it cannot be told if the features rank better than shuffled ones; not where nobody looked."""
        return not self.silent and self.p_value >= SIGNIFICANT


@dataclass(frozen=True)
class Gap:
    """How far a modality's view of a contender is from the modality's teacher, against the plain student.

    Attributes:
        contender: Name of the contender.
        modality: The modality.
        plain: Metric of its uni-modal view of the plain student.
        view: The same of the contender.
        teacher: Metric of its teacher.
    """

    contender: str
    modality: str
    plain: float
    view: float
    teacher: float

    @property
    def before(self) -> float:
        """The teacher's lead over the plain student."""
        return self.teacher - self.plain

    @property
    def after(self) -> float:
        """The teacher's lead over the contender; negative once it is overtaken."""
        return self.teacher - self.view

    @property
    def closed(self) -> float:
        """Share of the gap that the contender closed; :obj:`nan` if there was none."""
        return 1 - self.after / self.before if self.before > 0 else NAN

    @property
    def reach_plain(self) -> float:
        """The plain student's view as a share of its teacher."""
        return self.plain / self.teacher if self.teacher > 0 else NAN

    @property
    def reach(self) -> float:
        """The contender's view as a share of its teacher."""
        return self.view / self.teacher if self.teacher > 0 else NAN


def contender_names(results: Mapping[str, Any]) -> list[str]:
    """Return the contenders that have runs: those that the study declares in its order, then the rest."""
    declared = [str(entry["name"]) for entry in results.get("contenders") or ()]
    return _of_kind(results, "contender", declared)


def baseline_names(results: Mapping[str, Any]) -> list[str]:
    """Return the baselines that have runs, in the order of the study."""
    return _of_kind(results, "baseline", list(results.get("baselines") or ()))


def run_names(results: Mapping[str, Any]) -> list[str]:
    """Return the names of the runs: baselines, teachers in the order of the modalities, contenders."""
    teachers = _of_kind(results, "teacher", [TEACHER + m for m in modality_names(results)])
    return [*baseline_names(results), *teachers, *contender_names(results)]


def modality_names(results: Mapping[str, Any]) -> list[str]:
    """Return the modalities in the order of the data set; whatever else has results follows."""
    views = (m for run in results["runs"] for m in run.get("views") or {})
    teachers = (run["name"].removeprefix(TEACHER) for run in results["runs"] if run["name"].startswith(TEACHER))
    declared = (results.get("data") or {}).get("modalities") or {}
    effects = (m for table in (results.get("effects") or {}).values() for m in table)
    return list(dict.fromkeys([*declared, *teachers, *views, *effects]))


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


def run_mean(results: Mapping[str, Any], name: str | None, metric: str, part: str = "test") -> float:
    """Return the mean over seeds of a metric of a run, :obj:`nan` if there is none; arguments as `run_values`."""
    values = [] if name is None else run_values(results, name, metric, part)
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


def winner_name(results: Mapping[str, Any]) -> str | None:
    """Return the contender that is best on the validation part, :obj:`None` if that is not known."""
    found = (results.get("winner") or {}).get("name")
    return found if found in contender_names(results) else None


def best_trial(results: Mapping[str, Any]) -> float:
    """Return the validation metric of the trial by which a search named the winner, :obj:`nan` without a search."""
    tuning = results.get("tuning") or {}
    trial = (tuning.get("best") or {}).get(winner_name(results)) or {}
    return number(trial.get("value"))


def tried_names(results: Mapping[str, Any]) -> list[str]:
    """Return the contenders among which the winner was chosen: of a search also those that were not tested."""
    return list((results.get("tuning") or {}).get("contenders") or contender_names(results))


def chosen_by(results: Mapping[str, Any]) -> str:
    """Return what makes the winner: the best trial of a search, or the mean over seeds."""
    return "best contender" if math.isnan(best_trial(results)) else "contender with the best trial"


def strongest_baseline(
    results: Mapping[str, Any], metric: str | None = None, among: Sequence[str] | None = None
) -> str | None:
    """Return the baseline that is best on the validation part, or on the test part if none was validated.

    Of baselines that are equal it is the one with the best NDCG at the same cut-off, or else the first.

    Args:
        results: The results.
        metric: The metric; by default the headline metric.
        among: The baselines to choose from; by default all.
    """
    return _strongest(results, metric, among)[0]


def strongest_on(results: Mapping[str, Any], metric: str | None = None) -> str:
    """Return which part named the strongest baseline: ``"validation"``, or ``"the test part"`` if none was validated.

    Args:
        results: The results.
        metric: The metric; by default the headline metric.
    """
    return "the test part" if _strongest(results, metric)[1] == "test" else "validation"


def tied_baselines(results: Mapping[str, Any], metric: str | None = None) -> tuple[list[str], str]:
    """Return the other baselines that are equal to the strongest one, and the metric by which it is ahead of them.

    Args:
        results: The results.
        metric: The metric; by default the headline metric.

    Returns:
        The second entry is empty if one of them is equal in NDCG too, or that was not measured: the first one counts.
    """
    metric = metric or headline_metric(results)
    best, part = _strongest(results, metric)
    value, second = (run_mean(results, best, name, part) for name in (metric, _second(metric)))
    tied = [n for n in baseline_names(results) if n != best and run_mean(results, n, metric, part) == value]
    ahead = all(run_mean(results, name, _second(metric), part) < second for name in tied)
    return tied, _second(metric) if tied and ahead else ""


def tied_names(results: Mapping[str, Any]) -> list[str]:
    """Return the other contenders whose validation value is that of the winner, which came first.

    Args:
        results: The results.
    """
    winner, trials = winner_name(results), (results.get("tuning") or {}).get("best") or {}
    metric = (results.get("winner") or {}).get("metric") or headline_metric(results)

    def value(name: str | None) -> float:
        searched = not math.isnan(best_trial(results))
        return number((trials.get(name) or {}).get("value")) if searched else run_mean(results, name, metric, "val")

    return [name for name in tried_names(results) if name != winner and value(name) == value(winner)]


def not_converged(results: Mapping[str, Any], name: str) -> tuple[int, int]:
    """Return how many seeds of a run were still rising or too short to tell, and how many seeds there are."""
    seeds = [run.get("converged") for run in results["runs"] if run["name"] == name]
    return sum(converged is False for converged in seeds), len(seeds)


def enough_epochs(results: Mapping[str, Any]) -> int | None:
    """Return the ``max_epochs`` that is enough for all runs that had not converged, if their metrics do not rise again.

    Args:
        results: The results in format 2.

    Returns:
        :obj:`None` if all had converged, or it is not known of all that had not, such as of teachers and of LightGCN
        with a budget of their own.
    """
    settings = results.get("settings") or {}
    known = []
    for run in results["runs"]:
        if run.get("converged") is not False:
            continue
        part = "teacher" if run["name"].startswith(TEACHER) else run["name"]
        own = {**(settings.get(part) or {}), **((settings.get("baselines") or {}).get(part) or {})}
        if run.get("enough_epochs") is None or LENGTH & own.keys():
            return None
        known.append(int(run["enough_epochs"]))
    return budget_for(max(known), settings.get("trainer") or {}) if known else None


def late_trials(results: Mapping[str, Any]) -> list[str]:
    """Return whose best trial of a search was still rising or too short to tell, of contenders and baselines."""
    searches = (results.get("tuning") or {}).get("searches") or []
    return [one["name"] for one in searches if one["trials"][one["best"]].get("converged") is False]


def gaps(results: Mapping[str, Any], metric: str | None = None) -> list[Gap]:
    """Return the gap of every contender and modality of which there is a view or a teacher, on the test split.

    Args:
        results: The results, of any format.
        metric: The metric; by default the headline metric.
    """
    results = current_results(results)
    metric = metric or headline_metric(results)
    rows = [
        Gap(
            name,
            modality,
            plain=run_mean(results, PLAIN, metric, f"views/{modality}"),
            view=run_mean(results, name, metric, f"views/{modality}"),
            teacher=run_mean(results, TEACHER + modality, metric),
        )
        for name in contender_names(results)
        for modality in modality_names(results)
    ]
    return [row for row in rows if not math.isnan(row.view)]


def content_alone(results: Mapping[str, Any]) -> dict[str, Alone]:
    """Return, by modality, how its features rank alone; nothing of studies that did not measure it.

    Args:
        results: The results in format 2.
    """
    content = results.get("content")
    found = content.get("modalities") if isinstance(content, Mapping) else None
    names = [field.name for field in fields(Alone)]
    rows = found.items() if isinstance(found, Mapping) else ()
    return {m: Alone(*(number(row.get(key)) for key in names)) for m, row in rows if isinstance(row, Mapping)}


def without_content(results: Mapping[str, Any]) -> list[str]:
    """Return the modalities whose features tell no items apart; none of studies that did not look.

    Args:
        results: The results in format 2.
    """
    return [m for m in modality_names(results) if m in (results.get("without_content") or ())]


def best_views(rows: Iterable[Gap]) -> dict[str, set[str]]:
    """Return, from modality to names, whose view is best as far as tables show digits; none if all are equal.

    Args:
        rows: The gaps of several contenders.
    """
    views: dict[str, dict[str, float]] = {}
    for row in rows:
        views.setdefault(row.modality, {})[row.contender] = round(row.view, 4)
    return {
        m: {name for name, view in found.items() if view == max(found.values()) > min(found.values())}
        for m, found in views.items()
    }


def comparison(
    results: Mapping[str, Any], a: str, b: str, metric: str, over: str | None = None
) -> Mapping[str, Any] | None:
    """Return the comparison of two runs on a metric, the one over users first, or :obj:`None`.

    Args:
        results: The results.
        a: Name of the first run.
        b: Name of the second run.
        metric: The metric.
        over: ``"users"`` or ``"seeds"``; by default any.
    """
    found = [
        item
        for item in (*(results.get("comparisons") or ()), *(results.get("teacher_comparisons") or ()))
        if (item["a"], item["b"], item["metric"]) == (a, b, metric) and item["over"] == (over or item["over"])
    ]
    return min(found, key=lambda item: item["over"] != "users", default=None)


def p_holm(test: Mapping[str, Any] | None) -> float:
    """Return the p-value of a comparison after Holm's correction, :obj:`nan` if it was not made."""
    if test is None:
        return NAN
    return number(test["p_holm"] if test.get("p_holm") is not None else test.get("p_value"))


def marks(results: Mapping[str, Any], name: str, metric: str, other: str = PLAIN) -> str:
    """Return the marks of a difference that is more than chance: ``*`` over users, ``†`` over seeds."""
    return "".join(
        mark for over, mark in MARKS.items() if p_holm(comparison(results, name, other, metric, over)) < SIGNIFICANT
    )


def run_title(name: str) -> str:
    """Return the name of a run as a person reads it."""
    return f"Teacher: {name.removeprefix(TEACHER)}" if name.startswith(TEACHER) else TITLES.get(name, name)


def results_table(results: Mapping[str, Any], metrics: Iterable[str] | None = None) -> pd.DataFrame:
    """Return mean and standard deviation over seeds of every test metric of every run.

    Args:
        results: The results of a study, of any format.
        metrics: The metrics; by default all but those of cold and warm items.

    Returns:
        A row per run (index ``name``: baselines, teachers, contenders, each in the order of the study) and the columns
        ``(metric, "mean")``, ``(metric, "std")`` and ``(metric, "num")``, the number of seeds; :obj:`nan` where a run
        does not have the metric.

    Raises:
        InputError: If these are not the results of a study.
    """
    import pandas as pd

    results = current_results(results)
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
    """Return the results table for the terminal: the best of every column in bold, tested differences marked.

    It leaves out coverage and personalization, which say how lists differ and not how good they are.

    Args:
        results: The results of a study, of any format.
    """
    from rich.table import Table
    from rich.text import Text

    metrics, rows, notes = _console_rows(results)
    out = Table(title=CONSOLE_TITLE, title_justify="left")
    out.add_column("model", no_wrap=True)  # A narrow terminal breaks numbers, not names.
    for metric in metrics:
        out.add_column(metric, justify="right", overflow="fold")
    for title, *cells in rows:
        lines = [line[at : at + NAME] for line in title.splitlines() for at in range(0, len(line), NAME)]
        out.add_row(
            Text("\n".join(lines)), *(Text(cell, style="bold" if isinstance(cell, Best) else "") for cell in cells)
        )
    out.caption, out.caption_justify = "; ".join(notes), "left"
    return out


def _console_rows(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]], list[str]]:
    """Return metrics, rows and notes of a table that fits a screen."""
    results = current_results(results)
    beside = {"coverage", "personalization"} - {headline_metric(results).partition("@")[0]}
    metrics = [metric for metric in main_metrics(results) if metric.partition("@")[0] not in beside]
    winner = winner_name(results)
    table = results_table(results, metrics)
    best = {metric: best_runs(table, metric) for metric in metrics}
    marked, rows = "", []
    for name in table.index:
        notes = ["winner"] if name == winner else []
        notes += ["not converged"] if not_converged(results, name)[0] else []
        cells = ["\n".join([run_title(name), *(f"({note})" for note in notes)])]
        for metric in metrics:
            mean, std, num = table.loc[name, metric][["mean", "std", "num"]]
            mark = marks(results, name, metric)
            marked += mark
            text = f"{show(mean)}{mark} ±{show(std)}" if num > 1 else f"{show(mean)}{mark}"
            cells.append(Best(text) if name in best[metric] else text)
        rows.append(cells)
    notes = ["bold: best of its column"] + ([MARKS_NOTE] if marked else [])
    notes += [f"winner: {chosen_by(results)} on the validation part"] if winner is not None else []
    return metrics, rows, notes


class StudyResults(dict[str, Any]):
    """What ``results.json`` of a study holds; in a notebook, the table of the study."""

    def _repr_html_(self) -> str:
        metrics, rows, notes = _console_rows(self)
        return html_table(CONSOLE_TITLE, ["model", *metrics], rows, notes)


def _strongest(
    results: Mapping[str, Any], metric: str | None, among: Sequence[str] | None = None
) -> tuple[str | None, str]:
    """Return the strongest baseline and the part on which it is that."""
    metric = metric or headline_metric(results)
    names = baseline_names(results) if among is None else among
    for part in ("val", "test"):
        means = {name: run_mean(results, name, metric, part) for name in names}
        known = [name for name, mean in means.items() if not math.isnan(mean)]
        if known:
            most = max(means[name] for name in known)
            second = {n: run_mean(results, n, _second(metric), part) for n in known if means[n] == most}
            measured = not any(map(math.isnan, second.values()))
            return max(second, key=second.__getitem__) if measured else next(iter(second)), part
    return None, ""


def _second(metric: str) -> str:
    """Return the metric that decides between baselines which are equal in the first one."""
    return f"ndcg@{metric.partition('@')[2]}"


def _of_kind(results: Mapping[str, Any], kind: str, order: list[str]) -> list[str]:
    found = dict.fromkeys(run["name"] for run in results["runs"] if _kind(results, run) == kind)
    return [name for name in order if name in found] + [name for name in found if name not in order]


def _kind(results: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    return str(run.get("kind") or ("teacher" if run["name"].startswith(TEACHER) else "contender"))
