"""Backward passes of strategies, apart from the gradients that parameters have already."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyg_ckd.errors import InputError


def accumulating(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a ``backward`` that adds the gradients of its step to those that parameters have already.

    While it runs, parameters have the gradients of the step alone, so that what a strategy mixes, edits or drops is of
    this step. Nothing is waited for.

    Args:
        method: The ``backward`` of a strategy, see :meth:`~pyg_ckd.balance.Objective.backward`.

    Raises:
        InputError: When it is called, if it calls ``run`` never and no parameter has a gradient either.
    """

    @functools.wraps(method)
    def added(self: nn.Module, terms: Mapping[str, Tensor], run: Callable[..., None]) -> Any:
        before, ran = [(p, p.grad) for p in self.parameters() if p.grad is not None], []

        def noted(*args: Any, **kw: Any) -> None:
            ran.append(True)
            run(*args, **kw)

        for p, _ in before:
            p.grad = None
        try:
            found = method(self, terms, noted)
            if not ran and all(p.grad is None for p in self.parameters()):
                raise InputError(
                    f"{type(self).__name__}.backward: found no call of run in the step, so that nothing would be "
                    "trained, expected at least one; call run(loss), or super().backward(terms, run) for the sum"
                )
        finally:
            for p, grad in before:
                p.grad = _sum(grad, p.grad)
        return found

    return added


@torch.no_grad()
def _sum(before: Tensor, own: Tensor | None) -> Tensor:
    if own is None:
        return before
    return own + before if before.is_sparse else before.add_(own)  # PyTorch adds sparse to dense, not dense to sparse.
