"""What the trainer and wrappers tell objectives, and what these ask of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.views import View


@dataclass(frozen=True)
class Progress:
    """How far a training is, for strategies that follow a schedule or learn from past epochs.

    Attributes:
        epoch: The epoch that begins, counted from 1.
        max_epochs: Epochs at most; a training that is extended has more, at which a schedule stays at its end.
        history: The rows of all finished epochs, oldest first, see :class:`~pyg_ckd.training.History`.
        monitor: Name of the monitored metric in these rows.
    """

    epoch: int = 1
    max_epochs: int = 1
    history: Sequence[Mapping[str, float]] = field(default=())
    monitor: str = "recall@20"

    def evaluations(self, modality: str | None = None) -> list[float]:
        """Return the monitored metric in all evaluations so far.

        Args:
            modality: The modality whose uni-modal view counts; there are none if the trainer does not track views.
                (default: :obj:`None`, the trained view)
        """
        name = f"val/{self.monitor}" if modality is None else f"val/{modality}/{self.monitor}"
        return [row[name] for row in self.history if name in row]


class Score(Protocol):
    """Measures tables in :meth:`~pyg_ckd.balance.Objective.before_validation`."""

    def __call__(self, embeddings: Embeddings) -> float:
        """Return the monitored metric of two tables on the validation part.

        Args:
            embeddings: The tables.
        """

    @property
    def triples(self) -> tuple[Tensor, Tensor, Tensor]:
        """Users, items of the validation part and items without an interaction, ``[B]`` each, the same every time."""


class Around(Protocol):
    """What a wrapper adds to the steps of the objective inside it, see :class:`~pyg_ckd.balance.ObjectiveWrapper`."""

    def further_views(self) -> Sequence[View]:
        """Return views that it wants beside those of the objective."""

    def add_terms(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return further loss terms by name."""

    def weigh(self, out: Mapping[View, Output], batch: TripletBatch) -> Tensor | None:
        """Return weights of the triples, ``[B]``, or :obj:`None`."""
