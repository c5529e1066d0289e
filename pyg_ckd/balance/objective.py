"""The seam for balancing strategies: a student and a batch of triples become named loss terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.nn.models.adapter import as_backbone
from pyg_ckd.nn.models.base import AnyView, Backbone, Graph
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.triples import shared_triples
from pyg_ckd.scoring.views import View, as_view


class Objective(nn.Module):
    """Plain joint training: BPR on one view of the student plus an L2 penalty, and the base of every strategy.

    A balancing strategy asks for further views in :attr:`views` and overrides :meth:`balance`, which turns the views'
    embeddings into further loss terms. An objective is called like the backbone it holds and gives the same embeddings.

    Args:
        student: The backbone to train.
        l2: Weight of the backbone's penalty, see :meth:`~pyg_ckd.nn.Backbone.penalty`.
        view: The view that is trained; :obj:`None` is joint training, one modality trains a teacher.
        bpr_eps: See :func:`~pyg_ckd.nn.bpr_loss`.

    Raises:
        InputError: If ``student`` is no backbone, ``l2`` is negative or ``view`` names an unknown modality.
    """

    def __init__(self, student: Backbone, l2: float = 1e-2, view: AnyView = None, bpr_eps: float = 0.0) -> None:
        super().__init__()
        if not isinstance(student, Backbone):
            raise InputError(
                f"student: found {type(student).__name__}, expected a backbone; "
                "adapt any other module with as_backbone(module, data)"
            )
        check_not_negative("l2", l2)
        self.student, self.l2, self.bpr_eps = student, l2, bpr_eps
        self.view = as_view(view, student.modalities)

    num_random_triples = 0
    """Random triples that the objective wants beside every batch."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the student's modalities, in order."""
        return self.student.modalities

    @property
    def views(self) -> Sequence[View]:
        """The views that a step needs, the trained one first."""
        return [self.view]

    def prepare(self, features: Mapping[str, Tensor], edge_index_dict: Mapping[EdgeType, Graph]) -> dict[EdgeType, Any]:
        """Prepare the graphs once, as the student wants them."""
        return self.student.prepare(features, edge_index_dict)

    def begin_epoch(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> dict[EdgeType, Any]:
        """Return the graphs that the steps of the next epoch train on, as the student wants them."""
        return self.student.begin_epoch(features, graphs)

    def forward(
        self, features: Mapping[str, Tensor], edge_index_dict: Mapping[EdgeType, Graph], view: AnyView = None, **kw: Any
    ) -> Embeddings:
        """Return the student's embeddings of a view."""
        return self.student(features, edge_index_dict, view, **kw)

    def forward_views(
        self,
        features: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Graph],
        views: Sequence[AnyView],
        **kw: Any,
    ) -> list[Embeddings]:
        """Return the student's embeddings of several views."""
        return self.student.forward_views(features, edge_index_dict, views, **kw)

    def loss(
        self, features: Mapping[str, Tensor], edge_index_dict: Mapping[EdgeType, Graph], batch: TripletBatch
    ) -> dict[str, Tensor]:
        """Return the loss terms of a batch; the loss is their sum.

        Args:
            features: From modality to feature matrix ``[I, d_m]``.
            edge_index_dict: The graph, best prepared.
            batch: The triples.
        """
        views = self.views
        out = dict(zip(views, self.student.outputs(features, edge_index_dict, views), strict=True))
        joint = out[views[0]]
        with shared_triples():
            balance = self.balance(out, batch)  # First, for it reads most: what follows finds its rows already read.
            terms = self.student.losses(joint, batch, features, views[0], self.bpr_eps)
            if self.l2 > 0:
                terms["l2"] = self.l2 * self.student.penalty(joint, batch)
        return terms | balance

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return the loss terms of the strategy; plain training has none.

        Args:
            out: The output of every view in :attr:`views`.
            batch: The triples.
        """
        return {}

    def settings(self) -> dict[str, Any]:
        """Return what defines the objective beside its parameters, as plain values that can be compared and stored."""
        return {
            "objective": type(self).__name__,
            "backbone": type(self.student).__name__,
            "options": dict(self.student.options),
            "modalities": list(self.modalities),
            "view": sorted(self.view),
            "l2": self.l2,
            "bpr_eps": self.bpr_eps,
        }

    def epoch_statistics(self) -> dict[str, float]:
        """Return what the strategy wants in the history of the finished epoch, and start the next one."""
        return {}


def as_objective(model: nn.Module, data: HeteroData) -> Objective:
    """Return ``model`` itself if it is an objective, else plain joint training of it.

    Args:
        model: An objective, a backbone, or a module with ``forward(x_dict, edge_index) -> (user, item)``.
        data: The graph, read for its sizes.
    """
    return model if isinstance(model, Objective) else Objective(as_backbone(model, data))


def check_not_negative(name: str, value: float) -> None:
    """Raise an InputError unless ``value`` is a finite number of zero or more."""
    if not (torch.isfinite(torch.tensor(float(value))) and value >= 0):
        raise InputError(f"{name}: found {value}, expected a number of zero or more")
