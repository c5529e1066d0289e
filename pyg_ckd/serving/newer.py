"""A model and a graph that is newer than it: users, items and interactions that were not there in training."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import TypeVar

import pandas as pd
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.arguments import as_names
from pyg_ckd.data.ids import as_ids, id_column, value_at
from pyg_ckd.data.inputs import held_out
from pyg_ckd.data.matching import matched_newer, same_graph
from pyg_ckd.errors import InputError
from pyg_ckd.serving.growth import POPULAR, STAY_UNKNOWN, GrowingLists, Waiting
from pyg_ckd.serving.ids import Ids
from pyg_ckd.serving.search import distinct_pairs
from pyg_ckd.training.model import other_data

R = TypeVar("R", bound=GrowingLists)


def graph_of_model(
    path: str | os.PathLike[str], content: Mapping[str, object], data: HeteroData
) -> tuple[HeteroData, HeteroData | None]:
    """Return the graph that a model knows, and the whole one on the model's scale if there is more to it.

    Args:
        path: The file of the model, for messages.
        content: What it holds.
        data: The graph.

    Returns:
        ``data`` itself and :obj:`None`, or what :func:`~pyg_ckd.data.matching.matched_newer` returns.

    Raises:
        InputError: If it is no graph that the model fits.
    """
    record = content.get("graph")
    if same_graph(data, str(content["data"]), record):  # type: ignore[arg-type]
        return data, None
    if not isinstance(record, Mapping) or any(getattr(data, f"{kind}_id", None) is None for kind in record["ids"]):
        raise other_data(path, content, data)
    if any(ids is None for ids in record["ids"].values()):
        raise other_data(path, content, data)
    return matched_newer(data, record, f"checkpoint {path}")


def new_items(recommender: R, whole: HeteroData, seen: Sequence[str]) -> R:
    """Return a recommender with the items of a graph that it does not know, and known users' interactions with them.

    Args:
        recommender: The recommender of the part of the graph that the model knows.
        whole: The whole graph.
        seen: Splits whose interactions count as seen.
    """
    ids, place = _ids(whole, "item"), _places(whole, recommender.items, "item")
    new = (place < 0).nonzero().view(-1)
    if not new.numel():
        return recommender
    features = {m: whole["item"][m][new.to(whole["item"][m].device)] for m in whole.modalities}
    out = recommender.with_new_items(features, _like(recommender.items, ids.iloc[new.numpy()]), transformed=True)
    place[new] = torch.arange(new.numel()) + len(recommender.items)
    user = _places(whole, recommender.users, "user")
    train, rest = _edges(whole, seen, user, place)
    later = [e[:, e[1] >= len(recommender.items)] for e in (train, rest)]
    before = out.seen
    out = out._with_clicks(later[0])
    out.seen = before.with_pairs(later[1])
    text = f"{_have(new.numel(), 'item')} embeddings from their features, such as {value_at(ids, int(new[0]))!r}"
    out.notes = (*out.notes, text)
    return out


def new_users(recommender: R, whole: HeteroData, seen: Sequence[str]) -> R:
    """Return a recommender with the users of a graph that it does not know, if they have met anything.

    Args:
        recommender: The recommender, which knows all items.
        whole: The whole graph.
        seen: Splits whose interactions count as seen.
    """
    ids = _ids(whole, "user")
    place, item = _places(whole, recommender.users, "user"), _places(whole, recommender.items, "item")
    new = (place < 0).nonzero().view(-1)
    if not new.numel():
        return recommender
    number = torch.full_like(place, -1)
    number[new] = torch.arange(new.numel())
    train, rest = _edges(whole, seen, number, item)
    active = train[0].unique()
    notes, out = list(recommender.notes), recommender
    if active.numel():
        compact = torch.full((new.numel(),), -1)
        compact[active] = torch.arange(active.numel())
        pairs = distinct_pairs(torch.stack([compact[train[0]], train[1]]))
        names = _like(recommender.users, ids.iloc[new[active].numpy()])
        out = recommender._with_users(pairs[0], pairs[1], active.numel(), names)
        later = torch.stack([compact[rest[0]], rest[1]])[:, compact[rest[0]] >= 0]
        later[0] += len(recommender.users)
        out.seen = out.seen.with_pairs(later)
        first = value_at(ids, int(new[active[0]]))
        notes.append(f"{_have(active.numel(), 'user')} embeddings from what they have met, such as {first!r}")
    if active.numel() < new.numel():
        waits = ~torch.isin(torch.arange(new.numel()), active)
        idle = new[waits]
        number = torch.where(waits, waits.cumsum(0) - 1, -1)
        pairs = torch.stack([number[rest[0]], rest[1]])
        out = out if out is not recommender else copy.copy(out)
        out.waiting = Waiting(_like(recommender.users, ids.iloc[idle.numpy()]), pairs[:, pairs[0] >= 0])
        notes.append(
            f"{STAY_UNKNOWN} ({idle.numel():,}, such as {value_at(ids, int(idle[0]))!r}): {POPULAR} serves them"
        )
    out.notes = tuple(notes)
    return out


def _have(count: int, kind: str) -> str:
    return f"1 new {kind} has" if count == 1 else f"{count:,} new {kind}s have"


def _edges(whole: HeteroData, seen: Sequence[str], user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
    """Return training interactions, and those that count as seen, of users and items that have a place."""
    none = torch.empty(2, 0, dtype=torch.int64)

    def placed(edges: Tensor) -> Tensor:
        pairs = torch.stack([user[edges[0].cpu()], item[edges[1].cpu()]])
        return pairs[:, (pairs >= 0).all(dim=0)]

    parts = [placed(held_out(whole, split)) for split in as_names(seen, "seen")]
    return placed(held_out(whole, "train")), torch.cat([none, *parts], dim=1)


def _ids(data: HeteroData, kind: str) -> pd.Series:
    return id_column(data[f"{kind}_id"], f"{kind}_id")


def _places(data: HeteroData, ids: Ids, kind: str) -> Tensor:
    """Return the row in a recommender of every row of a graph, int64, -1 for those that it does not know."""
    return ids.find(_like(ids, _ids(data, kind)))[1]


def _like(ids: Ids, column: pd.Series) -> object:
    """Return ids as text where those of a recommender are."""
    if ids.integers:
        found = as_ids(column)
        if not isinstance(found, Tensor):
            numbers = pd.to_numeric(column, errors="coerce")
            if numbers.isna().any() or (numbers.astype("int64").astype(str) != column).any():
                raise InputError(
                    f"new {ids.kind}s: found ids that are text, such as {column.iloc[0]!r}, expected integers as those "
                    "of the model; give all ids the same type"
                )
            return torch.from_numpy(numbers.to_numpy(dtype="int64"))
        return found
    return list(map(str, column.tolist()))
