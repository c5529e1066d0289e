"""A single training run in a folder of its own, as the command line starts it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch_geometric.data import HeteroData

from pyg_ckd.balance import DistillationWrapper, ModalityEffectEstimator, Objective
from pyg_ckd.data import fingerprint, held_out, item_masks
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.evaluation import Evaluator, Metrics, embed
from pyg_ckd.files import atomic_path, write_json
from pyg_ckd.nn import Backbone
from pyg_ckd.training import Trainer, build, parse_metric, train_teachers
from pyg_ckd.training.folder import claim_folder, free_options
from pyg_ckd.training.model import save_model

UNUSED = {"plain": {"teacher", "distillation"}, "ckd": {"plain"}}
"""The parts of the options that an objective does not use."""


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

    A run that was killed goes on from its last checkpoint when it is started again, with the same bits. The settings
    must be those of the first call, apart from what does not decide about the result: options of parts that the
    objective does not use, and ``device``, ``progress`` and ``checkpoint_minutes`` of the trainer.

    ``max_epochs`` of a plain run may differ as well. A run that stopped because of it goes on if it is larger now; one
    that stopped early, or has seen more epochs already, stays as it is. ``max_epochs`` of a distilled run must be the
    same, because the teachers depend on it.

    Args:
        data: The graph.
        backbone: Class of the model; one that ignores the features cannot be distilled.
        folder: Where to write.
        objective: ``"plain"`` or ``"ckd"``; the latter trains or reads its teachers first.
        options: Options under ``model``, ``plain``, ``teacher``, ``distillation`` and ``trainer``.
        k: Cut-offs of the test metrics.
        seed: Seed of everything.

    Returns:
        Metrics on the test part, or on the validation part of a graph without one.

    Raises:
        InputError: If the objective is unknown, there is nothing to distil, the monitored metric cannot be evaluated on
            this graph, the folder cannot be used, or training fails.
    """
    if objective not in UNUSED:
        raise unknown_name("objective", objective, UNUSED)
    chosen: dict[str, dict[str, Any]] = {name: dict(value) for name, value in (options or {}).items()}
    folder = Path(folder)
    if objective == "ckd":
        check_distillable(data, backbone)
    monitored(data, chosen.get("trainer", {}))
    manifest = {"data": fingerprint(data), "backbone": backbone.__name__, "objective": objective, "seed": seed}
    free = free_options("max_epochs") if objective == "ckd" else free_options()
    claim_folder(folder, {**manifest, **chosen}, free | UNUSED[objective])
    split = "test" if held_out(data, "test").size(1) else "val"
    evaluator = Evaluator(data, split, k)

    trainer = chosen.get("trainer", {})
    student = build(backbone, data, seed, **chosen.get("model", {}))
    if objective == "ckd":
        teacher_trainer = Trainer(**{**trainer, "track_views": False, "seed": seed})
        more = chosen.get("teacher", {}) | chosen.get("model", {})
        teachers = train_teachers(backbone, data, teacher_trainer, cache_dir=folder / "teachers", **more)
        distillation = chosen.get("distillation", {})
        model: Objective = DistillationWrapper(student, teachers, has=item_masks(data), **distillation)
    else:
        model = Objective(student, **chosen.get("plain", {}))
    history = Trainer(**{**trainer, "seed": seed, "checkpoint_dir": folder}).fit(model, data)

    metrics = evaluator(embed(model, data)[0])
    save_model(folder / "model.pt", model, data)
    with atomic_path(folder / "history.csv") as path:
        history.frame.to_csv(path)
    write_json(folder / "metrics.json", {"best_epoch": history.best_epoch, split: dict(metrics)})
    return metrics


def check_distillable(data: HeteroData, backbone: type[Backbone]) -> None:
    """Refuse a graph or a backbone in which there are no modalities to balance.

    Args:
        data: The graph.
        backbone: Class of the student; its attribute ``uses_features`` says whether it looks at the features, which is
            taken for granted where it is missing.

    Raises:
        InputError: If the backbone ignores the features, or the graph has fewer than two modalities.
    """
    if not getattr(backbone, "uses_features", True):
        name = backbone.__name__
        raise InputError(
            f"backbone: found {name}, which ignores all features and so has no modality to distil, expected one that "
            f"uses them; train it alone with: pyg-ckd train --backbone {name} --objective plain"
        )
    ModalityEffectEstimator(data.modalities)


def monitored(data: HeteroData, trainer: Mapping[str, Any]) -> tuple[str, str, int]:
    """Return the metric that decides about the best epoch: whole name, family and cut-off, such as ``recall@20``.

    Args:
        data: The graph.
        trainer: Options of the trainer.

    Raises:
        InputError: If it is unknown or cannot be evaluated on the validation part of this graph.
    """
    name = Trainer(**trainer).monitor
    family, cutoff = parse_metric(name)
    items = data["item"].num_nodes
    if not 1 <= cutoff <= items:
        raise InputError(
            f"trainer.monitor: found {name}, expected a cut-off between 1 and {items}, the number of items; set it, "
            f"e.g. with --trainer.monitor {family}@{min(5, items)}"
        )
    Evaluator(data, "val", [cutoff], [family])
    return name, family, cutoff
