"""Baselines by name, their knobs chosen on the validation part by climbing small fixed grids."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data.closed_form import FastItemWeights, check_catalogue
from pyg_ckd.data.inputs import check_graph, held_out
from pyg_ckd.data.prepared import digest_of
from pyg_ckd.data.solved import solved
from pyg_ckd.errors import unknown_name
from pyg_ckd.evaluation.baselines import linear, neighbours
from pyg_ckd.evaluation.baselines.content import content_rows
from pyg_ckd.evaluation.custom import check_monitor
from pyg_ckd.evaluation.metrics import parse_metric
from pyg_ckd.evaluation.ranking import Evaluator, popularity
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.neighbourhood import Neighbourhood

NEIGHBOURS = (20, 50, 100, 200, 1000)
SHRINKAGES = (0.0, 10.0, 30.0, 100.0, 1000.0)
CONTENT_WEIGHTS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
RIDGES = (5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)
COLLECTIVE_WEIGHTS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
ADDITIVE_WEIGHTS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
COLLECTIVE_START = 2.0
CONTENT_RIDGES = (0.1, 1.0, 10.0, 100.0)

INSTEAD = {"ease": "item-knn", "ease-content": "item-knn-content"}
"""From baselines that take so many items only to those that take any number."""

Value = Callable[[Embeddings | Neighbourhood], float]


@dataclass(frozen=True)
class _Validation:
    """The validation metric that knobs are chosen by.

    Attributes:
        evaluator: What ranks.
        monitor: The metric ``name@k``.
        key: What decides about its values beside the model: digests of interactions, and the metric.
    """

    evaluator: Evaluator
    monitor: str
    key: tuple[str, ...]

    def __call__(self, model: Embeddings | Neighbourhood) -> float:
        return self.evaluator(model)[self.monitor]


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline.

    Attributes:
        embeddings: The input of :class:`~pyg_ckd.evaluation.Evaluator` and :func:`~pyg_ckd.evaluate`; it is served by
            :class:`~pyg_ckd.serving.NeighbourhoodRecommender` (popularity, which is two tables, by
            :class:`~pyg_ckd.serving.Recommender`).
        settings: The chosen settings, arguments of the function that makes the baseline.
        seconds: Time for choosing settings and fitting.
        value: The monitored metric on the validation part; :obj:`None` without one.
    """

    embeddings: Embeddings | Neighbourhood
    settings: dict[str, Any]
    seconds: float
    value: float | None = None


Model = TypeVar("Model", Embeddings, Neighbourhood, covariant=True)


@dataclass(frozen=True)
class _Choice(Generic[Model]):
    model: Model
    settings: dict[str, Any]
    value: float | None = None


def fit_baseline(name: str, data: HeteroData, monitor: str = "recall@20") -> Baseline:
    """Fit a baseline to the training interactions, with the settings that are best on the validation part.

    ==================== ============================================ =================================================
    name                 made by                                      chosen
    ==================== ============================================ =================================================
    ``popularity``       :func:`~pyg_ckd.evaluation.popularity`       nothing
    ``item-knn``         :func:`~pyg_ckd.evaluation.item_knn`         neighbours and shrinkage
    ``item-knn-content`` :func:`~pyg_ckd.evaluation.item_knn_content` weight of content; all modalities or a single one
    ``ease``             :func:`~pyg_ckd.evaluation.ease`             ridge
    ``ease-content``     :func:`~pyg_ckd.evaluation.ease_content`     form; ridge and weight of the content
    ==================== ============================================ =================================================

    Neighbours and shrinkage are chosen by a full grid search. All other settings start from their defaults and move one
    step of a fixed grid at a time as long as the metric rises, so that a closed form is solved only a few times, in
    float32; the chosen one is solved again in float64. A baseline with content reuses the settings chosen for the one
    without content in the same process or study. Without a validation part, the defaults are used. Nothing is random.
    Users without training interactions are ranked by popularity, also where settings are chosen.

    Args:
        name: One of :data:`BASELINES`.
        data: The graph.
        monitor: The validation metric ``name@k`` to choose by.

    Raises:
        InputError: If the name or the metric is unknown, the cut-off is larger than the number of items, a closed form
            does not fit (more than 20,000 items), or, for a baseline with content, features are not finite or no
            modality has content.
    """
    if not isinstance(name, str) or name not in _FITS:
        raise unknown_name("baseline", name, BASELINES)
    check_graph(data)
    metric, cutoff = parse_metric(monitor)
    if name in INSTEAD:
        function = name.replace("-", "_")
        mend = f"use {INSTEAD[name]}, or call pyg_ckd.evaluation.{function} with a larger max_items"
        check_catalogue(name, data["item"].num_nodes, mend)
    start = time.perf_counter()
    value: _Validation | None = None
    if held_out(data, "val").size(1):
        check_monitor(monitor, metric, cutoff, data["item"].num_nodes)
        digests = [digest_of(held_out(data, split)) for split in ("train", "val")]
        sizes = f"{data['user'].num_nodes} x {data['item'].num_nodes}"
        value = _Validation(Evaluator(data, "val", k=[cutoff], metrics=[metric]), monitor, (sizes, *digests, monitor))
    choice = _FITS[name](data, value)
    return Baseline(choice.model, choice.settings, time.perf_counter() - start, choice.value)


