"""What a layout says: which part of a training this process has, and what is summed over processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyg_ckd.balance.objective import Objective
from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.processes import Processes
from pyg_ckd.scoring.embeddings import Embeddings


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

    def __init__(self, processes: Processes) -> None:
        self.processes = processes

    def cut(
        self, objective: Objective, features: dict[str, Tensor], edges: dict[EdgeType, Any]
    ) -> tuple[dict[str, Tensor], dict[EdgeType, Any]]:
        """Leave this process its part of an objective, in place, and return its part of the features and graphs.

        Graphs are prepared.

        Args:
            objective: The objective, whole and on its device.
            features: From modality to the full feature matrix.
            edges: The graphs that are not prepared yet.
        """
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
