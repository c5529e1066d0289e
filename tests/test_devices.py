"""Every name that PyTorch has for a device, wherever one is taken."""

from __future__ import annotations

import pytest
import torch

from pyg_ckd.devices import as_device, fabric_device
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from pyg_ckd.serving import Recommender
from pyg_ckd.training import Trainer
from pyg_ckd.training.model import save_model

CPUS = ["cpu", "cpu:0", torch.device("cpu"), torch.device("cpu", 0), None]
ABSENT = [
    name
    for name in (
        "cuda",
        "cuda:1",
        "gpu:1",
        torch.device("cuda:1"),
        1,
        "cuda:99",
        "mps",
        "nowhere",
        "cpu:x",
        "meta",
        1.5,
    )
    if not (torch.cuda.is_available() and str(name).split(":")[0] in ("cuda", "gpu", "1"))
    and not (torch.backends.mps.is_available() and name == "mps")
]


@pytest.mark.parametrize("name", CPUS, ids=str)
def test_every_name_of_the_cpu_is_the_cpu(name):
    assert as_device(name) == torch.device("cpu")


@pytest.mark.parametrize("name", ABSENT, ids=str)
def test_a_device_that_is_not_there_is_refused_with_those_that_are(name, make_data, tmp_path):
    data = make_data()
    model = VBPR.from_data(data, embedding_dim=4)
    save_model(tmp_path / "model.pt", model, data)
    message = r"^device: found '.+', which cannot be used here \(.+\), expected one that this machine has: cpu"
    with pytest.raises(InputError, match=message):
        Trainer(max_epochs=1, monitor="recall@3", progress=False, device=name).fit(model, data)
    with pytest.raises(InputError, match=message):
        Recommender.load(tmp_path / "model.pt", data, device=name)


@pytest.mark.parametrize("name", [*CPUS[:-1], "auto"], ids=str)
def test_models_are_trained_and_served_on_devices_by_any_name(name, make_data, tmp_path):
    data = make_data()
    torch.manual_seed(0)
    model = VBPR.from_data(data, embedding_dim=4)
    history = Trainer(max_epochs=1, monitor="recall@3", progress=False, device=name).fit(model, data)
    assert len(history.rows) == 1
    save_model(tmp_path / "model.pt", model, data)
    assert len(Recommender.load(tmp_path / "model.pt", data, device=name).recommend(k=2).items) == 12


def test_the_number_of_a_device_reaches_lightning_fabric(monkeypatch):
    monkeypatch.setattr("pyg_ckd.devices.as_device", torch.device)  # As on a machine with two cards.
    assert fabric_device("cuda:1") == ("cuda", [1])
    assert fabric_device(torch.device("cuda", 0)) == ("cuda", [0])
    assert fabric_device("cuda") == ("cuda", 1)
    assert fabric_device("auto") == ("auto", 1)
