"""Captured steps are refused where they would hold fixed what changes; what they do is tested on a GPU."""

from __future__ import annotations

import gc
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pyg_ckd import Objective, Trainer
from pyg_ckd.data.batch import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from pyg_ckd.nn.models.adapter import as_backbone
from pyg_ckd.processes import ALONE
from pyg_ckd.training.captured import CapturedSteps, _obstacle, capture_steps
from pyg_ckd.training.layouts.whole import Whole
from pyg_ckd.training.optimizer import RowAdam
from pyg_ckd.training.run import Steps
from tests.conftest import random_data

GPU = torch.device("cuda")


class Own(Objective):
    """A strategy that says nothing of captures."""


class Watcher:
    def on_before_backward(self, loss):
        """Look at a loss."""


class Counter:
    def on_train_batch_end(self, batch_idx):
        """Count."""


def objective(cls: type[Objective] = Objective, sparse: bool = False) -> Objective:
    return cls(VBPR.from_data(random_data(), embedding_dim=4, sparse=sparse))


def found(model: Objective | None = None, device: torch.device = GPU, alone: bool = True, optimizer=RowAdam, **options):
    model = objective() if model is None else model
    return _obstacle(model, Trainer(**options), optimizer(model.parameters(), lr=0.1), alone, device)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ""),
        ({"callbacks": [Counter()]}, ""),
        ({"clip_norm": 1.0, "weight_decay": 0.1, "ranking": "softmax"}, ""),
        ({"device": torch.device("cpu")}, "device 'cpu'"),
        ({"alone": False}, "several processes"),
        ({"num_neighbors": [2, 2]}, "num_neighbors [2, 2]"),
        ({"precision": "bf16-mixed"}, "precision 'bf16-mixed'"),
        ({"optimizer": partial(torch.optim.SGD, lr=0.1)}, "the optimizer SGD"),
        ({"schedule": "cosine"}, "schedule 'cosine'"),
        ({"warmup_steps": 3}, "warmup_steps 3"),
        ({"averaging": 0.9}, "averaging 0.9"),
        ({"callbacks": [Counter(), Watcher()]}, "a callback with on_before_backward"),
        ({"model": objective(Own)}, "strategy 'Own'"),
        ({"model": objective(sparse=True)}, "sparse=True"),
    ],
    ids=lambda given: "-".join(given) if isinstance(given, dict) else given,
)
def test_what_changes_from_step_to_step_stands_in_the_way(options, expected):
    given = {k: v for k, v in options.items() if k not in ("optimizer",)}
    optimizer = (lambda parameters, lr: options["optimizer"](parameters)) if "optimizer" in options else RowAdam
    assert found(optimizer=optimizer, **given) == expected


def test_a_module_that_is_not_ours_stands_in_the_way():
    data = random_data()

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.user, self.item = torch.nn.Embedding(12, 4), torch.nn.Embedding(9, 4)

        def forward(self, x_dict, edge_index):
            return self.user.weight, self.item.weight

    assert found(Objective(as_backbone(Net(), data))) == "backbone AdaptedBackbone"


def test_capturing_on_the_cpu_is_refused_in_one_line():
    data = random_data()
    model = VBPR.from_data(data, embedding_dim=4)
    with pytest.raises(InputError, match=r"^capture: found device 'cpu', expected like steps on a GPU"):
        Trainer(max_epochs=1, monitor="recall@3", progress=False, device="cpu", capture=True).fit(model, data)


def test_a_state_of_captured_steps_is_read_without_them():
    model = torch.nn.Linear(2, 1)
    first, second = RowAdam(model.parameters(), lr=0.1), RowAdam(model.parameters(), lr=0.1)
    model(torch.ones(3, 2)).sum().backward()
    first.step()
    state = first.state_dict()
    state["param_groups"][0]["capturable"] = True
    sampler = SimpleNamespace(generator=torch.Generator())
    steps = Steps(model, second, second, sampler, Whole(ALONE))
    steps.load_state_dict({"optimizer": state, "sampler_rng": torch.Generator().get_state()})
    assert second.param_groups[0]["capturable"] is False
    assert state["param_groups"][0]["capturable"] is True
    second.step()
    assert [int(own["step"]) for own in second.state_dict()["state"].values()] == [2, 2]


