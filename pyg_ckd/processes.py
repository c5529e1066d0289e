"""The processes that work on one task together; the only file that names :mod:`torch.distributed`."""

from __future__ import annotations

import atexit
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyg_ckd.errors import InputError

__all__ = ["ALONE", "Processes", "apart", "launch", "present", "started"]

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others, which may be evaluating or writing."""

FEWEST_BLOCKS, SMALLEST_BLOCK = 16, 64
"""Work is cut into so many blocks, for there to be some for every process, unless they get smaller than this."""

R = TypeVar("R")


class Processes:
    """The processes of a task, each of which has all methods called in the same order by all of them.

    Alone, a process waits for nobody, copies nothing and gets back what it gave.

    Args:
        rank: Number of this process, from 0.
        size: Number of processes.

    Attributes:
        calls: How many times this process has exchanged tensors.
        bytes: Bytes of the tensors that it has given to these exchanges.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self.calls = self.bytes = 0

    def __repr__(self) -> str:
        """Return for example ``process 1 of 4``, counted from 1."""
        return f"process {self.rank + 1} of {self.size}"

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks and writes for all."""
        return self.rank == 0

    def share(self, size: int) -> tuple[int, int]:
        """Return the start and the end of this process's part of ``size`` things in a row, as even as can be.

        Args:
            size: Number of things.
        """
        each, more = divmod(size, self.size)
        start = self.rank * each + min(self.rank, more)
        return start, start + each + (self.rank < more)

    def blocks(self, size: int, largest: int) -> Iterator[tuple[int, int]]:
        """Yield the start and the end of each block of things in a row that is for this process, one after the other.

        Blocks are cut without regard to the number of processes and every process has whole ones: what is computed
        block by block has the same shapes, and so the same bits, in any number of processes.

        Args:
            size: Number of things.
            largest: Things in a block at most; there are fewer in it where there would be few blocks.
        """
        block = max(1, min(largest, max(SMALLEST_BLOCK, -(-size // FEWEST_BLOCKS))))
        for number in range(*self.share(-(-size // block))):
            yield number * block, min(size, (number + 1) * block)

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum over processes of a part of ``x`` each; the gradient of the sum is that of every part.

        For what every process goes on to compute alike, such as margins of which each has some columns.

        Args:
            x: The part of this process, of one shape in all.
        """
        return x if self.alone else cast(Tensor, _Sum.apply(x, self))

    def total(self, x: Tensor) -> Tensor:
        """Return the sum over processes; the gradient of a part is the sum of the gradients of all processes.

        For what every process goes on to use for a share of the loss, such as the embeddings of items.

        Args:
            x: The part of this process, of one shape in all.
        """
        return x if self.alone else cast(Tensor, _Total.apply(x, self))

    @torch.no_grad()
    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over processes, in one exchange for each type and device.

        Args:
            tensors: Dense tensors, of the same shapes and in the same order in all processes.
        """
        if self.alone:
            return
        groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for x in tensors:
            groups.setdefault((x.dtype, x.device), []).append(x)
        for group in groups.values():
            flat = torch.cat([x.reshape(-1) for x in group])
            self._all_reduce(flat)
            for x, found in zip(group, flat.split([x.numel() for x in group]), strict=True):
                x.copy_(found.view_as(x))

    @torch.no_grad()
    def gather_rows(self, x: Tensor) -> Tensor:
        """Return the rows of all processes, one after the other in the order of their numbers, in all of them.

        Args:
            x: The rows of this process; numbers of rows may differ, all else may not.
        """
        if self.alone:
            return x
        if dist.get_backend() == "nccl" and not x.is_cuda:  # It exchanges what is on a GPU, and nothing else.
            return self.gather_rows(x.cuda()).to(x.device)
        sizes = torch.zeros(self.size, dtype=torch.int64, device=x.device)
        sizes[self.rank] = x.size(0)
        self._all_reduce(sizes)
        counts = sizes.tolist()
        padded = x.new_zeros(max(counts), *x.shape[1:])
        padded[: x.size(0)] = x
        found = [torch.empty_like(padded) for _ in counts]
        self._exchange(lambda: dist.all_gather(found, padded), padded)
        return torch.cat([part[:count] for part, count in zip(found, counts, strict=True)])

    def gather(self, value: R) -> list[R]:
        """Return a small value of every process, such as a message or a number, in all of them.

        Args:
            value: What can be pickled.
        """
        if self.alone:
            return [value]
        found: list[Any] = [None] * self.size
        self._exchange(lambda: dist.all_gather_object(found, value))
        return found

    def agree(self, name: str, value: object) -> None:
        """Refuse a value that is not the same in all processes, in all of them.

        Args:
            name: What it is, for the message.
            value: The value; it is compared as text.

        Raises:
            InputError: If it differs.
        """
        found = self.gather(str(value))
        if len(set(found)) > 1:
            shown = "; ".join(f"process {rank + 1}: {text[:200]}" for rank, text in enumerate(found))
            raise _everywhere(
                InputError(f"{name}: found several ({shown}), expected the same in all {self.size} processes")
            )

    def agree_nearly(self, name: str, x: Tensor, tolerance: float = 0.01) -> None:
        """Refuse numbers that differ between processes by more than rounding, in all of them.

        Args:
            name: What they are, for the message.
            x: A few numbers, of one shape in all processes.
            tolerance: How much they may differ, as a share of the largest of them.

        Raises:
            InputError: If they differ.
        """
        found = self.gather_rows(x.detach().double().reshape(1, -1).cpu())
        scale = found.abs().nan_to_num(0.0, 0.0, 0.0).amax() if found.numel() else 0.0
        alike = (found == found[0]) | ((found - found[0]).abs() <= tolerance * scale)
        if not bool(alike.all()):
            rank = int((~alike).any(dim=1).nonzero()[0])
            message = (
                f"{name}: found another in process {rank + 1} than in process 1, expected the same in all {self.size} "
                "processes; give all of them the same, or let each work by itself inside pyg_ckd.processes.apart()"
            )
            raise _everywhere(InputError(message))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block in which processes do not speak with each other; what one of them refuses ends all of them.

        Raises:
            InputError: If the block raises one in any process: the error of the first that does.
        """
        mine: InputError | None = None
        try:
            yield
        except InputError as error:
            mine = error
        if self.alone:
            if mine is not None:
                raise mine
            return
        messages = self.gather(None if mine is None else str(mine))
        first = next((text for text in messages if text is not None), None)
        if first is not None:
            raise _everywhere(mine if mine is not None and str(mine) == first else InputError(first))

    def first_then_all(self, compute: Callable[[], R]) -> R:
        """Run a function in the first process and then in the others, which find what it has left on disk.

        Args:
            compute: The function; it does not speak with other processes.

        Raises:
            InputError: If it raises one in any process.
        """
        result: list[R] = []
        for turn in (True, False):
            with self.together(), apart():
                if self.first is turn:
                    result.append(compute())
        return result[0]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if not self.alone:
            self._exchange(dist.barrier)

    def _all_reduce(self, x: Tensor) -> None:
        self._exchange(lambda: dist.all_reduce(x), x)

    def _exchange(self, run: Callable[[], Any], x: Tensor | None = None) -> None:
        if x is not None:
            self.calls += 1
            self.bytes += x.numel() * x.element_size()
        try:
            run()
        except RuntimeError as error:
            raise self._lost(error) from None

    def _lost(self, error: RuntimeError) -> InputError:
        reason = re.sub(r"\[\S+:\d+\] *", "", " ".join(str(error).split("\n")[0].split()))[:120]
        return InputError(
            f"{self}: another process has ended or cannot be reached ({reason}), expected all {self.size} to the end; "
            "the same command goes on from the last checkpoint, see the messages of the others for why one ended"
        )


