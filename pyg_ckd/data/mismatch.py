"""Why features of a graph are not those that a model was trained with, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data.ids import id_column, value_at
from pyg_ckd.data.prepared import current, same_steps, settings_of
from pyg_ckd.data.ridge import FAR


def other_width(data: HeteroData, record: Mapping[str, Any] | None, modality: str) -> str | None:
    """Return that features have more or fewer columns than in training, or :obj:`None` if they have as many.

    Args:
        data: The graph.
        record: What became of the features in training; :obj:`None` if nobody knows.
        modality: The modality.
    """
    now = current(data, modality)
    if now is None or record is None or now["dim"] == record["dim"]:
        return None
    return (
        f"features {modality!r} have {now['dim']} columns in the graph and had {record['dim']} in training, expected "
        "as many; give the features of the same encoder, or train again"
    )


def fitted_anew(data: HeteroData, record: Mapping[str, Any] | None, modality: str) -> str | None:
    """Return that principal components were fitted anew, or :obj:`None` if they were not.

    Args:
        data: The graph.
        record: What became of the features in training; :obj:`None` if nobody knows.
        modality: The modality.
    """
    now = current(data, modality)
    if now is None or record is None or settings_of(now["steps"]) != settings_of(record["steps"]):
        return None
    projected = any("components" in step.get("fitted", {}) for step in record["steps"])
    if not projected or same_steps(now["steps"], record["steps"]):
        return None
    return (
        f"the principal components of {modality!r} were fitted anew, on other features than in training, so that its "
        "columns mean something else, expected those of training; give features as they are read, with --transform "
        "none (transform='none' in Python): the model's file holds the fitted components, which are then applied"
    )


def outlier(data: HeteroData, known: Tensor, modality: str, count: int) -> str | None:
    """Return which new item has a feature far outside of those of known items, or :obj:`None` if none has.

    Args:
        data: The graph.
        known: Rows of the items that the model knows.
        modality: The modality.
        count: How many items have other features.
    """
    x = data["item"][modality].cpu().double()
    there = x[known.cpu()]
    others = torch.ones(x.size(0), dtype=torch.bool).index_fill(0, known.cpu(), False).nonzero().view(-1)
    apart, most = ((part - there.mean(dim=0)).abs() for part in (x[others], there))
    apart = torch.where(apart > FAR * most.amax(dim=0), apart, 0.0)  # Known items may be squeezed into one value.
    if not bool((apart > 0).any()):
        return None
    place, column = divmod(int(apart.argmax()), x.size(1))
    value, low, high = (
        float(one) for one in (x[others[place], column], there[:, column].min(), there[:, column].max())
    )
    return (
        f"{named(data, 'item', others[[place]].numpy())}, which the model does not know, has {value:.4g} in column "
        f"{column} of {modality!r}, where known items have {low:.4g} to {high:.4g}; prepared together with it, "
        f"features of {count:,} known items lose what tells them apart, expected those of training; mend that value, "
        "or prepare features as in training, with transform=RecordedTransform(graph)"
    )


def named(data: HeteroData, kind: str, rows: np.ndarray) -> str:
    """Return the ids of the first of some rows of a graph, and of how many more.

    Args:
        data: The graph.
        kind: ``"user"`` or ``"item"``.
        rows: The rows.
    """
    return names_of(pd.Series(id_column(data[f"{kind}_id"], f"{kind}_id")), rows, kind)


def names_of(column: pd.Series, rows: np.ndarray, kind: str = "") -> str:
    """Return the first ids of some rows of a column, and of how many more.

    Args:
        column: The ids.
        rows: The rows.
        kind: What they are of.
    """
    shown = ", ".join(repr(value_at(column, int(row))) for row in rows[:3])
    more = f" and {rows.size - 3:,} more" if rows.size > 3 else ""
    return f"{kind} {shown}{more}".strip()
