"""Features of which each of several processes has those of some items, projected together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyg_ckd.errors import InputError
from pyg_ckd.processes import Processes

COLUMNS = 64
"""Columns of features that a process has of all items at a time, where they are propagated before their projection."""


class FeaturePart:
    r"""The rows of features that a process has, instead of the matrix of all items.

    A linear map of it is that of all items, in all processes: with :math:`\mathbf{F}_k` the rows of process :math:`k`,

    .. math::
        \mathbf{Y} = \left[ \mathbf{F}_1 \mathbf{W}^\top + \mathbf{b}; \ldots; \mathbf{F}_P \mathbf{W}^\top + \mathbf{b}
        \right], \qquad
        \frac{\partial \mathcal{L}}{\partial \mathbf{W}} = \sum_k \mathbf{G}_k^\top \mathbf{F}_k, \qquad
        \mathbf{G} = \sum_k \frac{\partial \mathcal{L}_k}{\partial \mathbf{Y}}

    where a process gathers the rows of :math:`\mathbf{Y}` forward, adds the gradients of its own rows up backward, and
    ends with its part :math:`\mathbf{G}_k^\top \mathbf{F}_k` of the gradient of the weight. Every process must compute
    the same maps in the same order.

    :func:`torch.nn.functional.linear`, and so :class:`torch.nn.Linear`, takes it as it is; so does the mean over items.
    All else is refused, for a process does not have what it would read.

    Args:
        name: What the features are of, for messages.
        x: Features of own items ``[I_k, d]``, after those of own users (``num_users``), without gradient.
        num_items: Number of all items ``I``.
        processes: The processes; each has the items of :meth:`block`.
        num_users: Rows of own users before them, as features that are propagated have; they are not gathered.
    """

    requires_grad = False

    def __init__(self, name: str, x: Tensor, num_items: int, processes: Processes, num_users: int = 0) -> None:
        self.name, self.x, self.num_items, self.processes, self.num_users = name, x, num_items, processes, num_users

    @staticmethod
    def block(num_items: int, processes: Processes) -> slice:
        """Return the items of this process: blocks of one size, but for the last ones.

        Args:
            num_items: Number of all items.
            processes: The processes.
        """
        each = -(-num_items // processes.size)
        return slice(min(num_items, processes.rank * each), min(num_items, (processes.rank + 1) * each))

    @property
    def shape(self) -> torch.Size:
        """That of the matrix of all items, and own users, if there are any."""
        return torch.Size((self.num_users + self.num_items, self.x.size(1)))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the features."""
        return self.x.dtype

    @property
    def device(self) -> torch.device:
        """Where own rows are."""
        return self.x.device

    @property
    def _version(self) -> int:
        return self.x._version

    def is_inference(self) -> bool:
        """Return whether own rows were made in inference mode."""
        return self.x.is_inference()

    def size(self, dim: int | None = None) -> Any:
        """Return :attr:`shape`, or one number of it.

        Args:
            dim: The dimension.
        """
        return self.shape if dim is None else self.shape[dim]

    def to(self, dtype: torch.dtype) -> FeaturePart:
        """Return the features in another type, or this.

        Args:
            dtype: The type.
        """
        return self if dtype == self.dtype else self._with(self.x.to(dtype), self.num_users)

    def mean(self, dim: int = 0, keepdim: bool = True) -> Tensor:
        """Return the mean over all items, ``[1, d]``.

        Args:
            dim: The first one alone.
            keepdim: True alone.
        """
        if (dim, keepdim) != (0, True) or self.num_users:
            raise self._refusal("another mean than that over items", self.name)
        total = self.x.sum(dim=0, keepdim=True, dtype=torch.float64)
        self.processes.add_to(total)
        return (total / self.num_items).to(self.dtype)

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the projection of own users and all items, ``[num_users + I, D]``.

        Args:
            weight: Weight ``[D, d]``.
            bias: Bias ``[D]``.
        """
        rows = F.linear(self.x, weight, bias)
        if not self.num_users:
            return _OfAll.apply(rows, self.num_items, self.processes)
        users, items = rows.split([self.num_users, rows.size(0) - self.num_users])
        return torch.cat([users, _OfAll.apply(items, self.num_items, self.processes)])

    @torch.no_grad()
    def propagated(self, propagate: Callable[[Tensor], Tensor]) -> FeaturePart:
        """Return the rows that own users and own items have after a propagation of all items' features.

        A process has :data:`COLUMNS` of the columns of all items at a time.

        Args:
            propagate: From columns of all items ``[I, c]`` to those of own users and all items ``[U_k + I, c]``.
        """
        own, parts, users = self.block(self.num_items, self.processes), [], 0
        for columns in self.x.split(COLUMNS, dim=1):
            out = propagate(_OfAll.apply(columns, self.num_items, self.processes))
            users = out.size(0) - self.num_items
            parts.append(torch.cat([out[:users], out[users + own.start : users + own.stop]]))
        return self._with(torch.cat(parts, dim=1), users)

    def _with(self, x: Tensor, num_users: int) -> FeaturePart:
        return FeaturePart(self.name, x, self.num_items, self.processes, num_users)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Tensor:
        """Let :func:`torch.nn.functional.linear` gather, and refuse all other functions."""
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | (kwargs or {})
        part = next((x for x in given.values() if isinstance(x, cls)), None)
        if func is F.linear and part is not None and given["input"] is part:
            return part.linear(given["weight"], given.get("bias"))
        raise cls._refusal(getattr(func, "__name__", str(func)), None if part is None else part.name)

    def __getitem__(self, index: Any) -> Tensor:
        """Refuse rows and columns."""
        raise self._refusal("rows or columns", self.name)

    def __getattr__(self, name: str) -> Any:
        """Refuse what matrices have beside."""
        if name.startswith("_") or "name" not in self.__dict__:  # Asked for by whoever looks what it is, or copies it.
            raise AttributeError(name)
        raise self._refusal(name, self.name)

    @staticmethod
    def _refusal(what: str, name: str | None) -> InputError:
        features = "features" if name is None else f"features of {name!r}"
        return InputError(
            f"cut_features: found {what} of {features} of which each process has some items, expected their projection "
            "(nn.Linear) and their mean alone; leave the modality out of the backbone's 'projected', or cut no features"
        )


def propagated(x: Tensor, propagate: Callable[[Tensor], Tensor]) -> Tensor:
    """Return features of all items after a propagation, as a part where they are one.

    Args:
        x: Features of all items ``[I, d]``.
        propagate: From columns of all items to those of all nodes.
    """
    return cast(Tensor, x.propagated(propagate)) if isinstance(x, FeaturePart) else propagate(x)


class _OfAll(torch.autograd.Function):
    """Rows of all processes; the gradient of own rows is the sum of the gradients of all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int, processes: Processes) -> Tensor:
        ctx.processes, ctx.own = processes, FeaturePart.block(size, processes)
        each = -(-size // processes.size)
        x = x.detach().contiguous() if x.size(0) == each else F.pad(x.detach(), (0, 0, 0, each - x.size(0)))
        return processes.gather_blocks(x)[:size]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        # Half a precision is enough for numbers, not for their sums.
        dtype = torch.promote_types(grads[0].dtype, torch.float32)
        grad = grads[0].to(dtype, copy=True, memory_format=torch.contiguous_format)
        ctx.processes.add_to(grad)
        return grad[ctx.own].to(grads[0].dtype), None, None
