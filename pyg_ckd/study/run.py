"""A single training run in a folder of its own, as the command line starts it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch_geometric.data import HeteroData

from pyg_ckd.arguments import as_integers
from pyg_ckd.balance.discovery import build_objective, find_strategy, strategies
from pyg_ckd.balance.objective import Objective
from pyg_ckd.balance.ranking import check_ranking
from pyg_ckd.data import fingerprint, held_out
from pyg_ckd.data.content import warn_without_content
from pyg_ckd.data.inputs import check_graph
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.evaluation import Evaluator, Metrics, embed
from pyg_ckd.evaluation.custom import SMALLER
from pyg_ckd.files import as_path, atomic_path, write_json, writing
from pyg_ckd.nn import Backbone
from pyg_ckd.study.contenders import (
    Contender,
    check_options,
    check_teacher,
    check_trainer,
    check_warmup,
    default_options,
    side_by_side,
    single_modality,
)
from pyg_ckd.study.described import described_options
from pyg_ckd.study.settings import PARTS, StudySettings, as_options, check_plain, check_trainer_is_free
from pyg_ckd.training import Trainer, build, parse_metric, seeded, train_teachers
from pyg_ckd.training.begin import check_validation
from pyg_ckd.training.earlier import digest_of_start
from pyg_ckd.training.folder import claim_folder, free_options
from pyg_ckd.training.layouts import open_processes
from pyg_ckd.training.lone import lone_training
from pyg_ckd.training.model import about_training, save_model
from pyg_ckd.training.trainer import BUDGET

OBJECTIVE = "objective"
"""The part of the options that any strategy's options may stand under."""


