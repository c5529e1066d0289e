"""Item-based nearest neighbours, by interactions alone and together with content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.arguments import as_integer, as_number
from pyg_ckd.data.inputs import held_out
from pyg_ckd.data.neighbors import shared_counts
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation.baselines.content import content_rows
from pyg_ckd.evaluation.ranking import popularity
from pyg_ckd.scoring.neighbourhood import Neighbourhood, history_matrix

K, SHRINKAGE, CONTENT_WEIGHT = 100, 10.0, 0.2
"""What the knobs are where there is no validation part to choose them on."""

DENSE_ITEMS = 10_000
"""Items up to which weights may be held as one dense matrix, of 400 MB then."""

_SIMILARITY_BITS = 30  # Of a float32 from 0 to below 2.
_ROW_BITS = 63 - _SIMILARITY_BITS  # Bits of an int64 that rows of a block and items share.
_ONE_BITS = np.int64((1 << _SIMILARITY_BITS) - 1)
_FULL = 32  # An entry of a sparse product takes about as long as so many of a dense one.
_BLOCK = 4096  # Users whose scores are summed up at a time.


def item_knn(data: HeteroData, k: int = K, shrinkage: float = SHRINKAGE) -> Neighbourhood:
    r"""Return item-based nearest neighbours by interactions (`Sarwar et al., WWW 2001
    <https://doi.org/10.1145/371920.372071>`_).

    With :math:`n_i` users of item :math:`i` and :math:`n_{ij}` users of both :math:`i` and :math:`j`, the score is

    .. math::
        s_{ui} = \sum_{j \in \mathcal{I}_u \cap \mathcal{N}_k(i)} s_{ij}, \qquad
        s_{ij} = \frac{n_{ij}}{\sqrt{n_i n_j} + h}

    where :math:`\mathcal{N}_k(i)` are the :math:`k` other items with the largest similarity to :math:`i`, lowest item
    first among equals in float32. The shrinkage :math:`h` reduces similarities that are based on few users. Only the
    training interactions are used. Counts are made block by block: memory grows with :math:`k` times the number of
    items.

    Args:
        data: The graph.
        k: Neighbours of an item, at least 1; items that share no user are no neighbours.
        shrinkage: :math:`h`, 0 or more.

    Returns:
        Scores in float32; an item without interactions has none. Users without interactions are ranked by popularity.

    Raises:
        InputError: If ``k`` or ``shrinkage`` is out of range.
    """
    return neighbourhood(history_of(data), nearest(data, k, shrinkage).weights(int(k)), counts_of(data))


def item_knn_content(
    data: HeteroData,
    k: int = K,
    shrinkage: float = SHRINKAGE,
    weight: float = CONTENT_WEIGHT,
    modalities: Sequence[str] | None = None,
) -> Neighbourhood:
    r"""Return the sum of normalised scores of :func:`item_knn` and of the cosine kernels of the modalities.

    .. math::
        s_{ui} = \frac{s_{ui}^{\textrm{knn}}}{\sigma_{\textrm{knn}}} + w \sum_m \frac{1}{\sigma_m}
        \sum_{j \in \mathcal{I}_u} \cos(\mathbf{x}_j^m, \mathbf{x}_i^m)

    :math:`\sigma` is the standard deviation of the scores that it stands under, over all pairs of a user and an item.
    With more than 10,000 items, kernels stay factorised, so that no item-item matrix is built. Features are used as
    they are in the graph, after its transform. Users without training interactions are ranked by popularity.

    Args:
        data: The graph.
        k, shrinkage: As in :func:`item_knn`.
        weight: :math:`w`, 0 or more.
        modalities: The modalities to use. (default: :obj:`None`, all)

    Raises:
        InputError: If an argument is out of range, a modality is unknown, its features are not finite, or none has
            content.
    """
    history, content = history_of(data), ContentScores(data, modalities)
    neighbours = normalised(history, nearest(data, k, shrinkage).weights(int(k)))
    return blend(history, neighbours, content, weight, counts_of(data))


class Nearest(NamedTuple):
    """The nearest neighbours of every item, by item and then by decreasing similarity.

    Attributes:
        item: The item ``i``, int64 ``[N]``.
        rank: How many neighbours of ``i`` are nearer, int64 ``[N]``.
        other: The neighbour ``j``, int64 ``[N]``.
        similarity: Float32 ``[N]``.
        size: Number of all items.
    """

    item: np.ndarray
    rank: np.ndarray
    other: np.ndarray
    similarity: np.ndarray
    size: int

    def weights(self, k: int) -> csr_array:
        """Return the similarities to the ``k`` nearest neighbours, CSR ``[num_items, num_items]`` from ``j`` to ``i``.

        Args:
            k: At most the number of neighbours that were asked for.
        """
        keep = self.rank < k
        entries = (self.similarity[keep], (self.other[keep], self.item[keep]))
        return csr_array(entries, shape=(self.size, self.size))


def nearest(data: HeteroData, k: int, shrinkage: float) -> Nearest:
    """Return the ``k`` nearest neighbours of every item, see :func:`item_knn`.

    Args:
        data: The graph.
        k: Neighbours of an item.
        shrinkage: 0 or more.

    Raises:
        InputError: If ``k`` or ``shrinkage`` is out of range.
    """
    k, shrinkage = as_integer(k, "item-knn k", 1), check_not_negative("item-knn shrinkage", shrinkage)
    users, items = data["user"].num_nodes, int(data["item"].num_nodes)
    root = np.sqrt(np.bincount(history_of(data).indices, minlength=items))
    most = 1 << (_ROW_BITS - items.bit_length())
    parts = []
    for first, shared in shared_counts(held_out(data, "train").flip(0), items, users):
        for row in range(0, shared.shape[0], most):
            block = (shared if most >= shared.shape[0] else shared[row : row + most]).tocoo()
            item, other = block.row.astype(np.int64) + (first + row), block.col.astype(np.int64)
            apart = item != other
            item, other = item[apart], other[apart]
            similarity = block.data[apart] / (root[item] * root[other] + shrinkage)
            parts.append(_largest(item, other, similarity.astype(np.float32), k, first + row, items.bit_length()))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Nearest(columns[0], columns[1], columns[2], columns[3], items)


def _largest(
    item: np.ndarray, other: np.ndarray, similarity: np.ndarray, k: int, first: int, bits: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the columns of :class:`Nearest` for the ``k`` most similar items of every item.

    One sort of integers orders all, which is faster than one by two keys: the bits of numbers from 0 to below 2 are in
    the order of the numbers, and two of the 32 are zero.

    Args:
        item: Items, int64 ``[N]``.
        other: Other items, int64 ``[N]``.
        similarity: From 0 to below 2, float32 ``[N]``.
        k: At least 1.
        first: The smallest item.
        bits: Bits of an item; with those of the span of ``item``, 33 at most.
    """
    descending = _ONE_BITS - similarity.view(np.int32).astype(np.int64)
    key = ((item - first) << np.int64(_SIMILARITY_BITS) | descending) << np.int64(bits) | other
    key.sort()
    row = key >> np.int64(_SIMILARITY_BITS + bits)
    count = np.bincount(row)
    rank = np.arange(key.size) - np.repeat(np.cumsum(count) - count, count)
    keep = rank < k
    key, row, rank = key[keep], row[keep], rank[keep]
    descending = key >> np.int64(bits) & _ONE_BITS
    return (
        row + first,
        rank,
        key & np.int64((1 << bits) - 1),
        (_ONE_BITS - descending).astype(np.int32).view(np.float32),
    )


