"""Modules and backbones of one's own come back by their import path, and what cannot says so in one line."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pyg_ckd.balance import MultitaskObjective, Objective
from pyg_ckd.data.inputs import embed
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import evaluate
from pyg_ckd.nn import VBPR, as_backbone
from pyg_ckd.training import Trainer
from pyg_ckd.training.model import load_model, save_model
from tests.training import own
from tests.training.problem import USERS, planted_data

DIMS = {"visual": 4, "textual": 3}
MODELS = {
    "attributes": lambda: own.Tables(USERS, DIMS, width=3),
    "defaults": lambda: own.Tables(USERS, DIMS),
    "mapping": lambda: own.Remembers((USERS, 3, 5), "textual"),
    "lazy": lambda: own.Lazy(USERS, list(DIMS)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_module_in_a_file_comes_back(name: str, suffix: str, tmp_path) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    data = planted_data()
    model = as_backbone(MODELS[name](), data)
    path = tmp_path / f"model{suffix}"
    before = torch.get_rng_state()
    save_model(path, model, data)
    again = load_model(path, data)
    assert torch.equal(torch.get_rng_state(), before)
    assert type(again.module) is type(model.module)
    for mine, theirs in zip(embed(again, data)[0], embed(model, data)[0], strict=True):
        assert torch.equal(mine, theirs)


class Draws(own.Tables):
    """Draws from the generators of NumPy and Python, as PyG's negative sampling does."""

    def forward(self, x, edge_index):
        user, item = super().forward(x, edge_index)
        if not self.training:
            return user, item
        return user * np.random.rand(), item + 0.1 * random.random()  # noqa: NPY002


def test_the_same_seed_gives_the_same_bits_whatever_a_module_draws_from(tmp_path) -> None:
    data, found = planted_data(), []
    options = {"seed": 5, "device": "cpu", "progress": False, "track_views": False}
    for n, epochs in enumerate(([4], [4], [2, 4])):
        torch.manual_seed(0)
        model = as_backbone(Draws(USERS, DIMS), data)
        before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        for last in epochs:
            folder = tmp_path / "run" if n == 2 else None
            torch.manual_seed(0)
            model = as_backbone(Draws(USERS, DIMS), data)
            objective = Objective(model)
            Trainer(max_epochs=last, checkpoint_dir=folder, **options).fit(objective, data)
        assert random.getstate() == before[0]
        assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        random.random(), np.random.rand()  # noqa: NPY002
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_what_parameters_belong_to_a_modality_comes_back(tmp_path) -> None:
    data = planted_data()
    parts = {"visual": ["project.visual"], "textual": ["project.textual"]}
    model = as_backbone(own.Tables(USERS, DIMS), data, modality_parameters=parts)
    save_model(tmp_path / "model.pt", MultitaskObjective(model), data)
    again = load_model(tmp_path / "model.pt", data)
    assert [p.shape for p in again.modality_parameters["visual"]] == [(4, 4), (4,)]


class Script(own.Tables):
    """A class of a script."""


def local() -> type[nn.Module]:
    class Inside(own.Tables):
        pass

    return Inside


def test_what_cannot_come_back_is_refused_in_one_line(tmp_path, monkeypatch) -> None:
    data = planted_data()
    monkeypatch.setattr(Script, "__module__", "__main__")
    cases = {
        r"Script: found a class that no other program can import \(__main__\.Script\), .* my_model\.py": Script(
            USERS, DIMS
        ),
        r"Inside: found a class that no other program can import": local()(USERS, DIMS),
        r"Forgets: found no attribute 'users', .* write self\.users = users": own.Forgets(USERS, DIMS),
        r"Takes: found function as argument 'act', which no file can hold": own.Takes(USERS, DIMS, lambda x: x),
        r"Lies: built again with .* it has other weights": own.Lies(USERS, DIMS),
    }
    for words, module in cases.items():
        with pytest.raises(InputError, match=words) as caught:
            save_model(tmp_path / "model.pt", as_backbone(module, data), data)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


