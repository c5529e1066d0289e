"""``pyg-ckd train``: what it writes, and its one line and exit code 2 for every bad input."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pyg_ckd.balance.discovery import strategies
from pyg_ckd.cli import main
from pyg_ckd.errors import InputError
from pyg_ckd.training.begin import warn_once
from tests.cli.problem import QUICK, fails, train

BROKEN = {
    "object array": (lambda a: a | {"visual": np.array([{}] * 20, dtype=object)}, ["visual", "object"]),
    "wrong shape": (lambda a: a | {"train": a["train"][0]}, ["train", "shape"]),
    "wrong dtype": (lambda a: a | {"train": a["train"].astype(np.float32)}, ["train", "float32"]),
    "negative index": (lambda a: a | {"val": a["val"] - 100}, ["val", "-"]),
    "index too large": (lambda a: a | {"test": a["test"] + 1000}, ["test", "out of range", "1026"]),
    "duplicates": (lambda a: a | {"train": np.concatenate([a["train"], a["train"][:, :3]], axis=1)}, ["train", "3"]),
    "overlap": (lambda a: a | {"test": np.concatenate([a["test"], a["train"][:, :2]], axis=1)}, ["train", "test"]),
    "NaN": (
        lambda a: a | {"acoustic": np.where(np.arange(20)[:, None] == 7, np.nan, a["acoustic"])},
        ["acoustic", "7"],
    ),
    "infinite": (lambda a: a | {"visual": np.where(np.arange(20)[:, None] == 3, np.inf, a["visual"])}, ["visual", "3"]),
    "too few rows": (lambda a: a | {"visual": a["visual"][:13]}, ["visual", "13", "20"]),
    "no modality": (lambda a: {k: v for k, v in a.items() if k not in ("visual", "acoustic")}, ["modality"]),
    "empty train": (lambda a: a | {"train": a["train"][:, :0]}, ["train"]),
    "all users cold": (
        lambda a: a | {"train": a["train"][:, a["train"][0] < 5], "val": a["val"][:, a["val"][0] >= 5]},
        ["val"],
    ),
    "missing key": (lambda a: {("trian" if k == "train" else k): v for k, v in a.items()}, ["train"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_data_gives_one_line_that_names_the_place(case, arrays, save, capsys, tmp_path) -> None:
    change, words = BROKEN[case]
    line = fails(capsys, train(save(change(arrays)), tmp_path / "out"))
    for word in words:
        assert word in line
    assert not (tmp_path / "out" / "model.pt").exists()


def test_a_missing_file_is_named(capsys, tmp_path) -> None:
    assert "nowhere.npz" in fails(capsys, train(str(tmp_path / "nowhere.npz"), tmp_path / "out"))


def test_a_file_cut_short_and_a_file_that_is_no_archive_are_refused(arrays, save, capsys, tmp_path) -> None:
    path = Path(save(arrays))
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], b"not an archive", b""):
        path.write_bytes(broken)
        assert "data.npz" in fails(capsys, train(str(path), tmp_path / "out"))


def test_a_pickle_in_an_archive_is_never_executed(arrays, save, capsys, tmp_path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "executed",))

    path = save(arrays | {"visual": np.array([Bomb()] * 20, dtype=object)})
    fails(capsys, train(path, tmp_path / "out"))
    assert not (tmp_path / "executed").exists()
    with zipfile.ZipFile(path) as file:
        assert "visual.npy" in file.namelist()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--backbone", "MMGNC"], ["backbone", "'MMGNC'", "'MMGCN'"]),
        (["--trainer.monitor", "recal@5"], ["metric", "'recal'", "'recall'"]),
        (["--objective", "ckdd"], ["objective", "'ckd'"]),
        (["--k", "[21]"], ["21", "20"]),
        (["--k", "[0]"], ["k:", "0"]),
        (["--trainer.lr", "fast"], ["trainer.lr"]),
        (["--trainer.lr", "-1"], ["lr", "-1"]),
        (["--trainer.epochs", "3"], ["trainer.epochs"]),
        (["--model.embedding_dim", "0"], ["embedding_dim"]),
        (["--transform", "standardise"], ["standardize"]),
        (["--data_options.colour", "red"], ["colour"]),
        (["--data_options.transform", "l2"], ["data_options.transform", "--transform"]),
        (["--config", "nowhere.yaml"], ["nowhere.yaml"]),
        (["--seed", "x"], ["--seed", "x"]),
        (["--trainer.monitor", "recall@25"], ["trainer.monitor", "recall@25", "20"]),
    ],
)
def test_a_wrong_option_gives_one_line_that_names_it(args, words, arrays, save, capsys, tmp_path) -> None:
    line = fails(capsys, train(save(arrays), tmp_path / "out", *args))
    for word in words:
        assert word in line


def test_an_option_of_the_data_of_another_type_is_named(capsys, tmp_path) -> None:
    for name, value, kind in (("num_users", "x", "int"), ("temperature", "hot", "float"), ("num_items", "2.5", "int")):
        line = fails(capsys, train("synthetic", tmp_path / "out", f"--data_options.{name}", value))
        assert f"option '{name}'" in line
        assert value in line
        assert f"expected {kind}" in line


@pytest.mark.parametrize("name", ["a.b", "", "items", "keys", "pop", "visual.x", "training", "train_"])
def test_a_name_of_a_modality_that_would_break_a_model_is_refused(name, arrays, save, capsys, tmp_path) -> None:
    data = save({key: value for key, value in arrays.items() if key != "visual"} | {name: arrays["visual"]})
    if name == "train_":  # Nearly a reserved one, and fine.
        assert main(train(data, tmp_path / "out")) == 0
    else:
        line = fails(capsys, train(data, tmp_path / "out"))
        assert f"modality name {name!r}" in line
        assert "e.g. '" in line


def test_one_item_is_refused_and_one_user_is_trained(arrays, save, capsys, tmp_path) -> None:
    one = arrays | {"num_items": np.int64(1)} | {m: arrays[m][:1] for m in ("visual", "acoustic")}
    one |= {name: np.stack([np.arange(3) + 3 * n, np.zeros(3, int)]) for n, name in enumerate(("train", "val", "test"))}
    assert "a single item" in fails(capsys, train(save(one), tmp_path / "item"))
    one = arrays | {"num_users": np.int64(1)}
    one |= {name: np.stack([np.zeros(5, int), np.arange(5) + 5 * n]) for n, name in enumerate(("train", "val", "test"))}
    assert main(train(save(one), tmp_path / "user", "--trainer.monitor", "recall@5")) == 0


def test_an_output_folder_that_is_taken_is_refused_and_left_alone(arrays, save, capsys, tmp_path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    assert "not empty" in fails(capsys, train(save(arrays), out))
    file = tmp_path / "file"
    file.write_text("mine")
    assert "file" in fails(capsys, train(save(arrays), file))
    assert (out / "precious.txt").read_text() == file.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_folder_that_is_not_writable_is_refused(arrays, save, capsys, tmp_path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    assert "written" in fails(capsys, train(save(arrays), out / "deep"))


def test_a_folder_below_a_file_cannot_be_written_to(arrays, save, capsys, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in fails(capsys, train(save(arrays), tmp_path / "file" / "out"))


def test_a_run_of_other_settings_is_refused_with_the_setting(arrays, save, capsys, tmp_path) -> None:
    data = save(arrays)
    assert main(train(data, tmp_path / "out")) == 0
    assert "plain" in fails(capsys, train(data, tmp_path / "out", "--plain.l2", "0.5"))
    assert "data" in fails(
        capsys, train(save(arrays | {"visual": arrays["visual"] + 1.5 * arrays["visual"] ** 2}), tmp_path / "out")
    )


def test_a_second_call_may_use_another_device_and_the_setting_that_may_not_differ_is_named(
    arrays, save, capsys, tmp_path
) -> None:
    data, out = save(arrays), tmp_path / "out"
    assert main(train(data, out, "--trainer.device", "cpu")) == 0
    history = (out / "history.csv").read_text()
    free = ["--trainer.device", "auto", "--trainer.checkpoint_minutes", "2", "--trainer.progress", "true"]
    assert main(train(data, out, *free)) == 0
    assert (out / "history.csv").read_text() == history
    capsys.readouterr()
    assert main(train(data, out, "--trainer.max_epochs", "3")) == 0
    # 180 interactions in batches of 64 are 3 steps, and twice the patience is 2,000 of them.
    text = "; the same call goes on with --trainer.max_epochs 667, which is enough unless the metric rises again\n"
    assert capsys.readouterr().out.endswith(f"not converged (budget: too early to tell){text}")
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["enough_epochs"] == 667
    assert (metrics["stopped"], metrics["converged"]) == ("budget: too early to tell", False)
    assert len(pd.read_csv(out / "history.csv")) == 3
    assert "found trainer.lr = 0.01, expected 0.5" in fails(capsys, train(data, out, "--trainer.lr", "0.5"))


def test_a_start_that_failed_does_not_bar_the_corrected_one(arrays, save, capsys, tmp_path) -> None:
    data = save(arrays)
    fails(capsys, train(data, tmp_path / "out", "--trainer.monitor", "recall@99"))
    assert main(train(data, tmp_path / "out")) == 0


def test_one_modality_trains_but_is_not_balanced(arrays, save, capsys, tmp_path) -> None:
    del arrays["acoustic"]
    data = save(arrays)
    assert main(train(data, tmp_path / "plain")) == 0
    for args in (
        train(data, tmp_path / "ckd", "--objective", "ckd"),
        ["compare", "--data", data, "--out", str(tmp_path / "study"), "--backbone", "VBPR", *QUICK],
    ):
        line = fails(capsys, args)
        assert "error: data: found 1 modality (visual), expected at least two for ckd; add features of another" in line
        assert "or train a single one plainly: --objective plain, or --contenders plain for a study" in line


def test_a_device_that_is_not_there_is_named(arrays, save, capsys, tmp_path) -> None:
    error = fails(
        capsys, train(save(arrays), tmp_path / "run", "--trainer.monitor", "recall@5", "--trainer.device", "x")
    )
    assert "device: found 'x'" in error


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--objective", "multitask", "--strategy.weight", "-1"], ["strategy.weight: found -1.0"]),
        (
            ["--objective", "multitask", "--strategy.wieght", "1"],
            ["unknown option --strategy.wieght", "strategy.weight"],
        ),
        (["--objective", "multitask", "--objective_options", "{weight: x}"], ["--strategy: weight: found 'x'"]),
        (["--objective", "ckd", "--distillation.temperature", "0"], ["distillation.temperature: found 0.0"]),
        (["--objective", "ckd", "--strategy.temperature", "0"], ["strategy.temperature: found 0.0"]),
        (["--objective", "ckd", "--teacher.l2", "-1"], ["teacher.l2: found -1.0"]),
        (["--plain.l2", "-1"], ["plain.l2: found -1.0"]),
        (["--objective", "mutlitask"], ["objective: unknown strategy 'mutlitask': did you mean 'multitask'"]),
        (["--objective", "no_such.Mine"], ["objective: strategy no_such.Mine: cannot be imported"]),
        (["--objective", "bad_syntax.Mine"], ["importing bad_syntax raised SyntaxError"]),
        (["--objective", "raises.Mine"], ["importing raises raised ZeroDivisionError"]),
        (["--objective", "nothing.Mine"], ["module nothing has no 'Mine'"]),
        (["--objective", "nothing.Other"], ["found Other", "derives from pyg_ckd.Objective"]),
        (["--objective", "nothing.number"], ["found int"]),
        (["--model.embedding_dim", "99999999999"], ["model: cannot be built"]),
        (["--trainer.precision", "8-bit"], ["unknown precision '8-bit'"]),
        (["--trainer.device", "abacus"], ["trainer.device: found 'abacus'"]),
        (["--seed", "18446744073709551616"], ["--seed: found 18446744073709551616, expected an integer from 0"]),
    ],
)
def test_a_wrong_strategy_or_number_leaves_no_folder(args, words, arrays, save, capsys, tmp_path, monkeypatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "bad_syntax.py").write_text("def x(:\n")
    (here / "raises.py").write_text("1 / 0\n")
    (here / "nothing.py").write_text("number = 3\n\nclass Other:\n    pass\n")
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    line = fails(capsys, train(save(arrays), tmp_path / "new" / "out", *args))
    for word in words:
        assert word in line
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("found", ["missing", "empty"])
def test_what_only_training_refuses_leaves_no_folder_either(found, arrays, save, capsys, tmp_path, monkeypatch) -> None:
    def fit(self: object, *args: object) -> None:
        assert (tmp_path / "out" / "settings.json").exists()
        raise InputError("training diverged")

    monkeypatch.setattr("pyg_ckd.training.Trainer.fit", fit)
    if found == "empty":
        (tmp_path / "out").mkdir()
    assert "training diverged" in fails(capsys, train(save(arrays), tmp_path / "out"))
    assert (tmp_path / "out").exists() == (found == "empty")
    assert found == "missing" or not list((tmp_path / "out").iterdir())


def test_a_run_that_holds_work_is_kept_whatever_happens(arrays, save, capsys, tmp_path) -> None:
    data, out = save(arrays), tmp_path / "out"
    assert main(train(data, out)) == 0
    before = sorted(out.iterdir())
    fails(capsys, train(data, out, "--plain.l2", "0.5"))
    assert sorted(out.iterdir()) == before


def test_options_of_a_strategy_have_two_ways_with_the_same_bits(arrays, save, tmp_path) -> None:
    data = save(arrays)
    for name, args in {
        "a": ["--distillation.temperature", "0.5"],
        "b": ["--strategy.temperature", "0.5"],
        "c": ["--objective_options", "{temperature: 0.5}"],
        "d": [],
    }.items():
        assert main(train(data, tmp_path / name, "--objective", "ckd", *args)) == 0
    a, b, c, d = ((tmp_path / name / "history.csv").read_text() for name in "abcd")
    assert a == b == c != d


NAMED_WRONGLY = {
    "plain": (
        ["--distillation.temperature", "0.5"],
        "--distillation.temperature: found it with --objective plain, expected --objective ckd, which it is for; add "
        "--objective ckd, or remove the option",
    ),
    "another name": (
        ["--objective", "multitask", "--distillation.l2=0.5"],
        "--distillation.l2: found it with --objective multitask, expected --objective ckd, which it is for; add "
        "--objective ckd, or give --strategy.l2",
    ),
    "mapping": (
        ["--distillation", "{temperature: 0.5}"],
        "--distillation.temperature: found it with --objective plain",
    ),
    "twice": (
        ["--objective", "ckd", "--strategy.temperature", "0.5", "--distillation.temperature", "0.2"],
        "--distillation.temperature: found --strategy.temperature as well, expected one of them",
    ),
    "twice with a mapping": (
        ["--objective", "ckd", "--objective_options", "{temperature: 1}", "--distillation.temperature", "0.2"],
        "--distillation.temperature: found --strategy.temperature as well",
    ),
}


@pytest.mark.parametrize("case", NAMED_WRONGLY)
def test_an_option_of_ckd_without_effect_is_refused(case, arrays, save, capsys, tmp_path) -> None:
    args, text = NAMED_WRONGLY[case]
    assert text in fails(capsys, train(save(arrays), tmp_path / "out", *args))
    assert not (tmp_path / "out").exists()


def test_a_file_that_compare_reads_may_have_options_of_ckd_for_any_objective(arrays, save, tmp_path) -> None:
    data, file = save(arrays), tmp_path / "shared.yaml"
    file.write_text("distillation: {temperature: 0.5}\n")
    for name, args in {
        "plain": [],
        "a": ["--objective", "ckd"],
        "b": ["--objective", "ckd", "--strategy.temperature", "0.2"],
        "c": ["--objective", "ckd", "--distillation.temperature", "0.2"],
    }.items():
        assert main(train(data, tmp_path / name, "--config", str(file), *args)) == 0
    a, b, c = ((tmp_path / name / "history.csv").read_text() for name in "abc")
    assert a != b == c


def test_a_curriculum_wraps_another_strategy_which_has_its_own_options(arrays, save, capsys, tmp_path) -> None:
    data = save(arrays)
    wrapped = ["--objective", "odsw", "--strategy.inner", "ckd", "--strategy.temperature", ".inf"]
    for name, args in {
        "a": ["--objective", "ckd", "--distillation.temperature", "0.5"],
        "b": [*wrapped, "--distillation.temperature", "0.5"],
        "c": [*wrapped, "--strategy.inner_options.temperature", "0.5"],
        "d": [*wrapped, "--strategy.inner_options", "{temperature: 0.2}"],
    }.items():
        assert main(train(data, tmp_path / name, *args)) == 0
    a, b, c, d = (pd.read_csv(tmp_path / name / "history.csv") for name in "abcd")
    assert b["stage"].tolist() == [1.0] * len(b)
    pd.testing.assert_frame_equal(b.drop(columns="stage"), a)
    pd.testing.assert_frame_equal(b, c)
    assert not b.equals(d)
    line = fails(capsys, train(data, tmp_path / "e", *wrapped, "--strategy.inner_options.temprature", "0.5"))
    assert "unknown option of ckd 'temprature': did you mean 'temperature'" in line
    assert not (tmp_path / "e").exists()


def test_a_strategy_of_the_library_takes_the_penalty_of_plain_training(arrays, save, tmp_path) -> None:
    data = save(arrays)
    options = {"a": ["--plain.l2", "0.5"], "b": ["--strategy.l2", "0.5"], "c": []}
    for name, args in options.items():
        assert main(train(data, tmp_path / name, "--objective", "multitask", *args)) == 0
    a, b, c = ((tmp_path / name / "history.csv").read_text() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("progress", ["true", "false"])
@pytest.mark.parametrize("terminal", [True, False])
def test_epochs_are_lines_where_no_bar_shows_them(progress, terminal, arrays, save, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert main(train(save(arrays), tmp_path / "out", "--trainer.progress", progress)) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "epoch 1 of" in line]
    assert len(lines) == (0 if terminal and progress == "true" else 1)
    assert logging.getLogger("pyg_ckd.training").handlers == []


def test_options_of_a_strangers_strategy_need_no_annotation_and_may_be_required(
    arrays, save, capsys, tmp_path, monkeypatch
) -> None:
    (tmp_path / "loose_strategy.py").write_text(
        "from pyg_ckd import Objective\n\nclass Loose(Objective):\n"
        "    def __init__(self, student, pull: float, rounds=3, names=('a',), other=None):\n"
        "        super().__init__(student)\n        assert (pull, rounds, list(names)) == (2.0, 5, ['b', 'c'])\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    args = train(save(arrays), tmp_path / "out", "--objective", "loose_strategy.Loose", "--strategy.rounds", "5")
    assert "train: these arguments are required: --strategy.pull" in fails(capsys, args)
    args += ["--strategy.names", "b,c", "--strategy.pull"]
    assert "--strategy.pull: found 'x', expected a number" in fails(capsys, [*args, "x"])
    assert "unknown option --strategy.other" in fails(capsys, [*args, "2", "--strategy.other", "1"])
    assert main([*args, "2"]) == 0


@pytest.mark.parametrize(
    ("schedule", "hint"),
    [
        ("constant", "the same call goes on with --trainer.max_epochs 223,"),
        ("cosine", "another folder and --trainer.max_epochs 667,"),
    ],
)
def test_a_run_that_has_not_converged_says_how_it_goes_on(schedule, hint, arrays, save, capsys, tmp_path) -> None:
    more = ["--trainer.schedule", schedule, "--trainer.extend", "3"]  # Which is without effect on a schedule.
    assert main(train(save(arrays), tmp_path / "out", *more)) == 0
    assert f"{hint} which is enough unless the metric rises again\n" in capsys.readouterr().out


def test_the_epochs_that_a_run_is_told_are_enough_for_it(arrays, save, capsys, tmp_path) -> None:
    args = train(save(arrays), tmp_path / "out", "--trainer.patience", "10", "--trainer.lr", "1e-9")
    assert main(args) == 0
    told = re.search(r"--trainer.max_epochs (\d+)", capsys.readouterr().out)
    assert told is not None
    assert int(told[1]) == 12  # Evaluations, which are more than 20 steps in batches of 3 an epoch.
    assert main([*args, "--trainer.max_epochs", told[1]]) == 0
    assert "converged" not in capsys.readouterr().out


def test_a_run_starts_from_the_model_of_another_one(arrays, save, capsys, tmp_path) -> None:
    first = {k: v[:, v[0] < 25] if k in ("train", "val", "test") else v for k, v in arrays.items()}
    yesterday = str(tmp_path / "old" / "model.pt")
    assert main(train(save(first | {"num_users": np.int64(25)}), tmp_path / "old", "--trainer.max_epochs", "4")) == 0
    today = save(arrays)
    once = ["--trainer.max_epochs", "1", "--trainer.lr", "1e-6"]
    assert main(train(today, tmp_path / "cold", *once)) == 0
    for _ in range(2):  # The same call finds the run finished.
        assert main(train(today, tmp_path / "warm", *once, "--start_from", yesterday)) == 0
    states = [torch.load(tmp_path / n / "model.pt", weights_only=True)["state"] for n in ("old", "warm", "cold")]
    old, warm, cold = (state["item_embedding"] for state in states)
    assert torch.allclose(warm, old, rtol=0, atol=1e-4)
    assert not torch.allclose(cold, old, rtol=0, atol=1e-2)
    assert "start_from" in fails(capsys, train(today, tmp_path / "warm", *once))


@pytest.mark.parametrize("transform", ["pca", "standardize", "none"])
def test_a_run_starts_from_features_as_they_are_read(transform, arrays, save, capsys, tmp_path) -> None:
    """The file of the earlier model says how its features were prepared; those of today are read as they are."""
    less = ["--trainer.monitor", "recall@5"]
    arrays |= {"user_id": np.arange(30), "item_id": np.arange(20)}
    few = {k: v[:, v[1] < 16] if k in ("train", "val", "test") else v for k, v in arrays.items()}
    few |= {
        "num_items": np.int64(16),
        "item_id": np.arange(16),
        "visual": arrays["visual"][:16],
        "acoustic": arrays["acoustic"][:16],
    }
    assert main(train(save(few), tmp_path / "old", "--transform", transform, *less)) == 0
    yesterday, today = str(tmp_path / "old" / "model.pt"), save(arrays)
    once = ["--trainer.max_epochs", "1", "--start_from", yesterday, *less]
    if transform == "pca":
        line = fails(capsys, train(today, tmp_path / "warm", *once, "--transform", "pca"))
        assert "principal components of 'visual' were fitted anew" in line
        assert "--transform none" in line
    for _ in range(2):  # The same call finds the run finished.
        assert main(train(today, tmp_path / "warm", *once, "--transform", "none")) == 0
    old, new = (torch.load(tmp_path / n / "model.pt", weights_only=True)["graph"]["prepared"] for n in ("old", "warm"))
    for m in ("visual", "acoustic"):
        assert [step["name"] for step in old[m]["steps"]] == [step["name"] for step in new[m]["steps"]]
        for before, after in zip(old[m]["steps"], new[m]["steps"], strict=True):
            assert all(torch.equal(before["fitted"][k], after["fitted"][k]) for k in before["fitted"])
    given = ["--data", today, "--checkpoint", str(tmp_path / "warm" / "model.pt"), "--transform", "none"]
    assert main(["evaluate", *given]) == 0


def test_a_run_records_what_its_start_has_seen_of_the_held_out_part(arrays, save, capsys, tmp_path) -> None:
    yesterday = str(tmp_path / "old" / "model.pt")
    assert main(train(save(arrays), tmp_path / "old")) == 0
    half = np.concatenate([arrays["train"][:, 15:], arrays["test"][:, :15]], axis=1)
    test = np.concatenate([arrays["test"][:, 15:], arrays["train"][:, :15]], axis=1)
    today = save(arrays | {"train": half, "test": test})
    with pytest.warns(UserWarning, match=r"was trained on 15 of the 30 test interactions \(50.0%\) of today"):
        assert main(train(today, tmp_path / "warm", "--start_from", yesterday)) == 0
    metrics = json.loads((tmp_path / "warm" / "metrics.json").read_text())
    assert metrics["seen_by_start_from"] == {"val": 0.0, "test": 0.5}
    capsys.readouterr()
    assert main(["show", str(tmp_path / "warm" / "model.pt")]) == 0
    assert re.search(r"seen_by_start_from\.test +0\.5", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", ["nowhere.pt", "no such file"]),
        ("damaged", ["damaged.pt", "cannot be read"]),
        ("run", ["last.pt", "kind 'run'"]),
        ("wider", ["start_from", "'user_embedding'", "[30, 64]", "[30, 8]"]),
    ],
)
def test_a_model_that_cannot_be_started_from_is_named(kind, words, arrays, save, capsys, tmp_path) -> None:
    data, old = save(arrays), tmp_path / "old"
    assert main(train(data, old)) == 0
    (tmp_path / "damaged.pt").write_bytes((old / "model.pt").read_bytes()[:500])
    files = {"missing": "nowhere.pt", "damaged": "damaged.pt", "run": "old/last.pt", "wider": "old/model.pt"}
    more = ["--model.embedding_dim", "8"] if kind == "wider" else []
    line = fails(capsys, train(data, tmp_path / "out", "--start_from", str(tmp_path / files[kind]), *more))
    for word in words:
        assert word in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [name for name in strategies() if name not in ("plain", "odsw")])
def test_a_strategy_that_has_nothing_to_act_on_says_so_at_once(name, save, arrays, tmp_path, capsys) -> None:
    line = fails(capsys, train(save(arrays), tmp_path / "run", "--backbone", "LightGCN", "--objective", name))
    own = f"{name}: found LightGCN, which ignores features"
    assert (own if strategies()[name].wraps else "LightGCN, which ignores all features") in line
    assert not (tmp_path / "run").exists()


def test_a_strategy_that_weighs_triples_trains_a_backbone_without_features(save, arrays, tmp_path, capsys) -> None:
    more = ["--backbone", "LightGCN", "--objective", "odsw"]
    assert main(train(save(arrays), tmp_path / "run", *more)) == 0
    capsys.readouterr()
    inside = fails(capsys, train(save(arrays), tmp_path / "ckd", *more, "--strategy.inner", "ckd"))
    assert "ckd: found LightGCN" in inside
    assert not (tmp_path / "ckd").exists()


def test_options_of_what_is_inside_of_a_wrapper_are_checked(save, arrays, tmp_path, capsys) -> None:
    more = ["--objective", "odsw", "--strategy.inner", "samm", "--strategy.inner_options.num_items", "2.5"]
    line = fails(capsys, train(save(arrays), tmp_path / "run", *more))
    assert "num_items: found 2.5, expected an integer" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["agm", "mi-balance", "mla", "udi", "umurl"])
def test_a_strategy_that_compares_views_says_that_all_of_bm3_rank_alike(name, save, arrays, tmp_path, capsys) -> None:
    line = fails(capsys, train(save(arrays), tmp_path / "run", "--backbone", "BM3", "--objective", name))
    assert f"{name}: found BM3, all of whose views rank alike" in line
    assert not (tmp_path / "run").exists()


OWN = """
from pyg_ckd import Objective
from pyg_ckd.balance import ObjectiveWrapper


