import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_ckd.data import build_data
from pyg_ckd.data.splits import cold_start_split, k_core, leave_one_out_split, random_split, temporal_split
from pyg_ckd.errors import InputError

pair_sets = st.sets(st.tuples(st.integers(0, 7), st.integers(0, 9)), min_size=1, max_size=60)


def as_array(pairs) -> np.ndarray:
    return np.array(sorted(pairs), dtype=np.int64).T


def as_set(edges: np.ndarray) -> set[tuple[int, int]]:
    return set(zip(*edges.tolist(), strict=True))


@settings(deadline=None)
@given(pair_sets, st.integers(0, 5))
def test_random_split_is_a_partition_and_every_user_trains(pairs, seed):
    parts = random_split(as_array(pairs), (0.5, 0.25, 0.25), seed)
    assert sum(part.shape[1] for part in parts) == len(pairs)
    assert set.union(*map(as_set, parts)) == pairs
    assert {user for user, _ in as_set(parts[0])} == {user for user, _ in pairs}
    for part in parts:
        assert part.dtype == np.int64


@settings(deadline=None)
@given(pair_sets, st.integers(0, 5))
def test_random_split_of_each_user_is_within_one_of_the_ratios(pairs, seed):
    ratios = (0.6, 0.2, 0.2)
    parts = random_split(as_array(pairs), ratios, seed)
    for user in {user for user, _ in pairs}:
        total = sum(u == user for u, _ in pairs)
        for part, ratio in zip(parts, ratios, strict=True):
            assert abs((part[0] == user).sum() - ratio * total) <= 1


def test_random_split_meets_the_ratios_also_for_users_with_few_interactions():
    users = np.repeat(np.arange(20000), 4)
    parts = random_split(np.stack([users, np.tile(np.arange(4), 20000)]))
    shares = [part.shape[1] / users.size for part in parts]
    np.testing.assert_allclose(shares, (0.8, 0.1, 0.1), atol=0.01)


def test_random_split_depends_on_the_seed_alone():
    pairs = np.stack([np.repeat(np.arange(50), 10), np.tile(np.arange(10), 50)])
    first, again, other = (random_split(pairs, seed=seed)[2] for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@settings(deadline=None)
@given(pair_sets, st.data())
def test_leave_one_out_holds_out_the_last_two_of_each_user(pairs, data):
    edges = as_array(pairs)
    size = edges.shape[1]
    times = np.array(data.draw(st.lists(st.integers(0, 4), min_size=size, max_size=size)))
    train, val, test = map(as_set, leave_one_out_split(edges, times))
    for user in {user for user, _ in pairs}:
        rows = sorted((i for i in range(size) if edges[0, i] == user), key=lambda i: (times[i], i))
        mine = [(user, int(edges[1, i])) for i in rows]
        held_out = mine[-2:] if len(mine) >= 3 else []
        assert {p for p in val if p[0] == user} == set(held_out[:1])
        assert {p for p in test if p[0] == user} == set(held_out[1:])
        assert {p for p in train if p[0] == user} == set(mine) - set(held_out)


def test_leave_one_out_without_timestamps_is_random_and_seeded():
    pairs = np.stack([np.repeat(np.arange(50), 10), np.tile(np.arange(10), 50)])
    first, again, other = (leave_one_out_split(pairs, seed=seed)[2] for seed in (3, 3, 4))
    assert first.shape == (2, 50)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@settings(deadline=None)
@given(pair_sets, st.data())
def test_temporal_split_cuts_the_stable_order_of_time(pairs, data):
    edges = as_array(pairs)
    size = edges.shape[1]
    times = np.array(data.draw(st.lists(st.floats(0, 3), min_size=size, max_size=size)))
    order = sorted(range(size), key=lambda i: times[i])
    first, second = round(0.5 * size), round(0.75 * size)
    train, val, test = map(as_set, temporal_split(edges, times, (0.5, 0.25, 0.25)))
    expected = [
        {tuple(edges[:, i].tolist()) for i in part} for part in (order[:first], order[first:second], order[second:])
    ]
    assert [train, val, test] == expected


def test_dates_are_timestamps():
    edges = np.array([[0, 0, 0], [0, 1, 2]])
    dates = np.array(["2024-03-01", "2024-01-01", "2024-02-01"], dtype="datetime64[D]")
    assert leave_one_out_split(edges, dates)[2].tolist() == [[0], [0]]


@settings(deadline=None, max_examples=200)
@given(
    pair_sets, st.integers(0, 5), st.floats(0.05, 0.95), st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0, 0.5), (1, 0, 0)])
)
def test_cold_start_split_is_a_partition_in_which_a_share_of_the_items_has_no_training_interaction(
    pairs, seed, share, ratios
):
    items = {item for _, item in pairs}
    expected = round(share * len(items))
    if not 0 < expected < len(items):
        with pytest.raises(InputError, match=f"which makes {expected} of {len(items)} items cold"):
            cold_start_split(as_array(pairs), ratios, seed, share)
        return
    parts = [as_set(part) if part.size else set() for part in cold_start_split(as_array(pairs), ratios, seed, share)]
    assert set.union(*parts) == pairs
    assert sum(map(len, parts)) == len(pairs)
    train, val, test = ({item for _, item in part} for part in parts)
    chosen = items - train
    assert len(chosen) >= expected  # Warm items that no user trains with may come on top.
    assert ratios[1] > 0 or ratios == (1, 0, 0) or not val
    if ratios == (1, 0, 0):
        assert len(chosen) == expected
        assert val.isdisjoint(test)
        assert len(val) == round(expected / 2)
        assert {pair for part in parts[1:] for pair in part} == {pair for pair in pairs if pair[1] in chosen}


