"""Modality dropout: every step trains the model on some of its modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch

from pyg_ckd.balance.given import check_several
from pyg_ckd.balance.objective import Objective
from pyg_ckd.errors import InputError
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.scoring.views import View


class ModalityDropout(Objective):
    r"""Trains a random non-empty view in every step.

    Each modality is intervened on with probability :math:`p`, independently; a step that would lose all of them keeps
    one at random. Every modality so learns to rank without the others. As in `"ModDrop: Adaptive Multi-modal Gesture
    Recognition" <https://arxiv.org/abs/1501.00102>`_, but that a dropped modality is replaced with its mean instead of
    zeros. Costs no further view.

    Args:
        student: The backbone to train, with at least two modalities.
        rate: Probability :math:`p` with which a step drops a modality, at least 0 and below 1.
        l2: Weight of the backbone's penalty.

    Raises:
        InputError: If there are fewer than two modalities or ``rate`` is out of its range.
    """

    name = "modality-dropout"
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"rate": (0.1, 0.7)}

    def __init__(self, student: Backbone, rate: float = 0.3, l2: float = 1e-2) -> None:
        super().__init__(student, l2)
        check_several(student.modalities)
        if not 0 <= rate < 1:
            raise InputError(f"rate: found {rate}, expected a probability of 0 or more and below 1")
        self.rate = rate

    @property
    def views(self) -> Sequence[View]:
        """One random view, drawn anew at every reading."""
        if self.rate == 0:
            return [self.view]
        kept = torch.rand(len(self.modalities)) >= self.rate  # On the CPU, so that no step waits for a device.
        if not kept.any():
            kept[torch.randint(len(self.modalities), ())] = True
        return [frozenset(m for m, keep in zip(self.modalities, kept.tolist(), strict=True) if keep)]
