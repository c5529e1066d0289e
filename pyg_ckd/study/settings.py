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
    """Options of all parts of a study.

    Args:
        model: Options of the backbone.
        plain: Options of :class:`~pyg_ckd.Objective` for the plain student.
        teacher: Options of :class:`~pyg_ckd.Objective` for the teachers; options of the backbone and of the trainer are
            allowed too, and replace the student's.
        distillation: Options of :class:`~pyg_ckd.DistillationWrapper`.
        lightgcn: Options of the LightGCN baseline; ``l2`` and options of the trainer, such as ``lr``, are allowed too.
        trainer: Options of :class:`~pyg_ckd.Trainer`; the baseline only uses ``monitor``, by which all runs are chosen
            and compared, and options that do not influence its quality. In a study, ``extend`` is 3 by default: a run
            whose metric still rises after ``max_epochs`` is extended by as many epochs, at most twice.
        k: Cut-offs of the test metrics; that of the monitored metric is always included.
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
