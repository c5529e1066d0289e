"""Small searches for settings, and processes that are killed while they search."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyg_ckd.balance import Objective
from pyg_ckd.nn import VBPR
from pyg_ckd.study import StudySettings, Tuning
from tests.training.problem import planted_data

TRAINER = {"max_epochs": 4, "batch_size": 64, "lr": 0.02, "monitor": "ndcg@5", "device": "cpu", "progress": False}
KNOBS = {"trainer.lr": (1e-3, 1e-1), "strategy.l2": (1e-4, 1e-1), "ckd.distillation_weight": None}
PLAIN = {"contenders": "plain", "baselines": [], "knobs": {"trainer.lr": (1e-3, 1e-1), "strategy.l2": (1e-4, 1e-1)}}
"""A search of plain training alone."""
TIMES = ("seconds", "training_seconds", "seconds_per_epoch", "duration_seconds", "started")


def small(folder: Path, **options: Any) -> Tuning:
    """Return a search of seconds; options are those of the search, or of its settings under ``settings``."""
    settings = {"model": {"embedding_dim": 4}, "lightgcn": {"embedding_dim": 4}, "trainer": dict(TRAINER), "k": (3,)}
    settings |= {"distillation": {"num_random_triples": 20}} | options.pop("settings", {})
    chosen = {"contenders": ["ckd"], "baselines": ["popularity", "lightgcn"], "trials": 2, "knobs": dict(KNOBS)}
    data, backbone = options.pop("data", None), options.pop("backbone", VBPR)
    data = planted_data() if data is None else data
    return Tuning(data, backbone, folder, StudySettings(**settings), **(chosen | {"warmup": 5} | options))


def untimed(value: Any) -> Any:
    """Return results without how long anything took."""
    if isinstance(value, dict):
        return {key: untimed(item) for key, item in value.items() if key not in TIMES}
    return [untimed(item) for item in value] if isinstance(value, list) else value


def disturbed(folder: Path) -> Tuning:
    """Return the search that is killed: with trials that are pruned, teachers, and checkpoints after every epoch."""
    trainer = {**TRAINER, "max_epochs": 6, "checkpoint_minutes": 0}
    return small(
        folder, trials=5, baselines=["popularity"], knobs={"trainer.lr": (1e-4, 1e-1)}, settings={"trainer": trainer}
    )


MOMENTS = (
    "within an epoch of a trial",
    "after a trial was claimed",
    "before a trial is written",
    "within the writing of a trial",
    "before a pruned run is kept",
    "before the winner is written",
    "within the study of the winner",
    "before results.json",
)


def killed(folder: Path, moment: str) -> None:
    """Search in this process, which dies by SIGKILL at a moment."""
    from optuna.storages import JournalStorage

    from pyg_ckd.study import store, study, tune
    from pyg_ckd.study.ledger import Ledger

    def die_at(number: int, original: Callable[..., Any]) -> Callable[..., Any]:
        left = [number]

        def wrapped(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        return wrapped

    if moment == MOMENTS[0]:
        Objective.loss = die_at(28, Objective.loss)  # Of a teacher or of a trial, which has seen an epoch.
    elif moment == MOMENTS[1]:
        Ledger.claim = die_at(2, Ledger.claim)
    elif moment == MOMENTS[2]:
        Ledger.finish = die_at(2, Ledger.finish)
    elif moment == MOMENTS[3]:
        JournalStorage.set_trial_state_values = die_at(2, JournalStorage.set_trial_state_values)
    elif moment == MOMENTS[4]:
        store.RunStore.write_pruned = die_at(1, store.RunStore.write_pruned)
    elif moment == MOMENTS[5]:
        tune.write_json = die_at(1, tune.write_json)
    elif moment == MOMENTS[6]:
        study.Study._report = die_at(2, study.Study._report)
    else:
        study.write_json = die_at(1, study.write_json)
    disturbed(folder).run()


def searches(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {found["name"]: found for found in results["tuning"]["searches"]}
