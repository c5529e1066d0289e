"""Put all runs of studies into Markdown tables, one for each study: baselines, teachers and contenders.

``python -m examples.contenders FOLDER...`` reads the ``results.json`` that ``pyg-ckd compare`` wrote to each. Those
of ``docs/results/yardsticks.md`` were made with it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from pyg_ckd.evaluation.statistics import mean_std
from pyg_ckd.study.formats import load_results
from pyg_ckd.study.results import (
    comparison,
    contender_names,
    gaps,
    headline_metric,
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


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    print("\n\n".join(table(load_results(folder / "results.json")) for folder in parser.parse_args().folders))


if __name__ == "__main__":
    main()
