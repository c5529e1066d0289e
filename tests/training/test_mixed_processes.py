"""Mixed precision in several processes: operations in bfloat16, and training that stays near that of one process."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from pyg_ckd.nn import backbones
from pyg_ckd.training import build
from tests.training.problem import distilled, planted_data, trainer
from tests.training.several import in_processes

CASES = [
    (strategy, backbone)
    for strategy, names in {
        "users": ("LightGCN", "VBPR", "ckd"),
        "columns": ("LightGCN", "VBPR", "ckd"),
        "ddp": ("LightGCN", "VBPR", "ckd", "FISM"),
    }.items()
    for backbone in names
]


@cache
def trained(strategy: str, backbone: str, precision: str = "bf16-mixed") -> dict[str, Any]:
    data = planted_data()
    model = distilled(data) if backbone == "ckd" else build(backbones()[backbone], data, 0, embedding_dim=8)
    options = {"max_epochs": 3, "batch_size": 79, "precision": precision, "strategy": strategy}
    history = trainer(**options).fit(model, data)
    losses = [{name: value for name, value in row.items() if name.startswith("loss/")} for row in history.rows]
    return {"losses": losses, "kinds": {weight.dtype for weight in model.parameters()}}


def all_cases() -> dict[tuple[str, str], dict[str, Any]]:
    return {case: trained(*case) for case in CASES}


@pytest.fixture(scope="module")
def two() -> list[dict[tuple[str, str], dict[str, Any]]]:
    return in_processes(all_cases)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_two_processes_train_in_bfloat16_near_to_what_one_trains(case, two):
    expected, single = trained("auto", case[1])["losses"], trained("auto", case[1], "32-true")["losses"]
    for found in (result[case] for result in two):
        assert found["kinds"] == {torch.float32}  # Weights and their gradients stay in single precision.
        assert len(found["losses"]) == len(expected) == 3
        for row, other in zip(found["losses"], expected, strict=True):
            assert row == pytest.approx(other, rel=0.02, abs=1e-3)
        if case[1] != "LightGCN":  # Which has no product of matrices that would be rounded.
            assert all(
                row != pytest.approx(other, rel=1e-6) for row, other in zip(found["losses"], single, strict=True)
            )