FILE = """
from pyg_ckd.nn import VBPR
from tests.training.own import Tables

class Mine(Tables):
    pass

class MyBackbone(VBPR):
    pass
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch) -> str:
    (tmp_path / "my_own_file.py").write_text(FILE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_own_file"
    sys.modules.pop("my_own_file", None)


@pytest.mark.parametrize("name", ["Mine", "MyBackbone"])
def test_a_class_is_found_where_its_file_is_imported_and_a_model_never_causes_an_import(
    name: str, file, tmp_path
) -> None:
    data = planted_data()
    cls = getattr(importlib.import_module(file), name)
    model = cls.from_data(data, embedding_dim=4) if name == "MyBackbone" else as_backbone(cls(USERS, DIMS), data)
    save_model(tmp_path / "model.pt", model, data)
    del sys.modules[file]
    with pytest.raises(InputError, match=rf"a my_own_file\.{name}, which is not imported.* import my_own_file first"):
        load_model(tmp_path / "model.pt", data)
    assert file not in sys.modules
    importlib.import_module(file)
    again = load_model(tmp_path / "model.pt", data)
    assert type(getattr(again, "module", again)).__name__ == name


def test_a_backbone_of_a_script_is_saved_and_opens_where_it_is_given(tmp_path) -> None:
    class Inside(VBPR):
        """A backbone inside a function."""

    data = planted_data()
    save_model(tmp_path / "model.pt", Inside.from_data(data), data)
    with pytest.raises(InputError, match=r"<locals>\.Inside, a class of a script .* backbones=\{'Inside': Inside\}"):
        load_model(tmp_path / "model.pt", data)
    assert type(load_model(tmp_path / "model.pt", data, {"Inside": Inside})) is Inside


def test_what_is_no_module_is_never_built(tmp_path) -> None:
    data = planted_data()
    path = tmp_path / "model.pt"
    save_model(path, as_backbone(own.Tables(USERS, DIMS), data), data)
    content = torch.load(path, weights_only=True)
    for place, words in (
        ("os.system", "which is no module"),
        ("no_such.Net", "not imported"),
        ("torch.nn.Linear", r"Linear cannot be built"),
    ):
        torch.save(content | {"module": {"class": place, "options": {"command": "false"}}}, path)
        with pytest.raises(InputError, match=words):
            load_model(path, data)
    torch.save(content | {"module": {"class": "os.system"}}, path)
    with pytest.raises(InputError, match="the part 'module' is damaged"):
        load_model(path, data)


class Frozen(nn.Module):
    """Has an encoder that was trained elsewhere, whose running statistics are to stay."""

    def __init__(self) -> None:
        super().__init__()
        self.tables, self.encoder = own.Tables(USERS, DIMS), nn.BatchNorm1d(4)
        self.encoder.eval().requires_grad_(False)

    def forward(self, x, edge_index):
        return self.tables({**x, "visual": self.encoder(x["visual"])}, edge_index)


@pytest.mark.parametrize("use", ["evaluate", "fit", "adapted", "objective"])
def test_what_is_frozen_inside_a_model_stays_in_evaluation_mode(use: str) -> None:
    data, model = planted_data(), Frozen()
    if use == "evaluate":
        evaluate(model, data, k=5)
    else:
        adapted = model if use == "fit" else as_backbone(model, data)
        trained = Objective(adapted) if use == "objective" else adapted
        Trainer(max_epochs=2, monitor="recall@5", progress=False, device="cpu").fit(trained, data)
    assert model.training
    assert model.tables.training
    assert not model.encoder.training
    assert not model.encoder.running_mean.any()


def test_a_model_that_was_evaluated_as_a_whole_trains_as_a_whole() -> None:
    data, model = planted_data(), Frozen().eval()
    evaluate(model, data, k=5)
    assert not model.training
    Trainer(max_epochs=1, monitor="recall@5", progress=False, device="cpu").fit(model, data)
    assert model.encoder.training
    assert bool(model.encoder.running_mean.any())
