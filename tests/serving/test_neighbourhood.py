"""Closed-form baselines as recommenders: lists, similar items and newcomers against dense scores."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data import Embeddings
from pyg_ckd.data.inputs import RATES
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import Evaluator, ease, item_knn, item_knn_content
from pyg_ckd.scoring import Neighbourhood
from pyg_ckd.serving import ItemIndex, NeighbourhoodRecommender, Recommender

USERS, ITEMS = 30, 22
MODELS = {"ease": ease, "item-knn": item_knn, "content": item_knn_content}


@pytest.fixture
def data(make_data) -> HeteroData:
    data = make_data(USERS, ITEMS)
    data.user_id = [f"u{n}" for n in range(USERS)]
    data.item_id = torch.arange(ITEMS) * 10 + 100
    return data


def scores_of(model: Neighbourhood, history: Tensor) -> Tensor:
    """Return the scores ``[B, I]`` of a dense history, an item without what it says about itself."""
    weights = model.weights if isinstance(model.weights, Tensor) else torch.from_numpy(model.weights.toarray())
    if model.factors is not None:
        weights = weights + model.factors @ model.factors.t()
    return history @ weights.clone().fill_diagonal_(0)


def history_of(data: HeteroData) -> Tensor:
    history = torch.zeros(USERS, ITEMS)
    history[tuple(data[RATES].edge_index)] = 1
    return history


@pytest.mark.parametrize("candidates", [None, [100, 180, 130, 160, 210, 250, 300]])
@pytest.mark.parametrize("name", MODELS)
def test_lists_are_those_of_sorted_scores(name: str, candidates: list[int] | None, data: HeteroData) -> None:
    model = MODELS[name](data)
    got = NeighbourhoodRecommender(model, data).recommend(["u4", "u0"], 5, candidates=candidates)
    scores = scores_of(model, history_of(data))
    for split in ("", "val_", "test_"):
        scores[tuple(data[RATES][f"{split}edge_index"])] = -math.inf
    if candidates is not None:
        out = [i for i in range(ITEMS) if 100 + 10 * i not in candidates]
        scores[:, out] = -math.inf
    for row, user in enumerate([4, 0]):
        best = scores[user].sort(descending=True).values[:5]
        assert got.scores[row].tolist() == pytest.approx(best.tolist(), abs=1e-5)
        for item, score in zip(got.items[row].tolist(), got.scores[row].tolist(), strict=True):
            expected = -math.inf if item < 0 else float(scores[user, (item - 100) // 10])
            assert score == pytest.approx(expected, abs=1e-5)
    assert (got.items >= 0).any()


def test_with_training_items_seen_the_lists_are_those_that_are_evaluated(data: HeteroData) -> None:
    model = ease(data)
    ranked = Evaluator(data, "test", (5,)).rank(model)
    got = NeighbourhoodRecommender(model, data, seen=("train",)).recommend(k=5)
    assert (got.items == torch.where(ranked < 0, -1, 100 + 10 * ranked).numpy()).all()


def test_similar_items_are_those_that_an_item_speaks_for(data: HeteroData) -> None:
    for model in (ease(data), item_knn_content(data)):
        got = NeighbourhoodRecommender(model, data).similar_items([150, 110], 4)
        scores = scores_of(model, torch.eye(ITEMS))
        scores.fill_diagonal_(-math.inf)
        for row, item in enumerate([5, 1]):
            assert got.scores[row].tolist() == pytest.approx(scores[item].sort(descending=True).values[:4].tolist())
            assert 100 + 10 * item not in got.items[row]


def test_a_new_user_gets_what_an_old_one_with_the_same_history_gets(data: HeteroData) -> None:
    model = item_knn_content(data)
    recommender = NeighbourhoodRecommender(model, data, seen=("train",))
    met = [100 + 10 * int(i) for u, i in data[RATES].edge_index.t().tolist() if u == 7]
    both = recommender.with_new_users([met, [120]], ["new", "newer"]).recommend(["u7", "new", "newer"], 3)
    assert both.items[0].tolist() == both.items[1].tolist()
    assert both.scores[0].tolist() == pytest.approx(both.scores[1].tolist())
    assert 120 not in both.items[2]
    assert len(recommender.users) == USERS  # The recommender that was extended is as it was.
    again = recommender.with_new_users([met], ["a"]).with_new_users([met], ["b"]).recommend(["a", "b"], 3)
    assert again.items.tolist() == [both.items[0].tolist()] * 2


def test_lists_are_exported(data: HeteroData, tmp_path: Path) -> None:
    recommender = NeighbourhoodRecommender(ease(data), data)
    frame = pd.read_parquet(recommender.export_top_k(tmp_path / "lists.parquet", k=3))
    lists = recommender.recommend(k=3)
    assert frame[frame["user"] == "u2"]["item"].tolist() == [i for i in lists.items[2].tolist() if i >= 0]


def test_what_needs_tables_or_a_model_is_refused_in_one_line(data: HeteroData, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    recommender = NeighbourhoodRecommender(ease(data), data)
    for call, message in (
        (lambda: recommender.explain("u1", 100), "explain: found embeddings only"),
        (lambda: recommender.with_new_items({"mod0": torch.zeros(1, 3)}), "new items: found weights between items"),
        (lambda: recommender.export_embeddings(tmp_path / "x.npy"), "no embeddings to write"),
        (lambda: ItemIndex(recommender), "index: found no embeddings"),
        (lambda: NeighbourhoodRecommender(Embeddings(torch.zeros(1, 1), torch.zeros(1, 1)), data), "found Embeddings"),
        (lambda: Recommender(ease(data), data), "use NeighbourhoodRecommender"),
    ):
        with pytest.raises(InputError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_weights_of_another_graph_are_refused(data: HeteroData, make_data) -> None:
    with pytest.raises(InputError, match="found weights for 12 users and 9 items, expected 30 and 22"):
        NeighbourhoodRecommender(ease(make_data()), data)


def test_new_users_are_in_a_saved_one(data: HeteroData, tmp_path: Path) -> None:
    source = NeighbourhoodRecommender(ease(data, ridge=10), data).with_new_users([[100, 120], [130]], ["n", "m"])
    opened = Recommender.load(source.save(tmp_path / "tonight.pt"))
    assert opened.recommend(["n", "m", "u1"], 4).items.tolist() == source.recommend(["n", "m", "u1"], 4).items.tolist()
