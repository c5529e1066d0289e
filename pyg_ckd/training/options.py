"""Options of plain training: which values they take, and which of them exclude each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from pyg_ckd.arguments import as_integer, as_number
from pyg_ckd.data.negatives import NEGATIVES, SharedNegatives, popularity_weight, softmax_size
from pyg_ckd.data.sampler import SHUFFLES, TripletSampler
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.training.schedule import SCHEDULES, Schedule

EPOCHS = 200
"""Epochs of a training at most, unless a number is given."""
RANKINGS = ("bpr", "softmax")
ORDERS = ("auto", *SHUFFLES)


@dataclass(frozen=True)
class Options:
    """Options of plain training; with the defaults, training is what it is without them.

    Attributes:
        schedule: As :class:`~pyg_ckd.training.Trainer` takes it, like all others.
        warmup_steps: As above.
        weight_decay: As above.
        clip_norm: As above.
        averaging: As above.
        ranking: As above.
        num_negatives: As above.
        shuffle: As above.
    """

    schedule: str = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    averaging: float = 0.0
    ranking: str = "bpr"
    num_negatives: int | None = None
    shuffle: str = "auto"

    def checked(self, negatives: str, optimizer: Any, scheduler: Any, sampler: Any) -> Options:
        """Return the same options as plain values.

        Args:
            negatives: How negatives are drawn.
            optimizer: What a user brings, or :obj:`None`.
            scheduler: What a user brings, or :obj:`None`.
            sampler: What a user brings, or :obj:`None`.

        Raises:
            InputError: If a value is out of its range, a name unknown, or an option has no effect beside another.
        """
        if self.schedule not in SCHEDULES:
            raise unknown_name("schedule", self.schedule, SCHEDULES)
        if self.ranking not in RANKINGS:
            raise unknown_name("ranking", self.ranking, RANKINGS)
        if self.shuffle not in ORDERS:
            raise unknown_name("shuffle", self.shuffle, ORDERS)
        if negatives not in NEGATIVES:
            raise unknown_name("kind of negatives", negatives, NEGATIVES)
        options = replace(
            self,
            warmup_steps=as_integer(self.warmup_steps, "warmup_steps", 0),
            weight_decay=as_number(self.weight_decay, "weight_decay"),
            clip_norm=None if self.clip_norm is None else as_number(self.clip_norm, "clip_norm"),
            averaging=as_number(self.averaging, "averaging"),
            num_negatives=None if self.num_negatives is None else as_integer(self.num_negatives, "num_negatives", 1),
        )
        if not 0 <= options.weight_decay < math.inf:
            raise InputError(f"weight_decay: found {options.weight_decay}, expected a finite number of zero or more")
        if options.clip_norm is not None and not 0 < options.clip_norm < math.inf:
            raise InputError(f"clip_norm: found {options.clip_norm}, expected a positive number, or none")
        if not 0 <= options.averaging < 1:
            raise InputError(f"averaging: found {options.averaging}, expected a decay from 0, no average, to below 1")
        options._check_brought(negatives, optimizer, scheduler, sampler)
        if options.ranking == "softmax":
            options._check_softmax(negatives)
        return options

    def _check_brought(self, negatives: str, optimizer: Any, scheduler: Any, sampler: Any) -> None:
        """Refuse what a part that a user brings would pass over."""
        if negatives != "uniform" and sampler is not None:
            raise InputError(f"negatives: found {negatives!r} beside a sampler of its own, expected one of both only")
        excluded = [
            ("schedule", scheduler, "scheduler"),
            ("warmup_steps", scheduler, "scheduler"),
            ("weight_decay", optimizer, "optimizer"),
            ("shuffle", sampler, "sampler"),
        ]
        if self.ranking == "bpr":
            excluded.append(("num_negatives", sampler, "sampler"))
        given = self._changed()
        for name, other, kind in excluded:
            if name in given and other is not None:
                raise InputError(
                    f"{name}: found {given[name]!r} beside the {kind} of one's own, which has its own, expected one of "
                    "both only"
                )

    def _check_softmax(self, negatives: str) -> None:
        if negatives == "hard":
            raise InputError(
                "negatives: found 'hard' beside ranking='softmax', whose items are shared by all triples of a step, "
                "expected 'uniform' or 'popularity'"
            )
        if negatives == "popularity" and self.num_negatives is None:
            raise InputError(
                "num_negatives: found none beside ranking='softmax' and negatives='popularity', expected how many "
                "items a step draws, such as 512"
            )

    def _changed(self) -> dict[str, Any]:
        plain = asdict(Options())
        return {name: value for name, value in asdict(self).items() if value != plain[name]}

    def changed(self, max_epochs: int) -> dict[str, Any]:
        """Return the options that are not the defaults, as settings of a training.

        Args:
            max_epochs: Epochs at most, on which a schedule depends.
        """
        found = self._changed()
        if "schedule" in found:
            found["schedule"] = {"kind": self.schedule, "max_epochs": max_epochs}
        return found

    @staticmethod
    def resolved(settings: Mapping[str, Any], order: str) -> dict[str, Any]:
        """Return settings of a training without a sampler of one's own, with what options are where they are not named.

        Args:
            settings: The settings, as :meth:`changed` and the trainer name them.
            order: What the order ``"auto"`` is for the backbone.
        """
        bpr = settings.get("ranking", "bpr") == "bpr"
        return {"shuffle": order, **({"num_negatives": 1} if bpr else {}), **settings}

    def each(self, usual: int) -> int:
        """Return the negatives of an interaction in a batch.

        Args:
            usual: Their number for BPR where ``num_negatives`` is :obj:`None`.
        """
        return (self.num_negatives or usual) if self.ranking == "bpr" else 1

    def sampler(self, negatives: str, order: str, usual: int) -> Callable[..., TripletSampler]:
        """Return what makes the sampler of a training without one of its own.

        Args:
            negatives: How negatives are drawn.
            order: What ``"auto"`` is for the backbone, see :attr:`~pyg_ckd.nn.models.base.Backbone.shuffle`.
            usual: As in :meth:`each`.
        """
        shuffle = order if self.shuffle == "auto" else self.shuffle
        return partial(TripletSampler, negatives=negatives, num_negatives=self.each(usual), shuffle=shuffle)

    def schedule_of(self, sampler: Any, max_epochs: int) -> Schedule | None:
        """Return the schedule of a training, or :obj:`None` if rates stay what they are.

        Args:
            sampler: Its length is the number of steps in an epoch.
            max_epochs: Epochs at most.

        Raises:
            InputError: If the sampler has no length, or the warm-up is not shorter than the training.
        """
        if self.schedule == "constant" and not self.warmup_steps:
            return None
        try:
            steps = len(sampler)
        except TypeError:
            raise InputError(
                f"schedule: found {self.schedule!r} with {self.warmup_steps} steps of warm-up beside a sampler without "
                "a length, expected one whose __len__ is the number of its batches in an epoch"
            ) from None
        if self.warmup_steps >= steps * max_epochs:
            raise InputError(
                f"warmup_steps: found {self.warmup_steps}, expected fewer than the {steps * max_epochs} steps of the "
                f"training, max_epochs = {max_epochs} of {steps} steps each"
            )
        return Schedule(self.schedule, steps * max_epochs, self.warmup_steps)

    def shared_negatives(
        self, negatives: str, num_items: int, popularity: Callable[[], Tensor]
    ) -> SharedNegatives | None:
        """Return what draws the items of a softmax, or :obj:`None` if training ranks with the backbone's own loss.

        Args:
            negatives: ``"uniform"`` or ``"popularity"``.
            num_items: Number of items.
            popularity: Returns how many users interacted with every item, int64 ``[num_items]``.
        """
        if self.ranking == "bpr":
            return None
        count = softmax_size(self.num_negatives, num_items)
        if negatives == "uniform":
            return SharedNegatives(count)
        return SharedNegatives(count, popularity_weight(popularity()))
