"""The facts of a graph that belong into a report."""

from __future__ import annotations

from typing import Any

from torch_geometric.data import HeteroData

from pyg_ckd.data.build import fingerprint
from pyg_ckd.data.inputs import held_out


def describe(data: HeteroData) -> dict[str, Any]:
    """Return the facts of a graph that belong into a report.

    Args:
        data: The graph.
    """
    users, items, train = data["user"].num_nodes, data["item"].num_nodes, held_out(data, "train")
    modalities = {}
    for m in data.modalities:
        has = data["item"].get(f"has_{m}")
        coverage = 1.0 if has is None else float(has.float().mean())
        modalities[m] = {"dim": data["item"][m].size(1), "coverage": coverage}
    facts = {
        "source": str(data.source) if "source" in data else "",
        "num_users": users,
        "num_items": items,
        "num_train": train.size(1),
        "num_val": held_out(data, "val").size(1),
        "num_test": held_out(data, "test").size(1),
        "density": train.size(1) / (users * items),
        "cold_users": users - int(train[0].unique().numel()),
        "cold_items": items - int(train[1].unique().numel()),
        "fingerprint": fingerprint(data),
        "modalities": modalities,
    }
    return facts | ({"planted": dict(data.planted)} if "planted" in data else {})
