"""Edge-wise modulation: messages of one modality that depend on the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch_geometric.nn.conv import MessagePassing
from torch_geometric.nn.dense.linear import Linear
from torch_geometric.typing import Adj, OptTensor
from torch_geometric.utils import softmax

from pyg_ckd.arguments import as_integer, as_number
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn.conv.dot_attention_conv import edge_softmax
from pyg_ckd.nn.conv.prepared import SquareLinear, as_graph, as_pair, by_flow, check_aggregation
from pyg_ckd.nn.edges import as_edges
from pyg_ckd.nn.propagation import Adjacency

MODULATIONS = ("hard", "soft")


class EgoConv(MessagePassing):
    r"""The edge-wise modulation of the `"Breaking Isolation: Multimodal Graph Fusion for Multimedia Recommendation by
    Edge-wise Modulation" <https://doi.org/10.1145/3503161.3548399>`_ paper.

    With :math:`\mathbf{x}` a node's features of one modality, :math:`\mathbf{y}^n` those of the :math:`M - 1` others
    and :math:`\alpha_{ij}` the softmax of :math:`\mathbf{x}_i^\top \mathbf{x}_j` over :math:`j \in \mathcal{N}(i)`,

    .. math::
        \mathbf{m}_{ij} &= \begin{cases} \frac{1}{M} \left( \mathbf{x}_j + \sum_n \mathbf{y}^n_j \right) &
        \text{if } \alpha_{ij} > \theta \\ \mathbf{x}_j & \text{otherwise} \end{cases} \quad \text{(hard)}

        \mathbf{m}_{ij} &= \frac{1}{M} \left( \mathbf{x}_j + \sum_n
        \sigma ( \mathbf{W}_n \mathbf{y}^n_j + \mathbf{b}_n ) \odot \mathbf{y}^n_j \right) \quad \text{(soft)}

        \mathbf{x}^{\prime}_i &= \sum_{j \in \mathcal{N}(i)} \alpha^{\prime}_{ij} \mathbf{m}_{ij}, \qquad
        \alpha^{\prime}_{ij} = \underset{j \in \mathcal{N}(i)}{\textrm{softmax}} \, \mathbf{x}_i^\top \mathbf{m}_{ij}

    The paper has two others; here, there can be any number. A node without neighbours receives zeros.

    Args:
        channels (int): Size :math:`F` of the rows of every modality; -1 takes it from the first input.
        num_others (int): Number :math:`M - 1` of other modalities.
        modulation (str, optional): ``"hard"`` or ``"soft"``. (default: ``"hard"``)
        threshold (float, optional): Attention :math:`\theta` above which an edge is modulated; ``"hard"`` only.
            (default: ``0.4``)
        **kwargs (optional): Additional arguments of :class:`torch_geometric.nn.conv.MessagePassing`.

    Shapes:
        - **input:**
          node features :math:`(|\mathcal{V}|, F)` or
          :math:`((|\mathcal{V_s}|, F), (|\mathcal{V_t}|, F))` of sources and targets,
          edge indices :math:`(2, |\mathcal{E}|)` or a sparse or prepared graph,
          a list of the others' features of the sources :math:`(|\mathcal{V_s}|, F)`
        - **output:** node features :math:`(|\mathcal{V_t}|, F)`

    Raises:
        InputError: If ``channels`` is not positive, ``num_others`` is negative, ``modulation`` is neither of the two or
            ``threshold`` is not between 0 and 1.
    """

    def __init__(
        self, channels: int, num_others: int, modulation: str = "hard", threshold: float = 0.4, **kwargs: Any
    ) -> None:
        channels, num_others = as_integer(channels, "channels"), as_integer(num_others, "num_others")
        if (channels < 1 and channels != -1) or num_others < 0:
            raise InputError(
                f"EgoConv: found {channels} channels and {num_others} others, expected at least 1 and at least 0"
            )
        if modulation not in MODULATIONS:
            raise unknown_name("modulation", modulation, MODULATIONS)
        if not 0 <= as_number(threshold, "threshold") <= 1:
            raise InputError(f"threshold: found {threshold}, expected a number from 0 to 1")
        kwargs.setdefault("aggr", "add")
        super().__init__(**kwargs)
        self.channels, self.num_others = channels, num_others
        self.modulation, self.threshold = modulation, threshold
        gates = num_others if modulation == "soft" else 0
        self.lins = torch.nn.ModuleList(SquareLinear(channels) for _ in range(gates))

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        super().reset_parameters()
        for lin in self.lins:
            cast(Linear, lin).reset_parameters()

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor],
        edge_index: Adj | Adjacency,
        others: Sequence[Tensor] | tuple[Sequence[Tensor] | None, Sequence[Tensor] | None] = (),
    ) -> Tensor:
        """Run the layer.

        Args:
            x: Node features, or those of sources and of targets.
            edge_index: The graph.
            others: The other modalities of all nodes or of the sources; of a pair of lists, the first.
        """
        x, target = by_flow(self, as_pair(x))
        if isinstance(others, tuple) and any(isinstance(part, (list, tuple)) for part in others):
            others = by_flow(self, others)[0] or ()  # As HeteroConv has them.
        if len(others) != self.num_others:
            raise InputError(f"others: found {len(others)} matrices, expected {self.num_others}")
        modulated = self.modulate(x, cast(Sequence[Tensor], others))
        if not isinstance(edge_index, Adjacency):
            # edge_updater_type: (x: PairTensor, modulated: OptPairTensor)
            size = by_flow(self, (x.size(0), target.size(0)))
            edge_index = as_graph(edge_index, size)
            pairs = {"x": by_flow(self, (x, target)), "modulated": by_flow(self, (modulated, None))}
            message, alpha = self.edge_updater(edge_index, size=size, **pairs)
            # propagate_type: (message: Tensor, alpha: Tensor)
            return self.propagate(edge_index, size=size, message=message, alpha=alpha)
        check_aggregation(self, "add")
        if torch.compiler.is_compiling():  # Compilers cannot take a view of a sparse matrix.
            edge_index = as_edges(edge_index)
        score = edge_index.dot(target, modulated)
        if self.modulation == "soft":
            return edge_index.matmul(modulated, edge_softmax(score, edge_index))
        plain = edge_index.dot(target, x)
        chosen = edge_softmax(plain, edge_index) > self.threshold
        alpha = edge_softmax(torch.where(chosen, score, plain), edge_index)
        return edge_index.matmul(x, alpha.where(~chosen, 0)) + edge_index.matmul(modulated, alpha.where(chosen, 0))

    def modulate(self, x: Tensor, others: Sequence[Tensor]) -> Tensor:
        """Return what every node says where it is modulated, ``[N, F]``."""
        for n, y in enumerate(others):
            x = x + (torch.sigmoid(self.lins[n](y)) * y if self.modulation == "soft" else y)
        return x / (self.num_others + 1)

    def edge_update(
        self, x_i: Tensor, x_j: Tensor, modulated_j: Tensor, index: Tensor, ptr: OptTensor, size_i: int | None
    ) -> tuple[Tensor, Tensor]:
        """Choose the message of every edge and weigh it."""
        message = modulated_j
        if self.modulation == "hard":
            alpha = softmax((x_i * x_j).sum(dim=-1), index, ptr, size_i)
            message = torch.where(alpha.unsqueeze(-1) > self.threshold, modulated_j, x_j)
        return message, softmax((x_i * message).sum(dim=-1), index, ptr, size_i)

    def message(self, message: Tensor, alpha: Tensor) -> Tensor:
        """Weigh the message of every edge."""
        return alpha.unsqueeze(-1) * message

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.channels}, others={self.num_others}, modulation={self.modulation!r})"
