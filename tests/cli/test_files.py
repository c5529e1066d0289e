"""Files that the commands read: byte-order marks, ids as they are written, paths with a tilde, suffixes in capitals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pyg_ckd.cli import main
from pyg_ckd.cli.yaml_files import parse, parse_word
from pyg_ckd.datasets import load
from pyg_ckd.nn import VBPR
from pyg_ckd.training import build
from pyg_ckd.training.model import save_model
from tests.cli.problem import QUICK, fails

IDS = {"integers": np.arange(12) * 7 + 513, "text": np.array([f"0{n}" for n in range(1, 13)])}
MARKS = ["utf-8", "utf-8-sig", "utf-16"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with two data sets, whose users are integers and text, and a model of each."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    key = rng.permutation(96)[:50]
    pairs = np.stack([key // 8, key % 8])
    arrays = {"train": pairs[:, :40], "val": pairs[:, 40:45], "test": pairs[:, 45:], "num_users": 12, "num_items": 8}
    arrays |= {"visual": rng.normal(size=(8, 3)), "text": rng.normal(size=(8, 2))}
    for name, ids in IDS.items():
        np.savez(tmp_path / f"{name}.npz", **arrays, user_id=ids, item_id=np.array([f"0{n}001" for n in range(8)]))
        data = load(f"~/{name}.npz")
        save_model(f"~/{name}.pt", build(VBPR, data, 0), data)
    return tmp_path


def recommend(name: str, *more: str) -> list[str]:
    files = ("--data", f"~/{name}.npz", "--checkpoint", f"~/{name}.pt", "--out", "~/out.csv")
    return ["recommend", *files, "--k", "2", *more]


def users(home: Path) -> list[str]:
    return list(dict.fromkeys(pd.read_csv(home / "out.csv", dtype=str)["user"]))


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_marks_of_files_of_ids_are_no_letters(home, mark, end) -> None:
    (home / "users.txt").write_bytes(f"513{end}{end}520{end}".encode(mark))
    (home / "stock.txt").write_bytes(f"01001{end}02001{end}03001".encode(mark))
    files = ("--users_file", "~/users.txt", "--candidates_file", "~/stock.txt")
    assert main(recommend("integers", *files, "--exclude_seen", "false")) == 0
    assert users(home) == ["513", "520"]
    assert set(pd.read_csv(home / "out.csv", dtype=str)["item"]) <= {"01001", "02001", "03001"}


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize(
    ("name", "written", "expected"),
    [
        ("integers", "[513, 520]", ["513", "520"]),
        ("integers", "['513']", ["513"]),
        ("text", "[01, 010]", ["01", "010"]),
        ("text", "01", ["01"]),
        ("text", "'01,010'", ["01", "010"]),
    ],
)
def test_files_of_options_keep_ids_as_they_are_written(home, mark, name, written, expected) -> None:
    lines = [f"data: ~/{name}.npz", f"checkpoint: ~/{name}.pt", "out: ~/out.csv", "k: 2", f"users: {written}"]
    (home / "options.yaml").write_bytes("\n".join(lines).encode(mark))
    assert main(["recommend", "--config", "~/options.yaml"]) == 0
    assert users(home) == expected


def test_typed_ids_are_those_of_the_data_or_unknown(home, capsys) -> None:
    assert main(recommend("text", "--users", "01,010")) == 0
    assert users(home) == ["01", "010"]
    assert main(recommend("integers", "--users", "513")) == 0
    assert users(home) == ["513"]
    for name, typed in (("text", "1"), ("integers", "0513"), ("integers", "01001"), ("integers", "513.0")):
        assert f"unknown user '{typed}'" in fails(capsys, recommend(name, "--users", typed))


def test_files_in_another_encoding_are_named_with_the_way_to_mend_them(home, capsys) -> None:
    (home / "latin.txt").write_bytes("größe\n".encode("latin-1"))
    expected = "latin.txt: cannot be read (it is not UTF-8; save it as UTF-8)"
    assert expected in fails(capsys, recommend("text", "--users_file", "~/latin.txt"))
    assert expected in fails(capsys, ["recommend", "--config", "~/latin.txt"])


def test_repeated_interactions_may_be_thinned_while_a_data_set_is_converted(home, capsys) -> None:
    (home / "twice").mkdir()
    np.save(home / "twice" / "visual.npy", np.eye(3))
    (home / "twice" / "interactions.csv").write_text("user,item\na,0\na,1\nb,1\na,0\n")
    args = ["data", "convert", "~/twice", "~/once", "--format", "mmrec"]
    assert "1 duplicate interactions, the first is user 'a', item 0 again in row 3" in fails(capsys, args)
    assert main([*args, "--data_options.keep", "first"]) == 0
    assert len((home / "once" / "once.inter").read_text().splitlines()) == 4


@pytest.mark.parametrize("name", ["out.CSV", "out.Parquet", "out.PARQUET"])
def test_suffixes_in_capitals_are_suffixes(home, name) -> None:
    (home / "integers.pt").rename(home / "integers.PT")
    args = recommend("integers")
    args[args.index("~/integers.pt")], args[args.index("~/out.csv")] = "~/integers.PT", f"~/{name}"
    assert main(args) == 0
    read = pd.read_csv if name.endswith("CSV") else pd.read_parquet
    assert len(read(home / name)) == 24
    assert main(["data", "describe", "~/text.npz", "--out", "~/page.HTML"]) == 0
    assert (home / "page.HTML").is_file()


def test_a_tilde_stands_for_home_in_every_path(home) -> None:
    assert main(["data", "convert", "~/text.npz", "~/recbole", "--format", "recbole"]) == 0
    assert (home / "recbole" / "recbole.train.inter").is_file()
    more = ["--trainer.monitor", "recall@2", "--k", "2"]
    (home / "run.yaml").write_text("data: ~/text.npz\nout: ~/run\nbackbone: VBPR\n", encoding="utf-8-sig")
    assert main(["train", "--config", "~/run.yaml", *QUICK, *more]) == 0
    assert (home / "run" / "model.pt").is_file()
    evaluated = ["evaluate", "--data", "~/text.npz", "--checkpoint", "~/run/model.pt", "--k", "2"]
    assert main([*evaluated, "--json", "~/metrics.json"]) == 0
    assert (home / "metrics.json").is_file()
    assert not any(path.name.startswith("~") for path in home.rglob("*"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("01001", "01001"), ("0x1f", "0x1f"), ("1_000", "1_000"), ("1:30", "1:30"), ("0", 0), ("-5", -5), ("+7", 7),
        ("1e-3", 1e-3), ("1.", 1.0), (".5", 0.5), ("-2.5E+3", -2500.0), ("2024-05-01", "2024-05-01"), ("1e", "1e"),
        ("9007199254740993", 9007199254740993),
    ],
)  # fmt: skip
def test_only_what_is_written_as_a_number_is_one(text, value) -> None:
    found = parse(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("5", 5), ("0.5", 0.5), ("true", True), ("no", "no"), ("null", None), ("[1, 2]", [1, 2]), ("'01'", "01"),
        ('"yes"', "yes"), ("{a: 1}", {"a": 1}), ("0.6,0.2,0.2", [0.6, 0.2, 0.2]), ("1,2", [1, 2]), ("a,b", "a,b"),
        ("C # x", "C # x"), ("#1 hits", "#1 hits"), ("A: B", "A: B"), ("", ""), ("[a", "[a"), (",", ","),
        ("- a", "- a"),
    ],
)  # fmt: skip
def test_a_word_of_no_known_type_is_a_number_or_the_text_as_it_stands(word, value) -> None:
    found = parse_word(word)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "options",
    [
        ["--data_options.positive", '"yes"'],
        ["--data-options.positive", "'yes'"],
        ["--data_options", '{"positive": "yes"}'],
        ["--config", "~/options.yaml"],
    ],
)
def test_a_quoted_text_stays_a_text(options, home, capsys) -> None:
    rows = [f"{u},{(u * 3 + n) % 7},{'no' if n == 4 else 'yes'}" for u in range(6) for n in range(5)]
    (home / "own").mkdir()
    (home / "own" / "interactions.csv").write_text("\n".join(["user,item,label", *rows]), encoding="utf-8")
    np.save(home / "own" / "a.npy", np.random.default_rng(0).normal(size=(7, 2)))
    (home / "options.yaml").write_text('data_options:\n  positive: "yes"\n', encoding="utf-8")
    assert main(["data", "convert", "~/own", "~/new.npz", "--format", "npz", *options]) == 0
    with np.load(home / "new.npz") as new:
        assert sum(new[part].shape[1] for part in ("train", "val", "test")) == 24


def test_no_is_a_truth_value_for_an_option_of_a_reader_that_is_one(home, capsys) -> None:
    (home / "options.yaml").write_text("data_options: {strict: no}\n", encoding="utf-8")
    for options in (
        ["--data_options.strict", "no"],
        ["--data_options", "{strict: no}"],
        ["--config", "~/options.yaml"],
    ):
        assert main(["data", "convert", "~/text.npz", "~/new.npz", "--format", "npz", *options]) == 0
        assert main(["data", "describe", "~/text.npz", *options]) == 0
        assert main([*recommend("integers"), *options]) == 0
        (home / "new.npz").unlink()
    assert (
        main(["data", "convert", "~/text.npz", "~/new.npz", "--format", "npz", "--data_options.strict", "never"]) == 2
    )


@pytest.mark.parametrize("out", ["s3://bucket/run", "file:///tmp/run"], ids=["s3", "file"])
def test_addresses_are_no_folders_to_write_to(out, home, capsys) -> None:
    before = sorted(home.rglob("*"))
    for command in ("train", "compare", "tune"):
        assert main([command, "--data", "~/text.npz", "--out", out, "--backbone", "VBPR", *QUICK]) == 2
        assert f"found the address '{out}', expected a path" in capsys.readouterr().err
    assert main([*recommend("integers"), "--out", f"{out}.csv"]) == 2
    assert sorted(home.rglob("*")) == before
