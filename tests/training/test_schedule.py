"""Rates that follow steps, against PyTorch's schedulers, and as the steps of a training have them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim import lr_scheduler

from pyg_ckd.balance import Objective
from pyg_ckd.training import RowAdam, Schedule
from pyg_ckd.training.schedule import scheduled_rates
from tests.training.problem import planted_data, trainer
from tests.training.test_seam import vbpr

TOTAL = 40


def rates_of(make, steps: int) -> list[float]:
    """Return the rates that a scheduler of PyTorch has at every step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("warmup", [0, 8])
@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("constant", lambda warmup: lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
        ("cosine", lambda warmup: lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL - warmup)),
        ("step", lambda warmup: lambda o: lr_scheduler.MultiStepLR(o, [20 - warmup, 30 - warmup])),
    ],
)
def test_factors_are_those_of_pytorch_after_a_linear_warm_up(kind, make, warmup):
    expected = [(step + 1) / warmup for step in range(warmup)] + rates_of(make(warmup), TOTAL - warmup)
    schedule = Schedule(kind, TOTAL, warmup)
    found = [schedule.factor(step) for step in range(TOTAL)]
    assert found == pytest.approx(expected, abs=1e-12)
    assert min(found) > 0
    assert schedule.factor(TOTAL + 7) == found[-1]


def test_every_step_has_the_scheduled_rate_times_the_factor_of_the_strategy():
    class Slowed(Objective):
        def step_sizes(self):
            return {"visual": 0.5}

    class Rates:
        def __init__(self):
            self.found, self.before = [], []

        def on_train_epoch_start(self, pl_module):
            self.optimizer = None

        def on_before_optimizer_step(self, optimizer):
            self.optimizer = optimizer
            self.found.append({group["modality"]: group["lr"] for group in optimizer.param_groups})

        def on_train_epoch_end(self):
            self.before.append({group["lr"] for group in self.optimizer.param_groups})

    data, rates = planted_data(), Rates()
    options = {"max_epochs": 3, "lr": 0.1, "schedule": "cosine", "warmup_steps": 5, "extend": 3}
    history = trainer(**options, callbacks=rates).fit(Slowed(vbpr(data)), data)
    expected = [0.1 * (step + 1) / 5 for step in range(5)]
    expected += [0.05 * (1 + math.cos(math.pi * step / 7)) for step in range(7)]
    assert [found[None] for found in rates.found] == pytest.approx(expected)
    assert [found["visual"] for found in rates.found] == pytest.approx([rate / 2 for rate in expected])
    assert rates.before == [{0.1}] * 3  # What a checkpoint holds.
    assert len(history.rows) == 3  # A schedule is made for max_epochs, so that nothing is extended.


@pytest.mark.parametrize("schedule", [Schedule("cosine", 60, 6), Schedule("step", 60)], ids=str)
def test_rows_follow_a_schedule_nearly_as_all_rows_do(schedule):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(50, (60, 5), generator=generator)
    values = torch.randn(60, 5, 3, generator=generator, dtype=torch.float64)
    found = []
    for cls in (RowAdam, torch.optim.Adam):
        table = torch.nn.Parameter(torch.ones(50, 3, dtype=torch.float64))
        optimizer = cls([table], lr=0.1, betas=(0.8, 0.9), eps=1e-12)
        with scheduled_rates(optimizer, schedule, 0) as set_rates:
            for step in range(60):
                set_rates(step)
                table.grad = torch.sparse_coo_tensor(rows[step][None], values[step], (50, 3), check_invariants=True)
                table.grad = table.grad if cls is RowAdam else table.grad.to_dense()
                optimizer.step()
            if isinstance(optimizer, RowAdam):
                optimizer.settle()
        assert optimizer.param_groups[0]["lr"] == 0.1
        found.append(table.detach())
    assert (found[0] - found[1]).abs().max() < 0.06 * (found[1] - 1).abs().max()
