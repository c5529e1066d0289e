"""Parts of a split under the names that people give them, in every format."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from pyg_ckd.datasets import load, recognise
from pyg_ckd.errors import InputError
from tests.datasets.test_files_as_they_are import ITEMS, RATES, ROWS, USERS, features, lines, pairs, table

TRAIN = [row for k, row in enumerate(ROWS) if k % 4 != 1]
VAL = [row for k, row in enumerate(ROWS) if k % 4 == 1]
COLUMN = [("val" if k % 4 == 1 else "train") for k in range(len(ROWS))]


def write(folder: Path, name: str, rows) -> None:
    """Write interactions as a table, a list or a matrix, as the ending says."""
    users, items = np.array(rows).T
    if name.endswith(".json"):
        content = {str(u): [int(i) for v, i in rows if v == u] for u in range(USERS)}
        (folder / name).write_text(json.dumps(content))
    elif name.endswith(".pkl"):
        matrix = scipy.sparse.coo_matrix((np.ones(len(rows)), (users, items)), shape=(USERS, ITEMS))
        (folder / name).write_bytes(pickle.dumps(matrix))
    elif name.endswith(".inter"):
        (folder / name).write_text(lines(rows, "\t", "user_id:token,item_id:token"))
    else:
        (folder / name).write_text(lines(rows))


FILES = [
    *(("train.csv", f"{name}.csv") for name in ("val", "valid", "validation", "Val", "dev")),
    *(("train.json", f"{name}.json") for name in ("val", "valid", "validation")),
    *(("trnMat.pkl", f"{name}Mat.pkl") for name in ("val", "valid", "validation")),
    *(("shop.train.inter", f"shop.{name}.inter") for name in ("val", "valid", "validation", "dev")),
    ("training.csv", "valid.tsv"),
    ("trainMat.pkl", "validMat.pkl"),
]


@pytest.mark.parametrize(("train", "val"), FILES, ids=[f"{train}-{val}" for train, val in FILES])
def test_the_validation_part_is_read_under_every_usual_name(tmp_path, train, val):
    plain = train.endswith(".csv")
    folder = features(tmp_path / "d", ".npy" if plain else "_feat.npy", ("image", "text"))
    write(folder, train, TRAIN)
    if val.endswith(".tsv"):
        (folder / val).write_text(lines(VAL, "\t"))
    else:
        write(folder, val, VAL)
    data = load(folder)
    assert sorted(map(tuple, data[RATES].val_edge_index.t().tolist())) == VAL
    assert data[RATES].test_edge_index.size(1) == 0


@pytest.mark.parametrize(
    ("train", "names"),
    [
        ("train.csv", ("val.csv", "valid.csv")),
        ("train.csv", ("test.csv", "testing.csv")),
        ("train.json", ("val.json", "valid.json")),
        ("trnMat.pkl", ("tstMat.pkl", "testMat.pkl")),
        ("shop.train.inter", ("shop.valid.inter", "shop.val.inter")),
    ],
)
def test_two_files_of_one_part_are_refused_by_name(tmp_path, train, names):
    folder = features(tmp_path / "d", ".npy" if train.endswith(".csv") else "_feat.npy", ("image", "text"))
    write(folder, train, TRAIN)
    for name in names:
        write(folder, name, VAL)
    with pytest.raises(InputError, match=r"holds .* and .*, expected one of them; remove") as error:
        load(folder)
    assert all(name in str(error.value) for name in names)


def test_a_folder_is_recognised_by_any_name_of_its_training_part(tmp_path):
    for format, name in (("lattice", "training.json"), ("diffmm", "trainMat.pkl"), ("folder", "Train.CSV")):
        folder = features(tmp_path / format, ".npy" if format == "folder" else "_feat.npy")
        write(folder, name, TRAIN) if format != "folder" else (folder / name).write_text(lines(TRAIN))
        assert recognise(folder) == format


@pytest.mark.parametrize("name", ["valid", "Validation", "VAL", " val "])
def test_a_column_of_parts_is_read_with_every_usual_name(tmp_path, name):
    rows = [(*row, name if part == "val" else "Train") for row, part in zip(ROWS, COLUMN, strict=True)]
    data = load(table(tmp_path / "d", lines(rows, header="user,item,split")))
    assert sorted(map(tuple, data[RATES].val_edge_index.t().tolist())) == VAL
    assert pairs(data) == sorted(ROWS)


def test_two_names_of_one_part_in_a_column_are_refused(tmp_path):
    rows = [(*row, ("val", "dev", "train")[k % 3]) for k, row in enumerate(ROWS)]
    with pytest.raises(InputError, match=r"'split' holds 'val' and 'dev', expected one name for the part 'val'"):
        load(table(tmp_path / "d", lines(rows, header="user,item,split")))


def test_wrong_parts_are_told_where_the_column_decides_and_nowhere_else(tmp_path):
    rows = [(*row, "trian" if k == 2 else "train") for k, row in enumerate(ROWS)]
    folder = table(tmp_path / "d", lines(rows, header="user,item,split"))
    with pytest.raises(InputError, match=r"1 wrong values, in row 2 unknown split 'trian': did you mean 'train'"):
        load(folder)
    assert pairs(load(folder, split="random")) == sorted(ROWS)


def test_times_are_told_where_the_split_goes_by_them_and_nowhere_else(tmp_path):
    rows = [
        (*row, "soon" if k == 2 else ("" if k == 3 else k), part)
        for k, (row, part) in enumerate(zip(ROWS, COLUMN, strict=True))
    ]
    folder = table(tmp_path / "d", lines(rows, header="user,item,timestamp,split"))
    for split in ("auto", "given", "random", "cold-start"):
        assert pairs(load(folder, split=split)) == sorted(ROWS)
    with pytest.raises(InputError, match="'timestamp' has 1 missing values, the first in row 3"):
        load(folder, split="temporal")
    rows = [(*row, "soon" if k == 2 else k) for k, row in enumerate(ROWS)]
    atomic = features(tmp_path / "r", "_feat.npy", ("image", "text"))
    (atomic / "shop.inter").write_text(lines(rows, "\t", "user_id:token,item_id:token,timestamp:float"))
    assert pairs(load(atomic, split="random")) == sorted(ROWS)
    with pytest.raises(InputError, match="'timestamp:float' holds 'soon' in row 2"):
        load(atomic, split="leave-one-out")


@pytest.mark.parametrize("name", ["valid", "validation", "Val"])
def test_an_archive_may_call_its_parts_by_other_names(tmp_path, name):
    x = {"visual": np.eye(ITEMS), "textual": np.eye(ITEMS)}
    np.savez(tmp_path / "a.npz", train=np.array(TRAIN).T, **{name: np.array(VAL).T}, **x)
    data = load(tmp_path / "a.npz")
    assert sorted(map(tuple, data[RATES].val_edge_index.t().tolist())) == VAL
    np.savez(tmp_path / "b.npz", train=np.array(TRAIN).T, val=np.array(VAL).T, **{name: np.array(VAL).T}, **x)
    with pytest.raises(InputError, match=f"holds 'val' and '{name}', expected one array 'val'; remove one"):
        load(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", train=np.array(TRAIN).T, dev=np.eye(ITEMS))
    assert load(tmp_path / "c.npz").modalities == ["dev"]


def test_a_parquet_column_of_parts_may_have_missing_values_named(tmp_path):
    folder = features(tmp_path / "d")
    frame = pd.DataFrame(ROWS, columns=["user", "item"]).assign(split=["train", None, *COLUMN[2:]])
    frame.to_parquet(folder / "interactions.parquet")
    with pytest.raises(InputError, match="'split' has 1 missing values, the first in row 1"):
        load(folder)


@pytest.mark.parametrize("kind", [list, np.array])
def test_lists_in_a_column_of_parts_are_named(tmp_path, kind):
    folder = features(tmp_path / "d")
    frame = pd.DataFrame(ROWS, columns=["user", "item"]).assign(split=[kind([part]) for part in COLUMN])
    frame.to_parquet(folder / "interactions.parquet")
    with pytest.raises(InputError, match=r"'split' holds .* in row 0, expected the name of a part, such as 'train'"):
        load(folder)
    assert pairs(load(folder, split="random")) == sorted(ROWS)
