"""``pyg-ckd evaluate`` and ``pyg-ckd effects``: what they find, and what they refuse."""

from __future__ import annotations

import json

import numpy as np
import torch

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
    torch.save(content | {"backbone": "VBPRX"}, path)
    assert "'VBPR'" in fails(capsys, args)


def test_a_file_of_metrics_that_cannot_be_written_is_named(arrays, save, capsys, tmp_path) -> None:
    data = save(arrays)
    assert main(train(data, tmp_path / "run", "--trainer.monitor", "recall@5")) == 0
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "metrics.json"):
        options = ["--checkpoint", str(tmp_path / "run" / "model.pt"), "--k", "5", "--json", str(path)]
        assert f"json {path}: cannot be written" in fails(capsys, ["evaluate", "--data", data, *options])
