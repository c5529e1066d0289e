"""Columns under the names that people give them, and ids with blanks around them."""

from __future__ import annotations

import gzip
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pyg_ckd.cli.yaml_files import parse_word
from pyg_ckd.datasets import load, read_vectors, write_recbole
from pyg_ckd.datasets.formats.recbole import _as_integers
from pyg_ckd.datasets.tables import _without_blanks, read_table
from pyg_ckd.errors import InputError
from tests.conftest import random_data
from tests.datasets.test_files_as_they_are import ITEMS, RATES, ROWS, USERS, features, inter, lines, pairs, table

LAST = sorted(max((i, u) for v, i in ROWS if v == u)[::-1] for u in range(USERS))
"""The interaction of each user with the highest number of an item, which is the latest below."""


def held_out(data) -> list[tuple]:
    return sorted(map(tuple, data[RATES].test_edge_index.t().tolist()))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("header", ["User,ITEM,Timestamp", "user,item,time", "USER,Item,TIME", " user ,item,Date"])
def test_columns_are_read_in_any_case_and_times_by_their_usual_names(tmp_path, suffix, header):
    frame = pd.DataFrame([(*row, row[1]) for row in ROWS], columns=header.split(","))
    folder = features(tmp_path / "d")
    path = folder / f"interactions.{suffix}"
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    for split in ("leave-one-out", "temporal"):
        assert pairs(load(folder, split=split)) == sorted(ROWS)
    assert held_out(load(folder, split="leave-one-out")) == LAST


@pytest.mark.parametrize("column", ["timestamp:float", "Timestamp:float", "time:float", "TIME:token", "date:token"])
def test_columns_of_atomic_files_are_read_in_any_case_and_times_by_their_usual_names(tmp_path, column):
    rows = [(*row, row[1]) for row in ROWS]
    folder = inter(tmp_path / "d", lines(rows, "\t", f"User_ID:token,item_id:TOKEN,{column}"))
    assert held_out(load(folder, split="leave-one-out")) == LAST


@pytest.mark.parametrize("suffix", ["csv", "tsv.gz", "parquet"])
@pytest.mark.parametrize("header", ["user_id,item_id", "User_ID,item", "user,ITEM_ID"])
def test_columns_of_ids_may_be_called_user_id_and_item_id(tmp_path, suffix, header):
    frame = pd.DataFrame([(f"0{u}", f"B{i}") for u, i in ROWS], columns=header.split(","))
    items = pd.DataFrame({"item_id": [f"B{i}" for i in range(ITEMS)]})
    parts = {"train": frame[frame.index % 3 > 0], "test": frame[frame.index % 3 == 0], "items": items}
    for name, folder in (("whole", features(tmp_path / "a")), ("parts", features(tmp_path / "b"))):
        tables = {"interactions": frame, "items": items} if name == "whole" else parts
        for stem, one in tables.items():
            path = folder / f"{stem}.{suffix}"
            one.to_parquet(path) if suffix == "parquet" else one.to_csv(
                path, index=False, sep="\t" if "t" in suffix else ","
            )
        assert pairs(load(folder)) == sorted((f"0{u}", f"B{i}") for u, i in ROWS)


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet"])
@pytest.mark.parametrize("columns", [["user_id", "user", "item"], ["user", "item", "item_id", "user_id"]])
def test_columns_called_user_and_item_are_taken_where_others_have_the_longer_names(tmp_path, suffix, columns):
    frame = pd.DataFrame(ROWS, columns=["user", "item"]).assign(user_id="none", item_id=-1)[columns]
    path = features(tmp_path / "d") / f"interactions.{suffix}"
    frame.to_parquet(path) if suffix == "parquet" else frame.to_csv(path, index=False)
    assert pairs(load(tmp_path / "d")) == sorted(ROWS)


def test_vectors_of_items_may_have_the_column_item_id(tmp_path):
    frame = pd.DataFrame({"item_id": ["a", "b"], "vector": [[1.0, 2.0], [3.0, 4.0]]})
    frame.to_parquet(tmp_path / "clip.parquet")
    assert read_vectors(tmp_path / "clip.parquet", ["b", "a"])[0].tolist() == [[3.0, 4.0], [1.0, 2.0]]
    np.save(tmp_path / "clip.npy", np.array([[1.0, 2.0], [3.0, 4.0]]))
    (tmp_path / "items.csv").write_text("item_id\na\nb\n")
    assert read_vectors(tmp_path / "clip.npy", ["b", "a"])[0].tolist() == [[3.0, 4.0], [1.0, 2.0]]


