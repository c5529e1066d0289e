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

from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn.conv.prepared import check_aggregation
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
        in_channels (int): Size of each input row.
        out_channels (int): Size of each output row.
        combine (str, optional): How neighbourhood and node meet: ``"concat"`` or ``"add"``, the paper's concatenation
            and element-wise combination. (default: ``"concat"``)
        add_self_loops (bool, optional): Whether a node is among its own neighbours, once. Not applied to an
            :class:`~pyg_ckd.nn.Adjacency`, which is final. (default: :obj:`False`)
        bias (bool, optional): Whether :math:`\mathbf{W}_1` has a bias. (default: :obj:`False`)
        **kwargs (optional): Additional arguments of :class:`torch_geometric.nn.conv.MessagePassing`.

    Shapes:
        - **input:**
          node features :math:`(|\mathcal{V}|, F_{in})`,
          edge indices :math:`(2, |\mathcal{E}|)` or a sparse or prepared graph,
          id embeddings :math:`(|\mathcal{V}|, F_{out})` *(optional)*
        - **output:** node features :math:`(|\mathcal{V}|, F_{out})`

    Raises:
        InputError: If a size is not positive or ``combine`` is neither of the two.
    """

    SUPPORTS_FUSED_EDGE_INDEX = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        combine: str = "concat",
        add_self_loops: bool = False,
        bias: bool = False,
        **kwargs: Any,
    ) -> None:
        if in_channels < 1 or out_channels < 1:
            raise InputError(f"MMGCNConv: found sizes {in_channels} -> {out_channels}, expected positive sizes")
        if combine not in COMBINATIONS:
            raise unknown_name("combination", combine, COMBINATIONS)
        kwargs.setdefault("aggr", "mean")
        super().__init__(**kwargs)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.combine, self.add_self_loops = combine, add_self_loops
        self.lin_neighbor = Linear(in_channels, in_channels, bias=bias, weight_initializer="glorot")
        self.lin_self = Linear(in_channels, out_channels, weight_initializer="glorot")
        merged = in_channels + out_channels if combine == "concat" else in_channels
        self.lin_merge = Linear(merged, out_channels, weight_initializer="glorot")

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        super().reset_parameters()
        for lin in (self.lin_neighbor, self.lin_self, self.lin_merge):
            lin.reset_parameters()

    def forward(self, x: Tensor, edge_index: Adj | Adjacency, id_embedding: OptTensor = None) -> Tensor:
        """Run the layer."""
        if isinstance(edge_index, Adjacency):
            check_aggregation(self, "mean")
            h = F.leaky_relu_(edge_index.matmul(self.lin_neighbor(x)))
        else:
            if self.add_self_loops:
                edge_index = _with_self_loops(edge_index, x.size(-2))
            # propagate_type: (x: Tensor)
            h = self.propagate(edge_index, x=self.lin_neighbor(x))
            h = F.leaky_relu(h)  # Not in place: the gradients of some aggregations need their result.
        return self.merge(h, F.leaky_relu_(self.lin_self(x)), id_embedding)

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

    def message_and_aggregate(self, adj_t: Adj, x: Tensor) -> Tensor:
        """Average all neighbours' rows in one sparse product."""
        if isinstance(adj_t, EdgeIndex):  # The only kind that is not transposed already.
            ones = x.new_ones(adj_t.size(1)) if x.dtype != torch.float32 else None  # Its own are in single precision.
            return adj_t.matmul(x, input_value=ones, reduce=self.aggr, transpose=True)
        if isinstance(adj_t, SparseTensor):
            adj_t = adj_t.set_value(None, layout=None)
        return spmm(adj_t, x, reduce=self.aggr)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.in_channels}, {self.out_channels}, combine={self.combine!r})"


def _add(x: Tensor, y: Tensor) -> Tensor:
    """Return the sum, in the memory of ``x`` unless that would round it, as under autocast."""
    return x.add_(y) if x.dtype == y.dtype else x + y


def _with_self_loops(edge_index: Adj, num_nodes: int) -> Adj:
    if isinstance(edge_index, SparseTensor):
        return torch_sparse.set_diag(edge_index)
    return add_self_loops(remove_self_loops(edge_index)[0], num_nodes=num_nodes)[0]
