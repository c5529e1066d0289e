"""Graphs among items and among users: nearest neighbours by content, co-occurrence by interactions, and their scaling.

They are found block by block, exactly and without randomness, in one home for all models that need them; never is
more than one block of all pairs held.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from pyg_ckd.arguments import as_integer
from pyg_ckd.data.checks import as_edge_index, check_range
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.scoring.tracing import exporting

SIMILARITIES = ("cosine", "dot")

_BLOCK_BYTES = 128 * 2**20  # Similarities held at once by `knn`; smaller blocks multiply more slowly on a CPU.
_BLOCK_PAIRS = 2**21  # Pairs of users held at once by `co_occurrence`.
_GROUP = 32  # Columns that `_largest` looks at as one.
_NARROW = 8  # Columns for each of the largest values, in groups, up to which `_largest` does without.
_NARROW_SORTED = 2  # The same where rows are sorted.


@torch.no_grad()
def knn(
    x: Tensor, k: int, similarity: str = "cosine", block_size: int | None = None, among: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Return for every row of ``x`` the ``k`` rows that are most similar to it, itself among the candidates.

    The cosine of two rows is the dot product of :math:`\mathbf{x} / \max(\|\mathbf{x}\|_2, 10^{-12})`, so that a row of
    zeros has similarity 0 to every row, itself included. Among equal similarities the lowest index comes first. Rows
    with the same content are equal only up to the rounding of the matrix product, which may depend on ``block_size``,
    the number of threads and :func:`torch.set_float32_matmul_precision`; with these given, the result is always the
    same.

    Args:
        x: Features, float ``[N, d]``; ``float16`` and ``bfloat16`` are brought to ``float32``.
        k: Neighbours of a row, from 1 to ``N``.
        similarity: ``"cosine"`` or ``"dot"``.
        block_size: Number of rows that are compared with all others at once. By default, as many as need 128 MiB for
            their similarities, but at least 32.
        among: Candidates ``[C, d]`` of the dtype of ``x`` to find neighbours among, instead of the rows of ``x``;
            ``k`` is then from 1 to ``C``.

    Returns:
        Similarities in decreasing order, float ``[N, k]``, without gradient, and the rows they belong to, int64
        ``[N, k]``, both on the device of ``x``.

    Raises:
        InputError: If ``x`` is no matrix of finite numbers whose squares fit its type, ``k`` or ``block_size`` is out
            of range, or ``similarity`` is neither of the two.
    """
    rows = _comparable(x, similarity)
    candidates = rows if among is None else _comparable(among, similarity)
    if candidates.size(1) != rows.size(1):
        raise InputError(f"among: found {candidates.size(1)} columns, expected {rows.size(1)} as in x")
    k = _check_k(k, candidates.size(0), "rows")
    return _nearest(rows, k, block_size, candidates)


def without_content(x: Tensor) -> Tensor:
    r"""Return which rows say nothing about their items: rows of zeros and rows that are the mean over all.

    Such are features that stand in for those that items lack. They are all alike, so that none is nearer than another,
    and what is left of them after standardisation is rounding.

    Args:
        x: Features, float ``[N, d]``.

    Returns:
        Mask, bool ``[N]``: every column is zero, or as near to its mean as :math:`10^{-4}` standard deviations and, for
        rounding, :math:`10^{-6}` times the absolute mean.

    Raises:
        InputError: If ``x`` is no matrix of floating-point numbers.
    """
    _check_features(x)
    x = x.detach()
    x = x.float() if x.element_size() < 4 else x
    mean = x.mean(dim=0)
    near = 1e-4 * x.std(dim=0, correction=0) + 1e-6 * mean.abs()
    return (x == 0).all(dim=1) | ((x - mean).abs() <= near).all(dim=1)


