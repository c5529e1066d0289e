"""Adam for tables of which a step reads few rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT


class RowAdam(torch.optim.Adam):
    r"""Adam that takes sparse gradients too, and moves no row that such a gradient does not hold.

    Dense gradients are treated as in `"Adam: A Method for Stochastic Optimization" <https://arxiv.org/abs/1412.6980>`_.
    Of a table :math:`\mathbf{T}` with a sparse gradient, only the rows :math:`r` that it holds change, and their
    moments:

    .. math::
        \mathbf{m}_r &\leftarrow \beta_1 \mathbf{m}_r + (1 - \beta_1) \mathbf{g}_r, \qquad
        \mathbf{v}_r \leftarrow \beta_2 \mathbf{v}_r + (1 - \beta_2) \mathbf{g}_r^2 \\
        \mathbf{T}_r &\leftarrow \mathbf{T}_r - \eta\, \frac{\mathbf{m}_r / (1 - \beta_1^t)}
        {\sqrt{\mathbf{v}_r / (1 - \beta_2^t)} + \epsilon}

    with :math:`t` the number of steps of the table. Adam itself would go on moving the other rows by their decaying
    first moments. This is :class:`torch.optim.SparseAdam` for parameters of both kinds at once, but for
    :math:`\epsilon`, which stands where Adam has it.

    The arguments are those of :class:`torch.optim.Adam`; ``weight_decay``, ``amsgrad`` and ``maximize`` are refused
    beside sparse gradients.
    """

    def __init__(self, params: ParamsT, *args: Any, **options: Any) -> None:
        super().__init__(params, *args, **options)
        # Else a scaler of gradients leaves scaling to the fused kernel, which sees no sparse ones.
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient.

        Args:
            closure: Computes the loss anew, as in :meth:`torch.optim.Optimizer.step`.

        Raises:
            RuntimeError: If there is a sparse gradient beside an option that only dense ones have, or one that does not
                consist of rows; nothing has moved then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        given = [(p, p.grad, group) for group in self.param_groups for p in group["params"]]
        sparse = [(p, grad, group) for p, grad, group in given if grad is not None and grad.is_sparse]
        for _, grad, group in sparse:
            _check(grad, group)
        for p, _, _ in sparse:
            p.grad = None
        super().step()
        for p, grad, group in sparse:
            self._update_rows(p, grad, group)
            p.grad = grad
        return loss

    def _update_rows(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[p], group["betas"]
        if not state:  # As Adam's, so that a step with a dense gradient finds what it expects.
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(p) for _ in range(2))
        grad = grad.coalesce()
        rows, values = grad.indices()[0], grad.values()
        state["step"] += 1
        first = state["exp_avg"].index_select(0, rows).lerp_(values, 1 - beta1)
        second = state["exp_avg_sq"].index_select(0, rows).mul_(beta2).addcmul_(values, values, value=1 - beta2)
        state["exp_avg"].index_copy_(0, rows, first)
        state["exp_avg_sq"].index_copy_(0, rows, second)
        step = state["step"].double()  # The powers of betas near one.
        scale = (1 - beta2**step).sqrt()
        rate = group["lr"] * scale / (1 - beta1**step)
        denominator = second.sqrt_().add_((group["eps"] * scale).to(p.dtype))
        p.index_add_(0, rows, first.div_(denominator).mul_(-rate.to(p.dtype)))


def _check(grad: Tensor, group: dict[str, Any]) -> None:
    if group["weight_decay"] or group["amsgrad"] or group["maximize"]:
        raise RuntimeError("RowAdam takes sparse gradients without weight_decay, amsgrad and maximize only")
    if grad.sparse_dim() != 1:
        raise RuntimeError(f"RowAdam takes sparse gradients of whole rows, found {grad.sparse_dim()} sparse dimensions")