class ContentScores:
    """The cosine kernels of modalities, each scaled so that its scores have a standard deviation of one.

    Args:
        data: The graph.
        modalities: The modalities to use. (default: :obj:`None`, all)

    Raises:
        InputError: If a modality is unknown, its features are not finite, or none has content.
    """

    def __init__(self, data: HeteroData, modalities: Sequence[str] | None = None) -> None:
        history = history_of(data)
        rows = content_rows(data, modalities)
        self.rows = torch.cat([x * _inverse(_factor_deviation(history, x)) ** 0.5 for x in rows.values()], dim=1)


def neighbourhood(history: csr_array, weights: csr_array, counts: Tensor) -> Neighbourhood:
    """Return scores by weights, held dense where that is faster: small catalogues whose items have many neighbours.

    Args:
        history: What users have met.
        weights: Weights of :meth:`Nearest.weights`.
        counts: Training interactions of every item, :func:`counts_of`.
    """
    items = weights.shape[0]
    dense = items <= DENSE_ITEMS and _FULL * weights.nnz > items**2
    return Neighbourhood(history, torch.from_numpy(weights.toarray()) if dense else weights, counts=counts)


def blend(
    history: csr_array, neighbours: csr_array, content: ContentScores, weight: float, counts: Tensor
) -> Neighbourhood:
    """Return neighbours and content, see :func:`item_knn_content`.

    Args:
        history: What users have met.
        neighbours: Weights of :func:`normalised`.
        content: The kernels.
        weight: 0 or more.
        counts: Training interactions of every item, :func:`counts_of`.

    Raises:
        InputError: If the weight is out of range.
    """
    weight = check_not_negative("item-knn-content weight", weight)
    rows = content.rows.float() * weight**0.5
    if rows.size(0) > DENSE_ITEMS:
        return Neighbourhood(history, neighbours, rows, counts)
    weights = torch.from_numpy(neighbours.toarray()).addmm_(rows, rows.t())
    return Neighbourhood(history, weights.fill_diagonal_(0), counts=counts)