def knn_graph(
    x: Tensor, k: int, similarity: str = "cosine", include_self: bool = True, alone: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Return the edges from the ``k`` nearest neighbours of every row to that row, weighted with the similarity.

    This is the item graph of `"Mining Latent Structures for Multimedia Recommendation"
    <https://arxiv.org/abs/2104.09036>`_ (LATTICE), taken over by `MICRO <https://arxiv.org/abs/2111.00678>`_, `FREEDOM
    <https://arxiv.org/abs/2211.06924>`_ and `MGCN <https://arxiv.org/abs/2308.03588>`_. Negative similarities
    are kept, as in the published code of those four that weigh edges with them.

    Args:
        x: Features, float ``[N, d]``, as in :func:`knn`. The weights are differentiable in them, the choice of
            neighbours is constant.
        k: Neighbours of a row, from 1 to ``N``, or to ``N - 1`` without the row itself.
        similarity: ``"cosine"`` or ``"dot"``.
        include_self: Whether a row is a candidate among its own neighbours, as in the published models.
        alone: Rows that are nobody's neighbours but their own, bool ``[N]``, as of :func:`without_content`. Where
            fewer than ``k`` rows are left, all of these are neighbours of each other.

    Returns:
        Edges ``(neighbour, row)``, int64 ``[2, N * k]``, ordered by row and then by decreasing similarity, and their
        weights, float ``[N * k]``. A row of ``alone`` has one edge, of its similarity to itself, or none without
        ``include_self``.

    Raises:
        InputError: As :func:`knn`.
    """
    rows = _comparable(x, similarity)
    k = _check_k(k, rows.size(0), "rows") if include_self else _check_k(k, rows.size(0) - 1, "other rows")
    if alone is None or not bool(alone.any()):
        return _edges(rows, k, include_self)
    lonely, others = alone.nonzero()[:, 0], (~alone).nonzero()[:, 0]
    edges, weight = _edges(rows[others], min(k, others.numel() - (not include_self)), include_self)
    edges = others[edges]
    if include_self:
        edges = torch.cat([lonely.expand(2, -1), edges], dim=1)
        weight = torch.cat([rows[lonely].square().sum(dim=1), weight])
    order = edges[1].argsort(stable=True)
    return edges[:, order], weight[order]


def _edges(rows: Tensor, k: int, include_self: bool) -> tuple[Tensor, Tensor]:
    """Return the edges from the ``k`` nearest neighbours of every row, and their dot products."""
    if k < 1:
        return torch.empty(2, 0, dtype=torch.int64, device=rows.device), rows.new_empty(0)
    own = torch.arange(rows.size(0), device=rows.device)
    value, index = _nearest(rows.detach(), k if include_self else k + 1)
    if not include_self:
        other = index != own.unsqueeze(1)
        other[:, -1] &= ~other.all(dim=1)  # Where a row is not among its own neighbours, the last one is too many.
        value, index = value[other].view(-1, k), index[other].view(-1, k)
    if rows.requires_grad:
        with torch.autocast(rows.device.type, enabled=False):
            value = torch.bmm(rows[index], rows.unsqueeze(2))  # [N, k, 1]
    return torch.stack([index.flatten(), own.repeat_interleave(k)]), value.flatten()


def laplacian(edge_index: Tensor, weight: Tensor, num_nodes: int, eps: float = 0.0) -> Tensor:
    r"""Return the weights of :math:`\mathbf{\Delta}^{-1/2} \mathbf{S} \mathbf{\Delta}^{-1/2}`.

    :math:`\mathbf{S}_{ij}` is the weight of the edge from neighbour ``j`` to node ``i`` and :math:`\mathbf{\Delta}` the
    diagonal of the *row* sums of :math:`\mathbf{S}`, of what a node receives, plus ``eps``. As in the published code of
    `LATTICE <https://arxiv.org/abs/2104.09036>`_ it is used on both sides, though :math:`\mathbf{S}` is not symmetric.
    Where a row sum is not positive, which negative similarities can bring about,
    :math:`\mathbf{\Delta}_{ii}^{-1/2}` is 0: edges from and to such a node weigh 0 and have no gradient.

    Args:
        edge_index: Edges (source, target), int64 ``[2, E]``; the weights of repeated edges add up.
        weight: Their weights, float ``[E]``; the result is differentiable in them.
        num_nodes: Number of nodes.
        eps: Added to every row sum; some published implementations add 1e-7.

    Returns:
        The weights of the same edges, float ``[E]``.

    Raises:
        InputError: If shapes do not fit, an edge names a node that does not exist, or a sum of weights is not finite.
    """
    if edge_index.dim() != 2 or edge_index.size(0) != 2 or weight.shape != edge_index.shape[1:]:
        raise InputError(
            f"edge_index and weight have shapes {list(edge_index.shape)} and {list(weight.shape)}, "
            f"expected [2, E] and [E]"
        )
    if not exporting() and edge_index.numel():
        first, last = (int(node) for node in edge_index.aminmax())
        if not 0 <= first <= last < num_nodes:
            raise InputError(
                f"edge_index: found nodes {first} to {last}, expected 0 to {num_nodes - 1} (num_nodes={num_nodes})"
            )
    source, target = edge_index
    total = weight.new_zeros(num_nodes).index_add(0, target, weight) + eps
    if not exporting():
        _require_finite(total, "weight: the sum of row")
    positive = total > 0
    scale = torch.where(positive, total, 1.0).rsqrt() * positive  # The inner choice keeps the gradient finite.
    return scale[target] * weight * scale[source]


def co_occurrence(edge_index: Tensor, num_users: int, num_items: int, k: int | None = None) -> tuple[Tensor, Tensor]:
    """Return for every user the other users with whom they share most items.

    This is the user graph of `"DualGNN: Dual Graph Neural Network for Multimedia Recommendation"
    <https://doi.org/10.1109/TMM.2021.3138298>`_. The counts come from products of a block of users with all users, as
    sparse matrices of SciPy on the CPU, so that memory grows with the interactions and the result only; a block holds
    about two million pairs. A repeated interaction counts once.

    Args:
        edge_index: Interactions (user row, item row), int64 ``[2, E]``; may be empty.
        num_users: Number of users ``U``.
        num_items: Number of items.
        k: Number of neighbours to keep per user; :obj:`None` keeps all.

    Returns:
        Neighbours of every user by decreasing count, lowest user first among equal counts, int64 ``[U, K]`` padded with
        -1, and the counts, int64 ``[U, K]`` padded with 0, both on the device of ``edge_index``. ``K`` is the largest
        number of neighbours of a user, at most ``k``.

    Raises:
        InputError: If ``edge_index`` is no ``[2, E]`` tensor of integers, names a user or item that does not exist, or
            ``k`` is not positive.
    """
    k = None if k is None else as_integer(k, "k")
    num_users, num_items = as_integer(num_users, "num_users"), as_integer(num_items, "num_items")
    if k is not None and k < 1:
        raise InputError(f"k: found {k}, expected a positive number of neighbours, or None for all")
    parts = [_partners(shared, a, k) for a, shared in shared_counts(edge_index, num_users, num_items)]
    user, rank, other, count = (np.concatenate(column) for column in zip(*parts, strict=True))
    shape = (num_users, int(rank.max(initial=-1)) + 1)
    index, counts = np.full(shape, -1, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    index[user, rank], counts[user, rank] = other, count
    return torch.from_numpy(index).to(edge_index.device), torch.from_numpy(counts).to(edge_index.device)


def shared_counts(edge_index: Tensor, num_users: int, num_items: int) -> Iterator[tuple[int, csr_array]]:
    """Yield how many items every user shares with every other one, block by block of users.

    With users and items swapped, these are the counts of users that items share: the Gram matrix of items.

    Args:
        edge_index: As in :func:`co_occurrence`.
        num_users: Number of users ``U``.
        num_items: Number of items.

    Yields:
        The first user of a block and the counts ``[block, U]``, a sparse matrix of integers whose entry of a user with
        itself is the number of the user's items. A block holds about two million pairs.

    Raises:
        InputError: As :func:`co_occurrence`.
    """
    if min(num_users, num_items) < 1:
        raise InputError(f"co_occurrence: found {num_users} users and {num_items} items, expected at least one of each")
    edges = as_edge_index(edge_index, "edge_index", "co_occurrence")
    check_range(edges, "edge_index", (num_users, num_items), "co_occurrence")
    rates = csr_array((np.ones(edges.shape[1], dtype=np.int32), (edges[0], edges[1])), shape=(num_users, num_items))
    rates.data[:] = 1
    rated_by = rates.T.tocsr()
    # A user shares items with at most as many users as these items have interactions.
    most = np.minimum(rates @ np.diff(rated_by.indptr).astype(np.int64), num_users)
    cuts = np.flatnonzero(np.diff(np.cumsum(most) // _BLOCK_PAIRS)) + 1
    for a, b in pairwise([0, *cuts.tolist(), num_users]):
        yield a, rates[a:b] @ rated_by


def _comparable(x: Tensor, similarity: str) -> Tensor:
    """Return rows whose dot products are the similarities."""
    if similarity not in SIMILARITIES:
        raise unknown_name("similarity", similarity, SIMILARITIES)
    _check_features(x)
    x = x.float() if x.element_size() < 4 else x
    _require_finite(x.detach().square().sum(dim=1), "x: the squared norm of row")
    return F.normalize(x, dim=1, eps=1e-12) if similarity == "cosine" else x


def _check_features(x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise InputError(f"x: found {type(x).__name__}, expected a tensor [N, d]; convert it with torch.as_tensor(x)")
    if x.is_nested or x.layout != torch.strided:
        raise InputError("x: found a sparse or nested tensor, expected a dense one; call .to_dense()")
    if x.dim() != 2 or not x.is_floating_point():
        raise InputError(f"x has shape {list(x.shape)} and dtype {x.dtype}, expected floating-point features [N, d]")


def _require_finite(value: Tensor, name: str) -> None:
    bad = (~value.isfinite()).nonzero()
    if bad.numel():
        row = int(bad[0])
        raise InputError(
            f"{name} {row} is {float(value[row])}, expected finite numbers; {bad.numel()} rows are affected"
        )


def _check_k(k: Any, limit: int, of: str) -> int:
    k = as_integer(k, "k")
    if not 1 <= k <= limit:
        raise InputError(f"k: found {k}, expected 1 to {limit}, the number of {of}")
    return k


def _nearest(x: Tensor, k: int, block_size: int | None = None, among: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the ``k`` largest dot products of every row with all candidates, and the candidates they belong to."""
    among = x if among is None else among
    num_rows, num_candidates = x.size(0), among.size(0)
    width = -(-num_candidates // _GROUP) * _GROUP
    block_size = None if block_size is None else as_integer(block_size, "block_size")
    if block_size is None:
        block_size = max(32, _BLOCK_BYTES // (width * x.element_size()))
    if block_size < 1:
        raise InputError(f"block_size: found {block_size}, expected a positive number of rows, or None")
    # The same memory serves every block; the columns after the last candidate are never chosen.
    block = x.new_full((min(block_size, num_rows), width), -torch.inf)
    value, index = x.new_empty(num_rows, k), torch.empty(num_rows, k, dtype=torch.int64, device=x.device)
    for start in range(0, num_rows, block_size):
        rows = slice(start, min(start + block_size, num_rows))
        scores = block[: rows.stop - start]
        torch.mm(x[rows], among.t(), out=scores[:, :num_candidates])
        value[rows], index[rows] = _largest(scores, k)
    return value, index


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the ``k`` largest values of every row and their columns, lowest column first among equals.

    Only the ``k`` groups of adjacent columns with the largest maxima can hold them, so that a wide row is read once and
    very little of it is ordered. With groups of equal maxima the first ones win, which keeps the order of columns.
    """
    fast = scores.device.type == "cpu" and not exporting()
    if scores.size(1) <= (_NARROW if fast else _NARROW_SORTED) * k * _GROUP:
        return _ordered(scores, k) if fast and k < scores.size(1) else _sorted(scores, k)
    if missing := -scores.size(1) % _GROUP:
        scores = F.pad(scores, (0, missing), value=-torch.inf)
    group = _largest(scores.unflatten(1, (-1, _GROUP)).amax(dim=2), k)[1].sort(dim=1).values
    column = (group.unsqueeze(2) * _GROUP + torch.arange(_GROUP, device=scores.device)).flatten(1)  # [B, k * _GROUP]
    value, index = _largest(scores.gather(1, column), k)
    return value, column.gather(1, index)


def _ordered(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return what :func:`_sorted` does, of rows with more than ``k`` values.

    ``topk`` takes a third of the time of ``sort`` on a CPU, but any of equal values in any order, which is mended where
    there are some.
    """
    value, index = scores.topk(k + 1, dim=1)
    equal = value[:, 1:] == value[:, :-1]
    value, index = value[:, :k], index[:, :k]
    if not bool(equal.any()):
        return value, index
    cut = equal[:, -1]  # Not all that equal the last value are among the k.
    if bool(cut.any()):
        index[cut] = _first_of_equals(scores[cut], value[cut, -1:], k)
    index = index.sort(dim=1).values
    value, order = scores.gather(1, index).sort(dim=1, descending=True, stable=True)
    return value, index.gather(1, order)


def _sorted(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    value, index = scores.sort(dim=1, descending=True, stable=True)
    return value[:, :k], index[:, :k]


def _first_of_equals(scores: Tensor, last: Tensor, k: int) -> Tensor:
    """Return the columns of the ``k`` largest values, in any order, the first ones of those that equal the last."""
    width = scores.size(1)
    rank = torch.where(scores == last, torch.arange(width, 0, -1, dtype=torch.int32), 0)
    return rank.masked_fill_(scores > last, width + 1).topk(k, dim=1, sorted=False).indices


def _partners(shared: csr_array, first: int, k: int | None) -> tuple[np.ndarray, ...]:
    """Return (user, rank, other user, count) of a block of counts whose first row is user ``first``."""
    shared.sort_indices()
    block = shared.tocoo()
    row, other, count = (a.astype(np.int64) for a in (block.row, block.col, block.data))
    keep = other != row + first
    row, other, count = row[keep], other[keep], count[keep]
    # Equal counts stay in the order of users.
    order = np.argsort(row * (count.max(initial=0) + 1) - count, kind="stable")
    row, other, count = row[order], other[order], count[order]
    size = np.bincount(row, minlength=shared.shape[0])
    rank = np.arange(row.size) - (np.cumsum(size) - size)[row]
    keep = slice(None) if k is None else rank < k
    return row[keep] + first, rank[keep], other[keep], count[keep]