class Demanding(Objective):
    def __init__(self, student, must, l2: float = 0.01):
        super().__init__(student, l2)


class Odd(Objective):
    def __init__(self, student, must: object, l2: float = 0.01):
        super().__init__(student, l2)


class Bare(ObjectiveWrapper):
    def __init__(self, student, inner="plain", inner_options=None, teachers=None, has=None, power: float = 1.0):
        super().__init__(student, inner, inner_options, teachers, has)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "unannotated_strategies.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "unannotated_strategies"
    sys.modules.pop("unannotated_strategies", None)


def test_options_of_ones_own_strategy_without_a_default_are_required(own, save, arrays, tmp_path, capsys) -> None:
    args = train(save(arrays), tmp_path / "out", "--objective")
    assert "required: --strategy.must" in fails(capsys, [*args, f"{own}.Demanding"])
    assert "strategy.must: found no value, expected one" in fails(capsys, [*args, f"{own}.Odd"])
    inside = [*args, "odsw", "--strategy.stage_epochs", "1", "--strategy.inner", f"{own}.Demanding"]
    assert "must: found no value, expected one" in fails(capsys, inside)
    assert not (tmp_path / "out").exists()
    assert main([*args, f"{own}.Demanding", "--strategy.must", "0.5"]) == 0


def test_options_inside_an_unannotated_wrapper_of_ones_own_are_taken(own, save, arrays, tmp_path, capsys) -> None:
    args = train(save(arrays), tmp_path / "out", "--objective", f"{own}.Bare", "--strategy.inner", "multitask")
    assert main([*args, "--strategy.inner_options.weight", "0.25"]) == 0
    stored = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert "0.25" in json.dumps(stored, default=lambda value: "")
    wrong = fails(capsys, [*args, "--out", str(tmp_path / "other"), "--strategy.inner_options.wieght", "0.25"])
    assert "unknown option of multitask 'wieght': did you mean 'weight'" in wrong


