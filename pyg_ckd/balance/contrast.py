"""Contrast between modalities: what is noisy learns from what has more signal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyg_ckd.arguments import as_integer
from pyg_ckd.balance.given import MaskedObjective
from pyg_ckd.balance.objective import Objective, check_not_negative, check_positive
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.nn.loss import contrastive_loss
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.effects import margin_sums, signal_to_noise
from pyg_ckd.scoring.rows import added_item_rows
from pyg_ckd.scoring.views import EMPTY, View, unimodal_views

SHORTEST = 1e-6
"""Rows shorter than this have no direction to learn."""


class CrossModalContrast(MaskedObjective):
    r"""Pulls the item rows of a noisy modality towards those of modalities with more signal, by a contrastive loss.

    After the theory of `"On the Comparison between Multi-modal and Single-modal Contrastive Learning"
    <https://arxiv.org/abs/2411.02837>`_: two views of one modality share its noise, which a contrast between them
    memorises. The noises of two modalities are independent, and a contrast between these pulls the one with the lower
    signal-to-noise ratio towards the signal. With :math:`\mathbf{x}^m_i`, what modality :math:`m` adds to the row of
    item :math:`i` in the empty view, centred over the batch,

    .. math::
        \mathcal{L}_{m \leftarrow n} &= - \underset{i}{\textrm{mean}} \; \ln
        \frac{\exp ( \cos ( \mathbf{x}^m_i, \textrm{sg} \, \mathbf{x}^n_i ) / \tau )}
        {\sum_j \exp ( \cos ( \mathbf{x}^m_i, \textrm{sg} \, \mathbf{x}^n_j ) / \tau )}

        \mathcal{L} &= \mathcal{L}_{BPR} + \lambda \, \mathcal{L}_2 + \frac{2 \beta}{M (M - 1)}
        \sum_{m \neq n} \max(0, \textrm{SNR}_n - \textrm{SNR}_m) \, \mathcal{L}_{m \leftarrow n}

    over some of the batch's positive items; an item that the batch holds several times is not its own negative. No
    gradient (:math:`\textrm{sg}`) reaches the modality that is learned from. :math:`\textrm{SNR}_m` is that of the
    margins :math:`\delta(\{m\}) - \delta(\emptyset)` of all training triples of the epoch before, see
    :func:`~pyg_ckd.scoring.effects.signal_to_noise`; in the first epoch there is no contrast. Modalities with equal
    ratios leave each other alone, and no modality is contrasted with itself.

    Overrides ``views`` and ``balance``. Costs the uni-modal views and the empty one, and a square matrix of
    ``num_items`` for every pair of modalities. The paper analyses training on two modalities and proposes no algorithm;
    the loss, its direction and its weight are derived here from its results.

    Args:
        student: The backbone to train, with at least two modalities whose views have rows of one width.
        weight: Weight :math:`\beta` of the contrast.
        temperature: Temperature :math:`\tau`.
        num_items: Positive items of a batch, at most, that are contrasted.
        l2: Weight :math:`\lambda` of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`. An item that lacks one of two modalities is left out of their contrast.

    Raises:
        InputError: If there are fewer than two modalities, a number is out of its range or a mask does not fit; in the
            first step, if the modalities' rows differ in width.
    """

    name = "snr-contrast"
    capturable = True
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (1e-3, 0.3), "temperature": (0.05, 1.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"weight": 0.0}
    needs_whole = ""
    reports: ClassVar[Mapping[str, str]] = {"snr": "mean of the modality's margins by their deviation, without the ids"}

    sums: Tensor
    snr: Tensor

    def __init__(
        self,
        student: Backbone,
        weight: float = 0.1,
        temperature: float = 0.2,
        num_items: int = 512,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, l2)
        self.store_masks(has)
        self.check_views()
        check_not_negative("weight", weight)
        check_positive("temperature", temperature)
        self.weight, self.temperature, self.num_items = weight, temperature, as_integer(num_items, "num_items", 2)
        self._alone = unimodal_views(student.modalities)
        num = len(student.modalities)
        self.register_state("sums", torch.zeros(3, num, dtype=torch.float64))
        self.register_state("snr", torch.zeros(num, dtype=torch.float64))

    @property
    def batch_items(self) -> int:  # type: ignore[override]
        """Positives of a batch that a step reads the rows of."""
        return self.num_items

    @property
    def views(self) -> Sequence[View]:
        """The full, the uni-modal and the empty views; the full view alone if the contrast weighs nothing."""
        return [self.view, *self._alone.values(), EMPTY] if self.weight > 0 else [self.view]

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return the contrast of every modality with those that have more signal."""
        if self.weight == 0:
            return {}
        triples = (batch.user, batch.positive, batch.negative)
        with torch.no_grad():
            margins = torch.stack([out[view].margin(*triples) for view in self._alone.values()], dim=-1)
            self.sums += margin_sums(margins, out[EMPTY].margin(*triples), self.available(*triples[1:]))
        items = batch.whole.positive[: self.num_items]
        known = self.available(items, items)
        rows = {m: added_item_rows(out[view], out[EMPTY], items) for m, view in self._alone.items()}
        check_widths(self, rows)
        rows = {
            m: x - _mean(x, None if known is None else known[:, column]) for column, (m, x) in enumerate(rows.items())
        }
        lead = (self.snr - self.snr.unsqueeze(1)).clamp(min=0)  # [m, n]: by how much n is ahead of m.
        pairs = len(rows) * (len(rows) - 1) / 2
        losses: dict[str, list[Tensor]] = {m: [] for m in rows}
        for (m, learner), (n, teacher) in permutations(enumerate(rows), 2):
            both = None if known is None else known[:, m] & known[:, n]
            x, y = rows[learner], rows[teacher].detach()
            loss = contrastive_loss(x, y, self.temperature, items, both, SHORTEST)
            losses[learner].append(lead[m, n].to(loss.dtype) * loss)
        scale = self.weight / pairs
        return {f"snr-contrast/{m}": scale * torch.stack(parts).sum() for m, parts in losses.items()}

    def epoch_sums(self) -> Sequence[Tensor]:
        """Return the sums of the margins over the triples of the epoch."""
        return (self.sums,)

    def epoch_statistics(self) -> dict[str, float]:
        """Return every modality's signal-to-noise ratio over the finished epoch, and start the next one."""
        if self.weight == 0:
            return {}
        self.snr.copy_(signal_to_noise(self.sums))
        self.sums.zero_()
        return {f"snr/{m}": value for m, value in zip(self.modalities, self.snr.tolist(), strict=True)}


def check_widths(objective: Objective, rows: Mapping[str, Tensor]) -> None:
    """Refuse rows of modalities that cannot be compared with each other.

    Args:
        objective: The strategy that compares them, for the message.
        rows: From modality to rows of items ``[B, D]``.

    Raises:
        InputError: If they differ in width.
    """
    widths = {m: x.size(1) for m, x in rows.items()}
    if len(set(widths.values())) > 1:
        found = ", ".join(f"{m} {width}" for m, width in widths.items())
        raise InputError(
            f"{objective.name}: found rows of different widths in {type(objective.student).__name__} ({found}), "
            "expected one width for all modalities; choose a strategy that compares relations, such as samm"
        )


def _mean(rows: Tensor, known: Tensor | None) -> Tensor:
    if known is None:
        return rows.mean(dim=0)
    return torch.where(known.unsqueeze(1), rows, 0).sum(dim=0) / known.sum().clamp(min=1)
