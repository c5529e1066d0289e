"""How a training begins: everything on its device, prepared, and where a checkpoint left it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.balance.objective import Objective
from pyg_ckd.data.build import fingerprint, training_digest
from pyg_ckd.data.inputs import RATES, held_out
from pyg_ckd.data.negatives import Positives
from pyg_ckd.errors import InputError
from pyg_ckd.training import sampled
from pyg_ckd.training.averaging import WeightAverage
from pyg_ckd.training.batches import Pace
from pyg_ckd.training.captured import capture_steps
from pyg_ckd.training.earlier import StartFrom, remember
from pyg_ckd.training.factories import build_optimizer, build_own_sampler, build_sampler, build_scheduler, draws_own
from pyg_ckd.training.history import History
from pyg_ckd.training.layouts.base import Layout
from pyg_ckd.training.layouts.users import Users
from pyg_ckd.training.made_of import made_of
from pyg_ckd.training.options import EPOCHS, Options
from pyg_ckd.training.own_batches import OwnBatches, own_seed
from pyg_ckd.training.ready import into_training
from pyg_ckd.training.run import Run, Steps
from pyg_ckd.training.run_file import RunFile
from pyg_ckd.training.stopping import EarlyStopping
from pyg_ckd.training.validation import Validation
from pyg_ckd.training.warm_start import warm_start

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from pyg_ckd.nn.models.base import Backbone


class Plan(Protocol):
    """How to train: what :class:`~pyg_ckd.training.Trainer` was given."""

    options: Options
    patience: int
    track_views: bool
    eval_users: int | float | None
    seed: int
    max_epochs: int
    batch_size: int | str
    lr: float
    negatives: str
    checkpoint_dir: Path | None
    optimizer: Any
    scheduler: Any
    sampler: Any
    num_neighbors: list[int] | None
    neighbor_sampler: Any
    capture: bool | str

    @property
    def monitored(self) -> tuple[str, Any, int]:
        """Name of the monitored metric, the metric itself and its cut-off."""

    def settings(self, objective: Objective | None = None) -> dict[str, Any]:
        """Return what decides about the result."""


ALL_EPOCHS = "without a validation part, training takes all"
"""How a text begins that tells of a training without one; the number of epochs follows."""
BEST_EPOCH = "of which an earlier one may rank better; train once with a validation part, and give its best epoch as"
"""What it says to do; the name of the option follows."""


@dataclass
class Begun:
    """A training before its next epoch.

    Attributes:
        run: Everything that changes.
        features: From modality to feature matrix, on the device.
        graph: The prepared graphs.
        validation: Evaluates, if there is a validation part.
        file: The checkpoint.
        doubt: A warning to give after the first epoch, when nothing is likely to be refused any more; maybe empty.
    """

    run: Run
    features: dict[str, Tensor]
    graph: dict[Any, Any]
    validation: Validation | None
    file: RunFile
    doubt: str = ""


def begin(
    trainer: Plan,
    fabric: Fabric,
    objective: Objective,
    data: HeteroData,
    history: History,
    start_from: StartFrom | None,
    layout: Layout,
) -> Begun:
    """Prepare a training, or bring it to where its checkpoint is.

    Args:
        trainer: Says how to train.
        fabric: Runs the steps.
        objective: What is trained.
        data: The graph.
        history: The record.
        start_from: As :meth:`Trainer.fit` takes it.
        layout: What this process has of the training.

    Raises:
        InputError: As :meth:`Trainer.fit`.
    """
    processes = layout.processes
    with processes.together():
        own = _draws_own(trainer, objective, fabric, layout)
        features, edges = layout.unpack(data, fabric.device, objective, not own)
        _check_teachers(objective, data)
        made = made_of(objective)
        into_training(objective)
        objective.begin_fit()
        # An adapted module may learn here which parameters are whose, and a strategy what it has to start with.
        graph: dict[Any, Any] = {}
        if not layout.cuts:
            features, graph = layout.cut(objective, features, edges)
        elif start_from is not None:
            whole = {kind: index.to(fabric.device) for kind, index in edges.items()}
            objective.to(fabric.device).prepare(features, whole)
        validation = None
        if held_out(data, "val").size(1):
            chosen = trainer.eval_users, trainer.seed, layout
            validation = Validation(data, *trainer.monitored, trainer.track_views, *chosen)
        check_validation(objective, data, trainer.track_views)
        settings = {"data": fingerprint(data), **objective.settings(), **made}
        carried: Tensor | None = None
        if start_from is not None:
            start = warm_start(objective, data, start_from)
            settings["start_from"], history.seen_by_start_from = start.digest, dict(start.seen)
            carried = start.carried
        remember(objective.student, data, settings["data"], carried)
    if not processes.alone:
        cut = {"cut_features": layout.cut_features}
        processes.agree("data and settings of the training", settings | trainer.settings() | cut)
        processes.agree("initial weights", [float(p.detach().double().sum()) for p in objective.parameters()])
    if layout.cuts:
        features, graph = layout.cut(objective, features, edges)
    base = type(objective.student).recommended.get("trainer", {}).get("batch_size")
    pace = Pace.of(trainer.batch_size, trainer.lr, trainer.patience, edges[RATES].size(1), base=base)
    run = Run(objective, EarlyStopping(pace.patience), history, None, {}, validation is not None)
    if objective.trains:
        if processes.first:
            _tell_of_negatives(trainer, objective)
            if validation is None and trainer.max_epochs == EPOCHS:
                warn_once(f"{ALL_EPOCHS} {EPOCHS} epochs, {BEST_EPOCH} max_epochs")
        settings |= trainer.settings(objective)
        sampler = _sampler(trainer, objective, data, edges[RATES], pace, layout)
        with processes.together():
            run.steps = _steps(trainer, fabric, objective, sampler, pace, validation is not None, layout)
            layout.check_steps(run.steps.optimizer, run.steps.scaler is not None)
    popularity = partial(_popularity, edges[RATES], *_sizes(data), layout)
    objective.shared_negatives = trainer.options.shared_negatives(trainer.negatives, data["item"].num_nodes, popularity)
    run.keep_best()
    file = RunFile(None if run.steps is None else trainer.checkpoint_dir, settings, layout)
    file.resume(run)
    doubt = ""
    if validation is not None and run.steps is not None and run.epoch == 0:
        validation.begin(run, features, graph)
        doubt = validation.doubt() if processes.first else ""
    return Begun(run, features, graph, validation, file, doubt)


def check_validation(objective: Objective, data: HeteroData, track_views: bool) -> None:
    """Refuse what a strategy cannot learn from: no validation part, or one on which modalities are not evaluated alone.

    Args:
        objective: What is to be trained.
        data: The graph.
        track_views: Whether the trainer evaluates every modality alone.

    Raises:
        InputError: If the strategy needs one of them and there is none.
    """
    if objective.needs_validation and not held_out(data, "val").size(1):
        option = objective.in_place_of_validation
        raise InputError(
            f"{objective.name}: found a graph without a validation part, from which this strategy learns, expected "
            f"one; split some of the training interactions off{f', or give {option}' if option else ''}"
        )
    if objective.needs_unimodal_views and not track_views:
        raise InputError(
            f"track_views: found False beside {objective.name}, which learns from how every modality ranks alone, "
            "expected True; leave it out"
        )


def _check_teachers(objective: Objective, data: HeteroData) -> None:
    """Warn of teachers that were trained on other interactions, which is meant where some have come since."""
    told = {getattr(part, "taught_on", None) for part in objective.modules() if isinstance(part, Objective)} - {None}
    if told - {training_digest(data) if told else None}:
        warnings.warn(
            f"{objective.name}: found teachers of a graph of the same size with other training interactions; what they "
            "say of these users and items may be wrong. If that is not meant, train them on this graph",
            stacklevel=2,
        )


def _steps(
    trainer: Plan,
    fabric: Fabric,
    objective: Objective,
    sampler: Any,
    pace: Pace,
    validates: bool,
    layout: Layout,
) -> Steps:
    options = trainer.options
    optimizer = build_optimizer(trainer.optimizer, objective, pace.lr, options.weight_decay)
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    layout.check_steps(optimizer, scaler is not None)
    module, wrapped = fabric.setup(objective, optimizer)
    module.mark_forward_method("loss")
    scheduler = build_scheduler(trainer.scheduler, optimizer, validates)
    parts = sampled.build_subgraphs(objective, trainer, layout.processes)
    schedule, decay = options.schedule_of(sampler, trainer.max_epochs), options.averaging
    average = WeightAverage(objective.parameters(), decay) if decay else None
    captured = capture_steps(objective, trainer, optimizer, layout.processes.alone)
    more = (scheduler, schedule, options.clip_norm, average, parts, captured, scaler)
    return Steps(module, wrapped, optimizer, sampler, layout, *more)


def _maker(trainer: Plan, objective: Objective) -> Any:
    """Return what makes the sampler: what was brought, or that of the options."""
    if trainer.sampler is not None:
        return trainer.sampler
    usual = default_negatives(objective.student, trainer.num_neighbors)
    return trainer.options.sampler(trainer.negatives, objective.student.shuffle, usual)


def default_negatives(backbone: Backbone | type[Backbone], num_neighbors: Any = None) -> int:
    """Return how many negatives of an interaction a training draws for BPR unless told otherwise.

    Args:
        backbone: The backbone, or its class.
        num_neighbors: Neighbours that a node keeps in every layer, or :obj:`None` for the whole graph.
    """
    return backbone.bpr_negatives if num_neighbors is None else 1


def reads_negatives(strategy: type[Objective], backbone: type[Backbone]) -> bool:
    """Return whether anything in a training may read the negatives of the trainer: BPR, or a strategy.

    Args:
        strategy: What the model is trained with.
        backbone: Class of the model.
    """
    return backbone.pairwise or strategy is not Objective


def _tell_of_negatives(trainer: Plan, objective: Objective) -> None:
    """Warn once of negatives that were asked for and that nothing reads."""
    backbone = type(objective.student)
    if trainer.sampler is not None or reads_negatives(type(objective), backbone):
        return
    each = trainer.options.each(1)
    given = {"negatives": trainer.negatives} if trainer.negatives != "uniform" else {}
    for name, value in (given | ({"num_negatives": each} if each > 1 else {})).items():
        own = ", or give the model its own num_negatives" if "num_negatives" in objective.student.options else ""
        warn_once(
            f"{name}: found {value!r} for {backbone.__name__}, whose losses read no negatives of the trainer, so that "
            f"it has no use in this training; leave it out{own}"
        )


@cache
def warn_once(text: str) -> None:
    """Give a warning, if this process has not given it before.

    Args:
        text: The warning.
    """
    warnings.warn(text, stacklevel=4)


def _draws_own(trainer: Plan, objective: Objective, fabric: Fabric, layout: Layout) -> bool:
    """Return whether every process draws from the interactions of its own users, and tell its layout so."""
    given = _maker(trainer, objective)
    if layout.processes.alone or not draws_own(given):
        return False
    if not isinstance(layout, Users):
        raise InputError(
            f"shuffle: found 'own' for strategy={layout.name!r}, whose processes have all users each, expected "
            "shuffle='blocks', or strategy='users'"
        )
    layout.draws_own = fabric.device
    return True


def _sampler(
    trainer: Plan, objective: Objective, data: HeteroData, edge_index: Tensor, pace: Pace, layout: Layout
) -> Any:
    """Return what draws the batches; processes that draw apart count their interactions together."""
    processes, (num_users, num_items) = layout.processes, _sizes(data)
    given = _maker(trainer, objective)
    num_random = sampled.random_triples(objective, trainer.num_neighbors, pace.batch_size)
    if isinstance(layout, Users) and layout.interactions is not None:
        with processes.together():
            seed = own_seed(trainer.seed, processes.rank)
            sizes = layout.rows.own, num_items
            own = build_own_sampler(given, layout.interactions, *sizes, pace.batch_size, num_random, seed)
        return OwnBatches(own, layout.rows, processes)
    arguments = edge_index, num_users, num_items, pace.batch_size, num_random, trainer.seed
    with processes.together():
        if trainer.sampler is None:
            return given(*arguments)
        return build_sampler(given, *arguments, objective=objective)


def _popularity(edge_index: Tensor, num_users: int, num_items: int, layout: Layout) -> Tensor:
    """Return how many users interacted with every item, int64 ``[num_items]``."""
    if isinstance(layout, Users) and layout.interactions is not None:
        found = Positives(layout.interactions, layout.rows.own, num_items).popularity()
        layout.processes.add_to(found)
        return found
    return Positives(edge_index, num_users, num_items).popularity()


def _sizes(data: HeteroData) -> tuple[int, int]:
    return data["user"].num_nodes, data["item"].num_nodes
