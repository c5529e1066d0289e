"""Messages name the file and the row of a bad value, whatever was read before it and whatever was left out."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from pyg_ckd.data import build_data
from pyg_ckd.datasets import load
from pyg_ckd.errors import InputError

ROWS = [(u, i) for u in range(6) for i in range(6) if (u + 2 * i) % 3]
FEATURES = {m: np.random.default_rng(0).normal(size=(6, 4)) for m in ("visual", "textual")}


def folder(path: Path, files: dict[str, list], atomic: bool = False) -> Path:
    """Write tables, whose first row is the header, and features beside them."""
    path.mkdir()
    for name, rows in files.items():
        (path / name).write_text("".join(("\t" if atomic else ",").join(map(str, row)) + "\n" for row in rows))
    for m, stem in (("visual", "image_feat"), ("textual", "text_feat")):
        np.save(path / f"{stem if atomic else m}.npy", FEATURES[m])
    return path


def refuses(path: Path, file: str, words: str, **options) -> None:
    with pytest.raises(InputError) as error:
        load(path, **options)
    message = str(error.value)
    assert message.startswith(f"{path / file}: "), message
    assert words in message
    assert "\n" not in message


HEADER = ("user", "item")
RATED = ("user", "item", "rating")
PARTS = {
    "item": ([HEADER, (0, 3), (1, 99)], {}, "item 99 in row 1 is none of the 6 feature rows"),
    "item that is text": ([HEADER, (0, 3), (1, "B9")], {}, "'B9' in row 1, leaving open"),
    "rating": ([RATED, (0, 3, 1), (1, 0, "x")], {"min_rating": 1}, "'rating' holds 'x' in row 1 (rows count from zero"),
    "rating missing": ([RATED, (0, 3, 1), (1, 0, "")], {"min_rating": 1}, "'rating' holds nan in row 1"),
    "no rating": ([HEADER, (0, 3)], {"min_rating": 1}, "min_rating needs a column 'rating', as the others have"),
    "no label": ([HEADER, (0, 3)], {"positive": 1}, "positive needs a column 'rating', as the others have"),
}  # fmt: skip


@pytest.mark.parametrize(("test", "options", "words"), PARTS.values(), ids=PARTS.keys())
def test_the_file_of_a_bad_row_is_named_among_parts(tmp_path, test, options, words):
    train = [RATED, *((u, i, 1) for u, i in ROWS)]
    refuses(folder(tmp_path / "d", {"train.csv": train, "test.csv": test}), "test.csv", words, **options)


def test_an_unlisted_item_of_a_part_is_named(tmp_path):
    items = [("item",), *((i,) for i in range(6))]
    path = folder(
        tmp_path / "d", {"train.csv": [HEADER, *ROWS], "test.csv": [HEADER, (0, 3), (1, 99)], "items.csv": items}
    )
    refuses(path, "test.csv", "the first is 99 in row 1, but ids are like 0")


def test_repetition_over_parts_is_named_with_its_file(tmp_path):
    path = folder(tmp_path / "d", {"train.csv": [HEADER, *ROWS], "test.csv": [HEADER, (0, 3), ROWS[2]]})
    with pytest.raises(InputError, match=r"user 0, item 4 again in row 1 of test\.csv"):
        load(path)


TOKENS = ("user_id:token", "item_id:token", "rating:float")
ATOMIC = {
    "item": ([TOKENS, (0, 3, 1), (1, "x", 1)], {}, "'item_id:token' holds 'x' in row 1"),
    "listed item": ([TOKENS, (0, 3, 1), (1, 99, 1)], {"s.item": range(6)}, "holds '99' in row 1"),
    "listed user": ([TOKENS, (0, 3, 1), (77, 3, 1)], {"s.user": range(6)}, "holds '77' in row 1"),
    "rating": ([TOKENS, (0, 3, 1), (1, 0, "x")], {"min_rating": 1}, "'rating:float' holds 'x' in row 1"),
    "no rating": ([TOKENS[:2], (0, 3)], {"min_rating": 1}, "min_rating needs a column 'rating', as the others have, "
                  "but found user_id:token, item_id:token; add it"),
}  # fmt: skip


@pytest.mark.parametrize(("test", "options", "words"), ATOMIC.values(), ids=ATOMIC.keys())
def test_the_file_of_a_bad_row_is_named_among_atomic_parts(tmp_path, test, options, words):
    lists = {
        name: [(f"{name[2:]}_id:token",), *((number,) for number in options.pop(name))]
        for name in [*options]
        if name.startswith("s.")
    }
    files = {"s.train.inter": [TOKENS, *((u, i, 1) for u, i in ROWS)], "s.test.inter": test, **lists}
    refuses(folder(tmp_path / "d", files, atomic=True), "s.test.inter", words, **options)


def test_the_file_that_reaches_beyond_the_features_is_named(tmp_path):
    files = {"s.train.inter": [TOKENS[:2], *ROWS], "s.test.inter": [TOKENS[:2], (0, 3), (1, 99)]}
    with pytest.raises(InputError, match=r"has 6 rows, but \S+s\.test\.inter reaches item 99 \(test"):
        load(folder(tmp_path / "d", files, atomic=True))
    lists = {split: json.dumps({"0": items}) for split, items in {"train": [1, 2], "valid": [9]}.items()}
    path = folder(tmp_path / "json", {}, atomic=True)
    for split, text in lists.items():
        (path / f"{split}.json").write_text(text)
    with pytest.raises(InputError, match=r"has 6 rows, but \S+valid\.json reaches item 9 \(val"):
        load(path)


def test_the_matrix_of_a_bad_rating_is_named(tmp_path):
    path = folder(tmp_path / "d", {}, atomic=True)
    for name, values in {"trnMat": np.ones(24), "tstMat": np.array([np.nan])}.items():
        rows = ROWS if name == "trnMat" else [(0, 0)]
        matrix = scipy.sparse.coo_matrix((values, np.array(rows).T), shape=(6, 6))
        (path / f"{name}.pkl").write_bytes(pickle.dumps(matrix))
    refuses(path, "tstMat.pkl", "holds nan in row 0", min_rating=1)


LEFT_OUT = [(u, i, 5 * (n % 2), "2021-01-01") for n, (u, i) in enumerate(ROWS)]
TIMED = ("user", "item", "rating", "timestamp")
WHOLE = {
    "item": ((0, 99, 5, "2021-01-01"), {}, "item 99 in row 24 is none"),
    "item of text": ((0, "B9", 5, "2021-01-01"), {}, "'B9' in row 24, leaving open"),
    "moment": ((0, 3, 5, "soon"), {"split": "temporal"}, "'soon' in row 24; write dates"),
    "repetition": ((*ROWS[1], 5, "2021-01-01"), {}, "user 0, item 2 again in row 24;"),
}


@pytest.mark.parametrize(("row", "options", "words"), WHOLE.values(), ids=WHOLE.keys())
def test_rows_are_those_of_the_file_when_others_were_left_out(tmp_path, row, options, words):
    path = folder(tmp_path / "d", {"interactions.csv": [TIMED, *LEFT_OUT, row]})
    with pytest.raises(InputError) as error:
        load(path, min_rating=4, **options)
    assert str(error.value).startswith(f"{path / 'interactions.csv'}: ")
    assert words in str(error.value)
    atomic = {0: "user_id:token", 1: "item_id:token", 2: "rating:float", 3: "timestamp:token"}
    path = folder(tmp_path / "r", {"s.inter": [tuple(atomic.values()), *LEFT_OUT, row]}, atomic=True)
    if "item 99" not in words:
        with pytest.raises(InputError, match=r"s\.inter.* in row 24[; ]"):
            load(path, min_rating=4, **options)


def test_rows_are_those_of_the_file_behind_a_core_and_behind_repetition(tmp_path):
    rows = [("z", 0, "2021-01-01"), *((f"a{u}", i, "2021-01-01") for u, i in ROWS), ("a0", 3, "soon")]
    path = folder(tmp_path / "d", {"interactions.csv": [("user", "item", "timestamp"), *rows]})
    refuses(path, "interactions.csv", "'soon' in row 25", k_core=2, split="temporal")
    path = folder(
        tmp_path / "k", {"interactions.csv": [TIMED, *LEFT_OUT[:3], LEFT_OUT[0], *LEFT_OUT[3:], (0, 3, 5, "soon")]}
    )
    refuses(path, "interactions.csv", "'soon' in row 25", keep="first", split="temporal", positive=[0, 5])


def test_repeated_rows_of_mmrec_are_those_of_the_file(tmp_path):
    rows = [(u, i, n % 3, 5 * (n % 2)) for n, (u, i) in enumerate(ROWS)]
    header = ("userID", "itemID", "x_label", "rating")
    path = folder(tmp_path / "d", {"d.inter": [header, *rows, (*ROWS[1], 1, 5)]}, atomic=True)
    for options in ({"min_rating": 4}, {"positive": [0, 5]}):
        with pytest.raises(InputError, match=r"d\.inter has 1 duplicate .*item 2 again in row 24;"):
            load(path, **options)


def test_columns_of_parts_may_have_other_names(tmp_path):
    train = [("user", "item", "Rating"), *((u, i, 5 * (n % 2)) for n, (u, i) in enumerate(ROWS))]
    data = load(folder(tmp_path / "d", {"train.csv": train, "test.csv": [RATED, (0, 0, 1), (0, 3, 5)]}), min_rating=4)
    assert data["user", "rates", "item"].edge_index.size(1) == 12
    assert data["user", "rates", "item"].test_edge_index.tolist() == [[0], [3]]


FRAMES = {
    "repetition": (
        (0, "B2", 5),
        "data: train has 1 duplicate interactions, the first is user 0, item 'B2' again in row 24",
    ),
    "unknown item": ((0, "B9", 5), "data: train has 1 interactions with .*the first is 'B9' in row 24"),
    "no item": ((0, None, 5), "train, column 'item' has 1 rows without an id, the first is row 24"),
    "rating": ((0, "B3", None), "data: train: column 'rating' holds nan in row 24"),
}


@pytest.mark.parametrize(("row", "pattern"), FRAMES.values(), ids=FRAMES.keys())
def test_rows_of_frames_are_those_that_were_given(row, pattern):
    rows = [*((u, f"B{i}", 5 * (n % 2)) for n, (u, i) in enumerate(ROWS)), row]
    frame = pd.DataFrame(rows, columns=RATED)
    features = {m: pd.DataFrame(x, index=[f"B{i}" for i in range(6)]) for m, x in FEATURES.items()}
    for index in (range(25), range(100, 125), [f"r{n}" for n in range(25)]):
        with pytest.raises(InputError, match=pattern):
            build_data(frame.set_axis(index), features, source="data", min_rating=4)


def test_the_frame_of_a_bad_rating_is_named():
    train = pd.DataFrame([(*row, 5) for row in ROWS], columns=RATED)
    test = pd.DataFrame([(0, 0, 5), (0, 3, None)], columns=RATED)
    with pytest.raises(InputError, match="data: test: column 'rating' holds nan in row 1"):
        build_data(train, FEATURES, test=test, source="data", min_rating=4)
