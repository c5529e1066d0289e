"""Whether features say more about taste as they were given than standardized, as they are by default."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data import prepared
from pyg_ckd.data.content import dense_features
from pyg_ckd.data.mapped import file_of
from pyg_ckd.data.transforms import StandardizeFeatures
from pyg_ckd.evaluation.content import SIGNIFICANT, ranker, rows_of
from pyg_ckd.evaluation.statistics import holm, paired_test

if TYPE_CHECKING:
    import pandas as pd

LIFT = 1.5
"""Features are said to be better as given if they rank so many times as well by themselves."""


def compare_scaling(data: HeteroData, modalities: Iterable[str], k: int = 20, seed: int = 0) -> pd.DataFrame:
    """Rank by each modality alone, as it was given and standardized.

    Where most values are zero, as of tags and word counts, standardizing gives the rarest columns the largest values.
    Modalities are left out that were transformed in another way, or are in files.

    Args:
        data: The graph, with a validation part of two or more users.
        modalities: The modalities.
        k: The cut-off.
        seed: As of :func:`~pyg_ckd.evaluation.content_ranking`.

    Returns:
        A row for every modality with the columns ``given`` and ``standardized``, recalls on the validation part, and
        ``p_value`` of a paired test over users, with Holm's correction over modalities.
    """
    import pandas as pd

    recalls, table = ranker(data, "val", k, seed), {}
    for m in modalities:
        both = _both(data, m)
        if both is not None:
            given, standardized = (recalls(_rows(data, m, x)) for x in both)
            test = paired_test(given, standardized)
            table[m] = {"given": test.mean_a, "standardized": test.mean_b, "p_value": test.p_value}
    frame = pd.DataFrame.from_dict(table, orient="index", columns=["given", "standardized", "p_value"])
    return frame.assign(p_value=holm(frame["p_value"])).rename_axis("modality")


def is_standardized(data: HeteroData, modality: str) -> bool:
    """Return whether the features of a modality are known to be standardized, and nothing else.

    Args:
        data: The graph.
        modality: The modality.
    """
    x = data["item"][modality]
    record = prepared.current(data, modality) if isinstance(x, Tensor) and x.layout is torch.strided else None
    steps = [] if record is None else record["steps"]
    return [step["name"] for step in steps] == [StandardizeFeatures.__name__] and "from" not in steps[0]


def better_as_given(scaling: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
    """Return the rows of modalities that rank significantly, and 1.5 times, better as they were given.

    Args:
        scaling: The rows of what :func:`compare_scaling` returned, by modality.
    """
    return {
        m: row
        for m, row in scaling.items()
        if row["p_value"] < SIGNIFICANT and row["given"] > LIFT * row["standardized"]
    }


def _both(data: HeteroData, modality: str) -> tuple[Tensor, Tensor] | None:
    """Return the features as they were given and standardized, or nothing if one of them is not known."""
    stored = data["item"][modality]
    dense = isinstance(stored, Tensor) and stored.layout is torch.strided
    if dense and (file_of(stored) is not None or prepared.changed(data, modality)):
        return None
    record = prepared.current(data, modality) if dense else None
    x = dense_features(data, modality)
    if record is None or not record["steps"]:
        graph = copy.copy(data)
        graph["item"][modality] = x
        return x, StandardizeFeatures([modality])(graph)["item"][modality]
    if not is_standardized(data, modality):
        return None
    factor, mean = (record["steps"][0]["fitted"][name] for name in ("factor", "mean"))
    return x / factor.where(factor > 0, 1.0) + mean, x


def _rows(data: HeteroData, modality: str, x: Tensor) -> Tensor:
    """Return the rows that features are ranked by."""
    graph = copy.copy(data)
    graph["item"][modality] = x
    return rows_of(graph, modality)[0]
