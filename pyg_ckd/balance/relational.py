"""Relational alignment (SAMM): modalities agree about which items are alike, each in a space of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_ckd.arguments import as_integer
from pyg_ckd.balance.multitask import MultitaskObjective
from pyg_ckd.balance.objective import check_not_negative
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn.loss import first_of_each
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.rows import added_item_rows
from pyg_ckd.scoring.views import EMPTY, View

NUM_ANGLE_ITEMS = 64
"""Items, at most, whose angles are compared: there are as many as the cube of their number."""
SHORTEST = 1e-6
"""Distances below this are no distances."""


class RelationalAlignment(MultitaskObjective):
    r"""Trains every uni-modal view, and lets the distances between items in one modality teach the others.

    The alignment of `"Beyond Unimodal Learning: The Importance of Integrating Multiple Modalities for Lifelong
    Learning" <https://arxiv.org/abs/2405.02766>`_ (SAMM). It aligns relations between items instead of their rows, so
    that a modality keeps its own axes. With :math:`\mathbf{x}^m_i`, what modality :math:`m` adds to the row of item
    :math:`i` in the empty view, scaled to unit length, and the positive items of a batch, each once,

    .. math::
        \psi^m_{ij} = \frac{\| \mathbf{x}^m_i - \mathbf{x}^m_j \|}{\textrm{mean}_{kl} \, \| \mathbf{x}^m_k -
        \mathbf{x}^m_l \|}, \qquad \mathcal{L}_{m \leftarrow n} = \underset{ij}{\textrm{mean}} \; h ( \psi^m_{ij} -
        \textrm{sg} \, \psi^n_{ij} )

    .. math::
        \mathcal{L} = \mathcal{L}_{BPR} + \lambda \, \mathcal{L}_2 + w \Big( \sum_m
        \underset{uij}{\textrm{mean}} \; \ell(\delta_{uij}(\{m\})) + \frac{r}{M - 1} \sum_{m \neq n}
        \mathcal{L}_{m \leftarrow n} \Big)

    with the smooth absolute value :math:`h` (quadratic up to one) and no gradient (:math:`\textrm{sg}`) to what is
    learned from. With ``angles``, the cosines of the angles that items form at an item are compared in the same way and
    added with that weight relative to distances; the published code has them and does not use them.

    A triple with an item that lacks modality :math:`m` adds nothing to its uni-modal loss, whose mean is over all
    triples of the batch; the means over items are over those that count, which have both modalities.

    Each uni-modal loss includes the penalty of its view. Overrides ``views`` and ``balance``. Costs the uni-modal views
    and the empty one, and a square matrix of ``num_items`` for every modality.

    Differs from the published code, which compares logits, has two modalities, and weighs alignment 25 times as much as
    uni-modal losses, which have a weight of 0.01 there. Its memory of earlier tasks, and the best teacher of a sample,
    are no part of this; the latter is an option of :class:`~pyg_ckd.balance.DistillationWrapper`.

    Args:
        student: The backbone to train, with at least two modalities.
        weight: Weight :math:`w` of the uni-modal terms and, with them, of the alignment.
        relations: Weight :math:`r` of the alignment relative to the uni-modal terms.
        angles: Weight of angles relative to distances.
        num_items: Positive items of a batch, at most, whose relations are compared.
        l2: Weight :math:`\lambda` of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`. An item that lacks one of two modalities is left out of their alignment.

    Raises:
        InputError: If there are fewer than two modalities, a number is out of its range or a mask does not fit.
    """

    name = "samm"
    capturable = True
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (0.01, 3.0), "relations": (0.1, 30.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"weight": 0.0}
    needs_whole = ""

    def __init__(
        self,
        student: Backbone,
        weight: float = 1.0,
        relations: float = 1.25,
        angles: float = 0.0,
        num_items: int = 512,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, weight, l2, has)
        self.check_views()
        check_not_negative("relations", relations)
        check_not_negative("angles", angles)
        self.relations, self.angles, self.num_items = relations, angles, as_integer(num_items, "num_items", 2)

    @property
    def batch_items(self) -> int:  # type: ignore[override]
        """Positives of a batch that a step reads the rows of."""
        return self.num_items

    @property
    def views(self) -> Sequence[View]:
        """The full, the uni-modal and the empty views; the full view alone if the others weigh nothing."""
        return [*super().views, *([EMPTY] if self.weight > 0 and self.relations > 0 else [])]

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return the BPR loss of every uni-modal view and the alignment of every modality with the others."""
        terms = super().balance(out, batch)
        if self.weight == 0 or self.relations == 0:
            return terms
        items = batch.whole.positive[: self.num_items]
        once, known = first_of_each(items), self.available(items, items)
        rows = {m: added_item_rows(out[view], out[EMPTY], items) for m, view in self._alone.items()}
        apart = {m: row_distances(row) for m, row in rows.items()}  # Each once, whomever it is compared with.
        losses: dict[str, list[Tensor]] = {m: [] for m in rows}
        for (m, learner), (n, teacher) in permutations(enumerate(rows), 2):
            counted = once if known is None else once & known[:, m] & known[:, n]
            found = (relative(apart[learner], counted), relative(apart[teacher].detach(), counted))
            loss = smooth_difference(*found, counted)
            if self.angles > 0:
                few = slice(NUM_ANGLE_ITEMS)
                pair = angles(rows[learner][few]), angles(rows[teacher][few].detach())
                loss = loss + self.angles * smooth_difference(*pair, counted[few])
            losses[learner].append(loss)
        scale = self.weight * self.relations / (len(rows) - 1)
        return terms | {f"relation/{m}": scale * torch.stack(parts).sum() for m, parts in losses.items()}


def distances(rows: Tensor, counted: Tensor | None = None) -> Tensor:
    r"""Return the distances between rows of unit length, relative to the mean distance.

    Args:
        rows: The rows ``[B, D]``; they need not have unit length.
        counted: Which rows count for the mean, bool ``[B]``. (default: :obj:`None`, all)

    Returns:
        The distances :math:`\psi` ``[B, B]``, with gradient.
    """
    return relative(row_distances(rows), counted)


def row_distances(rows: Tensor) -> Tensor:
    """Return the distances between rows scaled to unit length, ``[B, B]``, with gradient.

    Args:
        rows: The rows ``[B, D]``.
    """
    rows = F.normalize(_at_least_single(rows), eps=SHORTEST)
    count = rows.size(0)
    above = torch.triu_indices(count, count, offset=1, device=rows.device).unbind()
    found = rows.new_zeros(count, count).index_put(above, F.pdist(rows))  # A fifth of the time of cdist.
    return (found + found.t()).clamp(min=SHORTEST)


def relative(found: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return distances relative to their mean.

    Args:
        found: The distances ``[B, B]``.
        counted: Which rows count for the mean, bool ``[B]``. (default: :obj:`None`, all)
    """
    if counted is None:
        return found / (found.mean() + 1e-8)
    pairs = counted.unsqueeze(1) & counted
    return found / ((found * pairs).sum() / pairs.sum().clamp(min=1) + 1e-8)


def angles(rows: Tensor) -> Tensor:
    """Return the cosine of the angle that every two items form at every item, ``[B, B, B]`` with that item first.

    Args:
        rows: The rows ``[B, D]``; they need not have unit length.
    """
    rows = F.normalize(_at_least_single(rows), eps=SHORTEST)
    side = F.normalize(rows.unsqueeze(0) - rows.unsqueeze(1), dim=2, eps=SHORTEST)
    return side @ side.transpose(1, 2)


def smooth_difference(learner: Tensor, teacher: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return the mean smooth absolute difference of relations, quadratic up to one, a scalar.

    Args:
        learner: Relations ``[B, B]`` or ``[B, B, B]``.
        teacher: The relations to learn, of the same shape.
        counted: Which rows count, bool ``[B]``; of a relation, all must. (default: :obj:`None`, all)
    """
    loss = F.smooth_l1_loss(learner, teacher, reduction="none")
    if counted is None:
        return loss.mean()
    groups = counted
    for _ in range(learner.dim() - 1):
        groups = groups.unsqueeze(-1) & counted
    return (loss * groups).sum() / groups.sum().clamp(min=1)


def _at_least_single(rows: Tensor) -> Tensor:
    return rows.to(torch.promote_types(rows.dtype, torch.float32))
