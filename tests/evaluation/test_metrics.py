"""Metrics of single users against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, ndcg_score
from torch_geometric.metrics import LinkPredCoverage, LinkPredPersonalization

from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import user_metrics
from pyg_ckd.evaluation.metrics import coverage, personalization

NUM_ITEMS, USERS = 12, 40


def case() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    relevant = rng.random((USERS, NUM_ITEMS)) < 0.3
    relevant[:, 0] |= ~relevant.any(axis=1)
    return rng.normal(size=(USERS, NUM_ITEMS)), relevant


def arguments(score: np.ndarray, relevant: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    ranked = torch.from_numpy(np.argsort(-score, axis=1).copy())
    return ranked, torch.from_numpy(np.stack(np.nonzero(relevant)))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("k", [1, 4, NUM_ITEMS])
def test_ndcg_equals_that_of_scikit_learn(k):
    score, relevant = case()
    values = user_metrics(*arguments(score, relevant), ["ndcg"], [k])[f"ndcg@{k}"]
    expected = [ndcg_score([r.astype(float)], [s], k=k) for r, s in zip(relevant, score, strict=True)]
    assert values.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.usefixtures("double")
def test_map_over_the_whole_list_equals_average_precision_of_scikit_learn():
    score, relevant = case()
    values = user_metrics(*arguments(score, relevant), ["map"], [NUM_ITEMS])[f"map@{NUM_ITEMS}"]
    expected = [average_precision_score(r, s) for r, s in zip(relevant, score, strict=True)]
    assert values.tolist() == pytest.approx(expected, abs=1e-12)


def test_ideal_of_retrieved_items_ignores_those_that_were_missed():
    ranked, labels = torch.tensor([[3, 1, 2]]), torch.tensor([[0, 0, 0], [3, 7, 8]])
    usual = user_metrics(ranked, labels, ["ndcg", "map"], [3])
    retrieved = user_metrics(ranked, labels, ["ndcg", "map"], [3], ideal="retrieved")
    ideal = 1 + 1 / np.log2(3) + 1 / 2
    assert float(usual["ndcg@3"]) == pytest.approx(1 / ideal)
    assert float(usual["map@3"]) == pytest.approx(1 / 3)
    assert [float(retrieved[name]) for name in ("ndcg@3", "map@3")] == pytest.approx([1.0, 1.0], abs=1e-6)


@pytest.mark.parametrize("ideal", ["positives", "retrieved"])
def test_users_without_positives_or_hits_have_zeros(ideal):
    ranked, labels = torch.tensor([[0, 1], [0, 1]]), torch.tensor([[0], [5]])
    values = user_metrics(ranked, labels, ["recall", "precision", "ndcg", "map", "mrr", "hit"], [1, 2], ideal)
    assert len(values) == 12
    assert all(value.tolist() == [0.0, 0.0] for value in values.values())


def test_an_empty_slot_is_never_a_hit():
    # Numbered through, the empty slot of the second user is the pair (first user, item 5), which is a positive.
    ranked, labels = torch.tensor([[1, 2], [3, -1]]), torch.tensor([[0, 1], [5, 3]])
    values = user_metrics(ranked, labels, ["recall", "precision", "ndcg", "map", "mrr", "hit"], [2])
    expected = {"recall@2": 1.0, "precision@2": 0.5, "ndcg@2": 1.0, "map@2": 1.0, "mrr@2": 1.0, "hit@2": 1.0}
    assert {name: float(value[0]) for name, value in values.items()} == dict.fromkeys(expected, 0.0)
    assert {name: float(value[1]) for name, value in values.items()} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("k", [1, 4, NUM_ITEMS])
def test_coverage_and_personalization_of_full_lists_equal_those_of_pyg(k):
    ranked, labels = arguments(*case())
    for users in (3, USERS):
        some = ranked[:users]
        for ours, metric in (
            (coverage(some, k, NUM_ITEMS), LinkPredCoverage(k, NUM_ITEMS)),
            (personalization(some, k), LinkPredPersonalization(k)),
        ):
            metric.update(some, labels)
            assert ours == pytest.approx(float(metric.compute()), abs=1e-5)


def test_empty_slots_recommend_nothing():
    ranked = torch.tensor([[0, 1, 2], [0, -1, -1], [3, 0, -1]])
    assert coverage(ranked, 3, 5) == pytest.approx(4 / 5)
    assert coverage(ranked, 1, 5) == pytest.approx(2 / 5)
    similar = [1 / (3 * 1) ** 0.5, 1 / (3 * 2) ** 0.5, 1 / (1 * 2) ** 0.5]
    assert personalization(ranked, 3) == pytest.approx(1 - sum(similar) / 3)
    assert personalization(ranked[1:2].repeat(4, 1), 3) == pytest.approx(0)


def test_personalization_needs_two_lists():
    assert np.isnan(personalization(torch.tensor([[0, 1]]), 2))
    assert np.isnan(personalization(torch.tensor([[0, 1], [-1, -1]]), 2))


@pytest.mark.parametrize(
    ("metrics", "k", "ideal", "message"),
    [
        (["recall"], [1], "bla", "unknown ideal 'bla': valid names are positives, retrieved"),
        (["recall"], [1], None, "unknown ideal 'None'"),
        (["recal"], [1], "positives", "unknown metric of single users 'recal': did you mean 'recall'"),
        (["coverage"], [1], "positives", "unknown metric of single users 'coverage'"),
        ([3], [1], "positives", "metrics: found 3, expected names only"),
        (["recall"], [5], "positives", "k: found 5, expected a number between 1 and 2"),
        (["recall"], [0], "positives", "k: found 0, expected a number between 1 and 2"),
    ],
)
def test_options_that_are_none_are_refused(metrics, k, ideal, message):
    ranked, labels = torch.tensor([[0, 1], [0, 1]]), torch.tensor([[0], [1]])
    with pytest.raises(InputError, match=f"^{message}"):
        user_metrics(ranked, labels, metrics, k, ideal)


def test_one_name_and_one_cutoff_are_lists_of_one():
    ranked, labels = torch.tensor([[0, 1]]), torch.tensor([[0], [1]])
    assert {name: float(value) for name, value in user_metrics(ranked, labels, "mrr", 2).items()} == {"mrr@2": 0.5}
