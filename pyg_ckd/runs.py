"""A single training run in a folder of its own, as the command line starts it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch_geometric.data import HeteroData

from pyg_ckd.balance import DistillationWrapper, ModalityEffectEstimator, Objective
from pyg_ckd.data import fingerprint, held_out
from pyg_ckd.evaluation import Evaluator, Metrics, embed
from pyg_ckd.files import atomic_path, write_json
from pyg_ckd.nn import Backbone
from pyg_ckd.training import Trainer, build, train_teachers
from pyg_ckd.training.folder import claim_folder
from pyg_ckd.training.model import save_model


def train_run(
    data: HeteroData,
    backbone: type[Backbone],
    folder: str | os.PathLike[str],
    objective: str = "plain",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    k: Sequence[int] = (10, 20),
    seed: int = 0,
) -> Metrics:
    """Train one model into a folder: ``model.pt``, ``history.csv`` and ``metrics.json``.

    A run that was killed goes on from its last checkpoint when it is started again, with the same bits.

    Args:
        data: The graph.
        backbone: Class of the model.
        folder: Where to write.
        objective: ``"plain"`` or ``"ckd"``; the latter trains or reads its teachers first.
        options: Options under ``model``, ``plain``, ``teacher``, ``distillation`` and ``trainer``.
        k: Cut-offs of the test metrics.
        seed: Seed of everything.

    Returns:
        Metrics on the test part, or on the validation part of a graph without one.

    Raises:
        InputError: If the folder cannot be used or training fails.
    """
    chosen: dict[str, dict[str, Any]] = {name: dict(value) for name, value in (options or {}).items()}
    folder = Path(folder)
    if objective == "ckd":
        ModalityEffectEstimator(data.modalities)
    manifest = {"data": fingerprint(data), "backbone": backbone.__name__, "objective": objective, "seed": seed}
    claim_folder(folder, {**manifest, **chosen})
    split = "test" if held_out(data, "test").size(1) else "val"
    evaluator = Evaluator(data, split, k)

    trainer = chosen.get("trainer", {})
    student = build(backbone, data, seed, **chosen.get("model", {}))
    if objective == "ckd":
        teacher_trainer = Trainer(**{**trainer, "track_views": False, "seed": seed})
        more = chosen.get("teacher", {}) | chosen.get("model", {})
        teachers = train_teachers(backbone, data, teacher_trainer, cache_dir=folder / "teachers", **more)
        model: Objective = DistillationWrapper(student, teachers, **chosen.get("distillation", {}))
    else:
        model = Objective(student, **chosen.get("plain", {}))
    history = Trainer(**{**trainer, "seed": seed, "checkpoint_dir": folder}).fit(model, data)

    metrics = evaluator(embed(model, data)[0])
    save_model(folder / "model.pt", model, data)
    with atomic_path(folder / "history.csv") as path:
        history.frame.to_csv(path)
    write_json(folder / "metrics.json", {"best_epoch": history.best_epoch, split: dict(metrics)})
    return metrics
