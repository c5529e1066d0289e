"""Processes that have some columns of every table each: what they exchange, keep, and go on from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyg_ckd.balance import DistillationWrapper
from pyg_ckd.balance.objective import Objective
from pyg_ckd.data import build_data
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR, EarlyFusionLightGCN, LightGCN, backbones
from pyg_ckd.processes import Processes, present
from pyg_ckd.scoring.column_sums import summed_over
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.training import RowAdam, build, save_model
from pyg_ckd.training.layouts import choose_layout
from tests.training.problem import planted_data, teachers, trainer
from tests.training.several import in_processes

BATCH, RANDOM, VIEWS, MODALITIES = 79, 20, 3, 2


def momentum(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, 0.1, 0.9)


CASES: dict[str, tuple[type, dict[str, Any], dict[str, Any]]] = {
    "all-options": (VBPR, {}, {"clip_norm": 0.1, "averaging": 0.9, "weight_decay": 0.01, "negatives": "hard"}),
    "sparse": (VBPR, {"sparse": True}, {}),
    "sum": (VBPR, {"fusion": "sum", "item_bias": False}, {}),
    "wide-features": (EarlyFusionLightGCN, {"embedding_dim": 4, "id_embedding": False}, {}),
    "freedom": (backbones()["FREEDOM"], {}, {}),
    "momentum": (LightGCN, {}, {"optimizer": momentum}),
}


class Counter:
    """Notes what every step exchanges."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int, int]] = []

    def on_train_batch_start(self, epoch: int, batch: Any, batch_idx: int) -> None:
        self.before = present().calls, present().bytes

    def on_train_batch_end(self, epoch: int, batch: Any, batch_idx: int, outputs: Any) -> None:
        calls, size = self.before
        self.steps.append((batch.user.numel(), present().calls - calls, present().bytes - size))


def trained(
    backbone: type = VBPR, model: dict[str, Any] | None = None, distils: bool = True, width: int = 4, **options: Any
) -> dict[str, Any]:
    data, counter = planted_data(), Counter()
    student = build(backbone, data, 0, **{"embedding_dim": 8} | (model or {})).double()
    objective: Objective = Objective(student)
    if distils and student.uses_features:
        given = {m: Embeddings(*(table[:, :width].double() for table in tables)) for m, tables in teachers().items()}
        objective = DistillationWrapper(student, given, num_random_triples=RANDOM, distillation_weight=0.5)
    chosen = {"max_epochs": 2, "batch_size": BATCH, "callbacks": [counter], "strategy": "columns"} | options
    if present().alone:
        chosen["strategy"] = "auto"
    history = trainer(**chosen).fit(objective, data)
    weights = {key: value for key, value in objective.state_dict().items() if value.is_floating_point()}
    return {"rows": history.rows, "weights": weights, "steps": counter.steps}


def trained_with_narrow_teachers() -> dict[str, Any]:
    """Train with fewer columns of a teacher than there may be processes."""
    return trained(width=3)


def whole_and_resumed(folder: str) -> dict[str, dict[str, Any]]:
    """Train for two epochs, and for one and then another; and go on where a single process has been."""
    mine = Path(folder)
    found = {name: trained(backbone, model, **options) for name, (backbone, model, options) in CASES.items()}
    found |= {"ckd": trained(), "plain": trained(distils=False)}
    trained(max_epochs=1, checkpoint_dir=mine / "two", averaging=0.9, model={"sparse": True})
    if present().first:
        shutil.copytree(mine / "two", mine / "copy")
    present().wait()
    for name in ("two", "one"):
        found[name] = trained(checkpoint_dir=mine / name, averaging=0.9, model={"sparse": True})
    found["unbroken"] = trained(averaging=0.9, model={"sparse": True})
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("columns")


@pytest.fixture(scope="module")
def two(folder) -> list[dict[str, dict[str, Any]]]:
    trained(max_epochs=1, checkpoint_dir=folder / "one", averaging=0.9, model={"sparse": True})
    return in_processes(whole_and_resumed, str(folder))


@pytest.fixture(scope="module")
def four() -> list[dict[str, Any]]:
    return in_processes(trained_with_narrow_teachers, size=4)


def check_alike(found: dict[str, Any], expected: dict[str, Any], atol: float = 1e-9) -> None:
    for row, other in zip(found["rows"], expected["rows"], strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            assert value == pytest.approx(other[name], abs=atol, nan_ok=True), name
    assert found["weights"].keys() == expected["weights"].keys()
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, atol=atol, rtol=0, equal_nan=True)


@pytest.mark.parametrize("case", CASES)
def test_options_train_what_one_process_trains(case, two):
    backbone, model, options = CASES[case]
    expected = trained(backbone, model, **options)
    for found in two:
        check_alike(found[case], expected, 1e-6 if "clip_norm" in options else 1e-9)  # Norms are in single precision.


def test_four_processes_train_what_one_trains(four):
    expected = trained_with_narrow_teachers()
    for found in four:
        check_alike(found, expected)


