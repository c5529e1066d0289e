"""Metric objects of PyG and functions in the place of names."""

from __future__ import annotations

import functools

import pytest
import torch
from torch_geometric import metrics as pyg

from pyg_ckd.data import Embeddings
from pyg_ckd.data.inputs import RATES
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import CustomMetric, Evaluator, evaluate
from pyg_ckd.evaluation.custom import as_monitor

NAMES = {
    "recall": pyg.LinkPredRecall,
    "precision": pyg.LinkPredPrecision,
    "ndcg": pyg.LinkPredNDCG,
    "map": pyg.LinkPredMAP,
    "mrr": pyg.LinkPredMRR,
    "hit": pyg.LinkPredHitRatio,
}


@pytest.fixture(name="problem")
def _problem(make_data):
    data = make_data(num_users=60, num_items=40, seed=3)
    generator = torch.Generator().manual_seed(0)
    return data, Embeddings(torch.randn(60, 5, generator=generator), torch.randn(40, 5, generator=generator))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("k", [1, 5, 40])
def test_named_metrics_agree_with_the_objects_of_pyg(name, k, problem):
    data, tables = problem
    metric = NAMES[name](k=k)
    shown = f"{NAMES[name].__name__}@{k}"
    found = evaluate(tables, data, "test", k=k, metrics=[name, metric], per_user=True, cold=True)
    assert found[shown] == pytest.approx(found[f"{name}@{k}"], abs=1e-6)
    assert found[f"warm/{shown}"] == pytest.approx(found[f"warm/{name}@{k}"], abs=1e-6)
    assert found.per_user[shown].tolist() == pytest.approx(found.per_user[f"{name}@{k}"].tolist(), abs=1e-6)

    scores = tables.user @ tables.item.t()  # And with PyG's own way of using them.
    scores[tuple(data[RATES].edge_index)] = -torch.inf
    other = NAMES[name](k=k)
    other.update(scores.topk(min(k, 40)).indices, data[RATES].test_edge_index)
    if k < 40:  # Where some lists end before k, PyG has no empty slots.
        assert found[shown] == pytest.approx(float(other.compute()), abs=1e-6)


def test_metrics_of_whole_lists_are_those_of_pyg(problem):
    data, tables = problem
    category, popularity = torch.arange(40) % 4, torch.arange(40)
    objects = [
        pyg.LinkPredCoverage(k=5, num_dst_nodes=40),
        pyg.LinkPredDiversity(k=5, category=category),
        pyg.LinkPredPersonalization(k=5),
        pyg.LinkPredAveragePopularity(k=4, popularity=popularity),
    ]
    found = evaluate(tables, data, "test", k=2, metrics=["coverage", *objects], mask=[])  # So that all lists are full.
    named = evaluate(tables, data, "test", k=5, metrics=["coverage", "personalization"], mask=[])
    assert found["LinkPredCoverage@5"] == pytest.approx(named["coverage@5"], abs=1e-6)
    assert found["LinkPredPersonalization@5"] == pytest.approx(named["personalization@5"], abs=1e-6)
    ranked = Evaluator(data, "test", [5], mask=[]).rank(tables).tolist()
    pairs = [(a, b) for a in range(5) for b in range(5) if a != b]
    same = [sum(items[a] % 4 == items[b] % 4 for a, b in pairs) / 20 for items in ranked]
    assert found["LinkPredDiversity@5"] == pytest.approx(1 - sum(same) / len(same), abs=1e-6)
    mean = sum(sum(items[:4]) / 4 for items in ranked) / len(ranked)
    assert found["LinkPredAveragePopularity@4"] == pytest.approx(mean, rel=1e-6)
    assert "coverage@2" in found
    assert "coverage@5" not in found


def test_lists_with_empty_slots_do_not_enter_metrics_of_whole_lists(make_data):
    data = make_data(num_users=12, num_items=9)
    tables = Embeddings(torch.randn(12, 3), torch.randn(9, 3))
    ranked = Evaluator(data, "test", [6]).rank(tables)
    full = [items for items in ranked.tolist() if -1 not in items]
    assert 0 < len(full) < len(ranked)
    found = evaluate(tables, data, "test", k=6, metrics=[pyg.LinkPredAveragePopularity(6, torch.arange(9))])
    assert found["LinkPredAveragePopularity@6"] == pytest.approx(sum(map(sum, full)) / 6 / len(full), rel=1e-6)


def first_hit(ranked, labels):
    """One where the best item is to be found."""
    wanted = set(map(tuple, labels.t().tolist()))
    return torch.tensor([float((row, int(items[0])) in wanted) for row, items in enumerate(ranked)])


def with_cutoff(k):
    @functools.wraps(first_hit)
    def metric(ranked, labels):
        return first_hit(ranked, labels)

    metric.k = k
    return metric


def share_of_first_item(ranked, labels):
    return (ranked[:, 0] == ranked[0, 0]).double().mean()


def test_a_function_gives_one_value_for_every_user_or_one_for_all(problem):
    data, tables = problem
    found = evaluate(tables, data, "test", k=3, metrics=["hit", first_hit, share_of_first_item], per_user=True)
    assert found["first_hit"] == pytest.approx(evaluate(tables, data, "test", k=1, metrics=["hit"])["hit@1"])
    assert "first_hit" in found.per_user
    assert "share_of_first_item" in found
    assert "share_of_first_item" not in found.per_user