def climb(
    grids: Mapping[str, Sequence[Any]],
    start: Mapping[str, Any],
    build: Callable[..., Neighbourhood],
    value: Value,
) -> _Choice[Neighbourhood]:
    """Return the point that no step along one knob improves, from a start, one knob after the other.

    Args:
        grids: From knob to its values in order.
        start: From knob to a value of its grid.
        build: Makes the model of a point, given as keywords.
        value: What is to be large.
    """
    seen: set[tuple[Any, ...]] = {tuple(start.values())}
    model = build(**start)
    best = _Choice(model, dict(start), value(model))
    while True:
        before = best
        for knob, grid in grids.items():
            for step in (1, -1):
                while 0 <= (place := grid.index(best.settings[knob]) + step) < len(grid):
                    settings = best.settings | {knob: grid[place]}
                    if tuple(settings.values()) in seen:
                        break
                    seen.add(tuple(settings.values()))
                    model = build(**settings)
                    reached = value(model)
                    if best.value is not None and reached <= best.value:
                        break
                    best = _Choice(model, settings, reached)
        if best is before:
            return best


def _popularity(data: HeteroData, value: _Validation | None) -> _Choice[Embeddings]:
    model = popularity(data)
    return _Choice(model, {}, None if value is None else value(model))


def _item_knn(data: HeteroData, value: _Validation | None) -> _Choice[Neighbourhood]:
    most = max(1, data["item"].num_nodes - 1)
    start = {"k": min(neighbours.K, most), "shrinkage": neighbours.SHRINKAGE}
    if value is None:
        return _Choice(neighbours.item_knn(data, **start), start)
    built: list[_Choice[Neighbourhood]] = []
    grid = (tuple(sorted({min(k, most) for k in NEIGHBOURS})), SHRINKAGES)
    k, shrinkage = solved((*value.key, grid), _best_of_grid, data, *grid, value, built)
    if built:
        return built[0]
    model = neighbours.item_knn(data, int(k), float(shrinkage))
    return _Choice(model, {"k": int(k), "shrinkage": float(shrinkage)}, value(model))


def _best_of_grid(
    data: HeteroData,
    ks: Sequence[int],
    shrinkages: Sequence[float],
    value: Value,
    built: list[_Choice[Neighbourhood]],
) -> tuple[Tensor, ...]:
    """Return the best number of neighbours and shrinkage, whose model is added to a list.

    Args:
        data: The graph.
        ks: Numbers of neighbours, in order.
        shrinkages: Shrinkages.
        value: What is to be large.
        built: The list.
    """
    history, counts = neighbours.history_of(data), neighbours.counts_of(data)
    best = cast(_Choice[Neighbourhood] | None, None)
    for shrinkage in shrinkages:
        nearest = neighbours.nearest(data, ks[-1], shrinkage)
        for k in ks:
            model = neighbours.neighbourhood(history, nearest.weights(k), counts)
            best = _better(best, _Choice(model, {"k": k, "shrinkage": shrinkage}, value(model)))
    assert best is not None
    built.append(best)
    return torch.tensor(best.settings["k"]), torch.tensor(best.settings["shrinkage"], dtype=torch.float64)


def _item_knn_content(data: HeteroData, value: _Validation | None) -> _Choice[Neighbourhood]:
    modalities = list(content_rows(data))
    start, history = {"weight": neighbours.CONTENT_WEIGHT}, neighbours.history_of(data)
    base = _item_knn(data, value)
    nearest = neighbours.nearest(data, **base.settings)
    alone = neighbours.normalised(history, nearest.weights(base.settings["k"]))
    best: _Choice[Neighbourhood] | None = None
    for chosen in [modalities, *([m] for m in modalities if len(modalities) > 1)]:
        content = neighbours.ContentScores(data, chosen)
        build = partial(neighbours.blend, history, alone, content, counts=neighbours.counts_of(data))
        settings = base.settings | {"modalities": chosen}
        if value is None:
            return _Choice(build(neighbours.CONTENT_WEIGHT), settings | start)
        found = climb({"weight": CONTENT_WEIGHTS}, start, build, value)
        best = _better(best, _Choice(found.model, settings | found.settings, found.value))
    assert best is not None
    return best