def train_run(
    data: HeteroData,
    backbone: type[Backbone],
    folder: str | os.PathLike[str],
    objective: str = "plain",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    k: Sequence[int] = (10, 20),
    seed: int = 0,
    start_from: str | os.PathLike[str] | None = None,
) -> Metrics:
    """Train one model into a folder: ``model.pt``, ``history.csv`` and ``metrics.json``.

    A run that was killed goes on from its last checkpoint when it is started again, with the same bits. The settings
    must be those of the first call, apart from what does not decide about the result: options of parts that the
    objective does not use, and ``device``, ``devices``, ``num_nodes``, ``strategy``, ``progress`` and
    ``checkpoint_minutes`` of the trainer.

    ``max_epochs`` and ``extend`` may differ as well. A run that stopped because of them goes on if they are larger now;
    one that stopped early, or has seen more epochs already, stays as it is. Those of a run with teachers must be the
    same, because the teachers depend on them. ``metrics.json`` says why the run stopped and whether it had converged.
    Without a validation part, training lasts for ``max_epochs``, and the weights of the last epoch are kept.

    Args:
        data: The graph.
        backbone: Class of the model; one that ignores the features can be trained plainly alone.
        folder: Where to write.
        objective: Name or import path of the strategy; one that needs teachers trains or reads them first.
        options: Options under ``model``, ``teacher`` and ``trainer``; those of the strategy under ``objective``, and
            those of ``plain`` and ``ckd`` under ``plain`` and ``distillation`` as well. Options of the backbone and of
            the trainer under ``teacher`` take the place of the student's.
        k: Cut-offs of the test metrics.
        seed: Seed of everything.
        start_from: The file of an earlier model to begin with, see :meth:`Trainer.fit`. It is needed again when a run
            goes on. ``metrics.json`` then has the shares of the validation and test interactions that the earlier
            model was trained on (``seen_by_start_from``). (default: :obj:`None`, none)

    Returns:
        Metrics on the test part, or on the validation part of a graph without one; none of a graph without both.

    Raises:
        InputError: If the objective or one of its options is unknown, there is no modality to balance, the monitored
            metric cannot be evaluated on this graph, the folder cannot be used, or training fails.

    Warns:
        UserWarning: If features tell no items apart, and the model uses them.
    """
    cls = _strategy(objective)
    chosen = {part: as_options(value, part) for part, value in as_options(options or {}, "options").items()}
    for part in ("trainer", "teacher"):
        check_trainer_is_free(chosen.get(part, {}), part)
    check_trainer_is_free(chosen.get("teacher", {}), "teacher", "track_views")
    check_plain(chosen.get("model", {}), "model")
    settings = StudySettings(plain=chosen.get("plain", {}), distillation=chosen.get("distillation", {}))
    contender = Contender(cls, default_options(cls, settings, chosen.pop(OBJECTIVE, {})))
    folder = as_path(folder)
    check_distillable(data, backbone, [cls])
    validated = held_out(data, "val").size(1) > 0
    if validated or held_out(data, "test").size(1):
        check_sizes(data, k, chosen.get("trainer", {}))
    if validated:
        monitored(data, chosen.get("trainer", {}))
    check_trainer(chosen.get("trainer", {}))
    built = check_options(backbone, data, chosen.get("model", {}), contender)
    plan = Trainer(**chosen.get("trainer", {}))
    if built is not None:
        check_validation(built, data, plan.track_views)
    manifest = {"data": fingerprint(data), "backbone": backbone.__name__, "objective": cls.name, "seed": seed}
    if start_from is not None:
        manifest["start_from"] = digest_of_start(start_from)
    free = free_options(*BUDGET) if contender.needs_teachers else free_options()
    part = PARTS.get(cls.name, "options")
    unused = {other for other in PARTS.values() if other != part} | (set() if contender.needs_teachers else {"teacher"})
    if cls.trains:
        check_ranking(backbone, plan.options.ranking)
        check_warmup(data, chosen.get("trainer", {}))
    if contender.needs_teachers:
        check_teacher(backbone, data, *(chosen.get(part, {}) for part in ("teacher", "model", "trainer")))
    base = chosen.get("trainer", {})
    given = {name: described_options(value, base if name == "teacher" else None) for name, value in chosen.items()}
    processes = open_processes(plan.devices, plan.num_nodes, plan.device)
    if backbone.uses_features and processes.first:
        warn_without_content(data, stacklevel=2)
    with lone_training(folder, processes):
        with processes.together():
            if processes.first:
                claim_folder(folder, {**manifest, **given, part: dict(contender.options)}, free | unused)
        split = "test" if held_out(data, "test").size(1) else "val"
        evaluator = Evaluator(data, split, k) if held_out(data, split).size(1) else None

        trainer, model = chosen.get("trainer", {}), chosen.get("model", {})
        student = build(backbone, data, seed, **model)
        teachers = None
        if contender.needs_teachers:
            own = side_by_side(chosen.get("teacher", {}), backbone)
            teacher_trainer = Trainer(**{**trainer, **own.trainer, "track_views": False, "seed": seed})
            more = {**own.options, **model, **own.model}
            teachers = train_teachers(backbone, data, teacher_trainer, cache_dir=folder / "teachers", **more)
        with seeded(seed):
            trained = build_objective(cls, student, data, teachers, contender.options)
        own_trainer = Trainer(**{**trainer, "seed": seed, "checkpoint_dir": folder})
        history = own_trainer.fit(trained, data, start_from)

        metrics = Metrics() if evaluator is None else evaluator(embed(trained, data)[0])
        measured = {} if evaluator is None else {split: metrics}
        with processes.together():
            if processes.first:
                with writing(folder, "output folder"):
                    about = about_training(history, seed, measured, own_trainer.settings(trained))
                    save_model(folder / "model.pt", trained, data, about)
                    with atomic_path(folder / "history.csv") as path:
                        history.frame.to_csv(path)
                    ended = {name: getattr(history, name) for name in ("best_epoch", "stopped", "converged")}
                    if history.enough_epochs is not None:
                        ended["enough_epochs"] = history.enough_epochs
                    if history.seen_by_start_from:
                        ended["seen_by_start_from"] = history.seen_by_start_from
                    write_json(
                        folder / "metrics.json", {**ended, **{part: dict(found) for part, found in measured.items()}}
                    )
    return metrics


