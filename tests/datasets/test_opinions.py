"""Somebody who rates an item again has one opinion of it: the one that ``keep`` names, by time, before it is a like."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from pyg_ckd.data import RATES, build_data
from pyg_ckd.data.opinions import chosen
from pyg_ckd.datasets import load
from pyg_ckd.datasets.tables import as_timestamps
from pyg_ckd.errors import InputError
from tests.datasets.amazon_files import FIELDS, reviews, write_lines
from tests.datasets.test_amazon import amazon, interactions
from tests.datasets.test_files_as_they_are import features, inter, lines, pairs, table

USERS, ITEMS = 6, 7
LIKES = [(u, i) for u in range(USERS) for i in range(ITEMS) if (u + i) % 2]
CHANGED = (0, 2)
"""A pair that is rated twice: 5 first, 1 later."""
FORMATS = ["frames", "folder", "parts", "recbole", "mmrec"]


def read(path: Path, format: str, rows: list[tuple], header: str, **options) -> set[tuple[str, str]]:
    """Return the interactions of rows (user, item, rating, ...), read in a format, as texts."""
    frame = pd.DataFrame(rows, columns=header.split(","))
    if format == "frames":
        x = {m: np.random.default_rng(0).normal(size=(ITEMS, 4)) for m in ("visual", "textual")}
        data = build_data(frame, x, item_id=list(range(ITEMS)), **options)
    elif format == "recbole":
        typed = (
            header.replace("user", "user_id:token").replace("item", "item_id:token").replace("rating", "rating:float")
        )
        inter(path, lines(rows, "\t", typed.replace("timestamp", "timestamp:float")))
        data = load(path, split="random", ratios=(1, 0, 0), **options)
    elif format == "mmrec":
        named = header.replace("user", "userID").replace("item", "itemID") + ",x_label"
        data = load(inter(path, lines([(*row, 0) for row in rows], "\t", named)), **options)
    elif format == "parts":
        data = load(table(path, lines(rows, header=header), "train.csv"), **options)
    else:
        data = load(table(path, lines(rows, header=header)), split="random", ratios=(1, 0, 0), **options)
    return {(str(u), str(i)) for u, i in pairs(data)}


def as_texts(rows) -> set[tuple[str, str]]:
    return {(str(u), str(i)) for u, i in rows}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("option", [{"min_rating": 3}, {"positive": 5}], ids=["rating", "label"])
def test_a_like_that_was_taken_back_is_none(tmp_path, format, timed, option):
    rows = [(*CHANGED, 5, 10), *((u, i, 5, 20) for u, i in LIKES), (*CHANGED, 1, 30)]
    header = "user,item,rating,timestamp"
    if timed:
        rows.reverse()  # So that rows say the opposite.
    else:
        rows, header = [row[:3] for row in rows], "user,item,rating"
    for keep, expected in (("last", LIKES), ("first", [*LIKES, CHANGED])):
        assert read(tmp_path / keep, format, rows, header, keep=keep, **option) == as_texts(expected)


@pytest.mark.parametrize("format", FORMATS)
def test_without_keep_one_like_of_several_opinions_is_enough(tmp_path, format):
    rows = [(*CHANGED, 5), *((u, i, 5) for u, i in LIKES), (*CHANGED, 1)]
    assert read(tmp_path / "a", format, rows, "user,item,rating", min_rating=3) == as_texts([*LIKES, CHANGED])
    with pytest.raises(InputError, match="duplicate"):
        read(tmp_path / "b", format, [*rows, (*CHANGED, 4)], "user,item,rating", min_rating=3)


@pytest.mark.parametrize("format", FORMATS)
def test_equal_times_follow_each_other_by_row(tmp_path, format):
    rows = [(*CHANGED, 5, 7), *((u, i, 5, 7) for u, i in LIKES), (*CHANGED, 1, 7)]
    header = "user,item,rating,timestamp"
    assert read(tmp_path / "a", format, rows, header, keep="last", min_rating=3) == as_texts(LIKES)


@pytest.mark.parametrize("format", ["folder", "recbole", "frames"])
def test_a_time_that_cannot_be_read_is_named(tmp_path, format):
    rows = [(*CHANGED, 5, "soon"), *((u, i, 5, "2024-01-01") for u, i in LIKES), (*CHANGED, 1, "2024-01-02")]
    with pytest.raises(InputError, match=r"timestamp.*'soon' in row 0") as error:
        read(tmp_path / "a", format, rows, "user,item,rating,timestamp", keep="last", min_rating=3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("format", ["folder", "parts"])
def test_a_time_that_is_missing_is_named_with_what_it_is_for(tmp_path, format):
    rows = [*((u, i, 20) for u, i in LIKES[1:]), (*LIKES[0], "")]
    with pytest.raises(
        InputError, match=r"column 'timestamp' has 1 missing .* or drop the column: keep='last' then goes by row"
    ):
        read(tmp_path, format, rows, "user,item,timestamp", keep="last")


def test_numbers_are_not_counted_as_times_that_cannot_be_read():
    with pytest.raises(
        InputError, match=r"has 1 values that are neither numbers nor dates, the first is 'soon' in row 1"
    ):
        as_timestamps(pd.Series(["20", "soon", "30"], name="timestamp"))


def test_entries_of_matrices_that_are_there_again_go_by_their_order(tmp_path):
    rows = np.array([(*CHANGED, 5), *((u, i, 5) for u, i in LIKES), (*CHANGED, 1)])
    matrix = scipy.sparse.coo_matrix((rows[:, 2].astype(float), (rows[:, 0], rows[:, 1])), shape=(USERS, ITEMS))
    folder = features(tmp_path / "d", "_feat.npy", ("image", "text"))
    (folder / "trnMat.pkl").write_bytes(pickle.dumps(matrix))
    for keep, expected in (("last", LIKES), ("first", [*LIKES, CHANGED])):
        assert pairs(load(folder, keep=keep, min_rating=3)) == sorted(expected)


def test_a_later_split_is_later_whatever_the_times_say():
    x = {"visual": np.eye(3)}
    train = pd.DataFrame({"user": [0, 0, 1], "item": [0, 1, 1], "rating": [5, 5, 5], "timestamp": [9, 9, 9]})
    val = pd.DataFrame({"user": [0, 1], "item": [1, 2], "rating": [1, 5], "timestamp": [1, 1]})
    data = build_data(train, x, val=val, keep="last", min_rating=3)
    assert (data[RATES].edge_index.tolist(), data[RATES].val_edge_index.tolist()) == ([[0, 1], [0, 1]], [[1], [2]])
    data = build_data(train, x, val=val, keep="first", min_rating=3)
    assert (data[RATES].edge_index.tolist(), data[RATES].val_edge_index.tolist()) == (
        [[0, 0, 1], [0, 1, 1]],
        [[1], [2]],
    )


def test_interactions_that_are_no_likes_need_no_ids_here_either():
    frame = pd.DataFrame(
        {"user": ["a", None, None, "a", "b"], "item": ["x", "x", "x", "y", "y"], "rating": [5, 1, 1, 5, 5]}
    )
    features = {"visual": pd.DataFrame(np.eye(2), index=["x", "y"])}
    data = build_data(frame, features, keep="last", min_rating=3)
    assert data[RATES].edge_index.tolist() == [[0, 0, 1], [0, 1, 1]]


def test_the_earliest_review_counts_with_its_stars(tmp_path):
    from tests.datasets.amazon_files import ITEMS as PRODUCTS
    from tests.datasets.amazon_files import USERS as PEOPLE
    from tests.datasets.amazon_files import write_edition

    files = write_edition(tmp_path / "files", "2014")
    name = next(file for file in files.iterdir() if "5.json" in file.name)
    triples = [(u, i, 100) for u in PEOPLE for i in PRODUCTS]
    twice = PEOPLE[0], PRODUCTS[0]
    rows = reviews("2014", [(*twice, 50), *triples])
    rows[0]["overall"] = 1.0
    write_lines(name, rows)
    assert FIELDS["2014"][0] in rows[0]
    data = amazon(tmp_path, "2014", files=files, k_core=0, min_rating=3)
    assert interactions(data) == {(u, i) for u, i, _ in triples} - {twice}


@pytest.mark.parametrize("keep", ["first", "last"])
@pytest.mark.parametrize("seed", range(3))
def test_what_stays_is_what_a_loop_keeps(keep, seed):
    rng = np.random.default_rng(seed)
    found, times, part = rng.integers(0, 4, (2, 60)), rng.integers(0, 5, 60), rng.integers(0, 2, 60)
    best: dict[tuple, tuple] = {}
    for row, pair in enumerate(zip(*found.tolist(), strict=True)):
        key = (part[row], times[row], row)
        if pair not in best or (key > best[pair]) == (keep == "last"):
            best[pair] = key
    expected = sorted(key[2] for key in best.values())
    assert np.flatnonzero(chosen(found, keep, times, part)).tolist() == expected
    assert torch.from_numpy(chosen(found, keep)).sum() == len(best)
