"""The graph of a sampled neighbourhood with the whole graph's weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from scipy.sparse import coo_array
from torch import Tensor

from pyg_ckd.data.neighbors_sampled import Neighborhood
from pyg_ckd.nn.propagation import Adjacency
from pyg_ckd.scoring.pairs import pair_keys
from pyg_ckd.scoring.sparse import csr_matrix


class Subgraph(Adjacency):
    """A sampled part of a prepared graph, directed: a node that is not expanded receives nothing.

    Args:
        matrix: As in :class:`Adjacency`.
        transposed: As in :class:`Adjacency`.
        whole: The graph that it is a part of; results that depend only on features are kept there, once per run.
        means: Cache of means over all users, see :meth:`mean_over_all`.
    """

    def __init__(self, matrix: Tensor, transposed: Tensor, whole: Adjacency, means: dict[int, Any]) -> None:
        super().__init__(matrix, transposed)
        self.prepared_for, self.whole, self._means = whole.prepared_for, whole, means

    def mean_over_all(self, x: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``compute(x)`` as it is when it is first asked for in an epoch, without gradient.

        A step of a sampled training neither reads nor writes the rows of all users.

        Args:
            x: A table of all users.
            compute: The mean.
        """
        if id(x) not in self._means:
            with torch.no_grad():
                self._means[id(x)] = (x, compute(x).clone())  # With the table, so that no other gets its id.
        return self._means[id(x)][1]


class Cutter:
    r"""Makes subgraphs of a prepared graph: the edges of a neighbourhood with :math:`a_{ts} d_t / k_t`.

    Loops, as of ``self_loops``, are no neighbours: every node of a subgraph has its own with its weight.

    Args:
        whole: The prepared graph, users first and items after them.
    """

    def __init__(self, whole: Adjacency) -> None:
        self.whole = whole
        source, target = whole._edges()
        loops = source == target
        if bool(loops.any()):
            self.loops: Tensor | None = whole.weight.new_zeros(whole.num_nodes)
            self.loops[target[loops]] = whole.weight[loops]
            self._numbers: Tensor | None = (~loops).nonzero()[:, 0]
            self.edge_index = torch.stack([source, target])[:, ~loops]
        else:
            self.loops, self._numbers, self.edge_index = None, None, torch.stack([source, target])

    def __call__(self, part: Neighborhood, num_users: int, means: dict[int, Any] | None = None) -> Subgraph:
        """Return the graph of a neighbourhood.

        Args:
            part: What was sampled of :attr:`edge_index`.
            num_users: Number of users in the whole graph.
            means: As of :class:`Subgraph`; shared by those of an epoch.
        """
        edge = part.edge if self._numbers is None else self._numbers[part.edge]
        weight = self.whole.weight[edge] * part.scale.to(self.whole.dtype)
        source, target = part.source, part.target
        if self.loops is not None:
            node = torch.cat([part.user, part.item + num_users])
            own = torch.arange(node.numel(), device=node.device)
            source, target = torch.cat([source, own]), torch.cat([target, own])
            weight = torch.cat([weight, self.loops[node]])
        size = part.user.numel() + part.item.numel()
        return Subgraph(*_both_ways(source, target, weight, size), self.whole, {} if means is None else means)


@torch.inference_mode(False)
def _both_ways(source: Tensor, target: Tensor, weight: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the matrix of messages and its transpose; edges are counted into rows, not sorted, on the CPU."""
    if weight.device.type != "cpu":
        graph = Adjacency.from_edges(torch.stack([source, target]), weight, size)
        return graph.matrix, graph.transposed
    values, rows, cols = weight.numpy(), target.int().numpy(), source.int().numpy()
    found = []
    for ends in ((rows, cols), (cols, rows)):
        csr = coo_array((values, ends), shape=(size, size)).tocsr()
        crow, col, value = (torch.from_numpy(x) for x in (csr.indptr, csr.indices, csr.data))
        found.append(csr_matrix(crow.int(), col.int(), value, size))
    return found[0], found[1]


def both_directions(edge_index: Tensor, num_users: int, num_items: int) -> Tensor:
    """Return interactions as edges of a graph of users and, after them, items, sorted by target, each once.

    Args:
        edge_index: Interactions (user row, item row), int64 ``[2, E]``.
        num_users: Number of users.
        num_items: Number of items.

    Returns:
        Edges (source, target), int64 ``[2, E']``.
    """
    return Adjacency.from_interactions(edge_index, num_users, num_items, "none")._edges()


def interactions_of(part: Neighborhood) -> Tensor:
    """Return the interactions of a neighbourhood by its row numbers (user, item), int64 ``[2, E']``, each once.

    Args:
        part: The neighbourhood, in whose edges an interaction may stand in either direction or in both.
    """
    num_users, num_items = part.user.numel(), part.item.numel()
    user, item = torch.minimum(part.source, part.target), torch.maximum(part.source, part.target) - num_users
    key = pair_keys(user, item, num_items).unique()
    return torch.stack([key.div(max(num_items, 1), rounding_mode="floor"), key % max(num_items, 1)])
