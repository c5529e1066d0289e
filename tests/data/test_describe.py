"""The description of a data set: its numbers against loops and closed forms, and every flaw that it has to see."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from sklearn.neighbors import NearestNeighbors

from pyg_ckd.data import RATES, build_data, describe_data
from pyg_ckd.data.describe import effective_rank, neighbor_overlap
from pyg_ckd.errors import InputError

RNG = np.random.default_rng(0)
CLEAN = {"visual": RNG.normal(size=(60, 5)), "text": RNG.normal(size=(60, 4))}
PAIRS = np.stack(np.divmod(np.arange(0, 20 * 60, 3), 60))


def describe(train=PAIRS, features=None, **arguments):
    data = build_data(
        train, CLEAN | (features or {}), num_items=60, transform="none", impute="given", strict=False, **arguments
    )
    return describe_data(data, k=3)


def warned(description, start: str) -> list[str]:
    return [line for line in description.warnings if line.startswith(start)]


def test_a_clean_data_set_calls_for_nothing():
    pairs = np.stack(np.divmod(np.arange(0, 60 * 60, 3), 60))
    parts = pairs[:, ::2], pairs[:, 1::4], pairs[:, 3::4]
    train = np.concatenate([parts[0], [[0] * 60, np.arange(60)]], axis=1)
    train = np.unique(train, axis=1)
    keep = [part[:, part[0] > 0] for part in parts[1:]]
    assert describe(train, val=keep[0], test=keep[1]).warnings == []


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=40))
def test_interactions_are_counted_as_by_a_loop(rows):
    parts = {part: [(u, i) for u, i, place in rows if place == part] for part in range(3)}
    if not parts[0]:
        return
    edges = [np.array(parts[part], dtype=int).reshape(-1, 2).T for part in range(3)]
    data = build_data(
        edges[0], {"visual": np.eye(6)}, val=edges[1], test=edges[2], num_users=5, transform="none", strict=False
    )
    found = describe_data(data)
    users, items = {u for u, _ in parts[0]}, {i for _, i in parts[0]}
    for part, name in enumerate(("train", "val", "test")):
        pairs = parts[part]
        assert found.splits[name] == {
            "interactions": len(pairs),
            "users": len({u for u, _ in pairs}),
            "items": len({i for _, i in pairs}),
            "duplicates": len(pairs) - len(set(pairs)),
            "cold_users": len({u for u, _ in pairs} - users),
            "cold_items": len({i for _, i in pairs} - items),
        }
    assert found.degrees["user"].tolist() == [sum(u == n for u, _ in parts[0]) for n in range(5)]
    assert found.degrees["item"].tolist() == [sum(i == n for _, i in parts[0]) for n in range(6)]
    for (a, first), (b, second) in (((0, "train"), (1, "val")), ((0, "train"), (2, "test")), ((1, "val"), (2, "test"))):
        shared = sorted(set(parts[a]) & set(parts[b]))
        lines = warned(
            found, f"leakage: {second} shares {len(shared)} of its {len(parts[b])} interactions with {first},"
        )
        assert len(lines) == bool(shared)
        if shared:
            assert f"the first is user {shared[0][0]}, item {shared[0][1]};" in lines[0]


@pytest.mark.parametrize(("num", "shown"), [(1, "1 user"), (49, "49 users"), (50, None)])
def test_few_users_of_a_held_out_part_are_named(num, shown):
    users = np.arange(60)
    train, val, test = (np.stack([users, (users + step) % 60]) for step in range(3))
    few = describe(train, val=val[:, :num], test=test)
    expected = [f"few users: the choice of epochs and winners rests on {shown} of val; hold out more"]
    assert warned(few, "few users") == (expected if shown else [])
    few = describe(train, val=val, test=test[:, :num])
    assert warned(few, "few users") == (
        [f"few users: all comparisons rest on {shown} of test; hold out more"] if shown else []
    )


def test_cold_users_and_items_and_empty_splits_are_named():
    found = describe(PAIRS[:, PAIRS[0] > 0], test=np.array([[0, 1], [1, 2]]))
    assert warned(found, "cold users: 1 of 2 users of test")
    assert warned(found, "splits: val is empty")
    train = PAIRS[:, PAIRS[1] != 3]
    assert warned(describe(train, test=[[5], [3]]), "cold items: 1 of 1 items of test")


def test_flaws_of_features_are_counted():
    x = RNG.normal(size=(60, 6))
    x[:, 1], x[:, 4], x[:, 5] = 7.0, x[:, 0], x[:, 0]
    x[10], x[11], x[12] = x[13], x[13], x[14]
    x[20:23] = 0
    x[20:23, 1] = 0
    x[30], x[31, 2] = np.nan, np.inf
    has = np.ones(60, bool)
    has[30] = False
    found = describe(features={"visual": x}, has={"visual": has}).modalities["visual"]
    assert (found.dim, found.not_finite, found.zeros, found.identical) == (6, 1, 3, 5)
    assert found.constant == 0  # The zeros of three items make a second value.
    assert found.repeated == 2
    assert found.coverage == pytest.approx(59 / 60)
    x[20:23, 1] = 7.0
    again = describe(features={"visual": x}, has={"visual": has})
    assert (again.modalities["visual"].constant, again.modalities["visual"].zeros) == (1, 0)
    for line in (
        "coverage: visual: missing in 1 of 60 items",
        "not finite: visual: NaN or infinite in 1 of 60 items",
        "identical items: visual: as in another item in 8 of 60 items",
        "constant columns: visual: a single value in 1 of 6 columns",
        "duplicate columns: visual: the same as in another column in 2 of 6 columns",
    ):
        assert len(warned(again, line)) == 1, line


def test_quantiles_of_norms_and_deviations_are_those_of_numpy():
    about = describe().modalities["visual"]
    x = CLEAN["visual"].astype(np.float32).astype(np.float64)
    norm, std = np.linalg.norm(x, axis=1), x.std(axis=0)
    for found, values in ((about.row_norm, norm), (about.column_std, std)):
        for name, level in (("min", 0), ("5 %", 5), ("median", 50), ("95 %", 95), ("max", 100)):
            assert found[name] == pytest.approx(np.percentile(values, level), rel=1e-5)


def test_items_that_hold_most_of_the_variance_of_columns_are_named():
    x = RNG.normal(size=(60, 6))
    x[17, 2], x[3, 4] = 1e6, -40
    has = np.ones(60, bool)
    has[5] = False
    x[5] = 1e9
    found = describe(features={"visual": x}, has={"visual": has})
    square = np.delete((x - x[has].mean(axis=0)) ** 2, 5, axis=0).astype(np.float64)
    shares = square.max(axis=0) / square.sum(axis=0)
    outliers = found.modalities["visual"].outliers
    assert {column: row for column, (row, _) in outliers.items()} == {2: 17, 4: 3}
    assert [share for _, share in outliers.values()] == pytest.approx(shares[[2, 4]], abs=1e-6)
    (line,) = warned(found, "outliers: visual: a single item holds more than half of the variance in 2 of 6 columns, ")
    assert f"first item 17 with {100 * shares[2]:.1f} % in column 2; " in line


def test_outliers_of_features_read_in_blocks_are_named_by_their_item(monkeypatch):
    x = RNG.normal(size=(60, 6))
    x[41, 1] = 1e6
    monkeypatch.setattr("pyg_ckd.data.mapped.BLOCK", 42)
    assert list(describe(features={"visual": x}).modalities["visual"].outliers) == [1]
    assert describe(features={"visual": x}).modalities["visual"].outliers[1][0] == 41


def test_rare_tags_and_few_items_are_no_outliers():
    x = RNG.normal(size=(60, 4))
    x[:, 1:] = 0
    x[7, 1], x[8, 2], x[[9, 10], 3] = 1, -30, [5, 0.1]  # One item each, and a rare word.
    assert not describe(features={"tags": x}).modalities["tags"].outliers
    heavy = np.exp(5 * RNG.normal(size=(19, 5)))
    data = build_data(np.array([[0, 1], [0, 1]]), {"heavy": heavy}, num_users=2, num_items=19, transform="none")
    assert not describe_data(data, k=3).modalities["heavy"].outliers


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (lambda year: year[:, None], "the sign of its one column"),
        (lambda year: np.stack([year, year, year * 0], axis=1), "the sign of its one column"),
        (lambda year: np.stack([year, np.arange(60) % 7], axis=1), "the direction of its two columns"),
        (lambda year: np.stack([year, np.arange(60) % 7, np.arange(60) % 5], axis=1), None),
        (lambda year: (year > 1990).astype(float)[:, None], None),
        (lambda year: np.stack([year > 1990, year <= 1990], axis=1).astype(float), None),
        (lambda year: np.eye(4)[(year % 4).astype(int)], None),
    ],
    ids=["one", "one that varies", "two", "three", "a flag", "two flags", "one-hot"],
)
def test_numbers_in_one_or_two_columns_are_named(columns, found):
    year = 1950.0 + np.arange(60)
    lines = warned(describe(features={"year": columns(year)}), "few columns")
    assert len(lines) == (found is not None)
    assert all(
        f"few columns: year: nearest neighbours and kernels by the cosine see only {found}; " in x for x in lines
    )


def test_modalities_of_wildly_different_scales_are_named():
    assert not warned(describe(features={"text": 50 * CLEAN["text"]}), "scales")
    assert warned(describe(features={"text": 500 * CLEAN["text"]}), "scales: rows of text are ")


@pytest.mark.parametrize("shape", [(40, 6), (6, 40), (30, 30)])
def test_effective_rank_is_the_exponential_of_the_entropy_of_singular_values(shape):
    x = torch.from_numpy(RNG.normal(size=shape) * 2.0 ** np.arange(shape[1])[::-1] / 2.0 ** (shape[1] // 2))
    values = torch.linalg.svdvals(x - x.mean(dim=0))
    share = values / values.sum()
    expected = math.exp(-float((share * share.clamp(min=1e-300).log()).sum()))
    assert effective_rank(x) == pytest.approx(expected, rel=1e-5)


def test_effective_rank_of_known_matrices():
    directions = torch.cat([torch.eye(7), -torch.eye(7)])
    assert effective_rank(directions) == pytest.approx(7)
    assert effective_rank(1000 + torch.arange(9.0).view(-1, 1) * torch.ones(4)) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.full((5, 3), 0.1)) == 0.0


def test_overlap_of_neighbours_equals_that_of_scikit_learn():
    first, second = (torch.from_numpy(x) for x in CLEAN.values())
    near = []
    for x in (first, second):
        search = NearestNeighbors(n_neighbors=4, metric="cosine", algorithm="brute").fit(x)
        near.append([set(row) - {n} for n, row in enumerate(search.kneighbors(return_distance=False)[:, :3].tolist())])
    expected = np.mean([len(a & b) / 3 for a, b in zip(*near, strict=True)])
    assert neighbor_overlap(first, second, 3) == pytest.approx(expected)
    assert neighbor_overlap(first, 2 * first, 3) == 1.0


def test_modalities_that_say_the_same_agree_and_independent_ones_do_so_by_chance():
    (same,) = describe(features={"text": 3 * CLEAN["visual"] + 1}).agreement
    assert (same.first, same.second, same.overlap, same.items) == ("visual", "text", 1.0, 60)
    (other,) = describe().agreement
    assert other.chance == pytest.approx(3 / 59)
    assert other.overlap == pytest.approx(other.chance, abs=0.06)


def test_agreement_is_over_items_that_have_both_modalities():
    has = {"visual": np.arange(60) < 40, "text": np.arange(60) >= 10}
    (found,) = describe(has=has).agreement
    assert found.items == 30
    alone = {"visual": np.arange(60) < 1, "text": np.arange(60) >= 0}
    assert describe(has=alone).agreement == []


def test_large_catalogues_are_sampled_with_a_seed():
    data = build_data(PAIRS, CLEAN, num_items=60, transform="none")
    first, again, other = (describe_data(data, sample=20, seed=seed) for seed in (0, 0, 1))
    assert first.agreement[0].items == 20
    assert first.agreement == again.agreement
    assert first.modalities["visual"].effective_rank != other.modalities["visual"].effective_rank


def test_a_graph_is_described_as_it_is():
    data = build_data(PAIRS, CLEAN, num_items=60, transform="none")
    before = data[RATES].edge_index.clone(), data["item"].visual.clone()
    describe_data(data)
    assert torch.equal(data[RATES].edge_index, before[0])
    assert torch.equal(data["item"].visual, before[1])


@pytest.mark.parametrize("name", ["k", "sample"])
def test_sizes_that_are_not_positive_are_refused(name):
    data = build_data(PAIRS, CLEAN, num_items=60)
    with pytest.raises(InputError, match=f"describe: {name} is 0, expected a positive integer$"):
        describe_data(data, **{name: 0})


def test_interactions_of_32_bits_are_described_as_those_of_64():
    size = 70_000
    train, test = np.array([[0, 61_356], [0, 9]]), np.array([[61_356], [47_296]])  # 61356 * 70000 + 47296 is 2**32.
    features = {"visual": np.random.default_rng(0).normal(size=(size, 2)).astype(np.float32)}
    data = build_data(train, features, test=test, num_users=size)
    expected = describe_data(data, k=2, sample=20)
    for name in ("edge_index", "val_edge_index", "test_edge_index"):
        data[RATES][name] = data[RATES][name].int()
    found = describe_data(data, k=2, sample=20)
    assert found.splits == expected.splits
    assert found.warnings == expected.warnings
