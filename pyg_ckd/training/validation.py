"""Validation while a model trains: the monitored metric of the trained view and of every uni-modal one."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.errors import InputError
from pyg_ckd.evaluation.ranking import Evaluator
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.views import unimodal_views
from pyg_ckd.training.run import Run


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
    """

    def __init__(
        self,
        data: HeteroData,
        name: str,
        metric: Any,
        cutoff: int,
        track_views: bool,
        eval_users: int | float | None = None,
        seed: int = 0,
    ) -> None:
        self.name, self.track_views = name, track_views
        self.evaluator = Evaluator(data, "val", [cutoff], [metric], eval_users=eval_users, seed=seed)

    def score(self, embeddings: Embeddings) -> float:
        """Return the monitored metric of two tables.

        Args:
            embeddings: The tables.
        """
        return self.evaluator(embeddings)[self.name]

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
        objective.eval()
        objective.before_validation(features, graph, self.score)
        outputs = objective.forward_views(features, graph, list(views.values()))
        objective.train()
        for name, out in zip(views, outputs, strict=True):
            row[f"{name}/{self.name}"] = self.score(out)
        value = row[f"val/{self.name}"]
        if not math.isfinite(value):
            raise InputError(f"monitor: found {self.name} = {value} in epoch {row['epoch']}, expected a finite number")
        if run.stopper.update(run.taken, int(row["epoch"]), value):
            run.keep_best()
        run.history.validation_seconds.append(time.perf_counter() - start)
