"""Closed-form baselines against loops over pairs and scikit-learn's ridge regression."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data import RATES, neighbors
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import (
    BASELINES,
    Evaluator,
    ease,
    ease_content,
    evaluate,
    fit_baseline,
    item_knn,
    item_knn_content,
    popularity,
    ranking,
)
from pyg_ckd.evaluation.baselines import neighbours
from pyg_ckd.evaluation.baselines.fit import climb
from pyg_ckd.evaluation.baselines.linear import content_weights
from pyg_ckd.scoring import Embeddings, Neighbourhood, Scorer
from pyg_ckd.scoring.neighbourhood import history_matrix

USERS, ITEMS = 30, 22
CONTENT: dict[str, Callable[..., Neighbourhood]] = {"knn": item_knn_content, "ease": ease_content}
MODELS: dict[str, Callable[..., Neighbourhood]] = {
    "item-knn": lambda data: item_knn(data, k=ITEMS, shrinkage=3.0),
    "item-knn-content": lambda data: item_knn_content(data, k=ITEMS, shrinkage=3.0, weight=0.7),
    "ease": lambda data: ease(data, ridge=2.0),
    "additive": lambda data: ease_content(data, ridge=2.0, weight=0.7, content_ridge=0.5),
    "collective": lambda data: ease_content(data, ridge=2.0, weight=0.7, form="collective"),
}


@pytest.fixture
def data(make_data) -> HeteroData:
    """Return a graph whose user 3 and item 21 have no training interaction, and some of whose items lack features."""
    data = make_data(USERS, ITEMS, seed=1)
    train = data[RATES].edge_index
    data[RATES].edge_index = train[:, train[0] != 3]
    data["item"].has_mod1 = torch.arange(ITEMS) % 4 != 0
    return data


def met(data: HeteroData) -> list[set[int]]:
    out: list[set[int]] = [set() for _ in range(data["user"].num_nodes)]
    for user, item in data[RATES].edge_index.t().tolist():
        out[user].add(item)
    return out


def dense(data: HeteroData) -> np.ndarray:
    x = np.zeros((data["user"].num_nodes, data["item"].num_nodes))
    x[tuple(data[RATES].edge_index.numpy())] = 1
    return x


def all_scores(model: Neighbourhood, data: HeteroData) -> np.ndarray:
    return model.scores(torch.arange(data["user"].num_nodes)).double().numpy()


def sums(model: Neighbourhood, data: HeteroData) -> np.ndarray:
    """Return the sums over what users have met, for nobody by popularity."""
    return all_scores(Neighbourhood(model.history, model.weights, model.factors), data)


def neighbour_scores(data: HeteroData, k: int, shrinkage: float) -> np.ndarray:
    """Return the scores of a loop over users, items and their neighbours."""
    history, items = met(data), data["item"].num_nodes
    raters = [{u for u, seen in enumerate(history) if i in seen} for i in range(items)]
    near: list[dict[int, float]] = []
    for i in range(items):
        similar = {}
        for j in range(items):
            if i != j and raters[i] & raters[j]:
                norm = math.sqrt(len(raters[i]) * len(raters[j])) + shrinkage
                similar[j] = len(raters[i] & raters[j]) / norm
        near.append({j: similar[j] for j in sorted(similar, key=lambda j: (-similar[j], j))[:k]})
    return np.array([[sum(near[i].get(j, 0.0) for j in seen) for i in range(items)] for seen in history])


def cosine(data: HeteroData, modality: str) -> np.ndarray:
    """Return the cosine of every pair of items that have the modality, by a loop."""
    x, has = data["item"][modality].double().numpy(), data["item"].get(f"has_{modality}")
    out = np.zeros((len(x), len(x)))
    for i in range(len(x)):
        for j in range(len(x)):
            if has is None or (has[i] and has[j]):
                out[i, j] = x[i] @ x[j] / math.sqrt(x[i] @ x[i]) / math.sqrt(x[j] @ x[j])
    return out


def regressions(x: np.ndarray, ridge: float) -> np.ndarray:
    """Return the weights with which every column is predicted from the others, a regression each."""
    weights = np.zeros((x.shape[1], x.shape[1]))
    for i in range(x.shape[1]):
        others = [j for j in range(x.shape[1]) if j != i]
        weights[others, i] = Ridge(alpha=ridge, fit_intercept=False).fit(x[:, others], x[:, i]).coef_
    return weights


@pytest.mark.parametrize("shrinkage", [0.0, 5.0])
@pytest.mark.parametrize("k", [1, 3, ITEMS])
def test_item_knn_is_the_sum_over_neighbours_of_a_loop(data: HeteroData, k: int, shrinkage: float) -> None:
    got = sums(item_knn(data, k, shrinkage), data)
    np.testing.assert_allclose(got, neighbour_scores(data, k, shrinkage), atol=1e-5)
    assert np.abs(got).sum() > 1


def test_neighbours_do_not_depend_on_the_blocks_they_are_counted_in(data, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = all_scores(item_knn(data, 3, 1.0), data)
    monkeypatch.setattr(neighbors, "_BLOCK_PAIRS", 5)
    assert np.array_equal(all_scores(item_knn(data, 3, 1.0), data), whole)


def test_keys_of_the_largest_block_of_a_large_catalogue_are_no_longer_than_an_integer() -> None:
    first, bits = 7, (2**20 + 5).bit_length()
    last = (1 << (neighbours._ROW_BITS - bits)) - 1
    item = np.array([0, last, last, last], dtype=np.int32) + np.int32(first)
    other = np.array([3, 5, 2**20 + 4, 4], dtype=np.int32)
    similarity = np.array([0.5, 1e-45, 1.0, 0.0], dtype=np.float32)
    found = neighbours._largest(item.astype(np.int64), other.astype(np.int64), similarity, 2, first, bits)
    assert [x.tolist() for x in found] == [
        [first, first + last, first + last],
        [0, 0, 1],
        [3, 2**20 + 4, 5],
        similarity[[0, 2, 1]].tolist(),
    ]


@pytest.mark.parametrize("rows", [1, 2, 2**20])
@pytest.mark.parametrize("shrinkage", [0.0, 1.0, 1e9, 1e300])  # Up to all level.
@pytest.mark.parametrize("k", [1, 3, 40])
def test_neighbours_are_the_most_similar_items_and_the_lowest_of_those_that_are_level(
    k: int, shrinkage: float, rows: int, data: HeteroData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "_ROW_BITS", ITEMS.bit_length() + rows.bit_length() - 1)
    x = neighbours.history_of(data).astype(np.int64).toarray()
    shared = x.T @ x
    root = np.sqrt(shared.diagonal())
    expected = []
    for i in range(ITEMS):
        others = [j for j in range(ITEMS) if j != i and shared[i, j]]
        of = {j: np.float32(shared[i, j] / (root[i] * root[j] + shrinkage)) for j in others}
        nearest = sorted(others, key=lambda j: (-of[j], j))[:k]
        expected += [(i, rank, j, of[j]) for rank, j in enumerate(nearest)]
    found = neighbours.nearest(data, k, shrinkage)
    assert [*zip(*found[:4], strict=True)] == expected
    assert found.similarity.dtype == np.float32


@pytest.mark.parametrize("limit", [0, 10_000])
def test_sparse_and_dense_weights_give_the_same_scores(data, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "DENSE_ITEMS", limit)
    for model, expected in (
        (item_knn(data, 3, 1.0), neighbour_scores(data, 3, 1.0)),
        (item_knn_content(data, 3, 1.0, 0.4), blended(data, 3, 1.0, 0.4)),
    ):
        assert isinstance(model.weights, Tensor) == (limit > 0)
        np.testing.assert_allclose(sums(model, data), expected, atol=1e-5)


def blended(data: HeteroData, k: int, shrinkage: float, weight: float) -> np.ndarray:
    alone, x = neighbour_scores(data, k, shrinkage), dense(data)
    out = alone / alone.std()
    for m in data.modalities:
        kernel = cosine(data, m)
        out += weight * (x @ (kernel - np.diag(np.diag(kernel)))) / (x @ kernel).std()
    return out


def test_item_knn_with_content_is_the_sum_of_scores_over_their_deviations(data: HeteroData) -> None:
    got = sums(item_knn_content(data, 4, 2.0, 0.6), data)
    np.testing.assert_allclose(got, blended(data, 4, 2.0, 0.6), atol=1e-5)


def test_without_weight_content_changes_nothing_but_the_scale(data: HeteroData) -> None:
    got, alone = (sums(model, data) for model in (item_knn_content(data, 4, 2.0, 0.0), item_knn(data, 4, 2.0)))
    np.testing.assert_allclose(got * alone.std(), alone, atol=1e-5)


@pytest.mark.parametrize("ridge", [0.5, 20.0])
def test_ease_predicts_every_item_from_the_others_as_ridge_regression_does(data: HeteroData, ridge: float) -> None:
    x = dense(data)
    np.testing.assert_allclose(sums(ease(data, ridge), data), x @ regressions(x, ridge), atol=1e-5)


def test_the_collective_form_is_ease_with_columns_of_features_as_further_users(data: HeteroData) -> None:
    kernel = sum(cosine(data, m) for m in data.modalities)
    value, vector = np.linalg.eigh(kernel)
    further = (vector * np.sqrt(value.clip(min=0) * 1.5)).T  # Its Gram matrix is 1.5 times the kernel.
    x = dense(data)
    got = sums(ease_content(data, ridge=3.0, weight=1.5, form="collective"), data)
    np.testing.assert_allclose(got, x @ regressions(np.concatenate([x, further]), 3.0), atol=1e-5)


def test_the_additive_form_is_the_sum_of_a_regression_on_interactions_and_one_on_features(data: HeteroData) -> None:
    kernel = sum(cosine(data, m) for m in data.modalities)
    value, vector = np.linalg.eigh(kernel)
    x, rows = dense(data), (vector * np.sqrt(value.clip(min=0))).T
    got = sums(ease_content(data, ridge=3.0, weight=0.8, form="additive", content_ridge=0.7), data)
    expected = x @ (regressions(x, 3.0) + 0.8 * regressions(rows, 0.7))
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("width", [2, 40])
def test_content_alone_is_predicted_as_by_a_regression_whether_columns_are_few_or_many(width: int) -> None:
    rows = torch.randn(12, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    np.testing.assert_allclose(content_weights(rows, 0.3).numpy(), regressions(rows.t().numpy(), 0.3), atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_numbering_items_otherwise_numbers_scores_otherwise(name: str, data: HeteroData) -> None:
    before = all_scores(MODELS[name](data), data)
    place = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(0))  # Item i becomes item place[i].
    other = data.clone()
    for split in ("", "val_", "test_"):
        edges = other[RATES][f"{split}edge_index"]
        other[RATES][f"{split}edge_index"] = torch.stack([edges[0], place[edges[1]]])
    for key in (*data.modalities, "has_mod1"):
        other["item"][key] = torch.empty_like(data["item"][key]).index_copy_(0, place, data["item"][key])
    np.testing.assert_allclose(all_scores(MODELS[name](other), other)[:, place.numpy()], before, atol=1e-5)
    assert before.std() > 0


@pytest.mark.parametrize("name", MODELS)
def test_an_interaction_that_is_repeated_counts_once(name: str, data: HeteroData) -> None:
    before = sums(MODELS[name](data), data)
    train = data[RATES].edge_index
    data[RATES].edge_index = torch.cat([train, train[:, :7]], dim=1)
    np.testing.assert_allclose(sums(MODELS[name](data), data), before, atol=1e-6)


@pytest.mark.parametrize("limit", [0, 10_000])
@pytest.mark.parametrize("name", MODELS)
def test_a_user_without_interactions_is_ranked_by_popularity(
    name: str, limit: int, data: HeteroData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "DENSE_ITEMS", limit)
    data[RATES].test_edge_index = torch.stack([torch.arange(USERS), torch.arange(USERS) % ITEMS])
    model, evaluator = MODELS[name](data), Evaluator(data, "test", k=[ITEMS])
    scores = all_scores(model, data)
    assert scores[3].tolist() == dense(data).sum(axis=0).tolist()
    others = np.arange(USERS) != 3
    assert np.array_equal(scores[others], sums(model, data)[others])
    assert scores[others].any(axis=1).all()
    assert evaluator.rank(model)[3].tolist() == evaluator.rank(popularity(data))[3].tolist()  # Ties as well.


@pytest.mark.parametrize("name", ["item-knn", "item-knn-content", "ease", "ease-content"])
def test_a_fitted_baseline_ranks_users_without_interactions_as_popularity_does(name: str, data: HeteroData) -> None:
    data[RATES].val_edge_index = torch.tensor([[3, 3, 0], [0, 1, 2]])
    fitted = fit_baseline(name, data, "recall@3")
    by_user, by_count = (
        evaluate(model, data, "val", k=3, per_user=True) for model in (fitted.embeddings, popularity(data))
    )
    assert fitted.value == by_user["recall@3"]
    assert by_user.per_user.loc[3].tolist() == by_count.per_user.loc[3].tolist()


@pytest.mark.parametrize("name", ["item-knn", "item-knn-content", "ease", "ease-content"])
def test_all_models_of_a_search_rank_users_without_interactions_by_popularity(
    name: str, data: HeteroData, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyg_ckd.data import solved
    from pyg_ckd.evaluation.baselines import fit

    seen, value = [], fit._Validation.__call__
    monkeypatch.setattr(solved, "_solved", {})
    monkeypatch.setattr(fit._Validation, "__call__", lambda self, model: seen.append(model) or value(self, model))
    fit_baseline(name, data, "recall@3")
    count = dense(data).sum(axis=0).tolist()
    assert len(seen) > 2
    assert all(model.scores(torch.tensor([3]))[0].tolist() == count for model in seen)


def test_a_cold_item_has_scores_by_its_content_alone(data: HeteroData) -> None:
    cold = ITEMS - 1
    assert not (data[RATES].edge_index[1] == cold).any()
    for name in ("item-knn", "ease"):
        assert not all_scores(MODELS[name](data), data)[:, cold].any()
    for name in ("item-knn-content", "additive", "collective"):
        assert np.abs(all_scores(MODELS[name](data), data)[:3, cold]).min() > 1e-6


@pytest.mark.parametrize("name", ["item-knn-content", "additive", "collective"])
def test_what_stands_in_for_features_that_items_lack_does_not_count(name: str, data: HeteroData) -> None:
    before = all_scores(MODELS[name](data), data)
    lacking = ~data["item"].has_mod1
    data["item"].mod1[lacking] = torch.randn(int(lacking.sum()), data["item"].mod1.size(1))
    assert np.array_equal(all_scores(MODELS[name](data), data), before)
    data["item"].mod1[~lacking] = data["item"].mod1[~lacking].flip(0)
    assert not np.allclose(all_scores(MODELS[name](data), data), before, atol=1e-3)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("block", [1, 2**27])
def test_the_ranking_is_that_of_sorted_scores_without_training_items(
    name: str, block: int, data: HeteroData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "BLOCK_BYTES", block)
    model, history = MODELS[name](data), met(data)
    evaluator = Evaluator(data, "test", k=[6])
    scores = all_scores(model, data)
    for user, ranked in zip(evaluator.users.tolist(), evaluator.rank(model).tolist(), strict=True):
        left = [i for i in range(ITEMS) if i not in history[user]]
        assert not history[user] & set(ranked)
        best = sorted((scores[user, i] for i in left), reverse=True)[:6]
        assert [scores[user, i] for i in ranked if i >= 0] == pytest.approx(best, abs=1e-6)


def test_scores_as_tables_have_the_same_metrics(data: HeteroData) -> None:
    model = ease(data, 2.0)
    model = Neighbourhood(model.history, model.weights)  # Tables do not rank users without a history by popularity.
    tables = Embeddings(torch.from_numpy(dense(data)).float(), model.weights.t())
    assert evaluate(model, data, k=5) == pytest.approx(evaluate(tables, data, k=5), abs=1e-6)
    assert isinstance(model, Scorer)
    assert not isinstance(tables, Scorer)


def test_scores_that_are_not_finite_are_refused(data: HeteroData) -> None:
    class Broken:
        dtype = torch.float32

        def scores(self, users: Tensor) -> Tensor:
            return torch.full((users.numel(), ITEMS), math.nan)

    with pytest.raises(InputError, match="scores: found NaN"):
        evaluate(Broken(), data, k=5)


def test_what_other_users_have_met_is_scored_with_the_same_weights(data: HeteroData) -> None:
    for model in (item_knn_content(data, 3), ease(data)):
        other = model.with_history(history_matrix(torch.tensor([[1, 0, 1], [5, 2, 7]]), 2, ITEMS))
        single = model.with_history(history_matrix(torch.arange(ITEMS).expand(2, -1), ITEMS, ITEMS))
        rows = single.scores(torch.arange(ITEMS))
        expected = torch.stack([rows[2], rows[5] + rows[7]])
        got = other.scores(torch.arange(2))
        apart = torch.ones(2, ITEMS, dtype=torch.bool)
        apart[0, 2] = apart[1, 5] = apart[1, 7] = False
        torch.testing.assert_close(got[apart], expected[apart], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("weights", "factors", "message"),
    [
        (torch.zeros(3, 4), None, r"found weights and factors \[\[3, 4\]\], expected \[4, 4\]"),
        (torch.zeros(4, 4), torch.zeros(3, 2), r"found weights and factors \[\[4, 4\], \[3, 2\]\]"),
        (torch.full((4, 4), math.inf), None, "weights: found NaN or infinite"),
        (torch.zeros(4, 4), torch.full((4, 1), math.nan), "factors: found NaN or infinite"),
    ],
    ids=["shape", "factors", "infinite", "nan"],
)
def test_a_neighbourhood_that_does_not_fit_is_refused(weights: Tensor, factors: Tensor | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Neighbourhood(history_matrix(torch.tensor([[0], [1]]), 2, 4), weights, factors)


def test_counts_that_do_not_fit_are_refused() -> None:
    history = history_matrix(torch.tensor([[0], [1]]), 2, 4)
    for counts, message in (
        (torch.ones(3), r"found counts \[3\], expected \[4\]"),
        (torch.full((4,), math.nan), "counts: found NaN"),
    ):
        with pytest.raises(InputError, match=message):
            Neighbourhood(history, torch.zeros(4, 4), counts=counts)


# Choosing knobs.


def make(name: str, data: HeteroData, settings: dict[str, Any]) -> Neighbourhood:
    functions = {"item-knn": item_knn, "item-knn-content": item_knn_content, "ease": ease, "ease-content": ease_content}
    return functions[name](data, **settings)


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "popularity"])
@pytest.mark.parametrize("validated", [True, False])
def test_a_fitted_baseline_is_the_function_at_its_settings(name: str, validated: bool, data: HeteroData) -> None:
    if not validated:
        data[RATES].val_edge_index = torch.empty(2, 0, dtype=torch.int64)
    fitted = fit_baseline(name, data, "recall@3")
    np.testing.assert_allclose(
        all_scores(fitted.embeddings, data), all_scores(make(name, data, fitted.settings), data), atol=1e-5
    )
    assert fitted.seconds > 0
    if validated:
        assert fitted.value == pytest.approx(evaluate(fitted.embeddings, data, "val", k=3)["recall@3"])
    else:
        assert fitted.value is None
    again = fit_baseline(name, data, "recall@3")
    assert again.settings == fitted.settings
    assert np.array_equal(all_scores(again.embeddings, data), all_scores(fitted.embeddings, data))


def test_popularity_has_nothing_to_choose(data: HeteroData) -> None:
    fitted = fit_baseline("popularity", data, "ndcg@5")
    assert fitted.settings == {}
    assert fitted.value == evaluate(fitted.embeddings, data, "val", k=5)["ndcg@5"]


def test_no_neighbour_on_the_grid_is_better_than_the_chosen_ridge(data: HeteroData) -> None:
    from pyg_ckd.evaluation.baselines.fit import RIDGES

    fitted = fit_baseline("ease", data, "ndcg@5")
    place = RIDGES.index(fitted.settings["ridge"])
    for ridge in RIDGES[max(0, place - 1) : place + 2]:
        assert evaluate(ease(data, ridge), data, "val", k=5)["ndcg@5"] <= fitted.value + 1e-9


def test_the_chosen_neighbours_are_the_best_of_the_whole_grid(data: HeteroData) -> None:
    from pyg_ckd.evaluation.baselines.fit import NEIGHBOURS, SHRINKAGES

    fitted = fit_baseline("item-knn", data, "ndcg@5")
    points = [(min(k, ITEMS - 1), shrinkage) for k in NEIGHBOURS for shrinkage in SHRINKAGES]
    values = [evaluate(item_knn(data, *point), data, "val", k=5)["ndcg@5"] for point in points]
    assert fitted.value == pytest.approx(max(values))
    assert min(values) < max(values)


@pytest.mark.parametrize(("first", "second"), [("item-knn", "item-knn-content"), ("ease", "ease-content")])
def test_what_was_chosen_without_content_is_not_sought_again_with_it(
    first: str, second: str, data: HeteroData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyg_ckd.data import solved
    from pyg_ckd.evaluation.baselines import fit

    made = []
    for name in ("_best_of_grid", "_best_ridge"):
        monkeypatch.setattr(fit, name, _counted(getattr(fit, name), made))
    monkeypatch.setattr(solved, "_solved", {})
    alone = fit_baseline(second, data, "ndcg@5")
    assert len(made) == 1
    fit_baseline(first, data, "ndcg@5")
    again = fit_baseline(second, data, "ndcg@5")
    assert len(made) == 1
    assert (again.settings, again.value) == (alone.settings, alone.value)
    fit_baseline(first, data, "recall@5")  # Another metric may choose otherwise.
    assert len(made) == 2
    with solved.kept_in(tmp_path):
        fit_baseline(first, data, "ndcg@5")
        monkeypatch.setattr(solved, "_solved", {})  # As in another process.
        fit_baseline(first, data, "ndcg@5")
    assert len(made) == 2


@pytest.mark.parametrize("name", ["ease", "ease-content"])
@pytest.mark.parametrize("how", ["is refused", "is not finite"])
def test_where_single_precision_fails_a_ridge_is_tried_in_double_precision(
    name: str, how: str, data: HeteroData, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyg_ckd.data import closed_form, solved

    expected, tried, inverse = fit_baseline(name, data, "ndcg@5"), [], closed_form._inverse

    def fails(gram: Tensor, *args: Any) -> Tensor:
        tried.append(gram.dtype)
        if gram.dtype == torch.float32 and how == "is not finite":
            return torch.full_like(gram, math.nan)
        if gram.dtype == torch.float32:
            raise InputError("too small for the matrix to be inverted")
        return inverse(gram, *args)

    monkeypatch.setattr(closed_form, "_inverse", fails)
    monkeypatch.setattr(solved, "_solved", {})
    found = fit_baseline(name, data, "ndcg@5")
    assert (found.settings, found.value) == (expected.settings, expected.value)
    assert tried[:2] == [torch.float32, torch.float64]


def _counted(function: Callable[..., Any], made: list[str]) -> Callable[..., Any]:
    @functools.wraps(function)
    def counted(*args: Any) -> Any:
        made.append(function.__name__)
        return function(*args)

    return counted


def test_climbing_finds_a_peak_and_makes_no_point_twice() -> None:
    made: list[tuple[int, int]] = []

    def build(a: int, b: int) -> Any:
        made.append((a, b))
        return a, b

    grids = {"a": tuple(range(9)), "b": tuple(range(9))}
    found = climb(grids, {"a": 0, "b": 8}, build, lambda at: -(abs(at[0] - 6) + abs(at[1] - 3)))
    assert found.settings == {"a": 6, "b": 3}
    assert found.model == (6, 3)
    assert found.value == 0
    assert len(made) == len(set(made)) < 60


@pytest.mark.parametrize("monitor", ["recall", "recall@99", "recal@5"])
def test_a_metric_that_cannot_be_had_is_refused(monitor: str, data: HeteroData) -> None:
    with pytest.raises(InputError, match=r"metric|monitor: found 'recall@99'"):
        fit_baseline("ease", data, monitor)


def test_an_unknown_baseline_is_refused_with_the_closest_name(data: HeteroData) -> None:
    with pytest.raises(InputError, match="did you mean 'item-knn'"):
        fit_baseline("itemknn", data)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: item_knn(d, k=0), "item-knn k: found 0"),
        (lambda d: item_knn(d, shrinkage=-1.0), "item-knn shrinkage: found -1.0"),
        (lambda d: item_knn_content(d, weight=math.nan), "item-knn-content weight: found nan"),
        (lambda d: item_knn_content(d, modalities=["mod9"]), "unknown modality 'mod9'"),
        (lambda d: ease(d, ridge=0.0), "ease ridge: found 0.0"),
        (lambda d: ease(d, ridge=math.inf), "ease ridge: found inf"),
        (lambda d: ease(d, max_items=20), r"ease: found 22 items, expected at most 20.*use item-knn or LightGCN"),
        (lambda d: ease_content(d, weight=-0.5), "ease-content weight: found -0.5"),
        (lambda d: ease_content(d, form="colective"), "did you mean 'collective'"),
        (lambda d: ease_content(d, content_ridge=-1.0), "ease ridge: found -1.0"),
    ],
)
def test_bad_arguments_are_named_in_one_line(call: Callable, message: str, data: HeteroData) -> None:
    with pytest.raises(InputError, match=message) as error:
        call(data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make_model", CONTENT.values(), ids=CONTENT)
@pytest.mark.parametrize("spoil", ["constant", "zero", "lacking"])
def test_features_without_content_are_refused(make_model: Callable, spoil: str, data: HeteroData) -> None:
    for m in data.modalities:
        if spoil == "lacking":
            data["item"][f"has_{m}"] = torch.arange(ITEMS) == 2
        else:
            data["item"][m] = torch.full_like(data["item"][m], 2.0 if spoil == "constant" else 0.0)
    with pytest.raises(InputError, match=r"no content that tells items apart \(mod0: \d of 22 items, mod1: \d of 22"):
        make_model(data)
    with pytest.raises(InputError, match="no content"):
        fit_baseline("ease-content", data, "recall@5")


@pytest.mark.parametrize("make_model", CONTENT.values(), ids=CONTENT)
def test_a_modality_without_content_is_left_out(make_model: Callable, data: HeteroData) -> None:
    expected = all_scores(make_model(data, modalities=["mod0"]), data)
    data["item"].mod1 = torch.ones_like(data["item"].mod1)
    assert np.array_equal(all_scores(make_model(data), data), expected)
