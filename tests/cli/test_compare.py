"""``pyg-ckd compare``: the whole study, contenders and their options."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from pyg_ckd.cli import main
from tests.cli.problem import QUICK, fails


def test_compare_writes_a_complete_study_and_goes_on_where_it_was(arrays, save, capsys, tmp_path) -> None:
    data, out = save(arrays), tmp_path / "study"
    args = ["compare", "--data", data, "--backbone", "VBPR", "--out", str(out), "--k", "[5,10]", *QUICK]
    args += ["--trainer.monitor", "recall@10"]
    assert main([*args, "--seeds", "1"]) == 0
    names = {path.name for path in out.iterdir()}
    assert {"report.html", "results.json", "results.png", "effects.png"} <= names
    results = json.loads((out / "results.json").read_text())
    assert [run["name"] for run in results["runs"]] == [
        "popularity",
        "lightgcn",
        "plain",
        "teacher:visual",
        "teacher:acoustic",
        "ckd",
    ]
    ckd = results["runs"][-1]
    assert ckd["backbone"] == "VBPR"
    assert set(ckd["views"]) == {"visual", "acoustic"}
    assert {"recall@5", "ndcg@10", "cold/recall@5", "coverage@10", "personalization@5"} <= set(ckd["test"])
    assert set(results["effects"]["visual"]) >= {"mean", "low", "high"}

    stamp = (out / "runs" / "plain-seed0" / "run.json").stat().st_mtime_ns
    capsys.readouterr()
    assert main([*args, "--seeds", "2"]) == 0
    assert (out / "runs" / "plain-seed0" / "run.json").stat().st_mtime_ns == stamp
    again = json.loads((out / "results.json").read_text())
    assert len(again["runs"]) == 11
    first = [run for run in again["runs"] if run["seed"] == 0]
    assert first == results["runs"]
    assert "CKD" in capsys.readouterr().out
    assert "model" in fails(capsys, [*args, "--model.embedding_dim", "8"])


def test_compare_works_with_eight_items(arrays, save, capsys, tmp_path) -> None:
    rng = np.random.default_rng(0)
    key = rng.permutation(20 * 8)[:110]
    pairs = np.stack([key // 8, key % 8])
    small = {"train": pairs[:, :60], "val": pairs[:, 60:85], "test": pairs[:, 85:]}
    small |= {m: arrays[m][:8] for m in ("visual", "acoustic")}
    data, out = save({**small, "num_users": np.int64(20), "num_items": np.int64(8)}), tmp_path / "study"
    args = ["compare", "--data", data, "--backbone", "VBPR", "--out", str(out), *QUICK]
    assert "k: found 10" in fails(capsys, [*args, "--trainer.monitor", "recall@5"])
    assert "trainer.monitor: found recall@20" in fails(capsys, [*args, "--k", "[5]"])
    assert main([*args, "--k", "[3]", "--trainer.monitor", "recall@5"]) == 0
    results = json.loads((out / "results.json").read_text())
    assert [test["metric"] for test in results["comparisons"]] == ["recall@5", "ndcg@5"]
    assert {"recall@3", "recall@5"} <= set(results["runs"][1]["test"])
    assert "joint recall@5" in capsys.readouterr().out
    assert (out / "learning_curves.png").exists()


def test_compare_refuses_a_backbone_that_ignores_features(arrays, save, capsys, tmp_path, monkeypatch) -> None:
    from pyg_ckd.nn import LightGCN

    monkeypatch.setattr(LightGCN, "uses_features", False, raising=False)
    args = ["--data", save(arrays), "--out", str(tmp_path / "out"), "--backbone", "LightGCN", *QUICK]
    line = fails(capsys, ["compare", *args])
    assert "LightGCN, which ignores all features" in line
    assert "pyg-ckd train --backbone LightGCN" in line
    assert not (tmp_path / "out").exists()


def test_the_test_metrics_of_a_study_are_those_of_evaluate(arrays, save, tmp_path) -> None:
    data, out = save(arrays), tmp_path / "study"
    assert main(["compare", "--data", data, "--backbone", "MMGCN", "--out", str(out), "--k", "[5]", *QUICK]) == 0
    path = out / "runs" / "ckd-seed0"
    args = [
        "evaluate",
        "--data",
        data,
        "--checkpoint",
        str(path / "model.pt"),
        "--k",
        "[5]",
        "--json",
        str(out / "x.json"),
    ]
    assert main([*args, "--metrics", "[recall]"]) == 0
    expected = json.loads((out / "x.json").read_text())["recall@5"]
    assert json.loads((path / "run.json").read_text())["test"]["recall@5"] == pytest.approx(expected, abs=1e-7)
    per_user = pd.read_csv(path / "per_user.csv", index_col="user")["recall@5"]
    assert per_user.mean() == pytest.approx(expected, abs=1e-6)
