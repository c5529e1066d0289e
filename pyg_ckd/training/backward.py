"""The backward pass of a step, as the precision of the training and the strategy want it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pyg_ckd.balance.objective import Objective

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def backward(fabric: Fabric, objective: Objective, terms: Mapping[str, Tensor], before: Callable[..., None]) -> None:
    """Let an objective compute the gradients of a step.

    In half precision (``16-mixed``), losses are scaled up so that small gradients do not vanish. A strategy with a
    ``backward`` of its own must not see that: its gradients have their true scale while it works on them.

    Args:
        fabric: Runs the backward passes.
        objective: The objective.
        terms: The loss terms of the step.
        before: Called as ``before(loss=loss)`` before every pass.
    """

    def run(loss: Tensor, retain_graph: bool = False) -> None:
        before(loss=loss)
        fabric.backward(loss, retain_graph=retain_graph)

    scaler = getattr(fabric.strategy.precision, "scaler", None)
    if scaler is None or type(objective).backward is Objective.backward:
        objective.backward(terms, run)
    else:
        in_true_scale(objective, terms, run, scaler)


def in_true_scale(objective: Objective, terms: Mapping[str, Tensor], run: Callable[..., None], scaler: Any) -> None:
    """Call an objective's ``backward`` with gradients in their true scale, and scale them up for the scaler's step.

    The scale is a power of two and stays on the device: nothing is rounded and nothing waits.

    Args:
        objective: The objective.
        terms: The loss terms of the step.
        run: Accumulates the gradients of a loss that it scales up.
        scaler: The scaler, a :class:`torch.amp.GradScaler`.
    """
    parameters = [p for p in objective.parameters() if p.requires_grad]
    scale = scaler.scale(torch.ones((), device=next(iter(terms.values())).device))

    def run_unscaled(loss: Tensor, retain_graph: bool = False) -> None:
        _multiply(parameters, scale)
        run(loss, retain_graph)
        _multiply(parameters, scale.reciprocal())

    objective.backward(terms, run_unscaled)
    _multiply(parameters, scale)


@torch.no_grad()
def clip_gradients(
    fabric: Fabric, optimizer: torch.optim.Optimizer, most: float, norm_of: Callable[..., Tensor] | None = None
) -> None:
    """Scale all gradients down if the norm of all of them together is larger than ``most``; no number is waited for.

    From `"On the difficulty of training Recurrent Neural Networks" <https://arxiv.org/abs/1211.5063>`_. Sparse
    gradients count as the dense ones that they stand for. In half precision, gradients get their true scale first,
    which the step of the scaler knows.

    Args:
        fabric: Runs the backward passes.
        optimizer: Has the parameters.
        most: The largest norm.
        norm_of: Returns the norm of all gradients together, from parameters and the norms of their gradients
            ``[N]``. (default: :obj:`None`, there are no others)
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not parameters:
        return
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    if scaler is not None:
        scaler.unscale_(optimizer)
    values = []
    for p in parameters:
        if p.grad.is_sparse:
            p.grad = p.grad.coalesce()
        values.append(p.grad._values() if p.grad.is_sparse else p.grad)
    norms = torch._foreach_norm(values)
    wide = torch.float64 if any(n.dtype == torch.float64 for n in norms) else torch.float32
    stacked = torch.stack([n.to(wide) for n in norms])
    norm = torch.linalg.vector_norm(stacked) if norm_of is None else norm_of(parameters, stacked)
    factor = (most / norm.clamp(min=torch.finfo(norm.dtype).tiny)).clamp(max=1.0)
    for value in values:
        value.mul_(factor.to(value.dtype))


@torch.no_grad()
def _multiply(parameters: Iterable[nn.Parameter], factor: Tensor) -> None:
    for p in parameters:
        if p.grad is not None:
            p.grad.mul_(factor.to(p.grad.dtype))
