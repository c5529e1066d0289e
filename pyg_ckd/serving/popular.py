"""Lists by popularity, for users of whom a model knows nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_ckd.serving.catalogue import Catalogue
from pyg_ckd.serving.search import Masked, search_scores


def by_popularity(
    count: Tensor, is_new: Tensor, k: int, catalogue: Catalogue, masked: Masked | None, among: Masked | None
) -> tuple[Tensor, Tensor]:
    """Return numbers of interactions and rows of the items that have most, ``[n, k]``; of equal ones the first row.

    Args:
        count: Number of interactions of every item, int64 ``[I]``.
        is_new: Which users are unknown, bool ``[n]``. They have met nothing, and are in no list of candidates by user.
        k: Items per user, checked.
        catalogue: The items to choose from.
        masked: Pairs of the other users and candidates that must not be found, as in
            :func:`~pyg_ckd.serving.search.search`.
        among: Pairs of these that alone may be found.
    """
    rows = torch.arange(count.numel()) if catalogue.rows is None else catalogue.rows
    order = count[rows].argsort(descending=True, stable=True)
    found = torch.full((is_new.numel(), k), -1)
    if catalogue.among is None:
        found[is_new] = order[:k]
    if not bool(is_new.all()):
        behind = -order.argsort().double()  # By place: no two items have the same.
        shape = (int((~is_new).sum()), rows.numel())

        def score(start: int, stop: int, out: Tensor) -> None:
            out.copy_(behind.expand_as(out))

        found[~is_new] = search_scores(score, shape, k, behind, masked, among=among)[1]
    items = torch.where(found >= 0, rows[found], -1)
    return torch.where(found >= 0, count[items].double(), -torch.inf), items
