"""Lists of items come from the device as they come from the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_ckd.cli import main
from pyg_ckd.datasets import load
from pyg_ckd.nn import FISM, MMGCN, VBPR
from pyg_ckd.serving import Recommender
from pyg_ckd.training.model import save_model
from tests.conftest import random_data
from tests.nn.models.zoo import SMALL_FISM

K = 5
MAKERS: dict[str, Callable[[HeteroData], Any]] = {
    "VBPR": lambda data: VBPR.from_data(data, embedding_dim=8),
    "MMGCN": lambda data: MMGCN.from_data(data, embedding_dim=8, num_layers=2, latent_dims=8),
    "FISM": lambda data: FISM.from_data(data, **SMALL_FISM),
}
every_backbone = pytest.mark.parametrize("backbone", MAKERS)


@pytest.fixture
def data() -> HeteroData:
    return random_data(40, 30, 3)


def model_of(backbone: str, data: HeteroData) -> Any:
    torch.manual_seed(0)
    model = MAKERS[backbone](data)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.5)
    return model.eval()


def assert_same_lists(mine: Any, theirs: Any) -> None:
    assert mine.items.tolist() == theirs.items.tolist()
    np.testing.assert_allclose(mine.scores, theirs.scores, atol=1e-4, rtol=1e-4)


HALF = {user: list(range(user % 3, 30, 2)) for user in range(40)}
USES: dict[str, Callable[[Recommender], Any]] = {
    "all users": lambda r: r.recommend(k=K),
    "one user": lambda r: r.recommend(3, k=K),
    "seen ones too": lambda r: r.recommend([1, 7], k=K, exclude_seen=False),
    "candidates": lambda r: r.recommend([1, 7], k=K, candidates=range(5, 25), exclude=[6, 9]),
    "candidates of users": lambda r: r.recommend(range(40), k=3, candidates=HALF, exclude={0: [2]}),
    "columns": lambda r: r.recommend(k=3, where={"price": lambda x: x < 20}),
    "diverse": lambda r: r.recommend(k=K, diversity=0.3),
    "unknown user": lambda r: r.recommend([0, 1000], k=K, unknown="popular"),
    "similar items": lambda r: r.similar_items(k=K),
    "new users": lambda r: r.with_new_users([[1, 2], [3, 4, 5]]).recommend([40, 41], k=K),
    "clicks": lambda r: r.with_seen({0: [1, 2], 5: [3]}).recommend([0, 5], k=K),
}


@pytest.mark.filterwarnings("ignore:recommend")
@pytest.mark.parametrize("use", USES)
@every_backbone
def test_lists_are_those_of_the_cpu(backbone: str, use: str, data: HeteroData, device: torch.device):
    model = model_of(backbone, data)
    columns = pd.DataFrame({"item": range(30), "price": np.arange(30) % 28})
    theirs = USES[use](Recommender(model, data, columns=columns))
    served = Recommender(model.to(device), data, columns=columns)
    assert all(table.device.type == device.type for table in served.embeddings)
    assert_same_lists(USES[use](served), theirs)


@every_backbone
def test_explanations_and_costs_are_those_of_the_cpu(backbone: str, data: HeteroData, device: torch.device):
    model = model_of(backbone, data)
    results = []
    for place in ("cpu", device):
        served = Recommender(model.to(place), data)
        results.append((served.explain([0, 1, 2], [3, 4, 5]), served.trade_off(k=K, diversity=[0.0, 0.3])))
    (theirs, cost), (mine, found) = results
    np.testing.assert_allclose(mine.shares, theirs.shares, atol=1e-4, rtol=1e-4)
    pd.testing.assert_frame_equal(found, cost, atol=1e-4, rtol=1e-4)


def test_new_items_are_those_of_the_cpu(data: HeteroData, device: torch.device):
    model = model_of("VBPR", data)
    features = {m: data["item"][m][:4] * 0.9 for m in data.modalities}
    lists = [
        Recommender(model.to(place), data).with_new_items(features, transformed=True).recommend(k=K)
        for place in ("cpu", device)
    ]
    assert (lists[0].items >= 30).any()
    assert_same_lists(lists[1], lists[0])


@pytest.mark.parametrize("back", [False, True], ids=["device to CPU", "CPU to device"])
@every_backbone
def test_a_recommender_saved_on_one_device_serves_on_the_other(
    backbone: str, back: bool, data: HeteroData, device: torch.device, tmp_path: Path
):
    first, second = (torch.device("cpu"), device) if back else (device, torch.device("cpu"))
    served = Recommender(model_of(backbone, data).to(first), data)
    served.save(tmp_path / "recommender.pt")
    opened = Recommender.load(tmp_path / "recommender.pt", device=second)
    assert all(table.device.type == second.type for table in opened.embeddings)
    for use in ("all users", "similar items", "new users", "clicks", "diverse"):
        assert_same_lists(USES[use](opened), USES[use](served))


def test_the_command_writes_the_lists_of_the_cpu(device: torch.device, tmp_path: Path):
    rng = np.random.default_rng(0)
    key = rng.permutation(60 * 40)[:600]
    features = {m: rng.normal(size=(40, width)) for m, width in (("visual", 5), ("text", 4))}
    np.savez(tmp_path / "data.npz", train=np.stack([key // 40, key % 40]), num_users=60, num_items=40, **features)
    data = load(tmp_path / "data.npz")
    save_model(tmp_path / "model.pt", model_of("VBPR", data).to(device), data)
    for place in ("cpu", str(device)):
        command = ["recommend", "--data", str(tmp_path / "data.npz"), "--checkpoint", str(tmp_path / "model.pt")]
        assert main([*command, "--out", str(tmp_path / f"{place}.csv"), "--k", "5", "--device", place]) == 0
    mine, theirs = (pd.read_csv(tmp_path / f"{place}.csv") for place in (str(device), "cpu"))
    assert len(theirs) == 60 * 5
    pd.testing.assert_frame_equal(mine, theirs, atol=1e-4, rtol=1e-4)
