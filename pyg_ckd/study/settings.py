"""What a study is made of, beside the data, and the names that its parts have."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyg_ckd.arguments import as_integers
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.options import is_plain

REFERENCE = "plain"
"""The contender that every study has and that all others are compared with."""
TEACHER = "teacher:"
"""How the names of teachers' runs begin; the modality follows."""
EXTEND = 3
"""How many times ``max_epochs`` a run of a study lasts at most, unless its options of the trainer say otherwise."""
PARTS = {"plain": "plain", "ckd": "distillation"}
"""The contenders of a study that names none, and under which part of the settings their options stand."""
TAKEN = {
    "seed": "seeds are given by themselves, as in run(seeds=[0])",
    "checkpoint_dir": "every run has a folder of its own",
    "track_views": "a teacher has one view",
}
"""Options of the trainer that runs are given otherwise."""


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

    Raises:
        InputError: If options are no mapping, are not plain where runs are found again by them, or are those of a
            trainer that runs are given otherwise, such as the seed, or that a trainer does not have.
    """

    model: dict[str, Any] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)
    distillation: dict[str, Any] = field(default_factory=dict)
    lightgcn: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    k: tuple[int, ...] = (10, 20)

    def __post_init__(self) -> None:
        """Check options, and keep cut-offs of NumPy and PyTorch as plain integers, which files can hold."""
        for part in ("model", "plain", "teacher", "distillation", "lightgcn", "trainer"):
            setattr(self, part, as_options(getattr(self, part), part))
        for part in ("model", "plain", "distillation"):
            check_plain(getattr(self, part), part)
        for part in ("trainer", "teacher", "lightgcn"):
            check_trainer_is_free(getattr(self, part), part)
        check_trainer_is_free(self.teacher, "teacher", "track_views")
        check_trainer(self.trainer)
        self.k = tuple(as_integers(self.k, "k"))


def as_settings(settings: StudySettings | None) -> StudySettings:
    """Return the settings of a study, the defaults for :obj:`None`.

    Args:
        settings: The settings.

    Raises:
        InputError: If they are of another type.
    """
    if settings is None:
        return StudySettings()
    if not isinstance(settings, StudySettings):
        hint = "; write StudySettings(**settings)" if isinstance(settings, Mapping) else ""
        raise InputError(f"settings: found {type(settings).__name__}, expected StudySettings or None{hint}")
    return settings


def as_options(given: Any, name: str) -> dict[str, Any]:
    """Return options as a dict.

    Args:
        given: The options.
        name: What they are, for the message.

    Raises:
        InputError: If they are no mapping from names.
    """
    if not isinstance(given, Mapping):
        raise InputError(
            f"{name}: found {type(given).__name__}, expected a mapping from option to value; write {{}} for none"
        )
    for option in given:
        if not isinstance(option, str):
            raise InputError(f"{name}: found the key {option!r}, expected the name of an option")
    return dict(given)


def check_plain(options: Mapping[str, Any], name: str) -> None:
    """Refuse options that files cannot hold.

    Args:
        options: The options.
        name: What they are, for the message.

    Raises:
        InputError: If there is one.
    """
    for option, value in options.items():
        if not is_plain(value):
            raise InputError(
                f"option {option} of {name}: found {type(value).__name__}, expected numbers, texts, lists or "
                "mappings, by which the run is found again"
            )


def budget_for(epochs: int, trainer: Mapping[str, Any]) -> int:
    """Return the ``max_epochs`` with which a training may last for so many epochs.

    Args:
        epochs: The epochs.
        trainer: Options of its trainer, of which ``extend`` counts, where nothing is scheduled.
    """
    scheduled = trainer.get("scheduler") is not None or trainer.get("schedule", "constant") != "constant"
    return -(-epochs // (1 if scheduled else int(trainer.get("extend", 1))))


def check_trainer_is_free(options: Mapping[str, Any], name: str, *more: str) -> None:
    """Refuse options of a trainer that every run is given anew, and that would be ignored.

    Args:
        options: The options.
        name: What they are, for the message.
        *more: Further options among :data:`TAKEN` that are refused.

    Raises:
        InputError: If there is one.
    """
    for option in ("seed", "checkpoint_dir", *more):
        if option in options:
            raise InputError(f"{name}.{option}: found it, expected no such option, for {TAKEN[option]}; remove it")


def check_trainer(options: Mapping[str, Any]) -> None:
    """Refuse options that the trainer does not have.

    Args:
        options: The options by name.

    Raises:
        InputError: If there is one.
    """
    from pyg_ckd.training import Trainer

    known = inspect.signature(Trainer).parameters
    for name in options:
        if name not in known:
            raise unknown_name("option of the trainer", name, known)
