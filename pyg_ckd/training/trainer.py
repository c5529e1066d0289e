"""The training loop: sampling, steps, validation, early stopping, checkpoints and exact resume."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from pyg_ckd.arguments import as_integer, as_number, as_seed
from pyg_ckd.balance.objective import Objective, as_objective
from pyg_ckd.data.build import fingerprint
from pyg_ckd.data.inputs import RATES, unpack
from pyg_ckd.data.modules import dtype_of
from pyg_ckd.data.sampler import TripletSampler
from pyg_ckd.devices import Device, fabric_device
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.evaluation.ranking import Evaluator
from pyg_ckd.scoring.views import unimodal_views
from pyg_ckd.training.checkpoint import check_settings, load_checkpoint, save_checkpoint, seeded
from pyg_ckd.training.history import History
from pyg_ckd.training.memory import kept_memory
from pyg_ckd.training.optimizer import RowAdam
from pyg_ckd.training.stopping import EarlyStopping

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CHECKPOINT_NAME = "last.pt"
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass
class _Run:
    """Everything that changes while a run goes on."""

    objective: Objective
    optimizer: torch.optim.Optimizer
    adam: RowAdam  # What lightning-fabric wraps as the optimizer.
    sampler: TripletSampler
    stopper: EarlyStopping
    history: History
    best_state: dict[str, Tensor]

    def state_dict(self) -> dict[str, Any]:
        state = {
            "model": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "stopper": self.stopper.state_dict(),
            "rows": self.history.rows,
            "seconds": self.history.seconds,
            "best_state": self.best_state,
            "sampler_rng": self.sampler.generator.get_state(),
            "rng": torch.get_rng_state(),
        }
        if torch.cuda.is_available():
            state["cuda_rng"] = torch.cuda.get_rng_state()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.objective.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.stopper.load_state_dict(state["stopper"])
        self.history.rows, self.history.seconds = state["rows"], state["seconds"]
        self.best_state = state["best_state"]
        self.sampler.generator.set_state(state["sampler_rng"].cpu())
        torch.set_rng_state(state["rng"].cpu())
        if "cuda_rng" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda_rng"].cpu())

    @property
    def epoch(self) -> int:
        """Epochs that are finished."""
        return len(self.history.rows)


class Trainer:
    """Trains an objective with Adam and early stopping on the validation part.

    Full-graph training: every step propagates over the whole graph and scores a batch of triples. An epoch is one pass
    over all training interactions.

    Args:
        max_epochs: Epochs at most.
        batch_size: Triples in a step.
        lr: Learning rate of Adam.
        monitor: Validation metric ``name@k`` that decides about stopping and the best epoch.
        patience: Evaluations without improvement after which training stops.
        eval_every: Epochs from one evaluation to the next.
        track_views: Whether every uni-modal view is evaluated beside the trained one, for the learning curves.
        seed: Seed of sampling and of everything random inside the model's steps; the same seed gives the same bits on
            the CPU. The model's initial weights are the caller's.
        device: ``"auto"``, or a name or :class:`torch.device` as PyTorch has them, such as ``"cpu"`` or ``"cuda:1"``.
        precision: ``"32-true"``, ``"bf16-mixed"`` or ``"16-mixed"``, the words of lightning-fabric. Propagation over
            the graph stays in single precision.
        checkpoint_dir: Folder of the checkpoint that :meth:`fit` writes and goes on from; :obj:`None` writes nothing.
        checkpoint_minutes: Minutes between checkpoints; 0 writes one after every evaluation.
        progress: Whether to show a progress bar on a terminal.

    Raises:
        InputError: If a number is out of its range.
    """

    def __init__(
        self,
        max_epochs: int = 200,
        batch_size: int = 2048,
        lr: float = 1e-3,
        monitor: str = "recall@20",
        patience: int = 20,
        eval_every: int = 1,
        track_views: bool = True,
        seed: int = 0,
        device: Device = "auto",
        precision: str = "32-true",
        checkpoint_dir: str | os.PathLike[str] | None = None,
        checkpoint_minutes: float = 0.0,
        progress: bool = True,
    ) -> None:
        max_epochs, batch_size = as_integer(max_epochs, "max_epochs", 1), as_integer(batch_size, "batch_size", 1)
        eval_every, patience = as_integer(eval_every, "eval_every", 1), as_integer(patience, "patience")
        lr, checkpoint_minutes = as_number(lr, "lr"), as_number(checkpoint_minutes, "checkpoint_minutes")
        seed = as_seed(seed)
        if not (lr > 0 and math.isfinite(lr)):
            raise InputError(f"lr: found {lr}, expected a positive number")
        if checkpoint_minutes < 0:
            raise InputError(f"checkpoint_minutes: found {checkpoint_minutes}, expected zero or more")
        EarlyStopping(patience)
        if precision not in PRECISIONS:
            raise unknown_name("precision", precision, PRECISIONS)
        self.max_epochs, self.batch_size, self.lr = max_epochs, batch_size, lr
        self.metric, self.cutoff = parse_metric(monitor)
        self.monitor, self.patience, self.eval_every = monitor, patience, eval_every
        self.track_views, self.seed, self.device, self.precision = track_views, seed, device, precision
        self.checkpoint_dir = None if checkpoint_dir is None else Path(checkpoint_dir)
        self.checkpoint_minutes, self.progress = checkpoint_minutes, progress

    def settings(self) -> dict[str, Any]:
        """Return what decides about the result of a run, apart from the model and the data."""
        names = ("batch_size", "lr", "monitor", "patience", "eval_every", "track_views", "seed", "precision")
        return {name: getattr(self, name) for name in names}

    def fit(self, model: nn.Module, data: HeteroData) -> History:
        """Train ``model`` in place; at the end it has the weights of the best epoch.

        A checkpoint in :attr:`checkpoint_dir` of the same model, data and settings is gone on from, with the same bits
        as if there had been no break (on the CPU). ``max_epochs`` may differ from the first call's.

        Args:
            model: An objective, or a backbone (or any module with ``forward(x_dict, edge_index) -> (user, item)``) for
                plain joint training.
            data: The graph, with a validation part.

        Raises:
            InputError: If there is nothing to train or validate on, the loss is not finite any more, or a checkpoint
                does not fit.
        """
        from lightning_fabric import Fabric

        objective = as_objective(model, data)
        accelerator, devices = fabric_device(self.device)
        try:
            fabric = Fabric(accelerator=accelerator, devices=devices, precision=self.precision)  # type: ignore[arg-type]
        except (ValueError, RuntimeError) as error:
            raise InputError(f"device: found {self.device!r}, expected one that this machine has ({error})") from None
        with seeded(self.seed), kept_memory(), self._progress(type(objective.student).__name__) as advance:
            run, wrapped, features, graph = self._set_up(fabric, objective, data)
            evaluator = Evaluator(data, "val", [self.cutoff], [self.metric])
            settings = {"data": fingerprint(data), **objective.settings(), **self.settings()}
            self._resume(run, settings)
            written = time.monotonic()
            while run.epoch < self.max_epochs and not run.stopper.should_stop:
                row = self._train_epoch(fabric, wrapped, run, features, graph)
                last = run.epoch + 1 == self.max_epochs
                never = last and run.stopper.best_epoch < 0  # There must be a best epoch at the end.
                if (run.epoch + 1) % self.eval_every == 0 or never:
                    self._validate(run, row, evaluator, features, graph)
                run.history.rows.append(row)
                advance(run)
                finished = last or run.stopper.should_stop
                if finished or time.monotonic() - written >= 60 * self.checkpoint_minutes:
                    self._write(run, settings)
                    written = time.monotonic()
            objective.load_state_dict(run.best_state)
        objective.to("cpu")
        run.history.best_epoch, run.history.best_value = run.stopper.best_epoch, run.stopper.best
        return run.history

    def _set_up(
        self, fabric: Fabric, objective: Objective, data: HeteroData
    ) -> tuple[_Run, nn.Module, dict[str, Tensor], dict[Any, Any]]:
        features, edges = unpack(data, fabric.device, dtype_of(objective))
        objective.to(fabric.device)
        objective.train()
        parameters = [p for p in objective.parameters() if p.requires_grad]
        if not parameters:
            raise InputError(f"{type(objective.student).__name__}: found no trainable parameter, expected at least one")
        optimizer = RowAdam(parameters, lr=self.lr, fused=True)
        wrapped, wrapped_optimizer = fabric.setup(objective, optimizer)
        wrapped.mark_forward_method("loss")
        sampler = TripletSampler(
            edges[RATES],
            data["user"].num_nodes,
            data["item"].num_nodes,
            self.batch_size,
            objective.num_random_triples,
            self.seed,
        )
        best = {k: v.detach().clone() for k, v in objective.state_dict().items()}
        run = _Run(objective, wrapped_optimizer, optimizer, sampler, EarlyStopping(self.patience), History(), best)
        return run, wrapped, features, objective.prepare(features, edges)

    def _train_epoch(
        self, fabric: Fabric, wrapped: nn.Module, run: _Run, features: dict[str, Tensor], graph: dict[Any, Any]
    ) -> dict[str, float]:
        start = time.perf_counter()
        totals: dict[str, Tensor] = {}
        graph = run.objective.begin_epoch(features, graph)
        for batch in run.sampler:
            run.optimizer.zero_grad(set_to_none=True)
            terms = wrapped.loss(features, graph, batch)  # type: ignore[operator]
            fabric.backward(torch.stack([term.float() for term in terms.values()]).sum())
            run.optimizer.step()
            for name, term in terms.items():  # Stays on the device: a step never waits for its own loss.
                totals[name] = totals.get(name, 0) + term.detach()
        run.adam.settle()
        row: dict[str, float] = {"epoch": run.epoch + 1}
        row |= {f"loss/{name}": float(total) / len(run.sampler) for name, total in totals.items()}
        run.history.seconds.append(time.perf_counter() - start)
        broken = [name for name, value in row.items() if not math.isfinite(value)]
        if broken:
            raise InputError(
                f"training diverged in epoch {row['epoch']}: {broken[0]} is {row[broken[0]]}; lower lr (now {self.lr}) "
                "or the weights of the loss"
            )
        return row | run.objective.epoch_statistics()

    @torch.no_grad()
    def _validate(
        self, run: _Run, row: dict[str, float], evaluator: Evaluator, features: dict[str, Tensor], graph: dict[Any, Any]
    ) -> None:
        objective = run.objective
        views = {"val": objective.view}
        if self.track_views and len(objective.view) > 1:
            views |= {f"val/{m}": view for m, view in unimodal_views(objective.modalities).items()}
        objective.eval()
        outputs = objective.forward_views(features, graph, list(views.values()))
        objective.train()
        for name, out in zip(views, outputs, strict=True):
            row[f"{name}/{self.monitor}"] = evaluator(out)[self.monitor]
        if run.stopper.update(int(row["epoch"]), row[f"val/{self.monitor}"]):
            run.best_state = {k: v.detach().clone() for k, v in objective.state_dict().items()}

    def _resume(self, run: _Run, settings: dict[str, Any]) -> None:
        if self.checkpoint_dir is None or not (self.checkpoint_dir / CHECKPOINT_NAME).exists():
            return
        path = self.checkpoint_dir / CHECKPOINT_NAME
        content = load_checkpoint(path, "run")
        check_settings(path, content["settings"], settings)
        run.load_state_dict(content["run"])

    def _write(self, run: _Run, settings: dict[str, Any]) -> None:
        if self.checkpoint_dir is not None:
            content = {"kind": "run", "settings": settings, "run": run.state_dict()}
            save_checkpoint(self.checkpoint_dir / CHECKPOINT_NAME, content)

    @contextmanager
    def _progress(self, name: str) -> Iterator[Any]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, disable=not (self.progress and console.is_terminal)) as bar:
            task = bar.add_task(name, total=self.max_epochs)

            def advance(run: _Run) -> None:
                best = f"{name} {self.monitor} {run.stopper.best:.4f} (epoch {run.stopper.best_epoch})"
                bar.update(task, completed=run.epoch, description=best)

            yield advance


def parse_metric(name: str) -> tuple[str, int]:
    """Split ``"recall@20"`` into ``("recall", 20)``.

    Raises:
        InputError: If it has another form.
    """
    metric, _, cutoff = name.partition("@")
    if not cutoff.isdigit():
        raise InputError(f"metric: found {name!r}, expected a name and a cut-off such as 'recall@20'")
    return metric, int(cutoff)
