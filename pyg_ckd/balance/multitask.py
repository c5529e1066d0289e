"""Multitask training: every modality alone learns from the interactions, beside the joint model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from pyg_ckd.balance.given import MaskedObjective
from pyg_ckd.balance.objective import check_not_negative
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.views import View, unimodal_views


class MultitaskObjective(MaskedObjective):
    r"""Trains the joint view and, with one weight, every uni-modal view on the same triples.

    The yardstick of all balancing strategies: supervision of every modality without teachers and without weights that
    adapt. With margins :math:`\delta(S)` of the student in view :math:`S` and :math:`\ell(x) = \ln(1 + e^{-x})`,

    .. math::
        \mathcal{L} = \underset{uij}{\textrm{mean}} \; \ell(\delta_{uij}(\textrm{full})) + \lambda \, \mathcal{L}_2
        + w \sum_m \underset{uij}{\textrm{mean}} \; \ell(\delta_{uij}(\{m\}))

    Uni-modal terms as in the multitask baseline of `"What Makes Training Multi-modal Classification Networks Hard?"
    <https://arxiv.org/abs/1905.12681>`_. Costs the uni-modal views. A triple with an item that lacks modality
    :math:`m` adds nothing to its term, whose mean is over all triples.

    Args:
        student: The backbone to train, with at least two modalities.
        weight: Weight :math:`w` of the uni-modal terms.
        l2: Weight :math:`\lambda` of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`.

    Raises:
        InputError: If there are fewer than two modalities, a weight is negative or a mask does not fit.
    """

    name = "multitask"
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (0.01, 1.0)}

    def __init__(
        self, student: Backbone, weight: float = 0.1, l2: float = 1e-2, has: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__(student, l2)
        check_not_negative("weight", weight)
        self.weight = weight
        self.store_masks(has)
        self._alone = unimodal_views(student.modalities)

    @property
    def views(self) -> Sequence[View]:
        """The full and the uni-modal views; the full view alone if the others weigh nothing."""
        return [self.view, *(self._alone.values() if self.weight > 0 else ())]

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return the BPR loss of every uni-modal view."""
        if self.weight == 0:
            return {}
        margins = {m: out[v].margin(batch.user, batch.positive, batch.negative) for m, v in self._alone.items()}
        losses = unimodal_losses(margins, self.available(batch.positive, batch.negative))
        return {f"alone/{m}": self.weight * loss for m, loss in losses.items()}


def unimodal_losses(margins: Mapping[str, Tensor], available: Tensor | None = None) -> dict[str, Tensor]:
    """Return the BPR loss of every uni-modal view, the mean over all triples, a scalar each.

    Args:
        margins: From modality, in order, to the margins of its view ``[B]``.
        available: Which modalities the items of each triple have, bool ``[B, M]``; where one is missing, a triple adds
            nothing to its loss. (default: :obj:`None`, all)
    """
    losses = {m: F.softplus(-margin) for m, margin in margins.items()}
    if available is None:
        return {m: loss.mean() for m, loss in losses.items()}
    return {m: (loss * known).mean() for (m, loss), known in zip(losses.items(), available.unbind(dim=-1), strict=True)}
