"""The message-passing layer of MMGCN."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.nn.conv import MessagePassing
from torch_geometric.nn.dense.linear import Linear
from torch_geometric.typing import Adj, OptTensor, SparseTensor, torch_sparse
from torch_geometric.utils import add_self_loops, remove_self_loops, spmm

from pyg_ckd.arguments import as_integer, as_integers
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn.conv.prepared import SquareLinear, as_graph, as_pair, by_flow, check_aggregation
from pyg_ckd.nn.propagation import Adjacency

COMBINATIONS = ("concat", "add")


class MMGCNConv(MessagePassing):
    r"""One layer of a modality's graph in the `"MMGCN: Multi-modal Graph Convolution Network for Personalized
    Recommendation of Micro-video" <https://doi.org/10.1145/3343031.3351034>`_ paper.

    .. math::
        \mathbf{h}_i &= \phi \left( \frac{1}{|\mathcal{N}(i)|} \sum_{j \in \mathcal{N}(i)} \mathbf{W}_1 \mathbf{x}_j
        \right)

        \hat{\mathbf{x}}_i &= \phi \left( \mathbf{W}_2 \mathbf{x}_i + \mathbf{b}_2 \right) + \mathbf{e}_i

        \mathbf{x}^{\prime}_i &= \phi \left( \mathbf{W}_3 [ \mathbf{h}_i \, \Vert \, \hat{\mathbf{x}}_i ] +
        \mathbf{b}_3 \right) \quad \text{or} \quad \phi \left( \mathbf{W}_3 \mathbf{h}_i + \mathbf{b}_3 +
        \hat{\mathbf{x}}_i \right)

    with :math:`\phi` a leaky ReLU of slope 0.01 and :math:`\mathbf{e}_i` the id embedding that all modalities share.
    :math:`\mathbf{W}_1` keeps the width of the input, as in the published implementation.

    Args:
        in_channels (int or tuple): Size of each input row, or those of sources and of targets; -1 takes a size from the
            first input.
        out_channels (int): Size of each output row.
        combine (str, optional): How neighbourhood and node are combined: ``"concat"`` or ``"add"``, the paper's
            concatenation and element-wise combination. (default: ``"concat"``)
        add_self_loops (bool, optional): Whether a node is among its own neighbours, once. Not applied to an
            :class:`~pyg_ckd.nn.Adjacency`, which is final. (default: :obj:`False`)
        bias (bool, optional): Whether :math:`\mathbf{W}_1` has a bias. (default: :obj:`False`)
        **kwargs (optional): Additional arguments of :class:`torch_geometric.nn.conv.MessagePassing`.

    Shapes:
        - **input:**
          node features :math:`(|\mathcal{V}|, F_{in})` or
          :math:`((|\mathcal{V_s}|, F_{s}), (|\mathcal{V_t}|, F_{t}))` of sources and targets,
          edge indices :math:`(2, |\mathcal{E}|)` or a sparse or prepared graph,
          id embeddings :math:`(|\mathcal{V_t}|, F_{out})` *(optional)*
        - **output:** node features :math:`(|\mathcal{V_t}|, F_{out})`

    Raises:
        InputError: If a size is not positive or ``combine`` is neither of the two.
    """

    SUPPORTS_FUSED_EDGE_INDEX = True

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        combine: str = "concat",
        add_self_loops: bool = False,
        bias: bool = False,
        **kwargs: Any,
    ) -> None:
        sizes, out_channels = as_integers(in_channels, "in_channels"), as_integer(out_channels, "out_channels")
        source, target = sizes * 2 if len(sizes) == 1 else sizes
        if not all(size == -1 or size >= 1 for size in (source, target)) or out_channels < 1:
            raise InputError(
                f"MMGCNConv: found sizes {in_channels} -> {out_channels}, expected positive sizes (or -1 for inputs)"
            )
        if combine not in COMBINATIONS:
            raise unknown_name("combination", combine, COMBINATIONS)
        kwargs.setdefault("aggr", "mean")
        super().__init__(**kwargs)
        self.in_channels = source if len(sizes) == 1 else (source, target)
        self.out_channels = out_channels
        self.combine, self.add_self_loops = combine, add_self_loops
        self.lin_neighbor = SquareLinear(source, bias=bias, weight_initializer="glorot")
        self.lin_self = Linear(target, out_channels, weight_initializer="glorot")
        merged = source + out_channels if combine == "concat" and source > 0 else source
        self.lin_merge = Linear(merged, out_channels, weight_initializer="glorot")

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        super().reset_parameters()
        for lin in (self.lin_neighbor, self.lin_self, self.lin_merge):
            lin.reset_parameters()

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor],
        edge_index: Adj | Adjacency,
        id_embedding: OptTensor | tuple[OptTensor, OptTensor] = None,
    ) -> Tensor:
        """Run the layer.

        Args:
            x: Node features, or those of sources and of targets.
            edge_index: The graph.
            id_embedding: Id embeddings of all nodes or of the targets; of a pair, the second.
        """
        source, target = by_flow(self, as_pair(x))
        if isinstance(id_embedding, (tuple, list)):  # As HeteroConv has them.
            id_embedding = by_flow(self, tuple(id_embedding))[1]
        if isinstance(edge_index, Adjacency):
            check_aggregation(self, "mean")
            h = F.leaky_relu_(edge_index.matmul(self.lin_neighbor(source)))
        else:
            edge_index = as_graph(edge_index, by_flow(self, (source.size(-2), target.size(-2))))
            if self.add_self_loops:
                if not isinstance(x, Tensor):
                    raise InputError("MMGCNConv: found add_self_loops between two kinds of nodes, expected one kind")
                edge_index = _with_self_loops(edge_index, source.size(-2))
            if isinstance(edge_index, EdgeIndex) and (
                self.flow != "source_to_target"
                or torch.compiler.is_compiling()
                or (edge_index.is_sorted_by_col and not isinstance(x, Tensor))
            ):
                # Compilers know no sparse product, that has one direction, and the gradient of one that is sorted by
                # column has the shape of a square graph in PyG 2.7.
                edge_index = edge_index.as_tensor()
            # propagate_type: (x: PairTensor)
            h = self.propagate(edge_index, x=by_flow(self, (self.lin_neighbor(source), target)))
            h = F.leaky_relu(h)  # Not in place: the gradients of some aggregations need their result.
        return self.merge(h, F.leaky_relu_(self.lin_self(target)), id_embedding)

    def from_means(self, mean: Tensor, linked: Tensor, x: Tensor, id_embedding: OptTensor = None) -> Tensor:
        r"""Run the layer for nodes whose neighbours' rows have been averaged, which :math:`\mathbf{W}_1` maps the same.

        Args:
            mean: Averages over the neighbours of every node, :math:`(|\mathcal{V}|, F_{in})`.
            linked: 1 for nodes with neighbours and 0 for others, :math:`(|\mathcal{V}|, 1)`.
            x: Rows of the nodes themselves.
            id_embedding: Their id embeddings.
        """
        h = F.linear(mean, self.lin_neighbor.weight)
        if self.lin_neighbor.bias is not None:
            h = h + linked * self.lin_neighbor.bias
        return self.merge(F.leaky_relu_(h), F.leaky_relu_(self.lin_self(x)), id_embedding)

    def merge(self, h: Tensor, x: Tensor, id_embedding: OptTensor = None) -> Tensor:
        r"""Merge the neighbourhood with the node.

        Args:
            h: Aggregated messages :math:`\mathbf{h}_i`, :math:`(|\mathcal{V}|, F_{in})`.
            x: Nodes after :math:`\phi ( \mathbf{W}_2 \mathbf{x}_i + \mathbf{b}_2 )`, :math:`(|\mathcal{V}|, F_{out})`.
            id_embedding: As in :meth:`forward`.
        """
        if self.combine == "concat":
            x = x if id_embedding is None else x + id_embedding
            return F.leaky_relu_(self.lin_merge(torch.cat([h, x], dim=-1)))
        h = _add(self.lin_merge(h), x)
        return F.leaky_relu_(h if id_embedding is None else _add(h, id_embedding))

    def message(self, x_j: Tensor) -> Tensor:
        """Pass the neighbour's row on."""
        return x_j

    def message_and_aggregate(self, adj_t: Adj, x: tuple[Tensor, Tensor]) -> Tensor:
        """Average all neighbours' rows in one sparse product."""
        source, _ = x
        if isinstance(adj_t, EdgeIndex):  # The only kind that is not transposed already.
            ones = source.new_ones(adj_t.size(1)) if source.dtype != torch.float32 else None  # Its own are single.
            return adj_t.matmul(source, input_value=ones, reduce=self.aggr, transpose=True)
        if isinstance(adj_t, SparseTensor):
            adj_t = adj_t.set_value(None, layout=None)
        return spmm(adj_t, source, reduce=self.aggr)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.in_channels}, {self.out_channels}, combine={self.combine!r})"


def _add(x: Tensor, y: Tensor) -> Tensor:
    """Return the sum, in the memory of ``x`` unless that would round it, as under autocast."""
    return x.add_(y) if x.dtype == y.dtype else x + y


def _with_self_loops(edge_index: Adj, num_nodes: int) -> Adj:
    if isinstance(edge_index, SparseTensor):
        return torch_sparse.set_diag(edge_index)
    return add_self_loops(remove_self_loops(edge_index)[0], num_nodes=num_nodes)[0]
