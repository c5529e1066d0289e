"""Two trainings at the same time, each in a thread with a CUDA stream of its own, do not disturb each other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch_geometric.data import HeteroData

from pyg_ckd.data import unpack
from pyg_ckd.memory import kept_memory
from tests.conftest import random_data
from tests.gpu.test_training import fit, objective

WORKERS = 2
ROUNDS = 20


def side_by_side(device: torch.device, work: Callable[[int], Any]) -> list[Any]:
    """Return what ``work`` returns for every number, all at the same time, each on a stream of its own."""
    found: list[Any] = [None] * WORKERS
    errors: list[BaseException] = []
    barrier = threading.Barrier(WORKERS)

    def run(number: int) -> None:
        try:
            stream = torch.cuda.stream(torch.cuda.Stream()) if device.type == "cuda" else nullcontext()
            with stream:
                barrier.wait(60)
                found[number] = work(number)
                if device.type == "cuda":
                    torch.cuda.current_stream().synchronize()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert not errors, errors
    return found


@pytest.fixture
def data() -> HeteroData:
    return random_data(60, 40, 3)


@pytest.mark.parametrize("strategy", ["plain", "ckd"])
@pytest.mark.parametrize("backbone", ["VBPR", "MMGCN", "EarlyFusionLightGCN"])
def test_trainings_on_two_streams_are_what_each_is_alone(
    backbone: str, strategy: str, data: HeteroData, device: torch.device
):
    def train(number: int) -> dict[str, Tensor]:
        model = models[number]
        fit(model, data, device, max_epochs=2, batch_size=128, seed=number, monitor="recall@5")
        return {name: value.clone() for name, value in model.state_dict().items()}

    models = [objective(backbone, strategy, data) for _ in range(WORKERS)]
    alone = [train(n) for n in range(WORKERS)]
    models = [objective(backbone, strategy, data) for _ in range(WORKERS)]
    together = side_by_side(device, train)
    assert any(not torch.equal(value, alone[1][name]) for name, value in alone[0].items())  # Of other seeds.
    for mine, theirs in zip(together, alone, strict=True):
        for name, value in theirs.items():
            assert_close(mine[name], value, atol=1e-3, rtol=1e-3, msg=name)


@pytest.mark.parametrize("shared", [False, True], ids=["own models", "one model"])
@pytest.mark.parametrize("backbone", ["VBPR", "MMGCN", "EarlyFusionLightGCN"])
def test_passes_on_two_streams_in_kept_memory_are_what_each_is_alone(
    backbone: str, shared: bool, data: HeteroData, device: torch.device
):
    models = [objective(backbone, "plain", data).to(device).eval() for _ in range(WORKERS)]
    models = [models[0]] * WORKERS if shared else models
    features, edges = unpack(data, device)
    inputs = [{m: x * (n + 1.0) for m, x in features.items()} for n in range(WORKERS)]
    views = [None, [data.modalities[0]], []]

    @torch.no_grad()
    def embed(number: int) -> list[Tensor]:
        graphs = models[number].prepare(inputs[number], edges)
        total: list[Tensor] = []
        for _ in range(ROUNDS):
            outputs = models[number].forward_views(inputs[number], graphs, views)
            tables = [table for out in outputs for table in out]
            total = [a + b for a, b in zip(total, tables, strict=True)] if total else tables
        return total

    if device.type == "cuda":
        torch.cuda.synchronize()  # The inputs come from another stream.
    with kept_memory():
        alone = [embed(n) for n in range(WORKERS)]
        if device.type == "cuda":
            torch.cuda.synchronize()
        together = side_by_side(device, embed)
    for mine, theirs in zip(together, alone, strict=True):
        assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
    assert not torch.equal(alone[0][1], alone[1][1])
