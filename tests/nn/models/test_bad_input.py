"""What all backbones refuse."""

from __future__ import annotations

import pytest
import torch
from torch_geometric import EdgeIndex

from pyg_ckd import Trainer
from pyg_ckd.data.inputs import RATES, unpack
from pyg_ckd.errors import InputError
from pyg_ckd.nn import (
    FISM,
    FREEDOM,
    LATTICE,
    MGCN,
    MICRO,
    MMGCN,
    VBPR,
    Adjacency,
    Backbone,
    DualGNN,
    EarlyFusion,
    EarlyFusionLightGCN,
    LateFusion,
    LightGCN,
)
from pyg_ckd.nn.models.discovery import backbones
from tests.nn.models.zoo import (
    built,
    doubled,
    every_backbone,
    every_own_backbone,
    every_own_multimodal_backbone,
)

every_class = pytest.mark.parametrize("cls", backbones().values(), ids=backbones())


@every_backbone
def test_unknown_view_is_refused_with_the_closest_name(make, make_data):
    data = make_data(modalities=["visual", "textual"])
    model = built(make, data)
    for view in ("visul", ["textual", "visul"]):
        with pytest.raises(InputError, match="unknown modality 'visul': did you mean 'visual'"):
            model(*doubled(data), view)
        with pytest.raises(InputError, match="'visul'"):
            model.forward_views(*doubled(data), [None, view])


@pytest.mark.parametrize("cls", [VBPR, MMGCN, LightGCN, EarlyFusionLightGCN])
def test_sizes_of_zero_are_refused_by_name(cls):
    for users, items, dim, name in ((0, 3, 4, "num_users"), (3, 0, 4, "num_items"), (3, 3, 0, "visual")):
        with pytest.raises(InputError, match=rf"{name}: found 0, expected at least 1"):
            cls(users, items, {"visual": dim})
    with pytest.raises(InputError, match="embedding_dim: found 0"):
        cls(3, 3, {"visual": 4}, embedding_dim=0)
    if cls is not LightGCN:
        with pytest.raises(InputError, match="number of modalities: found 0"):
            cls(3, 3, {})


def test_subclass_that_defines_nothing_says_what_is_missing(make_data):
    data = make_data()
    for cls, message in (
        (Backbone, "must derive from EarlyFusion or LateFusion"),
        (EarlyFusion, "defines no input"),
        (LateFusion, "defines no branch"),
    ):
        model = cls.from_data(data)
        model.weight = torch.nn.Parameter(torch.ones(1))
        with pytest.raises(TypeError, match=message):
            model(*doubled(data))


@every_own_backbone
def test_interactions_of_another_kind_or_with_nodes_that_do_not_exist_are_refused(make, make_data):
    data = make_data()
    model = built(make, data)
    features, graph = doubled(data)
    edges, users, items = graph[RATES], data["user"].num_nodes, data["item"].num_nodes
    matrix = torch.sparse_coo_tensor(edges, torch.ones(edges.size(1)), (users, items))
    first, second = torch.tensor([[1], [0]]), torch.tensor([[0], [1]])
    kinds = {
        "found a sparse Tensor": (matrix, matrix.to_sparse_csr()),
        "found list": (edges.tolist(),),
        r"found torch.int64 of shape \[\d+, 2\]": (edges.t(),),
        "found torch.float32": (edges.float(),),
        f"second row, expected 0 to {items - 1}$": (edges + second * items, edges - second),
        f"first row, expected 0 to {users - 1}$": (edges + first * users, edges - first),
    }
    for message, graphs in kinds.items():
        for given in graphs:
            with pytest.raises(InputError, match=f"^interactions .*{message}"):
                model(features, {RATES: given})
    full = model(features, graph)
    for given in (edges.int(), EdgeIndex(edges, sparse_size=(users, items))):
        assert torch.equal(torch.cat(model(features, {RATES: given})), torch.cat(full))


