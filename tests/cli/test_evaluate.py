"""``pyg-ckd evaluate`` and ``pyg-ckd effects``: what they find, and what they refuse."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from pyg_ckd.balance.discovery import strategies
from pyg_ckd.cli import main
from tests.cli.problem import fails, train


def test_train_evaluate_and_effects_agree(arrays, save, capsys, tmp_path) -> None:
    arrays["has_acoustic"] = np.arange(20) % 3 > 0
    data = save(arrays)
    out = tmp_path / "out"
    assert main(train(data, out, "--objective", "ckd")) == 0
    assert {"model.pt", "history.csv", "metrics.json"} <= {path.name for path in out.iterdir()}
    trained = json.loads((out / "metrics.json").read_text())["test"]

    args = ["--data", data, "--checkpoint", str(out / "model.pt"), "--json", str(tmp_path / "result.json")]
    assert main(["evaluate", *args, "--k", "[5]", "--split", "test"]) == 0
    assert json.loads((tmp_path / "result.json").read_text()) == trained
    assert main(["evaluate", *args, "--k", "[5]", "--view", "[visual]", "--cold", "true"]) == 0
    assert "cold/recall@5" in json.loads((tmp_path / "result.json").read_text())
    assert "view: visual" in capsys.readouterr().out
    assert main(["evaluate", *args, "--k", "[5]", "--view", "[]"]) == 0
    assert "view: no modality is factual" in capsys.readouterr().out
    assert "mask: found 'test'" in fails(capsys, ["evaluate", *args, "--k", "[5]", "--mask", "[train,test]"])
    assert main(["effects", *args, "--k", "5"]) == 0
    effects = json.loads((tmp_path / "result.json").read_text())
    assert set(effects) == {"visual", "acoustic"}
    assert all(row["low"] <= row["effect"] <= row["high"] for row in effects.values())

    assert "'acoustic'" in fails(capsys, ["evaluate", *args, "--k", "[5]", "--view", "[accoustic]"])
    assert "'test'" in fails(capsys, ["evaluate", *args, "--k", "[5]", "--split", "tset"])
    assert "'recall'" in fails(capsys, ["evaluate", *args, "--k", "[5]", "--metrics", "[recal]"])
    other = save(arrays | {"acoustic": arrays["acoustic"] ** 3})
    assert "other data" in fails(capsys, ["effects", "--data", other, "--checkpoint", str(out / "model.pt")])


def test_a_checkpoint_of_another_version_or_cut_short_is_refused(arrays, save, capsys, tmp_path) -> None:
    data = save(arrays)
    assert main(train(data, tmp_path / "out")) == 0
    path = tmp_path / "out" / "model.pt"
    args = ["evaluate", "--data", data, "--checkpoint", str(path), "--k", "[5]"]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged" in fails(capsys, args)
    path.write_bytes(whole)
    content = torch.load(path, weights_only=True)
    torch.save(content | {"format": 0}, path)
    assert "format 0" in fails(capsys, args)
    torch.save(content | {"backbone": "VBPRX", "class": "pyg_ckd.nn.models.vbpr.VBPRX"}, path)
    assert "'VBPR'" in fails(capsys, args)


def test_a_file_of_metrics_that_cannot_be_written_is_named(arrays, save, capsys, tmp_path) -> None:
    data = save(arrays)
    assert main(train(data, tmp_path / "run", "--trainer.monitor", "recall@5")) == 0
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "metrics.json"):
        options = ["--checkpoint", str(tmp_path / "run" / "model.pt"), "--k", "5", "--json", str(path)]
        assert f"json {path}: cannot be written" in fails(capsys, ["evaluate", "--data", data, *options])


STRANGER = """
from pyg_ckd import Objective
from pyg_ckd.scoring import Embeddings


class Turned(Objective):
    def forward_views(self, features, edge_index_dict, views, **kw):
        found = self.student.forward_views(features, edge_index_dict, views, **kw)
        return [Embeddings(-user, item) for user, item in found]
"""


def test_a_model_that_ranks_with_a_strategy_of_ones_own_is_measured_and_served(
    arrays, save, capsys, tmp_path, monkeypatch
) -> None:
    data, here = save(arrays), tmp_path / "here"
    here.mkdir()
    (here / "turned_strategy.py").write_text(STRANGER)
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert main(train(data, tmp_path / "run", "--objective", "turned_strategy.Turned")) == 0
    trained = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    args = ["--data", data, "--checkpoint", str(tmp_path / "run" / "model.pt")]
    monkeypatch.delitem(sys.modules, "turned_strategy")
    assert "--strategy turned_strategy.Turned" in fails(capsys, ["evaluate", *args, "--k", "5"])
    args += ["--strategy", "turned_strategy.Turned"]
    assert main(["evaluate", *args, "--k", "5", "--json", str(tmp_path / "x.json")]) == 0
    assert json.loads((tmp_path / "x.json").read_text()) == trained
    assert main(["effects", *args, "--k", "5"]) == 0
    assert main(["recommend", *args, "--k", "5", "--out", str(tmp_path / "top.csv")]) == 0
    assert "unknown strategy 'Turnd'" in fails(capsys, ["effects", *args[:-1], "Turnd"])


@pytest.mark.parametrize("objective", list(strategies()))
def test_models_of_every_strategy_are_measured_and_served(objective: str, arrays, save, tmp_path) -> None:
    data = save(arrays)
    assert main(train(data, tmp_path / "run", "--objective", objective, "--trainer.max_epochs", "1")) == 0
    trained = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    args = ["--data", data, "--checkpoint", str(tmp_path / "run" / "model.pt")]
    assert main(["evaluate", *args, "--k", "5", "--json", str(tmp_path / "x.json")]) == 0
    assert json.loads((tmp_path / "x.json").read_text()) == trained
    assert main(["effects", *args, "--k", "5", "--json", str(tmp_path / "effects.json")]) == 0
    assert set(json.loads((tmp_path / "effects.json").read_text())) == {"visual", "acoustic"}
    assert main(["recommend", *args, "--k", "3", "--out", str(tmp_path / "top.csv")]) == 0
    assert len((tmp_path / "top.csv").read_text().splitlines()) == 1 + 30 * 3


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["effects", "--k", "5,10"], "--k: found '5,10', expected an integer"),
        (["effects", "--confidence", "high"], "--confidence: found 'high', expected a number"),
        (["effects", "--num_boot", "3"], "unknown option --num_boot: did you mean --num_bootstrap?"),
        (["evaluate", "--view", "visual acoustic"], "--view: found 'visual acoustic', expected names with commas"),
        (["evaluate", "--metrics", "recall ndcg"], "--metrics: found 'recall ndcg', expected names with commas"),
        (["evaluate", "--mask", "train,"], "--mask: found 'train,', expected names with commas"),
        (["evaluate", "--cold", "perhaps"], "--cold: found 'perhaps', expected true or false"),
        (["evaluate", "--spilt", "val"], "unknown option --spilt: did you mean --split?"),
        (["recommend", "--out", "x.csv", "--k", "[5]"], "--k: found '[5]', expected an integer"),
        (["recommend", "--out", "x.csv", "--seen", "train val"], "--seen: found 'train val', expected names"),
        (["recommend", "--out", "x.csv", "--user", "3"], "unknown option --user: did you mean --users"),
    ],
)
def test_a_wrong_option_gives_one_line(args: list[str], word: str, capsys) -> None:
    assert word in fails(capsys, [*args, "--data", "d.npz", "--checkpoint", "model.pt"])
