"""A stand-in for the closed-form baselines, whose own tests are in ``tests/evaluation``."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import pyg_ckd.evaluation
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import popularity
from pyg_ckd.scoring.embeddings import Embeddings


def fit_baseline(name, data, monitor, limit=None):
    """A nearest-neighbour score with one knob, and an EASE that no graph fits."""
    if name == "ease":
        raise InputError("ease: found 30 items, expected at most 20, for its matrix is dense; use item-knn")
    count = popularity(data)
    table = torch.cat([count.item, torch.arange(count.item.size(0)).unsqueeze(-1) * 1e-3], dim=1)
    embeddings = Embeddings(torch.ones(count.user.size(0), 2), table)
    return SimpleNamespace(embeddings=embeddings, settings={"shrinkage": 10, "limit": limit}, seconds=0.5)


@pytest.fixture(autouse=True)
def closed_forms(monkeypatch):
    """Let studies find the stand-in in the place of the library's closed forms."""
    module: Any = ModuleType("pyg_ckd.evaluation.baselines")
    module.BASELINES, module.fit_baseline, module.__file__ = ("popularity", "item-knn", "ease"), fit_baseline, __file__
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(pyg_ckd.evaluation, "baselines", module, raising=False)
