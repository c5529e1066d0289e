"""Own objects that score: ranked if they return what they promise, else refused; and positives nothing can find."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from pyg_ckd.data import Embeddings, build_data
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import Evaluator, estimate_effects, evaluate, fit_baseline
from pyg_ckd.evaluation.ranking import without_repetitions
from tests.evaluation.test_effects import known_model, planted

USERS, ITEMS = 12, 9


class Scores:
    """A scorer of tables that changes what it returns."""

    def __init__(self, change=lambda x: x, dtype=torch.float32) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tables = Embeddings(*(torch.randn(n, 4, generator=generator) for n in (USERS, ITEMS)))
        self.change, self.dtype = change, dtype

    def scores(self, users):
        return self.change(self.tables.user[users] @ self.tables.item.t())


def test_an_object_that_scores_is_ranked_as_its_tables(make_data) -> None:
    data = make_data(USERS, ITEMS)
    assert evaluate(Scores(), data, k=3) == evaluate(Scores().tables, data, k=3)
    assert evaluate(Scores(lambda x: x.double()), data, k=3) == evaluate(Scores().tables, data, k=3)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda x: torch.cat([x, x], dim=1), r"torch.float32 of shape \[\d+, 18\]"),
        (lambda x: x[:, :5], r"torch.float32 of shape \[\d+, 5\]"),
        (lambda x: x[0], r"torch.float32 of shape \[9\]"),
        (lambda x: x[:1], r"torch.float32 of shape \[1, 9\]"),
        (lambda x: x.long(), r"torch.int64 of shape \[\d+, 9\]"),
        (lambda x: x.to_sparse(), r"sparse torch.float32 of shape \[\d+, 9\]"),
        (lambda x: x.numpy(), "ndarray"),
        (lambda x: None, "NoneType"),
        (lambda x: x * torch.nan, "NaN or infinite values"),
    ],
    ids=["wide", "narrow", "row", "one row", "integers", "sparse", "NumPy", "nothing", "NaN"],
)
def test_scores_of_another_kind_are_refused(change, found: str, make_data) -> None:
    with pytest.raises(InputError, match=f"^scores: found {found}, expected f") as caught:
        evaluate(Scores(change), make_data(USERS, ITEMS), k=3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float32, torch.int64, "float32", None], ids=str)
def test_a_type_that_is_none_of_pytorch_is_refused(dtype, make_data) -> None:
    with pytest.raises(InputError, match=r"^scores: found .* as dtype of Scores, expected .* torch\.float32"):
        evaluate(Scores(dtype=dtype), make_data(USERS, ITEMS), k=3)


@pytest.mark.parametrize(
    "given", [object(), None, torch.ones(3), (torch.ones(3, 1),)], ids=["object", "none", "vector", "one"]
)
def test_an_evaluator_refuses_what_neither_scores_nor_has_tables(given, make_data) -> None:
    with pytest.raises(InputError, match=r"^evaluation: found \w+, expected tables .* scores\(users\)"):
        Evaluator(make_data(USERS, ITEMS), "test", 3)(given)


def graph(train, test):
    features = {"visual": np.eye(6, 3, dtype=np.float32)}
    return build_data(train, features, test=test, num_users=3, num_items=6, strict=False)


def popular() -> Embeddings:
    return Embeddings(torch.ones(3, 1), torch.arange(6.0).view(6, 1))


def test_a_positive_that_is_there_twice_is_one() -> None:
    train = [[0, 1, 2], [0, 1, 2]]
    twice, once = graph(train, [[1, 0, 0, 1], [4, 5, 5, 4]]), graph(train, [[1, 0], [4, 5]])
    for options in ({"k": 1}, {"k": 2, "cold": True}):
        assert str(evaluate(popular(), twice, **options)) == str(evaluate(popular(), once, **options))
    assert Evaluator(twice, "test", 1).labels.tolist() == Evaluator(once, "test", 1).labels.tolist()


def test_effects_count_a_positive_that_is_there_twice_once() -> None:
    once, weights = planted({"a": (3.0, 0.0), "b": (2.0, 0.0)}, 4), torch.arange(8.0).view(4, 2) + 1
    twice = once.clone()
    edges = twice["user", "rates", "item"]
    edges.val_edge_index = torch.cat([edges.val_edge_index, edges.val_edge_index[:, :2]], dim=1)
    found = [estimate_effects(known_model(data, weights), data, k=1, num_bootstrap=9) for data in (once, twice)]
    assert found[0].table.equals(found[1].table)


def test_positives_that_are_masked_are_counted_in_a_warning() -> None:
    overlap = graph([[0, 1, 2], [5, 1, 2]], [[0, 1, 1], [5, 5, 1]])
    with pytest.warns(UserWarning, match=r"^split 'test': found 2 of 3 interactions also in train, which is masked"):
        evaluate(popular(), overlap, k=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(popular(), overlap, k=1, mask=())
        evaluate(popular(), graph([[0, 1], [5, 1]], [[1, 0], [5, 1]]), k=1)


@pytest.mark.parametrize("name", ["popularity", "item-knn", "ease"])
def test_a_monitored_cutoff_of_more_items_than_there_are_is_named(name: str, make_data) -> None:
    with pytest.raises(
        InputError, match=r"^monitor: found 'recall@20' with the cut-off 20 for 9 items, expected .* at most 9"
    ):
        fit_baseline(name, make_data(USERS, ITEMS))
    assert fit_baseline(name, make_data(USERS, ITEMS), "recall@9").value is not None


def test_interactions_of_32_bits_are_told_apart() -> None:
    edges = torch.tensor([[0, 65536, 1, 1], [0, 0, 65535, 65535]])
    kept = without_repetitions(edges.int())
    assert kept.tolist() == without_repetitions(edges).tolist() == edges[:, :3].tolist()


def test_a_scorer_keeps_its_own_memory_and_may_give_one_row_to_all_users() -> None:
    class Popular:
        dtype = torch.float32

        def __init__(self) -> None:
            self.row = torch.arange(6, 0, -1).float()

        def scores(self, users: torch.Tensor) -> torch.Tensor:
            return self.row.expand(len(users), -1)

    data = graph([[0, 1, 2], [0, 1, 2]], [[0, 1, 2], [1, 2, 0]])
    scorer = Popular()
    expected = evaluate((torch.ones(3, 1), scorer.row[:, None]), data, k=1)
    assert expected["recall@1"] == pytest.approx(2 / 3)
    assert evaluate(scorer, data, k=1) == expected
    assert torch.isfinite(scorer.row).all()


def test_small_scores_of_tables_in_half_precision_are_told_apart(make_data) -> None:
    data = make_data(USERS, ITEMS)
    user, item = torch.randn(USERS, 3) * 1e-4, torch.randn(ITEMS, 3) * 1e-4
    for dtype in (torch.float16, torch.bfloat16):
        half = user.to(dtype), item.to(dtype)
        assert evaluate(half, data, k=2) == evaluate((half[0].float(), half[1].float()), data, k=2)
