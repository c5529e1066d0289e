"""Inference some columns or some rows at a time gives the tables of whole passes, in less memory."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.utils.parametrize import register_parametrization
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from pyg_ckd import evaluate
from pyg_ckd.data.inputs import RATES, unpack
from pyg_ckd.nn import FREEDOM, LATTICE, MMGCN, Adjacency, EarlyFusionLightGCN, LGConv, LightGCN, bounded
from pyg_ckd.nn.models import columns as some_columns
from pyg_ckd.nn.models import mmgcn
from tests.nn.models.zoo import BACKBONES, built, doubled, every_own_backbone

ODD = {"COLUMNS": 5, "BLOCK": 7 * 6 * 8}
"""Of six columns five and one, or as many streams as five have room for, and blocks of seven rows or fewer."""
CUT = [name for name in BACKBONES if name.startswith(("LightGCN", "EarlyFusion", "FREEDOM", "MMGCN"))]
IDS_CUT = ["BM3", "LATTICE", "MICRO", "MGCN"]
STREAMS_CUT = ["DualGNN", "EgoGCN", "GRCN"]


@pytest.fixture(name="bound")
def _bound(monkeypatch):
    """Let all tables count as large, or none."""

    def bound(yes: bool = True, **sizes: int) -> None:
        for name, value in {**ODD, **sizes, "LARGE": 0 if yes else math.inf}.items():
            monkeypatch.setattr(bounded, name, value)

    return bound


@pytest.fixture(name="cuts")
def _cuts(monkeypatch):
    """Names of what was cut, once for every cut."""
    found: list[str] = []

    def noted(place, name):
        plain = getattr(place, name)
        monkeypatch.setattr(place, name, lambda *args, **kw: (found.append(name), plain(*args, **kw))[1])

    noted(some_columns, "narrowed")
    noted(mmgcn, "row_blocks")
    noted(bounded, "column_groups")
    return found


def _views(data):
    return [None, *([m] for m in data.modalities), []]


def _tables(model, features, graph, views):
    with torch.no_grad():
        return [x for out in model.forward_views(features, graph, views) for x in out]


@every_own_backbone
def test_tables_are_those_of_a_whole_pass(make, make_data, bound):
    data = make_data()
    model, (features, graph) = built(make, data).eval(), doubled(data)
    bound(False)
    expected = _tables(model, features, graph, _views(data))
    bound()
    found = _tables(model, features, graph, _views(data))
    assert all(x.dtype == torch.float64 and not x.requires_grad for x in found)
    assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", [*CUT, *IDS_CUT, *STREAMS_CUT])
def test_what_is_named_in_the_guide_is_cut(name, make_data, bound, cuts):
    data = make_data()
    model, (features, graph) = built(BACKBONES[name], data).eval(), doubled(data)
    bound()
    _tables(model, features, graph, [None])
    if name.startswith("MMGCN"):
        assert cuts == ["row_blocks"]
    elif name in STREAMS_CUT:
        assert cuts
        assert set(cuts) == {"column_groups"}
    else:
        assert cuts == ["narrowed"] * 2


@pytest.mark.parametrize("sizes", [{"COLUMNS": 1, "BLOCK": 1}, {"COLUMNS": 4}, {"COLUMNS": 100, "BLOCK": 2**20}])
@pytest.mark.parametrize("name", CUT)
def test_any_size_of_a_part_will_do(name, sizes, make_data, bound):
    data = make_data()
    model, (features, graph) = built(BACKBONES[name], data).eval(), doubled(data)
    bound(False)
    expected = _tables(model, features, graph, _views(data))
    bound(**sizes)
    assert_close(_tables(model, features, graph, _views(data)), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("edges", [[[], []], [[0], [0]], [[3, 3], [2, 4]]], ids=["none", "one", "one user"])
@pytest.mark.parametrize("name", CUT)
def test_nodes_without_edges(name, edges, make_data, bound):
    data = make_data()
    model, (features, _) = built(BACKBONES[name], data).eval(), doubled(data)
    graph = {RATES: torch.tensor(edges, dtype=torch.long)}
    bound(False)
    expected = _tables(model, features, graph, _views(data))
    bound()
    found = _tables(model, features, graph, _views(data))
    assert_close(found, expected, rtol=0, atol=1e-10)
    assert all(torch.isfinite(x).all() for x in found)


@pytest.mark.parametrize("name", CUT)
def test_a_pass_with_gradients_and_small_tables_keep_their_bits(name, make_data, bound, cuts, monkeypatch):
    data = make_data()
    model, (features, graph) = built(BACKBONES[name], data).eval(), doubled(data)
    bound(False)
    expected = _tables(model, features, graph, [None])
    monkeypatch.undo()
    assert all(map(torch.equal, _tables(model, features, graph, [None]), expected))  # A graph like TikTok's is small.
    bound()
    cuts.clear()
    out = model.forward_views(features, graph, [None])[0]
    assert out.item.requires_grad
    assert cuts == []


def test_tables_of_32_mib_are_large():
    def graph(num_nodes, dtype=torch.float32):
        empty = torch.empty(0, dtype=torch.int32)
        rows = torch.zeros(num_nodes + 1, dtype=torch.int32)
        matrix = torch.sparse_csr_tensor(rows, empty, torch.empty(0, dtype=dtype), size=(num_nodes, num_nodes))
        return Adjacency(matrix, matrix)

    with torch.no_grad():
        assert bounded.is_large(graph(2**17), 64)
        assert not bounded.is_large(graph(2**17 - 1), 64)
        assert bounded.is_large(graph(2**17, torch.float64), 32)
        assert not bounded.is_large(graph(16_018), 64)  # TikTok.
        with torch.inference_mode():
            assert bounded.is_large(graph(2**17), 64)
    assert not bounded.is_large(graph(2**17), 64)


def test_propagated_features_that_training_keeps_are_read_and_others_are_not_made(make_data, bound):
    data = make_data()
    model, (features, edges) = built(BACKBONES["EarlyFusionLightGCN"], data).eval(), doubled(data)
    m = data.modalities[0]
    name = ("features", m, model.num_layers)
    bound()
    graph = model.prepare(features, edges)
    _tables(model, features, graph, _views(data))
    assert not graph[RATES].knows(name, features[m])
    bound(False)
    expected = _tables(model, features, graph, _views(data))
    assert graph[RATES].knows(name, features[m])
    bound()
    assert_close(_tables(model, features, graph, _views(data)), expected, rtol=0, atol=1e-10)
    features[m] += 1
    assert not graph[RATES].knows(name, features[m])


class _Peak(TorchDispatchMode):
    """The most bytes of tensors that are alive after an operation, beside those that were there before."""

    def __init__(self, *there):
        super().__init__()
        self.there, self.alive, self.peak = {x.data_ptr() for x in there}, {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_iter(out):
            if isinstance(x, torch.Tensor) and x.layout == torch.strided:
                storage = x.untyped_storage()
                if storage.data_ptr() not in self.there and storage.nbytes():
                    self.alive[StorageWeakRef(storage)] = storage.nbytes()
        self.alive = {ref: size for ref, size in self.alive.items() if not ref.expired()}
        self.peak = max(self.peak, sum(self.alive.values()))
        return out


@pytest.mark.parametrize(
    ("cls", "num_views", "before", "after"),
    [
        (LightGCN, 1, 2.95, 1.8),
        (EarlyFusionLightGCN, 1, 2.95, 1.85),
        (EarlyFusionLightGCN, 3, 7.0, 3.8),
        (FREEDOM, 1, 2.95, 1.8),
        (MMGCN, 1, 5.9, 3.3),
        (MMGCN, 3, 7.9, 5.3),
    ],
)
def test_memory_is_bounded(cls, num_views, before, after, make_data, bound):
    data = make_data(num_users=1500, num_items=500)
    features, edges = unpack(data)
    model = cls.from_data(data).eval()
    graph = model.prepare(features, edges)
    views = _views(data)[:num_views]
    table = 2000 * 64 * 4
    matrix = graph[RATES].matrix
    of_graph = [matrix.values(), matrix.crow_indices(), matrix.col_indices()]
    there = [*model.parameters(), *features.values(), *of_graph]

    def peak():
        with _Peak(*there) as found:
            _tables(model, features, graph, views)
        return found.peak / table

    bound(COLUMNS=16, BLOCK=64 * 64 * 4)
    with_parts = peak()
    bound(False)
    whole = peak()
    assert whole >= before
    assert with_parts <= after


@pytest.mark.parametrize("inference", [False, True], ids=["no_grad", "inference_mode"])
@pytest.mark.parametrize("name", CUT)
def test_parameters_stay_and_train_on(name, inference, make_data, bound):
    data = make_data()
    model, (features, edges) = built(BACKBONES[name], data), doubled(data)
    graph = model.prepare(features, edges)
    kept = {key: (p, p.clone()) for key, p in model.named_parameters()}
    bound()
    with torch.inference_mode(inference), torch.no_grad():
        model.forward_views(features, graph, _views(data))
    for key, p in model.named_parameters():
        assert p is kept[key][0]
        assert torch.equal(p, kept[key][1])
    out = model.forward_views(features, graph, [None])[0]
    out.user.sum().backward()
    assert model.user_embedding.grad is not None


def test_metrics_are_those_of_a_whole_pass(make_data, bound):
    data = make_data()
    for name in ("MMGCN", "EarlyFusionLightGCN", "LATTICE"):
        model = built(BACKBONES[name], data).float()
        bound(False)
        expected = evaluate(model, data, k=5)
        bound()
        assert evaluate(model, data, k=5) == pytest.approx(expected, abs=1e-6)


class Halved(EarlyFusionLightGCN):
    def _map(self, modality, x):
        x = super()._map(modality, x)
        return x / x.norm()


class LATTICEWithPropagation(LATTICE):
    def propagate(self, x, graph):
        x = super().propagate(x, graph)
        return x / x.norm()


class MMGCNWithLayer(MMGCN):
    def _branch(self, *args):
        x = super()._branch(*args)
        return x / x.norm()


@pytest.mark.parametrize("changed", [Halved, LATTICEWithPropagation, MMGCNWithLayer])
def test_a_class_that_computes_otherwise_is_left_whole(changed, make_data, bound, cuts):
    data = make_data()
    features, edges = unpack(data)
    model = changed.from_data(data, embedding_dim=6).eval()
    bound(False)
    expected = _tables(model, features, edges, [None])
    bound()
    assert all(map(torch.equal, _tables(model, features, edges, [None]), expected))
    assert cuts == []


@pytest.mark.parametrize("name", ["LightGCN", "EarlyFusionLightGCN", "MMGCN"])
def test_an_exchanged_method_and_a_hook_are_left_whole(name, make_data, bound, cuts):
    data = make_data()
    model, (features, graph) = built(BACKBONES[name], data).eval(), doubled(data)
    plain = model.split
    model.split = lambda *args: plain(*args)
    bound()
    _tables(model, features, graph, [None])
    del model.split
    for layer in [*model.children()][-1:]:
        layer.register_forward_hook(lambda *args: None)
        _tables(model, features, graph, [None])
    assert cuts == []


class RowNormalised(LGConv):
    """Treats no column by itself."""

    def forward(self, *args):
        return F.normalize(super().forward(*args))


@pytest.mark.parametrize("how", ["another layer", "a hook"])
@pytest.mark.parametrize("name", STREAMS_CUT)
def test_layers_that_are_no_light_graph_convolutions_get_whole_tables(name, how, make_data, bound):
    data = make_data()
    model, (features, graph) = built(BACKBONES[name], data).eval(), doubled(data)
    if how == "a hook":
        model.convs[0].register_forward_hook(lambda _, args, out: F.normalize(out))
    else:
        model.convs[0] = RowNormalised()
    bound(False)
    expected = _tables(model, features, graph, [None])
    bound()
    assert_close(_tables(model, features, graph, [None]), expected, rtol=0, atol=1e-10)


class OfUnitNorm(torch.nn.Module):
    """Weights that are no columns of their own."""

    def forward(self, x):
        return x / x.norm()


@pytest.mark.parametrize("name", ["LightGCN", "EarlyFusionLightGCN", "BM3"])
def test_computed_parameters_are_left_whole(name, make_data, bound, cuts):
    data = make_data()
    model, (features, graph) = built(BACKBONES[name], data).eval(), doubled(data)
    register_parametrization(model, "item_embedding", OfUnitNorm())
    bound(False)
    expected = _tables(model, features, graph, [None])
    bound()
    assert_close(_tables(model, features, graph, [None]), expected, rtol=0, atol=1e-10)
    assert cuts == []


def test_maps_with_computed_weights_are_left_whole(make_data, bound, cuts):
    data = make_data()
    model, (features, graph) = built(BACKBONES["EarlyFusionLightGCN"], data).eval(), doubled(data)
    register_parametrization(model.project[data.modalities[0]], "weight", OfUnitNorm())
    bound()
    _tables(model, features, graph, [None])
    assert cuts == []


def test_ids_that_a_trained_model_knows_are_not_copied(make_data):
    model = built(BACKBONES["LightGCN"], make_data())
    model.trained_on = (["a", "b"], object())
    part = some_columns.narrowed(model, model.column_dims, slice(0, 2))
    assert part.trained_on is model.trained_on
    assert part.options is not model.options
    assert part.user_embedding.shape == (model.num_users, 2)


def test_no_view_is_no_table(make_data, bound):
    data = make_data()
    model, (features, graph) = built(BACKBONES["EarlyFusionLightGCN"], data).eval(), doubled(data)
    for large in (False, True):
        bound(large)
        assert _tables(model, features, graph, []) == []
