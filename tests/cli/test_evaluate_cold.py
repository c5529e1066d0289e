"""Missing features and cold items, from the command line."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from pyg_ckd.cli import main

QUICK = ["--backbone", "VBPR", "--k", "[5]", "--trainer.max_epochs", "1", "--trainer.progress", "false"]


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "data"
    path.mkdir()
    keys = np.random.default_rng(0).choice(40 * 30, 500, replace=False)
    pd.DataFrame({"user": keys // 30, "item": keys % 30}).to_csv(path / "interactions.csv", index=False)
    np.save(path / "visual.npy", np.random.default_rng(1).normal(size=(30, 4)))
    np.save(path / "has_visual.npy", np.arange(30) < 20)
    return path


def train(folder, out, *more: str) -> int:
    monitor = ["--trainer.monitor", "recall@5"]
    return main(["train", "--data", str(folder), "--out", str(out), *QUICK, *monitor, *more])


def test_what_stands_in_for_missing_features_is_an_option(folder, tmp_path, capsys):
    assert train(folder, tmp_path / "a", "--impute", "graph") == 0
    assert train(folder, tmp_path / "a", "--impute", "zero") == 2
    assert "data" in capsys.readouterr().err
    assert train(folder, tmp_path / "b", "--impute", "grahp") == 2
    assert "unknown imputation 'grahp': did you mean 'graph'" in capsys.readouterr().err
    assert train(folder, tmp_path / "b", "--data_options", "{impute: graph}") == 2
    assert "data_options.impute: expected no such option here; give it as --impute" in capsys.readouterr().err
    assert train("synthetic", tmp_path / "b", "--impute", "graph") == 2
    assert "unknown option of synthetic_multimodal 'impute'" in capsys.readouterr().err


def test_cold_items_are_ranked_among_all_or_among_themselves(folder, tmp_path):
    split = ["--data_options", "{split: cold-start, cold_share: 0.3}"]
    assert train(folder, tmp_path / "run", *split) == 0
    common = ["evaluate", "--data", str(folder), *split, "--checkpoint", str(tmp_path / "run" / "model.pt")]
    found = {}
    for name, options in {"all": ["--cold", "true"], "cold": ["--candidates", "cold"]}.items():
        file = tmp_path / f"{name}.json"
        assert main([*common, "--k", "[3]", "--json", str(file), *options]) == 0
        found[name] = json.loads(file.read_text())
    assert found["cold"]["recall@3"] >= found["all"]["cold/recall@3"]
    assert found["cold"]["recall@3"] > 0
