"""The whole study: by which metric it compares, what a second call keeps, and how it goes on."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pyg_ckd.balance import Objective
from pyg_ckd.data import build_data
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation.statistics import paired_test
from pyg_ckd.files import plain_values, read_json, write_json
from pyg_ckd.nn import FISM, VBPR, LightGCN
from pyg_ckd.study import Contender, Study, StudySettings
from tests.training.problem import planted_data

TRAINER = {"max_epochs": 2, "extend": 1, "batch_size": 64, "lr": 0.02, "monitor": "ndcg@5", "device": "cpu"}
TRAINER["progress"] = False
RUNS = ["popularity", "lightgcn", "plain", "teacher:visual", "teacher:textual", "ckd"]


def make(folder: Path, k: tuple[int, ...] = (3,), data=None, backbone=VBPR, runs=None, **trainer: Any) -> Study:
    settings = StudySettings(
        model={"embedding_dim": 4},
        distillation={"num_random_triples": 20},
        lightgcn={"embedding_dim": 4},
        trainer={**TRAINER, "checkpoint_minutes": 0.0, **trainer},
        k=k,
    )
    data = planted_data() if data is None else data
    return Study(data, backbone, folder, settings, baselines=("popularity", "lightgcn"), runs=runs)


def run_folder(study: Path, name: str, seed: int = 0) -> Path:
    """Return the folder of a run."""
    found = (path.parent for path in (study / "runs").glob("*/run.json"))
    return next(path for path in found if [read_json(path / "run.json")[k] for k in ("name", "seed")] == [name, seed])


def numbers(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the runs found as JSON has it, without how long they took."""
    timing = ("seconds_per_epoch", "training_seconds")
    return [{k: plain_values(value) for k, value in run.items() if k not in timing} for run in results["runs"]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "finished"
    make(folder).run()
    return folder


@pytest.fixture
def study(finished, tmp_path) -> Path:
    """A copy of a finished study."""
    return Path(shutil.copytree(finished, tmp_path / "study"))


def test_everything_is_measured_at_the_monitored_cut_off_and_at_those_asked_for(finished):
    results = read_json(finished / "results.json")
    assert [run["name"] for run in results["runs"]] == RUNS
    assert results["monitor"] == "ndcg@5"
    for run in results["runs"]:
        assert {"ndcg@5", "recall@5", "recall@3", "coverage@5"} <= run["test"].keys()
        assert {"ndcg@5", "recall@3"} <= run["val"].keys()
        assert not any(name.endswith("@20") for name in run["test"])
    for name in ("lightgcn", "plain", "ckd", "teacher:visual"):
        folder = run_folder(finished, name)
        history = pd.read_csv(folder / "history.csv", index_col="epoch")
        best = read_json(folder / "run.json")["best_epoch"]
        assert history["val/ndcg@5"].idxmax() == best


def test_plain_and_distilled_student_are_compared_by_the_monitored_metric(finished):
    results = read_json(finished / "results.json")
    found = [test for test in results["comparisons"] if (test["a"], test["b"]) == ("ckd", "plain")]
    assert [(test["metric"], test["over"]) for test in found] == [("ndcg@5", "users"), ("recall@5", "users")]
    for test in found:
        tables = [pd.read_csv(run_folder(finished, name) / "per_user-5.csv") for name in ("ckd", "plain")]
        expected = paired_test(*(table[test["metric"]] for table in tables))
        assert test["p_value"] == pytest.approx(expected.p_value)
        assert test["num"] == 40


def test_contenders_are_compared_with_the_teachers_apart(finished):
    results = read_json(finished / "results.json")
    assert not [test for test in results["comparisons"] if test["b"].startswith("teacher:")]
    found = {(test["a"], test["b"]): test for test in results["teacher_comparisons"] if test["metric"] == "ndcg@5"}
    assert found.keys() == {(name, f"teacher:{m}") for name in ("plain", "ckd") for m in ("visual", "textual")}
    tables = [pd.read_csv(run_folder(finished, name) / "per_user-5.csv") for name in ("plain", "teacher:visual")]
    expected = paired_test(*(table["ndcg@5"] for table in tables))
    assert found["plain", "teacher:visual"]["p_value"] == pytest.approx(expected.p_value)


def test_the_users_of_the_held_out_parts_are_counted(finished):
    assert read_json(finished / "results.json")["held_out_users"] == {"val": 40, "test": 40}


def test_effects_are_measured_at_the_monitored_cut_off(finished):
    results = read_json(finished / "results.json")
    plain = next(run for run in results["runs"] if run["name"] == "plain")
    assert plain["val"]["recall@5"] != plain["val"]["recall@3"]
    # Two modalities: recall without the one is that of the other alone.
    for m, other in (("visual", "textual"), ("textual", "visual")):
        drop = plain["val"]["recall@5"] - results["effects"]["plain"][m]["recall_drop"]
        assert drop == pytest.approx(results["effects"]["plain"][other]["recall_alone"], abs=1e-6)


def test_a_second_call_keeps_everything_whatever_does_not_decide_about_results(study):
    before = read_json(study / "results.json")
    again = make(study, device="auto", progress=True, checkpoint_minutes=3.0).run()
    assert numbers(again) == numbers(before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_epochs": 3}, r"trainer\.max_epochs = 2, expected 3"),
        ({"extend": 2}, r"trainer\.extend = 1, expected 2"),
        ({"lr": 0.5}, r"trainer\.lr = 0\.02, expected 0\.5"),
    ],
    ids=str,
)
def test_a_second_call_with_settings_that_decide_is_refused_by_name(change, message, study):
    with pytest.raises(InputError, match=f"settings.json: found {message} as in this run"):
        make(study, **change)


