"""``pyg-ckd show`` and ``export``: the model card in all its forms, and one line for a file that has none."""

from __future__ import annotations

import json
import pickle
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from pyg_ckd.cli import main
from pyg_ckd.training import save_checkpoint
from tests.cli.problem import fails, train


@pytest.fixture
def model(arrays, save, tmp_path, capsys) -> str:
    data = save({**arrays, "item_id": [f"item-{n}" for n in range(20)]})
    assert main([*train(data, tmp_path / "run"), "--seed", "3"]) == 0
    capsys.readouterr()
    return str(tmp_path / "run" / "model.pt")


class Reader(HTMLParser):
    """Collects the texts of a page and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_starttag(self, tag: str, attrs) -> None:
        self.links += [value for name, value in attrs if name in ("src", "href")]


def test_the_card_is_printed_and_written(model, tmp_path, capsys) -> None:
    page, file = tmp_path / "card.html", tmp_path / "card.json"
    assert main(["show", model, "--html", str(page), "--json", str(file)]) == 0
    out = capsys.readouterr().out
    card = json.loads(file.read_text(encoding="utf-8"))
    assert card["training"]["seed"] == 3
    assert card["training"]["objective"] == "plain"
    assert set(card["metrics"]) == {"val", "test"}
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert card["metrics"]["test"] == metrics["test"]
    html = Reader(page.read_text(encoding="utf-8"))
    assert html.links == []
    for words in ("texts from 'item-0' to 'item-9'", "StandardizeFeatures(scale=True)", card["data"]["fingerprint"]):
        assert words in out.replace("\n", "")
        assert any(words in text for text in html.texts)
    for name, value in card["metrics"]["test"].items():
        assert name in out
        assert f"{value:.4f}" in out
    assert '<html lang="en">' in page.read_text(encoding="utf-8")
    assert main(["show", model, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == card


def test_an_export_says_the_same_and_can_be_evaluated(model, tmp_path, capsys) -> None:
    pytest.importorskip("safetensors")
    out = str(tmp_path / "m.safetensors")
    assert main(["export", model, "--out", out]) == 0
    capsys.readouterr()
    cards = []
    for path in (model, out):
        assert main(["show", path, "--json", "-"]) == 0
        cards.append(json.loads(capsys.readouterr().out))
    assert cards[0] == cards[1]
    data = ["--data", str(tmp_path / "data.npz"), "--k", "5"]
    tables = []
    for path in (model, out):
        assert main(["evaluate", *data, "--checkpoint", path]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]
    assert "out" in fails(capsys, ["export", model, "--out", str(tmp_path / "m.txt")])
    assert "data: found none" in fails(capsys, ["export", model, "--out", str(tmp_path / "m.pt2")])
    assert main(["export", model, "--out", str(tmp_path / "m.pt2"), *data[:2]]) == 0
    assert (tmp_path / "m.pt2").is_file()


class Bomb:
    """Creates a file when it is unpickled."""

    def __reduce__(self):
        return (open, ("marker", "w"))


def test_files_without_a_card_give_one_line(model, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pt"
    whole = (tmp_path / "run" / "model.pt").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "bad.pt: cannot be read" in fails(capsys, ["show", str(path)])
    path.write_bytes(pickle.dumps({"format": 4, "kind": "model", "bomb": Bomb()}))
    assert "bad.pt: cannot be read" in fails(capsys, ["show", str(path)])
    assert not (tmp_path / "marker").exists()
    path.write_text("nothing", encoding="utf-8")
    assert "bad.pt: cannot be read" in fails(capsys, ["show", str(path)])
    save_checkpoint(path, {"kind": "teacher"})
    assert "found a checkpoint of kind 'teacher', expected 'model'" in fails(capsys, ["show", str(path)])
    torch.save({"format": 4, "kind": "model"}, path)
    assert "lacks backbone, data" in fails(capsys, ["show", str(path)])
    assert "no.pt: found no such file" in fails(capsys, ["show", "no.pt"])
    (tmp_path / "file").touch()
    assert "html" in fails(capsys, ["show", model, "--html", str(tmp_path / "file" / "a.html")])


def test_modules_that_cannot_be_imported_are_named(model, tmp_path, capsys) -> None:
    args = ["evaluate", "--data", str(tmp_path / "data.npz"), "--checkpoint", model, "--imports", "no_such_file"]
    assert "imports: no_such_file cannot be imported (ModuleNotFoundError" in fails(capsys, args)


def test_evaluate_matches_ids_in_another_order_and_refuses_others(arrays, save, tmp_path, capsys) -> None:
    user, item = np.arange(30) + 100, np.array([f"item-{n}" for n in range(20)])
    data = save({**arrays, "item_id": item, "user_id": user})
    assert main(train(data, tmp_path / "run")) == 0
    model = str(tmp_path / "run" / "model.pt")
    order = np.random.default_rng(1).permutation(20), np.random.default_rng(2).permutation(30)
    place = np.argsort(order[0]), np.argsort(order[1])
    splits = ("train", "val", "test")
    other = {name: np.stack([place[1][arrays[name][0]], place[0][arrays[name][1]]]) for name in splits}
    other |= {name: arrays[name][order[0]] for name in ("visual", "acoustic")}
    other |= {"item_id": item[order[0]], "user_id": user[order[1]]}
    np.savez(tmp_path / "other.npz", **(arrays | other))
    np.savez(tmp_path / "reversed.npz", **(arrays | {"item_id": item[::-1], "user_id": user}))
    found = []
    for name in ("data.npz", "other.npz"):
        out = tmp_path / f"{name}.json"
        args = ["evaluate", "--data", str(tmp_path / name), "--checkpoint", model, "--k", "5", "--json", str(out)]
        assert main(args) == 0
        found.append(json.loads(out.read_text(encoding="utf-8")))
    assert found[1] == pytest.approx(found[0], abs=1e-6)
    for command in ("evaluate", "effects"):
        line = fails(capsys, [command, "--data", str(tmp_path / "reversed.npz"), "--checkpoint", model])
        assert "item 'item-0', 'item-1', 'item-2' and 17 more has other features" in line
