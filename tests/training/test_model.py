"""Trained backbones come back as they were, and what does not fit is refused by name."""

from __future__ import annotations

import pytest
import torch

from pyg_ckd.data.inputs import embed
from pyg_ckd.errors import InputError
from pyg_ckd.nn import FREEDOM, VBPR
from pyg_ckd.training import build
from pyg_ckd.training.model import load_model, save_model
from tests.training.problem import planted_data, same_bits


@pytest.fixture
def saved(tmp_path):
    data = planted_data()
    model = build(VBPR, data, 3, embedding_dim=4)
    save_model(tmp_path / "model.pt", model, data)
    return tmp_path / "model.pt", model, data


def test_weights_and_options_come_back(saved):
    path, model, data = saved
    again = load_model(path, data, {"VBPR": VBPR})
    assert same_bits(again.state_dict(), model.state_dict())
    assert again.options == {"embedding_dim": 4, "item_bias": True, "fusion": "concat", "sparse": False}


def test_options_come_back_however_the_model_was_built(tmp_path):
    data = planted_data()
    dims = {m: data["item"][m].size(1) for m in data.modalities}
    model = FREEDOM(data["user"].num_nodes, data["item"].num_nodes, dims, 4, num_item_layers=3, num_neighbors=2)
    save_model(tmp_path / "model.pt", model, data)
    again = load_model(tmp_path / "model.pt", data, {"FREEDOM": FREEDOM})
    assert again.options == model.options
    assert (again.num_item_layers, again.num_neighbors) == (3, 2)
    for mine, theirs in zip(embed(again, data)[0], embed(model, data)[0], strict=True):
        assert torch.equal(mine, theirs)


def test_what_does_not_fit_is_refused_by_name(saved):
    path, _, data = saved
    content = torch.load(path, weights_only=True)
    torch.save({k: v for k, v in content.items() if k not in ("sizes", "state")}, path)
    with pytest.raises(InputError, match=r"model\.pt: lacks sizes, state; it is damaged"):
        load_model(path, data, {"VBPR": VBPR})
    torch.save(content | {"options": {"depth": 3}}, path)
    with pytest.raises(InputError, match=r"model\.pt: found options .*'depth': 3.*expected those of VBPR"):
        load_model(path, data, {"VBPR": VBPR})
