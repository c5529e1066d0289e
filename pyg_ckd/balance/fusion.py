"""Scores of several pairs of tables as one, which is a dot product again, and weights to fuse them with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.views import View

FACTORS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
NUM_CANDIDATES = 1024
SWEEPS, RIDGE = 100, 1e-3
_BLOCK = 4096  # Users at a time, so that memory does not grow with their number.


def fuse(tables: Sequence[Embeddings], weights: Sequence[Tensor] | Tensor) -> Embeddings:
    """Return tables whose scores are weighted sums of the scores of several: they stand side by side.

    Args:
        tables: The pairs of tables, of the same users and items.
        weights: A weight for each, scalars ``[K]``, or one for every user ``[K, U]``.
    """
    users = []
    for (user, _), weight in zip(tables, weights, strict=True):
        factor = weight.to(user.dtype)
        users.append(user * (factor.unsqueeze(-1) if factor.dim() else factor))
    return Embeddings(torch.cat(users, dim=1), torch.cat([item for _, item in tables], dim=1))


def fused(tables: Mapping[str, Embeddings], weights: Tensor, spread: Tensor, view: View) -> Embeddings:
    r"""Return tables that score with :math:`\sum_{m \in S} w_m s^m / \sigma_m` for a view :math:`S`.

    Args:
        tables: From modality to its tables.
        weights: The weights :math:`w_m` in the same order, ``[K]``. If those of the view are all zero, they count as
            equal.
        spread: The spreads :math:`\sigma_m` of the scores, ``[K]``, see :func:`score_spread`.
        view: The view; if it holds none of the modalities, all items are alike.
    """
    scale = weights / spread
    chosen = [(column, m) for column, m in enumerate(tables) if m in view]
    if not chosen:
        user, item = next(iter(tables.values()))
        return Embeddings(user.new_zeros(user.size(0), 1), item.new_zeros(item.size(0), 1))
    if not any(bool(weights[column] > 0) for column, _ in chosen):
        scale = 1 / spread
    return fuse([tables[m] for _, m in chosen], [scale[column] for column, _ in chosen])


def choose_weights(value: Callable[[Tensor], float], like: Tensor) -> Tensor:
    """Return weights with a large value, found by coordinate ascent over multiples of them, from equal weights.

    Args:
        value: What weights are worth, such as the recall of the fused scores on the validation part.
        like: A tensor of the shape ``[K]`` and type that the weights shall have.

    Returns:
        Weights of zero or more, whose mean is one.
    """
    weights, improved = torch.ones_like(like), True
    best = value(weights)
    while improved:
        improved = False
        for column in range(weights.numel()):
            start = weights[column].item() or 1.0
            for factor in FACTORS:
                trial = weights.clone()
                trial[column] = factor * start
                found = value(trial) if trial.any() else best
                if found > best:
                    best, weights, improved = found, trial, True
    return weights / weights.sum() * weights.numel()


@torch.no_grad()
def logistic_weights(margins: Tensor) -> Tensor:
    r"""Return the weights of zero or more with which a sum of margins has the smallest BPR loss, without gradient.

    .. math::
        \underset{w \ge 0}{\textrm{argmin}} \; \underset{b}{\textrm{mean}} \; \ln \Big( 1 + \exp \Big( -
        \sum_k w_k d_{bk} \Big) \Big) + \frac{10^{-3}}{2} \sum_k w_k^2

    by steps along one weight after the other, as long as the largest curvature of the loss allows.

    Args:
        margins: Margins :math:`d` of every table, on a comparable scale, ``[B, K]``.

    Returns:
        The weights ``[K]`` in double precision, with a mean of one; all are one where nothing is better than chance.
    """
    d = margins.double()
    weights, total = d.new_zeros(d.size(1)), d.new_zeros(d.size(0))
    curvature = RIDGE + d.square().mean(dim=0) / 4
    for _ in range(SWEEPS):
        for k in range(d.size(1)):
            slope = RIDGE * weights[k] - (torch.sigmoid(-total) * d[:, k]).mean()
            new = (weights[k] - slope / curvature[k]).clamp(min=0)
            total = total + (new - weights[k]) * d[:, k]
            weights[k] = new
    mean = weights.mean()
    return torch.where(mean > 0, weights / torch.where(mean > 0, mean, 1), 1.0)


def score_spread(tables: Embeddings) -> Tensor:
    r"""Return :math:`\sqrt{\textrm{mean}_u \, \textrm{var}_i \, s_{ui}}`, the spread of scores within a user, a scalar.

    A recommender that likes all items alike has a spread of one, so that nothing divides by zero.

    Args:
        tables: The two tables; the variance over items is that of the population.
    """
    variance = score_variances(tables).mean()
    return torch.where(variance > 0, variance.sqrt(), 1.0)


def score_variances(tables: Embeddings) -> Tensor:
    """Return the variance of every user's scores over all items, ``[U]`` in double precision.

    Args:
        tables: The two tables; the variance is that of the population.
    """
    user, item = tables.user.double(), tables.item.double()
    centred = item - item.mean(dim=0)
    return ((user @ (centred.t() @ centred / item.size(0))) * user).sum(dim=1).clamp(min=0)


@torch.no_grad()
def user_weights(
    tables: Sequence[Embeddings], rule: Callable[[Tensor], Tensor], num_candidates: int = NUM_CANDIDATES
) -> Tensor:
    """Return a weight of every pair of tables for every user, from how the user's scores lie, without gradient.

    Args:
        tables: The pairs of tables, of the same users and items.
        rule: Makes weights ``[K, B]`` of scores ``[K, B, C]`` of some users for the candidates.
        num_candidates: About how many items are scored; they are evenly spread over the rows of the item table.

    Returns:
        The weights ``[K, U]``.
    """
    num_users, num_items = tables[0].user.size(0), tables[0].item.size(0)
    every = -(-num_items // num_candidates)
    items = [item[::every].t() for _, item in tables]
    found = []
    for start in range(0, num_users, _BLOCK):
        users = [user[start : start + _BLOCK] for user, _ in tables]
        found.append(rule(torch.stack([user @ item for user, item in zip(users, items, strict=True)])))
    return torch.cat(found, dim=1)