def test_a_study_broken_off_within_a_teacher_goes_on_there(finished, tmp_path, monkeypatch):
    epochs = {"done": 0}
    original = Objective.epoch_statistics

    def epoch_statistics(self):
        epochs["done"] += 1
        if epochs["done"] == stop:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(Objective, "epoch_statistics", epoch_statistics)
    stop = 2 + 2 + 2 + 2  # LightGCN, plain and the first teacher are done, the second one has seen one epoch.
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path).run()
    assert len(list((tmp_path / "runs" / "teachers").glob("*/last.pt"))) == 1
    epochs["done"], stop = 0, -1
    results = make(tmp_path).run()
    assert epochs["done"] == 1  # Of the teacher; the distilled student has statistics of its own.
    assert numbers(results) == numbers(read_json(finished / "results.json"))
    assert not list(tmp_path.rglob("last.pt"))


def test_runs_that_have_not_converged_are_extended_wherever_a_call_is_broken_off(tmp_path, monkeypatch):
    expected = numbers(make(tmp_path / "long", max_epochs=6).run())
    epochs = {"left": 6 + 6 + 6 + 5}  # LightGCN, plain and the first teacher are done, the second one is extended.
    original = Objective.epoch_statistics

    def epoch_statistics(self):
        epochs["left"] -= 1
        if epochs["left"] == 0:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(Objective, "epoch_statistics", epoch_statistics)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "extended", extend=3).run()
    assert len(list((tmp_path / "extended" / "runs" / "teachers").glob("*/last.pt"))) == 1
    found = numbers(make(tmp_path / "extended", extend=3).run())
    assert epochs["left"] == -2  # Two more of the second teacher.
    for run, long in zip(found, expected, strict=True):
        assert run.pop("key") != long.pop("key") or run["name"] == "popularity"
    assert found == expected
    trained = [run for run in found if run["name"] != "popularity"]
    assert {(run["epochs"], run["stopped"], run["converged"]) for run in trained} == {
        (6, "budget: too early to tell", False)
    }


def test_a_study_extends_unless_it_is_told_otherwise(tmp_path):
    settings = StudySettings(trainer={"max_epochs": 2, "monitor": "ndcg@5"})
    study = Study(planted_data(), VBPR, tmp_path, settings)
    assert {run.trainer.get("extend") for run in study.plan([0]) if run.trainer} == {3}
    assert "extend" not in settings.trainer


def test_a_checkpoint_that_a_killed_call_left_behind_is_removed(study):
    left = run_folder(study, "plain") / "last.pt"
    left.write_bytes(b"left between writing run.json and removing this file")
    make(study).run()
    assert not left.exists()


def test_models_say_with_how_many_negatives_they_were_trained(study):
    for name, each in (("ckd", 4), ("plain", 4), ("lightgcn", 4)):
        content = torch.load(run_folder(study, name) / "model.pt", weights_only=True)
        assert content["about"]["settings"]["num_negatives"] == each, name


def test_a_damaged_model_is_refused_with_what_to_remove(study):
    path = run_folder(study, "ckd") / "model.pt"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"model\.pt: cannot be read .* remove the folder .*ckd-[0-9a-f]{16} to train"):
        make(study).run()
    shutil.rmtree(path.parent)
    assert [run["name"] for run in make(study).run()["runs"]] == RUNS


def test_a_damaged_teacher_is_trained_again(study):
    before = read_json(study / "results.json")
    path = next((study / "runs" / "teachers").glob("*.pt"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match=f"is trained again: .*{path.name}"):
        again = make(study).run()
    assert numbers(again) == numbers(before)


def test_a_backbone_that_ignores_features_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(LightGCN, "uses_features", False, raising=False)
    with pytest.raises(InputError, match=r"backbone: found LightGCN, .* no modality to distil, .* train --backbone"):
        make(tmp_path / "out", backbone=LightGCN)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["trainer", "teacher", "contender", "lightgcn", "baseline"])
