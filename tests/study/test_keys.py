"""What a run is found by: all that decides about its result, and nothing else."""

from __future__ import annotations

import functools

import pytest
import torch

from pyg_ckd.data import TripletSampler
from pyg_ckd.data.neighbors_sampled import UniformSampler
from pyg_ckd.nn import VBPR
from pyg_ckd.study.runs import identity, trained, with_defaults
from pyg_ckd.training import Trainer
from tests.study.problem import TRAINER, Gentle, keys, small


class Watches:
    """A callback that looks on."""

    def __init__(self) -> None:
        self.seen = 0

    def on_train_epoch_end(self) -> None:
        self.seen += 1


class WatchesOn(Watches):
    """Another one."""


class Ends:
    """One with an option, which it keeps beside what it counts."""

    def __init__(self, after: int) -> None:
        self.after, self.seen = after, []

    def on_train_epoch_end(self, history, epoch) -> None:
        self.seen.append(epoch)
        if epoch >= self.after:
            history.stopped = "enough"


def exponential(base: float):
    """Return what makes a scheduler that no number tells apart."""
    return lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: base**epoch)


def own_sampler(last: int):
    """Return what makes a sampler of a class of one's own, which leaves the last batches out."""

    class Own(TripletSampler):
        def __iter__(self):
            yield from list(super().__iter__())[:-last]

    return Own


def own_neighbors(fewer: int):
    """Return what makes a sampler of neighbours that takes fewer of them."""
    return lambda data, num_neighbors: UniformSampler(data, [number - fewer for number in num_neighbors])


def own_optimizer(factor: float):
    """Return what makes an optimizer of a class of one's own, whose options are those of another."""

    class Own(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad = None if p.grad is None else factor * p.grad
            return super().step(closure)

    return lambda groups: Own(groups, lr=0.1)


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("callbacks", Watches(), WatchesOn()),
        ("callbacks", [Watches()], None),
        ("callbacks", Ends(1), Ends(2)),
        ("scheduler", exponential(0.9), exponential(0.1)),
        ("optimizer", own_optimizer(1.0), own_optimizer(0.5)),
        ("sampler", own_sampler(1), own_sampler(2)),
        ("sampler", functools.partial(own_sampler(1), negatives="popularity"), functools.partial(own_sampler(2))),
        ("neighbor_sampler", own_neighbors(1), own_neighbors(2)),
        ("neighbor_sampler", functools.partial(own_neighbors(1)), functools.partial(own_neighbors(2))),
    ],
    ids=[
        *("callbacks", "callbacks-or-none", "options-of-callbacks", "scheduler", "optimizer", "sampler", "partial"),
        *("neighbors", "partial-neighbors"),
    ],
)
def test_keys_depend_on_callbacks_and_the_code_of_what_a_trainer_was_given(name, one, other, tmp_path):
    options = {"contenders": {"mine": Gentle}, "baselines": "popularity"}
    more = {"num_neighbors": [2]} if name == "neighbor_sampler" else {}
    first, again, second = (
        keys(small(tmp_path / str(n), settings={"trainer": {**TRAINER, **more, name: value}}, **options))
        for n, value in enumerate((one, one, other))
    )
    assert first == again
    assert {run for run in first if first[run] != second[run]} == first.keys() - {"popularity"}


def test_what_a_callback_notes_changes_no_key(tmp_path):
    watches = Watches()
    options = {"settings": {"trainer": {**TRAINER, "callbacks": watches}}, "contenders": {"mine": Gentle}}
    before = keys(small(tmp_path, **options))
    watches.seen = 9
    assert keys(small(tmp_path, **options)) == before


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"callbacks": None, "optimizer": None},
        {"callbacks": []},
        {"optimizer": lambda groups: torch.optim.SGD(groups, lr=0.1)},
        {"sampler": functools.partial(TripletSampler, negatives="popularity")},
        {"sampler": TripletSampler},
    ],
    ids=["nothing", "none", "no-callbacks", "optimizer", "partial-of-ours", "ours"],
)
def test_keys_of_runs_without_callbacks_schedulers_and_samplers_are_those_of_before(more):
    options = {**TRAINER, **more}
    chosen = Trainer(**options)
    run = trained("mine", "contender", 3, "data", VBPR, {"embedding_dim": 4}, Gentle, {"share": 0.1}, options)
    decides = {
        "format": 3,
        "data": "data",
        "seed": 3,
        "backbone": {**identity(VBPR), "options": with_defaults(VBPR, {"embedding_dim": 4})},
        "strategy": {**identity(Gentle), "options": with_defaults(Gentle, {"share": 0.1})},
        "trainer": {**chosen.settings(), **chosen.budget(), "seed": 3},
        "view": None,
        "teachers": {},
    }
    assert run.decides == decides
