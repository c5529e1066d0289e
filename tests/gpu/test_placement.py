"""A model that is moved to a device leaves nothing behind, and computes there what it computes on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch_geometric.data import HeteroData

from pyg_ckd import Objective, Trainer
from pyg_ckd.balance.discovery import strategies
from pyg_ckd.data import unpack
from tests.balance.test_strategies import objective_of
from tests.conftest import random_data
from tests.gpu.test_steps import CHOSEN, PLAIN, SIZES
from tests.nn.models.zoo import built

STRATEGIES = {name: cls for name, cls in strategies().items() if cls.trains and name != "plain"}


def tensors_in(value: Any, name: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor that can be reached from an object, caches and private attributes among them."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield name, value
        if value.grad is not None:
            yield f"{name}.grad", value.grad
    elif isinstance(value, Mapping):
        for key, part in list(value.items()):
            yield from tensors_in(part, f"{name}[{key!r}]", seen)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for n, part in enumerate(value):
            yield from tensors_in(part, f"{name}[{n}]", seen)
    elif isinstance(value, nn.Module) or type(value).__module__.startswith(("pyg_ckd.", "tests.", "torch_geometric.")):
        attributes = dict(getattr(value, "__dict__", {}))
        slots = (getattr(cls, "__slots__", ()) for cls in type(value).__mro__)
        attributes |= {s: getattr(value, s) for some in slots for s in some if hasattr(value, s)}
        for key, part in attributes.items():
            if key == "trained_on":  # How the features were prepared, for files; no step reads it.
                continue
            yield from tensors_in(part, f"{name}.{key}", seen)


def left_behind(device: torch.device, **objects: Any) -> list[str]:
    """Return the names of all tensors that are elsewhere."""
    found = list(tensors_in(objects))
    assert found
    # The interactions that item graphs are solved from, on the CPU.
    solved = "('item', 'weights', 'item')]._edges"
    return [name for name, x in found if x.device.type != device.type and not name.endswith(solved)]


@pytest.fixture
def data() -> HeteroData:
    return random_data(30, 20, 3)


@pytest.mark.parametrize("backbone", PLAIN)
def test_a_backbone_moves_as_a_whole_and_computes_the_same(backbone: str, data: HeteroData, device: torch.device):
    model = built(PLAIN[backbone], data).float().eval()
    views = [None, [data.modalities[0]], list(data.modalities[1:]), []]
    if backbone == "MMGCN on raw features":
        views = [None]  # The mean of standardized features is rounding, which it scales to length one.
    features, edges = unpack(data)
    with torch.no_grad():
        expected = model.forward_views(features, edges, views)
        model.to(device)  # With whatever it remembers of the CPU.
        features, edges = unpack(data, device)
        graphs = model.prepare(features, edges)
        found = model.forward_views(features, graphs, views)
        again = model.forward_views(features, edges, views)
    parts = {"model": model, "graphs": graphs, "found": found}
    assert left_behind(device, **parts) == []
    for mine, unprepared, theirs in zip(found, again, expected, strict=True):
        for own, expected in zip(mine, theirs, strict=True):
            near = 1e-5 * max(1.0, float(expected.abs().max()))  # Raw features are large.
            assert_close(own.cpu(), expected, atol=near, rtol=1e-5)
        for one, own in zip(unprepared, mine, strict=True):
            assert_close(one, own, atol=1e-5 * max(1.0, float(own.abs().max())), rtol=1e-5)


def trained(objective: Objective, data: HeteroData, device: torch.device) -> list[str]:
    """Train on a device and return what was elsewhere in between."""

    class Looking:
        def __init__(self) -> None:
            self.left: list[str] = []

        def on_train_epoch_end(self) -> None:
            self.left += left_behind(device, objective=objective)

    looking = Looking()
    options = {"max_epochs": 2, "batch_size": 64, "monitor": "recall@5", "progress": False}
    Trainer(**options, device=device, callbacks=looking).fit(objective, data)
    return looking.left


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("backbone", ["VBPR", "EarlyFusionLightGCN"])
def test_a_strategy_moves_as_a_whole_and_comes_back(
    backbone: str, strategy: str, data: HeteroData, device: torch.device
):
    objective = objective_of(
        STRATEGIES[strategy], data, lambda data: CHOSEN[backbone].from_data(data, **SIZES[backbone])
    )
    assert trained(objective, data, device) == []
    assert left_behind(torch.device("cpu"), objective=objective) == []
    assert all(bool(torch.isfinite(p).all()) for p in objective.parameters())


def test_what_is_left_behind_is_found():
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(2, 2)
            self.cache = {"kept": [torch.ones(2)]}

    assert left_behind(torch.device("cpu"), model=Holder().to("meta")) == [
        "['model']._modules['lin']._parameters['weight']",
        "['model']._modules['lin']._parameters['bias']",
    ]
    assert left_behind(torch.device("meta"), model=Holder().to("meta")) == ["['model'].cache['kept'][0]"]
