"""ReconBoost: modalities learn in turns, each what the others still get wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyg_ckd.arguments import as_integer
from pyg_ckd.balance.given import MaskedObjective
from pyg_ckd.balance.gradients import check_steerable, only
from pyg_ckd.balance.numbers import check_share
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.views import View, leave_one_out_views, unimodal_views


class ReconBoost(MaskedObjective):
    r"""Trains one modality at a time on the triples that the others rank wrongly, and all together in between.

    From `"ReconBoost: Boosting Can Achieve Modality Reconcilement" <https://arxiv.org/abs/2405.09321>`_. Epochs come in
    rounds. In the first ``epochs_joint`` epochs of a round, training is plain. Then every modality :math:`m` has a turn
    of ``epochs_alone`` epochs, in which only the parameters that belong to it alone are trained, by

    .. math::
        \mathcal{L}_m = \frac{\sum_{uij} w_{uij} \, \ell(\delta_{uij}(\{m\}))}{\sum_{uij} w_{uij}} + \lambda \,
        \mathcal{L}_2, \qquad w_{uij} = 1 - r \, \sigma ( \delta_{uij}(\textrm{full} \setminus m) )

    With :math:`r = 1` the weight is the residual that gradient boosting of the logistic loss leaves to the next
    learner: triples that the others rank well hardly count. Weights have no gradient. In a turn, other parameters have
    no gradient, instead of zero, so that Adam leaves them and their moments unchanged: no modality unlearns while it
    waits.

    Overrides ``views``, ``triple_weights`` and ``backward``. A step of a turn costs two views, the uni-modal and the
    leave-one-out one; a joint step costs one. Triples with an item that lacks :math:`m` weigh 0 in its turn; where one
    of the others is missing, these count as undecided, :math:`\sigma = 1/2`.

    The published weights are :math:`w_1 - w_2 \sigma` with :math:`w_1 = 5` and :math:`w_2 = 1`, hence the default
    :math:`r = 0.2`; their sum is not divided out. Turns and the joint "rectification" take four epochs each there,
    the latter at the end of a round. A third, agreement loss is left out: in the published code its gradient reaches
    only a model that is not being trained. What all modalities share, such as ids, has no place in the paper; it is
    trained in joint epochs.

    Args:
        student: The backbone to train, with at least two modalities and parameters that belong to each alone.
        residual: How much the weight of a triple falls if the others rank it well, :math:`r`, from 0 to 1.
        epochs_alone: Epochs of a turn; 0 is plain training.
        epochs_joint: Joint epochs at the beginning of every round, at least 1.
        l2: Weight :math:`\lambda` of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`.

    Raises:
        InputError: If there are fewer than two modalities, a number is out of its range or a mask does not fit; at the
            first step, if margins depend on no parameter that belongs to a modality alone, or in its turn, if none of
            its own parameters has a gradient.
    """

    name = "reconboost"
    capturable = True
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"residual": (0.0, 1.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"epochs_alone": 0}
    needs_whole = ""
    batch_items = 0

    def __init__(
        self,
        student: Backbone,
        residual: float = 0.2,
        epochs_alone: int = 1,
        epochs_joint: int = 1,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, l2)
        check_share("residual", residual)
        self.residual = residual
        self.epochs_alone = as_integer(epochs_alone, "epochs_alone", 0)
        self.epochs_joint = as_integer(epochs_joint, "epochs_joint", 1)
        self.store_masks(has)
        check_steerable(student, self.name, scores="steps" if self.epochs_alone else "")
        self._alone = unimodal_views(student.modalities)
        self._without = leave_one_out_views(student.modalities)

    @property
    def turn(self) -> str | None:
        """The modality whose turn the present epoch is; none in a joint epoch."""
        position = (self.progress.epoch - 1) % (self.epochs_joint + self.epochs_alone * len(self.modalities))
        if position < self.epochs_joint:
            return None
        return self.modalities[(position - self.epochs_joint) // self.epochs_alone]

    @property
    def views(self) -> Sequence[View]:
        """The full view, or in a modality's turn its uni-modal and its leave-one-out view."""
        m = self.turn
        return [self.view] if m is None else [self._alone[m], self._without[m]]

    def triple_weights(self, out: Mapping[View, Output], batch: TripletBatch) -> Tensor | None:
        """Return what the other modalities leave to the one whose turn it is; all weigh 1 in a joint epoch."""
        m = self.turn
        if self.epochs_alone > 0:
            self.check_reached(out, batch)
        if m is None:
            return None
        known = self.available(batch.positive, batch.negative)
        with torch.no_grad():
            others = out[self._without[m]].margin(*batch[:3])
            others = torch.sigmoid(others.to(torch.promote_types(others.dtype, torch.float32)))
            there = self.whole(known, self._without[m])
            weights = residual_weights(others if there is None else torch.where(there, others, 0.5), self.residual)
            own = self.whole(known, self._alone[m])
            weights = weights if own is None else weights * own
            return weights / batch.gathered(weights).mean().clamp(min=torch.finfo(weights.dtype).tiny)

    def backward(self, terms: Mapping[str, Tensor], run: Callable[..., None]) -> None:
        """Compute the gradients, and in a modality's turn keep those of its own parameters."""
        super().backward(terms, run)
        m = self.turn
        if m is None:
            return
        only(self.student, m, shared=False)
        if all(p.grad is None for p in self.student.modality_parameters[m]):
            raise InputError(
                f"{self.name}: found no trained parameter of {type(self.student).__name__} that belongs to {m!r} "
                "alone, expected some to train in its turn; choose a strategy that adds losses on views, such as "
                "multitask"
            )


def residual_weights(others: Tensor, residual: float) -> Tensor:
    r"""Return the weight that a triple has for the next learner, :math:`1 - r p`, ``[B]``.

    Args:
        others: Probability :math:`p` that the other learners give to what is true, ``[B]``.
        residual: :math:`r`, from 0 to 1.
    """
    return 1 - residual * others
