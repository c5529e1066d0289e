"""The command line: what it prints and writes, and its one line and exit code 2 for every bad input."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pyg_ckd import nn
from pyg_ckd.cli import main

QUICK = [
    "--trainer.max_epochs",
    "2",
    "--trainer.progress",
    "false",
    "--trainer.lr",
    "0.01",
    "--trainer.batch_size",
    "64",
]

BASES = {"AdaptedBackbone", "Backbone", "EarlyFusion", "LateFusion"}
BACKBONES = [n for n in nn.__all__ if inspect.isclass(getattr(nn, n)) and issubclass(getattr(nn, n), nn.Backbone)]


@pytest.fixture
def arrays() -> dict[str, Any]:
    """A small valid data set in the layout of the .npz reader."""
    rng = np.random.default_rng(0)
    key = rng.permutation(30 * 20)[:240]
    pairs = np.stack([key // 20, key % 20]).astype(np.int32)
    return {
        "num_users": np.int64(30),
        "num_items": np.int64(20),
        "train": pairs[:, :180],
        "val": pairs[:, 180:210],
        "test": pairs[:, 210:],
        "visual": rng.normal(size=(20, 6)).astype(np.float32),
        "acoustic": rng.normal(size=(20, 4)).astype(np.float32),
    }


@pytest.fixture
def save(tmp_path: Path) -> Callable[[dict[str, Any]], str]:
    def write(content: dict[str, Any]) -> str:
        path = tmp_path / "data.npz"
        np.savez(path, **content)
        return str(path)

    return write


def fails(capsys: pytest.CaptureFixture[str], args: list[str]) -> str:
    """Run the command line, require exit code 2 and one line on stderr, and return the line."""
    capsys.readouterr()
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1, err
    assert err.startswith("pyg-ckd: error: ")
    assert "Traceback" not in out + err
    return err


def train(data: str, out: Path, *more: str) -> list[str]:
    return ["train", "--data", data, "--out", str(out), "--backbone", "VBPR", "--k", "[5]", *QUICK, *more]


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


def test_a_missing_option_is_named_as_it_is_typed(capsys) -> None:
    assert fails(capsys, ["compare", "--data", "train.x"]).endswith("required: --out\n")
    assert fails(capsys, ["train"]).endswith("required: --data, --out\n")
    assert fails(capsys, ["evaluate", "--data", "x"]).endswith("required: --checkpoint\n")


def test_options_before_the_command_are_refused_with_the_right_order(capsys, tmp_path) -> None:
    config = tmp_path / "x.yaml"
    config.write_text("backbone: VBPR\n")
    line = fails(capsys, ["--config", str(config), "train", "--data", "x"])
    assert "found option --config in its place" in line
    assert "pyg-ckd train --config ..." in line
    assert "expected one of compare, train" in fails(capsys, ["--config", str(config)])


@pytest.mark.parametrize("command", ["train", "compare", "evaluate", "effects"])
def test_an_empty_configuration_file_is_called_empty(command, capsys, tmp_path) -> None:
    config = tmp_path / "empty.yaml"
    for content in ("", "# nothing\n"):
        config.write_text(content)
        assert f"{config}: the file is empty" in fails(capsys, [command, "--config", str(config)])
    config.write_text("- a\n")
    assert f"{config}: found list, expected a mapping" in fails(capsys, [command, f"--config={config}"])


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


def test_a_wrong_command_gives_the_closest_one(capsys) -> None:
    assert "'compare'" in fails(capsys, ["compre", "--data", "x"])


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
    assert main(train(data, out, "--trainer.max_epochs", "3")) == 0
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
        assert "visual" in line
        assert "at least two" in line


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


def test_a_configuration_file_gives_what_the_options_give(arrays, save, capsys, tmp_path) -> None:
    data = save(arrays)
    config = tmp_path / "config.yaml"
    config.write_text("backbone: VBPR\nmodel:\n  embedding_dim: 8\ntrainer:\n  max_epochs: 2\n  lr: 0.02\nk: [5]\n")
    assert main(["train", "--config", str(config), "--data", data, "--out", str(tmp_path / "a")]) == 0
    options = ["--backbone", "VBPR", "--model.embedding_dim", "8", "--trainer.max_epochs", "2", "--trainer.lr", "0.02"]
    assert main(["train", *options, "--k", "[5]", "--data", data, "--out", str(tmp_path / "b")]) == 0
    assert (tmp_path / "a" / "history.csv").read_text() == (tmp_path / "b" / "history.csv").read_text()
    with pytest.raises(SystemExit) as stop:
        main(["train", "--config", str(config), "--data", data, "--out", "x", "--print_config"])
    assert stop.value.code == 0
    assert "embedding_dim: 8" in capsys.readouterr().out


def test_a_section_that_is_no_mapping_is_named(arrays, save, capsys, tmp_path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"data: {save(arrays)}\nout: {tmp_path / 'run'}\nbackbone: VBPR\ntrainer: 3\n", encoding="utf-8")
    assert "trainer: found 3" in fails(capsys, ["train", "--config", str(config)])


def test_a_device_that_is_not_there_is_named(arrays, save, capsys, tmp_path) -> None:
    error = fails(
        capsys, train(save(arrays), tmp_path / "run", "--trainer.monitor", "recall@5", "--trainer.device", "x")
    )
    assert "device: found 'x'" in error


def test_a_file_of_metrics_that_cannot_be_written_is_named(arrays, save, capsys, tmp_path) -> None:
    data = save(arrays)
    assert main(train(data, tmp_path / "run", "--trainer.monitor", "recall@5")) == 0
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "metrics.json"):
        options = ["--checkpoint", str(tmp_path / "run" / "model.pt"), "--k", "5", "--json", str(path)]
        assert f"json {path}: cannot be written" in fails(capsys, ["evaluate", "--data", data, *options])


def test_models_lists_every_backbone_with_one_line(capsys) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(set(BACKBONES) - BASES)
    fusion = {line.split()[0]: line.split()[1] for line in lines}
    assert (fusion["VBPR"], fusion["LATTICE"], fusion["LightGCN"]) == ("late", "early", "none")
    assert all(len(line.split()) > 4 for line in lines)


def test_doctor_and_version_say_what_is_installed(capsys) -> None:
    assert main(["doctor"]) == 0
    assert torch.__version__ in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("pyg-ckd ")


def test_the_process_exits_with_code_2_and_without_a_traceback(tmp_path) -> None:
    command = [sys.executable, "-m", "pyg_ckd.cli", "train", "--data", str(tmp_path / "x.npz"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "words"), [("train", "goes on from the last checkpoint"), ("models", "nothing is half-written")]
)
def test_an_interruption_gives_one_line_that_says_what_the_same_command_does(command, words, capsys, monkeypatch):
    def interrupt(args: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("pyg_ckd.cli.app._run", interrupt)
    assert main([command]) == 130
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert words in lines[0]
