"""Graphs as lists of edges: what :func:`torch.export.export` and ONNX can follow, for they know no sparse matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyg_ckd.errors import unknown_name
from pyg_ckd.nn.propagation import NORMALIZATIONS, Adjacency
from pyg_ckd.scoring.pairs import pair_keys


class EdgeGraph(Adjacency):
    """A weighted graph with the results of an :class:`~pyg_ckd.nn.Adjacency`, which adds up rows edge by edge.

    It holds three times the memory of a sparse product and takes several times as long, but no operation of it looks at
    values, and the number of edges may change from call to call.

    Args:
        edge_index: Edges (source row, target row), int64 ``[2, E]``.
        weight: Weight of every edge ``[E]``; those of repeated edges add up.
        num_nodes: Number of targets ``N``.
        num_to_users: How many edges, the first ones, lead to users; see :meth:`to_users`.
        repeated: Which edges are repetitions that do not count, bool ``[E]``; :obj:`None` means none.
    """

    def __init__(
        self,
        edge_index: Tensor,
        weight: Tensor,
        num_nodes: int,
        num_to_users: int = 0,
        repeated: Tensor | None = None,
    ) -> None:
        self._edge_index: Tensor = edge_index
        self._weight, self._size = weight, num_nodes
        self._num_to_users, self._repeated = num_to_users, repeated
        self.prepared_for: tuple[Any, ...] | None = None

    @classmethod
    def from_interactions(
        cls,
        edge_index: Tensor,
        num_users: int,
        num_items: int,
        normalization: str = "sym",
        self_loops: bool = False,
        eps: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> EdgeGraph:
        """Normalise the bipartite graph of users and items as :meth:`Adjacency.from_interactions` does.

        Args:
            edge_index: Interactions (user row, item row), integers ``[2, E]``. That they name existing rows is not
                checked. A repeated one counts once.
            num_users: Number of users ``U``.
            num_items: Number of items ``I``.
            normalization: ``"sym"``, ``"mean"`` or ``"none"``.
            self_loops: Whether every node is its own neighbour.
            eps: Added to every degree.
            dtype: Type of the weights.

        Raises:
            InputError: If ``normalization`` is none of the three.
        """
        if normalization not in NORMALIZATIONS:
            raise unknown_name("normalization", normalization, NORMALIZATIONS)
        key = pair_keys(edge_index[0], edge_index[1], num_items).sort().values
        user, item = key.div(num_items, rounding_mode="floor"), key % num_items + num_users
        repeated = key == torch.cat([key.new_full((1,), -1), key])[: key.size(0)]  # As the one before.
        source, target, repeated = torch.cat([item, user]), torch.cat([user, item]), torch.cat([repeated, repeated])
        size = num_users + num_items
        if self_loops:
            loop = torch.arange(size, device=key.device)
            source, target = torch.cat([source, loop]), torch.cat([target, loop])
            repeated = torch.cat([repeated, torch.zeros_like(loop, dtype=torch.bool)])
        counts = (~repeated).to(dtype)
        degree = counts.new_zeros(size).index_add(0, target, counts) + eps
        if normalization == "sym":
            scale = degree.rsqrt()
            counts = counts * scale[source] * scale[target]
        elif normalization == "mean":
            counts = counts * degree.reciprocal()[target]
        return cls(torch.stack([source, target]), counts, size, user.size(0), repeated)

    @property
    def edge_index(self) -> Tensor:
        """Edges (source row, target row), int64 ``[2, E]``."""
        return self._edge_index

    @property
    def weight(self) -> Tensor:
        """Weight of every edge ``[E]``."""
        return self._weight

    @property
    def num_nodes(self) -> int:
        """Number of targets ``N``."""
        return self._size

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self._weight.dtype

    def sides(self, num_users: int) -> Tensor:
        """As :meth:`Adjacency.sides`."""
        is_item = torch.arange(self._size, device=self._weight.device) >= num_users
        return torch.stack([~is_item, is_item], dim=1).to(self.dtype)

    def constant(self, name: tuple[Any, ...], x: Tensor | None, compute: Callable[..., Tensor]) -> Tensor:
        """Return ``compute(x)``, computed every time: what is recorded must not come from an earlier pass."""
        return compute() if x is None else compute(x)

    def matmul(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """As :meth:`Adjacency.matmul`, for tables ``x`` of any number of sources."""
        if weight is None:
            weight = self._weight
        elif self._repeated is not None:
            weight = weight.masked_fill(self._repeated, 0)
        source, target = self._edge_index
        message = weight.to(self.dtype).unsqueeze(1) * x.to(self.dtype).index_select(0, source)
        return message.new_zeros(self._size, x.size(1)).index_add(0, target, message)

    def mean_of_powers(self, x: Tensor, num_powers: int) -> Tensor:
        """As :meth:`Adjacency.mean_of_powers`, by Horner's rule too."""
        x = total = x.to(self.dtype)
        for _ in range(num_powers):
            total = x + self.matmul(total)
        return total / (num_powers + 1)

    def dot(self, target: Tensor, source: Tensor) -> Tensor:
        """As :meth:`Adjacency.dot`; a repeated edge has minus infinity, which a softmax passes over."""
        rows = source.index_select(0, self._edge_index[0]), target.index_select(0, self._edge_index[1])
        score = (rows[0].to(self.dtype) * rows[1].to(self.dtype)).sum(dim=1)
        return score if self._repeated is None else score.masked_fill(self._repeated, -torch.inf)

    def to_users(self, num_users: int) -> EdgeGraph:
        """Return the half of the graph in which users receive from items, numbered as :meth:`Adjacency.to_users` does.

        Args:
            num_users: Number of users ``U``, the first nodes of the graph.
        """
        source, target = self._edge_index[:, : self._num_to_users]
        repeated = None if self._repeated is None else self._repeated[: self._num_to_users]
        edges = torch.stack([source - num_users, target])
        return EdgeGraph(edges, self._weight[: self._num_to_users], num_users, repeated=repeated)


def as_edges(graph: Any) -> Any:
    """Return a prepared graph as edges. What has a method ``as_edges`` of its own decides; all else stays as it is.

    Args:
        graph: What a backbone's ``prepare`` returns under one edge type, after a forward pass.
    """
    if hasattr(graph, "as_edges"):
        return graph.as_edges()
    if not isinstance(graph, Adjacency) or isinstance(graph, EdgeGraph):
        return graph
    fixed = EdgeGraph(graph.edge_index.clone(), graph.weight.clone(), graph.num_nodes)  # Views of a sparse matrix.
    fixed.prepared_for = graph.prepared_for
    return fixed
