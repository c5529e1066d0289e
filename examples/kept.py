"""Keep what finished runs of studies found in one small file, whatever is finished yet, and put it into a table.

``python -m examples.kept add FILE RUNS`` adds the runs in a folder of runs, such as ``study/runs``, to ``FILE``: their
metrics, and the hits of every user. Runs of one name, backbone and seed replace those that were there, so that a study
that takes days is kept in parts. ``python -m examples.kept show FILE...`` prints a line for each contender: for every
file its test metric, the difference from plain training over the seeds that both have, in how many of them it is ahead,
and the lowest share of a teacher's metric that one of its views reaches. Those of ``docs/results/runs`` make columns
of ``docs/results/strategies.md``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd

from pyg_ckd.errors import InputError
from pyg_ckd.evaluation.statistics import holm, paired_test
from pyg_ckd.files import atomic_path
from pyg_ckd.study.formats import PLAIN, TEACHER
from pyg_ckd.study.store import cutoffs_of
from pyg_ckd.study.text import percent

CUTOFF = 20
METRIC = f"recall@{CUTOFF}"
SIGNIFICANT = 0.05


@dataclass
class Kept:
    """What a run found.

    Attributes:
        about: Its name, kind, backbone, seed, epochs, validation and test metric and those of its views.
        users: Ids of the users that were ranked for, int64 ``[U]``.
        held: Test items of each, uint16 ``[U]``; 1 for users of whom no run found any.
        hits: Found test items of each among the first twenty, uint8 ``[U]``.
    """

    about: dict[str, Any]
    users: np.ndarray
    held: np.ndarray
    hits: np.ndarray

    @property
    def recall(self) -> np.ndarray:
        """Recall of every user."""
        return self.hits / self.held


def read_runs(folder: Path) -> Iterable[Kept]:
    """Yield the finished runs of a folder of runs that have been tested.

    Args:
        folder: The folder.
    """
    for path in sorted(folder.glob("*/run.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if METRIC not in record.get("test", {}):
            continue
        largest = max(cutoffs_of(record["test"]))
        tables = [path.with_name(name) for name in (f"per_user-{largest}.csv", "per_user.csv")]  # The second is older.
        table = next((found for found in tables if found.exists()), None)
        if table is None:
            continue
        users = pd.read_csv(table)
        hits = np.rint(users[f"precision@{CUTOFF}"].to_numpy() * CUTOFF).astype(np.uint8)
        recall = users[METRIC].to_numpy()
        held = np.rint(np.divide(hits, recall, out=np.ones(len(users)), where=hits > 0)).astype(np.uint16)
        about = {key: record[key] for key in ("name", "kind", "backbone", "seed", "epochs")}
        about |= {"val": record["val"].get(METRIC), "test": record["test"][METRIC]}
        about["views"] = {m: view[METRIC] for m, view in (record.get("views") or {}).items()}
        yield Kept(about, users["user"].to_numpy(), held, hits)


def load(file: Path) -> list[Kept]:
    """Return the runs of a file.

    Args:
        file: The file.
    """
    with np.load(file, allow_pickle=False) as content:
        users, held, about = content["users"], content["held"], json.loads(str(content["about"]))
        return [Kept(one, users, held, hits) for one, hits in zip(about, content["hits"], strict=True)]


def add(file: Path, runs: Iterable[Kept]) -> int:
    """Add runs to a file, which is made if need be, and return how many there are then.

    Args:
        file: The file.
        runs: The runs, all for the same users.

    Raises:
        InputError: If runs are of different users, or there are none.
    """
    found = {key(run): run for run in [*(load(file) if file.exists() else ()), *runs]}
    kept = [found[k] for k in sorted(found)]
    if not kept:
        raise InputError(f"{file}: found no finished run with a test part, so nothing was kept")
    if any(not np.array_equal(run.users, kept[0].users) for run in kept):
        raise InputError(
            f"{file}: found runs of other users, expected those of one data set; keep each in its own file"
        )
    content = {
        "about": np.array(json.dumps([run.about for run in kept])),
        "users": kept[0].users,
        "held": np.max([run.held for run in kept], axis=0),
        "hits": np.stack([run.hits for run in kept]),
    }
    with atomic_path(file) as temporary, temporary.open("wb") as target:
        np.savez_compressed(target, **content)
    return len(kept)


def key(run: Kept) -> tuple[str, str, int]:
    """Return what tells runs of a file apart: backbone, name and seed."""
    return str(run.about["backbone"]), run.about["name"], run.about["seed"]


def column(runs: Sequence[Kept]) -> dict[str, dict[str, Any]]:
    """Return what a column says of each contender and baseline.

    Args:
        runs: The runs of one backbone and data set.
    """
    named: dict[str, dict[int, Kept]] = {}
    for run in runs:
        named.setdefault(run.about["name"], {})[run.about["seed"]] = run
    plain, found, p_values = named.get(PLAIN, {}), dict[str, dict[str, Any]](), dict[str, float]()
    for name, by_seed in named.items():
        if name.startswith(TEACHER):
            continue
        seeds = sorted(by_seed)
        found[name] = {"test": mean(by_seed[s].about["test"] for s in seeds), "weakest": weakest(by_seed, named)}
        shared = [s for s in seeds if s in plain and name != PLAIN and by_seed[s].about["kind"] == "contender"]
        if not shared:
            continue
        own, other = ([which[s] for s in shared] for which in (by_seed, plain))
        values = [[run.about["test"] for run in which] for which in (own, other)]
        found[name] |= {
            "test": mean(values[0]),
            "difference": mean(values[0]) / mean(values[1]) - 1,
            "ahead": f"{sum(a > b for a, b in zip(*values, strict=True))} of {len(shared)}",
            "epochs": mean(run.about["epochs"] for run in own) / mean(run.about["epochs"] for run in other),
        }
        tables = [np.mean([run.recall for run in which], axis=0) for which in (own, other)]
        p_values[name] = paired_test(*tables).p_value
    for name, p in zip(p_values, holm(list(p_values.values())), strict=True):
        found[name]["p"] = p
    return found


def weakest(by_seed: Mapping[int, Kept], named: Mapping[str, Mapping[int, Kept]]) -> float | None:
    """Return the lowest share of its teacher's metric that a view of a run reaches, mean over seeds."""
    shares: dict[str, list[float]] = {}
    for seed, run in by_seed.items():
        for modality, view in run.about["views"].items():
            teacher = named.get(TEACHER + modality, {}).get(seed)
            if teacher is not None:
                shares.setdefault(modality, []).append(view / teacher.about["test"])
    return min(map(mean, shares.values())) if shares else None