def test_a_training_without_a_validation_part_says_at_its_end_that_it_took_all_epochs(
    arrays, save, capsys, tmp_path, monkeypatch
) -> None:
    for module in ("begin", "options"):
        monkeypatch.setattr(f"pyg_ckd.training.{module}.EPOCHS", 2)
    line = "without a validation part, training takes all 2 epochs, of which an earlier one may rank better; train once"
    assert main(train(save(arrays), tmp_path / "with")) == 0
    found = capsys.readouterr()
    assert "validation part" not in found.out + found.err
    assert main(train(save(arrays | {"val": arrays["val"][:, :0]}), tmp_path / "without")) == 0
    found = capsys.readouterr()
    assert found.out.splitlines()[-1].startswith(line)
    assert "warning" not in found.err
    assert (
        main(train(save(arrays | {"val": arrays["val"][:, :0]}), tmp_path / "given", "--trainer.max_epochs", "1")) == 0
    )
    assert "validation part" not in capsys.readouterr().out


def test_a_monitor_in_which_rankings_hardly_differ_is_told_of_after_the_first_epoch(
    arrays, save, capsys, tmp_path
) -> None:
    warn_once.cache_clear()
    items = int(arrays["num_items"])
    monitor = ("--trainer.monitor", f"recall@{items - 1}")
    refused = fails(capsys, train(save(arrays), tmp_path / "out", *monitor, "--trainer.lr", "1e30"))
    assert "monitor" not in refused
    with pytest.warns(UserWarning, match=f"monitor recall@{items - 1}: "):
        assert main(train(save(arrays), tmp_path / "out2", *monitor)) == 0


def test_a_run_that_was_killed_while_its_settings_were_written_begins_in_the_same_folder(
    arrays, save, tmp_path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    left = out / ".settings.json.partial-7i6o4r91.json"
    left.touch()
    assert main(train(save(arrays), out, "--trainer.lr", "1e30")) == 2  # It diverges in the first epoch.
    assert not (out / "settings.json").exists()
    left.touch()
    assert main(train(save(arrays), out)) == 0
    assert (out / "model.pt").exists()
