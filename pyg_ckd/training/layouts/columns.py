"""Columns of the tables on every process: nothing but margins travels between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyg_ckd.balance.objective import Objective
from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.scoring.column_sums import summed_over
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.training.layouts.base import Layout
from pyg_ckd.training.layouts.elementwise import ELEMENTWISE

Change = Callable[[str, Tensor], Tensor]


class Part(NamedTuple):
    """Which part of a tensor this process has.

    Attributes:
        dim: The dimension that is cut.
        start: Its first row along that dimension.
        stop: The row behind its last one.
        size: Rows of the whole.
    """

    dim: int
    start: int
    stop: int
    size: int

    def of(self, x: Tensor) -> Tensor:
        """Return a copy of the part of a whole tensor."""
        return x.narrow(self.dim, self.start, self.stop - self.start).clone(memory_format=torch.contiguous_format)


class Columns(Layout):
    r"""Every process has as many columns of every table, and computes the losses of the whole batch.

    Propagation, projections and the optimizer act on each column alone; columns meet in inner products. With the
    columns :math:`\mathcal{C}_p` of process :math:`p`,

    .. math::
        \delta_{uij} = \sum_p \sum_{c \in \mathcal{C}_p} u_c (i_c - j_c)

    is the only sum over processes, beside the squared norm, in one exchange a step. Its gradient goes to every process
    as it is, for all of them compute the same loss of it. Tensor parallelism over columns of features is from
    "NeutronTP: Load-Balanced Distributed Full-Graph GNN Training with Tensor Parallelism", PVLDB 18(2), 2024.

    Tables are cut out of the initialised ones, since what initial numbers are drawn from depends on the width. The
    graph and the features are whole on every process. Rows narrower than 16 columns (8 on a GPU) cost more than their
    share.
    """

    name = "columns"

    def refuses(self, objective: Objective) -> str:
        """Return why an objective cannot be cut by columns, or nothing."""
        student, dims = objective.student, objective.column_dims()
        name, size = type(student).__name__, self.processes.size
        if getattr(student, "cosine", None) is not None:
            return f"{name} with a cosine, which needs rows whole, expected cosine=None"
        for key, p in objective.named_parameters():
            if key not in dims:
                return f"{name} with a parameter {key!r} of which it does not say where its columns lie"
            dim = dims[key]
            if dim is not None and p.size(dim) % size:
                return f"{name} of width {p.size(dim)} for {size} processes, expected a multiple of {size}"
        return ""

    def cut(
        self, objective: Objective, features: dict[str, Tensor], edges: dict[EdgeType, Any]
    ) -> tuple[dict[str, Tensor], dict[EdgeType, Any]]:
        """Leave this process its columns of all tables, and all of the features and graphs."""
        self._parts: dict[str, Part] = {}
        dims = objective.column_dims()
        for name, x in _tensors(objective, dims):
            self._parts[name] = self._part(x, dims[name])
            _replace(objective, name, self._parts[name].of(x.detach()))
        objective.student.is_part = True
        return features, objective.prepare(features, edges)

    def _part(self, x: Tensor, dim: int | None) -> Part:
        if dim is None:
            size = x.size(0)
            return Part(0, 0 if self.processes.first else size, size, size)
        return Part(dim, *self.processes.share(x.size(dim)), x.size(dim))

    def join(self, objective: Objective) -> None:
        """Put all tables together again on all processes, in host memory."""
        for name, x in _tensors(objective, self._parts):
            x.grad = None
            _replace(objective, name, self._whole(name, x.detach()).cpu())
        objective.student.is_part = False

    def share(self, batch: TripletBatch) -> tuple[TripletBatch, float]:
        """Return the whole batch."""
        return batch, 1.0

    def step(self) -> AbstractContextManager[None]:
        """Return a block in which margins and norms are sums over the processes' columns."""
        return summed_over(self.processes)

    def shared_parameters(self, objective: Objective) -> list[nn.Parameter]:
        """Return none: no two processes have the same columns."""
        return []

    def whole_tables(self, embeddings: Embeddings) -> Embeddings:
        """Return the columns of all processes side by side, in an order of their own."""
        return Embeddings(*(self._side_by_side(x, 1) for x in embeddings))

    def add_up(self, totals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the terms as they are, for all processes have computed the same."""
        return dict(totals)

    def add_up_epoch(self, objective: Objective) -> None:
        """Leave an objective's sums over the triples of an epoch as they are, for all processes have the same."""

    def check_steps(self, optimizer: torch.optim.Optimizer, scales: bool) -> None:
        """Refuse optimizers that look at several columns at once, and gradients that are scaled by each for itself."""
        if type(optimizer) not in ELEMENTWISE:
            raise InputError(
                f"optimizer: found {type(optimizer).__name__} beside strategy='columns', expected one that treats "
                f"every column by itself, such as {', '.join(kind.__name__ for kind in ELEMENTWISE)}"
            )
        if scales:
            raise InputError(
                "precision: found '16-mixed' beside strategy='columns', each of whose processes would skip steps of "
                "its own, expected '32-true' or 'bf16-mixed'"
            )

    def whole_state(
        self, state: dict[str, Any], objective: Objective, optimizer: torch.optim.Optimizer | None
    ) -> dict[str, Any]:
        """Return the state of the whole training in host memory on the first process; on the others it has no use."""
        return self._changed(state, objective, optimizer, lambda name, x: self._whole(name, x, first_only=True).cpu())

    def own_state(
        self, state: dict[str, Any], objective: Objective, optimizer: torch.optim.Optimizer | None
    ) -> dict[str, Any]:
        """Return this process's part of the state of a whole training."""
        return self._changed(state, objective, optimizer, lambda name, x: self._parts[name].of(x))

    def _whole(self, name: str, x: Tensor, first_only: bool = False) -> Tensor:
        return self._side_by_side(x, self._parts[name].dim, first_only)

    def _side_by_side(self, x: Tensor, dim: int, first_only: bool = False) -> Tensor:
        found = self.processes.gather_rows(x.movedim(dim, 0), first_only)
        return found.movedim(0, dim).contiguous()

    def _changed(
        self, state: dict[str, Any], objective: Objective, optimizer: torch.optim.Optimizer | None, change: Change
    ) -> dict[str, Any]:
        """Return the state of a run with all that is cut changed, in the same order on all processes."""

        def tables(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: change(name, x) if name in self._parts else x for name, x in given.items()}

        state = state | {key: tables(state[key]) for key in ("model", "best_state") if key in state}
        names = {id(p): name for name, p in objective.named_parameters()}
        if "average" in state:
            own = [names[id(p)] for p in objective.parameters() if p.requires_grad]
            changed = [change(name, x) for name, x in zip(own, state["average"]["average"], strict=True)]
            state["average"] = state["average"] | {"average": changed}
        if optimizer is not None:
            order = [(names[id(p)], p) for group in optimizer.param_groups for p in group["params"]]
            moments = state["optimizer"]["state"]
            # A bias that another process has takes no steps here.
            here = [n for n in sorted(moments) if order[n][1].numel()]
            own_moments = {n: self._moments(moments[n], order[n][0], order[n][1], change) for n in here}
            state["optimizer"] = state["optimizer"] | {"state": own_moments}
        return state

    def _moments(self, stored: Mapping[str, Any], name: str, p: Tensor, change: Change) -> dict[str, Any]:
        """Return what an optimizer knows of a parameter: what is shaped like it is cut like it."""
        dim, start, stop, size = self._parts[name]
        shapes = p.shape, (*p.shape[:dim], size, *p.shape[dim + 1 :])
        if stop - start == size:  # A bias, which the first process has all of.
            return dict(stored)
        return {key: change(name, x) if isinstance(x, Tensor) and x.shape in shapes else x for key, x in stored.items()}


def _tensors(objective: Objective, names: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    """Return the parameters and buffers that are cut, in the objective's order, which is that of all processes."""
    known = {**dict(objective.named_parameters()), **dict(objective.named_buffers())}
    return [(name, x) for name, x in known.items() if name in names]


def _replace(objective: Objective, name: str, x: Tensor) -> None:
    """Give a parameter, which stays the same object, or a buffer another tensor."""
    owner, _, own = name.rpartition(".")
    module = objective.get_submodule(owner)
    if own in module._parameters:
        getattr(module, own).data = x
    else:
        setattr(module, own, x)
