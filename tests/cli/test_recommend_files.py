"""The files of ``pyg-ckd recommend``: ids that are unknown have a line, and columns are found in any case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pyg_ckd.cli import main
from pyg_ckd.data import build_data
from pyg_ckd.datasets import load
from pyg_ckd.nn import backbones
from pyg_ckd.serving import Recommender
from pyg_ckd.training import build
from pyg_ckd.training.model import save_model
from tests.cli.problem import fails

USERS, ITEMS = 6, 5


@pytest.fixture(params=["integers", "texts"])
def command(request, tmp_path: Path) -> list[str]:
    """A command for users that are integers or texts, and items that are texts."""
    rng = np.random.default_rng(0)
    users = np.arange(USERS) * 7 if request.param == "integers" else np.array([f"{7 * n}x" for n in range(USERS)])
    np.savez(
        tmp_path / "data.npz",
        train=np.array([(u, i) for u in range(USERS) for i in range(ITEMS) if (u + i) % 2]).T,
        visual=rng.normal(size=(ITEMS, 3)),
        text=rng.normal(size=(ITEMS, 2)),
        num_users=USERS,
        num_items=ITEMS,
        user_id=users,
        item_id=np.array([f"B{n}" for n in range(ITEMS)]),
    )
    data = load(tmp_path / "data.npz")
    save_model(tmp_path / "model.pt", build(backbones()["VBPR"], data, 0), data)
    paths = {"data": "data.npz", "checkpoint": "model.pt", "out": "a.csv"}
    options = [word for name, file in paths.items() for word in (f"--{name}", str(tmp_path / file))]
    return ["recommend", *options, "--k", "2"]


def ids(command: list[str]) -> list[str]:
    known = load(command[2]).user_id
    return [str(one) for one in (known if isinstance(known, list) else known.tolist())]


@pytest.mark.parametrize("unknown", ["user", "ann", "999"])
@pytest.mark.parametrize("line", [1, 2, 4])
def test_an_unknown_user_of_a_file_has_a_line(command, tmp_path, capsys, unknown, line):
    known = ids(command)
    lines = [*known[: line - 1], unknown, *known[line - 1 :], "another"]
    path = tmp_path / "users.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    said = fails(capsys, [*command, "--users_file", str(path)])
    assert f"users_file {path}: line {line}: unknown user " in said
    assert unknown in said
    assert ("if this line is a header, remove it" in said) == (line == 1)


def test_blank_lines_count(command, tmp_path, capsys):
    (tmp_path / "users.txt").write_text(f"\n{ids(command)[0]}\n\n  ann \n", encoding="utf-8")
    said = fails(capsys, [*command, "--users_file", str(tmp_path / "users.txt")])
    assert "users.txt: line 4: unknown user 'ann'" in said


@pytest.mark.parametrize("option", ["candidates_file", "exclude_file"])
def test_an_unknown_item_of_a_file_has_a_line(command, tmp_path, capsys, option):
    path = tmp_path / "items.txt"
    path.write_text("item\nB0\nB1\n", encoding="utf-8")
    said = fails(capsys, [*command, f"--{option}", str(path)])
    assert f"{option} {path}: line 1: unknown item 'item'" in said
    assert "if this line is a header, remove it" in said


def test_new_users_of_a_file_are_of_the_type_of_the_others(command, tmp_path, capsys):
    known = ids(command)
    path = tmp_path / "users.txt"
    path.write_text("\n".join([*known, "999"]), encoding="utf-8")
    with pytest.warns(UserWarning, match="unknown"):
        assert main([*command, "--users_file", str(path), "--unknown", "popular"]) == 0
    path.write_text("\n".join([*known, "ann"]), encoding="utf-8")
    if known[1] == "7":
        said = fails(capsys, [*command, "--users_file", str(path), "--unknown", "popular"])
        assert f"users.txt: line {USERS + 1}: found 'ann', expected an integer, as ids of users are" in said
        assert "unknown" not in said
        path.write_text("\n".join(["user", *known]), encoding="utf-8")
        said = fails(capsys, [*command, "--users_file", str(path), "--unknown", "popular"])
        assert "users.txt: line 1: found 'user'" in said
        assert "if this line is a header, remove it" in said
    capsys.readouterr()


@pytest.mark.parametrize("name", ["Item", "ITEM_ID", " item ", "item_id"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_column_of_items_is_found_in_any_case(command, tmp_path, name, suffix):
    frame = pd.DataFrame({name: [f"B{n}" for n in range(ITEMS)], "kind": ["hat", "shoe", "hat", "shoe", "hat"]})
    path = tmp_path / f"items.{suffix}"
    frame.to_parquet(path) if suffix == "parquet" else frame.to_csv(path, index=False)
    more = ["--items_file", str(path), "--where.kind", "shoe", "--exclude_seen", "false"]
    assert main([*command, *more]) == 0
    assert set(pd.read_csv(tmp_path / "a.csv").item) == {"B1", "B3"}


@pytest.mark.parametrize("names", [("item_id", "Item"), ("Item", "item"), ("Item", "item_id"), ("item", "ITEM_ID")])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_column_of_items_is_the_one_of_exactly_that_name(command, tmp_path, names, suffix):
    frame = pd.DataFrame({name: [f"Name {n}" for n in range(ITEMS)] for name in names})
    frame[min(names, key=lambda name: not name.islower())] = [f"B{n}" for n in range(ITEMS)]
    frame["kind"] = ["hat", "shoe", "hat", "shoe", "hat"]
    path = tmp_path / f"items.{suffix}"
    frame.to_parquet(path) if suffix == "parquet" else frame.to_csv(path, index=False)
    more = ["--items_file", str(path), "--where.kind", "shoe", "--exclude_seen", "false"]
    assert main([*command, *more]) == 0
    assert set(pd.read_csv(tmp_path / "a.csv").item) == {"B1", "B3"}


def test_two_columns_of_items_are_refused(command, tmp_path, capsys):
    (tmp_path / "items.csv").write_text("Item,ITEM,kind\nB0,B1,hat\n", encoding="utf-8")
    said = fails(capsys, [*command, "--items_file", str(tmp_path / "items.csv")])
    assert "items.csv: has the columns 'Item' and 'ITEM', expected one column 'item'" in said


def test_blanks_around_ids_of_items_are_no_part_of_them(command, tmp_path):
    rows = "".join(f"B{n} ,{'hat' if n % 2 else 'shoe'}\n" for n in range(ITEMS))
    (tmp_path / "items.csv").write_text(f"item,kind\n{rows}", encoding="utf-8")
    more = ["--items_file", str(tmp_path / "items.csv"), "--where.kind", "hat", "--exclude_seen", "false"]
    assert main([*command, *more]) == 0
    assert set(pd.read_csv(tmp_path / "a.csv").item) == {"B1", "B3"}


def test_blanks_that_ids_of_the_graph_have_stay(tmp_path):
    kinds = {" a": "hat", "a": "shoe", "b": "hat", "c": "shoe"}
    frame = pd.DataFrame([(u, item) for u in range(3) for item in list(kinds)[:3]], columns=["user", "item"])
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(4, 3)), index=list(kinds))
    data = build_data(frame, {"visual": table, "text": table})
    recommender = Recommender(build(backbones()["VBPR"], data, 0), data)
    recommender.save(tmp_path / "served.pt")
    rows = "".join(f"{name}{' ' * (name == 'b')},{kind}\n" for name, kind in kinds.items())
    (tmp_path / "items.csv").write_text(f"item,kind\n{rows} unknown,hat\n", encoding="utf-8")
    command = ["recommend", "--checkpoint", str(tmp_path / "served.pt"), "--out", str(tmp_path / "a.csv"), "--k", "2"]
    more = ["--items_file", str(tmp_path / "items.csv"), "--where.kind", "hat", "--exclude_seen", "false"]
    assert main([*command, *more]) == 0
    assert set(pd.read_csv(tmp_path / "a.csv").item) == {" a", "b"}
