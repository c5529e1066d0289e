"""Attention without parameters: neighbours weigh as much as they resemble the node."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn.conv import MessagePassing
from torch_geometric.typing import Adj, OptTensor, SparseTensor
from torch_geometric.utils import is_torch_sparse_tensor, softmax, to_edge_index
from torch_geometric.utils.sparse import set_sparse_value

from pyg_ckd.nn.conv.prepared import as_graph, as_pair, check_aggregation
from pyg_ckd.nn.edges import as_edges
from pyg_ckd.nn.propagation import Adjacency


class DotAttentionConv(MessagePassing):
    r"""The neighbour routing of the `"Graph-Refined Convolutional Network for Multimedia Recommendation with Implicit
    Feedback" <https://arxiv.org/abs/2008.10294>`_ paper.

    .. math::
        \mathbf{x}^{\prime}_i = \sum_{j \in \mathcal{N}(i)} \alpha_{ij} \mathbf{x}_j, \qquad
        \alpha_{ij} = \frac{\exp ( \mathbf{x}_i^\top \mathbf{x}_j )}
        {\sum_{k \in \mathcal{N}(i)} \exp ( \mathbf{x}_i^\top \mathbf{x}_k )}

    With rows of unit length, it is :class:`torch_geometric.nn.conv.AGNNConv` without the learned temperature and
    without self-loops. A node without neighbours receives zeros.

    Args:
        **kwargs (optional): Additional arguments of :class:`torch_geometric.nn.conv.MessagePassing`.

    Shapes:
        - **input:**
          node features :math:`(|\mathcal{V}|, F)` or
          :math:`((|\mathcal{V_s}|, F), (|\mathcal{V_t}|, F))` of sources and targets,
          edge indices :math:`(2, |\mathcal{E}|)` or a sparse or prepared graph
        - **output:** node features :math:`(|\mathcal{V_t}|, F)`, or
          :math:`((|\mathcal{V_t}|, F), ((2, |\mathcal{E}|), (|\mathcal{E}|)))` with attention weights
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("aggr", "add")
        super().__init__(**kwargs)

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor],
        edge_index: Adj | Adjacency,
        return_attention_weights: bool | None = None,
    ) -> Any:
        """Run the layer.

        Args:
            x: Node features, or those of sources and of targets.
            edge_index: The graph.
            return_attention_weights: Whether to return ``(edge_index, alpha)`` beside the result, as in
                :class:`torch_geometric.nn.conv.GATConv`.
        """
        source, target = as_pair(x)
        if isinstance(edge_index, Adjacency):
            check_aggregation(self, "add")
            if torch.compiler.is_compiling():  # Compilers cannot take a view of a sparse matrix.
                edge_index = as_edges(edge_index)
            alpha = edge_softmax(edge_index.dot(target, source), edge_index)
            out = edge_index.matmul(source, alpha)
        else:
            size: Any = (source.size(self.node_dim), target.size(self.node_dim))
            graph = as_graph(edge_index, size)
            # edge_updater_type: (x: PairTensor)
            alpha = self.edge_updater(graph, x=(source, target))
            # propagate_type: (x: PairTensor, alpha: Tensor)
            out = self.propagate(graph, x=(source, target), alpha=alpha)
        if not return_attention_weights:
            return out
        if isinstance(edge_index, SparseTensor):
            return out, edge_index.set_value(alpha, layout="coo")
        if isinstance(edge_index, Adjacency):
            return out, (edge_index.edge_index, alpha)
        if is_torch_sparse_tensor(edge_index):
            if edge_index.layout == torch.sparse_csc:  # Its edges go column by column.
                alpha = alpha[to_edge_index(graph)[0][1].argsort(stable=True)]
            edge_index = set_sparse_value(edge_index.coalesce() if edge_index.is_sparse else edge_index, alpha)
        return out, (edge_index, alpha)

    def edge_update(self, x_i: Tensor, x_j: Tensor, index: Tensor, ptr: OptTensor, size_i: int | None) -> Tensor:
        """Compare both ends of every edge."""
        return softmax((x_i * x_j).sum(dim=-1), index, ptr, size_i)

    def message(self, x_j: Tensor, alpha: Tensor) -> Tensor:
        """Weigh the neighbour's row."""
        return alpha.unsqueeze(-1) * x_j

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}()"


def edge_softmax(score: Tensor, graph: Adjacency) -> Tensor:
    """Return the softmax of a score per edge over all edges with the same target.

    Args:
        score: Scores in the order of the graph's edges, ``[E]``.
        graph: The graph.
    """
    return softmax(score, graph.edge_index[1], num_nodes=graph.num_nodes)
