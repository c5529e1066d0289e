"""Labels of every type: which of them are likes, and when somebody has to say so."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from pyg_ckd.data import build_data
from pyg_ckd.data.feedback import liked
from pyg_ckd.datasets import load
from pyg_ckd.errors import InputError

LABELS = {
    "three": [1, -1, 0, 1],
    "truth": [True, False, False, True],
    "names of truth": ["True", "false", "FALSE", "true"],
    "fractions": [1.0, 0.0, 0.0, 1.0],
    "text": ["1", "0", "-1", "1.0"],
    "categories": pd.Categorical(["1", "0", "0", "1"]),
    "nullable": pd.array([1, 0, -1, 1], dtype="Int8"),
    "boolean": pd.array([True, False, False, True], dtype="boolean"),
}


def log(labels, name: str = "label") -> pd.DataFrame:
    return pd.DataFrame({"user": range(4), "item": range(4), name: labels})


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
@pytest.mark.parametrize("positive", [1, 1.0, "1", np.int64(1), torch.tensor(1), [1]], ids=repr)
def test_one_stands_for_likes_of_every_type(labels, positive):
    assert liked(log(labels), None, positive, "log").tolist() == [True, False, False, True]


@pytest.mark.parametrize("labels", [LABELS["truth"], LABELS["names of truth"], LABELS["three"]], ids=str)
@pytest.mark.parametrize("positive", [True, np.bool_(True), "true"], ids=repr)
def test_truth_stands_for_one(labels, positive):
    assert liked(log(labels), None, positive, "log").tolist() == [True, False, False, True]


def test_several_values_and_lowest_ratings_choose_among_negative_ones():
    assert liked(log([1, -1, 0, 1]), None, [0, 1], "log").tolist() == [True, False, True, True]
    assert liked(log([1, -1, 0, 1]), 0, None, "log").tolist() == [True, False, True, True]
    assert liked(log([1, -1, 0, 1]), None, -1, "log").tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    ("labels", "warned"),
    [
        ([1, 1, 1, 1], False),
        ([True] * 4, False),
        ([-1] * 4, True),
        ([False] * 4, True),
        (["false"] * 4, True),
        ([1, 0, -1, 1], True),
        ([1, None, None, 1], True),
        (["like", "skip", "like", "like"], True),
    ],
    ids=str,
)
def test_labels_that_may_be_no_likes_are_told(labels, warned):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        assert liked(log(labels), None, None, "log") is None
    assert [("log: the column 'label'" in str(w.message)) for w in said] == [True] * warned


def test_readers_take_truth_values(tmp_path):
    np.save(tmp_path / "visual.npy", np.eye(4))
    log([True, False, False, True], "liked").to_csv(tmp_path / "interactions.csv", index=False)
    assert load(tmp_path, positive=True)["user", "rates", "item"].edge_index[1].tolist() == [0, 3]


def test_a_missing_label_is_named_where_labels_choose():
    with pytest.raises(InputError, match=r"column 'label' holds .* in row 1 .*expected a value; fill or drop the row"):
        build_data(log([1, None, 0, 1]), {"visual": np.eye(4)}, positive=1)


@pytest.mark.parametrize(
    ("value", "mend"),
    [
        ("good", "if these are labels, choose them with positive=good"),
        ("4,5", "write 4.5"),
        (" -1,25 ", "write -1.25"),
        (None, "fill or drop the row"),
    ],
)
def test_a_rating_that_is_no_number_is_refused_with_how_to_mend_it(value, mend):
    with pytest.raises(InputError, match=rf"in row 1 .*, expected a number; {mend}$"):
        build_data(log([5, value, 4, 1], "rating"), {"visual": np.eye(4)}, min_rating=3)


@pytest.mark.parametrize(("values", "option"), [(["good", "bad"] * 2, "positive"), (["4", "5"] * 2, "min_rating")])
def test_unused_ratings_of_words_are_chosen_with_positive(values, option):
    with pytest.warns(UserWarning, match=f"the column 'rating' .* choose with {option}=, or drop the column"):
        assert liked(log(values, "rating"), None, None, "log") is None


@pytest.mark.parametrize("names", [("Rating", "rating"), ("rating:float", "rating"), ("Label", "LABEL")])
def test_columns_of_parts_that_only_differ_in_case_are_one_column(names):
    train, val = log([1, 1, 1, 1], names[0]), log([1, 1, 1, 1], names[1]).assign(item=[1, 2, 3, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_data(train, {"visual": np.eye(4)}, val=val)
    with pytest.warns(UserWarning, match=rf"the column '{names[0]}' \(0 4x, 1 4x\) is not used") as said:
        build_data(train, {"visual": np.eye(4)}, val=val.assign(**{names[1]: 0}))
    assert len(said) == 1


def test_rows_that_are_no_likes_need_no_ids():
    frame = pd.DataFrame({"user": ["a", "b", None, "c"], "item": [0, 1, 2, 0], "rating": [5, 5, 1, 5]})
    data = build_data(frame, {"visual": np.eye(3)}, min_rating=3)
    assert data.user_id == ["a", "b", "c"]
    frame.loc[3, "user"] = None
    with pytest.raises(InputError, match="train, column 'user' has 1 rows without an id, the first is row 3 "):
        build_data(frame, {"visual": np.eye(3)}, min_rating=3)
    frame["user"] = [0.0, 1.0, 2.0, 3.5]
    with pytest.raises(InputError, match=r"train, column 'user' .* found 3\.5 in row 3 "):
        build_data(frame, {"visual": np.eye(3)}, min_rating=3)


LISTS = {
    "lists": [[1], [2, 3]],
    "arrays": [np.array([1]), np.array([2, 3])],
    "one array": [np.array([1, 2]), ""],
    "dicts": [{"a": 1}, {}],
    "arrow": pd.array([[1], [2, 3]], dtype=pd.ArrowDtype(pa.list_(pa.int64()))),
}


@pytest.mark.parametrize("values", LISTS.values(), ids=LISTS.keys())
@pytest.mark.parametrize("name", ["label", "rating"])
def test_lists_are_no_feedback(name, values):
    frame = pd.DataFrame({"user": [0, 1], "item": [0, 1]}).assign(**{name: pd.Series(values)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert liked(frame, None, None, "x") is None
    for options in ((4, None), (None, 1)):
        with pytest.raises(InputError, match=f"x: column '{name}' holds .* in row 0 .*, expected a single value; fill"):
            liked(frame, *options, "x")