def test_cold_start_split_meets_the_shares_of_items_and_the_ratios_of_the_others():
    users, items = np.divmod(np.arange(200 * 100), 100)
    train, val, test = cold_start_split(np.stack([users, items]), (0.7, 0.2, 0.1), cold_share=0.3)
    cold = np.setdiff1d(items, train[1])
    assert cold.size == 30
    assert (np.isin(cold, val[1]).sum(), np.isin(cold, test[1]).sum()) == (20, 10)
    warm = [np.isin(part[1], cold, invert=True).sum() / (200 * 70) for part in (train, val, test)]
    np.testing.assert_allclose(warm, (0.7, 0.2, 0.1), atol=0.01)


def test_cold_start_split_depends_on_the_seed_alone():
    pairs = np.stack([np.repeat(np.arange(50), 10), np.tile(np.arange(10), 50)])
    first, again, other = (cold_start_split(pairs, seed=seed)[2] for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan"), 0.01])
def test_shares_that_leave_no_cold_or_no_warm_item_are_refused(share):
    with pytest.raises(InputError, match=r"cold_share is .* of 2 items cold, expected a share"):
        cold_start_split([[0, 0], [0, 1]], cold_share=share)


def brute_core(pairs: set, k: int, k_item: int) -> set:
    while True:
        kept = {
            (u, i) for u, i in pairs if sum(a == u for a, _ in pairs) >= k and sum(b == i for _, b in pairs) >= k_item
        }
        if kept == pairs:
            return kept
        pairs = kept


@settings(deadline=None)
@given(pair_sets, st.integers(1, 4), st.one_of(st.none(), st.integers(1, 4)))
def test_k_core_equals_the_brute_force_fixed_point(pairs, k, k_item):
    edges = as_array(pairs)
    expected = brute_core(pairs, k, k if k_item is None else k_item)
    if expected:
        assert as_set(edges[:, k_core(edges, k, k_item)]) == expected
        return
    larger = [n for n in range(1, k) if brute_core(pairs, n, n if k_item is None else k_item)]
    advice = f"the largest k that does is {max(larger)}" if larger else "no k does"
    with pytest.raises(InputError, match=f"k={k}.*leaves none of the {len(pairs)} interactions; {advice}"):
        k_core(edges, k, k_item)


@pytest.mark.parametrize(("k", "k_item"), [("3", None), (-1, None), (2.0, None), (1, "2"), (1, -1)])
def test_a_core_of_no_number_is_refused(k, k_item):
    with pytest.raises(InputError, match=r"k=.*, k_item=.*, expected integers of at least 0"):
        k_core([[0, 0], [0, 1]], k, k_item)


USERS, ITEMS = np.array([(u, i) for u in range(6) for i in range(6) if (u + 2 * i) % 3]).T
SPLITS = {
    "random": random_split,
    "leave one out": leave_one_out_split,
    "temporal": lambda pairs: temporal_split(pairs, ITEMS),
    "cold start": lambda pairs: cold_start_split(pairs, cold_share=0.4),
}
USER_IDS = {
    "rows": USERS,
    "thousands": USERS * 1000 + 5000,
    "beyond 32 bits": USERS * 10**9,
    "negative": USERS - 3,
    "beyond 63 bits": USERS.astype(np.uint64) + np.uint64(2**63),
    "nullable": pd.array(USERS + 7, dtype="Int64"),
}


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS.keys())
@pytest.mark.parametrize("users", USER_IDS.values(), ids=USER_IDS.keys())
def test_frames_of_integers_are_split_as_their_row_numbers_into_frames_with_all_columns(split, users):
    index = np.arange(USERS.size) + 100
    frame = pd.DataFrame({"rating": ITEMS % 5, "user": users, "item": ITEMS * 7}, index=index)
    for part, expected in zip(split(frame), split(np.stack([USERS, ITEMS])), strict=True):
        pd.testing.assert_frame_equal(part, frame.loc[part.index])
        assert np.array_equal(np.stack([USERS, ITEMS])[:, part.index - 100], expected)
    assert np.array_equal(k_core(frame, 4), k_core(np.stack([USERS, ITEMS]), 4))


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS.keys())
def test_parts_of_a_frame_of_integers_have_no_users_between_the_ids_and_keep_ratings(split):
    frame = pd.DataFrame({"user": USERS * 1000 + 5000, "item": ITEMS, "rating": 1 + (USERS + ITEMS) % 2 * 4})
    features = {"visual": np.eye(6), "textual": np.eye(6)[::-1]}
    train, val, test = split(frame)
    data = build_data(train, features, val=val, test=test, min_rating=4)
    assert data.user_id.tolist() == [5000, 6000, 7000, 8000, 9000, 10000]
    rates = data["user", "rates", "item"]
    kept = [rates[name].size(1) for name in ("edge_index", "val_edge_index", "test_edge_index")]
    assert kept == [int((part["rating"] >= 4).sum()) for part in (train, val, test)]