def _ease(data: HeteroData, value: _Validation | None) -> _Choice[Neighbourhood]:
    return _at(linear.ease, data, {"ridge": _choose_ridge(data, value)}, value)


def _ease_content(data: HeteroData, value: _Validation | None) -> _Choice[Neighbourhood]:
    rows = linear.stacked(content_rows(data))
    start = {"weight": linear.CONTENT_WEIGHT, "content_ridge": linear.CONTENT_RIDGE}
    settings = {"form": "additive", "ridge": _choose_ridge(data, value)} | start
    if value is not None:
        settings = _choose_content(data, rows, settings, value)
    return _at(linear.ease_content, data, settings, value)


def _at(
    make: Callable[..., Neighbourhood], data: HeteroData, settings: dict[str, Any], value: _Validation | None
) -> _Choice[Neighbourhood]:
    model = make(data, **settings)
    return _Choice(model, settings, None if value is None else value(model))


def _choose_ridge(data: HeteroData, value: _Validation | None) -> float:
    if value is None:
        return linear.RIDGE
    (ridge,) = solved((*value.key, RIDGES, linear.RIDGE), _best_ridge, data, value)
    return float(ridge)


def _best_ridge(data: HeteroData, value: Value) -> tuple[Tensor, ...]:
    """Return the ridge that is best.

    Args:
        data: The graph.
        value: What is to be large.
    """
    history, weights = neighbours.history_of(data), FastItemWeights(linear.gram_of(data))
    counts = neighbours.counts_of(data)

    def build(ridge: float) -> Neighbourhood:
        return Neighbourhood(history, weights(ridge), counts=counts)

    found = climb({"ridge": RIDGES}, {"ridge": linear.RIDGE}, build, value)
    return (torch.tensor(found.settings["ridge"], dtype=torch.float64),)


def _choose_content(data: HeteroData, rows: Tensor, start: dict[str, Any], value: Value) -> dict[str, Any]:
    """Return the settings of the better form of EASE with content.

    Args:
        data: The graph.
        rows: What the kernels are made of, float64 ``[num_items, d]``.
        start: Settings of the additive form to start from; their ridge is the best without content.
        value: What is to be large.
    """
    history, weights = neighbours.history_of(data), FastItemWeights(linear.gram_of(data))
    weights.keep(start["ridge"], rows.size(1))
    alone, counts = weights(start["ridge"]), neighbours.counts_of(data)

    @lru_cache(maxsize=2)
    def content(ridge: float) -> Tensor:
        return linear.content_weights(rows, ridge)

    def additive(content_ridge: float, weight: float) -> Neighbourhood:
        return Neighbourhood(history, torch.add(alone, content(content_ridge), alpha=weight), counts=counts)

    def collective(ridge: float, weight: float) -> Neighbourhood:
        return Neighbourhood(history, weights(ridge, rows, weight), counts=counts)

    grids: dict[str, Sequence[float]] = {"weight": ADDITIVE_WEIGHTS, "content_ridge": CONTENT_RIDGES}
    found = climb(grids, {knob: start[knob] for knob in grids}, additive, value)
    best = _Choice(found.model, start | found.settings, found.value)
    content.cache_clear()
    grids = {"weight": COLLECTIVE_WEIGHTS, "ridge": RIDGES}
    found = climb(grids, {"ridge": start["ridge"], "weight": COLLECTIVE_START}, collective, value)
    return _better(best, _Choice(found.model, {"form": "collective"} | found.settings, found.value)).settings


def _better(first: _Choice[Neighbourhood] | None, second: _Choice[Neighbourhood]) -> _Choice[Neighbourhood]:
    """Return the choice of the larger value, the first if they are equal."""
    return second if first is None or (second.value or 0.0) > (first.value or 0.0) else first


_FITS: dict[str, Callable[[HeteroData, _Validation | None], _Choice[Any]]] = {
    "popularity": _popularity,
    "item-knn": _item_knn,
    "item-knn-content": _item_knn_content,
    "ease": _ease,
    "ease-content": _ease_content,
}

BASELINES = tuple(_FITS)
"""Names of the baselines, each of which :func:`fit_baseline` fits."""
