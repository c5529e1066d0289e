"""What runs say about each other, against SciPy and by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pyg_ckd.errors import InputError
from pyg_ckd.evaluation.statistics import holm
from pyg_ckd.study.comparisons import compare, mean_effects, winner

METRIC = "recall@5"
NAMES = ["plain", "first", "second", "third"]


def problem(seeds: int, users: int = 30):
    """Return records and tables of users of four contenders and two baselines, one of which has a single run."""
    rng = np.random.default_rng(seeds)
    tables = {}
    for number, name in enumerate([*NAMES, "lightgcn", "item-knn"]):
        for seed in range(1 if name == "item-knn" else seeds):
            values = rng.normal(0.1 * number, 0.5, users)
            tables[name, seed] = pd.DataFrame({METRIC: values}, index=pd.Index(range(users), name="user"))
    records = [
        {"name": name, "seed": seed, "test": {METRIC: float(table[METRIC].mean())}, "val": {METRIC: 0.5}}
        for (name, seed), table in tables.items()
    ]
    return records, tables


def compared(seeds: int, users: int = 30):
    records, tables = problem(seeds, users)
    found = compare(records, NAMES, ["lightgcn", "item-knn"], [METRIC], lambda name, seed: tables[name, seed])
    return {(item["a"], item["b"], item["over"]): item for item in found}, tables


def test_every_contender_is_tested_against_plain_and_every_baseline_over_users_and_seeds():
    found, tables = compared(seeds=3)
    against_plain = {(a, "plain", over) for a in NAMES[1:] for over in ("users", "seeds")}
    against_lightgcn = {(a, "lightgcn", over) for a in NAMES for over in ("users", "seeds")}
    assert found.keys() == against_plain | against_lightgcn | {(a, "item-knn", "users") for a in NAMES}
    mean = {
        name: np.mean([table[METRIC] for (other, _), table in tables.items() if other == name], axis=0)
        for name in (*NAMES, "lightgcn", "item-knn")
    }
    seeds = {name: [tables[name, seed][METRIC].mean() for seed in range(3)] for name in (*NAMES, "lightgcn")}
    for (a, b, over), item in found.items():
        expected = stats.ttest_rel(*((mean[a], mean[b]) if over == "users" else (seeds[a], seeds[b])))
        assert item["p_value"] == pytest.approx(expected.pvalue, abs=1e-12)
        assert item["difference"] == pytest.approx(mean[a].mean() - mean[b].mean(), abs=1e-12)
        assert item["num"] == (30 if over == "users" else 3)


def test_p_values_are_corrected_among_all_that_are_compared_with_the_same():
    found, _ = compared(seeds=3)
    for b, over in {(b, over) for _, b, over in found}:
        family = {a: item for (a, other, of), item in found.items() if (other, of) == (b, over)}
        for item in family.values():
            # Holm, from its definition: the largest of all that stand at or before this one in order.
            before = sorted(other["p_value"] for other in family.values() if other["p_value"] <= item["p_value"])
            expected = max(min(1.0, (len(family) - rank) * p) for rank, p in enumerate(before))
            assert item["p_holm"] == pytest.approx(expected, abs=1e-15)
            assert item["p_holm"] >= item["p_value"]


def test_teachers_are_families_of_their_own_which_change_no_other_p_value():
    records, tables = problem(seeds=3)
    rng = np.random.default_rng(7)
    teachers = ["teacher:a", "teacher:b"]
    for name in teachers:
        for seed in range(3):
            values = rng.normal(0.3, 0.5, 30)
            tables[name, seed] = pd.DataFrame({METRIC: values}, index=pd.Index(range(30), name="user"))
            records.append({"name": name, "seed": seed, "test": {METRIC: float(values.mean())}})
    place = (records, NAMES, ["lightgcn", "item-knn"], [METRIC], lambda name, seed: tables[name, seed])
    before, found = compare(*place), compare(*place, teachers)
    assert [test for test in found if test["b"] not in teachers] == before
    added = [test for test in found if test["b"] in teachers]
    assert {(t["a"], t["b"], t["over"]) for t in added} == {
        (a, b, over) for a in NAMES for b in teachers for over in ("users", "seeds")
    }
    for test in added:
        first, second = (np.stack([tables[test[n], seed][METRIC] for seed in range(3)]) for n in ("a", "b"))
        axis = 0 if test["over"] == "users" else 1
        assert test["p_value"] == pytest.approx(stats.ttest_rel(first.mean(axis), second.mean(axis)).pvalue, abs=1e-12)
        family = sorted(t["p_value"] for t in added if (t["a"], t["over"]) == (test["a"], test["over"]))
        smaller, larger = min(1.0, 2 * family[0]), family[1]
        assert test["p_holm"] == pytest.approx(smaller if test["p_value"] == family[0] else max(smaller, larger))


def test_one_seed_and_one_user_are_not_compared():
    assert {over for _, _, over in compared(seeds=1)[0]} == {"users"}
    assert {over for _, _, over in compared(seeds=2, users=1)[0]} == {"seeds"}


def test_holm_agrees_with_a_computation_by_hand():
    # Four p-values: 4 * 0.005, 3 * 0.01, 2 * 0.03, and 1 * 0.04, which may not fall below the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    for wrong in (1.5, float("nan")):
        with pytest.raises(InputError, match=r"found .* at p_values\[1\], expected numbers from 0 to 1"):
            holm([0.5, wrong])


def test_the_winner_is_chosen_on_validation_whatever_the_test_part_says():
    rows = [("plain", 0, 0.3, 0.9), ("a", 0, 0.5, 0.1), ("b", 0, 0.2, 1.0), ("a", 1, 0.4, 0.2), ("plain", 1, 0.4, 0.9)]
    rows += [("b", 1, 0.2, 1.0)]
    records = [{"name": n, "seed": s, "val": {METRIC: v}, "test": {METRIC: t}} for n, s, v, t in rows]
    expected = {"name": "a", "metric": METRIC, "val": pytest.approx(0.45), "test": pytest.approx(0.15)}
    assert winner(records, ["plain", "a", "b"], METRIC) == expected
    even = [{**record, "val": {METRIC: 0.5}} for record in records]
    assert winner(even, ["plain", "a", "b"], METRIC)["name"] == "plain"


def test_effects_are_means_over_seeds_with_the_weakest_modality_first():
    def record(visual: float, textual: float | None):
        return {
            "effects": {"5": {"textual": {"effect": textual, "low": 1.0}, "visual": {"effect": visual, "low": 2.0}}}
        }

    found = mean_effects([record(0.1, 0.6), record(0.3, 0.8)], 5)
    assert list(found) == ["visual", "textual"]
    assert found == {"visual": {"mean": pytest.approx(0.2), "low": 2.0}, "textual": {"mean": 0.7, "low": 1.0}}
