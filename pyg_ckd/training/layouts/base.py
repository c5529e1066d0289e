"""What a layout says: which part of a training this process has, and what is summed over processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from pyg_ckd.balance.objective import Objective
from pyg_ckd.data.inputs import RATES, EdgeType, unpack
from pyg_ckd.data.modules import dtype_of, reads_rows
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.processes import Processes
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.neighbourhood import Scorer
from pyg_ckd.training.layouts.rows import UserRows


class Layout(ABC):
    """Says which part of a training this process has.

    All processes draw the same batches, because their generators are alike; each takes a share of a batch and computes
    the terms of the loss on it. The loss of a step is the sum of all shares' losses, and so are the gradients of
    parameters that all processes have.

    Args:
        processes: The processes.
    """

    name: str = ""
    """What ``Trainer(strategy=...)`` calls it."""
    cuts = True
    """Whether a process has a part of the tables alone."""

    cut_features = False
    """Whether a process has the features of some items alone, where the backbone allows it."""
    rows: UserRows | None = None
    """Which users this process has, of whom all have some; :obj:`None` if it has all."""
    cut_names: frozenset[str] = frozenset()
    """Entries of the objective's ``state_dict`` of which this process has the rows of its users alone."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes

    def refuses(self, objective: Objective) -> str:
        """Return why an objective whose backbone names the layout cannot be laid out so after all, or nothing.

        Args:
            objective: The objective.

        Returns:
            What was found and what was expected, as it follows the word "found" in a message.
        """
        return ""

    def unpack(
        self, data: HeteroData, device: torch.device, objective: Objective, interactions: bool = True
    ) -> tuple[dict[str, Tensor], dict[EdgeType, Any]]:
        """Return the features and graphs that this process reads, see :func:`~pyg_ckd.data.inputs.unpack`.

        Args:
            data: The graph.
            device: The device of this process.
            objective: The objective, whole.
            interactions: Whether the training interactions are brought to the device too.
        """
        return unpack(data, device, dtype_of(objective), reads_rows(objective), interactions=interactions)

    def cut(
        self, objective: Objective, features: dict[str, Tensor], edges: dict[EdgeType, Any]
    ) -> tuple[dict[str, Tensor], dict[EdgeType, Any]]:
        """Leave this process its part of an objective, in place, and return its part of the features and graphs.

        Graphs are prepared.

        Args:
            objective: The objective, whole; it is brought to the device of the graphs.
            features: From modality to the full feature matrix.
            edges: The graphs that are not prepared yet.
        """
        objective.to(edges[RATES].device)
        return features, objective.prepare(features, edges)

    def join(self, objective: Objective) -> None:
        """Put an objective together again, in place, after the last step.

        Args:
            objective: The objective that :meth:`cut` has cut.
        """
        return

    @abstractmethod
    def share(self, batch: TripletBatch) -> tuple[TripletBatch, float]:
        """Return this process's triples of a batch, and the share of the batch that they are.

        Args:
            batch: The batch that all processes have drawn.
        """

    def step(self) -> AbstractContextManager[None]:
        """Return a block in which the loss of a step is computed."""
        return nullcontext()

    def check_steps(self, optimizer: torch.optim.Optimizer, scales: bool) -> None:
        """Refuse steps that cannot be laid out so.

        Args:
            optimizer: The optimizer.
            scales: Whether gradients are scaled up, and steps skipped where that is too much.

        Raises:
            InputError: If they cannot.
        """
        return

    def shared_parameters(self, objective: Objective) -> list[nn.Parameter]:
        """Return the parameters that all processes have, whose gradients are sums over processes.

        Args:
            objective: The objective.
        """
        return [p for p in objective.parameters() if p.requires_grad]

    def sum_gradients(self, objective: Objective, unlike: bool = False) -> None:
        """Replace the gradients of shared parameters by their sums over processes.

        Args:
            objective: The objective, after a backward pass.
            unlike: Whether a parameter may have a gradient in some processes and none in others, or a sparse one in
                some and a dense one in others, as on neighbourhoods that each has sampled.
        """
        if self.processes.alone:
            return
        dense, shared = [], self.shared_parameters(objective)
        if unlike and shared:
            self._make_alike(shared)
        for p in shared:
            if p.grad is None:
                continue
            if p.grad.is_sparse:
                p.grad = self._sum_of_rows(p.grad)
            else:
                dense.append(p.grad)
        self.processes.add_up(dense)

    def _make_alike(self, parameters: Sequence[nn.Parameter]) -> None:
        """Let a parameter that has a gradient in any process have one in all, sparse if it is in all that have one."""
        kinds = [[p.grad is not None and p.grad.is_sparse == sparse for p in parameters] for sparse in (False, True)]
        counts = torch.tensor(kinds, dtype=torch.int32, device=parameters[0].device)
        self.processes.add_up([counts])
        for p, dense, sparse in zip(parameters, *counts.tolist(), strict=True):
            if p.grad is None and dense:
                p.grad = torch.zeros_like(p)
            elif p.grad is None and sparse:
                none = torch.empty(1, 0, dtype=torch.int64, device=p.device)
                p.grad = torch.sparse_coo_tensor(none, p.new_empty(0, *p.shape[1:]), p.shape, check_invariants=False)
            elif p.grad is not None and p.grad.is_sparse and dense:
                p.grad = p.grad.to_dense()

    def _sum_of_rows(self, grad: Tensor) -> Tensor:
        grad = grad.coalesce()
        rows, values = self.processes.gather_rows(grad.indices().t()), self.processes.gather_rows(grad.values())
        return torch.sparse_coo_tensor(rows.t(), values, grad.shape, check_invariants=False)

    def whole_norm(self, objective: Objective, parameters: Sequence[Tensor], norms: Tensor) -> Tensor:
        """Return the norm of all gradients of all processes together, each of those that they share counted once.

        Args:
            objective: The objective.
            parameters: Parameters with a gradient.
            norms: The norms of their gradients here, one for each of them.
        """
        shared = {id(p) for p in self.shared_parameters(objective)}
        mine = [id(p) not in shared for p in parameters]
        if self.processes.alone or not any(mine):
            return torch.linalg.vector_norm(norms)
        own, squares = norms.new_tensor(mine, dtype=torch.bool), norms.square()
        return ((squares * ~own).sum() + self.processes.sum((squares * own).sum())).sqrt()

    def whole_tables(self, embeddings: Embeddings) -> Embeddings:
        """Return tables of all users and items of which this process has a part.

        Args:
            embeddings: What the objective returns.
        """
        return embeddings

    def tables_of(self, embeddings: Embeddings, users: Tensor) -> Embeddings | Scorer:
        """Return what ranks items for some users, from tables of which this process has a part.

        Args:
            embeddings: What the objective returns.
            users: The users, increasing, int64 ``[B]``.
        """
        return self.whole_tables(embeddings)

    def add_up(self, totals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return loss terms summed over processes.

        Args:
            totals: Sums over the steps of an epoch of this process's shares, scalars by name.
        """
        if self.processes.alone or not totals:
            return dict(totals)
        names = sorted(totals)
        values = torch.stack([totals[name].double() for name in names])
        self.processes.add_up([values])
        return dict(zip(names, values.unbind(), strict=True))

    def add_up_epoch(self, objective: Objective) -> None:
        """Replace an objective's sums over the triples of an epoch by those over processes.

        Args:
            objective: The objective.
        """
        self.processes.add_up(objective.epoch_sums())

    def average_buffers(self, student: nn.Module) -> None:
        """Replace a student's floating-point buffers by their means over processes, as running means of samples.

        Args:
            student: The student, which has seen other samples in every process.
        """
        found = [x for x in student.buffers() if x.is_floating_point()]
        self.processes.add_up(found)
        for x in found if not self.processes.alone else ():
            x.div_(self.processes.size)

    @torch.no_grad()
    def check_parameters(self, objective: Objective, epoch: int) -> None:
        """Refuse parameters that all processes share and that are not the same in all, by their sums.

        Args:
            objective: The objective, after an epoch.
            epoch: Number of the epoch, from 1.

        Raises:
            InputError: If they differ by more than rounding.
        """
        shared = self.shared_parameters(objective)
        if self.processes.alone or not shared:
            return
        found = []
        for p in shared:
            root = max(1, p.numel()) ** 0.5
            found += [p.sum(dtype=torch.float64) / root, torch.linalg.vector_norm(p).double() / root]
        numbers = torch.stack(found).nan_to_num()
        mend = "let whatever changes the model, such as a callback, do the same in all, and go on from a checkpoint"
        self.processes.agree_nearly(f"parameters of the model after epoch {epoch}", numbers, 1e-4, mend)

    def whole_state(
        self, state: dict[str, Any], objective: Objective, optimizer: torch.optim.Optimizer | None
    ) -> dict[str, Any]:
        """Return the state of a training as a single process would store it, on the first process.

        Args:
            state: The state that this process has, see :meth:`~pyg_ckd.training.run.Run.state_dict`.
            objective: The objective.
            optimizer: The optimizer, if anything is trained.
        """
        return state

    def own_state(
        self, state: dict[str, Any], objective: Objective, optimizer: torch.optim.Optimizer | None
    ) -> dict[str, Any]:
        """Return this process's part of what :meth:`whole_state` has returned, in this or another number of processes.

        Args:
            state: The state of the whole training.
            objective: The objective.
            optimizer: The optimizer, if anything is trained.
        """
        return state
