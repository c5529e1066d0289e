"""Several processes train what one trains: all losses, effects, metrics and weights, to rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_ckd.balance import DistillationWrapper
from pyg_ckd.balance.objective import Objective
from pyg_ckd.errors import InputError
from pyg_ckd.nn import backbones
from pyg_ckd.processes import present
from pyg_ckd.training import build
from tests.training.problem import planted_data, teachers, trainer
from tests.training.several import in_processes

CASES = {
    f"{strategy}-{backbone}-{objective}": (strategy, backbone, objective)
    for strategy, names in {
        "ddp": ("LightGCN", "EarlyFusionLightGCN", "VBPR", "MMGCN", "FISM", "FREEDOM", "GRCN"),
    }.items()
    for backbone in names
    for objective in ("plain", "ckd", "ckd-has")
    if objective == "plain" or backbone not in ("LightGCN", "FREEDOM")
}
SMALL = {"embedding_dim": 8}


def objective_of(backbone: str, name: str, data: HeteroData) -> Objective:
    student = build(backbones()[backbone], data, 0, **SMALL).double()
    if name == "plain":
        return Objective(student)
    given = {m: type(tables)(*(table.double() for table in tables)) for m, tables in teachers().items()}
    has = {"textual": torch.arange(data["item"].num_nodes) % 3 > 0} if name == "ckd-has" else None
    return DistillationWrapper(student, given, num_random_triples=20, has=has, distillation_weight=0.5)


def trained(strategy: str, backbone: str, name: str, **options: Any) -> dict[str, Any]:
    """Train for two epochs, the last batch of which has fewer triples than there may be processes."""
    data = planted_data()
    objective = objective_of(backbone, name, data)
    chosen = {"max_epochs": 2, "batch_size": 79, "track_views": True} | options
    history = trainer(strategy=strategy, **chosen).fit(objective, data)
    weights = {key: value for key, value in objective.state_dict().items() if value.is_floating_point()}
    return {"rows": history.rows, "weights": weights, "calls": present().calls}


def all_cases() -> dict[str, dict[str, Any]]:
    return {key: trained(*case) for key, case in CASES.items()}


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    return {key: trained("auto", *case[1:]) for key, case in CASES.items()}


@pytest.fixture(scope="module")
def two() -> list[dict[str, dict[str, Any]]]:
    return in_processes(all_cases)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_what_one_trains(case, alone, two):
    expected = alone[case]
    for found in (result[case] for result in two):
        assert found["calls"] > 0
        for row, other in zip(found["rows"], expected["rows"], strict=True):
            assert row.keys() == other.keys()
            for name, value in row.items():
                assert value == pytest.approx(other[name], abs=1e-9, nan_ok=True), name
        for name, weight in expected["weights"].items():
            torch.testing.assert_close(found["weights"][name], weight, atol=1e-9, rtol=0, equal_nan=True)
