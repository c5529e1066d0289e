"""Which parameters belong to a modality: of every backbone by its names, of any module by argument or by gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import weight_norm
from torch_geometric.data import HeteroData

from pyg_ckd.data import build_data
from pyg_ckd.data.inputs import RATES
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR, Adjacency, Backbone, as_backbone
from tests.nn.models.zoo import Toy, built, doubled, every_backbone, every_own_backbone

LIKE_SUBMODULES = ("preference", "project", "shared", "user_embedding", "convs")


def renamed(data: HeteroData, names: tuple[str, ...]) -> HeteroData:
    features = {new: data["item"][m] for m, new in zip(data.modalities, names, strict=True)}
    store = data[RATES]
    sizes = {"num_users": data["user"].num_nodes, "num_items": data["item"].num_nodes}
    return build_data(
        store.edge_index, features, val=store.val_edge_index, test=store.test_edge_index, transform="none", **sizes
    )


def named(model: Backbone) -> dict[str, set[str]]:
    """Return the names of the parameters of each group."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = model.modality_parameters
    assert tuple(groups) == model.modalities
    return {m: {names[id(p)] for p in own} for m, own in groups.items()}


@every_backbone
def test_the_group_of_a_modality_is_what_the_backbone_has_for_it_alone(make, make_data):
    """A parameter belongs to a modality if its name says so and a backbone without the modality goes without it."""
    model = built(make, make_data(modalities=3))
    names = {name for name, _ in model.named_parameters()}
    groups = named(model)
    for m, own in groups.items():
        assert own == {name for name in names if m in name.split(".")}
    without = {name for name, _ in built(make, make_data(modalities=2)).named_parameters()}
    assert groups["mod2"].isdisjoint(without)
    assert names - set().union(*groups.values()) <= without
    assert all(groups.values()) == model.uses_features


@every_own_backbone
def test_names_of_modalities_do_not_matter_not_even_those_of_submodules(make, make_data):
    data = make_data(modalities=5)
    neutral = named(built(make, data))
    for names in (LIKE_SUBMODULES, LIKE_SUBMODULES[::-1]):
        new = dict(zip(data.modalities, names, strict=True))
        expected = {new[m]: {".".join(new.get(x, x) for x in p.split(".")) for p in own} for m, own in neutral.items()}
        assert named(built(make, renamed(data, names))) == expected


def test_a_backbone_of_one_modality_called_shared_keeps_shared_preferences_to_itself(make_data):
    data = renamed(make_data(modalities=1), ("shared",))
    model = VBPR.from_data(data, fusion="sum")
    assert model.modality_parameters["shared"] == list(model.project.parameters())


class Encoders(nn.Module):
    """One module of everything that is told apart: names do not show which parameter is of which modality."""

    def __init__(self, data: HeteroData, width: int = 4) -> None:
        super().__init__()
        users, items = data["user"].num_nodes, data["item"].num_nodes
        first, second = (data["item"][m].size(1) for m in data.modalities)
        self.image = nn.Sequential(nn.Linear(first, width), nn.BatchNorm1d(width), nn.Dropout(), nn.ReLU())
        self.text = nn.Sequential(nn.Linear(second, width), nn.LayerNorm(width))
        self.taste = nn.Parameter(torch.randn(items, width))  # Added to the second modality alone.
        self.both = nn.Linear(width, width)  # Both go through it, one after the other.
        self.mix = nn.Linear(2 * width, width)  # Sees both at once.
        self.item_ids = nn.Embedding(items, width)  # Meets both.
        self.user_ids = nn.Embedding(users, width)  # Is returned as it is.
        self.scale = nn.Parameter(torch.ones(1))  # Multiplies a weight of the first.
        self.unused = nn.Parameter(torch.ones(3))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x_dict: dict[str, Tensor], edge_index: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        first, second = x_dict.values()
        image = self.image(self.frozen * first) @ (self.scale * torch.eye(4, dtype=first.dtype))
        text = self.text(second) + self.taste.tanh()
        image, text = self.both(image), self.both(text)
        item = self.mix(torch.cat([image, text], dim=1)) + self.item_ids.weight
        return self.user_ids.weight, item


