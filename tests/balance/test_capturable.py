"""What says that its steps can be captured keeps nothing of a step but in tensors that are changed in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyg_ckd.balance import Objective
from pyg_ckd.balance.calibrated import CalibratedObjective
from pyg_ckd.balance.discovery import strategies
from pyg_ckd.balance.multitask import MultitaskObjective
from pyg_ckd.balance.progress import Progress
from pyg_ckd.data import TripletSampler, unpack
from pyg_ckd.nn import VBPR
from tests.balance.test_strategies import objective_of
from tests.conftest import random_data

CAPTURABLE = {name: cls for name, cls in strategies().items() if cls.capturable}


def kept(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield where the tensors of a module are, and its other attributes."""
    if isinstance(value, Tensor):
        yield name, value.data_ptr() if value.layout == torch.strided else id(value)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from kept(part, f"{name}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for n, part in enumerate(value):
            yield from kept(part, f"{name}[{n}]")
    elif isinstance(value, nn.Module):
        yield from kept(vars(value), name)
    elif isinstance(value, (bool, int, float, str, frozenset, type(None))):
        yield name, value


def changes(objective: Objective, epoch: int) -> set[str]:
    """Return what the third and fourth step of an epoch leave elsewhere than the second one."""
    data = random_data(40, 30, 3)
    features, edges = unpack(data)
    objective.train()
    graphs = objective.prepare(features, edges)
    objective.progress = Progress(epoch, 20, tuple({"epoch": n, "val/recall@20": 0.1} for n in range(epoch - 1)))
    current, views, found = objective.begin_epoch(features, graphs), [], []
    sampler = TripletSampler(edges["user", "rates", "item"], 40, 30, 64, objective.num_random_triples, 0)
    for _, batch in zip(range(4), sampler, strict=False):
        objective.zero_grad()
        views.append(list(objective.views))
        objective.backward(objective.loss(features, current, batch), Tensor.backward)
        own = dict(kept(objective))
        found.append({k: v for k, v in own.items() if "_pull" not in k})  # Made anew and used within a step.
    assert len(found) == 4
    different = {k for later in found[2:] for k in later.keys() | found[1].keys() if later.get(k) != found[1].get(k)}
    return different | ({"views"} if views[1:] != [views[1]] * 3 else set())


@pytest.mark.parametrize("epoch", [1, 4])
@pytest.mark.parametrize("strategy", CAPTURABLE)
def test_a_step_leaves_everything_where_it_was(strategy: str, epoch: int):
    assert changes(objective_of(CAPTURABLE[strategy], random_data(40, 30, 3)), epoch) == set()


@pytest.mark.parametrize(
    "make",
    [lambda s: CalibratedObjective(s, removal="chain"), lambda s: MultitaskObjective(s, valuation=1.0)],
    ids=["chain", "valuation"],
)
def test_options_that_change_from_step_to_step_cannot_be_captured(make: Callable[[VBPR], Objective]):
    objective = make(VBPR.from_data(random_data(40, 30, 3), embedding_dim=4))
    assert objective.capturable is False
    torch.manual_seed(0)
    assert changes(objective, 1)