ALONE = Processes()
"""A process without others."""


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, processes: Processes) -> Tensor:
        out = x.detach().clone(memory_format=torch.contiguous_format)
        processes._all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        out = x.detach().clone(memory_format=torch.contiguous_format)
        processes._all_reduce(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        ctx.processes._all_reduce(grad)
        return grad, None


def _everywhere(error: InputError) -> InputError:
    error.everywhere = True
    return error


_known: list[Processes] = []
_apart: ContextVar[bool] = ContextVar("apart", default=False)


@contextmanager
def apart() -> Iterator[None]:
    """Let a process of a group work by itself inside the block, where :func:`present` is :data:`ALONE`.

    For what processes do not do together, such as to train and evaluate a model each.
    """
    token = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(token)


def started() -> int:
    """Return how many processes ``torchrun``, a cluster or :func:`launch` started together; 1 inside :func:`apart`."""
    return 1 if _apart.get() else int(os.environ.get("WORLD_SIZE", "1"))


def present() -> Processes:
    """Return the processes of the group that this one is in; :data:`ALONE` outside a group and inside :func:`apart`."""
    if _apart.get() or not (dist.is_available() and dist.is_initialized()):
        return ALONE
    rank, size = dist.get_rank(), dist.get_world_size()
    if size == 1:
        return ALONE
    if not _known or (_known[0].rank, _known[0].size) != (rank, size):
        _known[:] = [Processes(rank, size)]
    return _known[0]


def launch(devices: int = 1, num_nodes: int = 1, accelerator: str = "cpu", start: bool = False) -> Processes:
    """Join the processes that were started together, or start them.

    They are those that ``torchrun`` or a cluster started, as lightning-fabric finds out. The processes of a group that
    exists already are taken as they are.

    Args:
        devices: Processes on this machine, each with a device of its own.
        num_nodes: Number of machines.
        accelerator: Accelerator of lightning-fabric.
        start: Whether to start the other processes, as copies of this one that run the same command from its beginning.

    Raises:
        InputError: If there is no group to join, or one of another size.
    """
    asked, found = devices * num_nodes, present()
    if started() > 1 and "LOCAL_RANK" not in os.environ:
        raise InputError(
            f"processes: found {started()} of them (WORLD_SIZE) without numbers (LOCAL_RANK), expected what torchrun "
            "sets; start them with torchrun, or unset WORLD_SIZE"
        )
    if found.alone and not dist.is_initialized() and (start or started() > 1):
        found = _join(devices, num_nodes, accelerator)
    if found.size != asked:
        here = "outside a group of processes" if found.alone else f"in a group of {found.size} processes"
        raise InputError(
            f"devices: found {devices} on {num_nodes} machines {here}, expected as many as there are processes; start "
            f"them with torchrun --nproc-per-node {devices} --nnodes {num_nodes}, or by pyg-ckd, which starts those "
            "of --trainer.devices itself"
        )
    return found


def _join(devices: int, num_nodes: int, accelerator: str) -> Processes:
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    loggers = [logging.getLogger(name) for name in ("lightning.fabric", "lightning_fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    observer = logging.getLogger("lightning_fabric.strategies.launchers.subprocess_script")
    observer.setLevel(logging.INFO)  # It ends this process without a word beside its record.
    observer.addHandler(_Obituary())
    observer.propagate = False
    try:
        strategy = DDPStrategy(timeout=TIMEOUT)
        Fabric(accelerator=accelerator, devices=devices, num_nodes=num_nodes, strategy=strategy).launch()
        atexit.register(_leave)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"devices: found {devices}, which cannot be started here ({reason})") from None
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    return present()


class _Obituary(logging.Handler):
    """Says in a line that one of the processes that this one started has ended, before lightning-fabric ends all."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line."""
        code = " ".join(record.getMessage().split("code ")[-1].split(".")[0].split())
        sys.stderr.write(
            f"pyg-ckd: error: one of the processes that work together has ended (exit code {code}), expected all to "
            "the end; the same command goes on from the last checkpoint\n"
        )
        sys.stderr.flush()


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
