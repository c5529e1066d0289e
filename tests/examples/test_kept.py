"""What is kept of runs gives the table of the study that made them."""

from __future__ import annotations

import numpy as np
import pytest

from examples.kept import add, column, load, read_runs, table
from pyg_ckd.errors import InputError
from pyg_ckd.study.results import comparison, gaps, run_mean
from tests.study.problem import TRAINER, small

SETTINGS = {"trainer": {**TRAINER, "monitor": "recall@20"}}


def test_kept_runs_give_what_their_study_found_and_come_in_parts(tmp_path) -> None:
    study = small(
        tmp_path / "study", k=(20,), contenders=["multitask", "ensemble"], baselines=["popularity"], settings=SETTINGS
    )
    file = tmp_path / "VBPR_planted.npz"
    study.run([0])
    first = add(file, read_runs(tmp_path / "study" / "runs"))
    results = study.run([0, 1])
    assert add(file, read_runs(tmp_path / "study" / "runs")) > first
    assert add(file, read_runs(tmp_path / "study" / "runs")) == len(load(file))
    found = column(load(file))
    assert found.keys() == {"popularity", "plain", "multitask", "ensemble"}
    for name in ("multitask", "ensemble"):
        plain, own = (run_mean(results, run, "recall@20") for run in ("plain", name))
        assert found[name]["test"] == pytest.approx(own, abs=1e-9)
        assert found[name]["difference"] == pytest.approx(own / plain - 1, abs=1e-9)
        assert found[name]["p"] == pytest.approx(
            comparison(results, name, "plain", "recall@20", "users")["p_holm"], abs=1e-4
        )
        reach = min(gap.reach for gap in gaps(results, "recall@20") if gap.contender == name)
        assert found[name]["weakest"] == pytest.approx(reach, abs=0.02)  # Mean of shares, and share of means.
    for run in load(file):
        assert run.recall.mean() == pytest.approx(run.about["test"], abs=1e-6)
    lines = table([file, file]).splitlines()
    assert lines[0] == "| run | VBPR, planted | weakest view | VBPR, planted | weakest view | epochs / plain |"
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 6


def test_runs_of_other_users_are_refused_and_the_file_stays(tmp_path) -> None:
    file = tmp_path / "kept.npz"
    with pytest.raises(InputError, match="found no finished run with a test part"):
        add(file, read_runs(tmp_path))
    small(tmp_path / "study", k=(20,), contenders=[], baselines=["popularity"]).run([0])
    add(file, read_runs(tmp_path / "study" / "runs"))
    before = file.read_bytes()
    runs = load(file)
    runs[0].users = np.arange(len(runs[0].users)) + 1
    with pytest.raises(InputError, match="found runs of other users, expected those of one data set"):
        add(file, runs)
    assert file.read_bytes() == before
