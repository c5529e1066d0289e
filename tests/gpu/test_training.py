"""Trainings on the device: the same numbers as on the CPU, the same after a break, and in mixed precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from torch_geometric.data import HeteroData

from pyg_ckd import DistillationWrapper, Objective, Trainer, evaluate
from pyg_ckd.balance.discovery import strategies
from pyg_ckd.data import TripletSampler
from pyg_ckd.datasets import SyntheticMultimodal
from pyg_ckd.training.checkpoint import load_checkpoint
from pyg_ckd.training.history import History
from pyg_ckd.training.model import load_model, save_model
from tests.balance.test_strategies import objective_of
from tests.gpu.test_steps import CHOSEN, SIZES

CPU = torch.device("cpu")
OBJECTIVES: dict[str, type[Objective]] = {"plain": Objective, "ckd": DistillationWrapper}
every_objective = pytest.mark.parametrize("strategy", OBJECTIVES)
every_backbone = pytest.mark.parametrize("backbone", ["VBPR", "MMGCN", "EarlyFusionLightGCN"])


class DrawnOnTheHost(TripletSampler):
    """Draws on the CPU, so that every device trains on the same triples."""

    def __init__(self, edge_index: torch.Tensor, *args: Any, **options: Any) -> None:
        super().__init__(edge_index.cpu(), *args, **options)


@pytest.fixture(scope="module")
def data() -> HeteroData:
    return SyntheticMultimodal(num_users=200, num_items=120, num_interactions=4000)[0]


def objective(backbone: str, strategy: str, data: HeteroData, double: bool = False) -> Objective:
    """Return a model whose weights were drawn on the CPU."""
    found = objective_of(strategies()[strategy], data, lambda data: CHOSEN[backbone].from_data(data, **SIZES[backbone]))
    return found.double() if double else found


def fit(model: Objective, data: HeteroData, device: torch.device, **options: Any) -> History:
    defaults = {"max_epochs": 3, "batch_size": 256, "lr": 0.01, "monitor": "recall@20", "progress": False}
    return Trainer(**(defaults | options), device=device).fit(model, data)


def assert_same_rows(found: History, expected: History, tolerance: float) -> None:
    assert len(found.rows) == len(expected.rows)
    for mine, theirs in zip(found.rows, expected.rows, strict=True):
        assert mine == pytest.approx(theirs, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
@every_objective
@every_backbone
def test_three_epochs_give_the_metrics_of_the_cpu(
    backbone: str, strategy: str, double: bool, data: HeteroData, device: torch.device
):
    runs = []
    for place in (device, CPU):
        model = objective(backbone, strategy, data, double)
        history = fit(model, data, place, sampler=DrawnOnTheHost)
        metrics = evaluate(model, data, split="val", k=[5, 20], metrics=["recall", "ndcg", "mrr"])
        runs.append((history, dict(metrics), model.state_dict()))
    (mine, metrics, state), (theirs, expected, weights) = runs
    assert max(row["val/recall@20"] for row in theirs.rows) > 0.05
    assert_same_rows(mine, theirs, 1e-4)
    assert metrics == pytest.approx(expected, abs=1e-4)
    if double:
        for name, value in weights.items():
            assert_close(state[name], value, atol=1e-6, rtol=1e-6, msg=name)


RESUMED = [("VBPR", "plain"), ("VBPR", "ckd"), ("MMGCN", "ckd"), ("EarlyFusionLightGCN", "ckd")]


def resumed_and_whole(
    backbone: str, strategy: str, data: HeteroData, device: torch.device, folder: Path
) -> tuple[tuple[History, Objective], tuple[History, Objective]]:
    whole = objective(backbone, strategy, data)
    expected = fit(whole, data, device, max_epochs=4)
    fit(objective(backbone, strategy, data), data, device, max_epochs=2, checkpoint_dir=folder)
    resumed = objective(backbone, strategy, data)
    return (fit(resumed, data, device, max_epochs=4, checkpoint_dir=folder), resumed), (expected, whole)


@pytest.mark.parametrize(("backbone", "strategy"), RESUMED)
def test_a_resumed_run_is_the_undisturbed_one(
    backbone: str, strategy: str, data: HeteroData, device: torch.device, tmp_path: Path
):
    (mine, resumed), (expected, whole) = resumed_and_whole(backbone, strategy, data, device, tmp_path)
    assert_same_rows(mine, expected, 1e-3)  # CUDA adds in any order.
    for name, value in whole.state_dict().items():
        assert_close(resumed.state_dict()[name], value, atol=1e-3, rtol=1e-3, msg=name)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("strategy", ["plain", "ckd"])
@pytest.mark.parametrize("backbone", ["VBPR"])  # Sparse products of cuSPARSE add in any order even so.
def test_with_deterministic_algorithms_a_resumed_run_has_the_bits_of_the_undisturbed_one(
    backbone: str, strategy: str, data: HeteroData, device: torch.device, tmp_path: Path
):
    (mine, resumed), (expected, whole) = resumed_and_whole(backbone, strategy, data, device, tmp_path)
    assert mine.rows == expected.rows
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize("back", [False, True], ids=["device to CPU", "CPU to device"])
@pytest.mark.parametrize("backbone", ["VBPR", "EarlyFusionLightGCN"])
def test_a_run_goes_on_elsewhere(backbone: str, back: bool, data: HeteroData, device: torch.device, tmp_path: Path):
    first, second = (CPU, device) if back else (device, CPU)
    begun = fit(objective(backbone, "ckd", data), data, first, max_epochs=2, checkpoint_dir=tmp_path)
    assert load_checkpoint(tmp_path / "last.pt", "run")["run"]["rows"] == begun.rows
    ended = fit(objective(backbone, "ckd", data), data, second, max_epochs=4, checkpoint_dir=tmp_path)
    assert ended.rows[:2] == begun.rows
    assert len(ended.rows) == 4
    assert ended.rows[-1]["loss/bpr"] < ended.rows[0]["loss/bpr"]


@pytest.mark.parametrize("backbone", ["VBPR", "MMGCN"])
def test_a_model_saved_on_one_device_is_read_on_the_other(
    backbone: str, data: HeteroData, device: torch.device, tmp_path: Path
):
    model = objective(backbone, "plain", data)
    expected = dict(evaluate(model, data, split="test"))
    save_model(tmp_path / "model.pt", model.to(device), data)
    for place in (CPU, device):
        read = load_model(tmp_path / "model.pt", data).to(place)
        assert all(p.device.type == place.type for p in read.parameters())
        assert dict(evaluate(read, data, split="test")) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@every_objective
@every_backbone
def test_mixed_precision_trains(backbone: str, strategy: str, precision: str, data: HeteroData, device: torch.device):
    if precision == "16-mixed" and device.type != "cuda":
        pytest.skip("has a meaning on CUDA alone")
    options = {"max_epochs": 12, "lr": 0.02}
    model, single = objective(backbone, strategy, data), objective(backbone, strategy, data)
    fit(single, data, device, **options)
    history = fit(model, data, device, precision=precision, **options)
    losses = [value for row in history.rows for name, value in row.items() if name.startswith("loss/")]
    assert torch.isfinite(torch.tensor(losses)).all()
    assert all(p.dtype == torch.float32 for p in model.parameters())
    found, expected = (evaluate(m, data, split="val", k=20)["recall@20"] for m in (model, single))
    assert found > expected - 0.05
    assert history.rows[-1]["loss/bpr"] < 0.9 * history.rows[0]["loss/bpr"]
