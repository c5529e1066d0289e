"""Sums over columns of which every process has some: what a step reads of tables, in one exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from pyg_ckd.errors import InputError
from pyg_ckd.processes import Processes

_Key = tuple[Any, ...]
_Found = tuple[Tensor, tuple[Any, ...]]
"""A sum, and the objects whose ids its key is made of: held, so that no others can get these ids."""


class _Step:
    """What a step knows already, by name, objects, and whether it was read with gradient."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.inside = False
        self._known: dict[_Key, _Found] = {}
        self._waiting: dict[_Key, _Found] | None = None

    def sums(
        self,
        compute: Callable[..., Sequence[Tensor]],
        name: str,
        of: Sequence[Any],
        lists: Sequence[tuple[Any, ...]],
    ) -> list[Tensor]:
        holds = [(*of, *more) for more in lists]
        missing = [n for n, hold in enumerate(holds) if self._find(name, hold) is None]
        if missing:
            with self.within():
                parts = compute(*(lists[n] for n in missing))
            found = {_key(name, holds[n]): (x, holds[n]) for n, x in zip(missing, parts, strict=True)}
            if self._waiting is None:
                self._exchange(found)
            else:
                self._waiting |= found
        return [self._find(name, hold) for hold in holds]  # type: ignore[misc]

    def collect(self, read: Callable[[], object]) -> None:
        self._waiting = {}
        try:
            read()
            self._exchange(self._waiting)
        finally:
            self._waiting = None

    @contextmanager
    def within(self) -> Iterator[None]:
        self.inside = True
        try:
            yield
        finally:
            self.inside = False

    def _exchange(self, parts: dict[_Key, _Found]) -> None:
        sums = self.processes.sums([x for x, _ in parts.values()])
        self._known |= {key: (x, hold) for (key, (_, hold)), x in zip(parts.items(), sums, strict=True)}

    def _find(self, name: str, hold: tuple[Any, ...]) -> Tensor | None:
        """Return what is known or waits; without gradient, also what was read with one."""
        grad = torch.is_grad_enabled()
        for mode in (True,) if grad else (True, False):
            for there in (self._known, self._waiting or {}):
                if (key := _key(name, hold, mode)) in there:
                    return there[key][0]
        return None


def _key(name: str, hold: tuple[Any, ...], grad: bool | None = None) -> _Key:
    told = (x if isinstance(x, str) else id(x) for x in hold)
    return (name, torch.is_grad_enabled() if grad is None else grad, *told)


_open: list[_Step] = []
"""The steps that are open in any thread: read first, since compiled code can look at a list and at no variable."""
_present: ContextVar[_Step | None] = ContextVar("_present", default=None)


def _here() -> _Step | None:
    return _present.get() if _open else None


@contextmanager
def summed_over(processes: Processes) -> Iterator[None]:
    """Add up over processes, inside, what is read of tables of which each of them has some columns.

    What has been read once is remembered to the end of the block, which is to be one step.

    Args:
        processes: The processes.
    """
    step = _Step(processes)
    token = _present.set(step)
    _open.append(step)
    try:
        yield
    finally:
        _open.remove(step)
        _present.reset(token)


def read_together(read: Callable[[], object]) -> None:
    """Exchange all at once what a function reads inside :func:`summed_over`; outside do nothing.

    Inside the function, sums are those of this process's columns alone; afterwards they are known as they are.

    Args:
        read: Reads what a step needs, with and without gradient as the step does, and changes nothing.
    """
    step = _here()
    if step is not None:
        step.collect(read)


def column_sums(
    compute: Callable[..., Sequence[Tensor]], name: str, of: Sequence[Any], lists: Sequence[tuple[Any, ...]]
) -> list[Tensor]:
    """Return numbers each of which is a sum over columns, one tensor for each of several lists.

    Outside :func:`summed_over` they are what ``compute`` returns; inside, the sums of that over processes, whose
    gradients go to the columns of every process.

    Args:
        compute: Returns a tensor for each of the lists that it is called with.
        name: What is computed.
        of: The objects that it is computed of. What has the same name, objects and list is the same in a step.
        lists: The lists, such as triples.
    """
    step = _here()
    if step is None or step.inside:
        return list(compute(*lists))
    return step.sums(compute, name, of, lists)


def column_sum(compute: Callable[[], Tensor], name: str, *of: Any) -> Tensor:
    """Return one tensor as :func:`column_sums` does.

    Args:
        compute: Returns it.
        name: As there.
        *of: As there.
    """
    return column_sums(lambda _: [compute()], name, of, [()])[0]


def check_rows(what: str) -> None:
    """Refuse to hand out rows of which this process has some columns alone, as if they were whole.

    Args:
        what: What was asked for.

    Raises:
        InputError: Inside :func:`summed_over`, but for what is inside a sum.
    """
    step = _here()
    if step is not None and not step.inside:
        raise InputError(
            f"strategy: found 'columns' for a loss that reads {what} of tables, of which every process has some "
            "columns alone, expected one that reads margins and squared norms; choose strategy='ddp' or one process"
        )
