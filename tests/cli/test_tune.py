"""``pyg-ckd tune``: equal budgets, a line that trains the winner again, and bad input in one line."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pyg_ckd.cli import main
from pyg_ckd.data.inputs import RATES
from tests.cli.problem import fails
from tests.training.problem import planted_data

SMALL = ["--k", "5", "--trainer.monitor", "recall@5", "--trainer.max_epochs", "3", "--trainer.progress", "false"]
KNOBS = ["trainer.lr=1e-2:1e-1", "model.embedding_dim=4,8", "ckd.distillation_weight"]


def tune(data: str, out: Path, *more: str) -> list[str]:
    common = ["--data", data, "--backbone", "VBPR", "--out", str(out), "--trials", "2", *SMALL]
    return ["tune", *common, "--contenders", "ckd", "--trainer.batch_size", "64", *more]


def planted() -> dict[str, Any]:
    """A data set on which a model learns something."""
    data = planted_data()
    edges = {"train": "edge_index", "val": "val_edge_index", "test": "test_edge_index"}
    arrays = {name: data[RATES][key].numpy() for name, key in edges.items()}
    sizes = {"num_users": np.int64(40), "num_items": np.int64(30)}
    return {**sizes, **arrays, **{m: data["item"][m].numpy() for m in data.modalities}}


def test_tune_writes_a_report_and_a_line_that_trains_the_winner_to_the_same_numbers(save, capsys, tmp_path):
    data, out = save(planted()), tmp_path / "out"
    args = tune(
        data, out, "--baselines", "popularity,ease", "--options.ckd.num_random_triples", "30", "--knobs", *KNOBS
    )
    assert (
        main([*args, "--transform", "l2", "--plain.l2", "1000", "--trainer.lr", "1e-5"]) == 0
    )  # So that ckd and its second trial win.
    shown = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert results["winner"]["name"] == "ckd"
    assert {"report.html", "results.json", "search.png", "chosen.json", "trials.log"} <= {p.name for p in out.iterdir()}
    found = {one["name"]: set(one["space"]) for one in results["tuning"]["searches"]}
    assert found["ckd"] == {"trainer.lr", "model.embedding_dim", "strategy.distillation_weight"}
    assert found["plain"] == {"trainer.lr", "model.embedding_dim"}

    command = results["tuning"]["command"]
    assert f"to train the winner again: {command}" in shown
    program, *words = shlex.split(command)
    assert program == "pyg-ckd"
    assert "--teacher.lr" in words  # Teachers have the settings of the study, not those of the trial.
    assert main([*words[:-1], str(tmp_path / "again"), "--k", "5", "--trainer.progress", "false"]) == 0
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())["test"]
    run = next(run for run in results["runs"] if run["name"] == "ckd")
    assert {name: run["test"][name] for name in again} == pytest.approx(again, abs=1e-7)


def test_the_same_line_goes_on_and_ends_with_the_same_report(arrays, save, capsys, tmp_path):
    args = tune(save(arrays), tmp_path / "out", "--contenders", "plain", "--baselines", "[]", "--seeds", "2")
    assert main(args) == 0
    first = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [run["seed"] for run in first["runs"] if run["name"] == "plain"] == [0, 1]
    capsys.readouterr()
    assert main(args) == 0
    assert ", trial 1 of" not in capsys.readouterr().out  # None is made again.
    again = json.loads((tmp_path / "out" / "results.json").read_text())
    assert again["tuning"] == first["tuning"]


def test_after_a_short_search_the_advice_runs_word_by_word_in_another_folder(arrays, save, capsys, tmp_path):
    data, out = save(arrays), tmp_path / "an out"
    base = ["--contenders", "plain", "--baselines", "[]", "--storage", str(tmp_path / "t.log"), "--k=5,3"]
    args = tune(data, out, *base, "--trials", "1", "--trainer.max-epochs=1", "--trainer.lr", "1e-5")
    assert main(args) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("What to do: ")]
    assert line.startswith("What to do: search again with a larger max_epochs in another folder before choosing, for")
    program, *words = shlex.split(line.partition("not converged: ")[2])
    assert program == "pyg-ckd"
    assert main(words) == 0
    first, second = (json.loads((folder / "results.json").read_text()) for folder in (out, tmp_path / "an out-3"))
    assert second["settings"]["trainer"] == {**first["settings"]["trainer"], "max_epochs": 3}
    assert main(args) == 0  # Nothing of the first search was touched.
    assert json.loads((out / "results.json").read_text())["tuning"] == first["tuning"]


def test_help_says_that_a_search_does_not_extend_trainings(capsys):
    with pytest.raises(SystemExit):
        main(["tune", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "A search does not extend trainings by itself, so that all trials have the same budget" in shown


def test_a_longer_search_in_the_same_folder_is_refused_with_what_the_folder_has(arrays, save, capsys, tmp_path):
    args = tune(save(arrays), tmp_path / "out", "--contenders", "plain", "--baselines", "[]", "--trials", "1")
    assert main(args) == 0
    capsys.readouterr()
    for option, found in (("extend", 1), ("max_epochs", 3)):
        line = fails(capsys, [*args, f"--trainer.{option}", "4"])
        assert f"found trainer.{option} = {found}, expected 4 as in this run; choose another folder" in line
    assert main(args) == 0


BAD = {
    "softmax": (
        ["--backbone", "FISM", "--knobs", "trainer.ranking=bpr,softmax"],
        ["plain: knob trainer.ranking at softmax: ranking: found 'softmax' for FISM"],
    ),
    "negatives": (
        ["--backbone", "FISM", "--contenders", "plain", "--knobs", "trainer.negatives=uniform,hard"],
        ["unknown knob 'trainer.negatives': found it for FISM, whose losses read no negatives"],
    ),
    "combination": (
        ["--knobs", "trainer.ranking=bpr,softmax", "trainer.negatives=popularity,hard"],
        ["plain: knob trainer.ranking at softmax: found no values of the other knobs (trainer.negatives)"],
    ),
    "no trial": (["--trials", "0"], ["trials: found 0, expected at least 1"]),
    "no seed": (["--seeds", "0"], ["seeds: found 0, expected at least 1"]),
    "no epoch": (["--trainer.max_epochs", "0"], ["trainer.max_epochs: found 0"]),
    "warm-up": (["--warmup", "10"], ["warmup: found 10 steps, expected at most 9, the whole budget of plain"]),
    "no warm-up": (["--warmup", "0"], ["warmup: found 0, expected at least 1"]),
    "knob": (["--knobs", "trainer.rate=1:2"], ["unknown knob 'trainer.rate'", "trainer.lr"]),
    "knob of the trainer": (["--knobs", "trainer.seed=1:2"], ["unknown knob 'trainer.seed'"]),
    "reversed": (["--knobs", "trainer.lr=1e-2:1e-4"], ["knob trainer.lr: found '1e-2:1e-4'", "reversed"]),
    "empty": (["--knobs", "trainer.lr=1:1"], ["knob trainer.lr: found '1:1'", "empty"]),
    "words": (["--knobs", "trainer.lr=low:high"], ["knob trainer.lr: found 'low:high'", "two numbers"]),
    "nothing": (["--knobs"], ["--knobs: found"]),
    "no range": (["--knobs", "trainer.lr="], ["knobs: found 'trainer.lr='"]),
    "value": (["--knobs", "model.embedding_dim=0,4"], ["knob model.embedding_dim at 0", "embedding_dim"]),
    "storage": (["--storage", "no-such://place"], ["storage no-such://place: cannot be opened"]),
    "option": (["--trial", "3"], ["unknown option --trial: did you mean --trials"]),
    "views": (["--trainer.track_views", "true"], ["unknown option --trainer.track_views"]),
    "strategy": (["--contenders", "multitsk"], ["unknown strategy 'multitsk'"]),
    "backbone": (["--backbone", "LightGCN"], ["LightGCN, which ignores all features"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_line_and_no_folder(case: str, arrays, save, capsys, tmp_path) -> None:
    more, words = BAD[case]
    line = fails(capsys, tune(save(arrays), tmp_path / "new" / "out", *more))
    for word in words:
        assert word in line
    assert {path.name for path in tmp_path.iterdir()} == {"data.npz"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val": np.zeros((2, 0), dtype=np.int32)}, "data: found no validation part"),
        ({m: np.ones((20, 3), dtype=np.float32) for m in ("visual", "acoustic")}, "features: found no content"),
    ],
    ids=["no validation", "no content"],
)
def test_data_that_cannot_be_tuned_on_is_refused(change, message, arrays, save, capsys, tmp_path) -> None:
    line = fails(capsys, tune(save({**arrays, **change}), tmp_path / "out", "--transform", "none"))
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_storage_of_another_search_is_refused_by_the_setting(arrays, save, capsys, tmp_path) -> None:
    common = ["--contenders", "plain", "--baselines", "[]", "--trials", "1", "--storage", str(tmp_path / "t.log")]
    data = save(arrays)
    assert main(tune(data, tmp_path / "a", *common)) == 0
    line = fails(capsys, tune(data, tmp_path / "b", *common, "--seed", "3"))
    assert re.search(r"t\.log: it belongs to another study: plain: found search\.seed = 0, expected 3", line)
    assert not (tmp_path / "b").exists()


def test_a_file_gives_knobs_as_a_mapping_or_as_a_list(capsys, tmp_path) -> None:
    mapping = "{trainer: {lr: 0.01:0.1}, model.embedding_dim: [4, 8], plain.x: [true, a], ckd.distillation_weight: }"
    (tmp_path / "knobs.yaml").write_text(f"knobs: {mapping}\n")
    given = ["--data", "synthetic", "--out", str(tmp_path / "out"), "--print_config"]
    with pytest.raises(SystemExit, match="0"):
        main(["tune", "--config", str(tmp_path / "knobs.yaml"), *given])
    shown = capsys.readouterr().out
    knobs = yaml.safe_load(shown)["knobs"]
    assert knobs == ["trainer.lr=0.01:0.1", "model.embedding_dim=4,8", "plain.x=true,a", "ckd.distillation_weight"]
    (tmp_path / "printed.yaml").write_text(shown)
    with pytest.raises(SystemExit, match="0"):
        main(["tune", "--config", str(tmp_path / "printed.yaml"), "--print_config"])
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("knobs", ["{}", "{trainer.lr: {}}", "{trainer: {lr: [1, [2]]}}"])
def test_a_mapping_of_knobs_that_says_nothing_is_refused(knobs, arrays, save, capsys, tmp_path) -> None:
    (tmp_path / "knobs.yaml").write_text(f"knobs: {knobs}\n")
    line = fails(capsys, tune(save(arrays), tmp_path / "out", "--config", str(tmp_path / "knobs.yaml")))
    assert "knob" in line
    assert "found" in line
    assert not (tmp_path / "out").exists()
