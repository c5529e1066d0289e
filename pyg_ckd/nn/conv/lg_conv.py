"""PyG's light graph convolution, which takes a prepared graph as well."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn import LGConv as _LGConv
from torch_geometric.typing import Adj, OptTensor
from torch_geometric.utils import is_torch_sparse_tensor

from pyg_ckd.errors import InputError
from pyg_ckd.nn.conv.prepared import as_graph, as_pair, check_aggregation, edges_of
from pyg_ckd.nn.propagation import Adjacency


class LGConv(_LGConv):
    r"""The light graph convolution of :class:`torch_geometric.nn.conv.LGConv`, which also takes a prepared graph.

    From `"LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation"
    <https://arxiv.org/abs/2002.02126>`_. It takes everything that PyG's layer takes. An :class:`~pyg_ckd.nn.Adjacency`
    is already normalised and is multiplied as it is; edge weights, in the order of its edges, replace its own.

    Between two kinds of nodes, as in :class:`~torch_geometric.nn.HeteroConv`, an edge from :math:`j` to :math:`i` has
    the weight :math:`1 / \sqrt{d_j d_i}`, where :math:`d_j` is the number (or the sum of weights) of all edges from
    :math:`j`, and :math:`d_i` that of all edges to :math:`i`. This is its weight in the graph of both kinds with both
    directions.

    Args:
        normalize (bool, optional): As in PyG; without effect on an :class:`~pyg_ckd.nn.Adjacency`.
            (default: :obj:`True`)
        **kwargs (optional): Additional arguments of :class:`torch_geometric.nn.conv.MessagePassing`.

    Shapes:
        - **input:**
          node features :math:`(|\mathcal{V}|, F)` or
          :math:`((|\mathcal{V_s}|, F), (|\mathcal{V_t}|, *))` of sources and targets,
          edge indices :math:`(2, |\mathcal{E}|)` or a sparse or prepared graph,
          edge weights :math:`(|\mathcal{E}|)` *(optional)*
        - **output:** node features :math:`(|\mathcal{V_t}|, F)`, those of sources if ``flow="target_to_source"``
    """

    def forward(
        self, x: Tensor | tuple[Tensor, Tensor], edge_index: Adj | Adjacency, edge_weight: OptTensor = None
    ) -> Tensor:
        """Run one propagation step."""
        if not isinstance(x, Tensor):
            source, target = as_pair(x)
            if not isinstance(edge_index, Adjacency):
                return self._between(source, target, edge_index, edge_weight)
            x = source
        if isinstance(edge_index, Adjacency):
            check_aggregation(self, "add")
            return edge_index.matmul(x, edge_weight)
        size: Any = x.size(self.node_dim)
        # propagate_type: (x: Tensor, edge_weight: OptTensor)
        return super().forward(x, as_graph(edge_index, (size, size)), edge_weight)

    def _between(self, source: Tensor, target: Tensor, edge_index: Adj, edge_weight: OptTensor) -> Tensor:
        edges, weight = edges_of(edge_index, edge_weight)
        if self.flow == "target_to_source":
            if not isinstance(edge_index, Tensor) or is_torch_sparse_tensor(edge_index):
                raise InputError(
                    f"LGConv: found flow={self.flow!r} beside a sparse matrix, expected an edge index; "
                    "torch_geometric.utils.to_edge_index makes one of it"
                )
            source, target, edges = target, source, edges.flip(0)
        size = (source.size(self.node_dim), target.size(self.node_dim))
        if self.normalize:
            weight = source.new_ones(edges.size(1)) if weight is None else weight
            out_of, into = (
                weight.new_zeros(num).index_add(0, row, weight) for num, row in zip(size, edges, strict=True)
            )
            scale = [torch.where(total > 0, total, 1.0).rsqrt() * (total > 0) for total in (out_of, into)]
            weight = scale[0][edges[0]] * weight * scale[1][edges[1]]
        message = source.index_select(self.node_dim, edges[0])
        message = message if weight is None else weight.view(-1, 1) * message
        return self.aggr_module(message, edges[1], dim_size=size[1], dim=self.node_dim)
