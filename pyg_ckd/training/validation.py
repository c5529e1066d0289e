"""Validation while a model trains: the monitored metric of the trained view and of every uni-modal one."""

from __future__ import annotations

import math
import time
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.balance.discovery import source_of
from pyg_ckd.data.inputs import held_out
from pyg_ckd.data.modules import checked_outputs, evaluating
from pyg_ckd.data.negatives import Positives, UniformNegatives
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation.custom import MOST_LEFT, check_monitor, hardly_differs
from pyg_ckd.evaluation.ranking import Evaluator
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.views import unimodal_views
from pyg_ckd.training.layouts.base import Layout
from pyg_ckd.training.run import Run


class HeldOutScore:
    """Measures tables on the validation part, see :class:`~pyg_ckd.balance.objective.Score`.

    Args:
        evaluator: Evaluates two tables.
        name: Name of the metric that counts.
        data: The graph.
        seed: Seed of the items without an interaction.
        layout: Puts tables together of which this process has a part.
    """

    def __init__(self, evaluator: Evaluator, name: str, data: HeteroData, seed: int, layout: Layout) -> None:
        self.evaluator, self.name, self.data, self.seed, self.layout = evaluator, name, data, seed, layout

    def __call__(self, embeddings: Embeddings) -> float:
        """Return the metric.

        Args:
            embeddings: The tables, of which this process may have a part.
        """
        return self.evaluator(self.layout.tables_of(embeddings, self.evaluator.users))[self.name]

    @cached_property
    def triples(self) -> tuple[Tensor, Tensor, Tensor]:
        """Every interaction of the validation part with an item of neither this nor the training part, ``[B]`` each.

        The items are drawn once. Users who interacted with every item have none and are left out.
        """
        held, num_items = held_out(self.data, "val"), self.data["item"].num_nodes
        edges = torch.cat([held_out(self.data, "train"), held], dim=1)
        positives = Positives(edges, self.data["user"].num_nodes, num_items)
        user, item = held[:, positives.degree[held[0]] < num_items]
        generator = torch.Generator(user.device).manual_seed(self.seed)
        return user, item, UniformNegatives(positives).draw(user, generator)


class Validation:
    """Evaluates a training on the validation part and tells the early stopping.

    Args:
        data: The graph.
        name: Name of the monitored metric in the record, such as ``recall@20``.
        metric: The metric, as :class:`~pyg_ckd.evaluation.Evaluator` takes it.
        cutoff: Its cut-off.
        track_views: Whether every uni-modal view is evaluated beside the trained one.
        eval_users: How many users are evaluated, see :class:`~pyg_ckd.evaluation.Evaluator`.
        seed: Seed of their draw.
        layout: What this process has of the training.

    Raises:
        InputError: If there are fewer items than the cut-off, or no user to evaluate.
    """

    def __init__(
        self,
        data: HeteroData,
        name: str,
        metric: Any,
        cutoff: int,
        track_views: bool,
        eval_users: int | float | None,
        seed: int,
        layout: Layout,
    ) -> None:
        check_monitor(name, metric, cutoff, data["item"].num_nodes)
        self.name, self.track_views, self._metric, self._cutoff = name, track_views, metric, cutoff
        self.evaluator = Evaluator(data, "val", [cutoff], [metric], eval_users=eval_users, seed=seed)
        self.score = HeldOutScore(self.evaluator, name, data, seed, layout)

    def doubt(self) -> str:
        """Return a warning of a metric in which rankings hardly differ on these data; nothing if they do differ."""
        if self.evaluator.num_items - self.evaluator.most_seen > MOST_LEFT * self._cutoff:
            return ""  # Nobody's interactions have to be counted without their repetitions.
        return hardly_differs(self.name, self._metric, self._cutoff, self.evaluator.left())

    @torch.no_grad()
    def begin(self, run: Run, features: dict[str, Tensor], graph: dict[Any, Any]) -> None:
        """Let the objective look at the validation part before its first epoch.

        Args:
            run: The training.
            features: From modality to feature matrix.
            graph: The prepared graphs.
        """
        with evaluating(run.objective):
            run.objective.before_training(features, graph, self.score)

    @torch.no_grad()
    def __call__(self, run: Run, row: dict[str, float], features: dict[str, Tensor], graph: dict[Any, Any]) -> None:
        """Evaluate, add what was found to the row of the epoch, and keep the weights if they are the best so far.

        Args:
            run: The training.
            row: The row of the epoch.
            features: From modality to feature matrix.
            graph: The prepared graphs.

        Raises:
            InputError: If the metric is not finite.
        """
        start, objective = time.perf_counter(), run.objective
        views = {"val": objective.view}
        if self.track_views and len(objective.view) > 1:
            views |= {f"val/{m}": view for m, view in unimodal_views(objective.modalities).items()}
        with evaluating(objective):
            objective.before_validation(features, graph, self.score)
            outputs = objective.forward_views(features, graph, list(views.values()))
        outputs = checked_outputs(type(source_of(objective, "forward_views")).__name__, outputs, len(views))
        for name, out in zip(views, outputs, strict=True):
            row[f"{name}/{self.name}"] = self.score(out)
        value = row[f"val/{self.name}"]
        if not math.isfinite(value):
            raise InputError(f"monitor: found {self.name} = {value} in epoch {row['epoch']}, expected a finite number")
        if run.stopper.update(run.taken, int(row["epoch"]), value):
            run.keep_best()
        run.history.validation_seconds.append(time.perf_counter() - start)
