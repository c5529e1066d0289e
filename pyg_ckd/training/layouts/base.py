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
        self, data: HeteroData, device: torch.device, objective: Objective
    ) -> tuple[dict[str, Tensor], dict[EdgeType, Any]]:
        """Return the features and graphs that this process reads, see :func:`~pyg_ckd.data.inputs.unpack`.

        Args:
            data: The graph.
            device: The device of this process.
            objective: The objective, whole.
        """
        return unpack(data, device, dtype_of(objective), reads_rows(objective))

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

    def sum_gradients(self, objective: Objective) -> None:
        """Replace the gradients of shared parameters by their sums over processes.

        Args:
            objective: The objective, after a backward pass.
        """
        if self.processes.alone:
            return
        dense = []
        for p in self.shared_parameters(objective):
            if p.grad is None:
                continue
            if p.grad.is_sparse:
                p.grad = self._sum_of_rows(p.grad)
            else:
                dense.append(p.grad)
        self.processes.add_up(dense)

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
