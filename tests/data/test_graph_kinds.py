"""What stands in the place of a graph, or of its interactions, and is refused by every function alike."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch_geometric.transforms as T
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from pyg_ckd.data import (
    RATES,
    Embeddings,
    MeanImputation,
    StandardizeFeatures,
    check_data,
    describe_data,
    fingerprint,
    held_out,
    item_masks,
    subgraph,
    training_graph,
    unpack,
)
from pyg_ckd.datasets import write_folder, write_npz
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import (
    ease,
    ease_content,
    estimate_effects,
    evaluate,
    fit_baseline,
    item_knn,
    item_knn_content,
    popularity,
)
from pyg_ckd.nn import VBPR
from pyg_ckd.serving import Recommender
from pyg_ckd.training import Trainer, train_teachers

TABLES = Embeddings(torch.randn(12, 4), torch.randn(9, 4))
MODEL = VBPR(12, 9, {"visual": 4})

USES = {
    "evaluate": lambda data: evaluate(TABLES, data, k=3),
    "recommender": lambda data: Recommender(TABLES, data),
    "fit": lambda data: Trainer(max_epochs=1, progress=False).fit(MODEL, data),
    "effects": lambda data: estimate_effects(MODEL, data, k=3),
    "teachers": lambda data: train_teachers(VBPR, data, use_cache=False),
    "check": check_data,
    "describe": describe_data,
    "fingerprint": fingerprint,
    "held_out": lambda data: held_out(data, "train"),
    "item_masks": item_masks,
    "unpack": unpack,
    "subgraph": lambda data: subgraph(data, {"item": [0, 1]}),
    "training_graph": training_graph,
    "npz": lambda data: write_npz(data, "never.npz"),
    "folder": lambda data: write_folder(data, "never"),
    "knn": item_knn,
    "knn-content": item_knn_content,
    "ease": ease,
    "ease-content": ease_content,
    "popularity": popularity,
    "baseline": lambda data: fit_baseline("popularity", data),
    "from_data": VBPR.from_data,
}
INTERACTIONS_ALONE = ("subgraph", "held_out", "knn", "ease", "popularity")
"""Functions that ask for no modalities."""

every_use = pytest.mark.parametrize("use", USES.values(), ids=USES)


class Stored(torch.utils.data.Dataset):
    """A data set of graphs."""


def changed(data, **interactions):
    data = copy.copy(data)
    for name, edges in interactions.items():
        data[RATES][name] = edges
    return data


@every_use
@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_coo])
def test_graphs_with_adj_t_are_refused_by_every_function(use, layout, make_data):
    data = T.ToSparseTensor(layout=layout)(copy.copy(make_data()))
    with pytest.raises(InputError, match=r"edge_index is missing: found adj_t in its place.*remove_edge_index=False"):
        use(data)


@every_use
def test_graphs_with_a_sparse_tensor_are_refused_by_every_function(use, make_data):
    sparse = pytest.importorskip("torch_sparse")
    data = make_data()
    user, item = data[RATES].edge_index
    data[RATES].adj_t = sparse.SparseTensor(row=item, col=user, sparse_sizes=(9, 12))
    del data[RATES]["edge_index"]  # PyG derives one, in another order.
    with pytest.raises(InputError, match=r"edge_index is missing: found adj_t in its place"):
        use(data)


@every_use
def test_graphs_without_training_interactions_are_refused_by_every_function(use, make_data):
    data = make_data()
    del data[RATES]["edge_index"]
    with pytest.raises(InputError, match=r"edge_index is missing: found none, expected int64 \[2, E\]"):
        use(data)


def test_graphs_with_adj_t_beside_edge_index_give_equal_results(make_data):
    data = make_data()
    both = T.ToSparseTensor(layout=torch.sparse_csr, remove_edge_index=False)(copy.copy(data))
    assert evaluate(TABLES, both, k=3) == evaluate(TABLES, data, k=3)
    ranked = [Recommender(TABLES, graph).recommend(list(range(12)), k=3) for graph in (both, data)]
    assert np.array_equal(ranked[0].items, ranked[1].items)


@every_use
@pytest.mark.parametrize(
    ("data", "found"),
    [
        (Stored(), r"found Stored, expected a HeteroData; pass the graph of the data set, Stored\(...\)\[0\]"),
        ("data.npz", "found str, expected a HeteroData; make one with pyg_ckd.data.build_data"),
        (Data(x=torch.zeros(2, 2)), "found Data, expected a HeteroData"),
        (None, "found NoneType, expected a HeteroData"),
    ],
    ids=["data set", "path", "data", "none"],
)
def test_what_is_no_graph_is_refused_by_every_function(use, data, found):
    with pytest.raises(InputError, match=f"graph: {found}"):
        use(data)


@every_use
def test_a_batch_is_refused_by_every_function(use, make_data):
    with pytest.raises(InputError, match=r"graph: found a batch of a loader.*pass that graph"):
        use(next(iter(DataLoader([make_data()], batch_size=1))))


@pytest.mark.parametrize("transform", [StandardizeFeatures(), MeanImputation()], ids=repr)
@pytest.mark.parametrize("data", [Stored(), "data.npz", None])
def test_transforms_refuse_what_is_no_graph(transform, data):
    with pytest.raises(InputError, match=r"graph: found .*, expected a HeteroData"):
        transform(data)


@every_use
@pytest.mark.parametrize("name", ["edge_index", "val_edge_index", "test_edge_index"])
@pytest.mark.parametrize(
    ("change", "found"),
    [
        (
            lambda edges: edges.t(),
            r"found shape \[\d+, 2\], expected a tensor int64 \[2, E\].*transpose it with .t\(\)",
        ),
        (lambda edges: edges[0], r"found shape \[\d+\], expected a tensor int64 \[2, E\]"),
        (lambda edges: edges.float(), r"found torch.float32, expected a tensor int64 \[2, E\]"),
    ],
    ids=["transposed", "one row", "float"],
)
def test_interactions_of_other_shapes_and_types_are_refused_by_every_function(use, name, change, found, make_data):
    data = make_data()
    with pytest.raises(InputError, match=rf"{name}: {found}"):
        use(changed(data, **{name: change(data[RATES][name])}))


@pytest.mark.parametrize("name", ["edge_index", "val_edge_index", "test_edge_index"])
def test_interactions_in_arrays_are_refused_and_converted_by_check_data(name, make_data):
    data = make_data()
    other = changed(data, **{name: data[RATES][name].numpy()})
    with pytest.raises(InputError, match=rf"{name}: found ndarray.*check_data\(data\), which converts it"):
        evaluate(TABLES, other, k=3)
    checked = check_data(other)
    assert torch.equal(checked[RATES][name], data[RATES][name])
    assert isinstance(other[RATES][name], np.ndarray)
    assert evaluate(TABLES, checked, k=3) == evaluate(TABLES, data, k=3)


@pytest.mark.parametrize("name", [name for name in USES if name not in INTERACTIONS_ALONE])
def test_modalities_that_are_no_texts_are_refused_by_every_function(name, make_data):
    data = make_data()
    data.modalities = [["visual"], ["textual"]]
    with pytest.raises(InputError, match=r"modalities.*\[\['visual'\], \['textual'\]\].*expected"):
        USES[name](data)


@pytest.mark.parametrize("name", INTERACTIONS_ALONE)
def test_interactions_are_enough_where_no_features_are_used(name, make_data):
    data = make_data()
    del data.modalities
    USES[name](data)


@pytest.mark.parametrize("empty", [torch.zeros(0), torch.empty(2, 0), []], ids=["flat", "of floats", "list"])
def test_held_out_interactions_may_be_empty_in_any_form(empty, make_data):
    data = check_data(make_data())
    data[RATES].val_edge_index = empty
    checked = check_data(data)
    assert checked[RATES].get("val_edge_index") is None or checked[RATES].val_edge_index.shape == (2, 0)
    assert held_out(checked, "val").shape == (2, 0)
    if not isinstance(empty, list):
        assert held_out(data, "val").shape == (2, 0)


@pytest.mark.parametrize("kind", [dict.fromkeys, np.array, tuple, lambda names: dict.fromkeys(names).keys()])
def test_names_of_modalities_may_be_any_collection(kind, make_data):
    data = make_data()
    names = list(data.modalities)
    data.modalities = kind(names)
    found = check_data(data).modalities
    assert found == names
    assert all(type(name) is str for name in found)


@pytest.mark.parametrize("use", [check_data, describe_data, fingerprint])
@pytest.mark.parametrize("change", [lambda x: x.to_sparse(), lambda x: x.to_sparse_csr()], ids=["coo", "csr"])
def test_sparse_features_are_refused_by_name(use, change, make_data):
    data = make_data()
    m = data.modalities[0]
    data["item"][m] = change(data["item"][m])
    with pytest.raises(InputError, match=rf"{m}.*found a sparse tensor, expected a dense.*to_dense\(\)"):
        use(data)


@pytest.mark.parametrize("transform", [StandardizeFeatures(), MeanImputation()], ids=repr)
@pytest.mark.parametrize("change", [lambda x: x.to_sparse(), lambda x: x.numpy()], ids=["sparse", "array"])
def test_transforms_refuse_features_that_are_no_dense_tensors(transform, change, make_data):
    data = make_data()
    m = data.modalities[0]
    data["item"][m] = change(data["item"][m])
    with pytest.raises(InputError, match=rf"graph: data\['item'\].{m}: found .*, expected a dense tensor"):
        transform(data)


def test_features_in_bfloat16_are_known_by_their_content(make_data):
    data = make_data()
    m = data.modalities[0]
    data["item"][m] = data["item"][m].bfloat16()
    first = fingerprint(data)
    assert fingerprint(data) == first
    assert m in describe_data(data).modalities
    data["item"][m] = data["item"][m] + 1
    assert fingerprint(data) != first
