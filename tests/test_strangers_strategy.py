"""A strategy in a file of its own, outside the package, is treated like those of the library, everywhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

STRATEGY = '''"""Slows down the modality that is ahead, as OGM-GE does."""

import torch

from pyg_ckd import Objective
from pyg_ckd.scoring import unimodal_views


class SlowDown(Objective):
    """Smaller steps for the modality that ranks more triples right."""

    def __init__(self, student, alpha: float = 0.3, l2: float = 1e-2) -> None:
        super().__init__(student, l2)
        self.alpha, self.alone = alpha, unimodal_views(student.modalities)
        self.register_buffer("score", torch.zeros(len(self.alone)))

    @property
    def views(self):
        return [self.view, *self.alone.values()]

    def balance(self, out, batch):
        triples = batch.user, batch.positive, batch.negative
        margins = [out[view].margin(*triples).detach() for view in self.alone.values()]
        self.score += torch.stack([margin.sigmoid().sum() for margin in margins])
        return {}

    def step_sizes(self):
        ratio = self.score / ((self.score.sum() - self.score) / (len(self.score) - 1)).clamp(min=1e-8)
        self.score.zero_()
        factor = torch.where(ratio > 1, 1 - torch.tanh(self.alpha * ratio), 1.0)
        return dict(zip(self.alone, factor.tolist()))
'''
DATA = {"num_users": 60, "num_items": 40, "num_interactions": 900}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "my_strategy.py").write_text(STRATEGY)
    options = {"data": "synthetic", "data_options": DATA, "backbone": "VBPR"}
    trainer = {"max_epochs": 2, "batch_size": 128, "device": "cpu"}
    (folder / "study.yaml").write_text(yaml.safe_dump({**options, "trainer": trainer}))
    (folder / "options.yaml").write_text(yaml.safe_dump({"my_strategy.SlowDown": {"alpha": 0.5}}))
    return folder


def run(folder: Path, *args: str) -> str:
    command = [sys.executable, "-m", "pyg_ckd", *args]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_file_has_some_thirty_lines_and_no_private_name():
    lines = [line for line in STRATEGY.splitlines() if line.strip()]
    assert len(lines) <= 32
    assert not re.search(r"[\s.](_[a-z]\w*)", STRATEGY)


def test_it_trains_and_its_model_can_be_measured(folder):
    out = folder / "run"
    run(folder, "train", "--config", "study.yaml", "--objective", "my_strategy.SlowDown", "--out", str(out))
    data = ["--data", "synthetic", "--data_options", json.dumps(DATA)]
    assert "visual" in run(folder, "effects", *data, "--checkpoint", str(out / "model.pt"))
    assert "recall@10" in run(folder, "evaluate", *data, "--checkpoint", str(out / "model.pt"), "--k", "10")


def test_it_is_compared_and_reported_under_its_own_name(folder):
    out = folder / "study"
    contenders = ["--contenders", "plain,my_strategy.SlowDown", "--options", "options.yaml"]
    table = run(
        folder, "compare", "--config", "study.yaml", *contenders, "--baselines", "popularity", "--out", str(out)
    )
    assert "SlowDown" in table
    results = json.loads((out / "results.json").read_text())
    entry = next(c for c in results["contenders"] if c["name"] != "plain")
    assert entry["strategy"] == "my_strategy.SlowDown"
    assert entry["options"]["alpha"] == 0.5
    assert {run["name"] for run in results["runs"]} >= {"plain", entry["name"], "popularity", "teacher:visual"}
    assert set(results["effects"]) == {"plain", entry["name"]}
    assert any(c["a"] == entry["name"] and c["b"] == "plain" for c in results["comparisons"])
    assert entry["name"] in set(pd.read_csv(out / "results.csv")["run"])
    assert "SlowDown" in (out / "report.html").read_text()
    assert "SlowDown" in (out / "table.tex").read_text().replace(r"\_", "_")
