"""What the runs of a study say about each other: paired tests, mean effects, and who is ahead on validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyg_ckd.evaluation.statistics import PairedTest, holm, mean_std, paired_test
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
    teachers: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Compare every contender with plain training, with every baseline and with every teacher.

    Over users, each value is a user's mean over seeds; over seeds, it is a seed's mean over users. What has one run
    whatever the seed is not compared over seeds. P-values are corrected within a family: all comparisons with the same
    run, on the same metric, over the same. The teachers that a contender is compared with are a family of their own.

    Args:
        records: The runs' records.
        contenders: Names of the contenders.
        baselines: Names of the baselines.
        metrics: The metrics that are compared.
        per_user: Returns the test metrics of every user, of a run by name and seed.
        teachers: Names of the teachers.
    """
    measured = _Measured(records, [*contenders, *baselines, *teachers], metrics, per_user)
    families = [[(a, b) for a in contenders if a != b] for b in (REFERENCE, *baselines)]
    families += [[(a, b) for b in teachers] for a in contenders]
    return [test for pairs in families for metric in metrics for test in measured.tests(pairs, metric)]


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


class _Measured:
    """The test metrics of runs: of every user the mean over seeds, and of every seed the mean over users."""

    def __init__(
        self,
        records: Records,
        names: Sequence[str],
        metrics: Sequence[str],
        per_user: Callable[[str, int], pd.DataFrame],
    ) -> None:
        self.seeds: dict[str, list[int]] = {}
        for record in records:
            self.seeds.setdefault(record["name"], []).append(record["seed"])
        self.value = {(record["name"], record["seed"]): record["test"] for record in records}
        self.users = {n: _mean_over_seeds([per_user(n, seed) for seed in self.seeds[n]], metrics) for n in names}

    def tests(self, pairs: Sequence[tuple[str, str]], metric: str) -> list[dict[str, Any]]:
        """Test the pairs of a family over users, then over seeds, each corrected for the number of pairs."""
        over_users = [(a, b) for a, b in pairs if len(self.users[b]) > 1]
        over_seeds = [(a, b) for a, b in pairs if len(self.seeds[b]) > 1]
        found = []
        for over, chosen in (("users", over_users), ("seeds", over_seeds)):
            family = [
                {"a": a, "b": b, "metric": metric, "over": over, **vars(self._test(a, b, metric, over))}
                for a, b in chosen
            ]
            corrected = holm([item["p_value"] for item in family])
            found += [{**item, "p_holm": p} for item, p in zip(family, corrected, strict=True)]
        return found

    def _test(self, a: str, b: str, metric: str, over: str) -> PairedTest:
        if over == "users":
            return paired_test(self.users[a][metric], self.users[b][metric])
        first, second = ([self.value[name, seed][metric] for seed in self.seeds[b]] for name in (a, b))
        return paired_test(first, second)


def _mean_over_seeds(tables: Sequence[pd.DataFrame], metrics: Sequence[str]) -> pd.DataFrame:
    total = tables[0][list(metrics)]
    for table in tables[1:]:
        total = total + table[list(metrics)]
    return total / len(tables)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
