"""Steps on a GPU that are captured once in an epoch as a CUDA graph and replayed, for small graphs."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import torch
from torch import Tensor

from pyg_ckd.balance.objective import Objective
from pyg_ckd.data.batch import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.training.callbacks import as_callbacks
from pyg_ckd.training.optimizer import RowAdam

INSIDE = ("on_before_backward", "on_before_optimizer_step")
"""Hooks inside of a step, which a replayed step does not call."""
OUTPUTS = "on_train_batch_end"
"""The hook that gets the loss terms of a step, which a callback may keep."""
Step = Callable[[Any], dict[str, Tensor]]


class CapturedSteps:
    """Takes the steps of a training, captured as CUDA graphs.

    On a small graph, a GPU is done with an operation before the next one is issued. A captured step is issued as one.
    It reads the triples from tensors of its own, into which those of a batch are copied. What changes from epoch to
    epoch, such as graphs, is captured anew, and so are learning rates that a callback changes: the first step of an
    epoch is taken operation by operation, as are those of other sizes and those with weights of triples; the second one
    is captured. All of them run on a stream of their own, for the gradient of a parameter is added up on the stream
    that it was first used on.

    Args:
        optimizer: The optimizer, whose rates a captured step holds fixed.
        copies: Whether the loss terms of a step are copies, which stay what they are; else the next step overwrites
            them.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, copies: bool = False) -> None:
        self._optimizer, self._copies, self._rates = optimizer, copies, ()
        self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._step: Step | None = None
        self._batch: TripletBatch | None = None
        self._sizes: list[torch.Size] = []
        self._terms: dict[str, Tensor] = {}

    def epoch(self, step: Step) -> Step:
        """Return what takes the steps of the next epoch.

        Args:
            step: Takes a step on a batch operation by operation and returns its loss terms.
        """
        self._step, self._batch, self._sizes = step, None, []
        return self._take

    def _take(self, batch: TripletBatch) -> dict[str, Tensor]:
        assert self._step is not None
        sizes = [x.size() for x in batch]
        if batch.weight is not None or sizes != self._sizes:
            self._sizes = self._sizes or sizes
            return self._eager(batch, self._step)
        rates = tuple(group["lr"] for group in self._optimizer.param_groups)
        if self._batch is None or rates != self._rates:  # A callback may have changed them.
            self._capture(batch, self._step)
            self._rates = rates
        assert self._batch is not None
        assert self._graph is not None
        for own, given in zip(self._batch, batch, strict=True):
            own.copy_(given)
        self._graph.replay()
        return {name: term.clone() for name, term in self._terms.items()} if self._copies else self._terms

    def close(self) -> None:
        """Give the memory back at the end of a training; a graph that is destroyed during another capture breaks it."""
        with suppress(RuntimeError):  # Of a GPU that has failed; what went wrong is said already.
            if self._graph is not None:
                torch.cuda.synchronize()
                self._graph.reset()
        self._graph, self._step, self._batch, self._terms = None, None, None, {}

    def _eager(self, batch: TripletBatch, step: Step) -> dict[str, Tensor]:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            terms = {name: term.detach() for name, term in step(batch).items()}
        current.wait_stream(self._stream)
        return terms

    def _capture(self, batch: TripletBatch, step: Step) -> None:
        own = TripletBatch(*(x.clone() for x in batch))
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream), _nothing_collected():
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    terms = {name: term.detach() for name, term in step(own).items()}
                except BaseException:
                    with suppress(RuntimeError):  # What went wrong first is what is to be mended.
                        graph.capture_end()
                    raise
                graph.capture_end()
        except RuntimeError as error:
            first = (str(error).strip().splitlines() or ["no message"])[0]
            raise InputError(
                f"capture: found a step that cannot be captured as a CUDA graph ({first[:160]}), expected one that "
                "waits for no number and whose sizes do not depend on the data; train with capture=False"
            ) from error
        current.wait_stream(self._stream)
        # The graph of the epoch before lives until here: the memory of both is the same.
        self._graph, self._batch, self._terms = graph, own, terms


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Collect no garbage inside the block: an old graph or event among it would break the capture."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def capture_steps(
    objective: Objective, trainer: Any, optimizer: torch.optim.Optimizer, alone: bool
) -> CapturedSteps | None:
    """Return what captures the steps of a training, and make the optimizer ready for it; :obj:`None` for none.

    Args:
        objective: What is trained, on its device.
        trainer: Says how to train.
        optimizer: The optimizer.
        alone: Whether this is the only process of the training.

    Raises:
        InputError: If they shall be captured, and something changes from step to step that a captured step holds fixed.
    """
    if not trainer.capture:
        return None
    device = next(objective.parameters()).device
    found = _obstacle(objective, trainer, optimizer, alone, device)
    if found and trainer.capture == "auto":
        return None
    if found:
        raise InputError(f"capture: found {found}, expected like steps on a GPU; train with capture=False")
    for group in optimizer.param_groups:
        group["capturable"] = True
    cast(Any, optimizer)._warned_capturable_if_run_uncaptured = True  # The first steps are not captured on purpose.
    return CapturedSteps(optimizer, any(hasattr(callback, OUTPUTS) for callback in as_callbacks(trainer.callbacks)))


def _obstacle(
    objective: Objective, trainer: Any, optimizer: torch.optim.Optimizer, alone: bool, device: torch.device
) -> str:
    """Return what stands in the way of captured steps, or nothing."""
    options = trainer.options
    inside = [hook for hook in INSIDE for callback in as_callbacks(trainer.callbacks) if hasattr(callback, hook)]
    for obstacle, text in (
        (device.type != "cuda", f"device {str(device)!r}"),
        (not alone, "several processes"),
        (trainer.num_neighbors is not None, f"num_neighbors {trainer.num_neighbors}"),
        (trainer.precision != "32-true", f"precision {trainer.precision!r}"),
        (type(optimizer) is not RowAdam, f"the optimizer {type(optimizer).__name__}"),
        (options.schedule != "constant", f"schedule {options.schedule!r}"),
        (options.warmup_steps > 0, f"warmup_steps {options.warmup_steps}"),
        (options.averaging > 0, f"averaging {options.averaging}"),
        (bool(inside), f"a callback with {', '.join(inside)}"),
        (not objective.capturable, f"strategy {objective.name!r}"),
        (not objective.student.capturable, f"backbone {type(objective.student).__name__}"),
        (getattr(objective.student, "sparse", False), "sparse=True"),  # How many rows have gradients is waited for.
    ):
        if obstacle:
            return text
    return ""
