"""A run in a folder: what a second call may change, and what it goes on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pyg_ckd.data import build_data
from pyg_ckd.data.inputs import RATES
from pyg_ckd.errors import InputError
from pyg_ckd.nn import FISM, VBPR, LightGCN
from pyg_ckd.study.run import monitored, train_run
from pyg_ckd.study.settings import StudySettings
from pyg_ckd.study.tune import Tuning
from tests.training.problem import planted_data

TRAINER = {"max_epochs": 2, "batch_size": 64, "lr": 0.02, "monitor": "recall@5", "device": "cpu", "progress": False}


def run(folder: Path, objective: str = "plain", backbone=VBPR, parts: dict[str, Any] | None = None, **trainer) -> str:
    """Train into a folder and return what its history holds."""
    options = {"model": {"embedding_dim": 4}, "trainer": TRAINER | trainer, **(parts or {})}
    train_run(planted_data(), backbone, folder, objective, options, [5])
    return (folder / "history.csv").read_text()


def test_a_second_call_may_change_what_does_not_decide_about_results(tmp_path):
    first = run(tmp_path)
    assert run(tmp_path, device="auto", checkpoint_minutes=5.0, progress=True) == first
    written = json.loads((tmp_path / "settings.json").read_text())
    assert written["trainer"]["checkpoint_minutes"] == 5.0


def test_a_second_call_may_change_options_that_its_objective_does_not_use(tmp_path):
    first = run(tmp_path, parts={"plain": {"l2": 0.1}, "teacher": {"l2": 0.1}, "distillation": {"temperature": 0.1}})
    assert run(tmp_path, parts={"plain": {"l2": 0.1}, "teacher": {"l2": 0.2}}) == first
    with pytest.raises(InputError, match=r"found plain\.l2 = 0\.1, expected 0\.2"):
        run(tmp_path, parts={"plain": {"l2": 0.2}})


@pytest.mark.parametrize(("objective", "parts"), [("plain", ["test"]), ("ckd", []), ("plain", [])])
def test_without_a_validation_part_the_last_epoch_is_kept_and_what_there_is_measured(tmp_path, objective, parts):
    data = planted_data()
    for part in {"val", "test"} - set(parts):
        data[RATES][f"{part}_edge_index"] = data[RATES][f"{part}_edge_index"][:, :0]
    options = {"model": {"embedding_dim": 4}, "trainer": {**TRAINER, "monitor": "recall@20", "max_epochs": 3}}
    metrics = train_run(data, VBPR, tmp_path / "a", objective, options, [5])
    assert bool(metrics) == bool(parts)
    found = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert found == {"best_epoch": 3, "stopped": "budget", "converged": None, **{part: dict(metrics) for part in parts}}
    assert train_run(data, VBPR, tmp_path / "a", objective, options, [5]) == metrics  # It is finished.
    options["trainer"]["max_epochs"] = 2
    train_run(data, VBPR, tmp_path / "b", objective, options, [5])
    last, before = (torch.load(tmp_path / name / "model.pt", weights_only=True)["state"] for name in ("a", "b"))
    assert any(not torch.equal(last[key], before[key]) for key in last)


@pytest.mark.parametrize("objective", ["g2d", "odsw"])
def test_a_strategy_that_learns_from_the_validation_part_is_refused_before_anything_is_trained(tmp_path, objective):
    data = planted_data()
    data[RATES].val_edge_index = data[RATES].val_edge_index[:, :0]
    with pytest.raises(InputError, match=f"{objective}: found a graph without a validation part"):
        train_run(data, VBPR, tmp_path / "a", objective, {"trainer": TRAINER}, [5])
    assert not (tmp_path / "a").exists()


def test_the_setting_that_differs_is_named(tmp_path):
    run(tmp_path)
    with pytest.raises(InputError, match=r"found trainer\.lr = 0\.02, expected 0\.5 as in this run"):
        run(tmp_path, lr=0.5)


def test_a_finished_run_goes_on_if_more_epochs_are_asked_for_and_stays_if_fewer(tmp_path):
    run(tmp_path / "a")
    longer = run(tmp_path / "a", max_epochs=5)
    assert longer == run(tmp_path / "b", max_epochs=5)
    assert len(pd.read_csv(tmp_path / "a" / "history.csv")) == 5
    metrics = (tmp_path / "a" / "metrics.json").read_text()
    assert run(tmp_path / "a", max_epochs=1) == longer
    assert (tmp_path / "a" / "metrics.json").read_text() == metrics


def test_epochs_of_a_distilled_run_are_those_of_its_teachers_and_must_stay(tmp_path):
    first = run(tmp_path, "ckd", max_epochs=1)
    assert run(tmp_path, "ckd", max_epochs=1, checkpoint_minutes=1.0, parts={"plain": {"l2": 3.0}}) == first
    with pytest.raises(InputError, match=r"found trainer\.max_epochs = 1, expected 2"):
        run(tmp_path, "ckd")
    assert [path.suffix for path in (tmp_path / "teachers").iterdir()] == [".pt", ".pt"]


def test_a_backbone_that_ignores_features_is_trained_but_not_distilled(tmp_path, monkeypatch):
    monkeypatch.setattr(LightGCN, "uses_features", False, raising=False)
    run(tmp_path / "plain", backbone=LightGCN, max_epochs=1)
    with pytest.raises(InputError, match=r"backbone: found LightGCN, which ignores all features .* pyg-ckd train"):
        run(tmp_path / "ckd", "ckd", LightGCN)
    assert not (tmp_path / "ckd").exists()


def test_an_unknown_objective_is_refused(tmp_path):
    with pytest.raises(InputError, match="unknown objective 'ckdd': did you mean 'ckd'"):
        run(tmp_path, "ckdd")


def test_a_monitored_metric_that_cannot_be_evaluated_is_refused_before_the_folder_is_taken(tmp_path):
    with pytest.raises(InputError, match=r"trainer\.monitor: found recall@31, .* between 1 and 30, .* recall@5"):
        run(tmp_path / "out", monitor="recall@31")
    with pytest.raises(InputError, match="unknown metric 'recal'"):
        run(tmp_path / "out", monitor="recal@5")
    assert not (tmp_path / "out").exists()
    assert monitored(planted_data(), {"monitor": "ndcg@7"}) == ("ndcg@7", "ndcg", 7)
    assert monitored(planted_data(), {}) == ("recall@20", "recall", 20)


def few_items(val: bool = True, test: bool = True):
    """Return a graph of 12 items."""
    rng = np.random.default_rng(0)
    held = np.array([[0, 1], [10, 11]])
    edges = np.stack([np.repeat(np.arange(20), 3), np.arange(60) % 10])
    parts = {"val": held if val else None, "test": np.array([[0, 1], [11, 10]]) if test else None}
    return build_data(edges, {m: rng.normal(size=(12, 3)) for m in ("a", "b")}, num_users=20, num_items=12, **parts)


@pytest.mark.parametrize(
    ("given", "k", "options"),
    [
        ({}, (10, 20), "set them, and the metric that decides, e.g. with --k 5 --trainer.monitor recall@5"),
        ({"monitor": "ndcg@13"}, 13, "set them, and the metric that decides, e.g. with --k 5 --trainer.monitor ndcg@5"),
        ({"monitor": "recall@5"}, (10, 20), "set them, e.g. with --k 5"),
    ],
    ids=["defaults", "both given", "monitor given"],
)
def test_cut_offs_larger_than_the_catalogue_are_refused_together_with_the_options_to_set(given, k, options, tmp_path):
    trainer = {"max_epochs": 1, "progress": False, **given}
    largest = k if isinstance(k, int) else max(k)
    with pytest.raises(InputError) as error:
        train_run(few_items(), VBPR, tmp_path / "out", options={"trainer": trainer}, k=k)
    assert str(error.value) == (
        f"k: found {largest}, expected cut-offs between 1 and 12, the number of items; {options}"
    )
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="k: found 20, expected cut-offs between 1 and 12"):
        Tuning(few_items(), VBPR, tmp_path / "tuned", settings=StudySettings(trainer={"monitor": "recall@5"}))


def test_the_monitor_is_not_named_where_nothing_is_validated_nor_cut_offs_where_nothing_is_measured(tmp_path):
    options = {"trainer": {"max_epochs": 1, "progress": False}}
    with pytest.raises(InputError, match=r"k: found 20, .* the number of items; set them, e\.g\. with --k 5$"):
        train_run(few_items(val=False), VBPR, tmp_path / "out", options=options)
    assert train_run(few_items(val=False, test=False), VBPR, tmp_path / "out", options=options) == {}


def test_a_warm_up_of_teachers_longer_than_their_training_is_refused_before_anything_is_written(tmp_path):
    trainer = {"max_epochs": 2, "batch_size": 64, "progress": False}
    options = {"trainer": trainer, "teacher": {"warmup_steps": 1000}}
    with pytest.raises(InputError, match="warmup_steps: found 1000"):
        train_run(planted_data(), VBPR, tmp_path / "out", "ckd", options)
    assert not (tmp_path / "out").exists()


def test_a_softmax_for_a_backbone_without_bpr_is_refused_before_anything_is_written(tmp_path):
    trainer = {"max_epochs": 2, "batch_size": 64, "progress": False, "ranking": "softmax"}
    with pytest.raises(InputError, match="ranking: found 'softmax' for FISM"):
        train_run(planted_data(), FISM, tmp_path / "out", "plain", {"trainer": trainer})
    assert not (tmp_path / "out").exists()
