"""Evaluation and closed forms on the device, against the same on the CPU."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_ckd import estimate_effects, evaluate
from pyg_ckd.data.inputs import embed
from pyg_ckd.datasets import SyntheticMultimodal
from pyg_ckd.evaluation import Evaluator, ease, ease_content, item_knn, item_knn_content, popularity
from pyg_ckd.evaluation.baselines import BASELINES, fit_baseline
from pyg_ckd.evaluation.metrics import LIST_METRICS, USER_METRICS
from pyg_ckd.nn import VBPR
from pyg_ckd.scoring import Embeddings
from pyg_ckd.scoring.neighbourhood import Neighbourhood

METRICS = (*USER_METRICS, *LIST_METRICS)
CLOSED = {
    "ease": ease,
    "ease-content": ease_content,
    "item-knn": item_knn,
    "item-knn-content": item_knn_content,
    "popularity": popularity,
}


@pytest.fixture(scope="module")
def data() -> HeteroData:
    return SyntheticMultimodal(num_users=150, num_items=90, num_interactions=3000)[0]


def model_of(data: HeteroData) -> VBPR:
    torch.manual_seed(0)
    model = VBPR.from_data(data, embedding_dim=8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    return model


def assert_same(mine: Any, theirs: Any) -> None:
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        assert mine[name] == pytest.approx(value, abs=1e-6, nan_ok=True), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("candidates", ["all", "cold", "warm"])
def test_every_metric_is_that_of_the_cpu(candidates: str, dtype: torch.dtype, data: HeteroData, device: torch.device):
    shown = data.clone()
    edges = shown["user", "rates", "item"].edge_index
    shown["user", "rates", "item"].edge_index = edges[:, edges[1] >= 10]  # Ten items are cold.
    tables = Embeddings(*(table.to(dtype) for table in embed(model_of(shown), shown)[0]))
    evaluator = Evaluator(shown, "test", [1, 5], METRICS, candidates=candidates)
    moved = Embeddings(*(table.to(device) for table in tables))
    theirs = evaluator(tables, per_user=True, cold=candidates == "all")
    mine = evaluator(moved, per_user=True, cold=candidates == "all")
    assert len(theirs) >= 2 * len(METRICS)
    assert torch.equal(evaluator.rank(moved), evaluator.rank(tables))
    assert_same(mine, theirs)
    assert mine.per_user is not None
    assert mine.per_user.equals(theirs.per_user)


@pytest.mark.parametrize("place", ["model", "model and graph"])
def test_views_and_effects_are_those_of_the_cpu(place: str, data: HeteroData, device: torch.device):
    model = model_of(data)
    views = [None, [], *([m] for m in data.modalities)]
    theirs = [evaluate(model, data, metrics=METRICS, k=[5, 20], view=view, cold=True) for view in views]
    effects = estimate_effects(model, data, k=5, num_bootstrap=20).table
    model.to(device)
    moved = data.clone().to(device) if place == "model and graph" else data
    for view, expected in zip(views, theirs, strict=True):
        assert_same(evaluate(model, moved, metrics=METRICS, k=[5, 20], view=view, cold=True), expected)
    found = estimate_effects(model, moved, k=5, num_bootstrap=20).table
    if moved is not data:  # Its triples are drawn on the device: others than on the CPU.
        assert set(found.index) == set(effects.index)
        assert found.select_dtypes("number").notna().all().equals(effects.select_dtypes("number").notna().all())
        return
    assert list(found.index) == list(effects.index)
    for column in effects.columns:
        for mine, expected in zip(found[column], effects[column], strict=True):
            same = mine == pytest.approx(expected, abs=1e-4) if isinstance(expected, float) else mine == expected
            assert same or math.isnan(expected), column


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_of_a_graph_on_the_device_are_those_of_the_cpu(name: str, data: HeteroData, device: torch.device):
    theirs = evaluate(CLOSED[name](data), data, metrics=METRICS)
    moved = data.clone().to(device)
    assert_same(evaluate(CLOSED[name](moved), moved, metrics=METRICS), theirs)


@pytest.mark.parametrize("name", BASELINES)
def test_fitted_baselines_of_a_graph_on_the_device_are_those_of_the_cpu(
    name: str, data: HeteroData, device: torch.device
):
    theirs, mine = (fit_baseline(name, graph) for graph in (data, data.clone().to(device)))
    assert mine.settings == theirs.settings
    assert mine.value == pytest.approx(theirs.value, abs=1e-6)


def test_weights_between_items_rank_on_the_device_as_on_the_cpu(data: HeteroData, device: torch.device):
    model = ease(data)
    moved = Neighbourhood(model.history, model.weights.to(device))
    evaluator = Evaluator(data, "test", [5, 20], METRICS)
    assert_same(evaluator(moved), evaluator(model))
