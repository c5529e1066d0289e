"""What the runs of a study say about each other: paired tests, mean effects, and who is ahead on validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyg_ckd.evaluation.statistics import holm, mean_std, paired_test
from pyg_ckd.study.settings import REFERENCE

if TYPE_CHECKING:
    import pandas as pd

Records = Sequence[Mapping[str, Any]]


def compare(
    records: Records,
    contenders: Sequence[str],
    baselines: Sequence[str],
    metrics: Sequence[str],
    per_user: Callable[[str, int], pd.DataFrame],
) -> list[dict[str, Any]]:
    """Compare every contender with plain training, and every contender with every baseline.

    Over users, each value is a user's mean over seeds; over seeds, it is a seed's mean over users. What has one run
    whatever the seed is not compared over seeds. P-values are corrected within a family: all comparisons with the same
    run, on the same metric, over the same.

    Args:
        records: The runs' records.
        contenders: Names of the contenders.
        baselines: Names of the baselines.
        metrics: The metrics that are compared.
        per_user: Returns the test metrics of every user, of a run by name and seed.
    """
    seeds: dict[str, list[int]] = {}
    for record in records:
        seeds.setdefault(record["name"], []).append(record["seed"])
    value = {(record["name"], record["seed"]): record["test"] for record in records}
    names = [*contenders, *baselines]
    users = {name: _mean_over_seeds([per_user(name, seed) for seed in seeds[name]], metrics) for name in names}

    found: list[dict[str, Any]] = []
    for b in (REFERENCE, *baselines):
        rivals = [name for name in contenders if name != b]
        for metric in metrics:
            over_users = [] if len(users[b]) < 2 else [(a, users[a][metric], users[b][metric]) for a in rivals]
            over_seeds = []
            if len(seeds[b]) > 1:
                columns = {n: [value[n, seed][metric] for seed in seeds[b]] for n in (b, *rivals)}
                over_seeds = [(a, columns[a], columns[b]) for a in rivals]
            for over, pairs in (("users", over_users), ("seeds", over_seeds)):
                family = [
                    {"a": a, "b": b, "metric": metric, "over": over, **vars(paired_test(x, y))} for a, x, y in pairs
                ]
                for item, corrected in zip(family, holm([item["p_value"] for item in family]), strict=True):
                    found.append({**item, "p_holm": corrected})
    return found


def mean_effects(records: Records, cutoff: int) -> dict[str, dict[str, float]]:
    """Return the effects of a contender's modalities, mean over seeds, the weakest modality first.

    Args:
        records: The contender's records.
        cutoff: Cut-off of the recalls among them.
    """
    tables = [record["effects"][str(cutoff)] for record in records]
    found: dict[str, dict[str, float]] = {}
    for m in tables[0]:
        columns = [c for c in tables[0][m] if all(c in table[m] for table in tables)]
        mean = {c: sum(_number(table[m][c]) for table in tables) / len(tables) for c in columns}
        found[m] = {"mean" if c == "effect" else c: v for c, v in mean.items()}
    return dict(sorted(found.items(), key=lambda item: item[1]["mean"]))


def winner(records: Records, contenders: Sequence[str], metric: str) -> dict[str, Any]:
    """Return the contender that is best on validation, and what it reaches there and on the test part.

    The choice reads the validation part alone; of contenders that are equal there, the first one is taken.

    Args:
        records: The runs' records.
        contenders: Names of the contenders.
        metric: The metric that decides.
    """

    def mean(name: str, part: str) -> float:
        return mean_std([record[part][metric] for record in records if record["name"] == name])[0]

    name = max(contenders, key=lambda contender: mean(contender, "val"))
    return {"name": name, "metric": metric, "val": mean(name, "val"), "test": mean(name, "test")}


def _mean_over_seeds(tables: Sequence[pd.DataFrame], metrics: Sequence[str]) -> pd.DataFrame:
    total = tables[0][list(metrics)]
    for table in tables[1:]:
        total = total + table[list(metrics)]
    return total / len(tables)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
