"""Closed-form baselines as recommenders: lists, similar items and newcomers against dense scores."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data import Embeddings
from pyg_ckd.data.inputs import RATES
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import Evaluator, ease, item_knn, item_knn_content
from pyg_ckd.evaluation.baselines import neighbours
from pyg_ckd.scoring import Neighbourhood
from pyg_ckd.scoring import neighbourhood as scoring
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


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_items_without_weights_and_users_who_have_met_nothing_else_are_warned_of(
    name: str, sparse: bool, data: HeteroData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "DENSE_ITEMS", 0 if sparse else 10_000)
    train = data[RATES].edge_index
    train = train[:, ~torch.isin(train[0], torch.tensor([2, 9])) & (train[1] != 7) & (train[1] != 4)]
    data[RATES].edge_index = torch.cat([train, torch.tensor([[2, 9], [7, 7]])], dim=1)  # Item 4 is nobody's.
    source = NeighbourhoodRecommender(MODELS[name](data), data)
    for one in (source, Recommender.load(source.save(tmp_path / "r.pt"))):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            one.similar_items([150, 170, 140], 4)
            one.recommend(["u0", "u9", "u2"], 4)
            one.export_top_k(tmp_path / "lists.csv", 4)
            one.with_new_users([[100, 140], [140]], ["n", "m"]).recommend(["n", "m", "x"], 3, unknown="popular")
        got = [str(one.message).partition(", ")[0] for one in said]
        if name == "content":  # Features say something about all items.
            assert got == ["recommend: 1 of 3 users is unknown (first: 'x'); they get the items with most interactions"]
            continue
        assert got == [
            "similar_items: 2 of 3 items have no weights (first: 170)",
            "recommend: 2 of 3 users have met only items without weights (first: 'u9')",
            "recommend: 2 of 30 users have met only items without weights (first: 'u2')",
            "recommend: 1 of 3 users is unknown (first: 'x'); they get the items with most interactions",
            "recommend: 1 of 3 users has met only items without weights (first: 'm')",
        ]
        assert said[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            one.similar_items([150, 160], 4)
            one.recommend(["u0", "u1"], 4)


def test_which_items_are_silent_is_what_a_loop_finds(data: HeteroData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_ROWS", 5)
    data[RATES].edge_index = data[RATES].edge_index[:, data[RATES].edge_index[1] > 2]
    for name, make in MODELS.items():
        model = make(data)
        expected = [not row.any() for row in scores_of(model, torch.eye(ITEMS)).numpy()]
        assert model.silent.tolist() == expected
        assert np.sum(expected) == (0 if name == "content" else 4)  # The last item had no interaction before.


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