FIRST = {"image.0.weight", "image.0.bias", "image.1.weight", "image.1.bias", "scale"}
SECOND = {"text.0.weight", "text.0.bias", "text.1.weight", "text.1.bias", "taste"}


def named_groups(model: Backbone) -> dict[str, set[str]]:
    names = {id(p): name for name, p in model.module.named_parameters()}
    return {m: {names[id(p)] for p in own} for m, own in model.modality_parameters.items()}


@pytest.mark.parametrize("train", [True, False])
def test_gradients_show_which_parameters_of_any_module_see_one_modality_alone(train, make_data):
    data = make_data()
    module = Encoders(data).double().train(train)
    model = as_backbone(module, data)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    module.mix.weight.grad = grad = torch.ones_like(module.mix.weight)
    features, graph = doubled(data)
    random = torch.get_rng_state()
    assert model.prepare(features, graph)[RATES] is graph[RATES]
    assert named_groups(model) == {"mod0": FIRST, "mod1": SECOND}
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())  # No buffer has moved.
    assert all(p.grad is (grad if p is module.mix.weight else None) for p in module.parameters())
    assert module.training == train
    assert not any(x.requires_grad for x in features.values())
    own = {id(p) for group in model.modality_parameters.values() for p in group}
    assert own <= {id(p) for p in module.parameters()}  # Not those of a copy.


def test_gradients_of_one_modality_reach_what_belongs_to_it_and_nothing_of_another(make_data):
    """Cut at the place where modalities meet, by autograd: what else reaches the parameter is of another modality."""
    data = make_data()
    module = Encoders(data).double().eval()
    model = as_backbone(module, data)
    features, graph = doubled(data)
    model.prepare(features, graph)
    image = module.both(module.image(features["mod0"]) * module.scale)
    text = module.both(module.text(features["mod1"]) + module.taste.tanh())
    parameters = list(module.parameters())
    for m, branch in (("mod0", image), ("mod1", text)):
        grads = torch.autograd.grad(
            branch.square().sum(), [p for p in parameters if p.requires_grad], allow_unused=True
        )
        names = [name for name, p in module.named_parameters() if p.requires_grad]
        reached = {name for name, g in zip(names, grads, strict=True) if g is not None}
        assert reached - {"both.weight", "both.bias"} == named_groups(model)[m]


def test_the_pass_is_taken_once_and_not_where_the_groups_are_given(make_data):
    data = make_data()
    calls = []

    class Counting(Encoders):
        def forward(self, x_dict, edge_index):
            calls.append(all(x.requires_grad for x in x_dict.values()))
            return super().forward(x_dict, edge_index)

    model = as_backbone(Counting(data).double(), data)
    features, graph = doubled(data)
    model.prepare({}, graph)  # Without features there is nothing to follow.
    assert calls == []
    model.prepare(features, graph)
    model.prepare(features, graph)
    assert calls == [True]
    given = as_backbone(Counting(data).double(), data, {"mod0": ["image"]})
    given.prepare(features, graph)
    assert calls == [True]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_groups_are_found_where_gradients_are_switched_off(mode, make_data):
    data = make_data()
    model = as_backbone(Encoders(data).double(), data)
    features, graph = doubled(data)
    with mode():
        model.prepare({m: x.clone() for m, x in features.items()}, graph)
    assert named_groups(model) == {"mod0": FIRST, "mod1": SECOND}


def test_groups_by_gradients_equal_those_by_names_where_both_are_known(make_data):
    data = make_data(modalities=3)
    model = as_backbone(Toy(12, {m: data["item"][m].size(1) for m in data.modalities}).double(), data)
    before = named_groups(model)
    model.prepare(*doubled(data))
    assert named_groups(model) == before == {m: {f"lins.{m}.weight", f"lins.{m}.bias"} for m in data.modalities}


def test_asking_before_anything_is_known_is_refused(make_data):
    data = make_data()
    model = as_backbone(Encoders(data), data)
    with pytest.raises(InputError, match=r"not known yet .* of Encoders .*call prepare\(features, graphs\) first"):
        _ = model.modality_parameters


