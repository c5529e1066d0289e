"""Step sizes of modalities: the base of rules that choose them by what the last epoch has shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pyg_ckd.balance.given import MaskedObjective
from pyg_ckd.balance.gradients import check_steerable
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.views import EMPTY, View, unimodal_views

LEAST_STEP = 0.1
"""Least factor of a step size that a softmax gives, so that no modality stands still for good."""


class PacedObjective(MaskedObjective):
    """Base of strategies that multiply the learning rate of every modality by a factor of its own.

    Adam divides every gradient by its own running size, so that a factor of a gradient, as published, would change
    nothing on parameters that belong to one modality. A factor of their learning rate does. Factors act in the epoch
    after the one that they were found in.

    A subclass computes :meth:`next_factors` from what it has gathered in :meth:`observe`. Modalities are compared by
    their margins without the id part, :math:`a_m = \\delta(\\{m\\}) - \\delta(\\emptyset)`.
    """

    name = ""

    factors: Tensor
    count: Tensor

    def watch(self, has: Mapping[str, Tensor] | None, active: bool) -> None:
        """Keep masks and get ready to observe; for the constructor.

        Args:
            has: As in :meth:`store_masks`.
            active: Whether there is anything to observe; if not, this is plain training.

        Raises:
            InputError: If there are fewer than two modalities, the backbone ignores features, no trained parameter
                belongs to one modality alone, or a mask does not fit.
        """
        self.store_masks(has)
        self.check_views()
        check_steerable(self.student, self.name, scores="epochs" if active else "")
        self._alone = unimodal_views(self.modalities)
        self._views = [self.view, *self._alone.values(), EMPTY] if active else [self.view]
        self._active, self._steerable = active, False
        self.register_state("factors", torch.ones(len(self.modalities), dtype=torch.float64))
        self.register_state("count", torch.zeros(len(self.modalities), dtype=torch.float64))

    @property
    def views(self) -> Sequence[View]:
        """The full, the uni-modal and the empty view; the full view alone with neutral options."""
        return self._views

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Gather what the factors of the next epoch depend on, and return the terms of the strategy."""
        if not self._active:
            return {}
        margins, known = self.margins(out, batch), self.available(batch.positive, batch.negative)
        if not self._steerable:
            check_steerable(self.student, self.name, margins.values())
            self._steerable = True
        alone = torch.stack([margins[view] for view in self._alone.values()], dim=-1)
        with torch.no_grad():
            added = batch.gathered(alone - margins[EMPTY].unsqueeze(-1))
            self.observe(added, self.available(*batch.whole[1:3]))
        return self.terms({m: margins[view] for m, view in self._alone.items()}, out, batch, known)

    def observe(self, alone: Tensor, known: Tensor | None) -> None:
        """Add a whole batch to what is gathered over the epoch.

        Args:
            alone: Margins of the uni-modal views without the id part, ``[B, M]``.
            known: Which modalities the items of each triple have, bool ``[B, M]``, or :obj:`None` for all.
        """
        raise TypeError(f"{type(self).__name__} observes nothing")

    def terms(
        self, margins: Mapping[str, Tensor], out: Mapping[View, Output], batch: TripletBatch, known: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the loss terms of the strategy; here there are none.

        Args:
            margins: From modality to the margins of its view, ``[B]``.
            out: The output of every view.
            batch: The triples.
            known: Which modalities the items of each triple have, bool ``[B, M]``, or :obj:`None` for all.
        """
        return {}

    def next_factors(self) -> Tensor:
        """Return the factors of the next epoch ``[M]`` and forget what was gathered."""
        raise TypeError(f"{type(self).__name__} chooses no factors")

    def step_sizes(self) -> Mapping[str, float]:
        """Return the factor of every modality that has parameters of its own."""
        own = self.student.modality_parameters
        return {m: k for m, k in zip(self.modalities, self.factors.tolist(), strict=True) if own[m]}

    def epoch_statistics(self) -> dict[str, float]:
        """Return the factors that acted in the finished epoch, and choose those of the next one."""
        found = {f"weight/{m}": k for m, k in zip(self.modalities, self.factors.tolist(), strict=True)}
        if self._active:
            self.factors.copy_(self.next_factors())
        return found


def scaled_softmax(logits: Tensor) -> Tensor:
    """Return the softmax times the number of modalities, at least :data:`LEAST_STEP`, as factors of step sizes.

    Args:
        logits: Logits ``[M]``.
    """
    return (logits.numel() * logits.softmax(dim=0)).clamp(min=LEAST_STEP)


def triples_of(alone: Tensor, known: Tensor | None) -> Tensor:
    """Return how many triples count for every modality, ``[M]`` in double precision.

    Args:
        alone: Values ``[B, M]``.
        known: Which count, bool ``[B, M]``, or :obj:`None` for all.
    """
    if known is None:
        return torch.full_like(alone[0], alone.size(0), dtype=torch.float64)
    return known.sum(dim=0, dtype=torch.float64)


def discrepancy(score: Tensor, known: Tensor | None = None) -> Tensor:
    r"""Return :math:`\rho_m`, the mean ratio of a score to those of the other modalities, ``[M]``.

    Args:
        score: Positive scores ``[M]``.
        known: Which modalities have a score, bool ``[M]``; the others are none of the others, and get 0. (default:
            :obj:`None`, all)
    """
    inverse = score.reciprocal()
    if known is None:
        return score * (inverse.sum() - inverse) / (score.numel() - 1)
    inverse = torch.where(known, inverse, 0)
    ratio = torch.where(known, score, 0) * (inverse.sum() - inverse)
    return ratio / (known.sum() - 1).clamp(min=1).to(ratio.dtype)