class Card:
    """Stands in for CUDA on the CPU: a graph that is replayed runs what was captured again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.eager, self.captured, self.replayed, self.reset = 0, 0, 0, 0
        self.captures = False
        card = self

        class Graph:
            def capture_begin(self, **options: Any) -> None:
                card.captures = True

            def capture_end(self) -> None:
                card.captures = False

            def replay(self) -> None:
                card.replayed += 1
                card.again()

            def reset(self) -> None:
                card.reset += 1

        class Stream:
            def __init__(self, *args: Any) -> None: ...
            def __enter__(self) -> None: ...
            def __exit__(self, *args: object) -> None: ...
            def wait_stream(self, other: Any) -> None: ...

        names = {"CUDAGraph": Graph, "Stream": Stream, "stream": Stream, "current_stream": Stream}
        for name, stand_in in (names | {"synchronize": lambda: None, "graph_pool_handle": lambda: None}).items():
            monkeypatch.setattr(torch.cuda, name, stand_in)

    def step(self, batch: TripletBatch) -> dict[str, torch.Tensor]:
        """Return a term that tells one batch from another."""
        term = batch.user.sum().double()
        if self.captures:
            self.captured += 1
            self.again = lambda: term.copy_(batch.user.sum())
        else:
            self.eager += 1
        return {"sum": term}


@pytest.fixture(name="card")
def _card(monkeypatch: pytest.MonkeyPatch) -> Card:
    return Card(monkeypatch)


def rates(lr: float = 0.1) -> RowAdam:
    return RowAdam([torch.zeros(1, requires_grad=True)], lr=lr)


def batch_of(*user: int) -> TripletBatch:
    rows = torch.tensor(user)
    return TripletBatch(*6 * [rows])


def test_the_first_step_of_an_epoch_and_those_of_other_sizes_are_not_captured(card: Card):
    steps = CapturedSteps(rates())
    batches = [batch_of(1, 2), batch_of(3, 4), batch_of(5, 6), batch_of(7, 8), batch_of(9)]
    for epoch in (1, 2):
        take = steps.epoch(card.step)
        assert [float(take(batch)["sum"]) for batch in batches] == [3, 7, 11, 15, 9]
        assert (card.eager, card.captured, card.replayed) == (2 * epoch, epoch, 3 * epoch)
    steps.close()
    steps.close()
    assert card.reset == 1


def test_rates_that_a_callback_changes_are_captured_anew(card: Card):
    optimizer = rates(0.1)
    take = CapturedSteps(optimizer).epoch(card.step)
    for lr, captured in ((0.1, 0), (0.1, 1), (0.1, 1), (0.05, 2), (0.05, 2), (0.1, 3)):
        optimizer.param_groups[0]["lr"] = lr
        take(batch_of(1, 2))
        assert card.captured == captured


def test_triples_with_weights_are_not_captured(card: Card):
    take = CapturedSteps(rates()).epoch(card.step)
    for _ in range(3):
        take(batch_of(1, 2).weighted(torch.ones(2)))
    assert (card.eager, card.captured) == (3, 0)


class Keeper:
    def on_train_batch_end(self, outputs):
        """Keep losses."""


@pytest.mark.parametrize(
    ("callbacks", "expected"), [([Watcher, Keeper], [3, 7, 11]), ([], [3, 11, 11])], ids=["kept", "overwritten"]
)
def test_losses_that_a_callback_may_keep_stay_what_they_are(callbacks, expected, card: Card, monkeypatch):
    monkeypatch.setattr("pyg_ckd.training.captured._obstacle", lambda *given: "")
    model = objective()
    trainer = Trainer(capture=True, callbacks=[cls() for cls in callbacks])
    steps = capture_steps(model, trainer, RowAdam(model.parameters(), lr=0.1), alone=True)
    assert steps is not None
    take = steps.epoch(card.step)
    kept = [take(batch)["sum"] for batch in (batch_of(1, 2), batch_of(3, 4), batch_of(5, 6))]
    assert [float(term) for term in kept] == expected


@pytest.mark.parametrize("capture", [False, 0, "auto"])
def test_without_a_gpu_nothing_is_captured_unless_it_shall_be(capture):
    model = objective()
    optimizer = RowAdam(model.parameters(), lr=0.1)
    assert capture_steps(model, Trainer(capture=capture), optimizer, alone=True) is None
    assert optimizer.param_groups[0]["capturable"] is False


def test_a_step_that_cannot_be_captured_is_named_in_one_line_and_garbage_is_collected_again(card: Card):
    def fails(batch: TripletBatch) -> dict[str, torch.Tensor]:
        if card.captures:
            assert not gc.isenabled()
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return {}

    take = CapturedSteps(rates()).epoch(fails)
    take(batch_of(1))
    with pytest.raises(InputError, match=r"^capture: found .* \(operation not permitted .* capturing\), expected"):
        take(batch_of(2))
    assert gc.isenabled()
    assert not card.captures
