"""An ensemble of uni-modal teachers: what a model without any joint training is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyg_ckd.balance.fusion import choose_weights, fused, score_spread
from pyg_ckd.balance.given import TaughtObjective
from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.nn.models.base import AnyView, Backbone, Graph
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.views import View, as_view


class UnimodalEnsemble(TaughtObjective):
    r"""Ranks with the sum of the teachers' scores, one weight per modality; nothing is trained.

    .. math::
        s_{ui} = \sum_m \frac{w_m}{\sigma_m} s^m_{ui}, \qquad
        \sigma_m^2 = \underset{u}{\textrm{mean}} \; \underset{i}{\textrm{var}} \; s^m_{ui}

    The tables of the teachers stand side by side, so that scores stay dot products. The weights are chosen on the
    validation part by coordinate ascent over multiples of their present value, from equal weights; without a validation
    part they stay equal. Teachers have id embeddings too, so the ensemble also shows the gain of several models over
    one. This makes it a yardstick for strategies with teachers. Overrides ``before_validation`` and ``forward_views``.
    Costs the teachers.

    A modality that a view intervenes on adds nothing there. A view whose modalities all weigh zero ranks with equal
    weights.

    Args:
        student: A backbone, for names and sizes only.
        teachers: From modality to the teacher's embeddings, see :func:`~pyg_ckd.train_teachers`.

    Raises:
        InputError: If there are fewer than two modalities, or a teacher is missing, unknown or has other sizes.
    """

    name = "ensemble"
    needs_whole = ""
    batch_items = 0
    sampled = True
    reports: ClassVar[Mapping[str, str]] = {"weight": "weight of the teacher's scores"}
    trains = False

    weights: Tensor
    spread: Tensor

    def __init__(self, student: Backbone, teachers: Mapping[str, Embeddings]) -> None:
        super().__init__(student, l2=0.0)
        self.store_masks(None)
        self.store_teachers(teachers)
        self.register_state("weights", torch.ones(len(self.modalities), dtype=torch.float64))
        spread = [score_spread(self.teacher(m)) for m in self.modalities]
        self.register_buffer("spread", torch.stack(spread).to(torch.float64))

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
        self.weights.copy_(choose_weights(lambda weights: score(self._fused(full, weights)), self.weights))

    def epoch_statistics(self) -> dict[str, float]:
        """Return the weight of every modality."""
        return {f"weight/{m}": w for m, w in zip(self.modalities, self.weights.tolist(), strict=True)}

    def _fused(self, view: View, weights: Tensor) -> Embeddings:
        return fused({m: self.teacher(m) for m in self.modalities}, weights, self.spread, view)
