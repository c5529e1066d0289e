"""The processes that work on one task together; the only file that names :mod:`torch.distributed`."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from functools import partial, reduce
from itertools import chain
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyg_ckd.errors import InputError

__all__ = ["ALONE", "Processes", "apart", "joined", "leave", "present", "started"]

TIMEOUT = timedelta(days=1)
"""How long a process waits for the others, which may be training a teacher; one that has ended is noticed at once."""

LARGE_PART = 2**26
"""Bytes of the largest part of rows beyond which they are gathered part by part, in the memory of the result alone."""

LARGE_SUM = 2**22
"""Bytes from which on a tensor that is summed beside others is not copied to stand next to them."""

MEND = "give all of them the same, or let each work by itself inside pyg_ckd.processes.apart()"

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
        bytes: Bytes of the tensors that it has given to these exchanges, or got from :meth:`gather_blocks`.
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
        return self.sums([x])[0]

    def sums(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the :meth:`sum` of each of several tensors, of any types, in one exchange.

        Args:
            tensors: The parts of this process, on one device, of the same shapes and in the same order in all.
        """
        return list(tensors) if self.alone or not tensors else list(_Sums.apply(self, *tensors))

    def total(self, x: Tensor) -> Tensor:
        """Return the sum over processes; the gradient of a part is the sum of the gradients of all processes.

        For what every process goes on to use for a share of the loss, such as the embeddings of items.

        Args:
            x: The part of this process, of one shape in all.
        """
        return x if self.alone else cast(Tensor, _Total.apply(x, self))

    @torch.no_grad()
    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over processes: large ones in place, others in one exchange for each type.

        Args:
            tensors: Dense tensors, of the same shapes and in the same order in all processes.
        """
        if self.alone:
            return
        groups: dict[Any, list[Tensor]] = {}
        for number, x in enumerate(tensors):
            groups.setdefault(number if x.nbytes >= LARGE_SUM else (x.dtype, x.device), []).append(x)
        seen, flats = set[int](), list[Tensor]()
        for group in groups.values():  # Gradients may share memory: all copies come before the first sum.
            copied = len(group) > 1 or group[0].data_ptr() in seen
            flats.append(torch.cat([x.reshape(-1) for x in group]) if copied else group[0].contiguous().view(-1))
            seen.update(x.data_ptr() for x in group)
        for flat in flats:
            self._all_reduce(flat)
        for x, found in chain.from_iterable(map(_parts, groups.values(), flats)):
            if found.data_ptr() != x.data_ptr():
                x.copy_(found.view_as(x))

    @torch.no_grad()
    def add_to(self, x: Tensor) -> None:
        """Replace one tensor by its sum over processes, without a copy of it.

        Args:
            x: A dense, contiguous tensor, of one shape in all processes.
        """
        if not self.alone:
            self._all_reduce(x)

    @torch.no_grad()
    def gather_blocks(self, x: Tensor) -> Tensor:
        """Return the rows of all processes, one after the other in the order of their numbers, without a copy of them.

        Args:
            x: The rows of this process, contiguous, of one shape and type in all.
        """
        if self.alone:
            return x
        out = x.new_empty(self.size * x.size(0), *x.shape[1:])
        self._exchange(lambda: dist.all_gather(list(out.chunk(self.size)), x), out)
        return out

    @torch.no_grad()
    def gather_rows(self, x: Tensor, first_only: bool = False) -> Tensor:
        """Return the rows of all processes, one after the other in the order of their numbers, in all of them.

        Args:
            x: The rows of this process; numbers of rows may differ, all else may not.
            first_only: Whether the first process alone gets them, and the others get their own back.
        """
        if self.alone:
            return x
        if dist.get_backend() == "nccl" and not x.is_cuda:  # It exchanges what is on a GPU, and nothing else.
            return self.gather_rows(x.cuda(), first_only).to(x.device)
        sizes = torch.zeros(self.size, dtype=torch.int64, device=x.device)
        sizes[self.rank] = x.size(0)
        self._all_reduce(sizes)
        counts = sizes.tolist()
        if max(counts) * math.prod(x.shape[1:]) * x.element_size() > LARGE_PART:  # Alike in all, also without rows.
            return self._gather_in_place(x, counts, first_only)
        padded = x.new_zeros(max(counts), *x.shape[1:])
        padded[: x.size(0)] = x
        found = [torch.empty_like(padded) for _ in counts] if self.first or not first_only else None
        if first_only:
            self._exchange(lambda: dist.gather(padded, found), padded)
        else:
            self._exchange(lambda: dist.all_gather(found, padded), padded)
        if found is None:
            return x
        return torch.cat([part[:count] for part, count in zip(found, counts, strict=True)])

    def _gather_in_place(self, x: Tensor, counts: Sequence[int], first_only: bool) -> Tensor:
        """Gather rows into one tensor, part by part, without a copy of any."""
        if first_only and not self.first:
            if x.numel():
                self._exchange(lambda: dist.send(x.contiguous(), 0), x)
            return x
        out = x.new_empty(sum(counts), *x.shape[1:])
        for rank, part in enumerate(out.split(list(counts))):
            if rank == self.rank:
                part.copy_(x)
            if first_only and rank > 0 and part.numel():
                self._exchange(partial(dist.recv, part, rank))
            elif not first_only and part.numel():
                self._exchange(partial(dist.broadcast, part, rank), part if rank == self.rank else None)
        return out

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
            value: The value; it is compared as text, a mapping entry by entry.

        Raises:
            InputError: If it differs.
        """
        if isinstance(value, Mapping):
            texts = self.gather({str(key): str(one) for key, one in value.items()})
            keys = dict.fromkeys(key for text in texts for key in text)
            differ = [key for key in keys if len({text.get(key) for text in texts}) > 1]
            if differ:
                name, value = f"{name}, {differ[0]}", texts[self.rank].get(differ[0], "nothing")
        found = self.gather(str(value))
        if len(set(found)) > 1:
            shown = "; ".join(f"process {rank + 1}: {text[:200]}" for rank, text in enumerate(found))
            raise _everywhere(
                InputError(f"{name}: found several ({shown}), expected the same in all {self.size} processes")
            )

    def agree_nearly(self, name: str, x: Tensor, tolerance: float = 0.01, mend: str = MEND) -> None:
        """Refuse numbers that differ between processes by more than rounding, in all of them.

        Args:
            name: What they are, for the message.
            x: A few numbers, of one shape in all processes.
            tolerance: How much they may differ, as a share of the largest of them.
            mend: What to do about it, for the message.

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
                f"processes; {mend}"
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


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, processes: Processes, *parts: Tensor) -> tuple[Tensor, ...]:
        # Half a precision is enough for numbers, not for their sums.
        dtype = reduce(torch.promote_types, (x.dtype for x in parts), torch.float32)
        flat = torch.cat([x.detach().reshape(-1).to(dtype) for x in parts])
        processes._all_reduce(flat)
        sums = flat.split([x.numel() for x in parts])
        found = tuple(s.view(x.shape).to(x.dtype, copy=True) for s, x in zip(sums, parts, strict=True))
        ctx.mark_non_differentiable(*(s for s, x in zip(found, parts, strict=True) if not x.requires_grad))
        ctx.set_materialize_grads(False)  # What nobody asks the gradient of costs no backward pass.
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, *grads)


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


def _parts(group: Sequence[Tensor], flat: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(group, flat.split([x.numel() for x in group]), strict=True)


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
    found = os.environ.get("WORLD_SIZE", "1")
    return 1 if _apart.get() or not found.isdecimal() else max(1, int(found))


def present() -> Processes:
    """Return the processes of the group that this one is in; :data:`ALONE` outside a group and inside :func:`apart`."""
    if _apart.get() or not joined() or dist.get_world_size() == 1:
        return ALONE
    rank, size = dist.get_rank(), dist.get_world_size()
    if not _known or (_known[0].rank, _known[0].size) != (rank, size):
        _known[:] = [Processes(rank, size)]
    return _known[0]


def joined() -> bool:
    """Return whether this process is in a group, perhaps of one."""
    return bool(dist.is_available() and dist.is_initialized())


def leave() -> None:
    """Leave the group."""
    if joined():
        dist.destroy_process_group()