def test_a_function_gets_lists_as_long_as_the_largest_cutoff_or_as_its_own(problem):
    data, tables = problem
    seen = []

    def looks(ranked, labels):
        seen.append((ranked.shape[1], labels.shape))
        return 0.0

    evaluate(tables, data, "test", k=[2, 7], metrics=["recall", looks, pyg.LinkPredRecall(11)])
    own = functools.partial(looks)
    own.k = 9
    evaluate(tables, data, "test", k=2, metrics=[own])
    assert seen == [(7, torch.Size([2, 60])), (9, torch.Size([2, 60]))]


def test_own_cutoffs_do_not_change_named_metrics(problem):
    data, tables = problem
    names = ["recall", "ndcg", "map", "mrr", "coverage", "personalization"]
    alone = evaluate(tables, data, "test", k=[3, 5], metrics=names)
    beside = evaluate(tables, data, "test", k=[3, 5], metrics=[*names, pyg.LinkPredRecall(20)])
    assert {name: beside[name] for name in alone} == alone


def test_an_object_is_left_as_it_was(problem):
    data, tables = problem
    metric = pyg.LinkPredRecall(5)
    metric.update(torch.tensor([[0, 1, 2, 3, 4]]), torch.tensor([[0], [3]]))
    first = evaluate(tables, data, "test", k=5, metrics=[metric])
    assert evaluate(tables, data, "test", k=5, metrics=[metric]) == first
    assert float(metric.compute()) == 1.0


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([pyg.LinkPredRecall], "metric: found the class LinkPredRecall, expected a name such as 'recall'"),
        ([3], "metric: found int, expected a name"),
        ([pyg.LinkPredRecall(5, weighted=True)], "which needs weights of interactions"),
        ([pyg.LinkPredRecall(41)], "k: found 41, expected a number between 1 and 40"),
        ([first_hit, functools.partial(first_hit)], "metrics: found two of one name among first_hit, first_hit"),
        (["recal"], "unknown metric 'recal': did you mean 'recall'"),
        ([with_cutoff("5")], "metric first_hit: k: found '5', expected an integer"),
        ([with_cutoff(2.0)], "metric first_hit: k: found 2.0, expected an integer such as 2"),
        ([with_cutoff(0)], "metric first_hit: k: found 0, expected at least 1"),
        ([lambda ranked, labels: 1 / 0], r"metric <lambda>: raised ZeroDivisionError \(division by zero\)"),
        ([lambda ranked, labels: ranked], r"metric <lambda>: found shape \[60, 5\], expected a number or \[60\]"),
        ([lambda ranked, labels: None], "metric <lambda>: raised"),
    ],
    ids=range(12),
)
def test_what_is_no_metric_is_refused(metrics, message, problem):
    data, tables = problem
    with pytest.raises(InputError, match=message) as caught:
        evaluate(tables, data, "test", k=5, metrics=metrics)
    assert "\n" not in str(caught.value)


def test_what_is_monitored_has_a_name_and_a_cutoff():
    metric = pyg.LinkPredNDCG(7)
    assert as_monitor("ndcg@10") == ("ndcg@10", "ndcg", 10)
    assert as_monitor(metric) == ("LinkPredNDCG@7", metric, 7)
    assert as_monitor(first_hit) == ("first_hit", first_hit, 20)
    with pytest.raises(
        InputError, match="found LinkPredAveragePopularity@5, expected a metric that is better the larger"
    ):
        as_monitor(pyg.LinkPredAveragePopularity(5, torch.arange(3)))
    assert CustomMetric(metric).settings() == "LinkPredNDCG(k=7)"
    assert CustomMetric(first_hit).settings() == f"{__name__}.first_hit"


@pytest.mark.parametrize("share", [0.25, 15])
def test_some_users_are_drawn_and_their_metrics_are_those_among_all(share, problem):
    data, tables = problem
    whole = evaluate(tables, data, "test", k=5, metrics=["recall"], per_user=True).per_user["recall@5"]
    evaluator = Evaluator(data, "test", [5], ["recall"], eval_users=share, seed=4)
    users = evaluator.users.tolist()
    assert len(users) == 15
    assert users == sorted(set(users))
    assert evaluator(tables)["recall@5"] == pytest.approx(whole.loc[users].mean())
    assert Evaluator(data, "test", [5], eval_users=share, seed=4).users.tolist() == users
    assert Evaluator(data, "test", [5], eval_users=share, seed=5).users.tolist() != users
    everybody = Evaluator(data, "test", [5], ["recall"], eval_users=1.0)(tables)
    assert everybody == evaluate(tables, data, "test", k=5, metrics=["recall"])


@pytest.mark.parametrize("wrong", [0, -3, 61, 0.0, 1.5, float("nan"), True])
def test_a_number_of_users_that_there_are_not_is_refused(wrong, problem):
    with pytest.raises(InputError, match=f"eval_users: found {wrong}, expected"):
        Evaluator(problem[0], "test", [5], eval_users=wrong)


def test_a_metric_that_writes_into_what_it_is_given_changes_no_other_metric(problem):
    data, tables = problem

    def writes(ranked, labels):
        ranked.fill_(0)
        labels.zero_()
        return 0.0

    names = ["recall", "coverage", first_hit, "personalization"]
    expected = evaluate(tables, data, "test", k=[3, 5], metrics=names)
    own = functools.partial(writes)
    own.k = 5
    for writer in (writes, own):
        evaluator = Evaluator(data, "test", k=[3, 5], metrics=[writer, *names])
        for _ in range(2):
            assert dict(evaluator(tables)) == {**expected, "writes": 0.0}
