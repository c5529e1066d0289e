"""Trained backbones come back as they were, and what does not fit is refused by name."""

from __future__ import annotations

import pytest
import torch

from pyg_ckd.balance import MaskedObjective, MultitaskObjective, UnimodalEnsemble
from pyg_ckd.data.inputs import embed
from pyg_ckd.errors import InputError
from pyg_ckd.nn import FREEDOM, VBPR
from pyg_ckd.scoring import Embeddings
from pyg_ckd.training import build
from pyg_ckd.training.model import load_model, open_model, save_model
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
    assert again.options == {"embedding_dim": 4, "item_bias": True, "fusion": "concat", "sparse": False, "cosine": None}


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


def ensemble(data) -> UnimodalEnsemble:
    generator = torch.Generator().manual_seed(1)
    sizes = data["user"].num_nodes, data["item"].num_nodes
    teachers = {m: Embeddings(*(torch.randn(n, 3, generator=generator) for n in sizes)) for m in data.modalities}
    objective = UnimodalEnsemble(VBPR.from_data(data, embedding_dim=4), teachers)
    objective.weights.copy_(torch.tensor([0.5, 1.5]))
    return objective


def test_an_objective_that_ranks_with_scores_of_its_own_comes_back_with_them(tmp_path):
    data = planted_data()
    model = ensemble(data)
    save_model(tmp_path / "model.pt", model, data)
    again = load_model(tmp_path / "model.pt", data)
    assert type(again) is UnimodalEnsemble
    assert same_bits(again.state_dict(), model.state_dict())
    for views in ([None], ["visual"]):
        for mine, theirs in zip(embed(again, data, views)[0], embed(model, data, views)[0], strict=True):
            assert torch.equal(mine, theirs)


def test_an_objective_that_ranks_as_its_student_does_is_saved_as_the_student(tmp_path):
    data = planted_data()
    save_model(tmp_path / "model.pt", MultitaskObjective(VBPR.from_data(data)), data)
    assert type(load_model(tmp_path / "model.pt", data)) is VBPR


def test_a_file_never_causes_an_import(tmp_path, monkeypatch):
    data = planted_data()
    (tmp_path / "a_stranger.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "model.pt"
    save_model(path, ensemble(data), data)
    content = torch.load(path, weights_only=True)
    torch.save(content | {"strategy": content["strategy"] | {"path": "a_stranger.Mine"}}, path)
    with pytest.raises(InputError, match=r"it ranks with the strategy a_stranger\.Mine, which is not imported"):
        load_model(path, data)
    torch.save(content | {"strategy": content["strategy"] | {"options": {"rate": 1}}}, path)
    with pytest.raises(InputError, match=r"model\.pt: found options and state that .*UnimodalEnsemble does not take"):
        load_model(path, data)
    torch.save(content | {"strategy": {"path": "x"}}, path)
    with pytest.raises(InputError, match=r"model\.pt: the part 'strategy' is damaged"):
        load_model(path, data)


def test_masks_of_items_come_back_with_the_objective(tmp_path):
    class Fused(MaskedObjective):
        """Ranks with scores of its own, and knows who lacks what."""

        def __init__(self, student, has=None) -> None:
            super().__init__(student)
            self.store_masks(has)

        def forward_views(self, *args, **options):
            return super().forward_views(*args, **options)

    globals()["Fused"] = Fused
    Fused.__qualname__ = "Fused"
    data = planted_data()
    mask = torch.arange(data["item"].num_nodes) % 3 > 0
    model = Fused(VBPR.from_data(data, embedding_dim=4), {"visual": mask})
    save_model(tmp_path / "model.pt", model, data)
    again = load_model(tmp_path / "model.pt", data)
    assert type(again) is Fused
    assert torch.equal(again.item_mask_visual, mask)


def test_a_folder_is_no_place_for_a_model(tmp_path):
    data = planted_data()
    with pytest.raises(InputError, match=r"save_model: found the folder .*model\.pt"):
        save_model(tmp_path, VBPR.from_data(data), data)


@pytest.mark.parametrize("data", ["data.npz", [1], {"a": 1}, None], ids=["text", "list", "mapping", "none"])
def test_what_is_no_graph_is_refused(data, saved):
    path, model, _ = saved
    for call in (lambda: open_model(path, data), lambda: save_model(path, model, data)):
        with pytest.raises(InputError, match=rf"^graph: found {type(data).__name__}, expected a HeteroData"):
            call()
