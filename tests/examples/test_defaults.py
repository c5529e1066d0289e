"""Trials of defaults are kept in one file and go on from it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from examples import defaults
from pyg_ckd.datasets import load
from pyg_ckd.datasets.npz import write_npz


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    options = ["--data", "synthetic", "--backbones", "VBPR", "--baselines", "--seeds", "1", "--max-epochs", "1"]
    monkeypatch.setattr(sys, "argv", ["defaults", *options, *arguments])
    defaults.main()


def test_kept_trials_are_not_made_again(tmp_path: Path, monkeypatch, capsys) -> None:
    file = tmp_path / "trials.json"
    run(monkeypatch, "--trials", "2", "--out", str(tmp_path / "a"), "--keep", str(file))
    kept = json.loads(file.read_text())
    assert list(kept) == ["synthetic-VBPR-0-0", "synthetic-VBPR-1-0"]
    assert kept["synthetic-VBPR-1-0"]["settings"] == defaults.settings_of("VBPR", 1)
    capsys.readouterr()
    run(monkeypatch, "--trials", "3", "--out", str(tmp_path / "b"), "--keep", str(file))
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if "validation 0" in line] == [
        "synthetic-VBPR-2-0"
    ]
    assert json.loads(file.read_text()).items() > kept.items()


def test_trials_of_another_budget_are_refused(tmp_path: Path, monkeypatch, capsys) -> None:
    file = tmp_path / "trials.json"
    run(monkeypatch, "--out", str(tmp_path / "a"), "--keep", str(file))
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "--out", str(tmp_path / "b"), "--keep", str(file), "--max-epochs", "2")
    assert ended.value.code == 2
    assert "trials.json, synthetic-VBPR-0-0: a run of other settings" in capsys.readouterr().err


def test_every_data_set_can_have_a_budget_of_its_own(tmp_path: Path, monkeypatch, capsys) -> None:
    copy = tmp_path / "copy.npz"
    write_npz(load("synthetic"), copy)
    file = tmp_path / "trials.json"
    options = ["--data", "synthetic", str(copy), "--trials", "2", "--out", str(tmp_path / "a"), "--keep", str(file)]
    run(monkeypatch, *options, "--max-epochs", "1", "2")
    assert {name: kept["budget"] for name, kept in json.loads(file.read_text()).items()} == {
        "copy-VBPR-0-0": 2,
        "copy-VBPR-1-0": 2,
        "synthetic-VBPR-0-0": 1,
        "synthetic-VBPR-1-0": 1,
    }
    assert "| VBPR | copy | 2 |" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *options, "--max-epochs", "1", "2", "3")
    assert ended.value.code == 2
    assert "--max-epochs: found 3 numbers, expected one number, or one for each of 2" in capsys.readouterr().err


def test_regrets_are_of_all_trials_and_choices_of_data_sets_with_all_of_them(tmp_path: Path, monkeypatch) -> None:
    values = {"a": [0.3, 0.4, 0.2], "b": [0.2, 0.1, 0.4], "c": [0.5, 0.8]}
    for name, found in values.items():
        for trial, value in enumerate(found):
            (tmp_path / f"{name}-VBPR-{trial}-0.json").write_text(json.dumps({"val": value}))
    args = argparse.Namespace(data=list(values), backbones=["VBPR"], trials=3, out=tmp_path, keep=None)
    rows = [row.strip("| ").split(" | ") for row in list(defaults._regrets(args))[2:-1]]
    assert [row[1:] for row in rows] == [
        ["a", "3", "0.3000", "0.4000", "0.2000", "25.0 %", "50.0 %"],  # Chosen on b: the third.
        ["b", "3", "0.2000", "0.4000", "0.1000", "50.0 %", "75.0 %"],  # Chosen on a: the second.
        ["c", "2", "0.5000", "0.8000", "0.5000", "37.5 %", "37.5 %"],  # Chosen on a and b, of the first two.
    ]


def test_values_of_trials_that_had_not_converged_have_a_star(tmp_path: Path) -> None:
    ends = {
        "a": ["budget: still rising at the end", "no rise in the last 1012 steps"],
        "b": ["budget: no longer rising", "budget: too early to tell"],
    }
    for name, found in ends.items():
        for trial, end in enumerate(found):
            record = {"val": 0.3 + 0.1 * trial, "stopped": end}
            (tmp_path / f"{name}-VBPR-{trial}-0.json").write_text(json.dumps(record))
    args = argparse.Namespace(data=list(ends), backbones=["VBPR"], trials=2, out=tmp_path, keep=None)
    *rows, counts = list(defaults._regrets(args))[2:]
    assert [row.split(" | ")[3:6] for row in rows] == [
        ["0.3000*", "0.4000", "0.4000"],
        ["0.3000", "0.4000*", "0.4000*"],
    ]
    assert counts == "\n*: had not converged, as 2 of 4 trials (1 too early to tell, 1 still rising)."


def test_a_mean_has_a_star_if_one_of_its_trainings_had_not_converged(tmp_path: Path) -> None:
    for seed, end in enumerate(["no rise in the last 1012 steps", "budget: still rising at the end"]):
        record = {"val": 0.3, "recall@20": 0.2, "ndcg@20": 0.1, "seconds": 1.0, "stopped": end}
        (tmp_path / f"a-VBPR-0-{seed}.json").write_text(json.dumps(record))
        np.savez(tmp_path / f"a-VBPR-0-{seed}.npz", recall=np.full(4, 0.2))
    args = argparse.Namespace(data=["a"], backbones=["VBPR"], baselines=[], seeds=1, out=tmp_path)
    assert "0.2000 ± 0.0000 |" in list(defaults._reached(args))[2]
    args.seeds = 2
    assert "0.2000 ± 0.0000* |" in list(defaults._reached(args))[2]


def test_no_two_trials_are_the_same() -> None:
    from pyg_ckd.nn import backbones

    for name in backbones():
        drawn = [defaults.settings_of(name, trial) for trial in range(1, 12)]
        assert all(one not in drawn[:place] for place, one in enumerate(drawn))
    assert defaults.settings_of("VBPR", 7) == defaults.settings_of("VBPR", 7)
