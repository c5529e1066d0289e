"""PyG's light graph convolution, which takes a prepared graph as well."""

from __future__ import annotations

from torch import Tensor
from torch_geometric.nn import LGConv as _LGConv
from torch_geometric.typing import Adj, OptTensor

from pyg_ckd.nn.conv.prepared import check_aggregation
from pyg_ckd.nn.propagation import Adjacency


class LGConv(_LGConv):
    r"""The light graph convolution of :class:`torch_geometric.nn.conv.LGConv`, open to a prepared graph.

    From `"LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation"
    <https://arxiv.org/abs/2002.02126>`_. Everything that PyG's layer accepts works as there; an
    :class:`~pyg_ckd.nn.Adjacency`, which is normalised already, is multiplied as it is; edge weights, in the order of
    its edges, take the place of its own.

    Args:
        normalize (bool, optional): As in PyG; without effect on an :class:`~pyg_ckd.nn.Adjacency`.
            (default: :obj:`True`)
        **kwargs (optional): Additional arguments of :class:`torch_geometric.nn.conv.MessagePassing`.

    Shapes:
        - **input:**
          node features :math:`(|\mathcal{V}|, F)`,
          edge indices :math:`(2, |\mathcal{E}|)` or a sparse or prepared graph,
          edge weights :math:`(|\mathcal{E}|)` *(optional)*
        - **output:** node features :math:`(|\mathcal{V}|, F)`
    """

    def forward(self, x: Tensor, edge_index: Adj | Adjacency, edge_weight: OptTensor = None) -> Tensor:
        """Run one propagation step."""
        if isinstance(edge_index, Adjacency):
            check_aggregation(self, "add")
            return edge_index.matmul(x, edge_weight)
        # propagate_type: (x: Tensor, edge_weight: OptTensor)
        return super().forward(x, edge_index, edge_weight)
