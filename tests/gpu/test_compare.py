"""A whole study on the device, in two processes, ends with a report."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from pyg_ckd.cli import main


def test_a_study_in_two_processes_ends_with_a_report(device: torch.device, tmp_path: Path):
    args = ["compare", "--data", "synthetic", "--backbone", "VBPR", "--out", str(tmp_path / "study")]
    args += ["--data_options.num_users", "150", "--data_options.num_items", "90"]
    args += ["--data_options.num_interactions", "3000", "--seeds", "2", "--workers", "2", "--k", "5,20"]
    args += ["--baselines", "popularity,item-knn,lightgcn", "--trainer.device", str(device)]
    args += ["--trainer.max_epochs", "3", "--trainer.extend", "1", "--trainer.progress", "false"]
    assert main(args) == 0
    assert (tmp_path / "study" / "report.html").stat().st_size > 10_000
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    for name in ("plain", "ckd", "lightgcn"):
        runs = [run for run in results["runs"] if run["name"] == name]
        assert {run["seed"] for run in runs} == {0, 1}
        assert all(0 < run["test"]["recall@20"] < 1 for run in runs)
