"""Backward passes of strategies, apart from the gradients that parameters have already."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pyg_ckd.balance.signatures import passes_on
from pyg_ckd.errors import InputError

Method = TypeVar("Method", bound=Callable[..., Any])

TRAINED = "_has_trained"
"""Name of what an objective keeps, in no state, once a backward pass of it has computed gradients."""
_inside: ContextVar[bool] = ContextVar("_inside", default=False)


def delegating(method: Method) -> Method:
    """Mark a ``backward`` that only calls that of another objective, which sets gradients aside itself.

    Args:
        method: The ``backward``, which :func:`accumulating` returns as it is.
    """
    method.delegates = True  # type: ignore[attr-defined]
    return method


def accumulating(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a ``backward`` that adds the gradients of its step to those that parameters have already.

    While it runs, parameters have the gradients of the step alone, so that what a strategy mixes, edits or drops is of
    this step. Nothing is waited for, so that gradients of zero are gradients too.

    Args:
        method: The ``backward`` of a strategy, see :meth:`~pyg_ckd.balance.Objective.backward`.

    Raises:
        InputError: When it is called, if the objective has never been trained, and ``run`` is called never and no
            parameter has a gradient either; not by a ``backward`` that another one calls.

    Warns:
        UserWarning: If it then has gradients that it computed without ``run``, and none of a term.
    """
    if getattr(method, "delegates", False):
        return method

    @passes_on(method)
    def added(self: nn.Module, terms: Mapping[str, Tensor], run: Callable[..., None]) -> Any:
        shared = torch.distributed.is_available() and torch.distributed.is_initialized()
        before = [  # DistributedDataParallel may write the gradients of the step where those before lie.
            (p, p.grad.clone() if shared else p.grad) for p in self.parameters() if p.grad is not None
        ]
        is_first = not _inside.get() and TRAINED not in self.__dict__
        used: set[str] = set()
        watches = [
            t.register_hook(lambda _, n=name: used.add(n)) for name, t in terms.items() if t.requires_grad and is_first
        ]

        def noted(*args: Any, **kw: Any) -> None:
            self.__dict__[TRAINED] = True
            run(*args, **kw)

        for p, _ in before:
            p.grad = None
        token = _inside.set(True)
        try:
            found = method(self, terms, noted)
            if is_first and TRAINED not in self.__dict__:
                if all(p.grad is None for p in self.parameters()):
                    raise InputError(
                        f"{type(self).__name__}.backward: found no call of run in the step, so that nothing would be "
                        "trained, expected at least one; call run(loss), or super().backward(terms, run) for the sum"
                    )
                left = [name for name, term in terms.items() if term.requires_grad and name not in used]
                if left:
                    warnings.warn(
                        f"{type(self).__name__}.backward: found no call of run in the step, and gradients without "
                        f"those of {', '.join(left)}, which are not trained; call run(loss) for every loss",
                        stacklevel=2,
                    )
                self.__dict__[TRAINED] = True
        finally:
            for watch in watches:
                watch.remove()
            _inside.reset(token)
            for p, grad in before:
                p.grad = _sum(grad, p.grad)
        return found

    return added


@torch.no_grad()
def _sum(before: Tensor, own: Tensor | None) -> Tensor:
    if own is None:
        return before
    return own + before if before.is_sparse else before.add_(own)  # PyTorch adds sparse to dense, not dense to sparse.
