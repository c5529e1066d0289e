"""Captured steps give what steps operation by operation give, and are captured once in an epoch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from torch_geometric.data import HeteroData

from pyg_ckd import Objective
from pyg_ckd.balance.discovery import strategies
from pyg_ckd.datasets import SyntheticMultimodal
from pyg_ckd.errors import InputError
from pyg_ckd.nn.models.discovery import backbones
from tests.balance.test_strategies import objective_of
from tests.conftest import random_data
from tests.gpu.test_training import fit
from tests.nn.models.zoo import SMALL_FISM

CAPTURABLE = [name for name, cls in strategies().items() if cls.capturable]
VIEWLESS = {("LightGCN", name) for name in CAPTURABLE if name != "plain"}
"""A backbone without modalities has nothing to balance."""
EPOCHS, INTERACTIONS, BATCH = 3, 4000, 256


@pytest.fixture(scope="module")
def data() -> HeteroData:
    return SyntheticMultimodal(num_users=200, num_items=120, num_interactions=INTERACTIONS)[0]


def build(backbone: str, strategy: str, data: HeteroData) -> Objective:
    cls, small = backbones()[backbone], SMALL_FISM if backbone == "FISM" else {"embedding_dim": 8}
    return objective_of(strategies()[strategy], data, lambda data: cls.from_data(data, **small)).double()


@pytest.mark.parametrize(
    ("backbone", "strategy"),
    [(b, s) for b in backbones() for s in CAPTURABLE if backbones()[b].capturable and (b, s) not in VIEWLESS],
)
def test_captured_steps_give_the_same_training(
    backbone: str, strategy: str, data: HeteroData, cuda: torch.device, monkeypatch: pytest.MonkeyPatch
):
    replayed, replay = [], torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: (replayed.append(id(graph)), replay(graph)))
    eager, captured = build(backbone, strategy, data), build(backbone, strategy, data)
    captured.load_state_dict(eager.state_dict())
    expected = fit(eager, data, cuda, max_epochs=EPOCHS, batch_size=BATCH)
    assert not replayed
    found = fit(captured, data, cuda, max_epochs=EPOCHS, batch_size=BATCH, capture=True)
    full = data["user", "rates", "item"].edge_index.size(1) // BATCH
    assert len(replayed) == EPOCHS * (full - 1)  # The first one is taken operation by operation, as is the last one.
    for mine, theirs in zip(found.rows, expected.rows, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-4)
    for name, value in eager.state_dict().items():
        assert_close(captured.state_dict()[name], value, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("strategy", ["plain", "ckd"])
@pytest.mark.parametrize(("first", "then"), [(True, True), (True, False), (False, True)], ids=str)
def test_captured_trainings_go_on_after_a_break(
    strategy: str, first: bool, then: bool, data: HeteroData, cuda: torch.device, tmp_path: Path
):
    whole, broken = build("VBPR", strategy, data), build("VBPR", strategy, data)
    broken.load_state_dict(whole.state_dict())
    expected = fit(whole, data, cuda, max_epochs=4)
    fit(broken, data, cuda, max_epochs=2, checkpoint_dir=tmp_path, capture=first)
    found = fit(broken, data, cuda, max_epochs=4, checkpoint_dir=tmp_path, capture=then)
    for mine, theirs in zip(found.rows, expected.rows, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-4)


def test_a_captured_training_goes_on_on_the_cpu(data: HeteroData, cuda: torch.device, tmp_path: Path):
    model = build("VBPR", "ckd", data)
    fit(model, data, cuda, max_epochs=2, checkpoint_dir=tmp_path, capture=True)
    assert len(fit(model, data, torch.device("cpu"), max_epochs=3, checkpoint_dir=tmp_path).rows) == 3


def test_a_step_that_waits_is_refused_in_one_line(cuda: torch.device):
    class Waits(Objective):
        capturable = True

        def balance(self, out, batch):
            return {"own": next(iter(out.values())).margin(*batch[:3]).mean().item() * torch.ones((), device=cuda)}

    data = random_data(num_users=60)
    model = Waits(backbones()["VBPR"].from_data(data, embedding_dim=4))
    with pytest.raises(InputError, match=r"^capture: found a step that cannot be captured as a CUDA graph"):
        fit(model, data, cuda, batch_size=32, monitor="recall@3", capture=True)
