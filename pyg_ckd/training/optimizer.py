"""Adam for tables of which a step reads few rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

LAST = "last_step"
"""Name of a table's state: after how many steps each row last changed."""
BLOCK = 65_536
"""Rows that are settled at a time."""


class RowAdam(torch.optim.Adam):
    r"""Adam that takes sparse gradients too, and then works on the rows that such a gradient holds alone.

    Dense gradients are treated as in `"Adam: A Method for Stochastic Optimization" <https://arxiv.org/abs/1412.6980>`_.
    Of a table :math:`\mathbf{T}` with a sparse gradient, only the rows :math:`r` that it holds change. What Adam would
    have done with such a row in the :math:`n` steps since it last changed is made up for first, with
    :math:`\rho = \beta_1 / \sqrt{\beta_2}`, before the row takes Adam's step:

    .. math::
        \mathbf{T}_r &\leftarrow \mathbf{T}_r - \eta \, \frac{\sqrt{1 - \beta_2^s}}{1 - \beta_1^s}
        \left( \sum_{j=1}^{n} \rho^j \right)
        \frac{\mathbf{m}_r}{\sqrt{\mathbf{v}_r} + \epsilon \sqrt{1 - \beta_2^s}} \\
        \mathbf{m}_r &\leftarrow \beta_1^n \mathbf{m}_r, \qquad \mathbf{v}_r \leftarrow \beta_2^n \mathbf{v}_r

    This is Adam over all rows but for three things: the corrections of bias are those of one step :math:`s`, the mean
    of the missed ones by their weights :math:`\rho^j`; :math:`\epsilon` does not meet the decay of
    :math:`\mathbf{v}_r`, which matters where it is not small beside its root; and a gradient is computed where a row
    stood before it was made up for. :meth:`settle` does that for all rows. It is to be called before a table is used
    as a whole, as in an evaluation, and before the learning rate changes. :class:`torch.optim.SparseAdam`, on the other
    hand, lets the moments of a row rest between its gradients.

    With ``decay`` :math:`\lambda`, every step multiplies the parameters by :math:`1 - \eta \lambda` first, as in
    `"Decoupled Weight Decay Regularization" <https://arxiv.org/abs/1711.05101>`_. Dense parameters without a gradient
    rest, as under :class:`torch.optim.AdamW`. Rows without one decay too, all steps at once when they are made up for;
    what a row missed decays by all of these steps, those before its movement included.

    Args:
        params: Parameters or groups of them.
        *args: As :class:`torch.optim.Adam` takes them.
        decay: Decoupled weight decay :math:`\lambda`.
        **options: As :class:`torch.optim.Adam` takes them; ``weight_decay`` (which adds to gradients), ``amsgrad``,
            ``maximize``, half-width tables and :math:`\beta_1 \ge \sqrt{\beta_2}` are refused beside sparse gradients.
    """

    def __init__(self, params: ParamsT, *args: Any, decay: float = 0.0, **options: Any) -> None:
        super().__init__(params, *args, **options)
        if decay:
            for group in self.param_groups:
                group["decay"] = decay
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
        for p, grad, group in sparse:
            _check(p, grad, group)
        self._settle([(p, group) for p, grad, group in given if grad is not None and not grad.is_sparse])
        for p, _, _ in sparse:
            p.grad = None
        for p, grad, group in given:
            if "decay" in group and grad is not None and not grad.is_sparse:
                p.mul_(_kept(group))
        _dense_step(self)
        for p, grad, group in given:
            if grad is not None and grad.is_sparse:
                self._update_rows(p, grad, group)
                p.grad = grad
            elif grad is not None and LAST in self.state[p]:
                self.state[p][LAST].copy_(self.state[p]["step"].expand(p.size(0)))
        return loss

    @torch.no_grad()
    def settle(self) -> None:
        """Move every row to where it stands after the last step, whenever it last had a gradient."""
        self._settle([(p, group) for group in self.param_groups for p in group["params"]])

    def _settle(self, parameters: Sequence[tuple[Tensor, dict[str, Any]]]) -> None:
        for p, group in parameters:
            state = self.state.get(p, {})
            for start in range(0, p.size(0), BLOCK) if LAST in state else ():
                part = slice(start, start + BLOCK)
                first, second, last = (state[name][part] for name in ("exp_avg", "exp_avg_sq", LAST))
                p[part].sub_(_make_up(first, second, last, state["step"], group))
                if "decay" in group:
                    p[part].mul_(_kept_of_rows(p, last, state["step"], group))
                last.copy_(state["step"].expand_as(last))

    def _update_rows(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[p], group["betas"]
        if not state:  # As Adam's, so that a step with a dense gradient finds what it expects.
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(p) for _ in range(2))
        if LAST not in state:  # So far all gradients were dense.
            state[LAST] = state["step"].to(p.device, torch.float32).repeat(p.size(0))
        grad = grad.coalesce()
        rows, values = grad.indices()[0], grad.values()
        first, second = (state[name].index_select(0, rows) for name in ("exp_avg", "exp_avg_sq"))
        last = state[LAST].index_select(0, rows)
        movement = _make_up(first, second, last, state["step"], group)
        if "decay" in group:
            there = p.index_select(0, rows)
            kept = _kept_of_rows(p, last, state["step"], group) * _kept(group)
            movement = there - (there - movement) * kept
        state["step"] += 1
        first.lerp_(values, 1 - beta1)
        second.mul_(beta2).addcmul_(values, values, value=1 - beta2)
        state["exp_avg"].index_copy_(0, rows, first)
        state["exp_avg_sq"].index_copy_(0, rows, second)
        state[LAST].index_copy_(0, rows, state["step"].to(last).expand(rows.numel()))
        p.index_add_(0, rows, movement.add_(_movement(first, second, state["step"], group)).neg_())