@every_own_multimodal_backbone
def test_features_that_are_missing_misshapen_or_not_finite_are_refused(make, make_data):
    data = make_data()
    model = built(make, data)
    features, graph = doubled(data)
    broken = features["mod0"].clone()
    broken[4, 1] = torch.nan
    for given, message in (
        ({"mod1": features["mod1"]}, "features: found none of modality 'mod0', only of mod1$"),
        (features | {"mod0": features["mod0"][:, :2]}, r"'mod0': found shape \[9, 2\], expected \[9, 3\]"),
        (features | {"mod0": features["mod0"][:8]}, r"'mod0': found shape \[8, 3\], expected \[9, 3\]"),
        (features | {"mod0": broken}, "'mod0': found NaN or infinite values, first in row 4"),
    ):
        with pytest.raises(InputError, match=message):
            model(given, graph)


@every_own_backbone
def test_graph_prepared_in_another_precision_is_refused(make, make_data):
    data = make_data()
    model = built(make, data)
    features, graph = doubled(data)
    graphs = make(data).prepare({m: x.float() for m, x in features.items()}, graph)
    with pytest.raises(InputError, match=r"prepared in torch.float32, expected torch.float64 .* call prepare again"):
        model(features, graphs)


@pytest.mark.parametrize("cls", [FREEDOM, LATTICE, MGCN])
def test_item_graph_prepared_in_another_precision_is_refused(cls, make_data):
    data = make_data()
    features, graph = unpack(data)
    key = ("item", "mod0", "item")
    prepared = cls.from_data(data).prepare(features, graph)[key]
    with pytest.raises(InputError, match=r"^\('item', 'mod0', 'item'\): found a graph prepared in torch.float32"):
        cls.from_data(data).double()(doubled(data)[0], {**graph, key: prepared})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (FREEDOM, LATTICE),
        (lambda *args: FREEDOM(*args, num_neighbors=2), FREEDOM),
        (lambda *args: MGCN(*args, keep_negative=False), MGCN),
        (lambda *args: DualGNN(*args, num_neighbors=3), DualGNN),
    ],
)
def test_graphs_among_items_or_users_of_other_settings_are_refused(one, other, make_data):
    data = make_data()
    features, graph = unpack(data)
    sizes = (data["user"].num_nodes, data["item"].num_nodes, {m: x.size(1) for m, x in features.items()})
    graphs = one(*sizes).prepare(features, graph)
    with pytest.raises(InputError, match=r"found a graph prepared with .*; pass the interactions or what this model's"):
        other(*sizes)(features, graphs)
    assert torch.isfinite(one(*sizes)(features, graphs).item).all()


@pytest.mark.parametrize(("cls", "key"), [(FREEDOM, ("item", "mod0", "item")), (DualGNN, ("user", "shares", "user"))])
def test_given_graphs_among_items_or_users_are_checked(cls, key, make_data):
    data = make_data()
    model = cls.from_data(data)
    features, graph = unpack(data)
    size = data[key[0]].num_nodes
    edges = torch.tensor([[0, size - 1], [1, 2]])
    as_tensor, as_edge_index = (model(features, {**graph, key: given}) for given in (edges, EdgeIndex(edges)))
    assert torch.equal(torch.cat(as_tensor), torch.cat(as_edge_index))
    for wrong in (edges + 1, edges - 1):
        with pytest.raises(InputError, match=f"{key[0]}', .*expected 0 to {size - 1}$"):
            model.prepare(features, {**graph, key: wrong})
    with pytest.raises(InputError, match="found a sparse Tensor, expected an edge index"):
        model.prepare(features, {**graph, key: torch.eye(size).to_sparse_csr()})


def test_graph_prepared_for_another_model_is_refused(make_data):
    data = make_data()
    features, graph = doubled(data)
    symmetric = LightGCN.from_data(data).prepare(features, graph)
    mmgcn = MMGCN.from_data(data).double()
    with pytest.raises(InputError, match=r"\('sym', False\), expected \('mean', .*model's own prepare"):
        mmgcn(features, symmetric)
    own = Adjacency.from_interactions(graph[RATES], data["user"].num_nodes, data["item"].num_nodes, dtype=torch.float64)
    assert torch.isfinite(mmgcn(features, {RATES: own}).item).all()  # Normalised otherwise on purpose.


