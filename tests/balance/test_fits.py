"""What is left of a training when a strategy is trained again, over all strategies."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyg_ckd import Objective
from pyg_ckd.balance import DifficultyCurriculum
from pyg_ckd.balance.state import FitState
from tests.balance.test_strategies import BACKBONES, STRATEGIES, every_strategy, fit, objective_of
from tests.training.problem import trainer

SCHEDULES: dict[str, dict[str, Any]] = {
    "dyncim": {"pace_epochs": 3},
    "g-blending": {"period": 2},
    "g2d": {"epochs": 3},
    "greedy": {"threshold": 0.01},
    "inforeg": {"window": 2},
    "mi-balance": {"pretrain_epochs": 2},
    "odsw": {"patience": 1},
    "opm": {"warmup": 0},
    "relearn": {"every": 2, "times": 1},
    "udi": {"stage_patience": 1},
}
"""Options with which a schedule changes something in a few epochs."""


def made(cls: type[Objective], data: Any) -> Objective:
    return objective_of(cls, data, **SCHEDULES.get(cls.name, {}))


def untrained(objective: Objective, cls: type[Objective], data: Any) -> Objective:
    """Return a new objective with the parameters of another one."""
    new = made(cls, data)
    parameters = {name: p.detach().clone() for name, p in objective.named_parameters()}
    new.load_state_dict(objective.state_dict() | new.state_dict() | parameters)  # Some are made in a training.
    return new


def assert_same(first: Objective, second: Objective, data: Any) -> None:
    """Train both, and compare every number of the history and every weight."""
    rows = [fit(objective, data, max_epochs=6, lr=0.05).rows for objective in (first, second)]
    torch.testing.assert_close(rows[0], rows[1], rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0, equal_nan=True)


@every_strategy
def test_a_second_training_of_an_objective_is_that_of_a_new_one(cls, make_data):
    data = make_data(modalities=3)
    used = made(cls, data)
    fit(used, data, max_epochs=6, lr=0.05)
    assert_same(used, untrained(used, cls, data), data)


class Stop:
    """Breaks a training off in the middle of its second epoch."""

    def on_train_batch_end(self, epoch, batch_idx):
        if (epoch, batch_idx) == (2, 1):
            raise KeyboardInterrupt


@every_strategy
def test_an_epoch_that_was_broken_off_leaves_nothing_to_the_next_training(cls, make_data):
    data = make_data(modalities=3)
    used = made(cls, data)
    with pytest.raises(KeyboardInterrupt) if cls.trains else nullcontext():
        fit(used, data, max_epochs=6, lr=0.05, callbacks=Stop())
    assert_same(used, untrained(used, cls, data), data)


@pytest.mark.parametrize("name", ["ckd", "g-blending", "udi"])
def test_what_a_wrapper_has_inside_begins_anew_too(name, make_data):
    data = make_data(modalities=3)

    def wrapped() -> Objective:
        return DifficultyCurriculum(made(STRATEGIES[name], data), stage_epochs=2)

    used, new = wrapped(), wrapped()
    with pytest.raises(KeyboardInterrupt):
        fit(used, data, max_epochs=6, lr=0.05, callbacks=Stop())
    new.load_state_dict(new.state_dict() | dict(used.named_parameters()))
    assert_same(used, new, data)


@every_strategy
def test_all_state_of_a_strategy_begins_anew(cls, make_data):
    objective = made(cls, make_data(modalities=3))
    kept = ("teacher_", "item_mask_", "base_", "classes", "spread")
    for part in objective.modules():
        if isinstance(part, Objective):
            own = {name for name, _ in part.named_buffers(recurse=False)}
            stays = {name for name in own if name.startswith(kept)} - ({"spread"} if cls.name == "udi" else set())
            assert own - stays == set(part.__dict__.get("_first_values", {}))


NEEDED = ("_parameters", "_buffers", "_modules", "_first_values")
"""What a trained module has: the first three go where it goes."""


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):
        return
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)
    elif hasattr(value, "__dict__"):
        yield from tensors(vars(value))


@pytest.mark.parametrize("ends", ["at its end", "in an epoch"])
@every_strategy
def test_nothing_large_is_held_after_a_training_beside_parameters_and_buffers(cls, ends, make_data):
    data = make_data(modalities=3)
    objective = made(cls, data)
    if ends == "in an epoch" and cls.trains:
        with pytest.raises(KeyboardInterrupt):
            fit(objective, data, callbacks=Stop())
    else:
        fit(objective, data)
    for part in objective.modules():
        if isinstance(part, FitState):
            held = {k: v for k, v in vars(part).items() if k not in NEEDED}
            assert [name for name, value in held.items() if any(x.numel() > 20 for x in tensors(value))] == []
    copy.deepcopy(objective)


def test_an_own_strategy_chooses_what_begins_anew_and_what_ends(make_data):
    data, seen = make_data(), []

    class Counts(Objective):
        """Counts epochs in a buffer that stays, and in one that begins anew."""

        def __init__(self, student) -> None:
            super().__init__(student)
            self.register_buffer("all", torch.zeros(()))
            self.register_state("now", torch.ones(()))

        def begin_fit(self) -> None:
            super().begin_fit()
            seen.append("begin")

        def end_fit(self) -> None:
            seen.append("end")

        def epoch_statistics(self):
            self.all += 1
            self.now += 1
            return {"all": float(self.all), "now": float(self.now)}

    objective = Counts(BACKBONES["late"](data))
    for _ in range(2):
        before = float(objective.all)
        rows = fit(objective, data, max_epochs=2).rows
        assert [(row["all"] - before, row["now"]) for row in rows] == [(1, 2), (2, 3)]
    assert before > 0
    assert seen == ["begin", "end"] * 2


def test_what_an_earlier_model_said_is_kept_in_host_memory_and_used_again(make_data):
    data = make_data(modalities=3)
    earlier, later = (objective_of(STRATEGIES["incremental"], data) for _ in range(2))
    fit(earlier, data)
    trainer(max_epochs=1).fit(later, data, start_from=earlier)
    kept = later._kept
    assert kept
    assert all(x.device.type == "cpu" for tables in kept.values() for x in tables)
    assert "loss/relations" in fit(later, data).rows[-1]


def test_a_buffer_in_the_place_of_state_is_kept_by_trainings():
    state = FitState()
    state.register_state("now", torch.zeros(2))
    state.register_buffer("now", torch.ones(3))
    state.now += 1
    state.reset_state()
    assert state.now.tolist() == [2, 2, 2]
    state.register_state("now", torch.ones(1))
    state.now += 1
    state.reset_state()
    assert state.now.tolist() == [1]