def _dense_step(optimizer: torch.optim.Adam) -> None:
    """Take Adam's step without the hooks of steps, which run around :meth:`RowAdam.step` already."""
    step: Callable[[torch.optim.Adam], Any] = torch.optim.Adam.step
    if getattr(step, "hooked", False):  # PyTorch wraps the method of the class as soon as there is an Adam.
        step = step.__wrapped__  # type: ignore[attr-defined]
    with _as_one_group(optimizer):
        step(optimizer)


@contextmanager
def _as_one_group(optimizer: torch.optim.Adam) -> Iterator[None]:
    """Put all groups that differ in their parameters alone into one, for one kernel in the place of several."""
    groups = optimizer.param_groups
    options = [{k: v for k, v in group.items() if isinstance(v, (bool, int, float, tuple))} for group in groups]
    rest = ("params", "modality")
    same = all(given == options[0] for given in options)
    plain = all(
        v is None or k in given or k in rest for g, given in zip(groups, options, strict=True) for k, v in g.items()
    )
    if len(groups) > 1 and same and plain:
        optimizer.param_groups = [{**groups[0], "params": [p for group in groups for p in group["params"]]}]
    try:
        yield
    finally:
        optimizer.param_groups = groups


def _make_up(first: Tensor, second: Tensor, last: Tensor, now: Tensor, group: dict[str, Any]) -> Tensor:
    """Decay moments by the steps between a row's last one and now, in place; return by how much the row moves down."""
    beta1, beta2 = group["betas"]
    ratio = beta1 / math.sqrt(beta2)
    last = last.double().view(-1, *[1] * (first.dim() - 1))
    missed = now.to(last) - last
    decay = ratio**missed
    total = ratio * (1 - decay) / (1 - ratio)
    weighted = ratio * (1 - (missed + 1) * decay + missed * decay * ratio) / (1 - ratio) ** 2
    mean = torch.where(missed > 0, weighted / total.clamp(min=torch.finfo(total.dtype).tiny), 1.0).clamp(min=1.0)
    moved = _movement(first, second, last + mean, group).mul_(total.to(first.dtype))
    first.mul_((beta1**missed).to(first.dtype))
    second.mul_((beta2**missed).to(first.dtype))
    return moved


def _movement(first: Tensor, second: Tensor, step: Tensor, group: dict[str, Any]) -> Tensor:
    """Return by how much Adam moves parameters of these moments down in a step, a scalar or one for every row."""
    beta1, beta2 = group["betas"]
    step = step.to(first.device, torch.float64)  # The powers of betas near one.
    scale = (1 - beta2**step).sqrt()
    rate = (group["lr"] * scale / (1 - beta1**step)).to(first.dtype)
    return (first / second.sqrt().add_((group["eps"] * scale).to(first.dtype))).mul_(rate)


def _kept(group: dict[str, Any]) -> float:
    """Return the share of a parameter that the decay of a step leaves."""
    return 1 - group["lr"] * group["decay"]


def _kept_of_rows(table: Tensor, last: Tensor, now: Tensor, group: dict[str, Any]) -> Tensor:
    """Return the share of rows that the decay of the steps between their last one and now leaves, ``[R, 1, ...]``."""
    missed = (now.to(last) - last).double().view(-1, *[1] * (table.dim() - 1))
    return (_kept(group) ** missed).to(table.dtype)


def _check(p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
    if group["weight_decay"] or group["amsgrad"] or group["maximize"]:
        raise RuntimeError("RowAdam takes sparse gradients without weight_decay, amsgrad and maximize only")
    if grad.sparse_dim() != 1:
        raise RuntimeError(f"RowAdam takes sparse gradients of whole rows, found {grad.sparse_dim()} sparse dimensions")
    if p.dtype not in (torch.float32, torch.float64):
        raise RuntimeError(f"RowAdam takes sparse gradients of float32 and float64 tables, found {p.dtype}")
    beta1, beta2 = group["betas"]
    if not beta1 < math.sqrt(beta2):
        raise RuntimeError(
            f"betas: found {group['betas']}, expected the first below the square root of the second beside sparse "
            "gradients; else a row's steps would grow while it has none"
        )
