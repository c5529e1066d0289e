"""An ensemble of uni-modal teachers: what a model without any joint training is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyg_ckd.balance.given import TaughtObjective
from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.nn.models.base import AnyView, Backbone, Graph
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.views import View, as_view

FACTORS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)


class UnimodalEnsemble(TaughtObjective):
    r"""Ranks with the sum of the teachers' scores, one weight per modality; nothing is trained.

    .. math::
        s_{ui} = \sum_m \frac{w_m}{\sigma_m} s^m_{ui}, \qquad
        \sigma_m^2 = \underset{u}{\textrm{mean}} \; \underset{i}{\textrm{var}} \; s^m_{ui}

    The tables of the teachers stand side by side, so that scores stay dot products. The weights are chosen on the
    validation part by coordinate ascent over multiples of their present value, from equal weights; without a
    validation part they stay equal. Teachers hold their users' and items' ids as well, so an ensemble also shows what
    several models are worth instead of one: a yardstick for strategies that are given teachers.

    A modality that a view intervenes on adds nothing there. A view whose modalities all weigh zero ranks with equal
    weights.

    Args:
        student: A backbone, for names and sizes only.
        teachers: From modality to the teacher's embeddings, see :func:`~pyg_ckd.train_teachers`.

    Raises:
        InputError: If there are fewer than two modalities, or a teacher is missing, unknown or has other sizes.
    """

    name = "ensemble"
    trains = False

    weights: Tensor
    spread: Tensor

    def __init__(self, student: Backbone, teachers: Mapping[str, Embeddings]) -> None:
        super().__init__(student, l2=0.0)
        self.store_masks(None)
        self.store_teachers(teachers)
        self.register_buffer("weights", torch.ones(len(self.modalities), dtype=torch.float64))
        spread = [score_spread(self.teacher(m)) for m in self.modalities]
        self.register_buffer("spread", torch.stack(spread).to(torch.float64))

    def forward(
        self, features: Mapping[str, Tensor], edge_index_dict: Mapping[EdgeType, Graph], view: AnyView = None, **kw: Any
    ) -> Embeddings:
        """Return the ensemble's tables for a view."""
        return self._fused(as_view(view, self.modalities), self.weights)

    def forward_views(
        self,
        features: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Graph],
        views: Sequence[AnyView],
        **kw: Any,
    ) -> list[Embeddings]:
        """Return the ensemble's tables for several views."""
        return [self._fused(as_view(view, self.modalities), self.weights) for view in views]

    def before_validation(
        self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any], score: Callable[[Embeddings], float]
    ) -> None:
        """Choose the weights: each modality's in turn, until none of them helps."""
        full = as_view(None, self.modalities)
        weights, improved = torch.ones_like(self.weights), True
        best = score(self._fused(full, weights))
        while improved:
            improved = False
            for column in range(len(self.modalities)):
                start = weights[column].item() or 1.0
                for factor in FACTORS:
                    trial = weights.clone()
                    trial[column] = factor * start
                    value = score(self._fused(full, trial)) if trial.any() else best
                    if value > best:
                        best, weights, improved = value, trial, True
        self.weights.copy_(weights / weights.sum() * len(self.modalities))

    def epoch_statistics(self) -> dict[str, float]:
        """Return the weight of every modality."""
        return {f"weight/{m}": w for m, w in zip(self.modalities, self.weights.tolist(), strict=True)}

    def _fused(self, view: View, weights: Tensor) -> Embeddings:
        scale = weights / self.spread
        chosen = [(column, m) for column, m in enumerate(self.modalities) if m in view]
        if not any(bool(weights[column] > 0) for column, _ in chosen):
            scale = 1 / self.spread
        users, items = [], []
        for column, m in chosen:
            user, item = self.teacher(m)
            users.append(user * scale[column].to(user.dtype))
            items.append(item)
        if not users:  # The empty view: all items alike.
            user, item = self.teacher(self.modalities[0])
            return Embeddings(user.new_zeros(user.size(0), 1), item.new_zeros(item.size(0), 1))
        return Embeddings(torch.cat(users, dim=1), torch.cat(items, dim=1))


def score_spread(tables: Embeddings) -> Tensor:
    r"""Return :math:`\sqrt{\textrm{mean}_u \, \textrm{var}_i \, s_{ui}}`, the spread of scores within a user, a scalar.

    A recommender that likes all items alike has a spread of one, so that nothing divides by zero.

    Args:
        tables: The two tables; the variance over items is that of the population.
    """
    user, item = tables.user.double(), tables.item.double()
    centred = item - item.mean(dim=0)
    covariance = centred.t() @ centred / item.size(0)
    variance = ((user @ covariance) * user).sum(dim=1).mean().clamp(min=0)
    return torch.where(variance > 0, variance.sqrt(), 1.0)
