"""Put the studies of several data sets and backbones into one Markdown table.

``python examples/results.py FOLDER...`` reads the ``results.json`` that ``pyg-ckd compare`` wrote to every folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pyg_ckd.evaluation.statistics import mean_std

METRIC = "recall@20"


def cell(results: dict[str, Any], name: str, part: str = "test") -> str:
    """Return mean and standard deviation over seeds of a run's metric."""
    values = [run[part][METRIC] for run in results["runs"] if run["name"] == name]
    return "{:.4f} ± {:.4f}".format(*mean_std(values)) if len(values) > 1 else f"{values[0]:.4f}"


def views(results: dict[str, Any], name: str) -> str:
    """Return the share of its teacher's test metric that every uni-modal view reaches, mean over seeds."""
    found = []
    for m in results["data"]["modalities"]:
        view = [run["views"][m][METRIC] for run in results["runs"] if run["name"] == name]
        teacher = [run["test"][METRIC] for run in results["runs"] if run["name"] == f"teacher:{m}"]
        found.append(f"{m} {sum(view) / sum(teacher):.0%}" if sum(teacher) else f"{m} –")
    return ", ".join(found)


def p_value(results: dict[str, Any], over: str) -> str:
    """Return the p-value of the paired test between distilled and plain student."""
    pairs = [c for c in results["comparisons"] if (c["a"], c["b"]) == ("ckd", "plain")]
    found = [c for c in pairs if c["metric"] == METRIC and c["over"] == over]
    return f"{found[0]['p_value']:.3g}" if found else "–"


def seconds(results: dict[str, Any]) -> str:
    """Return seconds per epoch of the plain and the distilled student, mean over seeds."""
    found = [[run["seconds_per_epoch"] for run in results["runs"] if run["name"] == name] for name in ("plain", "ckd")]
    return ", ".join(f"{mean_std(values)[0]:.2f}" for values in found)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    args = parser.parse_args()
    head = ["data", "backbone", "seeds", "popularity", "LightGCN", "plain", "CKD", "p (users)", "p (seeds)"]
    head += ["best teacher", "views of teacher, plain", "views of teacher, CKD", "s/epoch plain, CKD"]
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for folder in args.folders:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        names = [name for name in dict.fromkeys(run["name"] for run in results["runs"]) if name.startswith("teacher:")]
        best = max((cell(results, name) for name in names), default="–")
        row = [Path(results["data"]["source"]).stem, results["settings"]["backbone"], len(results["settings"]["seeds"])]
        row += [cell(results, name) for name in ("popularity", "lightgcn", "plain", "ckd")]
        row += [p_value(results, "users"), p_value(results, "seeds"), best]
        row += [views(results, "plain"), views(results, "ckd"), seconds(results)]
        print(f"| {' | '.join(map(str, row))} |")


if __name__ == "__main__":
    main()
