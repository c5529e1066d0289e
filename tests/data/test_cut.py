"""Parts of a graph hold the interactions that a loop finds, and graphs that were cut by other means are refused."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch_geometric.data import HeteroData
from torch_geometric.loader import RandomNodeLoader
from torch_geometric.transforms import ToUndirected

from pyg_ckd import Trainer, estimate_effects, evaluate, train_teachers
from pyg_ckd.data import Embeddings, build_data, check_data, describe_data, subgraph, training_graph, unpack
from pyg_ckd.data.cut import REVERSE
from pyg_ckd.data.inputs import RATES, embed, held_out
from pyg_ckd.datasets import MultimodalFolder, write_npz
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import Evaluator
from pyg_ckd.nn import MMGCN, VBPR
from pyg_ckd.serving import Recommender

USERS, ITEMS = 20, 16
KEEP = {
    "every second item": {"item": np.arange(ITEMS) % 2 == 0},
    "half of the users": {"user": torch.arange(USERS) < 10},
    "both": {"user": list(range(5, USERS)), "item": torch.arange(12)},
    "in another order": {"user": torch.arange(USERS).flip(0), "item": [3, 1, 2, 15, 14, 0, 8, 9, 4]},
}
every_part = pytest.mark.parametrize("keep", KEEP.values(), ids=KEEP.keys())


def graph(val_per_user: int = 2, test_per_user: int = 2) -> HeteroData:
    rng = np.random.default_rng(3)
    parts: dict[str, list[tuple[int, int]]] = {"train": [], "val": [], "test": []}
    for user in range(USERS):
        items = rng.permutation(ITEMS)
        cuts = np.split(items, [4, 4 + val_per_user, 4 + val_per_user + test_per_user])
        for pairs, chosen in zip(parts.values(), cuts, strict=False):
            pairs += [(user, int(i)) for i in chosen]
    train, val, test = (np.array(pairs).T for pairs in parts.values())
    has = {"a": np.arange(ITEMS) % 5 != 0}
    data = build_data(
        train, {"a": rng.normal(size=(ITEMS, 3)), "b": rng.normal(size=(ITEMS, 2))}, val=val, test=test, has=has
    )
    data.user_id, data.item_id = [f"u{n}" for n in range(USERS)], torch.arange(ITEMS) + 100
    return data


def rows_of(keep: dict[str, Any], kind: str) -> list[int]:
    size = {"user": USERS, "item": ITEMS}[kind]
    chosen = np.asarray(keep.get(kind, np.arange(size)))
    return (np.flatnonzero(chosen) if chosen.dtype == bool else chosen).tolist()


def pairs(data: HeteroData, split: str) -> list[tuple[int, int]]:
    return [tuple(pair) for pair in held_out(data, split).t().tolist()]


def tables() -> Embeddings:
    generator = torch.Generator().manual_seed(0)
    return Embeddings(torch.randn(USERS, 4, generator=generator), torch.randn(ITEMS, 4, generator=generator))


@every_part
def test_a_subgraph_holds_what_a_loop_finds(keep):
    data = graph()
    small = subgraph(data, keep)
    users, items = rows_of(keep, "user"), rows_of(keep, "item")
    for split in ("train", "val", "test"):
        expected = {(users.index(u), items.index(i)) for u, i in pairs(data, split) if u in users and i in items}
        assert set(pairs(small, split)) == expected
        assert len(pairs(small, split)) == len(expected) > 0
    assert (small["user"].num_nodes, small["item"].num_nodes) == (len(users), len(items))
    for name in ("a", "b", "has_a"):
        assert torch.equal(small["item"][name], data["item"][name][items])
    assert small.user_id == [data.user_id[u] for u in users]
    assert small.item_id.tolist() == [100 + i for i in items]
    assert pairs(graph(), "val") == pairs(data, "val")  # The whole graph is as it was.
    check_data(small)


@every_part
def test_recall_of_a_subgraph_is_that_of_a_loop(keep):
    small, out = subgraph(graph(), keep), tables()
    users, items = rows_of(keep, "user"), rows_of(keep, "item")
    cut = Embeddings(out.user[users], out.item[items])
    score, values = (cut.user @ cut.item.t()).numpy(), []
    for user in range(len(users)):
        positive = {i for u, i in pairs(small, "test") if u == user}
        if positive:
            seen = {i for u, i in pairs(small, "train") if u == user}
            best = [i for i in np.argsort(-score[user]) if i not in seen][:3]
            values.append(len(positive & set(best)) / len(positive))
    assert evaluate(cut, small, k=3, metrics="recall")["recall@3"] == pytest.approx(np.mean(values), abs=1e-6)


def test_a_subgraph_can_be_cut_again_trained_and_served():
    small = subgraph(subgraph(graph(), KEEP["every second item"]), {"user": range(15)})
    Trainer(max_epochs=1, monitor="recall@3", progress=False).fit(VBPR.from_data(small), small)
    got = Recommender(VBPR.from_data(small), small).recommend(["u3"], k=2)
    assert set(got.items[0].tolist()) <= {100 + i for i in range(0, ITEMS, 2)}


def test_ids_of_any_kind_and_attributes_of_edges_are_cut_along():
    data = graph()
    data.user_id = pd.Index(data.user_id)
    data.item_id = np.array([f"i{n}" for n in range(ITEMS)])
    data[RATES].stars = torch.arange(held_out(data, "train").size(1))
    data["item", "similar", "item"].edge_index = torch.tensor([[0, 1, 2], [2, 2, 4]])
    small = subgraph(data, KEEP["every second item"])
    assert small.user_id.equals(data.user_id)
    assert small.item_id.tolist() == [f"i{n}" for n in range(0, ITEMS, 2)]
    of = {pair: n for n, pair in enumerate(pairs(data, "train"))}
    assert small[RATES].stars.tolist() == [of[u, 2 * i] for u, i in pairs(small, "train")]
    assert small["item", "similar", "item"].edge_index.tolist() == [[0, 1], [1, 2]]


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"items": [0]}, "unknown node type 'items': did you mean 'item'"),
        ({"item": []}, "found no item to keep"),
        ({"item": np.zeros(ITEMS, dtype=bool)}, "found no item to keep"),
        ({"item": [True, False]}, r"found a mask of 2 for 'item', expected \[16\]"),
        ({"item": [0, 16]}, "found item row 16, expected 0 to 15"),
        ({"user": [-1]}, "found user row -1, expected 0 to 19"),
        ({"user": [2, 3, 2]}, "found user row 2 more than once"),
        ({"user": [0.5]}, "found float64 for 'user', expected row numbers or a bool mask"),
    ],
)
def test_bad_parts_are_refused(keep, message):
    with pytest.raises(InputError, match=message):
        subgraph(graph(), keep)


def test_a_part_without_training_interactions_is_refused():
    data = graph()
    item = next(i for i in range(ITEMS) if (0, i) not in pairs(data, "train"))
    with pytest.raises(InputError, match="no training interaction among these users and items"):
        subgraph(data, {"user": [0], "item": [item]})


def neighbors(data: HeteroData) -> HeteroData:
    from torch_geometric.loader import NeighborLoader

    pytest.importorskip("torch_sparse")
    both = ToUndirected()(data)
    return next(iter(NeighborLoader(both, [3, 3], input_nodes=("user", torch.tensor([4, 2, 9])), batch_size=3)))


def random_nodes(data: HeteroData) -> HeteroData:
    torch.manual_seed(0)
    return next(iter(RandomNodeLoader(data, num_parts=2, shuffle=True)))


def all_neighbors(data: HeteroData) -> HeteroData:
    """All nodes in another order: sizes say nothing."""
    from torch_geometric.loader import NeighborLoader

    pytest.importorskip("torch_sparse")
    both = ToUndirected()(data)
    nodes = torch.arange(USERS).flip(0)
    return next(iter(NeighborLoader(both, [-1, -1, -1, -1], input_nodes=("user", nodes), batch_size=USERS)))


CUTS: dict[str, Callable[[HeteroData], HeteroData]] = {
    "items": lambda data: data.subgraph({"item": torch.arange(ITEMS) % 2 == 0}),
    "users": lambda data: data.subgraph({"user": torch.arange(USERS) < 10}),
    "renumbered": lambda data: data.subgraph({"item": torch.arange(ITEMS).flip(0)}),
    "of a copy": lambda data: copy.copy(data).subgraph({"item": torch.arange(ITEMS) % 2 == 0}),
    "of a deep copy": lambda data: copy.deepcopy(data).subgraph({"item": torch.arange(ITEMS) % 2 == 0}),
    "copied": lambda data: copy.deepcopy(data.subgraph({"item": torch.arange(ITEMS).flip(0)})),
    "random nodes": random_nodes,
    "neighbours": neighbors,
    "neighbours of all": all_neighbors,
    "checked before": lambda data: check_data(data).subgraph({"item": torch.arange(ITEMS).flip(0)}),
}
USES: dict[str, Callable[[HeteroData, Any], Any]] = {
    "evaluate": lambda data, path: evaluate(VBPR.from_data(data), data, k=2),
    "evaluate the validation part": lambda data, path: evaluate(VBPR.from_data(data), data, "val", k=2),
    "evaluator": lambda data, path: Evaluator(data, "test", [2]),
    "mask": lambda data, path: Evaluator(data, "test", [2], mask=["train", "val"]),
    "effects": lambda data, path: estimate_effects(VBPR.from_data(data), data, k=2),
    "fit": lambda data, path: Trainer(max_epochs=1, monitor="recall@2", progress=False).fit(VBPR.from_data(data), data),
    "teachers": lambda data, path: train_teachers(
        VBPR, data, Trainer(max_epochs=1, monitor="recall@2", progress=False), use_cache=False
    ),
    "recommend": lambda data, path: Recommender(VBPR.from_data(data), data),
    "recommend without held-out parts": lambda data, path: Recommender(VBPR.from_data(data), data, seen="train"),
    "describe": lambda data, path: describe_data(data),
    "check": lambda data, path: check_data(data),
    "write": lambda data, path: write_npz(data, path / "d.npz"),
    "cut again": lambda data, path: subgraph(data, {"user": [0]}),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
def test_graphs_that_were_cut_by_other_means_are_refused_where_they_are_used(cut, use, tmp_path):
    small = cut(graph())
    with pytest.raises(InputError, match=r"^graph: found .+ cut it with pyg_ckd.data.subgraph, or give loaders"):
        use(small, tmp_path)


def test_a_graph_without_numbers_is_refused_where_held_out_nodes_are_missing():
    data = graph()
    for kind in ("user", "item"):
        del data[kind]["n_id"]
    with pytest.raises(InputError, match="found held-out interactions of item 15 among 8 items"):
        held_out(data.subgraph({"item": torch.arange(ITEMS) < 8}), "test")


@pytest.mark.parametrize(
    "again",
    [lambda x: x, copy.copy, copy.deepcopy, check_data, ToUndirected()],
    ids=["same", "copy", "deepcopy", "checked", "undirected"],
)
@pytest.mark.parametrize("split", ["val", "test"])
def test_held_out_parts_as_large_as_the_training_part_are_no_attributes_of_its_edges(again, split):
    data = again(graph(**{f"{split}_per_user": 4}))
    assert held_out(data, split).size(1) == held_out(data, "train").size(1)
    small = data.subgraph({"item": torch.arange(ITEMS) % 2 == 0})
    assert held_out(data, "train").size(1) > held_out(small, "train").size(1) > 0


def test_graphs_read_from_a_file_are_numbered_too(tmp_path):
    write_npz(graph(val_per_user=4), tmp_path / "d.npz")
    for _ in range(2):  # Written, then read.
        data = MultimodalFolder(tmp_path / "d.npz", root=tmp_path / "cache")[0]
        small = data.subgraph({"item": torch.arange(ITEMS).flip(0)})
        with pytest.raises(InputError, match="items in other numbers"):
            held_out(small, "val")


def test_the_whole_graph_passes_wherever_it_lies():
    data = graph()
    assert held_out(data.subgraph({"item": torch.arange(ITEMS)}), "val").size(1) == 2 * USERS
    assert held_out(HeteroData.from_dict(data.to_dict()), "test").size(1) == 2 * USERS


def test_a_graph_without_held_out_parts_has_none():
    data = HeteroData()
    data[RATES].edge_index = torch.tensor([[0], [1]])
    assert held_out(data, "val").tolist() == [[], []]


def test_the_graph_for_loaders_holds_training_interactions_in_both_directions_alone():
    data = graph(val_per_user=4)
    data[RATES].stars = torch.arange(held_out(data, "train").size(1))
    data["item", "similar", "item"].edge_index = torch.tensor([[0, 1, 2], [2, 2, 4]])
    out = training_graph(data)
    assert set(out.edge_types) == {RATES, REVERSE, ("item", "similar", "item")}
    assert torch.equal(out[RATES].edge_index, data[RATES].edge_index)
    assert torch.equal(out[REVERSE].edge_index, data[RATES].edge_index.flip(0))
    assert torch.equal(out[REVERSE].stars, data[RATES].stars)
    assert not {"val_edge_index", "test_edge_index"} & {*out[RATES].keys(), *out[REVERSE].keys()}
    assert out.modalities == data.modalities
    assert "item_id" not in out
    assert out.validate()


@pytest.mark.parametrize("cls", [VBPR, MMGCN])
def test_batches_of_a_loader_have_the_embeddings_of_the_whole_graph(cls):
    """With all neighbours at every hop, a batch misses nothing of its first users."""
    from torch_geometric.loader import NeighborLoader

    pytest.importorskip("torch_sparse")
    data = graph()
    torch.manual_seed(0)
    model = cls.from_data(data)
    features, _ = unpack(data)
    whole = embed(model, data)[0]
    loader = NeighborLoader(training_graph(data), [-1] * 8, "user", batch_size=5)
    seen = []
    for batch in loader:
        with torch.no_grad():
            part = model.eval()(features, batch.edge_index_dict, n_id_dict=batch.n_id_dict)
        users = batch["user"].n_id[: batch["user"].batch_size]
        seen += users.tolist()
        torch.testing.assert_close(part.user[: users.numel()], whole.user[users], atol=1e-5, rtol=0)
    assert seen == list(range(USERS))


@pytest.mark.parametrize(
    "kind", [pd.Series, pd.Index, list, torch.tensor, lambda mask: pd.array(mask, dtype="boolean")]
)
def test_masks_of_every_kind_choose_the_same_rows_without_a_warning(kind, make_data):
    data = make_data()
    mask = np.arange(data["item"].num_nodes) % 2 == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        part = subgraph(data, {"item": kind(mask)})
    assert part["item"].num_nodes == mask.sum()


@pytest.mark.parametrize("rows", [np.array([2**63], np.uint64), [2**63], torch.tensor([2**63 - 1])], ids=str)
def test_rows_far_beyond_are_refused(rows, make_data):
    with pytest.raises(InputError, match=r"found item row \d+, expected 0 to"):
        subgraph(make_data(), {"item": rows})


def test_ids_in_a_series_are_taken_by_position(make_data):
    data = make_data()
    size = data["item"].num_nodes
    data.item_id = pd.Series([f"i{n}" for n in range(size)], index=range(size, 0, -1))
    assert list(subgraph(data, {"item": [3, 1, *range(4, size)]}).item_id[:2]) == ["i3", "i1"]
