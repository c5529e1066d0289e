"""Captured steps are refused where they would hold fixed what changes; what they do is tested on a GPU."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from pyg_ckd import Objective, Trainer
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from pyg_ckd.nn.models.adapter import as_backbone
from pyg_ckd.processes import ALONE
from pyg_ckd.training.captured import _obstacle
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


def objective(cls: type[Objective] = Objective) -> Objective:
    return cls(VBPR.from_data(random_data(), embedding_dim=4))


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
    ],
    ids=str,
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