def table(files: Sequence[Path]) -> str:
    """Return the table of several files as Markdown; contenders in the order of their mean difference.

    Args:
        files: The files.
    """
    columns = [column(load(file)) for file in files]
    names = list(dict.fromkeys(name for found in columns for name in found))

    def order(name: str) -> tuple[bool, float]:
        differences = [found[name]["difference"] for found in columns if "difference" in found.get(name, {})]
        return bool(differences), -mean(differences) if differences else 0.0

    titles = [part for file in files for part in (file.stem.replace("_", ", "), "weakest view")]
    lines = [f"| run | {' | '.join(titles)} | epochs / plain |", f"|{' --- |' * (len(titles) + 2)}"]
    for name in sorted(names, key=order):
        cells = [part for found in columns for part in cell(found.get(name))]
        epochs = [found[name]["epochs"] for found in columns if "epochs" in found.get(name, {})]
        lines.append(f"| {name} | {' | '.join(cells)} | {f'{mean(epochs):.1f}' if epochs else ''} |")
    return "\n".join(lines)


def cell(entry: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return the texts of a run in a column: metric and difference, and the weakest view."""
    if entry is None:
        return "", ""
    view = "" if entry["weakest"] is None else percent(entry["weakest"])
    if "difference" not in entry:
        return f"{entry['test']:.4f}", view
    mark = "*" if entry["p"] < SIGNIFICANT else ""
    return f"{entry['test']:.4f} ({percent(entry['difference'], 1, sign=True)}{mark}; {entry['ahead']})", view


def main() -> None:
    """Keep runs or show what is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="add the runs of a folder to a file")
    adding.add_argument("file", type=Path)
    adding.add_argument("runs", type=Path)
    showing = commands.add_parser("show", help="print the table of files")
    showing.add_argument("files", nargs="+", type=Path)
    args = parser.parse_args()
    if args.command == "show":
        print(table(args.files))
    else:
        print(f"{args.file}: {add(args.file, read_runs(args.runs))} runs")


if __name__ == "__main__":
    main()