def check_distillable(
    data: HeteroData, backbone: type[Backbone], strategies: Iterable[type[Objective]], study: bool = False
) -> None:
    """Refuse a graph or a backbone in which there are no modalities to balance.

    Args:
        data: The graph.
        backbone: Class of the student; its attribute ``uses_features`` says whether it looks at the features, which is
            taken for granted where it is missing.
        strategies: Classes of strategies. Wrappers refuse what they cannot act on themselves.
        study: Whether it is for a study, which looks at modalities even where all training is plain.

    Raises:
        InputError: If the backbone ignores the features, or the graph has fewer than two modalities for a strategy
            that balances them.
    """
    check_graph(data)
    if not (inspect.isclass(backbone) and issubclass(backbone, Backbone)):
        found = f"the text {backbone!r}" if isinstance(backbone, str) else f"an object of {type(backbone).__name__}"
        if inspect.isclass(backbone) or inspect.isroutine(backbone):
            found = backbone.__qualname__
        raise InputError(
            f"backbone: found {found}, expected the class of a backbone, such as pyg_ckd.nn.VBPR; for a module of your "
            "own, derive one from pyg_ckd.nn.AdaptedBackbone"
        )
    balancing = [cls for cls in strategies if cls is not Objective and not cls.wraps]
    if not (balancing or study):
        return  # What a wrapper can act on depends on its options; its constructor says so.
    if not getattr(backbone, "uses_features", True):
        name = backbone.__name__
        raise InputError(
            f"backbone: found {name}, which ignores all features and so has no modality to distil, or to balance "
            "otherwise, expected one that uses them; train it alone with: "
            f"pyg-ckd train --backbone {name} --objective {Objective.name}"
        )
    if balancing and len(data.modalities) == 1:
        raise single_modality(data.modalities, balancing[0])


def check_cutoffs(data: HeteroData, cutoffs: Sequence[int]) -> None:
    """Refuse cut-offs that the test part cannot be measured at.

    Args:
        data: The graph.
        cutoffs: The cut-offs.

    Raises:
        InputError: If one is larger than the number of items, or the test part is empty.
    """
    _check_largest(data, cutoffs, "recall")
    Evaluator(data, "test", list(cutoffs), [])


def check_sizes(data: HeteroData, cutoffs: Sequence[int] | int, trainer: Mapping[str, Any]) -> None:
    """Refuse cut-offs that are larger than the number of items, together with that of the monitored metric.

    Args:
        data: The graph.
        cutoffs: The cut-offs.
        trainer: Options of the trainer.

    Raises:
        InputError: If there is one; the message names all options that have to be set.
    """
    check_trainer(trainer)
    _, metric, cutoff = Trainer(**trainer).monitored
    late = isinstance(metric, str) and cutoff > data["item"].num_nodes and held_out(data, "val").size(1) > 0
    _check_largest(data, as_integers(cutoffs, "k"), metric if late else None)


def _check_largest(data: HeteroData, cutoffs: Iterable[int], metric: str | None) -> None:
    """Refuse cut-offs that are larger than the number of items.

    Args:
        data: The graph.
        cutoffs: The cut-offs.
        metric: The monitored metric, if its cut-off has to be set as well.
    """
    items, small = data["item"].num_nodes, min(SMALLER, data["item"].num_nodes)
    also = "" if metric is None else ", and the metric that decides"
    options = f"--k {small}" + ("" if metric is None else f" --trainer.monitor {metric}@{small}")
    for cutoff in cutoffs:
        if cutoff > items:
            raise InputError(
                f"k: found {cutoff}, expected cut-offs between 1 and {items}, the number of items; set them{also}, "
                f"e.g. with {options}"
            )


def monitored(data: HeteroData, trainer: Mapping[str, Any]) -> tuple[str, str, int]:
    """Return the metric that decides about the best epoch: whole name, family and cut-off, such as ``recall@20``.

    Args:
        data: The graph.
        trainer: Options of the trainer.

    Raises:
        InputError: If it is unknown or cannot be evaluated on the validation part of this graph.
    """
    check_trainer(trainer)
    name, given = Trainer(**trainer).monitor, trainer.get("monitor")
    if given is not None and not isinstance(given, str):
        raise InputError(
            f"trainer.monitor: found the metric {name}, expected one by name and cut-off such as 'recall@20', by which "
            "runs are measured and kept"
        )
    family, cutoff = parse_metric(name)
    items = data["item"].num_nodes
    if not 1 <= cutoff <= items:
        raise InputError(
            f"trainer.monitor: found {name}, expected a cut-off between 1 and {items}, the number of items; set it, "
            f"e.g. with --trainer.monitor {family}@{min(5, items)}"
        )
    if not held_out(data, "val").size(1):
        raise InputError(
            "split 'val': found no interaction, expected at least one, by which the best epoch is chosen; split some "
            "of the training interactions off, or train one model with pyg-ckd train, which does without"
        )
    Evaluator(data, "val", [cutoff], [family])
    return name, family, cutoff


def _strategy(name: str) -> type[Objective]:
    if "." not in name and ":" not in name and name not in strategies():
        raise unknown_name("objective", name, strategies())
    return find_strategy(name)