def test_a_warm_up_longer_than_the_training_is_refused_before_anything_is_written(part, tmp_path):
    warm = {"warmup_steps": 1000}
    trainer = {"max_epochs": 2, "batch_size": 64, "progress": False} | (warm if part == "trainer" else {})
    own = {name: warm if part == name else {} for name in ("teacher", "lightgcn")}
    settings = StudySettings(trainer=trainer, **own)
    contenders = {"ckd": Contender("ckd", trainer=warm if part == "contender" else {})}
    baselines = {"lightgcn": warm if part == "baseline" else {}}
    with pytest.raises(InputError, match=r"warmup_steps: found 1000, expected fewer than the .* steps of the training"):
        Study(planted_data(), VBPR, tmp_path / "out", settings, contenders=contenders, baselines=baselines)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["trainer", "teacher", "contender"])
def test_a_softmax_for_a_backbone_without_bpr_is_refused_before_anything_is_written(part, tmp_path):
    softmax = {"ranking": "softmax"}
    trainer = {"max_epochs": 2, "batch_size": 64, "progress": False} | (softmax if part == "trainer" else {})
    settings = StudySettings(trainer=trainer, teacher=softmax if part == "teacher" else {})
    contenders = {"ckd": Contender("ckd", trainer=softmax if part == "contender" else {})}
    with pytest.raises(InputError, match=r"ranking: found 'softmax' for FISM, which trains with losses of its own"):
        Study(planted_data(), FISM, tmp_path / "out", settings, contenders=contenders)
    assert not (tmp_path / "out").exists()


def test_cut_offs_beyond_the_items_are_refused_by_option(tmp_path):
    with pytest.raises(InputError, match="k: found 31"):
        make(tmp_path, k=(31,))
    with pytest.raises(InputError, match=r"trainer\.monitor: found recall@31"):
        make(tmp_path, monitor="recall@31")
    with pytest.raises(InputError, match="k: found none"):
        make(tmp_path, k=())


def test_one_user_is_studied_without_a_comparison_over_users(tmp_path):
    rng = np.random.default_rng(0)
    features = {m: rng.normal(size=(12, 3)) for m in ("visual", "textual")}
    splits = {"train": range(5), "val": range(5, 7), "test": range(7, 9)}
    edges = {name: [[0] * len(items), list(items)] for name, items in splits.items()}
    data = build_data(edges["train"], features, val=edges["val"], test=edges["test"])
    results = make(tmp_path, data=data).run()
    assert results["comparisons"] == []
    assert [run["name"] for run in results["runs"]] == RUNS
    assert math.isnan(results["runs"][-1]["test"]["personalization@5"])  # There is no pair of users.


def test_runs_of_an_older_version_without_the_monitored_cut_off_are_made_anew(study):
    before = read_json(study / "results.json")
    path = run_folder(study, "plain") / "run.json"
    record = read_json(path)
    del record["test"]["ndcg@5"]
    write_json(path, record)
    assert numbers(make(study).run()) == numbers(before)


def test_studies_of_one_data_set_share_the_runs_of_the_baselines(tmp_path):
    said: list[str] = []
    settings = {"model": {"embedding_dim": 4}, "lightgcn": {"embedding_dim": 4}, "trainer": {**TRAINER}, "k": (3,)}
    results = []
    for name, l2 in (("first", 0.01), ("second", 0.1)):
        chosen = StudySettings(**settings, plain={"l2": l2}, distillation={"num_random_triples": 20})
        study = Study(planted_data(), VBPR, tmp_path / name, chosen, said.append, baselines=tmp_path / "shared")
        results.append(study.run())
        assert not list((tmp_path / name / "runs").glob("lightgcn-*"))
        assert ("lightgcn", 0) in study.histories([0])
    assert said.count("seed 0: lightgcn") == 1
    assert [run for run in numbers(results[0]) if run["name"] == "lightgcn"] == [
        run for run in numbers(results[1]) if run["name"] == "lightgcn"
    ]


def test_a_study_that_was_killed_while_its_settings_were_written_begins_in_the_same_folder(tmp_path):
    (tmp_path / ".settings.json.partial-7i6o4r91.json").touch()
    make(tmp_path)
    assert (tmp_path / "settings.json").exists()


def test_a_study_with_damaged_settings_says_how_to_keep_its_runs(finished, tmp_path, monkeypatch):
    old = tmp_path / "old"
    shutil.copytree(finished, old)
    (old / "settings.json").write_text("[1")
    with pytest.raises(InputError) as error:
        make(old)
    assert str(error.value).endswith(
        f"is damaged; choose another folder; --runs {old / 'runs'} (runs= in Python) keeps the finished runs"
    )
    monkeypatch.setattr("pyg_ckd.training.Trainer.fit", lambda *args, **options: pytest.fail("it was trained again"))
    study = make(tmp_path / "new", runs=old / "runs")
    assert numbers(study.run()) == numbers(read_json(finished / "results.json"))
