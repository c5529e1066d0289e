"""Maximal marginal relevance: lists whose items are unlike each other, and what that costs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

POOL = 5
"""Items looked at, as a multiple of the length of a list; at least :data:`LEAST` of them."""
LEAST = 50

_BLOCK_BYTES = 2**27


def pool_size(k: int, num_items: int) -> int:
    """Return how many of the best items lists of ``k`` are chosen from."""
    return min(num_items, max(POOL * k, LEAST))


def mmr(scores: Tensor, items: Tensor, table: Tensor, k: int, diversity: float) -> tuple[Tensor, Tensor]:
    r"""Choose ``k`` items one after another from the best ones.

    With the scores of a user's pool brought to 0 to 1, :math:`r_i`, and cosines :math:`c_{ij}`, the next item is

    .. math::
        \arg\max_{i \notin S} \; (1 - \delta) \, r_i - \delta \max_{j \in S} c_{ij}

    From `"The use of MMR, diversity-based reranking for reordering documents and producing summaries"
    <https://doi.org/10.1145/290941.291025>`_, whose :math:`\lambda` is :math:`1 - \delta`.

    Args:
        scores: Scores of the pool in decreasing order, ``[n, P]``; ``-inf`` in empty slots.
        items: Their rows in ``table``, int64 ``[n, P]``; -1 in empty slots.
        table: Embeddings that say which items are alike, ``[I, D]``.
        k: Items to choose, up to ``P``.
        diversity: :math:`\delta`, from 0 (the order of scores) to 1.

    Returns:
        Scores and items ``[n, k]`` in the order of choice, as they were given.
    """
    unit = F.normalize(table, dim=1)
    size = _lists_at_once(items, table)
    parts = [
        _chosen(score, item, unit, k, diversity)
        for score, item in zip(scores.split(size), items.split(size), strict=True)
    ]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def list_similarity(items: Tensor, table: Tensor) -> Tensor:
    """Return the mean cosine of the pairs of items of each list, ``[n]``; NaN for lists of fewer than two items.

    Args:
        items: Rows of items, int64 ``[n, k]``; -1 in empty slots.
        table: Embeddings ``[I, D]``.
    """
    unit = F.normalize(table, dim=1)
    parts = [_similarity(part, unit) for part in items.split(_lists_at_once(items, unit))]
    return torch.cat(parts)


def shared_items(items: Tensor, others: Tensor) -> Tensor:
    """Return how many items of each list are on another one too, int64 ``[n]``.

    Args:
        items: Rows of items, int64 ``[n, k]``; -1 in empty slots.
        others: Those of the other lists, int64 ``[n, k]``.
    """
    size = max(1, _BLOCK_BYTES // max(items.size(1) * others.size(1), 1))
    parts = [
        ((own.unsqueeze(2) == other.unsqueeze(1)).any(dim=2) & (own >= 0)).sum(dim=1)
        for own, other in zip(items.split(size), others.split(size), strict=True)
    ]
    return torch.cat(parts)


def _similarity(items: Tensor, unit: Tensor) -> Tensor:
    there = (items >= 0).to(unit.device)
    rows = unit[items.clamp(min=0).to(unit.device)] * there.unsqueeze(2)  # [n, k, D]
    count = there.sum(dim=1).to(unit.dtype)
    both = rows.sum(dim=1).square().sum(dim=1) - rows.square().sum(dim=(1, 2))  # Sum over ordered pairs.
    return (both / (count * (count - 1))).cpu()


def _lists_at_once(items: Tensor, table: Tensor) -> int:
    """Return of how many lists the rows of all items are held at once."""
    return max(1, _BLOCK_BYTES // max(items.size(1) * table.size(1) * table.element_size(), 1))


def _chosen(scores: Tensor, items: Tensor, unit: Tensor, k: int, diversity: float) -> tuple[Tensor, Tensor]:
    empty = items < 0
    finite = scores.masked_fill(empty, float("nan"))
    low = finite.nan_to_num(nan=float("inf")).amin(dim=1, keepdim=True)
    spread = scores[:, :1] - low
    relevance = ((scores - low) / torch.where(spread > 0, spread, 1)).masked_fill(empty, -torch.inf)
    rows = unit[items.clamp(min=0).to(unit.device)]  # [n, P, D]
    nearest = torch.full_like(relevance, -torch.inf)
    left, order = ~empty, []
    for place in range(k):
        worth = (1 - diversity) * relevance - (diversity * nearest if place else 0)
        pick = worth.masked_fill(~left, -torch.inf).argmax(dim=1)  # Of nothing left, some slot that is empty or taken.
        alive = left.gather(1, pick.unsqueeze(1)).squeeze(1)
        order.append(torch.where(alive, pick, -1))
        left = left.scatter(1, pick.unsqueeze(1), False)
        chosen = rows[torch.arange(pick.numel(), device=rows.device), pick.to(rows.device)]
        nearest = torch.maximum(nearest, (rows @ chosen.unsqueeze(2)).squeeze(2).cpu().to(nearest.dtype))
    index = torch.stack(order, dim=1)
    at = index.clamp(min=0)
    return scores.gather(1, at).masked_fill(index < 0, -torch.inf), items.gather(1, at).masked_fill(index < 0, -1)
