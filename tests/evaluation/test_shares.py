"""Several processes evaluate what one evaluates, to the bit, each a share of the users."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.metrics import LinkPredPersonalization, LinkPredRecall

from pyg_ckd.datasets import synthetic_multimodal
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import Evaluator, estimate_effects, evaluate, item_knn
from pyg_ckd.nn import VBPR
from pyg_ckd.processes import Processes, apart, present
from pyg_ckd.scoring.embeddings import Embeddings
from tests.training.several import in_processes

ALL = ("recall", "precision", "ndcg", "map", "mrr", "hit", "coverage", "personalization")


def longest(ranked: Tensor, labels: Tensor) -> int:
    return int((ranked >= 0).sum(dim=1).max())


def rank_of_first(ranked: Tensor, labels: Tensor) -> Tensor:
    return ranked[:, 0].double() / (1 + labels.size(1))


def tables(data: HeteroData, seed: int = 0) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    return Embeddings(*(torch.randn(data[kind].num_nodes, 8, generator=generator) for kind in ("user", "item")))


def graph() -> HeteroData:
    return synthetic_multimodal(num_users=400, num_items=60, num_interactions=5000, dim=6, seed=1)


class Noted:
    """A scorer that remembers which users it was asked for."""

    dtype = torch.float32

    def __init__(self, embeddings: Embeddings) -> None:
        self.embeddings, self.asked = embeddings, []

    def scores(self, users: Tensor) -> Tensor:
        self.asked.append(users.tolist())
        return self.embeddings.user[users] @ self.embeddings.item.t()


CASES: dict[str, dict[str, Any]] = {
    "all metrics": {"k": (5, 20), "metrics": ALL},
    "metrics of PyG and functions": {
        "metrics": (LinkPredRecall(7), LinkPredPersonalization(5), longest, rank_of_first)
    },
    "masked validation part": {"mask": ("train", "val"), "k": 30},
    "some users": {"eval_users": 90, "seed": 3},
    "fewer users than processes": {"eval_users": 1},
    "warm items": {"candidates": "warm"},
}


def results(data: HeteroData) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, options in CASES.items():
        evaluator = Evaluator(data, "test", **options)
        metrics = evaluator(tables(data), per_user=True, cold="candidates" not in options)
        found[name] = (evaluator.rank(tables(data)), dict(metrics), metrics.per_user)
    found["neighbours"] = dict(evaluate(item_knn(data), data, metrics=ALL, cold=True))
    torch.manual_seed(0)
    model = VBPR.from_data(data, embedding_dim=8)
    found["a view"] = dict(evaluate(model, data, view=["visual"]))
    found["effects"] = estimate_effects(model, data, num_bootstrap=5).table
    return found


def error_of(work: Any) -> tuple[str, bool]:
    try:
        work()
    except InputError as error:
        return str(error), error.everywhere
    return "", False


def fails_in_second(ranked: Tensor, labels: Tensor) -> int:
    if present().rank == 1:
        raise RuntimeError("no luck here")
    return 1


def broken(data: HeteroData, processes: Processes) -> dict[str, tuple[str, bool]]:
    """Return what a process raises where one of them has something that cannot be evaluated, or another thing."""
    second = processes.rank == 1
    evaluator, bad = Evaluator(data, "test"), tables(data)
    if second:
        bad.item[3, 2] = float("nan")
    scorer = Noted(Embeddings(bad.user, bad.item))
    return {
        "embeddings": error_of(lambda: evaluator(bad)),
        "scores": error_of(lambda: evaluator(scorer)),
        "metric": error_of(lambda: Evaluator(data, "test", metrics=(fails_in_second,))(tables(data))),
        "name": error_of(lambda: evaluate(tables(data), data, metrics="recal" if second else "recall")),
        "model": error_of(lambda: evaluator(tables(data, processes.rank))),
        "rounding": error_of(lambda: evaluator(Embeddings(*(x * (1 + 1e-5 * processes.rank) for x in tables(data))))),
        "users": error_of(lambda: Evaluator(data, "test", eval_users=50, seed=processes.rank)(tables(data))),
        "apart": error_of(lambda: _apart(evaluator, tables(data, processes.rank))),
    }


def _apart(evaluator: Evaluator, embeddings: Embeddings) -> None:
    with apart():
        evaluator(embeddings)


def both() -> dict[str, Any]:
    """Return what a process finds with the others and by itself."""
    data, processes = graph(), present()
    together, errors = results(data), broken(data, processes)
    with apart():
        alone = results(data)
    scorer = Noted(tables(data))
    evaluator = Evaluator(data, "test")
    evaluator.rank(scorer)
    return {
        "rank": processes.rank,
        "together": together,
        "alone": alone,
        "errors": errors,
        "asked": scorer.asked,
        "users": evaluator.users.tolist(),
    }


@pytest.fixture(scope="module")
def processes() -> list[dict[str, Any]]:
    return in_processes(both)


@pytest.mark.parametrize("name", [*CASES, "neighbours", "a view", "effects"])
def test_lists_and_metrics_are_those_of_one_process_in_every_process(processes, name: str) -> None:
    expected = processes[0]["alone"][name]
    for found in (process["together"][name] for process in processes):
        if not isinstance(expected, tuple):
            assert _same(found, expected)
            continue
        assert torch.equal(found[0], expected[0])
        assert _same(found[1], expected[1])
        assert found[2].equals(expected[2])


def _same(found: Any, expected: Any) -> bool:
    """Return whether two mappings or frames hold the same numbers, to the bit; NaN is NaN."""
    if not isinstance(expected, dict):
        return bool(found.equals(expected))
    return list(found) == list(expected) and all(repr(found[key]) == repr(expected[key]) for key in expected)


def test_every_user_is_ranked_in_one_process_in_blocks_of_one_process(processes) -> None:
    users = processes[0]["users"]
    blocks = [block for process in processes for block in process["asked"][:-1]]  # Without the user that is compared.
    assert [user for block in blocks for user in block] == users
    assert [len(process["asked"]) - 1 for process in processes] in ([3, 3], [3, 2], [4, 3])
    assert {len(block) for block in blocks[:-1]} == {64}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("embeddings", "item embeddings: found NaN or infinite values"),
        ("scores", "scores: found NaN or infinite values"),
        ("metric", r"metric fails_in_second: raised RuntimeError (no luck here)"),
        ("name", "unknown metric 'recal'"),
        ("model", "model: found another in process 2 than in process 1"),
        ("users", "evaluation: found several (process 1: 50 users from"),
    ],
)
def test_what_one_process_refuses_ends_all_with_the_same_line(processes, name: str, words: str) -> None:
    messages = [process["errors"][name] for process in processes]
    assert messages[0][0].startswith(words)
    assert messages[0] == messages[1] == (messages[0][0], True)


def test_rounding_of_the_same_model_and_processes_that_work_apart_are_not_refused(processes) -> None:
    for process in processes:
        assert process["errors"]["rounding"] == process["errors"]["apart"] == ("", False)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1000, 1025, 100_000])
@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_blocks_are_cut_alike_for_any_number_of_processes_and_shares_are_even(size: int, count: int) -> None:
    shares = [list(Processes(rank, count).blocks(size, 3000)) for rank in range(count)]
    joined = [block for share in shares for block in share]
    assert joined == list(Processes().blocks(size, 3000))
    assert [n for start, stop in joined for n in range(start, stop)] == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert all(stop - start <= 3000 for start, stop in joined)
    if size >= 1024:
        assert len(joined) >= 16
