"""Modules of PyG, and nonsense, as students."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch_geometric.nn import GATConv, SAGEConv

from pyg_ckd import Trainer
from pyg_ckd.data.inputs import RATES
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import evaluate
from pyg_ckd.nn import VBPR, AdaptedBackbone, Adjacency, as_backbone
from tests.nn.models.zoo import built, doubled


class Bipartite(nn.Module):
    """One PyG layer from items to users and one back."""

    def __init__(self, conv, num_users: int, dims: dict[str, int]) -> None:
        super().__init__()
        self.user_embedding = nn.Parameter(torch.randn(num_users, 4))
        kwargs = {"add_self_loops": False} if conv is GATConv else {}
        width = sum(dims.values())
        self.to_user, self.to_item = conv((width, 4), 6, **kwargs), conv((4, width), 6, **kwargs)

    def forward(self, x_dict, edge_index):
        x = torch.cat(list(x_dict.values()), dim=1)
        user = self.to_user((x, self.user_embedding), edge_index.flip(0))
        return user, self.to_item((self.user_embedding, x), edge_index)


@pytest.mark.parametrize("conv", [GATConv, SAGEConv])
def test_bipartite_pyg_model_is_a_backbone_in_one_line(conv, make_data):
    data = make_data(modalities=3)
    dims = {m: data["item"][m].size(1) for m in data.modalities}
    module = Bipartite(conv, data["user"].num_nodes, dims).double()
    model = as_backbone(module, data)
    features, graph = doubled(data)
    direct = module(features, graph[RATES])
    out = model(features, graph)
    assert_close(out.user, direct[0])
    assert_close(out.item, direct[1])
    assert out.user.requires_grad
    replaced = {m: x if m == "mod1" else x.mean(dim=0).expand_as(x) for m, x in features.items()}
    alone, expected = model(features, graph, "mod1"), module(replaced, graph[RATES])
    assert_close(torch.cat(alone), torch.cat(expected), atol=1e-10, rtol=0)
    assert not torch.allclose(alone.item, out.item)


def test_each_distinct_view_is_one_call_of_the_module(make_data):
    data = make_data(modalities=2)
    calls = []

    class Counting(nn.Module):
        def forward(self, x_dict, edge_index):
            calls.append(1)
            return torch.ones(data["user"].num_nodes, 1), x_dict["mod0"][:, :1]

    as_backbone(Counting(), data).forward_views(*doubled(data), [None, "mod0", ["mod0", "mod1"], "mod0"])
    assert len(calls) == 2


def test_backbone_is_returned_as_it_is(make_data):
    data = make_data()
    model = VBPR.from_data(data)
    assert as_backbone(model, data) is model


NONSENSE = {
    "nothing": lambda user, item: None,
    "one tensor": lambda user, item: user,
    "three tensors": lambda user, item: (user, item, item),
    "a number": lambda user, item: (user, 1.0),
    "users and items exchanged": lambda user, item: (item, user),
    "different widths": lambda user, item: (user, item[:, :1]),
    "vectors": lambda user, item: (user[:, 0], item[:, 0]),
    "a missing item": lambda user, item: (user, item[1:]),
}


@pytest.mark.parametrize("answer", NONSENSE.values(), ids=NONSENSE.keys())
def test_module_that_returns_anything_else_is_refused_by_name(answer, make_data):
    data = make_data()

    class Wrong(nn.Module):
        def forward(self, x_dict, edge_index):
            return answer(torch.ones(data["user"].num_nodes, 2), torch.ones(data["item"].num_nodes, 2))

    with pytest.raises(InputError, match=r"Wrong.forward returned .*expected a pair \(user \[12, D\], item \[9, D\]\)"):
        as_backbone(Wrong(), data)(*doubled(data))


class InPlace(nn.Module):
    """Writes into the features of the second modality."""

    def __init__(self, data) -> None:
        super().__init__()
        self.user = nn.Parameter(torch.ones(data["user"].num_nodes, 2))
        self.lin = nn.Linear(data["item"]["mod1"].size(1), 2)

    def forward(self, x_dict, edge_index):
        return self.user, self.lin(torch.relu_(x_dict["mod1"]))


def test_a_module_that_writes_into_features_is_refused_before_it_trains(make_data):
    data = make_data(modalities=2)
    before = data["item"]["mod1"].clone()
    with pytest.raises(InputError, match=r"InPlace: found features of mod0, mod1 changed in place.*inplace=False"):
        Trainer(max_epochs=1, progress=False, device="cpu").fit(InPlace(data), data)
    assert torch.equal(data["item"]["mod1"], before)


def test_a_module_that_writes_into_features_is_refused_wherever_it_is_called(make_data):
    data = make_data(modalities=2)
    module = InPlace(data)
    with pytest.raises(InputError, match=r"InPlace: found features of mod1 changed in place.*build the graph again"):
        evaluate(module, data, "val", k=5)
    features, graph = doubled(data)
    with pytest.raises(InputError, match="InPlace: found features of mod1 changed in place"):
        as_backbone(module.double(), data, {"mod1": ["lin"]})(features, graph)


def test_prepared_graphs_are_refused_and_sampled_ones_by_a_module_that_knows_of_none(make_data):
    data = make_data()
    model = built(
        lambda data: as_backbone(Bipartite(SAGEConv, 12, {m: data["item"][m].size(1) for m in data.modalities}), data),
        data,
    )
    features, graph = doubled(data)
    assert isinstance(model, AdaptedBackbone)
    assert model.prepare({}, graph)[RATES] is graph[RATES]
    with pytest.raises(InputError, match="plain interactions"):
        model(features, {RATES: Adjacency.from_interactions(graph[RATES], 12, 9)})
    with pytest.raises(InputError, match=r"Bipartite\.forward: found no argument n_id_dict"):
        model(features, graph, None, {"user": torch.arange(12), "item": torch.arange(9)})


class Joined(nn.Module):
    """Concatenates all features in the order in which they come, and normalises the result over items."""

    def __init__(self, data) -> None:
        super().__init__()
        self.user = nn.Parameter(torch.randn(data["user"].num_nodes, 3))
        self.lin = nn.Linear(sum(data["item"][m].size(1) for m in data.modalities), 3)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x_dict, edge_index):
        return self.user, self.norm(self.lin(torch.cat(list(x_dict.values()), dim=1)))


def test_a_module_gets_its_own_modalities_in_its_own_order(make_data):
    data = make_data(modalities=3)
    model = as_backbone(Joined(data), data).eval()
    expected = evaluate(model, data, "val", k=5)
    other = copy.copy(data)
    other.modalities = data.modalities[::-1]
    assert evaluate(model, other, "val", k=5) == expected
    two = copy.copy(data)
    two.modalities = data.modalities[:2]
    model = as_backbone(Joined(two), two).eval()
    assert evaluate(model, data, "val", k=5) == evaluate(model, two, "val", k=5)
    with pytest.raises(InputError, match="features: found none of modality 'mod1', only of mod0"):
        model({"mod0": data["item"]["mod0"]}, data.edge_index_dict)


def test_running_statistics_are_those_of_the_first_view(make_data):
    data = make_data(modalities=2)
    alone, together = Joined(data).double(), Joined(data).double()
    together.load_state_dict(alone.state_dict())
    features, graph = doubled(data)
    as_backbone(alone, data, {})(features, graph)
    as_backbone(together, data, {}).forward_views(features, graph, [None, ["mod0"], []])
    assert alone.norm.num_batches_tracked == 1
    for name, value in alone.norm.named_buffers():
        torch.testing.assert_close(value, together.norm.get_buffer(name), atol=0, rtol=0)
    assert together.norm.track_running_stats


def test_a_scripted_part_is_called_for_every_view(make_data):
    data = make_data(modalities=2)
    module = Joined(data).double()
    module.norm = torch.jit.script(module.norm)
    features, graph = doubled(data)
    views = as_backbone(module, data, {}).forward_views(features, graph, [None, ["mod0"]])
    assert all(torch.isfinite(view.item).all() for view in views)


@pytest.mark.parametrize(
    ("keys", "words"),
    [(("user", "item"), r"write return out\['user'\], out\['item'\]"), (("users", "i"), r"its keys \('users', 'i'\)")],
    ids=["user and item", "other keys"],
)
def test_a_module_that_returns_a_dict_is_told_what_to_return(keys, words, make_data):
    data = make_data()

    class Dict(nn.Module):
        def forward(self, x_dict, edge_index):
            return {key: torch.ones(data[kind].num_nodes, 2) for key, kind in zip(keys, ("user", "item"), strict=True)}

    with pytest.raises(InputError, match=f"Dict.forward returned dict, expected a pair .* of tensors; .*{words}"):
        as_backbone(Dict(), data)(*doubled(data))
