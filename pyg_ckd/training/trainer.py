"""The trainer: what a training is made of, how it goes on after a break, and when it ends."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch_geometric.data import HeteroData

from pyg_ckd.arguments import as_flag, as_integer, as_number, as_seed
from pyg_ckd.balance.objective import Objective
from pyg_ckd.balance.progress import Progress
from pyg_ckd.devices import Device
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.evaluation.custom import CustomMetric, Metric, as_monitor
from pyg_ckd.evaluation.ranking import check_eval_users
from pyg_ckd.files import as_path
from pyg_ckd.memory import kept_memory
from pyg_ckd.training import sampled
from pyg_ckd.training.batches import as_batch_size
from pyg_ckd.training.begin import begin, default_negatives, warn_once
from pyg_ckd.training.callbacks import (
    CallbackError,
    Hooks,
    as_callbacks,
    as_loggers,
    finish_loggers,
    log_row,
    open_fabric,
)
from pyg_ckd.training.checkpoint import seeded
from pyg_ckd.training.console import log_end, log_epoch, shown_progress
from pyg_ckd.training.earlier import StartFrom
from pyg_ckd.training.epoch import check_weights, read_statistics, train_epoch
from pyg_ckd.training.factories import (
    check_factories,
    describe_optimizer,
    describe_sampler,
    describe_scheduler,
    step_scheduler,
)
from pyg_ckd.training.history import History
from pyg_ckd.training.layouts.base import Layout
from pyg_ckd.training.layouts.choice import check_devices, choose_layout, open_processes, own_device
from pyg_ckd.training.lone import lone_training
from pyg_ckd.training.options import EPOCHS, Options
from pyg_ckd.training.ready import trainable
from pyg_ckd.training.run import Run
from pyg_ckd.training.stopping import EarlyStopping
from pyg_ckd.training.validation import Validation

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
BUDGET = ("max_epochs", "extend")
"""Arguments of the trainer that say how long a training may last; a run can be prolonged by larger ones."""
FREE = (
    *(*BUDGET, "device", "devices", "num_nodes", "strategy", "checkpoint_dir", "checkpoint_minutes", "progress"),
    *("callbacks", "loggers", "cut_features", "capture"),
)
"""Arguments of the trainer that may differ when a run is gone on with."""


class Trainer:
    """Trains an objective with Adam and early stopping on the validation part.

    Every step propagates over the whole graph, or with ``num_neighbors`` over a sampled part of it, and scores a batch
    of triples. An epoch is one pass over all training interactions. Without a validation part, training ends after
    ``max_epochs``, and the weights of the last epoch stay.

    Args:
        max_epochs: Maximum number of epochs.
        batch_size: Interactions in a step, or ``"large"``, with which ``lr`` and ``patience`` are adapted from the
            batch size that the backbone recommends (2,048 if it names none), see :class:`~pyg_ckd.training.Pace`.
        lr: Learning rate of Adam; an ``optimizer`` of your own has its own.
        monitor: Validation metric that decides when to stop and which epoch is best: a name with cut-off such as
            ``"recall@20"``, a metric object of PyG such as ``LinkPredRecall(k=20)``, or a function, see
            :class:`~pyg_ckd.evaluation.CustomMetric`.
        patience: Steps of the optimizer without a rise of the metric after which training stops, see
            :class:`EarlyStopping`. A strategy with stages, such as ``udi`` or ``odsw``, is not stopped before its last
            one, and each stage has its own patience.
        eval_every: Number of epochs between evaluations.
        track_views: Whether every uni-modal view is evaluated as well, for the learning curves.
        seed: Seed of sampling and of everything random inside the model's steps, drawn by PyTorch, NumPy or Python; the
            same seed gives the same bits on the CPU. The model's initial weights are the caller's.
        device: ``"auto"``, or a name or :class:`torch.device`, such as ``"cpu"`` or ``"cuda:1"``; with several
            processes and a kind such as ``"cuda"``, each has its own device.
        precision: ``"32-true"``, ``"bf16-mixed"`` or ``"16-mixed"`` (not on the CPU), as in lightning-fabric.
            Propagation over the graph stays in single precision.
        checkpoint_dir: Folder of the checkpoint that :meth:`fit` writes and resumes from; :obj:`None` writes nothing.
        checkpoint_minutes: Minutes between checkpoints; 0 writes one after every epoch.
        progress: Whether to show a progress bar on a terminal. Every epoch is also logged at level ``INFO`` by the
            logger ``pyg_ckd.training``.
        negatives: How the negative of a training interaction is drawn: ``"uniform"``, ``"popularity"`` or ``"hard"``,
            see :class:`~pyg_ckd.data.TripletSampler`. The losses of FISM and BM3 read no negatives.
        eval_users: Number of validation users to evaluate, drawn with ``seed``, or a share such as ``0.1``;
            :obj:`None` evaluates all.
        optimizer: A function that returns an optimizer, such as ``lambda groups: torch.optim.AdamW(groups, lr=1e-3)``.
            Its argument is a list of parameter groups; ``group["modality"]`` is the modality that the parameters
            belong to, or :obj:`None` for shared ones. A new optimizer over all trainable parameters works too, for a
            single training. :obj:`None` is :class:`RowAdam`.
        scheduler: A function that returns a scheduler, such as
            ``lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 10)``. It is stepped after every epoch;
            :class:`~torch.optim.lr_scheduler.ReduceLROnPlateau`, with ``mode="max"``, after every evaluation, with the
            monitored metric. Factors of a strategy (:meth:`Objective.step_sizes`) multiply the scheduled rates.
            Objects are refused, because the optimizer does not exist before training begins.
        sampler: A function of ``(edge_index, num_users, num_items, batch_size, num_random_triples, seed)`` that returns
            a sampler, such as :class:`~pyg_ckd.data.TripletSampler` or a :func:`functools.partial` of it. A sampler
            iterates over the :class:`~pyg_ckd.data.TripletBatch` of an epoch and draws from its ``generator``, whose
            state is stored in checkpoints. If its ``wants_embeddings`` is true, ``update(embeddings)`` is called before
            every epoch, with the current embeddings of the trained view without gradient. An object works too; every
            training seeds its generator again.
        callbacks: One or several objects with methods named as in Lightning; see
            :data:`pyg_ckd.training.callbacks.HOOKS` for their names and arguments. One that writes a reason to
            ``history.stopped`` ends training after the epoch.
        loggers: One or several loggers of lightning-fabric. They get the row of every epoch.
        extend: Maximum length of a training as a multiple of ``max_epochs``. If the metric still rises after
            ``max_epochs``, or it is too early to tell, training is extended by ``max_epochs``, as often as needed. A
            training with a ``scheduler`` or ``schedule`` is never extended, because these are made for ``max_epochs``.
        schedule: How the learning rate follows the steps of ``max_epochs``: ``"constant"``, ``"cosine"`` or ``"step"``,
            see :class:`~pyg_ckd.training.Schedule`. It cannot be combined with ``scheduler``.
        warmup_steps: Number of steps at the start in which the learning rate rises linearly to ``lr``.
        weight_decay: Decoupled weight decay of :class:`RowAdam`, as in AdamW, of all trainable parameters.
        clip_norm: Maximum norm of all gradients of a step together; :obj:`None` does not clip.
        averaging: Decay of an exponential moving average of the weights, such as ``0.99``, see
            :class:`~pyg_ckd.training.WeightAverage`. The average is validated and kept; 0 is none.
        ranking: The main loss: ``"bpr"``, or ``"softmax"`` of the positive among items that all triples of a step
            share, see :func:`~pyg_ckd.nn.softmax_loss`. It only replaces the term ``bpr`` of the backbone's losses; a
            backbone without this term refuses it.
        num_negatives: Number of items that a positive is compared with. With BPR, negatives per interaction, over which
            the loss is averaged; by default 4 for VBPR and LightGCN, 1 for others and with ``num_neighbors``, see
            :attr:`~pyg_ckd.nn.models.base.Backbone.bpr_negatives`. With the softmax, items that a step draws as
            ``negatives`` says, by popularity with logQ correction; by default all up to 20,000 items, else 4,096, and
            none for popularity, which needs a number.
        devices: Number of processes on this machine that share the training, each with its own device; ``"auto"`` uses
            the processes of ``torchrun`` or the like, otherwise one.
        num_nodes: Number of machines that share the training.
        strategy: How several processes share the training, by the name of one of :mod:`pyg_ckd.training.layouts`;
            ``"auto"`` chooses one that the backbone supports.
        shuffle: How the interactions of an epoch are shuffled: ``"whole"``, ``"users"``, ``"blocks"``, or ``"own"``,
            with which every process of ``strategy="users"`` only draws from the interactions of its own users, see
            :class:`~pyg_ckd.data.TripletSampler`. ``"auto"`` is ``"users"`` for FISM and ``"whole"`` for all others. A
            ``sampler`` has its own.
        num_neighbors: Number of neighbours that a node keeps in every layer, such as ``[10, 10]``, or -1 for all, to
            train on sampled parts of the graph; evaluation is never sampled. With ``strategy="ddp"``, each process
            samples the neighbourhood of its share of a batch. (default: :obj:`None`, the whole graph)
        neighbor_sampler: A function of ``(data, num_neighbors)`` that returns an object with ``sample_from_nodes``, as
            in PyG. (default: :obj:`None`, uniform sampling)
        cut_features: Whether every process only holds the features of some items, under ``strategy="users"``; a step
            then exchanges their projections, see :attr:`~pyg_ckd.nn.models.base.Backbone.projected`.
        capture: Whether steps on a GPU are captured as a CUDA graph once per epoch and then replayed. This is faster if
            the GPU waits for operations to be issued, as on small graphs; results agree to rounding. ``"auto"``
            captures if nothing changes from step to step.

    Raises:
        InputError: If a number is out of range, a name is unknown, or an object is of another kind than expected.
    """

    def __init__(
        self,
        max_epochs: int = EPOCHS,
        batch_size: int | str = 2048,
        lr: float = 1e-3,
        monitor: Metric = "recall@20",
        patience: int = 1000,
        eval_every: int = 1,
        track_views: bool = True,
        seed: int = 0,
        device: Device = "auto",
        precision: str = "32-true",
        checkpoint_dir: str | os.PathLike[str] | None = None,
        checkpoint_minutes: float = 0.0,
        progress: bool = True,
        negatives: str = "uniform",
        eval_users: int | float | None = None,
        optimizer: Callable[..., Any] | Optimizer | None = None,
        scheduler: Callable[..., Any] | None = None,
        sampler: Callable[..., Any] | None = None,
        callbacks: Any | None = None,
        loggers: Any | None = None,
        extend: int = 1,
        schedule: str = "constant",
        warmup_steps: int = 0,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        averaging: float = 0.0,
        ranking: str = "bpr",
        num_negatives: int | None = None,
        devices: int | str = "auto",
        num_nodes: int = 1,
        strategy: str = "auto",
        num_neighbors: Sequence[int] | None = None,
        neighbor_sampler: Callable[..., Any] | None = None,
        shuffle: str = "auto",
        cut_features: bool = False,
        capture: bool | str = False,
    ) -> None:
        max_epochs, batch_size = as_integer(max_epochs, "max_epochs", 1), as_batch_size(batch_size)
        eval_every, patience = as_integer(eval_every, "eval_every", 1), as_integer(patience, "patience")
        extend = as_integer(extend, "extend", 1)
        lr, checkpoint_minutes = as_number(lr, "lr"), as_number(checkpoint_minutes, "checkpoint_minutes")
        seed = as_seed(seed)
        if not (lr > 0 and math.isfinite(lr)):
            raise InputError(f"lr: found {lr}, expected a positive number")
        if not checkpoint_minutes >= 0:
            raise InputError(f"checkpoint_minutes: found {checkpoint_minutes}, expected zero or more")
        EarlyStopping(patience)
        if capture not in (True, False, "auto"):
            raise InputError(f"capture: found {capture!r}, expected True, False or 'auto'")
        if precision not in PRECISIONS:
            raise unknown_name("precision", precision, PRECISIONS)
        eval_users = check_eval_users(eval_users)
        check_factories(optimizer, scheduler, sampler)
        options = Options(schedule, warmup_steps, weight_decay, clip_norm, averaging, ranking, num_negatives, shuffle)
        self.options = options.checked(negatives, optimizer, scheduler, sampler)
        self.num_neighbors = sampled.as_num_neighbors(num_neighbors, neighbor_sampler)
        as_callbacks(callbacks)
        as_loggers(loggers)
        self.devices, self.num_nodes = check_devices(devices, num_nodes, strategy)
        self.strategy, self.cut_features, self.capture = strategy, as_flag(cut_features, "cut_features"), capture
        self.max_epochs, self.extend, self.batch_size, self.lr = max_epochs, extend, batch_size, lr
        self.monitor, self._metric, self._cutoff = as_monitor(monitor)
        self.patience, self.eval_every, self.negatives, self.eval_users = patience, eval_every, negatives, eval_users
        self.track_views, self.seed = as_flag(track_views, "track_views"), seed
        self.device, self.precision = device, precision
        self.checkpoint_dir = None if checkpoint_dir is None else as_path(checkpoint_dir)
        self.checkpoint_minutes, self.progress = checkpoint_minutes, as_flag(progress, "progress")
        self.optimizer, self.scheduler, self.sampler = optimizer, scheduler, sampler
        self.callbacks, self.loggers, self.neighbor_sampler = callbacks, loggers, neighbor_sampler

    def settings(self, objective: Objective | None = None) -> dict[str, Any]:
        """Return what decides about the result of a run, apart from the model and the data.

        What a user brings is told apart by class and plain options; the functions inside it are not.

        Args:
            objective: What is trained, for the groups of an optimizer; :obj:`None` describes a single group.
        """
        names = ("batch_size", "lr", "monitor", "patience", "eval_every", "track_views", "seed", "precision")
        settings = {name: getattr(self, name) for name in names}
        if not isinstance(self._metric, str):
            settings["monitor"] = CustomMetric(self._metric).settings()
        # Named only where they are in use: teachers in a cache go by these settings.
        if self.negatives != "uniform":
            settings["negatives"] = self.negatives
        if self.eval_users is not None:
            settings["eval_users"] = self.eval_users
        if self.optimizer is not None:
            settings["optimizer"] = describe_optimizer(self.optimizer, objective)
        if self.scheduler is not None:
            settings["scheduler"] = describe_scheduler(self.scheduler, self.optimizer, objective, self.lr)
        if self.sampler is not None:
            settings["sampler"] = describe_sampler(self.sampler)
        settings |= sampled.describe_neighbors(self.num_neighbors, self.neighbor_sampler)
        if objective is not None and self.sampler is None:
            each = self.options.each(default_negatives(objective.student, self.num_neighbors))
            settings |= {"num_negatives": each} if each > 1 else {}
        return settings | self.options.changed(self.max_epochs)

    def budget(self) -> dict[str, int]:
        """Return how long a training may last: ``max_epochs``, and ``extend`` if it is more than once."""
        return {"max_epochs": self.max_epochs} | ({"extend": self.extend} if self.extend > 1 else {})

    @property
    def monitored(self) -> tuple[str, Any, int]:
        """Name of the monitored metric in the record, the metric itself and its cut-off."""
        return self.monitor, self._metric, self._cutoff

    @property
    def _times(self) -> int:
        return 1 if self.scheduler is not None or self.options.schedule != "constant" else self.extend

    def fit(self, model: nn.Module, data: HeteroData, start_from: StartFrom | None = None) -> History:
        """Train ``model`` in place; at the end it has the weights of the best epoch.

        A checkpoint in :attr:`checkpoint_dir` of the same model, data and settings is gone on from, with the same bits
        as if there had been no break (on the CPU). ``max_epochs`` (unless there is a ``schedule``) and ``extend`` may
        differ from the first call's. A strategy without anything to train is validated once.

        Args:
            model: An objective, or a backbone (or any module with ``forward(x_dict, edge_index) -> (user, item)``) for
                plain joint training.
            data: The graph.
            start_from: An earlier model whose parameters ``model`` begins with, users and items matched by their ids:
                its file, such as ``"yesterday.pt"``, or the model, see :func:`~pyg_ckd.training.warm_start`. The
                optimizer starts afresh.

        Raises:
            InputError: If there is nothing to train, ``start_from`` or a checkpoint does not fit, the loss is not
                finite any more, a callback raises, another process is training in :attr:`checkpoint_dir`, or the
                objective needs a validation part that there is not.

        Warns:
            UserWarning: If there is no validation part, and ``max_epochs`` is 200, its default; and if rankings hardly
                differ in the monitored metric.
        """
        objective = trainable(model, data)
        processes = open_processes(self.devices, self.num_nodes, self.device)
        layout = choose_layout(self.strategy, processes, objective, self.num_neighbors, self.cut_features)
        loggers = self.loggers if processes.first else None
        fabric = open_fabric(own_device(processes, self.device), self.precision, self.callbacks, loggers)
        history = History()
        hooks = Hooks(fabric, trainer=self, pl_module=objective, history=history)
        try:
            with lone_training(self.checkpoint_dir, processes), seeded(self.seed), kept_memory():
                try:
                    self._fit(fabric, hooks, objective, data, history, start_from, layout)
                finally:
                    objective.end_fit()
            objective.to("cpu")
            hooks("on_fit_end")
            finish_loggers(fabric, "success")
        except BaseException as error:
            with suppress(CallbackError):  # What went wrong first is what is to be mended.
                hooks("on_exception", exception=error)
            with suppress(CallbackError):
                finish_loggers(fabric, "failed")
            raise
        return history

    def _fit(
        self,
        fabric: Fabric,
        hooks: Hooks,
        objective: Objective,
        data: HeteroData,
        history: History,
        start_from: Any,
        layout: Layout,
    ) -> None:
        begun = begin(self, fabric, objective, data, history, start_from, layout)
        run, features, graph, validation, file = begun.run, begun.features, begun.graph, begun.validation, begun.file
        hooks("on_fit_start", epoch=run.epoch)
        name, written = type(objective.student).__name__, time.monotonic()
        run.last(self._times * self.max_epochs)
        ended = partial(run.ended, self.max_epochs, self._times)
        shown = self.progress and objective.trains and layout.processes.first
        with shown_progress(name, self.monitor, self.max_epochs, shown) as advance, run.capturing():
            while not ended():
                row = self._epoch(fabric, hooks, run, features, graph, validation)
                if begun.doubt:
                    warn_once(begun.doubt)
                    begun.doubt = ""
                history.rows.append(row)
                hooks("on_train_epoch_end", epoch=run.epoch, row=row)
                history.settle()
                history.stopped = next((why for why in layout.processes.gather(history.stopped) if why), "")
                if validation is None or run.stopper.best_epoch >= 0 or not ended():  # Else it is not complete yet.
                    log_row(fabric, history.rows[-1])
                if layout.processes.first:
                    log_epoch(name, self.monitor, self._times * self.max_epochs, run)
                advance(run)
                due = ended() or time.monotonic() - written >= 60 * self.checkpoint_minutes
                if layout.processes.gather(due)[0]:  # By one clock.
                    file.write(run)
                    written = time.monotonic()
        early = run.stopper.best_epoch < 0 and run.epoch > 0  # It ended before an evaluation was due.
        if validation is not None and early:  # Not part of the checkpoint, so that it leaves no trace in a longer run.
            self._validate(hooks, run, history.rows[-1], features, graph, validation)
            history.settle()
            log_row(fabric, history.rows[-1])
        if validation is None:
            with run.averaged():
                check_weights(run)
                run.keep_best()
            history.best_epoch = run.epoch
        else:
            history.best_epoch, history.best_value = run.stopper.best_epoch, run.stopper.best
        objective.load_state_dict(run.best_state)
        layout.join(objective)
        history.stopped = ended()
        if validation is not None:
            history.converged = run.steps is None or (run.stopper.converged and not run.unfinished)
            if not (history.converged or run.unfinished):
                history.enough_epochs = run.stopper.enough_epochs(self.eval_every)
        if layout.processes.first:
            log_end(name, run)

    def _epoch(
        self,
        fabric: Fabric,
        hooks: Hooks,
        run: Run,
        features: dict[str, Tensor],
        graph: dict[Any, Any],
        validation: Validation | None,
    ) -> dict[str, float]:
        """Train for an epoch, if there is anything to train, and validate if it is time."""
        epoch = run.epoch + 1
        if run.steps is None:
            run.objective.progress = Progress(monitor=self.monitor)
            row: dict[str, float] = {"epoch": epoch}
            run.history.seconds.append(0.0)
        else:
            progress = Progress(epoch, self.max_epochs, tuple(run.history.rows), self.monitor)
            row = train_epoch(fabric, hooks, run, features, graph, progress)
        if validation is not None and (epoch % self.eval_every == 0 or run.steps is None):
            self._validate(hooks, run, row, features, graph, validation)
        if run.steps is None:
            row |= read_statistics(run.objective, row)  # What the validation has chosen.
        else:
            step_scheduler(run.steps.scheduler, row.get(f"val/{self.monitor}"))
        return row

    def _validate(
        self,
        hooks: Hooks,
        run: Run,
        row: dict[str, float],
        features: dict[str, Tensor],
        graph: dict[Any, Any],
        validation: Validation,
    ) -> None:
        with run.averaged():
            hooks("on_validation_start", epoch=int(row["epoch"]))
            validation(run, row, features, graph)
            hooks("on_validation_end", epoch=int(row["epoch"]), row=row)
