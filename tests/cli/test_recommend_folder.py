"""``pyg-ckd recommend --data FOLDER``: what lists rest on, and new users whose clicks are held out or missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pyg_ckd.cli import main
from pyg_ckd.datasets import load
from pyg_ckd.nn import FISM
from pyg_ckd.serving import Recommender
from pyg_ckd.training import build
from pyg_ckd.training.model import save_model
from tests.cli.problem import fails

USERS, ITEMS, NEW = 12, 9, 3


def write(folder: Path, clicks: pd.DataFrame) -> str:
    folder.mkdir()
    rng = np.random.default_rng(1)
    clicks.to_csv(folder / "interactions.csv", index=False)
    pd.DataFrame({"item": [f"B{n}" for n in range(ITEMS)]}).to_csv(folder / "items.csv", index=False)
    np.save(folder / "visual.npy", rng.normal(size=(ITEMS, 4)))
    return str(folder)


def clicks(users: range) -> pd.DataFrame:
    rows = [(f"u{u}", f"B{i}", u + i) for u in users for i in range(ITEMS) if (u * i) % 5 < 2]
    return pd.DataFrame(rows, columns=["user", "item", "timestamp"])


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """Return a command for a model of some users, and a folder in which there are some more."""
    data = load(write(tmp_path / "old", clicks(range(USERS))), split="none")
    save_model(tmp_path / "model.pt", build(FISM, data, 0, embedding_dim=4), data)
    today = write(tmp_path / "new", clicks(range(USERS + NEW)))
    args = ["recommend", "--data", today, "--checkpoint", str(tmp_path / "model.pt")]
    return [*args, "--out", str(tmp_path / "a.csv"), "--k", "2"]


def test_all_clicks_are_served_on_request_and_else_a_note_says_how_many_are_not(given, capsys, tmp_path) -> None:
    assert main(given) == 0
    count = len(clicks(range(USERS + NEW)))
    held = count - load(given[2])["user", "rates", "item"].edge_index.size(1)
    words = f"note: the lists do not rest on {held} interactions of the validation and test parts; --data_options.split"
    said = capsys.readouterr().err.splitlines()
    assert sum(line.startswith(words) for line in said) == 1
    assert main([*given, "--data_options.split", "none"]) == 0
    assert "do not rest" not in capsys.readouterr().err
    source = Recommender.load(tmp_path / "model.pt", load(given[2], split="none"))
    got, expected = pd.read_csv(tmp_path / "a.csv"), source.recommend(k=2).to_frame()
    assert got[["user", "rank", "item"]].to_numpy().tolist() == expected.drop(columns="score").to_numpy().tolist()


def test_a_file_that_is_split_already_has_no_such_note(given, capsys, tmp_path) -> None:
    assert main(["data", "convert", given[2], str(tmp_path / "new.npz"), "--format", "npz"]) == 0
    assert main([*given[:2], str(tmp_path / "new.npz"), *given[3:]]) == 0
    assert "do not rest" not in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:recommend")
def test_new_users_without_clicks_get_popular_items_on_request(given, capsys, tmp_path) -> None:
    temporal = ["--data_options.split", "temporal", "--data_options.ratios", "[0.5,0.25,0.25]"]
    data = load(given[2], split="temporal", ratios=[0.5, 0.25, 0.25])
    rates = data["user", "rates", "item"]
    there = {data.user_id[u] for u in rates.edge_index[0].tolist()}
    waiting = {f"u{n}" for n in range(USERS, USERS + NEW)} - there
    assert waiting
    assert main([*given, *temporal]) == 0
    assert f"stay unknown ({len(waiting)}, such as " in (said := capsys.readouterr().err)
    assert "): --unknown popular serves them\n" in said
    assert not waiting & set(pd.read_csv(tmp_path / "a.csv").user)
    assert main([*given, *temporal, "--unknown", "popular"]) == 0
    assert "stay unknown" not in capsys.readouterr().err
    got = pd.read_csv(tmp_path / "a.csv")
    assert waiting <= set(got.user[got["from"] == "popularity"])
    assert not waiting & set(got.user[got["from"] == "model"])
    parts = (rates.edge_index, rates.val_edge_index, rates.test_edge_index)
    met = {(data.user_id[u], data.item_id[i]) for part in parts for u, i in part.t().tolist()}
    assert not met & set(zip(got.user, got.item, strict=True))


def test_commands_that_need_a_held_out_part_say_so(given, capsys, tmp_path) -> None:
    none = ["--data_options.split", "none"]
    args = ["train", "--data", given[2], "--backbone", "VBPR", "--out", str(tmp_path / "out")]
    assert main([*args, *none, "--trainer.max_epochs", "1", "--trainer.patience", "2"]) == 0
    assert "nothing was measured: the data have neither a validation nor a test part" in capsys.readouterr().out
    args = ["evaluate", "--data", str(tmp_path / "old"), "--checkpoint", given[4], "--k", "2"]
    line = fails(capsys, [*args, *none])
    assert "split 'test': found no interaction, expected at least one to evaluate on; hold some out" in line
    line = fails(capsys, [*given, *none, "--data_options.ratios", "[0.8,0.1,0.1]"])
    assert "ratios: found [0.8, 0.1, 0.1] beside split='none'" in line
