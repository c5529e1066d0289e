"""What a layer can do on a prepared graph."""

from __future__ import annotations

from torch_geometric.nn.conv import MessagePassing

from pyg_ckd.errors import InputError


def check_aggregation(conv: MessagePassing, aggr: str) -> None:
    """Refuse options of a layer that a product with a prepared graph would pass over in silence.

    Args:
        conv: The layer.
        aggr: The only aggregation that the product computes.

    Raises:
        InputError: If the layer aggregates otherwise, or against the direction of the edges.
    """
    if conv.aggr not in [aggr, "sum" if aggr == "add" else aggr] or conv.flow != "source_to_target":
        raise InputError(
            f"{type(conv).__name__}: found aggr={conv.aggr or conv.aggr_module!r} and flow={conv.flow!r} beside a "
            f"prepared graph, expected {aggr!r} and 'source_to_target'; pass an edge_index for anything else"
        )