def test_a_step_exchanges_margins_and_norm_once(two):
    for found in two:
        assert {calls for _, calls, _ in found["freedom"]["steps"]} == {1}
        for size, calls, sent in found["ckd"]["steps"]:
            assert calls == 1
            assert sent == 8 * (VIEWS * size + MODALITIES * RANDOM + MODALITIES * (size + RANDOM) + 1)
        for size, calls, sent in found["plain"]["steps"]:
            assert (calls, sent) == (1, 8 * (size + 1))


def test_a_broken_training_goes_on_with_as_many_processes_to_the_bit(two):
    for found in two:
        assert [row["epoch"] for row in found["two"]["rows"]] == [1, 2]
        for name, weight in found["unbroken"]["weights"].items():
            assert torch.equal(found["two"]["weights"][name], weight), name


def test_a_broken_training_goes_on_with_another_number_of_processes(two, folder):
    expected = trained(averaging=0.9, model={"sparse": True})
    alone = trained(checkpoint_dir=folder / "copy", averaging=0.9, model={"sparse": True})
    check_alike(alone, expected)
    for found in two:
        check_alike(found["one"], expected)


PAIR = Processes(0, 2)


class Mine(VBPR):
    """Says nothing about how it can be shared out."""


class More(VBPR):
    strategies = frozenset({"columns"})

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.more = torch.nn.Parameter(torch.zeros(3))


REFUSED: dict[str, tuple[type, dict[str, Any], str]] = {
    "width": (VBPR, {"embedding_dim": 7}, "width 7 for 2 processes, expected a multiple of 2"),
    "cosine": (VBPR, {"cosine": 1.0}, "VBPR with a cosine"),
    "backbone": (backbones()["MMGCN"], {}, "'columns' for MMGCN"),
    "subclass": (Mine, {}, "'columns' for Mine"),
    "parameter": (More, {}, "parameter 'student.more'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_backbone_that_cannot_be_cut_is_refused_in_one_line(case):
    backbone, options, message = REFUSED[case]
    objective = Objective(build(backbone, planted_data(), 0, **options))
    with pytest.raises(InputError, match=message) as caught:
        choose_layout("columns", PAIR, objective)
    assert "\n" not in str(caught.value)


def test_a_strategy_that_reads_rows_is_refused():
    student = build(VBPR, planted_data(), 0, embedding_dim=8)
    objective = DistillationWrapper(student, teachers(), rows_weight=1.0, num_random_triples=RANDOM)
    with pytest.raises(InputError, match="found 'columns' for ckd, which reads more than margins of its own triples"):
        choose_layout("columns", PAIR, objective)


def test_auto_takes_what_fits(monkeypatch):
    assert choose_layout("auto", PAIR, Objective(build(VBPR, planted_data(), 0, embedding_dim=7))).name == "users"
    monkeypatch.setattr(VBPR, "strategies", frozenset({"columns", "ddp"}))
    for width, name in ((8, "columns"), (7, "ddp")):
        objective = Objective(build(VBPR, planted_data(), 0, embedding_dim=width))
        assert choose_layout("auto", PAIR, objective).name == name


def test_auto_takes_another_layout_for_fewer_users_than_processes():
    data = build_data(np.array([[0, 0], [1, 2]]), {"visual": np.ones((4, 2))}, num_users=1, transform="none")
    for width, name in ((8, "columns"), (7, "ddp")):
        objective = Objective(build(VBPR, data, 0, embedding_dim=width))
        assert choose_layout("auto", PAIR, objective).name == name
        with pytest.raises(
            InputError, match=r"^strategy='users': found 1 users for 2 processes, expected one at least"
        ):
            choose_layout("users", PAIR, objective)


def test_optimizers_that_mix_columns_are_refused():
    objective = Objective(build(VBPR, planted_data(), 0, embedding_dim=8))
    layout = choose_layout("columns", PAIR, objective)
    layout.check_steps(RowAdam(objective.parameters()), scales=False)
    with pytest.raises(InputError, match="found LBFGS beside strategy='columns'"):
        layout.check_steps(torch.optim.LBFGS(objective.parameters()), scales=False)
    with pytest.raises(InputError, match="'16-mixed'"):
        layout.check_steps(RowAdam(objective.parameters()), scales=True)


def test_a_part_of_a_model_is_not_taken_for_a_whole_one(tmp_path):
    objective = Objective(build(VBPR, planted_data(), 0, embedding_dim=8))
    objective.student.is_part = True
    with pytest.raises(InputError, match="a training that was broken off"):
        trainer().fit(objective, planted_data())
    with pytest.raises(InputError, match="VBPR of which this process has a part alone"):
        save_model(tmp_path / "model.pt", objective, planted_data())
    assert not list(tmp_path.iterdir())


def test_rows_of_a_part_are_not_handed_out():
    tables, rows = Embeddings(torch.ones(3, 2), torch.ones(4, 2)), torch.arange(3)
    with summed_over(PAIR):
        for read in (lambda: tables.rows(rows, rows), lambda: tables.item_rows(rows), tables.dense):
            with pytest.raises(InputError, match="has some columns alone"):
                read()