def test_a_column_split_is_followed_in_any_case(tmp_path):
    rows = [(*row, "test" if row in LAST else "train") for row in ROWS]
    assert held_out(load(table(tmp_path / "d", lines(rows, header="user,item,Split")))) == LAST


def test_a_list_of_items_may_have_capitals(tmp_path):
    folder = table(tmp_path / "d", lines([(u, f"B{i}") for u, i in ROWS]))
    (folder / "Items.csv").write_text(lines([(f"B{i}", "x") for i in range(ITEMS)], header="ITEM,title"))
    assert pairs(load(folder)) == sorted((u, f"B{i}") for u, i in ROWS)


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("user,item,User", "'user' and 'User', expected one column 'user'"),
        ("user_id,item,User_ID", "'user_id' and 'User_ID', expected one column 'user'"),
        ("user,item,timestamp,Timestamp", "'timestamp' and 'Timestamp', expected one column 'timestamp'"),
        ("user,item,time,date", "'time' and 'date', expected one column 'timestamp'"),
    ],
)
def test_two_columns_of_one_name_are_refused(tmp_path, header, names):
    rows = [(*row, *range(header.count(",") - 1)) for row in ROWS]
    with pytest.raises(InputError, match=f"has the columns {names}; drop or rename one"):
        load(table(tmp_path / "d", lines(rows, header=header)), split="temporal")
    if "_id" in header:
        return
    typed = ",".join(
        f"{name}_id:token" if name.lower() in ("user", "item") else f"{name}:float" for name in header.split(",")
    )
    with pytest.raises(InputError, match=r"has the columns .* expected one column"):
        load(inter(tmp_path / "r", lines(rows, "\t", typed)), split="temporal")


def test_a_column_timestamp_counts_before_its_other_names(tmp_path):
    rows = [(*row, -row[1], row[1]) for row in ROWS]
    assert (
        held_out(load(table(tmp_path / "d", lines(rows, header="user,item,date,timestamp")), split="leave-one-out"))
        == LAST
    )


@pytest.mark.parametrize("sep", [",", ";", "\t", "|", "::"])
@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_blanks_around_ids_of_text_files_are_no_part_of_them(tmp_path, sep, ending):
    rows = [(f"u{u}{' ' * (k % 3)}", f"B{i} " if k % 2 else f"B{i}") for k, (u, i) in enumerate(ROWS)]
    folder = features(tmp_path / "d")
    listed = lines([(f"B{i} ", "x") for i in range(ITEMS)], sep, "item,title")
    for name, content in (("interactions", lines(rows, sep)), ("items", listed)):
        text = content.encode()
        (folder / f"{name}{ending}").write_bytes(gzip.compress(text) if ending.endswith("gz") else text)
    data = load(folder)
    assert pairs(data) == sorted((f"u{u}", f"B{i}") for u, i in ROWS)
    assert data.user_id == [f"u{u}" for u in range(USERS)]


def test_blanks_make_no_text_of_integers_and_no_other_ids_of_zeros_in_front(tmp_path):
    quoted = [(f'"{u} "', i) for u, i in ROWS]
    assert load(table(tmp_path / "a", lines(quoted))).user_id.tolist() == [*range(USERS)]
    padded = [(f"0{u} " if i % 2 else f"0{u}", i) for u, i in ROWS]
    assert load(table(tmp_path / "b", lines(padded))).user_id == [f"0{u}" for u in range(USERS)]


def test_an_id_of_blanks_is_missing(tmp_path):
    with pytest.raises(InputError, match="'user' has 1 missing values, the first in row 1"):
        load(table(tmp_path / "d", lines([("a", 0), ("  ", 1), ("b", 2)])))


def test_ids_that_differ_by_blanks_in_typed_tables_are_refused_with_what_ids_are_like(tmp_path):
    folder = features(tmp_path / "d")
    pd.DataFrame([(u, f"B{i} ") for u, i in ROWS], columns=["user", "item"]).to_parquet(folder / "interactions.parquet")
    pd.DataFrame({"item": [f"B{i}" for i in range(ITEMS)]}).to_parquet(folder / "items.parquet")
    with pytest.raises(InputError, match=r"the first is 'B1 ' in row 0, but ids are like 'B0'; add .* or mend the ids"):
        load(folder)


def test_tokens_that_differ_by_blanks_alone_are_refused(tmp_path):
    rows = [(f"u{u} " if (u, i) == ROWS[-1] else f"u{u}", i) for u, i in ROWS]
    with pytest.raises(
        InputError, match="'user_id:token' holds 'u5' and 'u5 ', expected tokens that differ by more than"
    ):
        load(inter(tmp_path / "d", lines(rows, "\t", "user_id:token,item_id:token")))


