"""Rows of tables for triples of a sampled subgraph, by the numbers of the whole graph."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn.models.inputs import take
from pyg_ckd.scoring.blocks import Output


def in_whole_graph(out: Output, batch: TripletBatch) -> TripletBatch:
    """Return triples by the row numbers that users and items have in the whole graph, as parameters and features do.

    Args:
        out: What the triples are scored with, perhaps of a sampled subgraph.
        batch: The triples, by the row numbers of ``out``.
    """
    n_id_dict: Mapping[str, Tensor] = getattr(out, "n_id_dict", {})
    if not n_id_dict:
        return batch
    user, item = n_id_dict["user"], n_id_dict["item"]
    whole = TripletBatch(*(ids[rows] for ids, rows in zip([user, item, item] * 2, batch, strict=True)))
    return whole if batch.weight is None else whole.weighted(batch.weight)


def id_rows(out: Output, batch: TripletBatch, user: Tensor, item: Tensor, sparse: bool) -> list[Tensor]:
    """Return the rows that the users, positives and negatives of triples have in two tables of the whole graph.

    Args:
        out: What the triples are scored with, perhaps of a sampled subgraph.
        batch: The triples, by the row numbers of ``out``.
        user: Table of all users ``[U, D]``.
        item: Table of all items ``[I, D]``.
        sparse: Whether the tables get sparse gradients.
    """
    whole = in_whole_graph(out, batch)
    return [take(user, whole.user, sparse), take(item, whole.positive, sparse), take(item, whole.negative, sparse)]
