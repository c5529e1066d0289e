"""Ranking metrics of every single user, on the metrics of PyG, and of all lists together."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.metrics import (
    LinkPredCoverage,
    LinkPredHitRatio,
    LinkPredMAP,
    LinkPredMRR,
    LinkPredNDCG,
    LinkPredPrecision,
    LinkPredRecall,
)
from torch_geometric.metrics.link_pred import LinkPredMetricData

from pyg_ckd.arguments import as_integers, as_names
from pyg_ckd.errors import InputError, unknown_name

USER_METRICS = {
    "recall": LinkPredRecall,
    "precision": LinkPredPrecision,
    "ndcg": LinkPredNDCG,
    "map": LinkPredMAP,
    "mrr": LinkPredMRR,
    "hit": LinkPredHitRatio,
}
IDEALS = ("positives", "retrieved")
LIST_METRICS = ("coverage", "personalization")
NO_ITEM = -1
"""Stands in a ranking where a user has no further candidate: such a slot is empty and never a hit."""


def parse_metric(name: str) -> tuple[str, int]:
    """Split ``"recall@20"`` into ``("recall", 20)``.

    Args:
        name: A metric and its cut-off.

    Raises:
        InputError: If it has another form.
    """
    metric, _, cutoff = name.partition("@") if isinstance(name, str) else ("", "", "")
    if not re.fullmatch(r"[1-9][0-9]*", cutoff):  # Metrics go by their names: recall@05 would be none of them.
        raise InputError(f"metric: found {name!r}, expected a name and a cut-off such as 'recall@20'")
    return metric, int(cutoff)


def user_metrics(
    ranked: Tensor, labels: Tensor, metrics: Sequence[str], k: Sequence[int], ideal: str = "positives"
) -> dict[str, Tensor]:
    """Return every metric at every cut-off for every user.

    Args:
        ranked: The recommended items of each user, best first, int64 ``[users, K]`` with ``K >= max(k)``; ``-1`` at the
            end of a list that is shorter.
        labels: The positives (row of ``ranked``, item), int64 ``[2, P]``.
        metrics: Names among the keys of ``USER_METRICS``.
        k: Cut-offs.
        ideal: What NDCG and MAP are normalised with: all ``"positives"`` of the user, the usual definition, or only the
            ``"retrieved"`` ones among the ``K`` ranked items, as in the published code of the distillation paper.

    Returns:
        From ``name@k`` to a vector ``[users]``; users without positives have zeros.

    Raises:
        InputError: If a metric or ``ideal`` is unknown, or a cut-off is not between 1 and ``K``.
    """
    k, metrics = as_integers(k, "k"), as_names(metrics, "metrics")
    if ideal not in IDEALS:
        raise unknown_name("ideal", ideal, IDEALS)
    for name in metrics:
        if name not in USER_METRICS:
            raise unknown_name("metric of single users", name, USER_METRICS)
    for cut in k:
        if not 1 <= cut <= ranked.size(1):
            raise InputError(
                f"k: found {cut}, expected a number between 1 and {ranked.size(1)}, the length of the rankings; rank "
                "more items"
            )
    ranked = without_empty_slots(ranked, labels)
    data = LinkPredMetricData(ranked, labels)
    if ideal == "retrieved":
        row, rank = data.pred_rel_mat.nonzero(as_tuple=True)
        data = LinkPredMetricData(ranked, torch.stack([row, ranked[row, rank]]))
    values = {f"{name}@{cut}": USER_METRICS[name](cut)._compute(data) for name in metrics for cut in k}
    # Users without positives would be 0 / 0.
    return {name: value.nan_to_num(0.0).to(torch.get_default_dtype()) for name, value in values.items()}


def without_empty_slots(ranked: Tensor, labels: Tensor) -> Tensor:
    """Return rankings in which empty slots hold an item that is nobody's positive.

    PyG numbers the pairs (user, item) through, and so has no place for ``-1``.

    Args:
        ranked: As in :func:`user_metrics`.
        labels: As in :func:`user_metrics`.
    """
    nobody = max((int(x.max()) for x in (ranked, labels[1]) if x.numel()), default=0) + 1
    return ranked.masked_fill(ranked == NO_ITEM, nobody)


def coverage(ranked: Tensor, k: int, num_items: int) -> float:
    """Return the share of all items that are recommended to somebody.

    Args:
        ranked: As in :func:`user_metrics`; empty slots recommend nothing.
        k: Cut-off.
        num_items: Number of items.
    """
    metric = LinkPredCoverage(k, num_dst_nodes=num_items)
    chosen = ranked[:, :k]
    metric.update(chosen[chosen != NO_ITEM].view(-1, 1), ranked.new_empty(2, 0))
    return float(metric.compute())


def personalization(ranked: Tensor, k: int) -> float:
    r"""Return one minus the mean cosine similarity of the lists of two users.

    With :math:`R_u` the items on the list of user :math:`u`, the similarity of two lists is
    :math:`|R_u \cap R_v| / \sqrt{|R_u| \, |R_v|}`; empty slots are on no list. Of lists of equal length this is
    :class:`torch_geometric.metrics.LinkPredPersonalization`, which has no shorter ones and compares pair by pair.

    Args:
        ranked: As in :func:`user_metrics`.
        k: Cut-off.

    Returns:
        The value between 0 and 1; :obj:`nan` if there are fewer than two users with a list.
    """
    chosen = ranked[:, :k]
    filled = chosen != NO_ITEM
    length = filled.sum(dim=1)
    users = int((length > 0).sum())
    if users < 2:
        return float("nan")
    # With lists as rows of norm one, the similarities of all pairs sum to the squared norm of the sum of the rows.
    # In that sum, every list is paired with itself once and with each other list twice.
    items, column = torch.unique(chosen[filled], return_inverse=True)
    value = length.double().rsqrt().view(-1, 1).expand_as(chosen)[filled]
    total = value.new_zeros(items.numel()).index_add_(0, column, value).square().sum()
    return 1 - (float(total) - users) / (users * (users - 1))