def test_blanks_around_tokens_are_no_part_of_them(tmp_path):
    rows = [(f" {u}", f"{i} ") for u, i in ROWS]
    folder = inter(tmp_path / "d", lines(rows, "\t", "user_id:token,item_id:token"))
    assert pairs(load(folder)) == sorted(ROWS)
    for kind, size in (("user", 6), ("item", ITEMS)):
        (folder / f"shop.{kind}").write_text(lines([(f"{n}  ",) for n in range(size)], "\t", f"{kind}_id:token"))
    assert pairs(load(folder)) == sorted(ROWS)
    with pytest.raises(InputError, match=r"holds nothing .*in row 1 "):
        load(inter(tmp_path / "e", lines([rows[0], (" ", "3")], "\t", "user_id:token,item_id:token")))


def test_ids_with_blanks_around_them_survive_in_atomic_files(tmp_path):
    data = random_data(modalities=["visual"])
    data.user_id = [f" u{n}" for n in range(data["user"].num_nodes)]
    write_recbole(data, tmp_path / "d")
    assert load(tmp_path / "d", transform="none").user_id == data.user_id
    assert np.array_equal(load(tmp_path / "d").item_id, np.arange(data["item"].num_nodes))


def test_vectors_find_their_list_in_any_case(tmp_path):
    folder = features(tmp_path / "d")
    (folder / "items.csv").write_text(lines([(f"B{i} ",) for i in range(ITEMS)], header="Item"))
    assert read_vectors(folder / "visual.npy", [f"B{i}" for i in range(ITEMS)])[1].all()


def test_the_index_of_a_parquet_file_is_a_column_where_it_has_a_name(tmp_path):
    folder = features(tmp_path / "d")
    frame = pd.DataFrame(ROWS, columns=["user", "item"])
    for index in (["user"], ["item"], ["user", "item"]):
        frame.assign(more=1).set_index(index).to_parquet(folder / "interactions.parquet")
        assert pairs(load(folder)) == sorted(ROWS)
    frame[["user"]].set_axis(frame["item"].rename(None)).to_parquet(folder / "interactions.parquet")
    with pytest.raises(
        InputError, match=r"'item' is missing; .* if the index, e.g. 1, holds it, name it: frame.rename_ax"
    ):
        load(folder)


@pytest.mark.parametrize("dtype", [object, "str"])
def test_blanks_are_taken_out_of_text_of_every_type_of_pandas(dtype: Any) -> None:
    text = pd.Series(["u1 ", " u1", "u2", None], dtype=dtype)
    assert _without_blanks(text).tolist()[:3] == ["u1", "u1", "u2"]
    assert _without_blanks(pd.Series(["1 ", "-2"], dtype=dtype)).tolist() == [1, -2]
    beyond = pd.Series([2**70, 1], dtype=object)
    assert _without_blanks(beyond) is beyond


@pytest.mark.parametrize("kind", ["csv", "parquet", "inter"])
def test_a_split_by_time_without_times_is_told(tmp_path, kind):
    if kind == "inter":
        path = inter(tmp_path / "d", lines(ROWS, "\t", "user_id:token,item_id:token"))
        (path / "shop.inter").write_text(
            lines([(*row, 5) for row in ROWS], "\t", "user_id:token,item_id:token,unix:float")
        )
        name, columns = "shop.inter", "user_id:token, item_id:token, unix:float"
    else:
        path = table(tmp_path / "d", lines([(*row, 5) for row in ROWS], header="user,item,unix"))
        if kind == "parquet":
            pd.read_csv(path / "interactions.csv").to_parquet(path / "interactions.parquet")
            (path / "interactions.csv").unlink()
        name, columns = f"interactions.{kind}", "user, item, unix"
    found = rf"{name}: split='{{}}' goes by a column 'timestamp', but found {columns}"
    with pytest.warns(UserWarning, match=found.format("leave-one-out") + ", so that .* held out at random; rename"):
        data = load(path, split="leave-one-out")
    assert data[RATES].test_edge_index.size(1) == USERS
    with pytest.raises(InputError, match=found.format("temporal") + r"; rename .*\(or time, datetime, date\)"):
        load(path, split="temporal")


def test_ids_with_digits_of_other_scripts_stay_texts_and_apart_from_others(tmp_path) -> None:
    path = tmp_path / "interactions.csv"
    path.write_text("user,item\n13,1\n1\u0663,2\n", encoding="utf-8")
    assert read_table(path, ("user", "item")).user.tolist() == ["13", "1\u0663"]
    tokens = pd.Series(["13", "1\u0663"], dtype=object)
    assert _as_integers(tokens) is None
    assert parse_word("1\u0663") == "1\u0663"
