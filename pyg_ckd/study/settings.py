"""What a study is made of, beside the data, and the names that its parts have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pyg_ckd.arguments import as_integers

REFERENCE = "plain"
"""The contender that every study has and that all others are compared with."""
TEACHER = "teacher:"
"""How the names of teachers' runs begin; the modality follows."""
EXTEND = 3
"""How many times ``max_epochs`` a run of a study lasts at most, unless its options of the trainer say otherwise."""
PARTS = {"plain": "plain", "ckd": "distillation"}
"""The contenders of a study that names none, and under which part of the settings their options stand."""


@dataclass
class StudySettings:
    """What a study is made of, beside the data.

    Args:
        model: Options of the backbone.
        plain: Options of :class:`~pyg_ckd.Objective` for the plain student.
        teacher: Options of :class:`~pyg_ckd.Objective` for the teachers; those of the backbone and of the trainer among
            them take the place of the student's.
        distillation: Options of :class:`~pyg_ckd.DistillationWrapper`.
        lightgcn: Options of the LightGCN baseline; ``l2`` and those of the trainer, such as ``lr``, may be among them.
        trainer: Options of :class:`~pyg_ckd.Trainer`; the baseline takes over only what does not touch its quality, and
            ``monitor``, by which all runs are chosen and compared. In a study, ``extend`` is 3 by default: a run that
            still rises after ``max_epochs`` goes on for as many epochs again, and once more if need be.
        k: Cut-offs of the test metrics; that of the monitored metric is always added.
    """

    model: dict[str, Any] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)
    distillation: dict[str, Any] = field(default_factory=dict)
    lightgcn: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    k: tuple[int, ...] = (10, 20)

    def __post_init__(self) -> None:
        """Keep cut-offs of NumPy and PyTorch as plain integers, which files can hold."""
        self.k = tuple(as_integers(self.k, "k"))
