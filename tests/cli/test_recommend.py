"""``pyg-ckd recommend``: what it writes, and its one line and exit code 2 for every bad input."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pyg_ckd.cli import main
from pyg_ckd.datasets import load
from pyg_ckd.errors import InputError
from pyg_ckd.nn import backbones
from pyg_ckd.serving import Recommender
from pyg_ckd.training import build
from pyg_ckd.training.model import save_model
from tests.cli.problem import fails


@pytest.fixture
def given(tmp_path: Path) -> tuple[str, str]:
    """A data set with ids and a model of it."""
    rng = np.random.default_rng(0)
    key = rng.permutation(12 * 8)[:50]
    pairs = np.stack([key // 8, key % 8])
    keep = pairs[0] != 3
    pairs = np.concatenate([pairs[:, keep], [[3] * 8, range(8)]], axis=1)  # User 3 has met every item.
    np.savez(
        tmp_path / "data.npz",
        train=pairs,
        visual=rng.normal(size=(8, 3)),
        text=rng.normal(size=(8, 2)),
        num_users=12,
        num_items=8,
        user_id=np.arange(12) * 7,
        item_id=np.array([f"item-{n}" for n in range(8)]),
    )
    path = str(tmp_path / "data.npz")
    data = load(path)
    save_model(tmp_path / "model.pt", build(backbones()["VBPR"], data, 0), data)
    return path, str(tmp_path / "model.pt")


def command(given: tuple[str, str], out: object, *more: str) -> list[str]:
    return ["recommend", "--data", given[0], "--checkpoint", given[1], "--out", str(out), "--k", "3", *more]


def test_the_file_holds_what_the_recommender_returns(given, tmp_path, capsys) -> None:
    expected = Recommender.load(given[1], load(given[0])).recommend(k=3).to_frame()
    for name, read in (("a.parquet", pd.read_parquet), ("a.csv", pd.read_csv)):
        assert main(command(given, tmp_path / name)) == 0
        assert str(tmp_path / name) in capsys.readouterr().out
        got = read(tmp_path / name)
        assert got[["user", "rank", "item"]].to_numpy().tolist() == expected.drop(columns="score").to_numpy().tolist()
        np.testing.assert_allclose(got.score, expected.score, atol=1e-5)


def test_users_and_candidates_come_from_options_or_files(given, tmp_path) -> None:
    (tmp_path / "users.txt").write_text("14\n\n7 \n", encoding="utf-8")
    (tmp_path / "stock.txt").write_text("item-1\nitem-6\nitem-2\n", encoding="utf-8")
    stock = ["--candidates_file", str(tmp_path / "stock.txt"), "--exclude_seen", "false"]
    assert main(command(given, tmp_path / "a.csv", "--users", "14", "7", *stock)) == 0
    assert main(command(given, tmp_path / "b.csv", "--users-file", str(tmp_path / "users.txt"), *stock)) == 0
    got = pd.read_csv(tmp_path / "a.csv")
    assert got.user.tolist() == [14] * 3 + [7] * 3
    assert set(got.item) == {"item-1", "item-2", "item-6"}
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


BAD = {
    "unknown user": (["--users", "15"], ["unknown user 15", "did you mean 14"]),
    "user of another type": (["--users", "ann"], ["unknown user 'ann'", "integers from 0 to 77"]),
    "k = 0": (["--k", "0"], ["k: found 0, expected 1 to 8"]),
    "k < 0": (["--k", "-2"], ["k: found -2"]),
    "k too large": (["--k", "9"], ["k: found 9, expected 1 to 8"]),
    "k no number": (["--k", "many"], ["--k"]),
    "all seen": (["--users", "21"], ["user 21 has seen every one of the 8 items", "exclude_seen"]),
    "two lists": (["--users", "7", "--users_file", "x"], ["users_file"]),
    "no file": (["--users_file", "no/such.txt"], ["users_file no/such.txt: cannot be read"]),
    "split": (["--seen", "[tain]"], ["'train'"]),
    "device": (["--device", "nowhere"], ["device: found 'nowhere'"]),
    "checkpoint": (["--checkpoint", "no.pt"], ["checkpoint no.pt: found no such file"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_line_and_no_file(case: str, given, tmp_path, capsys) -> None:
    options, words = BAD[case]
    line = fails(capsys, command(given, tmp_path / "out" / "a.parquet", *options))
    for word in words:
        assert word in line
    assert not list(tmp_path.glob("out/*"))


def test_files_of_ids_that_are_empty_or_name_an_unknown_item_are_refused(given, tmp_path, capsys) -> None:
    path = tmp_path / "ids.txt"
    path.write_text("\n \n", encoding="utf-8")
    assert "found no id" in fails(capsys, command(given, tmp_path / "a.csv", "--users_file", str(path)))
    path.write_text("item-1\nitem_2\n", encoding="utf-8")
    line = fails(capsys, command(given, tmp_path / "a.csv", "--candidates_file", str(path)))
    assert "unknown item 'item_2': did you mean 'item-" in line


def test_an_unknown_format_and_a_place_that_cannot_be_written_are_named(given, tmp_path, capsys) -> None:
    assert "unknown format '.parket': did you mean '.parquet'" in fails(capsys, command(given, tmp_path / "a.parket"))
    (tmp_path / "file").touch()
    assert "cannot be written" in fails(capsys, command(given, tmp_path / "file" / "a.csv"))


def test_a_saved_recommender_needs_no_data(given, tmp_path, capsys) -> None:
    path = Recommender.load(given[1], load(given[0])).save(tmp_path / "saved.pt")
    assert main(command(given, tmp_path / "a.csv")) == 0
    args = ["recommend", "--checkpoint", str(path), "--k", "3"]
    assert main([*args, "--out", str(tmp_path / "b.csv")]) == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    line = fails(capsys, ["recommend", "--checkpoint", given[1], "--k", "3", "--out", str(tmp_path / "c.csv")])
    assert "found a trained model, which needs the graph" in line


def test_filters_exclusions_and_variety_come_from_options(given, tmp_path, capsys) -> None:
    (tmp_path / "items.csv").write_text(
        "item,kind\n" + "".join(f"item-{n},{'even' if n % 2 == 0 else 'odd'}\n" for n in range(8)), encoding="utf-8"
    )
    (tmp_path / "no.txt").write_text("item-2\n", encoding="utf-8")
    more = ["--items_file", str(tmp_path / "items.csv"), "--where.kind", "even", "--exclude_file"]
    more += [str(tmp_path / "no.txt"), "--exclude_seen", "false", "--diversity", "0.5"]
    assert main(command(given, tmp_path / "a.csv.gz", *more)) == 0
    assert set(pd.read_csv(tmp_path / "a.csv.gz").item) == {"item-0", "item-4", "item-6"}
    (tmp_path / "items.csv.gz").write_bytes(gzip.compress((tmp_path / "items.csv").read_bytes()))
    packed = [str(tmp_path / "items.csv.gz") if word.endswith("items.csv") else word for word in more]
    assert main(command(given, tmp_path / "b.csv.gz", *packed)) == 0
    assert pd.read_csv(tmp_path / "b.csv.gz").equals(pd.read_csv(tmp_path / "a.csv.gz"))
    assert "no item has kind = 'big'" in fails(capsys, command(given, tmp_path / "b.csv", *more, "--where.kind", "big"))
    bad = ["--items_file", str(tmp_path / "none.csv")]
    assert "items_file" in fails(capsys, command(given, tmp_path / "b.csv", *bad))


@pytest.mark.parametrize(
    ("column", "wanted", "found"),
    [
        (["C # lang", "C", "C", "C"], "C # lang", {0}),
        (["NO", "yes", "On", "NO"], "NO", {0, 3}),
        (["NO", "yes", "On", "NO"], "[NO, On]", {0, 2, 3}),
        (["01001", "1001", "01001", "7"], "01001", {0, 2}),
        (["10115", "x", "10115", "7"], "10115", {0, 2}),
        (["12:30", "750", "0x10", "16"], "12:30", {0}),
        (["12:30", "750", "0x10", "16"], "0x10", {2}),
        (["Star Wars: A New Hope", "Star Wars", "a", "b"], "Star Wars: A New Hope", {0}),
        (["#1 hits", "null", "a", "b"], "#1 hits", {0}),
        ([1, 2, 3, 1], "1", {0, 3}),
        ([1, 2, 3, 1], "[2, 3]", {1, 2}),
        ([0.5, 2.0, 3.0, 1.0], "0.5", {0}),
        ([True, False, False, True], "true", {0, 3}),
    ],
)
def test_what_a_column_shall_be_is_taken_as_it_is_typed(given, column, wanted, found, tmp_path, capsys) -> None:
    frame = pd.DataFrame({"item": [f"item-{n}" for n in range(4)], "kind": column})
    frame.to_parquet(tmp_path / "items.parquet")
    more = ["--items_file", str(tmp_path / "items.parquet"), "--exclude_seen", "false", "--k", str(len(found))]
    for n, options in enumerate((["--where.kind", wanted], ["--where", json.dumps({"kind": wanted})])):
        if n and wanted.startswith("["):
            continue
        assert main(command(given, tmp_path / f"{n}.csv", *more, *options)) == 0
        assert set(pd.read_csv(tmp_path / f"{n}.csv").item) == {f"item-{row}" for row in found}


def test_newer_data_in_another_order_is_served_and_says_who_is_new(given, tmp_path, capsys) -> None:
    content = dict(np.load(given[0]))
    order = np.array([7, 3, 1, 0, 2, 4, 5, 6])
    train = content["train"].copy()
    train[1] = np.argsort(order)[train[1]]
    newer = {m: content[m][order] for m in ("visual", "text")} | {"item_id": content["item_id"][order]}
    newer |= {"train": np.concatenate([train, [[12], [4]]], axis=1), "user_id": np.arange(13) * 7, "num_users": 13}
    np.savez(tmp_path / "newer.npz", **(content | newer))
    assert main(command((str(tmp_path / "newer.npz"), given[1]), tmp_path / "a.csv")) == 0
    assert "note: 1 new user has embeddings from what they have met, such as 84" in capsys.readouterr().err
    assert main(command(given, tmp_path / "b.csv")) == 0
    old, new = (pd.read_csv(tmp_path / name).set_index(["user", "rank"]).item for name in ("b.csv", "a.csv"))
    assert new.loc[:77].to_dict() == old.to_dict()
    assert (new.loc[84] != "item-2").all()
    newer["item_id"] = newer["item_id"][::-1]
    np.savez(tmp_path / "wrong.npz", **(content | newer))
    line = fails(capsys, command((str(tmp_path / "wrong.npz"), given[1]), tmp_path / "c.csv"))
    assert "has other features 'visual' in the graph than in training" in line


def test_unknown_users_get_popular_items_in_every_format(given, tmp_path, capsys) -> None:
    source = Recommender.load(given[1], load(given[0]))
    with pytest.warns(UserWarning, match="2 of 4 users are unknown"):
        expected = source.recommend([8, 14, 9, 7], 3, unknown="popular").to_frame()
    options = ["--users", "8,14,9,7", "--unknown", "popular"]
    for name in ("a.parquet", "a.csv", "a.jsonl"):
        with pytest.warns(UserWarning, match="2 of 4 users are unknown"):
            assert main(command(given, tmp_path / name, *options)) == 0
    for got in (pd.read_parquet(tmp_path / "a.parquet"), pd.read_csv(tmp_path / "a.csv")):
        assert got.columns.tolist() == expected.columns.tolist()
        names = ["user", "rank", "item", "from"]
        assert got[names].to_numpy().tolist() == expected[names].to_numpy().tolist()
        np.testing.assert_allclose(got.score, expected.score, atol=1e-5)
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["user"], line["from"]) for line in lines] == [
        (8, "popularity"), (14, "model"), (9, "popularity"), (7, "model"),
    ]  # fmt: skip
    assert [line["items"] for line in lines] == [part.item.tolist() for _, part in expected.groupby("user", sort=False)]
    with pytest.warns(UserWarning, match="1 of 1 users is unknown"):
        line = fails(capsys, command(given, tmp_path / "b.csv", "--users", "ann", "--unknown", "popular"))
    assert "found id 'ann' (str) at position 0, expected an integer" in line
    assert "unknown way with unknown users 'best'" in fails(
        capsys, command(given, tmp_path / "b.csv", "--unknown", "best")
    )


def test_columns_of_items_are_read_from_tables_of_any_separator(given, tmp_path, capsys) -> None:
    rows = [("item_id", "kind"), ("item-1", "hat"), ("item-2", "NA"), ("item-6", "hat")]
    options = ["--exclude_seen", "false", "--k", "2"]
    for number, mark in enumerate(",;|\t"):
        path = tmp_path / f"ITEMS{number}.CSV"
        path.write_bytes(b"\xef\xbb\xbf" + "\n".join(mark.join(row) for row in rows).encode())
        args = command(given, tmp_path / "a.csv", *options, "--items_file", str(path), "--where.kind", "hat")
        assert main(args) == 0
        assert set(pd.read_csv(tmp_path / "a.csv").item) == {"item-1", "item-6"}
    args = command(given, tmp_path / "a.csv", "--k", "1", "--items_file", str(path), "--where.kind", "NA")
    assert main(args) == 0
    path.write_text("product,kind\nitem-1,hat\n", encoding="utf-8")
    line = fails(capsys, command(given, tmp_path / "b.csv", "--items_file", str(path)))
    assert "found the columns product, kind, expected 'item' or 'item_id'" in line
    path.write_text("item,kind\n1,hat\n", encoding="utf-8")
    line = fails(capsys, command(given, tmp_path / "b.csv", "--items_file", str(path)))
    assert "columns: found no item of the graph in 'item' (there '1', in the graph 'item-0')" in line
    line = fails(capsys, command(given, tmp_path / "b.csv", "--items_file", "no.csv"))
    assert "items_file no.csv: cannot be read (No such file or directory)" in line


def test_columns_of_items_are_refused_with_their_file(given, tmp_path, capsys) -> None:
    line = fails(capsys, command(given, tmp_path / "b.csv", "--where.kind", "hat"))
    assert "where.kind: found it without columns of items, expected a file with them" in line
    assert "give it as --items_file FILE" in line
    path = tmp_path / "items.csv"
    path.write_text("item,kind\nitem-1,hat\nitem-2,hat\nitem-1,shoe\n", encoding="utf-8")
    line = fails(capsys, command(given, tmp_path / "b.csv", "--items_file", str(path)))
    assert f"items_file {path}: 'item' holds 'item-1' again in row 2, expected a row for every item" in line
    path.write_text("item,kind\n", encoding="utf-8")
    line = fails(capsys, command(given, tmp_path / "b.csv", "--items_file", str(path), "--where.kind", "hat"))
    assert f"items_file {path}: found a header alone, expected a row for every item" in line
    assert not (tmp_path / "b.csv").exists()


def test_unknown_ids_are_written_in_the_type_of_the_known_ones(given, tmp_path) -> None:
    source = Recommender.load(given[1], load(given[0]))
    with pytest.warns(UserWarning, match=r"2 of 3 users are unknown \(first: '8'\)"):
        source.export_top_k(tmp_path / "a.parquet", 2, user_ids=["8", 14, 8], unknown="popular")
    assert pd.read_parquet(tmp_path / "a.parquet").user.tolist() == [8, 8, 14, 14, 8, 8]


@pytest.mark.filterwarnings("ignore:recommend")
def test_an_unknown_id_that_no_column_holds_is_named_with_its_place_among_all(given, tmp_path) -> None:
    source = Recommender.load(given[1], load(given[0]))
    for ids, words in (
        ([14, 8, 7, "ann"], r"'ann' \(str\) at position 3"),
        ([14, 2**80], r"1208\d+ \(int\) at position 1"),
    ):
        with pytest.raises(InputError, match=rf"^user_ids: found id {words}, expected an integer.*; leave it out"):
            source.export_top_k(tmp_path / "a.parquet", 2, user_ids=ids, unknown="popular")
        assert len(source.recommend(ids, 2, unknown="popular")) == len(ids)
    assert not list(tmp_path.glob("a.*"))


def test_a_warning_is_one_line_without_code(given, tmp_path) -> None:
    args = command(given, tmp_path / "a.csv", "--users", "7,8", "--unknown", "popular")
    done = subprocess.run([sys.executable, "-m", "pyg_ckd.cli", *args], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [
        "pyg-ckd: warning: recommend: 1 of 2 users is unknown (first: 8); they get the items with most interactions"
    ]


def test_a_dash_makes_no_folder(given, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert fails(capsys, command(given, "-")).startswith("pyg-ckd: error: out -: found a dash, expected")
    assert not (tmp_path / "-").exists()


@pytest.mark.parametrize("options", [["--where.kind", "[no,se]"], ["--where.kind", "no"], ["--where", "{kind: no}"]])
def test_no_is_a_country(given, options, tmp_path, capsys) -> None:
    kinds = ["no", "se", "on", "off"] * 2
    (tmp_path / "items.csv").write_text(
        "item,kind\n" + "".join(f"item-{n},{kind}\n" for n, kind in enumerate(kinds)), encoding="utf-8"
    )
    more = ["--items_file", str(tmp_path / "items.csv"), "--exclude_seen", "no"]
    config = tmp_path / "where.yaml"
    config.write_text(f"where: {{kind: {options[-1]}}}\n" if options[-1][0] != "{" else f"where: {options[-1]}\n")
    wanted = {f"item-{n}" for n, kind in enumerate(kinds) if kind in (("no", "se") if "se" in options[-1] else ("no",))}
    for given_as in (options, ["--config", str(config)]):
        assert main(command(given, tmp_path / "a.csv", *more, "--k", str(len(wanted)), *given_as)) == 0
        assert set(pd.read_csv(tmp_path / "a.csv").item) == wanted
