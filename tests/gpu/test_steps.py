"""A training step waits for no number of the device: whatever does is refused, in every step after the first one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_ckd import Objective, Trainer
from pyg_ckd.balance.discovery import strategies
from pyg_ckd.nn import FISM, GRCN, MMGCN, VBPR, Backbone, EarlyFusionLightGCN
from pyg_ckd.nn.models.discovery import backbones
from tests.balance.test_strategies import objective_of
from tests.conftest import random_data
from tests.nn.models.zoo import BACKBONES as VARIANTS
from tests.nn.models.zoo import SMALL_FISM

Make = Callable[[HeteroData], Backbone]
BATCH, EPOCHS = 128, 3
SOLVED = "the item graph of a view is a closed form, solved on the CPU when the view first comes"
WAITS = {("FISM", strategy): SOLVED for strategy in ("mla", "modality-dropout", "opm", "unseen")}
"""From backbone and strategy (``"*"`` for any) to why a step has to read a number on the host, where one has to."""
SIZES: dict[str, dict[str, Any]] = {
    "EarlyFusionLightGCN": {"embedding_dim": 8},
    "FISM": SMALL_FISM,
    "GRCN": {"embedding_dim": 8, "latent_dim": 8},
    "MMGCN": {"embedding_dim": 8, "num_layers": 2, "latent_dims": 8},
    "VBPR": {"embedding_dim": 8},
}
CHOSEN: dict[str, type[Backbone]] = {c.__name__: c for c in (VBPR, GRCN, EarlyFusionLightGCN, FISM, MMGCN)}
RECOMMENDED = {f"{name} as recommended": cls for name, cls in backbones().items()}
PLAIN: dict[str, Make] = VARIANTS | {
    name: partial(cls.from_data, **cls.recommended.get("model", {})) for name, cls in RECOMMENDED.items()
}
PLAIN["VBPR sparse"] = lambda data: VBPR.from_data(data, embedding_dim=8, sparse=True)
STRATEGIES = {name: cls for name, cls in strategies().items() if cls.trains and name != "plain"}


class Watched:
    """A callback that lets CUDA refuse waits from the second step of every epoch to the last one.

    Args:
        device: Where the training runs; nothing waits on the CPU.
        steps: Steps in an epoch.
    """

    def __init__(self, device: torch.device, steps: int) -> None:
        self.on_cuda, self.steps, self.watched = device.type == "cuda", steps, 0

    def on_train_batch_start(self, batch_idx: int) -> None:
        self.watched += batch_idx > 0
        if batch_idx:
            self.mode("error")

    def on_train_batch_end(self, batch_idx: int) -> None:
        if batch_idx == self.steps - 1:  # The record of an epoch reads its losses.
            self.mode("default")

    def on_exception(self) -> None:
        self.mode("default")

    def mode(self, name: str) -> None:
        if self.on_cuda:
            torch.cuda.set_sync_debug_mode(name)


def graph(lacking: bool = False) -> HeteroData:
    """Return a graph of several batches, whose items lack modalities if that is asked for."""
    data = random_data(40, 30, 3)
    for n, m in enumerate(data.modalities if lacking else ()):
        data["item"][f"has_{m}"] = torch.arange(30) % 7 != n
    return data


def watch(objective: Objective, data: HeteroData, device: torch.device, **options: Any) -> None:
    """Train while waits are refused."""
    steps = -(-data["user", "rates", "item"].edge_index.size(1) // BATCH)
    callback = Watched(device, steps)
    assert steps >= 4
    settings = {
        "max_epochs": EPOCHS,
        "batch_size": BATCH,
        "monitor": "recall@5",
        "track_views": False,
        "progress": False,
    }
    try:
        Trainer(**settings, device=device, callbacks=callback, **options).fit(objective, data)
    finally:
        callback.mode("default")
    assert callback.watched == EPOCHS * (steps - 1)


@pytest.fixture(autouse=True)
def _reason(request: pytest.FixtureRequest) -> None:
    parts = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    for key in ((parts.get("backbone"), parts.get("strategy", "plain")), ("*", parts.get("strategy", "plain"))):
        if key in WAITS:
            pytest.xfail(WAITS[key])


@pytest.mark.parametrize("backbone", PLAIN)
def test_a_plain_step_waits_for_nothing(backbone: str, device: torch.device):
    data = graph()
    watch(objective_of(Objective, data, PLAIN[backbone]), data, device)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("backbone", CHOSEN)
def test_a_step_of_a_strategy_waits_for_nothing(backbone: str, strategy: str, device: torch.device):
    data = graph()
    make = partial(CHOSEN[backbone].from_data, **SIZES[backbone])
    watch(objective_of(STRATEGIES[strategy], data, make), data, device)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_step_on_items_that_lack_modalities_waits_for_nothing(strategy: str, device: torch.device):
    data = graph(lacking=True)
    watch(objective_of(STRATEGIES[strategy], data), data, device)


OPTIONS: dict[str, dict[str, Any]] = {
    "averaging": {"averaging": 0.99},
    "bf16": {"precision": "bf16-mixed"},
    "clipping": {"clip_norm": 1.0},
    "decay": {"weight_decay": 0.01},
    "hard negatives": {"negatives": "hard"},
    "popular negatives": {"negatives": "popularity"},
    "schedule": {"schedule": "cosine", "warmup_steps": 3},
    "several negatives": {"num_negatives": 3},
    "softmax": {"ranking": "softmax"},
    "blocks": {"shuffle": "blocks"},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("backbone", ["VBPR", "EarlyFusionLightGCN"])
def test_a_step_with_options_of_the_trainer_waits_for_nothing(backbone: str, options: str, device: torch.device):
    data = graph()
    make = partial(CHOSEN[backbone].from_data, **SIZES[backbone])
    watch(objective_of(STRATEGIES["ckd"], data, make), data, device, **OPTIONS[options])


def test_a_wait_is_refused(cuda: torch.device):
    data = graph()

    class Waiting(Objective):
        def balance(self, out, batch):
            return {"none": torch.full((), 0.0 * batch.user.sum().item(), device=batch.user.device)}

    model = objective_of(Objective, data).student
    with pytest.raises(RuntimeError, match="synchronizing"):
        watch(Waiting(model), data, cuda)
    assert torch.cuda.get_sync_debug_mode() == 0
