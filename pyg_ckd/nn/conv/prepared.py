"""What a layer can do on a prepared graph."""

from __future__ import annotations

from torch_geometric.nn.aggr import MeanAggregation, SumAggregation
from torch_geometric.nn.conv import MessagePassing

from pyg_ckd.errors import InputError

AGGREGATIONS = {"add": SumAggregation, "mean": MeanAggregation}


def check_aggregation(conv: MessagePassing, aggr: str) -> None:
    """Refuse options of a layer that a product with a prepared graph would pass over in silence.

    Args:
        conv: The layer.
        aggr: The only aggregation that the product computes.

    Raises:
        InputError: If the layer aggregates otherwise, or against the direction of the edges.
    """
    if not isinstance(conv.aggr_module, AGGREGATIONS[aggr]) or conv.flow != "source_to_target":
        found = " ".join(str(conv.aggr_module).split())
        raise InputError(
            f"{type(conv).__name__}: found {found} and flow={conv.flow!r} beside a "
            f"prepared graph, expected {aggr!r} and 'source_to_target'; pass an edge_index for anything else"
        )
