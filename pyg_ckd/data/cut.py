"""Parts of a graph: cut with their held-out interactions, or with training interactions only for PyG's loaders.

Graphs hold the number of every node in ``n_id``, as PyG's loaders do. These numbers are cut along with the nodes by
whatever cuts a graph, so that one whose held-out interactions still are in the old numbers is recognised.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.data.storage import EdgeStorage

from pyg_ckd.arguments import shown
from pyg_ckd.data.arrays import without_tensors
from pyg_ckd.data.inputs import HELD_OUT, RATES, check_graph, check_interactions, check_whole
from pyg_ckd.errors import InputError, unknown_name

REVERSE = ("item", "rev_rates", "user")
"""Edge type of the training interactions from items to users, in the graph of :func:`training_graph`."""


class InteractionStorage(EdgeStorage):
    """Interactions beside held-out ones, which PyG must not take for attributes of edges where they are as many."""

    def is_edge_attr(self, key: str) -> bool:
        """Return whether a value has an entry for every training interaction."""
        return key not in HELD_OUT and super().is_edge_attr(key)


def keep_whole(data: HeteroData) -> HeteroData:
    """Number the nodes of a graph, in place, and set its held-out interactions apart from attributes of edges.

    Args:
        data: The graph; numbers that it has already are kept.
    """
    for kind in ("user", "item"):
        if "n_id" not in data[kind]:
            data[kind].n_id = torch.arange(data[kind].num_nodes)
    store = data[RATES]
    if not isinstance(store, InteractionStorage):
        data._edge_store_dict[RATES] = InteractionStorage(store._mapping, _parent=data, _key=RATES)
    return data


def subgraph(data: HeteroData, subset_dict: Mapping[str, Any]) -> HeteroData:
    """Return the graph of some users and items, with the interactions of all splits among them in the new numbers.

    Unlike :meth:`HeteroData.subgraph`, it also selects and renumbers the held-out interactions, ``data.user_id`` and
    ``data.item_id``. Features are not standardised again.

    Args:
        data: The graph.
        subset_dict: From node type to the nodes to keep, a bool mask or their row numbers, which then get new numbers
            in the order given. A type that is left out is kept whole.

    Raises:
        InputError: If a node type is unknown, a subset is empty, has a row twice or one that does not exist, no
            training interaction is left, or the graph has been cut by other means before.

    Example:
        >>> popular = torch.bincount(data[RATES].edge_index[1], minlength=data["item"].num_nodes) >= 5
        >>> small = subgraph(data, {"item": popular})  # doctest: +SKIP
    """
    check_interactions(data)
    check_whole(data)
    if not isinstance(subset_dict, Mapping):
        raise InputError(
            f"subset_dict: found {type(subset_dict).__name__}, expected a dict from node type to the nodes to keep, "
            "such as {'item': [0, 1]}"
        )
    for kind in subset_dict:
        if kind not in data.node_types:
            raise unknown_name("node type", kind, data.node_types)
    whole = keep_whole(copy.copy(data))
    device = data[RATES].edge_index.device
    rows = {
        kind: _rows(subset_dict[kind], data[kind].num_nodes, kind).to(device)
        if kind in subset_dict
        else torch.arange(data[kind].num_nodes, device=device)
        for kind in data.node_types
    }
    out = whole.subgraph(rows)
    if out[RATES].edge_index.size(1) == 0:
        raise InputError("subgraph: found no training interaction among these users and items, expected at least one")
    new = {}
    for kind in ("user", "item"):
        new[kind] = torch.full((data[kind].num_nodes,), -1, device=device)
        new[kind][rows[kind]] = torch.arange(rows[kind].numel(), device=device)
        out[kind].n_id = torch.arange(rows[kind].numel(), device=device)
        ids = getattr(data, f"{kind}_id", None)
        if ids is not None:
            out[f"{kind}_id"] = _take(ids, rows[kind].cpu())
    for name in HELD_OUT:
        if name in data[RATES]:
            user, item = data[RATES][name].to(device)
            pairs = torch.stack([new["user"][user], new["item"][item]])
            out[RATES][name] = pairs[:, (pairs >= 0).all(dim=0)]
    return out


def training_graph(data: HeteroData) -> HeteroData:
    """Return the graph that PyG's loaders sample from: training interactions in both directions and nothing held out.

    A batch of a loader holds some users and items under new numbers; their numbers in the graph are in its ``n_id``.

    Args:
        data: The graph.

    Returns:
        A graph with the same nodes and further edge types, the training interactions under ``('user', 'rates',
        'item')`` and, turned around, under ``('item', 'rev_rates', 'user')``. Ids are left out.

    Example:
        >>> from torch_geometric.loader import NeighborLoader
        >>> loader = NeighborLoader(training_graph(data), [10, 10], "user", batch_size=256)  # doctest: +SKIP
        >>> batch = next(iter(loader))  # doctest: +SKIP
        >>> model(features, batch.edge_index_dict, n_id_dict=batch.n_id_dict)  # doctest: +SKIP
    """
    check_graph(data)
    whole = keep_whole(copy.copy(data))
    out = HeteroData()
    for kind in data.node_types:
        for name, value in whole[kind].items():
            out[kind][name] = value
    for kind in data.edge_types:
        for name, value in whole[kind].items():
            if name not in HELD_OUT:
                out[kind][name] = value
    for name, value in whole[RATES].items():
        if name == "edge_index":
            out[REVERSE].edge_index = value.flip(0)
        elif whole[RATES].is_edge_attr(name):
            out[REVERSE][name] = value
    out.modalities = list(data.modalities)
    out.source = getattr(data, "source", "data")
    return out


def _rows(subset: Any, size: int, kind: str) -> Tensor:
    try:
        array = np.ravel(np.asarray(without_tensors(subset, f"subgraph: rows of {kind!r}")))
    except InputError:
        raise
    except ValueError:  # Of lists of unequal length.
        array = np.array([subset], dtype=object)
    if array.dtype.kind not in "biuf":
        raise InputError(f"subgraph: found {shown(subset)} for {kind!r}, expected row numbers or a bool mask")
    if array.dtype.kind == "b":
        if array.size != size:
            raise InputError(f"subgraph: found a mask of {array.size} for {kind!r}, expected [{size}]")
        array = np.flatnonzero(array)
    elif array.dtype.kind == "f" and array.size:
        raise InputError(f"subgraph: found {array.dtype} for {kind!r}, expected row numbers or a bool mask")
    if not array.size:
        raise InputError(f"subgraph: found no {kind} to keep, expected at least one")
    wrong = array[(array < 0) | (array >= size)]
    if wrong.size:
        raise InputError(f"subgraph: found {kind} row {int(wrong[0])}, expected 0 to {size - 1}")
    chosen = torch.from_numpy(array.astype(np.int64))
    if chosen.unique().numel() < chosen.numel():
        twice = int(torch.bincount(chosen).argmax())
        raise InputError(f"subgraph: found {kind} row {twice} more than once, expected every row once")
    return chosen


def _take(ids: Any, rows: Tensor) -> Any:
    if isinstance(ids, Tensor):
        return ids[rows.to(ids.device)]
    if isinstance(ids, (list, tuple)):
        return type(ids)(ids[row] for row in rows.tolist())
    return (ids.iloc if isinstance(ids, pd.Series) else ids)[rows.numpy()]
