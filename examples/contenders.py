"""Put all runs of studies into Markdown tables, one for each study: baselines, teachers and contenders.

``python -m examples.contenders FOLDER...`` reads the ``results.json`` that ``pyg-ckd compare`` wrote to each. Those
of ``docs/results/yardsticks.md`` were made with it. With ``--summary`` there is one table for all studies, with a line
for each run: that of ``docs/results/strategies.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from pyg_ckd.evaluation.statistics import mean_std
from pyg_ckd.study.formats import PLAIN, load_results
from pyg_ckd.study.results import (
    comparison,
    contender_names,
    gaps,
    headline_metric,
    marks,
    p_holm,
    run_mean,
    run_names,
    run_title,
    run_values,
    winner_name,
)
from pyg_ckd.study.text import percent, spread_text

HEAD = ["run", "validation", "test", "against plain", "p (users)", "p (seeds)", "views of their teachers", "s/epoch"]


def table(results: Mapping[str, Any]) -> str:
    """Return the table of a study, its title included."""
    metric, winner = headline_metric(results), winner_name(results)
    reach = {(gap.contender, gap.modality): gap.reach for gap in gaps(results, metric)}
    lines = [
        f"## {results['settings']['backbone']} on {Path(results['data']['source']).stem}: {metric}",
        "",
        f"| {' | '.join(HEAD)} |",
        f"|{' --- |' * len(HEAD)}",
    ]
    for name in run_names(results):
        values = [run_values(results, name, metric, part) for part in ("val", "test")]
        cells = [spread_text(*mean_std(v), len(v)) if v else "–" for v in values]
        views = [f"{m} {percent(share)}" for (owner, m), share in reach.items() if owner == name]
        seconds = [r["seconds_per_epoch"] for r in results["runs"] if r["name"] == name and r["seconds_per_epoch"]]
        title = f"**{run_title(name)}**" if name == winner else run_title(name)
        row = [title, *cells, *against_plain(results, name, metric)]
        lines.append(f"| {' | '.join([*row, ', '.join(views), f'{mean(seconds):.2f}' if seconds else ''])} |")
    return "\n".join(lines)


def against_plain(results: Mapping[str, Any], name: str, metric: str) -> list[str]:
    """Return by how much a contender differs from plain training, and the corrected p-values over users and seeds."""
    if name == "plain" or name not in contender_names(results):
        return ["", "", ""]
    relative = run_mean(results, name, metric) / run_mean(results, "plain", metric) - 1
    tests = [comparison(results, name, "plain", metric, over) for over in ("users", "seeds")]
    return [percent(relative, 1, sign=True), *("–" if test is None else f"{p_holm(test):.3g}" for test in tests)]


def summary(studies: Sequence[Mapping[str, Any]]) -> str:
    """Return one table of several studies.

    A line holds the test metric of a run in every study and its difference from plain training, the weakest of its
    views as a share of the teacher, both means over seeds, and its epochs against those of plain training, mean over
    studies; what an epoch costs, ``python -m benchmarks strategies`` measures. Contenders are sorted by their mean
    difference; those that are not in all studies come last.
    """
    names = list(dict.fromkeys(name for study in studies for name in run_names(study)))
    titles = [f"{study['settings']['backbone']}, {Path(study['data']['source']).stem}" for study in studies]
    head = ["run", *titles, "mean difference", *(f"weakest view: {title}" for title in titles), "epochs / plain"]
    lines = [_summary_line(studies, name) for name in names if not name.startswith("teacher:")]
    lines.sort(key=lambda line: line[0])
    return "\n".join([f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *(text for _, text in lines)])


def _summary_line(studies: Sequence[Mapping[str, Any]], name: str) -> tuple[tuple[int, float], str]:
    cells, views, differences, costs, balanced_somewhere = [], [], [], [], False
    for study in studies:
        metric = headline_metric(study)
        if name not in run_names(study):
            cells.append("–")
            views.append("")
            continue
        value, plain = run_mean(study, name, metric), run_mean(study, PLAIN, metric)
        balanced = name != PLAIN and name in contender_names(study)
        balanced_somewhere |= balanced
        differences.append(value / plain - 1)
        against = f" ({percent(value / plain - 1, 1, sign=True)}{marks(study, name, metric)})" if balanced else ""
        cells.append(f"{value:.4f}{against}")
        reach = [gap.reach for gap in gaps(study, metric) if gap.contender == name]
        views.append(percent(min(reach)) if reach else "")
        epochs = {run: _epochs(study, run) for run in (name, PLAIN)}
        if balanced and all(epochs.values()):
            costs.append(epochs[name] / epochs[PLAIN])
    difference = percent(mean(differences), 1, sign=True) if balanced_somewhere else ""
    row = [run_title(name), *cells, difference, *views, f"{mean(costs):.1f}" if costs else ""]
    order = 2 if balanced_somewhere else int(name == PLAIN)
    if len(differences) < len(studies):
        order += 3
    return (order, -mean(differences) if order > 1 else 0.0), f"| {' | '.join(row)} |"


def _epochs(results: Mapping[str, Any], name: str) -> float:
    """Return the epochs that a run trained for, mean over seeds; zero if nothing was trained."""
    found = [run["epochs"] for run in results["runs"] if run["name"] == name and run["seconds_per_epoch"]]
    return mean(found) if found else 0.0


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--summary", action="store_true", help="one table for all studies")
    args = parser.parse_args()
    studies = [load_results(folder / "results.json") for folder in args.folders]
    print(summary(studies) if args.summary else "\n\n".join(table(study) for study in studies))


if __name__ == "__main__":
    main()