@pytest.mark.parametrize("ids", [USERS * 10, np.array([f"u{user}" for user in USERS])], ids=["integers", "text"])
def test_tables_of_arrow_are_split_as_frames(ids):
    frame = pd.DataFrame({"user": ids, "item": ITEMS, "price": ITEMS / 4})
    for part, expected in zip(random_split(pa.Table.from_pandas(frame)), random_split(frame), strict=True):
        pd.testing.assert_frame_equal(part, expected)
    assert k_core(pa.Table.from_pandas(frame), 1).all()


@pytest.mark.parametrize(
    "ratios",
    [(0.8, 0.1), (0.8, 0.1, 0.2), (1.2, -0.1, -0.1), (0, 0.5, 0.5), (float("nan"), 0, 1), "0.8,0.1,0.1", None, 0.8],
)
def test_ratios_that_are_no_shares_are_refused(ratios):
    with pytest.raises(InputError, match=r"ratios are .*expected three shares"):
        random_split([[0, 0], [0, 1]], ratios)


@pytest.mark.parametrize(
    ("timestamps", "pattern"),
    [
        ([1.0], r"timestamps are float64 of shape \[1\], expected 2 numbers or dates"),
        (["a", "b"], "2 timestamps are neither numbers nor dates, the first is 'a' in row 0"),
        ([0.0, np.nan], "1 timestamps are missing, first in row 1"),
        (np.array(["NaT", "2024-01-01"], "datetime64[D]"), "1 timestamps are missing, first in row 0"),
        (np.ma.masked_equal([5, -1], -1), "1 timestamps are missing, first in row 1"),
        (np.ma.masked_equal([5.0, -1.0], -1.0), "1 timestamps are missing, first in row 1"),
    ],
)
def test_bad_timestamps_are_refused(timestamps, pattern):
    with pytest.raises(InputError, match=pattern):
        temporal_split([[0, 0], [0, 1]], timestamps)


def test_bad_interactions_and_negative_k_are_refused():
    with pytest.raises(InputError, match=r"interactions has shape \[3, 2\]"):
        random_split([[0, 0], [0, 1], [1, 1]])
    with pytest.raises(InputError, match="k=-1"):
        k_core([[0], [0]], -1)


@pytest.mark.parametrize("kind", [np.int64, np.array, torch.tensor], ids=["int64", "array", "tensor"])
def test_integers_of_numpy_and_pytorch_are_integers(kind):
    pairs = np.array([(u, i) for u in range(4) for i in range(5)]).T
    for one, other in zip(random_split(pairs, seed=kind(3)), random_split(pairs, seed=3), strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(k_core(pairs, kind(4), kind(2)), k_core(pairs, 4, 2))
    with pytest.raises(InputError, match=r"split: seed is 3.0, expected an integer of at least 0"):
        random_split(pairs, seed=3.0)


@pytest.mark.parametrize("split", [leave_one_out_split, temporal_split])
@pytest.mark.parametrize("index", [[0, 1, 2, 3], ["d", "b", "a", "c"], [7, 7, 8, 9]])
def test_a_series_of_timestamps_in_another_order_than_the_frame_is_refused(split, index):
    frame = pd.DataFrame({"user": [1, 1, 1, 1], "item": [0, 1, 2, 3], "when": [4.0, 3.0, 2.0, 1.0]}, index=index)
    with pytest.raises(InputError, match=r"index of the interactions in another order, .*timestamps.loc\[interactions"):
        split(frame, frame["when"].sort_values())
    for when in (frame["when"], frame["when"].reset_index(drop=True).set_axis([10, 11, 12, 13]), [4, 3, 2, 1]):
        assert split(frame, when)[2]["item"].tolist() == ([0] if split is leave_one_out_split else [])


@pytest.mark.parametrize("dtype", ["Int64", "int64[pyarrow]"])
def test_labels_of_another_type_are_the_same_order(dtype):
    frame = pd.DataFrame({"user": [1, 1, 1], "item": [0, 1, 2]}, index=[5, 6, 7])
    when = pd.Series([1, 3, 2], index=pd.Index([5, 6, 7], dtype=dtype))
    assert leave_one_out_split(frame, when)[2]["item"].tolist() == [1]


def test_timestamps_taken_in_the_order_of_the_frame_are_those_of_its_rows():
    frame = pd.DataFrame({"user": [1, 1, 1], "item": [0, 1, 2]}, index=["b", "c", "a"])
    when = pd.Series([1, 2, 3], index=["a", "b", "c"])
    assert leave_one_out_split(frame, when.loc[frame.index])[2]["item"].tolist() == [1]
