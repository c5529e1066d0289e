"""The graph of one of several processes, each of which has the interactions of its own users."""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn.build_graph import bipartite_pattern, symmetric_weights
from pyg_ckd.nn.item_sums import ItemSums
from pyg_ckd.nn.propagation import NORMALIZATIONS, Adjacency
from pyg_ckd.processes import Processes
from pyg_ckd.scoring.sparse import csr_matrix


class UserPart(Adjacency):
    r"""The edges of some users and all items, with weights by the degrees of the whole graph.

    With :math:`\mathbf{R}_k` the rows of own users in the normalised matrix of interactions,

    .. math::
        \mathbf{y}_{U_k} = \mathbf{R}_k \mathbf{x}_I, \qquad
        \mathbf{y}_I = \sum_k \mathbf{R}_k^\top \mathbf{x}_{U_k}

    The rows of items are the same in all processes. Their gradient is a share of this process, until it meets a
    product, which adds up the shares first.

    Args:
        matrix: Rows of own users and all items, in which the edges of other users and, but in the first process, the
            self-loops of items are missing.
        transposed: Its transpose.
        sums: Adds up the rows of items.
    """

    sums: ItemSums

    def __init__(self, matrix: Tensor, transposed: Tensor, sums: ItemSums) -> None:
        super().__init__(matrix, transposed)
        self.sums = sums

    @classmethod
    @torch.inference_mode(False)
    def of(
        cls,
        edge_index: Tensor,
        sizes: tuple[int, int, int],
        processes: Processes,
        normalization: str = "sym",
        self_loops: bool = False,
        eps: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> UserPart:
        """Normalise the interactions of own users as :meth:`Adjacency.from_interactions` does all of them.

        Args:
            edge_index: Interactions of own users (user row, numbered from zero; item row), int64 or int32
                ``[2, E_k]``.
            sizes: Number of own users, of items, and of all users.
            processes: The processes.
            normalization: ``"sym"``, ``"mean"`` or ``"none"``.
            self_loops: Whether every node is its own neighbour.
            eps: Added to every degree.
            dtype: Type of the weights.

        Raises:
            InputError: If ``normalization`` is none of the three.
        """
        if normalization not in NORMALIZATIONS:
            raise unknown_name("normalization", normalization, NORMALIZATIONS)
        own, num_items, all_users = sizes
        crow, col = bipartite_pattern(edge_index, own, num_items, self_loops)
        count = crow.diff()
        degree = count.long()
        of_items = degree[own:] - int(self_loops)
        processes.add_to(of_items)
        degree[own:] = of_items + int(self_loops)
        scale = (degree.to(dtype) + eps).pow(-0.5 if normalization == "sym" else -1.0)
        if normalization == "mean":
            values = [scale.repeat_interleave(count), scale.index_select(0, col)]
        elif normalization == "sym":
            values = [symmetric_weights(crow, col, scale)]
        else:
            values = [torch.ones_like(col, dtype=dtype)]
        if self_loops and not processes.first:
            for value in values:
                value[crow[own + 1 :].long() - 1] = 0  # The loop of an item is the last entry of its row.
        matrices = [csr_matrix(crow, col, value, own + num_items) for value in values]
        graph = cls(matrices[0], matrices[-1], ItemSums(processes, own, all_users))
        graph.prepared_for = (normalization, self_loops)
        return graph

    def matmul(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return for every node the weighted sum of its neighbours' rows, ``[N, D]``.

        Args:
            x: As in :meth:`Adjacency.matmul`.
            weight: Only the graph's own weights are known to be shares of the whole graph's.

        Raises:
            InputError: If there are other weights.
        """
        if weight is not None:
            raise InputError("graph: found weights of edges for the part of a process, expected the graph's own")
        return super().matmul(x)

    def dot(self, target: Tensor, source: Tensor) -> Tensor:
        """Refuse inner products of edges, whose gradients would have to be added up.

        Args:
            target: As in :meth:`Adjacency.dot`.
            source: As in :meth:`Adjacency.dot`.

        Raises:
            InputError: Always.
        """
        raise InputError("graph: found inner products of edges for the part of a process, expected the whole graph")
