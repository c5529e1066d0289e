"""Everything that changes while a training goes on, as a checkpoint holds it."""

from __future__ import annotations

from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyg_ckd.balance.objective import Objective
from pyg_ckd.data.modules import device_of
from pyg_ckd.training.averaging import WeightAverage
from pyg_ckd.training.captured import CapturedSteps
from pyg_ckd.training.checkpoint import draw_on_elsewhere, drawn_elsewhere
from pyg_ckd.training.history import History
from pyg_ckd.training.layouts.base import Layout
from pyg_ckd.training.own_batches import OwnBatches, set_generator, stored_states
from pyg_ckd.training.sampled import Subgraphs
from pyg_ckd.training.schedule import Schedule
from pyg_ckd.training.stopping import EarlyStopping
from pyg_ckd.training.trained import TRAINED, Trained


@dataclass
class Steps:
    """What makes the steps of a training.

    Attributes:
        module: The objective as lightning-fabric wraps it.
        wrapped: The optimizer as lightning-fabric wraps it.
        optimizer: The optimizer itself, with groups of parameters by modality.
        sampler: Iterates over the batches of an epoch; its ``generator`` decides about them.
        scheduler: Changes the learning rates after an epoch, or :obj:`None`.
        schedule: Changes them from step to step, or :obj:`None`.
        clip_norm: Largest norm of all gradients of a step, or :obj:`None`.
        average: The average of the weights, or :obj:`None`.
        layout: What this process has of the training.
        subgraphs: Makes steps on sampled neighbourhoods of batches, or :obj:`None`.
        captured: Captures steps, or :obj:`None`.
        scaler: Scales the gradients of ``16-mixed``, or :obj:`None`.
    """

    module: nn.Module
    wrapped: torch.optim.Optimizer
    optimizer: torch.optim.Optimizer
    sampler: Any
    layout: Layout
    scheduler: Any = None
    schedule: Schedule | None = None
    clip_norm: float | None = None
    average: WeightAverage | None = None
    subgraphs: Subgraphs | None = None
    captured: CapturedSteps | None = None
    scaler: torch.amp.GradScaler | None = None

    @property
    def draws_apart(self) -> bool:
        """Whether each of several processes draws from the interactions of its own users."""
        return isinstance(self.sampler, OwnBatches)

    def state_dict(self) -> dict[str, Any]:
        """Return what changes from step to step; all processes that draw apart call it together."""
        drawn = self.sampler.states() if self.draws_apart else self.sampler.generator.get_state()
        state = {"optimizer": self.optimizer.state_dict(), "sampler_rng": drawn}
        parts = {"scheduler": self.scheduler, "average": self.average, "scaler": self.scaler}
        return state | {name: part.state_dict() for name, part in parts.items() if part is not None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a stored state."""
        stored = state["optimizer"]
        if any("capturable" in group for group in stored["param_groups"]):  # That is for the device that is trained on.
            own = [{"capturable": group["capturable"]} for group in self.optimizer.param_groups]
            groups = [given | kept for given, kept in zip(stored["param_groups"], own, strict=True)]
            stored = {**stored, "param_groups": groups}
        self.optimizer.load_state_dict(stored)
        drawn = stored_states(state["sampler_rng"])
        if self.draws_apart:
            self.sampler.go_on(drawn)
        else:
            set_generator(self.sampler.generator, drawn[0])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.scaler is not None and "scaler" in state:  # Not in a run of before.
            self.scaler.load_state_dict(state["scaler"])


@dataclass
class Run:
    """A training between two epochs.

    Attributes:
        objective: What is trained.
        stopper: The early stopping.
        history: The record so far.
        steps: What makes the steps; :obj:`None` if there is nothing to train.
        best_state: Weights of the best epoch so far.
        validates: Whether there is a validation part.
        taken: Steps that are taken.
        budget: Epochs that it may last at most; 0 if that is not known.
        stages: The objective's ``stages_left`` and ``stage_of_best`` in the last epoch; :obj:`None` before the first.
    """

    objective: Objective
    stopper: EarlyStopping
    history: History
    steps: Steps | None
    best_state: dict[str, Tensor]
    validates: bool = True
    taken: int = 0
    budget: int = 0
    stages: tuple[int, int] | None = None

    @property
    def epoch(self) -> int:
        """Epochs that are finished."""
        return len(self.history.rows)

    @property
    def trained(self) -> Trained | None:
        """The parameters that are trained; :obj:`None` if there are none."""
        return None if self.steps is None else Trained(self.objective, self.steps.optimizer, self.steps.average)

    def last(self, epochs: int) -> None:
        """Take the number of epochs that it may last at most.

        What a callback of an earlier call ended it for holds for the number of that call: with more it goes on.

        Args:
            epochs: The number.
        """
        if 0 < self.budget < epochs:
            self.history.stopped = ""
        self.budget = epochs

    @property
    def unfinished(self) -> bool:
        """Whether stages of the objective's schedule are still to come."""
        return self.stages is not None and self.stages[0] > 0

    def begin_epoch(self) -> None:
        """Take note of the stage that the objective is in; with a new one, the early stopping begins anew."""
        now = int(self.objective.stages_left), int(self.objective.stage_of_best)
        before, self.stages = self.stages or now, now
        if now[0] < before[0] or now[1] > before[1]:
            self.stopper.restart(self.taken, now[1] > before[1])

    def ended(self, max_epochs: int, times: int) -> str:
        """Return why training has ended, or nothing if it goes on.

        Args:
            max_epochs: Epochs at most.
            times: How many times as many epochs a training may last that still rises.
        """
        if self.history.stopped:
            return self.history.stopped
        if self.steps is None:
            return "nothing to train" if self.epoch else ""
        if self.stopper.should_stop and not self.unfinished:
            return f"no rise in the last {self.stopper.waited} steps"
        if not self.validates:
            return "budget" if self.epoch >= max_epochs else ""
        return self.stopper.end_of(self.epoch, max_epochs, times, self.unfinished)

    def capturing(self) -> AbstractContextManager[Any]:
        """Return a block at whose end what was captured is given back."""
        captured = None if self.steps is None else self.steps.captured
        return nullcontext() if captured is None else closing(captured)

    def averaged(self) -> AbstractContextManager[None]:
        """Return a block in which the objective has the averages of its weights, if they are averaged."""
        return nullcontext() if self.steps is None or self.steps.average is None else self.steps.average.applied()

    def keep_best(self) -> None:
        """Keep the present weights as those of the best epoch; what no step changes is not copied."""
        same = self._unchanging()
        self.best_state = {k: same[k] if k in same else v.clone() for k, v in self.objective.state_dict().items()}

    def _unchanging(self) -> dict[str, Tensor]:
        parts = {path: part for path, part in self.objective.named_modules() if isinstance(part, Objective)}
        starts = tuple(f"{path}.{own}.".lstrip(".") for path, part in parts.items() for own in part.unchanging_state)
        return {k: v for k, v in self.objective.state_dict().items() if f"{k}.".startswith(starts)}

    def state_dict(self) -> dict[str, Any]:
        """Return all that the same training needs to go on with the same bits."""
        state = {
            "model": self.objective.state_dict(),
            "stopper": self.stopper.state_dict(),
            "taken": self.taken,
            "rows": self.history.rows,
            "seconds": self.history.seconds,
            "validation_seconds": self.history.validation_seconds,
            "stopped": self.history.stopped,
            "budget": self.budget,
            "stages": self.stages,
            "best_state": self.best_state,
            "rng": torch.get_rng_state(),
            "other_rng": drawn_elsewhere(),
        }
        if self.steps is not None:
            state |= self.steps.state_dict()
        if self.trained is not None:
            state[TRAINED] = self.trained.names()
        device = device_of(self.objective)
        if device is not None and device.type == "cuda":  # Of the training's own device, which need not be the current.
            state["cuda_rng"] = torch.cuda.get_rng_state(device)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a stored state."""
        self.objective.load_state_dict(state["model"])
        self.stopper.load_state_dict(state["stopper"])
        self.taken = state["taken"]
        self.history.rows, self.history.seconds = state["rows"], state["seconds"]
        self.history.validation_seconds, self.history.stopped = state["validation_seconds"], state["stopped"]
        self.best_state = state["best_state"] | self._unchanging()
        self.budget = state.get("budget", 0)  # Not in a run of before.
        stages = state.get("stages")  # Not in a run of before either.
        self.stages = None if stages is None else tuple(stages)
        if self.steps is not None:
            self.steps.load_state_dict(state)
        torch.set_rng_state(state["rng"].cpu())
        if "other_rng" in state:  # Not in a run of before.
            draw_on_elsewhere(state["other_rng"])
        device = device_of(self.objective)
        if "cuda_rng" in state and device is not None and device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), device)
