"""What the documentation shows runs as it stands."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import torch

import pyg_ckd
from pyg_ckd import DistillationWrapper, Trainer, evaluate, train_teachers
from pyg_ckd.balance.discovery import build_objective
from pyg_ckd.data import Embeddings
from pyg_ckd.datasets import synthetic_multimodal
from pyg_ckd.nn import VBPR, backbones
from pyg_ckd.study import StudySettings
from pyg_ckd.training import teachers as teachers_module

ROOT = Path(__file__).parent.parent


def snippet(name: str, first: str) -> str:
    """Return the Python block of a page that holds the line ``first``."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    found = [block for block in blocks if first in block]
    assert len(found) == 1
    return found[0]


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run in an empty folder, with a small synthetic graph, few epochs and an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(teachers_module, "get_home_dir", lambda: str(tmp_path / "home"))
    fit = Trainer.fit

    def short(self, model, data):
        self.max_epochs = 2
        return fit(self, model, data)

    monkeypatch.setattr(Trainer, "fit", short)


@pytest.mark.usefixtures("_quick")
def test_the_snippet_of_the_first_screen_runs(capsys) -> None:
    exec(snippet("README.md", "SyntheticMultimodal"), {})
    out = capsys.readouterr().out
    assert "recall@20" in out
    assert "weight" in out


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("name", [name for name, cls in backbones().items() if cls.uses_features])
def test_recommended_settings_are_taken_as_the_readme_says_for_every_backbone(name: str) -> None:
    data = synthetic_multimodal(num_users=60, num_items=40, num_interactions=800)
    space = {"MMGCN": backbones()[name], "data": data, "Trainer": Trainer, "train_teachers": train_teachers}
    exec(snippet("README.md", "best = MMGCN"), space | {"DistillationWrapper": DistillationWrapper})


@pytest.mark.parametrize("name", backbones())
def test_recommended_settings_are_those_of_a_study(name: str) -> None:
    settings = StudySettings(**backbones()[name].recommended)
    assert settings.trainer == backbones()[name].recommended["trainer"]


@pytest.mark.usefixtures("_quick")
def test_any_pyg_model_is_wrapped_as_the_readme_says() -> None:
    data = synthetic_multimodal(num_users=60, num_items=40, num_interactions=800)

    class MyModel(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user = torch.nn.Parameter(torch.randn(60, 8))
            self.project = torch.nn.ModuleDict({m: torch.nn.Linear(32, 8) for m in data.modalities})

        def forward(self, x_dict, edge_index):
            return self.user, torch.stack([self.project[m](x) for m, x in x_dict.items()]).sum(dim=0)

    space = {"MyModel": MyModel, "data": data}
    exec(snippet("README.md", "MyModel()"), space)
    assert evaluate(space["student"], data, k=5)["recall@5"] >= 0


def test_arrays_become_a_graph_as_the_readme_says() -> None:
    train, val, test = torch.tensor([[0, 1], [0, 1]]), torch.tensor([[0], [2]]), torch.tensor([[1], [2]])
    space = {"train": train, "val": val, "test": test, "images": torch.rand(3, 4), "texts": torch.rand(3, 5)}
    exec(snippet("README.md", "build_data"), space)
    assert space["data"].modalities == ["visual", "textual"]


def test_the_backbone_of_the_contributing_page_trains() -> None:
    space: dict = {}
    exec(snippet("CONTRIBUTING.md", "ContentOnly"), space)
    data = synthetic_multimodal(num_users=60, num_items=40, num_interactions=800)
    model = space["ContentOnly"].from_data(data)
    history = Trainer(max_epochs=3, lr=0.01, monitor="recall@5", progress=False).fit(model, data)
    assert history.rows[-1]["loss/bpr"] < history.rows[0]["loss/bpr"]


def test_the_taught_strategy_of_the_contributing_page_is_built() -> None:
    space: dict = {}
    exec(textwrap.dedent(snippet("CONTRIBUTING.md", "class Taught(")), space)
    data = synthetic_multimodal(num_users=60, num_items=40, num_interactions=800)
    teachers = {m: Embeddings(torch.randn(60, 4), torch.randn(40, 4)) for m in data.modalities}
    strategy = build_objective(space["Taught"], VBPR.from_data(data), data, teachers, {"weight": 0.2})
    assert strategy.options == {"weight": 0.2, "l2": 0.01}
    assert torch.equal(strategy.teacher("visual").user, teachers["visual"].user)


def test_every_public_name_has_a_docstring() -> None:
    import importlib

    for room in ("", ".data", ".datasets", ".nn", ".nn.conv", ".balance", ".training", ".evaluation"):
        module = importlib.import_module(f"pyg_ckd{room}")
        for name in module.__all__:
            value = getattr(module, name)
            assert isinstance(value, (str, tuple)) or value.__doc__, f"{module.__name__}.{name}"


def test_importing_the_package_loads_no_heavy_library() -> None:
    import subprocess
    import sys

    heavy = ("matplotlib", "lightning_fabric", "jsonargparse")
    code = f"import pyg_ckd, sys; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
    assert pyg_ckd.__version__
