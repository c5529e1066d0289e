"""Every name that PyTorch has for a device, wherever one is taken."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from pyg_ckd.cli import main
from pyg_ckd.devices import as_device, fabric_device, on_any_gpu, on_gpu
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


@pytest.mark.parametrize("name", ["hpu", "tpu"])
def test_accelerators_whose_packages_are_missing_are_refused(name, make_data):
    data = make_data()
    trainer = Trainer(max_epochs=1, monitor="recall@3", progress=False, device=name)
    with pytest.raises(InputError, match=f"^device: found '{name}', .*expected one that this machine has"):
        trainer.fit(VBPR.from_data(data, embedding_dim=4), data)


def test_options_that_mean_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not any(on_gpu(name) for name in CPUS)
    assert all(on_gpu(name) and on_any_gpu(name) for name in ("auto", "cuda", "gpu", torch.device("cuda")))
    assert all(on_gpu(name) and not on_any_gpu(name) for name in ("cuda:1", "gpu:0", torch.device("cuda:1"), 1, "1"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not on_gpu("auto")
    assert not on_gpu("cuda")


def test_commands_take_the_names_that_the_trainer_takes(tmp_path, capsys):
    options = ["--data", "synthetic", "--backbone", "VBPR", "--trainer.max_epochs", "1", "--trainer.device"]
    assert main(["train", *options, "cpu:0", "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    for command, name in product(("train", "compare", "tune"), ("cuda:99", "hpu", "tpu", "meta", "CPU")):
        assert main([command, *options, name, "--out", str(tmp_path / "other")]) == 2
        error = capsys.readouterr().err
        assert f"trainer.device: found '{name}', " in error
        assert "expected one that this machine has" in error
        assert "invalid accelerator name" not in error
        assert error.count("\n") == 1
        assert not (tmp_path / "other").exists()
