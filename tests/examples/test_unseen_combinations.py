"""Runs of unseen combinations are told apart by all that decides about them, and what is wrong is one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from examples import unseen_combinations
from pyg_ckd.datasets import synthetic_multimodal

FILE = "synthetic-VBPR-1-{}-mean-0.npz"


@pytest.fixture(name="study")
def _study(monkeypatch, tmp_path):
    data = synthetic_multimodal(num_users=80, num_items=160, num_interactions=2400)
    monkeypatch.setattr(unseen_combinations, "load", lambda path, transform: data.clone())

    def study(*args: str) -> int:
        fixed = ["--max-epochs", "1", "--seeds", "1", "--impute", "mean", "--out", str(tmp_path)]
        return unseen_combinations.main([*fixed, *args])

    return study


def _times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npz")}


def test_runs_that_are_there_are_not_made_again(study, tmp_path, capsys):
    assert study() == 0
    before, table = _times(tmp_path), capsys.readouterr().out
    assert before.keys() == {FILE.format("plain"), FILE.format("unseen")}
    assert study() == 0
    assert _times(tmp_path) == before
    assert capsys.readouterr().out == table


@pytest.mark.parametrize(
    ("args", "contender", "found"),
    [
        (["--max-epochs", "2"], "plain", "max_epochs = 1, expected 2"),
        (["--split-seed", "3"], "plain", "split_seed = 0, expected 3"),
        (["--new-items", "0.3"], "plain", "new_items = 0.2, expected 0.3"),
        (["--weight", "2"], "unseen", "weight = None, expected 2.0"),
        (["--alignment", "0.1"], "unseen", "alignment = None, expected 0.1"),
        (["--rate", "0.1"], "unseen", "rate = None, expected 0.1"),
        (["--temperature", "2"], "unseen", "temperature = None, expected 2.0"),
    ],
)
def test_a_run_of_other_arguments_is_refused(args, contender, found, study, tmp_path, capsys):
    assert study() == 0
    capsys.readouterr()
    before = _times(tmp_path)
    assert study(*args) == 2
    out, line = capsys.readouterr()
    assert out == ""
    assert line == (
        f"{tmp_path / FILE.format(contender)}: found a run with {found}; take another --out, or delete the file\n"
    )
    assert _times(tmp_path) == before


def test_a_run_of_other_data_of_the_same_name_and_one_without_arguments_are_refused(
    study, tmp_path, capsys, monkeypatch
):
    assert study() == 0
    other = synthetic_multimodal(num_users=80, num_items=160, num_interactions=2400, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(unseen_combinations, "load", lambda path, transform: other)
        assert study() == 2
    assert "found a run with data = " in capsys.readouterr().err
    file = tmp_path / FILE.format("unseen")
    found = dict(np.load(file))
    del found["settings"]
    np.savez(file, **found)
    assert study() == 2
    assert "found a run that does not say its arguments" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--size", "4"], "size: found 4, expected a number of modalities from 1 to 3"),
        (["--new-items", "1"], "new-items: found 1.0, expected a share"),
        (["--seeds", "0"], "seeds: found 0"),
        (["--impute", "nothing"], "unknown imputation"),
    ],
)
def test_what_is_wrong_is_one_line(args, message, study, capsys):
    assert study(*args) == 2
    line = capsys.readouterr().err
    assert message in line
    assert line.count("\n") == 1
