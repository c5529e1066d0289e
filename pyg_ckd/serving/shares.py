"""Shapley values of the modalities, from the values of views."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import torch
from torch import Tensor

from pyg_ckd.scoring.views import View

EXACT = 6
"""Up to so many modalities every order is taken; beyond, the number of views would double with each of them."""


def shapley_weights(modalities: Sequence[str]) -> tuple[list[View], Tensor]:
    r"""Return the views whose values are needed, and the weights that turn values into shares.

    In an order of the modalities, starting from the view in which none is factual, each makes the value change by some
    amount when it becomes factual; its share is the mean change over orders. The changes of an order add up to the
    difference between the full view and the empty one, and so do the shares, whatever orders are taken. Those are all
    of them up to six modalities, which gives the `Shapley values <https://doi.org/10.1515/9781400881970-018>`_, and
    else the rotations of the given order and of its reverse, in which every modality has each place equally often.

    Args:
        modalities: Names of the modalities, at least one.

    Returns:
        ``V`` views, the empty one first and the full one last, and weights, float64 ``[M, V]``.
    """
    orders = list(permutations(modalities)) if len(modalities) <= EXACT else _rotations(tuple(modalities))
    place: dict[View, int] = {frozenset(): 0}
    changes = []
    for order in orders:
        for n, m in enumerate(order):
            before, after = (place.setdefault(frozenset(order[:stop]), len(place)) for stop in (n, n + 1))
            changes.append((modalities.index(m), before, after))
    weights = torch.zeros(len(modalities), len(place), dtype=torch.float64)
    for row, before, after in changes:
        weights[row, after] += 1 / len(orders)
        weights[row, before] -= 1 / len(orders)
    full = place[frozenset(modalities)]
    columns = [n for n in range(len(place)) if n != full] + [full]
    views = list(place)
    return [views[n] for n in columns], weights[:, columns]


def _rotations(order: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [way[n:] + way[:n] for way in (order, order[::-1]) for n in range(len(order))]