def test_a_module_that_uses_no_feature_has_no_parameter_of_a_modality(make_data):
    data = make_data()

    class Ids(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user, self.item = (nn.Parameter(torch.randn(n, 2)) for n in (12, 9))
            self.lin = nn.Linear(data["item"]["mod0"].size(1), 2)

        def forward(self, x_dict, edge_index):
            return self.user, self.item + self.lin(x_dict["mod0"]).detach()

    model = as_backbone(Ids().double(), data)
    model.prepare(*doubled(data))
    assert model.modality_parameters == {"mod0": [], "mod1": []}


def test_a_module_that_cannot_be_followed_shares_all_parameters_and_says_so(make_data):
    data = make_data()

    class Detour(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(data["item"]["mod0"].size(1), 2)

        def forward(self, x_dict, edge_index):
            x = torch.from_numpy(x_dict["mod0"].numpy())  # PyTorch refuses that where a gradient is wanted.
            return self.lin.weight.new_ones(12, 2), self.lin(x)

    model = as_backbone(Detour().double(), data)
    with pytest.warns(UserWarning, match="could not follow the gradients of Detour .*name those of a modality"):
        model.prepare(*doubled(data))
    assert model.modality_parameters == {"mod0": [], "mod1": []}
    assert model(*doubled(data)).item.shape == (9, 2)


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_a_module_that_cannot_be_copied_shares_all_parameters_and_says_so(make_data):
    data = make_data()
    module = Encoders(data).double()
    module.mix = weight_norm(module.mix)
    model = as_backbone(module, data)
    with pytest.warns(UserWarning, match="could not follow the gradients of Encoders .*deepcopy"):
        model.prepare(*doubled(data))
    assert named_groups(model) == {"mod0": set(), "mod1": set()}


def test_a_wrong_answer_of_the_module_is_refused_by_name(make_data):
    data = make_data()

    class Wrong(nn.Module):
        def forward(self, x_dict, edge_index):
            return x_dict["mod0"]

    with pytest.raises(InputError, match=r"Wrong.forward returned Tensor, expected a pair"):
        as_backbone(Wrong(), data).prepare(*doubled(data))


def test_prepared_graphs_are_left_to_the_refusal_of_the_call(make_data):
    data = make_data()
    model = as_backbone(Encoders(data).double(), data)
    features, graph = doubled(data)
    model.prepare(features, {RATES: Adjacency.from_interactions(graph[RATES], 12, 9)})
    with pytest.raises(InputError, match="not known yet"):
        _ = model.modality_parameters


def test_groups_can_be_given_by_names_of_submodules_and_parameters(make_data):
    data = make_data()
    model = as_backbone(Encoders(data), data, modality_parameters={"mod1": ["text.0", "taste", "text.1.bias"]})
    assert named_groups(model) == {"mod0": set(), "mod1": {"text.0.weight", "text.0.bias", "taste", "text.1.bias"}}
    assert model.options["modality_parameters"] == {"mod1": ["text.0", "taste", "text.1.bias"]}
    one = as_backbone(Encoders(data), data, {"mod0": "image"})
    assert named_groups(one)["mod0"] == {name for name in FIRST if name != "scale"}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"mod2": ["image"]}, "unknown modality of modality_parameters 'mod2': did you mean"),
        (
            {"mod0": ["imag"]},
            r"unknown submodule or parameter of modality_parameters\['mod0'\] 'imag': did you mean 'image'",
        ),
        ({"mod0": ["image.5"]}, r"unknown submodule or parameter of modality_parameters\['mod0'\] 'image.5'"),
        ({"mod0": ["calls"]}, "unknown submodule or parameter"),  # A buffer.
        ({"mod0": ["image"], "mod1": ["text", "image.0"]}, "found image.0.weight below both 'mod0' and 'mod1'"),
    ],
)
def test_groups_that_do_not_fit_are_refused_in_one_line(groups, message, make_data):
    data = make_data()
    with pytest.raises(InputError, match=message) as error:
        as_backbone(Encoders(data), data, groups)
    assert "\n" not in str(error.value)


def test_groups_of_a_backbone_cannot_be_given(make_data):
    data = make_data()
    with pytest.raises(InputError, match="VBPR is a backbone, which knows its own, expected none"):
        as_backbone(VBPR.from_data(data), data, {"mod0": ["project.mod0"]})


