"""Exact inference in bounded memory: from which size on, some columns at a time, and a graph's rows in runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyg_ckd.memory import returned_memory
from pyg_ckd.nn.pages import paged_product, use_huge_pages
from pyg_ckd.nn.propagation import Adjacency
from pyg_ckd.scoring.sparse import csr_matrix
from pyg_ckd.scoring.tracing import exporting

LARGE = 32 * 2**20
"""Bytes of a table of all nodes from which on a pass without gradients holds parts of its intermediate tables alone."""
COLUMNS = 16
"""Columns that are propagated at a time: a row of them fills a line of a CPU's cache in single precision."""
BLOCK = 4 * 2**20
"""Bytes of a table of the rows that are computed at a time."""


def is_large(graph: Adjacency, width: int) -> bool:
    """Return whether a pass should bound its memory: nothing needs a gradient, and a table of all nodes is large.

    Not while a program is recorded, and only on whole graphs: processes that have a part each add up whole tables.

    Args:
        graph: The graph.
        width: Columns of a table.
    """
    if torch.is_grad_enabled() or exporting() or torch.compiler.is_compiling() or type(graph) is not Adjacency:
        return False
    return graph.num_nodes * width * graph.dtype.itemsize >= LARGE


def column_groups(width: int, streams: int = 1) -> list[slice]:
    """Cut columns into groups that are propagated in turn, the last of which may be narrower.

    Args:
        width: Number of columns.
        streams: Tables whose columns go through a product side by side.
    """
    size = max(1, COLUMNS // streams)
    return [slice(start, min(start + size, width)) for start in range(0, width, size)]


def columnwise(x: Tensor, graph: Adjacency, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ``compute(x)``, some columns at a time if it is large: ``x``, the result, and what some columns take.

    Args:
        x: Node embeddings ``[N, D]``.
        graph: The graph that they go over.
        compute: Treats every column by itself.
    """
    if not is_large(graph, x.size(1)):
        return compute(x)
    out = empty_table(x, x.size(0), x.size(1))
    with returned_memory():
        for columns in column_groups(x.size(1)):
            out[:, columns] = compute(x[:, columns].contiguous())
    return out


def empty_table(like: Tensor, rows: int, columns: int) -> Tensor:
    """Return memory for a table ``[rows, columns]``, in huge pages where it is large.

    Args:
        like: A tensor of the type and on the device of the table.
        rows: Number of rows.
        columns: Number of columns.
    """
    out = like.new_empty(rows, columns)
    use_huge_pages(out, untouched=True)
    return out


class RowBlock(NamedTuple):
    """A run of rows of a graph, all of users or all of items.

    Attributes:
        side: 0 of users, 1 of items.
        rows: Their numbers among the users or the items.
        nodes: Their numbers among the nodes.
        matrix: Their rows of the matrix, CSR ``[B, N]``.
        linked: 1 for nodes that receive from others and 0 for others, ``[B, 1]``.
    """

    side: int
    rows: slice
    nodes: slice
    matrix: Tensor
    linked: Tensor

    def matmul(self, x: Tensor) -> Tensor:
        """Return the rows of the product with the graph, ``[B, D]``.

        Args:
            x: Node embeddings ``[N, D]``.
        """
        return paged_product(self.matrix, x)


def row_blocks(graph: Adjacency, num_users: int, width: int) -> Sequence[RowBlock]:
    """Cut a graph into runs of rows; columns and weights are those of the graph, without a copy.

    Args:
        graph: The graph.
        num_users: Number of users, the first nodes of the graph.
        width: Columns of the widest table of rows that is computed.
    """
    size = max(1, BLOCK // (width * graph.dtype.itemsize))
    crow, col, weight = graph.matrix.crow_indices(), graph.matrix.col_indices(), graph.weight
    blocks = []
    for side, (first, last) in enumerate([(0, num_users), (num_users, graph.num_nodes)]):
        for start in range(first, last, size):
            nodes = slice(start, min(start + size, last))
            ends = crow[nodes.start : nodes.stop + 1]
            entries = slice(int(ends[0]), int(ends[-1]))
            rows = nodes.stop - nodes.start
            matrix = csr_matrix(ends - ends[0], col[entries], weight[entries], rows, graph.num_nodes)
            linked = (ends.diff() > 0).to(graph.dtype).unsqueeze(-1)
            blocks.append(RowBlock(side, slice(start - first, nodes.stop - first), nodes, matrix, linked))
    return blocks
