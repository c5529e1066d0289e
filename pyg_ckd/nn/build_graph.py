"""Building the graph of users and items in little more memory than it takes itself, and cutting it before that."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyg_ckd.arguments import as_integer
from pyg_ckd.errors import InputError
from pyg_ckd.scoring.patterns import BLOCK, pattern_of, row_blocks, transposed_pattern

_MOST = 2**31 - 2


def index_type(num_entries: int, num_nodes: int) -> torch.dtype:
    """Return int32 where indices of 32 bits suffice, which halves the memory that a product reads, else int64.

    Args:
        num_entries: Number of entries of a matrix.
        num_nodes: Number of its rows or columns, the larger one.
    """
    return torch.int32 if max(num_entries, num_nodes) <= _MOST else torch.int64


def bipartite_pattern(
    edge_index: Tensor, num_users: int, num_items: int, self_loops: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the symmetric pattern of a graph in which users come first and items after them.

    Args:
        edge_index: Interactions (user row, item row), int64 ``[2, E]``; a repeated one counts once.
        num_users: Number of users ``U``.
        num_items: Number of items ``I``; ``N = U + I``.
        self_loops: Whether every node is its own neighbour.

    Returns:
        Where the entries of every row begin, ``[N + 1]``, and their columns, ascending within a row: with ``P``
        distinct interactions ``[2 P]``, and ``N`` more with ``self_loops``. Both are int32 up to 1.07 billion
        interactions, and else int64. A graph of more stays below where every process builds that of its own users, see
        :func:`interactions_of`.
    """
    size, total = (num_users, num_items), num_users + num_items
    crow, item = pattern_of(edge_index[0], edge_index[1], size)
    turned, user = transposed_pattern(crow, item, size)
    starts = torch.cat([crow.long(), turned[1:].long() + item.numel()])
    if self_loops:
        starts += torch.arange(total + 1, device=starts.device)
    middle, end = int(starts[num_users]), int(starts[-1])
    index = index_type(end, total)
    col = torch.empty(end, dtype=index, device=starts.device)
    halves = (col[:middle], item, num_users), (col[middle:], user, 0)
    if not self_loops:
        for half, neighbours, shift in halves:
            half.copy_(neighbours).add_(shift)
        return starts.to(index), col
    loops = torch.cat([starts[:num_users], starts[num_users + 1 :] - 1])  # First of a user's row, last of an item's.
    others = torch.ones(end, dtype=torch.bool, device=col.device)
    others[loops] = False
    for (half, neighbours, shift), chosen in zip(halves, (others[:middle], others[middle:]), strict=True):
        half.masked_scatter_(chosen, neighbours.to(index)).add_(shift)
    col[loops] = torch.arange(total, dtype=index, device=col.device)
    return starts.to(index), col


def symmetric_weights(crow: Tensor, col: Tensor, scale: Tensor) -> Tensor:
    """Return the product of the scales at both ends of every entry, ``[nnz]``.

    Args:
        crow: Where the entries of every row begin, ``[N + 1]``.
        col: Column of every entry, ``[nnz]``.
        scale: Scale of every node, ``[N]``.
    """
    out = scale.new_empty(col.numel())
    for rows, entries in row_blocks(crow):
        part = torch.index_select(scale, 0, col[entries], out=out[entries])
        part *= torch.repeat_interleave(scale[rows], crow[rows.start : rows.stop + 1].diff())
    return out


def interactions_of(edge_index: Tensor | np.ndarray, first: int, last: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Return the interactions of some users, numbered from zero, in the order given; cut before a graph is built.

    Interactions are read in blocks: of a memory-mapped array, nothing else comes to memory.

    Args:
        edge_index: Interactions (user row, item row), integers ``[2, E]``: a tensor or a NumPy array.
        first: The first user.
        last: The first user that is left out, at least ``first``.
        dtype: Type of the result; int32 takes half the memory where users and items are few enough.

    Returns:
        The interactions ``[2, E']``, on the device of a tensor.

    Raises:
        InputError: If ``last`` is below ``first``, ``first`` is negative, or ``edge_index`` is something else.

    Example:
        >>> interactions_of(torch.tensor([[0, 2, 1, 2], [5, 6, 7, 8]]), 1, 3)
        tensor([[1, 0, 1],
                [6, 7, 8]])
    """
    first, last = as_integer(first, "first", least=0), as_integer(last, "last")
    if last < first:
        raise InputError(f"last: found user {last}, expected {first} or more, as the first user is {first}")
    _check_interactions(edge_index)
    found = []
    for start in range(0, max(edge_index.shape[1], 1), BLOCK):
        block = edge_index[:, start : start + BLOCK]
        user, item = block if isinstance(block, Tensor) else torch.from_numpy(np.array(block, dtype=np.int64))
        chosen = (user >= first) & (user < last)
        found.append(torch.stack([(user[chosen].long() - first).to(dtype), item[chosen].to(dtype)]))
    return torch.cat(found, dim=1)


def _check_interactions(edge_index: Any) -> None:
    expected = "expected integers [2, E], a tensor or a NumPy array"
    if not isinstance(edge_index, (Tensor, np.ndarray)):
        raise InputError(f"edge_index: found {type(edge_index).__name__}, {expected}")
    dtype = edge_index.dtype
    if isinstance(dtype, torch.dtype):
        whole = not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)
    else:
        whole = dtype.kind in "iu"
    if edge_index.ndim != 2 or edge_index.shape[0] != 2 or not whole:
        name = str(dtype).removeprefix("torch.")
        raise InputError(f"edge_index: found {name} of shape {list(edge_index.shape)}, {expected}")
