"""Ranking metrics of every single user, on the metrics of PyG."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.metrics import (
    LinkPredHitRatio,
    LinkPredMAP,
    LinkPredMRR,
    LinkPredNDCG,
    LinkPredPrecision,
    LinkPredRecall,
)
from torch_geometric.metrics.link_pred import LinkPredMetricData

USER_METRICS = {
    "recall": LinkPredRecall,
    "precision": LinkPredPrecision,
    "ndcg": LinkPredNDCG,
    "map": LinkPredMAP,
    "mrr": LinkPredMRR,
    "hit": LinkPredHitRatio,
}
LIST_METRICS = ("coverage", "personalization")


def user_metrics(
    ranked: Tensor, labels: Tensor, metrics: Sequence[str], k: Sequence[int], ideal: str = "positives"
) -> dict[str, Tensor]:
    """Return every metric at every cut-off for every user.

    Args:
        ranked: The recommended items of each user, best first, int64 ``[users, K]`` with ``K >= max(k)``.
        labels: The positives (row of ``ranked``, item), int64 ``[2, P]``.
        metrics: Names among the keys of ``USER_METRICS``.
        k: Cut-offs.
        ideal: What NDCG and MAP are normalised with: all ``"positives"`` of the user, the usual definition, or only the
            ``"retrieved"`` ones among the ``K`` ranked items, as in the published code of the distillation paper.

    Returns:
        From ``name@k`` to a vector ``[users]``; users without positives have zeros.
    """
    data = LinkPredMetricData(ranked, labels)
    if ideal == "retrieved":
        row, rank = data.pred_rel_mat.nonzero(as_tuple=True)
        data = LinkPredMetricData(ranked, torch.stack([row, ranked[row, rank]]))
    values = {f"{name}@{cut}": USER_METRICS[name](cut)._compute(data) for name in metrics for cut in k}
    # Users without positives would be 0 / 0.
    return {name: value.nan_to_num(0.0).to(torch.get_default_dtype()) for name, value in values.items()}
