"""What layers share: prepared graphs, two kinds of nodes, sizes that the first input tells."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.nn.aggr import MeanAggregation, SumAggregation
from torch_geometric.nn.conv import MessagePassing
from torch_geometric.nn.dense.linear import Linear, is_uninitialized_parameter
from torch_geometric.typing import Adj, OptTensor, SparseTensor
from torch_geometric.utils import is_torch_sparse_tensor, to_edge_index

from pyg_ckd.errors import InputError

T = TypeVar("T")

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


def as_pair(x: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the features of sources and of targets, which are the same where one matrix is given.

    Args:
        x: Node features, or those of sources and of targets.

    Raises:
        InputError: If one of two is missing.
    """
    if isinstance(x, Tensor):
        return x, x
    source, target = x
    if source is None or target is None:
        missing = "sources" if source is None else "targets"
        raise InputError(f"x: found no features of the {missing}, expected those of sources and targets")
    return source, target


def by_flow(conv: MessagePassing, pair: tuple[T, T]) -> tuple[T, T]:
    """Return what belongs to sources and to targets as what belongs to senders and to receivers of messages, or back.

    Args:
        conv: The layer.
        pair: Anything of sources and of targets.
    """
    first, second = pair
    return (first, second) if conv.flow == "source_to_target" else (second, first)


def as_graph(edge_index: Adj, size: tuple[int, int]) -> Adj:
    """Return a graph as a kind that messages pass through, forward and backward.

    An :class:`~torch_geometric.EdgeIndex` that does not know how many nodes there are takes its largest node for the
    last one, and becomes a plain edge index. Sparse matrices become CSR: PyG's layers cannot compute gradients with
    those in COO, read them wrongly if they are not coalesced, and do not know CSC.

    Args:
        edge_index: Any graph.
        size: Numbers of sources and targets.
    """
    if isinstance(edge_index, EdgeIndex):
        known = edge_index.sparse_size()
        too_large = any(found is not None and found > given for found, given in zip(known, size, strict=True))
        return edge_index if known == size or too_large else edge_index.as_tensor()  # PyG refuses the second.
    if is_torch_sparse_tensor(edge_index) and edge_index.layout != torch.sparse_csr:
        return edge_index.to_sparse_csr()
    return edge_index


def edges_of(edge_index: Adj, edge_weight: OptTensor = None) -> tuple[Tensor, OptTensor]:
    """Return the edges (source, target), int64 ``[2, E]``, and weights of any kind of graph.

    Args:
        edge_index: An edge index, or a transposed sparse matrix as PyG's layers take it.
        edge_weight: Weights of an edge index.
    """
    if isinstance(edge_index, SparseTensor):
        target, source, weight = edge_index.coo()
        return torch.stack([source, target]), weight
    if isinstance(edge_index, EdgeIndex):
        return edge_index.as_tensor(), edge_weight
    if is_torch_sparse_tensor(edge_index):
        edges, weight = to_edge_index(edge_index)
        return edges.flip(0), weight
    return edge_index, edge_weight


class SquareLinear(Linear):
    """A linear layer as wide as its input, also where the first input tells how wide that is.

    Args:
        channels: The width, or -1.
        **options: Further arguments of :class:`torch_geometric.nn.Linear`.
    """

    def __init__(self, channels: int, **options: Any) -> None:
        super().__init__(channels, max(channels, 1), **options)
        if channels < 0 and options.get("bias", True):
            self.bias = torch.nn.parameter.UninitializedParameter()

    @torch.no_grad()
    def initialize_parameters(self, module: torch.nn.Module, input: tuple[Tensor, ...]) -> None:
        """Take the width from the first input."""
        self._widen(input[0].size(-1))
        super().initialize_parameters(module, input)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **options: Any) -> None:
        weight = state_dict.get(f"{prefix}weight")
        if weight is not None and not is_uninitialized_parameter(weight):
            self._widen(weight.size(-1))
        super()._load_from_state_dict(state_dict, prefix, *args, **options)

    def _widen(self, channels: int) -> None:
        if is_uninitialized_parameter(self.weight):
            self.out_channels = channels
            bias: Any = self.bias
            if bias is not None:
                bias.materialize((channels,))