def normalised(history: csr_array, neighbours: csr_array) -> csr_array:
    """Return weights whose scores have a standard deviation of one, or are all equal.

    Args:
        history: What users have met.
        neighbours: Weights of :meth:`Nearest.weights`.
    """
    return neighbours * np.float32(_inverse(_sparse_deviation(history, neighbours)))


def history_of(data: HeteroData) -> csr_array:
    """Return the training interactions as a matrix of ones, float32 ``[num_users, num_items]``.

    Args:
        data: The graph.
    """
    return history_matrix(held_out(data, "train"), data["user"].num_nodes, data["item"].num_nodes)


def counts_of(data: HeteroData) -> Tensor:
    """Return the scores of :func:`~pyg_ckd.evaluation.popularity`, which rank users without a history, ``[I]``.

    Args:
        data: The graph.
    """
    return popularity(data).item.squeeze(1).cpu()


def check_not_negative(name: str, value: float) -> float:
    """Return a finite number from 0 on as :obj:`float`, and refuse anything else.

    Args:
        name: What it is, for the message.
        value: The number.

    Raises:
        InputError: If it is negative, not finite or no number.
    """
    number = as_number(value, name)
    if not 0 <= number < float("inf"):
        raise InputError(f"{name}: found {value}, expected a finite number that is 0 or more")
    return number


def _sparse_deviation(history: csr_array, weights: csr_array) -> float:
    """Return the standard deviation of all entries of ``history @ weights``."""
    total, squares = 0.0, 0.0
    for start in range(0, history.shape[0], _BLOCK):
        scores = (history[start : start + _BLOCK] @ weights).data.astype(np.float64)
        total, squares = total + scores.sum(), squares + np.square(scores).sum()
    return _deviation(total, squares, history.shape[0] * history.shape[1])


def _factor_deviation(history: csr_array, rows: Tensor) -> float:
    """Return the standard deviation of all entries of ``history @ rows @ rows.t()``, which are never computed."""
    users = torch.from_numpy(history.astype(np.float64) @ rows.numpy())
    total = float(users.sum(dim=0) @ rows.sum(dim=0))
    squares = float(((users.t() @ users) * (rows.t() @ rows)).sum())
    return _deviation(total, squares, history.shape[0] * history.shape[1])


def _deviation(total: float, squares: float, count: int) -> float:
    return max(squares / count - (total / count) ** 2, 0.0) ** 0.5


def _inverse(deviation: float) -> float:
    return 1 / deviation if deviation > 0 else 0.0
