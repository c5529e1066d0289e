"""``pyg-ckd compare``: the whole study, contenders and their options."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from pyg_ckd.cli import main
from tests.cli.problem import QUICK, fails, train

SMALL = ["--k", "5", "--trainer.monitor", "recall@5", "--trainer.max_epochs", "1", "--trainer.progress", "false"]
SMALL += ["--trainer.extend", "1"]
ONCE = [*QUICK, "--trainer.extend", "1"]


def compare(data: str, out: Path, *more: str) -> list[str]:
    common = ["--data", data, "--backbone", "VBPR", "--out", str(out), *SMALL]
    return ["compare", *common, "--baselines", "popularity", *more]


def test_compare_writes_a_complete_study_and_goes_on_where_it_was(arrays, save, capsys, tmp_path) -> None:
    data, out = save(arrays), tmp_path / "study"
    args = ["compare", "--data", data, "--backbone", "VBPR", "--out", str(out), "--k", "[5,10]", *QUICK]
    args += ["--trainer.monitor", "recall@10", "--trainer.extend", "1"]
    assert main([*args, "--seeds", "1"]) == 0
    names = {path.name for path in out.iterdir()}
    assert {"report.html", "results.json", "results.csv", "table.tex", "results.png", "effects.png"} <= names
    results = json.loads((out / "results.json").read_text())
    assert [run["name"] for run in results["runs"] if run["kind"] == "baseline"] == results["baselines"]
    assert {"popularity", "item-knn", "item-knn-content", "ease", "ease-content", "lightgcn"} == {
        *results["baselines"],
        *results["left_out"],
    }
    assert [contender["name"] for contender in results["contenders"]] == ["plain", "ckd"]
    ckd = next(run for run in results["runs"] if run["name"] == "ckd")
    assert ckd["backbone"] == "VBPR"
    assert set(ckd["views"]) == {"visual", "acoustic"}
    assert {"recall@5", "ndcg@10", "cold/recall@5", "coverage@10", "personalization@5"} <= set(ckd["test"])
    assert set(results["effects"]["ckd"]["visual"]) >= {"mean", "low", "high"}

    stamps = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/run.json")}
    capsys.readouterr()
    assert main([*args, "--seeds", "2"]) == 0
    assert len(stamps) >= 6
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    again = json.loads((out / "results.json").read_text())
    trained = ["lightgcn", "plain", "ckd", "teacher:visual", "teacher:acoustic"]
    assert len(again["runs"]) == len(results["runs"]) + len(trained)
    assert [run for run in again["runs"] if run["seed"] == 0] == results["runs"]
    assert "CKD" in capsys.readouterr().out.upper()
    assert "model" in fails(capsys, [*args, "--model.embedding_dim", "8"])


def test_a_study_extends_runs_by_default_and_a_single_training_does_not(capsys) -> None:
    found = {}
    for command in ("compare", "train"):
        with pytest.raises(SystemExit):
            main([command, "--data", "synthetic", "--backbone", "VBPR", "--out", "out", "--print_config"])
        found[command] = yaml.safe_load(capsys.readouterr().out)["trainer"]
    assert (found["compare"]["extend"], found["train"]["extend"]) == (3, 1)
    assert found["train"]["patience"] == 1000


def test_compare_works_with_eight_items(arrays, save, capsys, tmp_path) -> None:
    rng = np.random.default_rng(0)
    key = rng.permutation(20 * 8)[:110]
    pairs = np.stack([key // 8, key % 8])
    small = {"train": pairs[:, :60], "val": pairs[:, 60:85], "test": pairs[:, 85:]}
    small |= {m: arrays[m][:8] for m in ("visual", "acoustic")}
    data, out = save({**small, "num_users": np.int64(20), "num_items": np.int64(8)}), tmp_path / "study"
    args = ["compare", "--data", data, "--backbone", "VBPR", "--out", str(out), "--baselines", "popularity", *ONCE]
    assert "k: found 10" in fails(capsys, [*args, "--trainer.monitor", "recall@5"])
    assert "trainer.monitor: found recall@20" in fails(capsys, [*args, "--k", "[5]"])
    assert not out.exists()
    assert main([*args, "--k", "[3]", "--trainer.monitor", "recall@5"]) == 0
    results = json.loads((out / "results.json").read_text())
    assert {test["metric"] for test in results["comparisons"]} == {"recall@5", "ndcg@5"}
    assert {"recall@3", "recall@5"} <= set(results["runs"][1]["test"])
    assert "recall@5" in capsys.readouterr().out
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
    args = ["compare", "--data", data, "--backbone", "MMGCN", "--out", str(out), "--k", "[5]", *ONCE]
    assert main([*args, "--baselines", "popularity"]) == 0
    (path,) = out.glob("runs/ckd-*/model.pt")
    args = ["evaluate", "--data", data, "--checkpoint", str(path), "--k", "5", "--json", str(out / "x.json")]
    assert main([*args, "--metrics", "recall"]) == 0
    expected = json.loads((out / "x.json").read_text())["recall@5"]
    assert json.loads((path.parent / "run.json").read_text())["test"]["recall@5"] == pytest.approx(expected, abs=1e-7)
    per_user = pd.read_csv(path.parent / "per_user-20.csv", index_col="user")["recall@5"]
    assert per_user.mean() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("command", ["compare", "tune"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--teacher.embedding_dim", "-1"], "teacher.embedding_dim: found -1"),
        (["--teacher.lr", "-1"], "teacher.lr: found -1"),
        (["--teacher.l2", "-1"], "teacher.l2: found -1"),
        (["--trainer.monitor", "recall@05"], "metric: found 'recall@05', expected a name and a cut-off such as"),
        (["--options.plain.strategy"], "options.plain.strategy: found no value, expected the name of a strategy"),
        (["--options", "{plain: {strategy: null}}"], "options.plain.strategy: found no value, expected the name"),
        (["--options", "{plain: {strategy: 3}}"], "options.plain.strategy: found 3, expected the name of a strategy"),
    ],
    ids=str,
)
def test_wrong_options_are_found_whoever_needs_them(command, options, message, arrays, save, capsys, tmp_path) -> None:
    args = compare(save(arrays), tmp_path / "out", "--contenders", "plain", *options)
    assert message in fails(capsys, [command, *args[1:]])
    assert not (tmp_path / "out").exists()


def test_runs_may_be_in_the_folder_of_the_report(arrays, save, tmp_path) -> None:
    out = tmp_path / "out"
    args = compare(save(arrays), out, "--contenders", "plain", "--runs", str(out / "runs"))
    assert main(args) == main(args) == 0
    assert list(out.glob("runs/plain-*/run.json"))


def test_a_path_that_is_no_text_is_shown_in_the_report(arrays, save, tmp_path, capsys) -> None:
    data = Path(save(arrays)).rename(tmp_path / "caf\udce9.npz")
    assert main(compare(str(data), tmp_path / "out", "--contenders", "plain")) == 0
    assert "caf?.npz" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert main(["data", "describe", str(data), "--out", str(tmp_path / "x.html")]) == 0
    assert "caf?.npz" in (tmp_path / "x.html").read_text(encoding="utf-8")
    (model,) = (tmp_path / "out").glob("runs/plain-*/model.pt")
    assert main(["show", str(model), "--html", str(tmp_path / "card.html")]) == 0


class Asked(Exception):
    """Ends a study before it begins."""


@pytest.fixture
def asked(monkeypatch) -> dict[str, Any]:
    """What the command asks a study for."""
    found: dict[str, Any] = {}

    def study(data, backbone, folder, settings, say, contenders, **more):
        found.update(settings=settings, contenders=contenders, **more)
        raise Asked

    monkeypatch.setattr("pyg_ckd.study.Study", study)
    return found


def test_contenders_get_their_own_options_and_else_those_of_their_group(arrays, save, tmp_path, asked) -> None:
    file = tmp_path / "options.yaml"
    file.write_text("low: {strategy: multitask, weight: 0.05}\nckd: {temperature: 0.3}\n")
    own = ["--options", str(file), "--options.ckd.generic_weight", "2"]
    groups = ["--plain.l2", "0.5", "--distillation.l2", "0.25"]
    with pytest.raises(Asked):
        main(compare(save(arrays), tmp_path / "out", "--contenders", "ckd,low,multitask", *own, *groups))
    contenders = asked["contenders"]
    assert list(contenders) == ["plain", "ckd", "low", "multitask"]
    assert [c.strategy.name for c in contenders.values()] == ["plain", "ckd", "multitask", "multitask"]
    assert contenders["plain"].options == {"l2": 0.5}
    ckd = contenders["ckd"].options
    assert (ckd["temperature"], ckd["generic_weight"], ckd["l2"]) == (0.3, 2.0, 0.25)
    assert contenders["low"].options == {"l2": 0.5, "weight": 0.05}
    assert contenders["multitask"].options == {"l2": 0.5}


def test_a_contender_may_have_a_dot_in_its_name(arrays, save, tmp_path, asked, capsys) -> None:
    options = "{ckd-0.1: {strategy: ckd, distillation_weight: 0.1}}"
    args = compare(save(arrays), tmp_path / "out", "--contenders", "ckd-0.1", "--options", options)
    with pytest.raises(Asked):
        main(args)
    assert asked["contenders"]["ckd-0.1"].options["distillation_weight"] == 0.1
    with pytest.raises(SystemExit):
        main([*args, "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["options"] == {
        "ckd-0.1": {"strategy": "ckd", "distillation_weight": 0.1}
    }


def test_what_a_study_is_asked_for_is_what_was_given(arrays, save, tmp_path, asked) -> None:
    more = ["--workers", "2", "--backend", "dask", "--runs", str(tmp_path / "runs"), "--baselines", "ease,item-knn"]
    with pytest.raises(Asked):
        main(compare(save(arrays), tmp_path / "out", *more))
    assert (asked["workers"], asked["backend"], asked["runs"]) == (2, "dask", str(tmp_path / "runs"))
    assert list(asked["baselines"]) == ["ease", "item-knn"]
    assert list(asked["contenders"]) == ["plain", "ckd"]
    with pytest.raises(Asked):
        main(compare(save(arrays), tmp_path / "out", "--baselines", "[]"))
    assert list(asked["baselines"]) == []


def test_a_strategy_beside_the_user_is_a_contender(arrays, save, tmp_path, asked, monkeypatch) -> None:
    (tmp_path / "of_a_stranger.py").write_text(
        "from pyg_ckd import Objective\n\nclass Mine(Objective):\n"
        "    def __init__(self, student, pull: float = 1.0, l2: float = 0.1):\n"
        "        super().__init__(student, l2)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    options = ["--options", "{of_a_stranger.Mine: {pull: 3}}", "--options.Mine.l2", "0.7"]
    with pytest.raises(Asked):
        main(compare(save(arrays), tmp_path / "out", "--contenders", "of_a_stranger.Mine", *options))
    assert list(asked["contenders"]) == ["plain", "Mine"]
    assert asked["contenders"]["Mine"].options == {"pull": 3.0, "l2": 0.7}


BAD = {
    "abbreviation": (["--seed", "7"], ["unknown option --seed: did you mean --seeds?"]),
    "list of seeds": (
        ["--seeds", "0,1"],
        ["--seeds: found '0,1', expected the number of seeds, such as 3 for seeds 0, 1"],
    ),
    "no seed": (["--seeds", "0"], ["seeds: found 0, expected at least 1"]),
    "no worker": (["--workers", "0"], ["workers: found 0, expected at least 1"]),
    "backend": (["--backend", "lokky"], ["'lokky'", "'loky'"]),
    "baseline": (["--baselines", "popularty"], ["unknown baseline 'popularty'", "'popularity'"]),
    "baseline twice": (["--baselines", "ease,ease"], ["'ease'", "twice"]),
    "blanks": (["--contenders", "ckd multitask"], ["--contenders: found 'ckd multitask'", "commas"]),
    "strategy": (["--contenders", "multitsk"], ["contenders: unknown strategy 'multitsk'", "'multitask'"]),
    "no module": (["--contenders", "no_such.Mine"], ["no_such.Mine", "cannot be imported"]),
    "no strategy": (["--contenders", "json.JSONDecoder"], ["JSONDecoder", "derives from pyg_ckd.Objective"]),
    "two of one name": (["--contenders", "ckd,ckd"], ["two of the name 'ckd'", "ckd-2"]),
    "name of a baseline": (["--contenders", "ease", "--options", "{ease: {strategy: ckd}}"], ["'ease'", "baseline"]),
    "options of nobody": (["--options", "{multitsk: {weight: 1}}"], ["unknown contender 'multitsk'", "--contenders"]),
    "option": (["--options", "{ckd: {weigth: 1}}"], ["unknown option ckd.weigth", "ckd.distillation_weight"]),
    "path in an option": (
        ["--contenders", "tests.study.problem.Gentle", "--options.tests.study.problem.Gentle.share", "0.3"],
        ["options.tests: found an import path", "write --options.Gentle.OPTION VALUE"],
    ),
    "backbone by its path": (
        ["--backbone", "my_model.MyBackbone"],
        ["found the import path 'my_model.MyBackbone'", "use them in Python", "Study(data, MyBackbone, 'study').run()"],
    ),
    "typed option": (["--options.ckd.temprature", "1"], ["did you mean --options.ckd.temperature?"]),
    "option of another strategy": (["--options", "{ckd: {weight: 1}}"], ["unknown option ckd.weight"]),
    "type": (["--options", "{ckd: {temperature: hot}}"], ["ckd.temperature: found 'hot', expected a number"]),
    "no mapping": (["--options", "{ckd: 3}"], ["ckd: found 3, expected options"]),
    "no file": (["--options", "no.yaml"], ["options no.yaml: found no such file"]),
    "nothing": (["--options"], ["--options: found no value"]),
    "range": (["--options.ckd.temperature", "0"], ["options.ckd.temperature: found 0.0"]),
    "range of a group": (["--distillation.temperature", "0"], ["distillation.temperature: found 0.0"]),
    "teachers": (["--teacher.l2", "-1"], ["teacher.l2: found -1.0"]),
    "lightgcn": (["--lightgcn.embedding_dim", "0"], ["lightgcn.embedding_dim: found 0"]),
    "lr of lightgcn": (["--lightgcn.lr", "0"], ["lightgcn.lr: found 0.0"]),
    "l2 of lightgcn": (["--lightgcn.l2", "-1"], ["lightgcn.l2: found -1.0"]),
    "size": (["--model.embedding_dim", "99999999999"], ["model: cannot be built"]),
    "device": (["--trainer.device", "abacus"], ["trainer.device: found 'abacus'"]),
    "cut-off": (["--k", "21"], ["k: found 21", "between 1 and 20", "--k 5 --trainer.monitor recall@5"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_line_and_no_folder(case: str, arrays, save, capsys, tmp_path) -> None:
    more, words = BAD[case]
    runs = tmp_path / "deep" / "runs"
    line = fails(capsys, compare(save(arrays), tmp_path / "new" / "out", "--runs", str(runs), *more))
    for word in words:
        assert word in line
    assert {path.name for path in tmp_path.iterdir()} == {"data.npz"}


def test_a_study_of_one_modality_compares_plain_training(arrays, save, capsys, tmp_path) -> None:
    del arrays["acoustic"]
    args = compare(save(arrays), tmp_path / "study", "--contenders", "plain")
    assert main(args) == 0
    assert "There is one modality only, visual" in capsys.readouterr().out


def test_features_without_content_are_warned_of_once(arrays, save, capsys, tmp_path) -> None:
    data = save(arrays | {"visual": np.ones_like(arrays["visual"]), "acoustic": np.zeros_like(arrays["acoustic"])})
    for args in (compare(data, tmp_path / "study", "--contenders", "plain"), train(data, tmp_path / "run")):
        with pytest.warns(UserWarning, match="found no content that tells items apart") as found:
            assert main(args) == 0
        lines = [str(one.message) for one in found if "no content" in str(one.message)]
        assert len(lines) == 1
        assert lines[0].startswith("features of 'visual', 'acoustic': found no content")
        assert "starve" not in capsys.readouterr().out