class Sums(nn.Module):
    """Adds projections of all modalities to ids one by one."""

    def __init__(self, data: HeteroData, alone: bool) -> None:
        super().__init__()
        dims = {m: data["item"][m].size(1) for m in data.modalities}
        self.user, self.item = nn.Embedding(data["user"].num_nodes, 4), nn.Embedding(data["item"].num_nodes, 4)
        self.weight = nn.ParameterList(torch.randn(d, 4) for d in dims.values())
        self.bias = nn.ParameterList(torch.zeros(4) for _ in dims)
        self.own = nn.ParameterDict({m: torch.randn(data["item"].num_nodes, 4) for m in dims if alone})

    def forward(self, x_dict: dict[str, Tensor], edge_index: Tensor) -> tuple[Tensor, Tensor]:
        h = self.item.weight
        for (m, x), weight, bias in zip(x_dict.items(), self.weight, self.bias, strict=True):
            own = x @ weight + bias
            h = h + (self.own[m] + own if m in self.own else own)
        for _ in range(60):  # A search of every path would not come to an end.
            h = (h + h) - h
        return self.user.weight, h


@pytest.mark.parametrize("alone", [False, True])
def test_ids_to_which_modalities_are_added_one_by_one_are_shared(alone, make_data):
    data = make_data(modalities=3)
    model = as_backbone(Sums(data, alone).double(), data)
    model.prepare(*doubled(data))
    own = {m: {f"weight.{n}", f"bias.{n}"} | ({f"own.{m}"} if alone else set()) for n, m in enumerate(data.modalities)}
    assert named_groups(model) == own


class Encoded(nn.Module):
    """Encodes the second modality without gradients, and projects what comes out."""

    def __init__(self, data: HeteroData) -> None:
        super().__init__()
        dims = [data["item"][m].size(1) for m in data.modalities]
        self.user = nn.Embedding(data["user"].num_nodes, 4)
        self.encode, self.lin = nn.Linear(dims[1], 4), nn.ModuleList([nn.Linear(dims[0], 4), nn.Linear(4, 4)])

    def forward(self, x_dict: dict[str, Tensor], edge_index: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x_dict.values()
        with torch.no_grad():
            code = self.encode(second)
        return self.user.weight, self.lin[0](first) + self.lin[1](code)


def test_features_that_are_read_without_gradients_are_named(make_data):
    data = make_data()
    model = as_backbone(Encoded(data).double(), data)
    with pytest.warns(UserWarning, match=r"Encoded reads features of mod1 without a gradient .* name those of every"):
        model.prepare(*doubled(data))
    assert named_groups(model) == {"mod0": {"lin.0.weight", "lin.0.bias"}, "mod1": set()}


def test_groups_follow_what_is_frozen_and_what_is_new(make_data):
    data = make_data()
    module = Sums(data, alone=False).double()
    model, arguments = as_backbone(module, data), doubled(data)
    module.weight[0].requires_grad_(False)
    model.prepare(*arguments)
    assert named_groups(model)["mod0"] == {"bias.0"}
    module.weight[0].requires_grad_(True)
    model.prepare(*arguments)
    assert named_groups(model)["mod0"] == {"weight.0", "bias.0"}
    module.bias[0] = nn.Parameter(torch.ones(4, dtype=torch.float64))
    module.item = torch.nn.utils.parametrizations.weight_norm(module.item)
    with pytest.raises(InputError, match="not known yet"):
        _ = model.modality_parameters
    model.prepare(*arguments)
    assert named_groups(model)["mod0"] == {"weight.0", "bias.0"}


class Moving(Sums):
    """Keeps a running mean in a frozen parameter."""

    def __init__(self, data: HeteroData) -> None:
        super().__init__(data, alone=False)
        self.mean = nn.Parameter(torch.zeros(4), requires_grad=False)

    def forward(self, x_dict: dict[str, Tensor], edge_index: Tensor) -> tuple[Tensor, Tensor]:
        user, item = super().forward(x_dict, edge_index)
        self.mean.mul_(0.9).add_(0.1 * item.detach().mean(dim=0))
        return user, item - self.mean


def test_a_module_may_write_into_a_frozen_parameter(make_data):
    data = make_data()
    model = as_backbone(Moving(data).double(), data)
    model.prepare(*doubled(data))
    assert named_groups(model) == {m: {f"weight.{n}", f"bias.{n}"} for n, m in enumerate(data.modalities)}