@every_own_multimodal_backbone
def test_features_that_are_not_finite_are_refused_on_a_prepared_graph(make, make_data):
    data = make_data()
    model = built(make, data)
    features, graph = doubled(data)
    graphs = model.prepare(features, graph)
    model(features, graphs)
    features["mod0"][4, 1] = torch.nan  # In place, which PyTorch counts.
    broken = {**features, "mod0": features["mod0"].clone()}
    for given in (features, broken):
        with pytest.raises(InputError, match=r"^features of 'mod0': found NaN or infinite values, first in row 4"):
            model(given, graphs)
        with pytest.raises(InputError, match=r"^features of 'mod0': found NaN or infinite values, first in row 4"):
            model(given, graph)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("cls", [FISM, FREEDOM, LATTICE, MGCN, MICRO])
def test_item_graphs_of_features_that_are_not_finite_are_refused_with_modality_and_row(cls, value, make_data):
    data = make_data()
    model = cls.from_data(data, **({"item_graph": "content"} if cls is FISM else {}))
    data["item"]["mod1"][4, 1] = value
    expected = r"^features of 'mod1': found NaN or infinite values, first in row 4; impute them$"
    with pytest.raises(InputError, match=expected):
        model.prepare(*unpack(data))
    with pytest.raises(InputError, match=expected):
        Trainer(max_epochs=1).fit(model, data)


def test_features_are_looked_through_once(make_data, monkeypatch):
    data = make_data()
    model = VBPR.from_data(data).double()
    features, graph = doubled(data)
    graphs = model.prepare(features, graph)
    model(features, graphs)
    monkeypatch.setattr(torch.Tensor, "isfinite", None)
    model(features, graphs)


@every_own_multimodal_backbone
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: {}, "features: found none of modality 'mod0', only of nothing"),
        (lambda x: list(x.values()), "features: found list, expected a dict from modality"),
        (lambda x: {m: v.numpy() for m, v in x.items()}, "features of 'mod0': found ndarray, expected a tensor"),
    ],
    ids=["none", "list", "NumPy"],
)
def test_features_of_another_kind_are_refused(make, change, message, make_data):
    data = make_data()
    features, graph = doubled(data)
    with pytest.raises(InputError, match=f"^{message}"):
        built(make, data)(change(features), graph)


@every_own_backbone
def test_graphs_of_another_kind_are_refused(make, make_data):
    data = make_data()
    model = built(make, data)
    features, graph = doubled(data)
    other = ("user", "likes", "item")
    for given, found in (
        (graph[RATES], "Tensor"),
        ({}, "graphs of no type"),
        ({other: graph[RATES]}, "graphs .*likes"),
    ):
        with pytest.raises(InputError, match=rf"^edge_index_dict: found {found}.*, expected a dict .*'rates'"):
            model(features, given)


@every_class
@pytest.mark.parametrize(
    "dims", [["visual"], None, "visual", {1: 4}, {"a.b": 4}, {"training": 4}, {"keys": 4}, {"": 4}]
)
def test_modalities_are_names_that_modules_can_have(cls, dims):
    if cls is LightGCN and dims is None:
        return  # It needs no features.
    with pytest.raises(
        InputError, match=r"^feature_dims: found .*, expected from names of modalities to feature widths"
    ):
        cls(3, 3, dims)


def test_features_of_modalities_that_a_model_has_not_are_not_looked_at(make_data):
    data = make_data(modalities=["visual"])
    model, features = VBPR.from_data(data), {"visual": data["item"].visual}
    expected = model(features, data.edge_index_dict)[0]
    found = model({**features, "audio": torch.full((3, 2), torch.nan)}, data.edge_index_dict)[0]
    assert torch.equal(found, expected)
    with pytest.raises(InputError, match=r"features of 'visual'.*\[6\]"):
        model({"visual": torch.full((6,), torch.nan)}, data.edge_index_dict)
