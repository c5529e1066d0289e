"""Small studies, strategies of a stranger, and processes that are killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyg_ckd.balance import Objective
from pyg_ckd.errors import InputError
from pyg_ckd.files import plain_values
from pyg_ckd.nn import VBPR
from pyg_ckd.study import Study, StudySettings
from tests.training.problem import planted_data

TRAINER = {"max_epochs": 2, "extend": 1, "batch_size": 64, "lr": 0.02, "monitor": "ndcg@5", "device": "cpu"}
TRAINER["progress"] = False
FAST = ("popularity", "lightgcn")


class Gentle(Objective):
    """Plain training with a smaller penalty, and an option."""

    def __init__(self, student: Any, share: float = 0.5, l2: float = 1e-2) -> None:
        super().__init__(student, l2=share * l2)
        self.share = share


class Deadly(Objective):
    """Kills its process after the first epoch, as long as a file is there."""

    def __init__(self, student: Any, file: str = "") -> None:
        super().__init__(student)
        self.file = file

    def epoch_statistics(self) -> dict[str, float]:
        if self.file and Path(self.file).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().epoch_statistics()


class Failing(Objective):
    """Cannot be trained."""

    def epoch_statistics(self) -> dict[str, float]:
        raise InputError("weights: found none, expected some")


class Mistaken(Objective):
    """Has a mistake in its code."""

    def epoch_statistics(self) -> dict[str, float]:
        return {"share": {}["of\nwhat"]}


class NotAnObjective:
    """Has none of the hooks."""


def small(folder: Path, k: tuple[int, ...] = (3,), **options: Any) -> Study:
    """Return a study of seconds; options are those of the study, or of its settings under ``settings``."""
    settings = {"model": {"embedding_dim": 4}, "lightgcn": {"embedding_dim": 4}, "trainer": dict(TRAINER), "k": k}
    settings |= {"distillation": {"num_random_triples": 20}} | options.pop("settings", {})
    return Study(planted_data(), VBPR, folder, StudySettings(**settings), **({"baselines": FAST} | options))


def numbers(results: dict[str, Any]) -> dict[str, Any]:
    """Return what a study found as JSON has it, without how long it took."""
    timing = ("seconds_per_epoch", "training_seconds")
    runs = [{k: v for k, v in run.items() if k not in timing} for run in results["runs"]]
    parts = (
        "contenders",
        "baselines",
        "left_out",
        "winner",
        "content",
        "effects",
        "comparisons",
        "teacher_comparisons",
    )
    return dict(plain_values({"runs": runs, **{part: results[part] for part in parts}}))


def killed(folder: Path, moment: str, workers: int = 1) -> None:
    """Run a study in this process, which dies by SIGKILL at a moment."""
    from pyg_ckd.study import store, study

    def die_at(number: int, original: Callable[..., Any]) -> Callable[..., Any]:
        left = [number]

        def wrapped(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        return wrapped

    if moment == "within an epoch":
        Objective.loss = die_at(8, Objective.loss)  # Of the plain student, which has seen one epoch.
    elif moment == "before run.json":
        store.write_json = die_at(4, store.write_json)
    elif moment == "before the checkpoint is removed":
        store.RunStore.discard_checkpoint = die_at(3, store.RunStore.discard_checkpoint)
    elif moment == "after the second run":
        study.Study._report = die_at(2, study.Study._report)
    else:
        study.write_json = die_at(1, study.write_json)
    small(folder, settings={"trainer": {**TRAINER, "checkpoint_minutes": 0.0}}, workers=workers).run()


def keys(study: Study, seed: int = 0) -> dict[str, str]:
    return {run.name: run.key for run in study.plan([seed])}
