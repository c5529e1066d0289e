"""GRCN for any number of modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn.conv.dot_attention_conv import DotAttentionConv
from pyg_ckd.nn.conv.lg_conv import LGConv
from pyg_ckd.nn.loss import l2_penalty
from pyg_ckd.nn.models.base import Inputs, LateFusion, check_modalities, check_size, in_whole_graph, mean_row
from pyg_ckd.nn.models.cosine import check_cosine
from pyg_ckd.nn.models.parts import sum_of_layers
from pyg_ckd.scoring.blocks import Block, BlockEmbeddings, Output
from pyg_ckd.scoring.embeddings import DetailedEmbeddings, Embeddings
from pyg_ckd.scoring.views import View


class GRCN(LateFusion):
    r"""Propagates ids over a graph from which noisy edges are pruned with the help of the modalities.

    From `"Graph-Refined Convolutional Network for Multimedia Recommendation with Implicit Feedback"
    <https://arxiv.org/abs/2008.10294>`_. Item features become prototypes, and the users' preferences are drawn towards
    those of their items, :math:`T` times:

    .. math::
        \mathbf{i}_m = \nu ( \phi ( \mathbf{W}_m \mathbf{f}^m_i + \mathbf{b}_m ) ), \qquad
        \mathbf{u}_m^{(0)} = \nu ( \mathbf{p}^m_u ), \qquad
        \mathbf{u}_m^{(t+1)} = \nu \left( \mathbf{u}_m^{(t)} + \sum_{i \in \mathcal{N}(u)} \alpha^m_{ui} \mathbf{i}_m
        \right)

    where :math:`\nu` divides rows by their length, :math:`\phi` is a leaky ReLU of slope 0.01 and
    :math:`\alpha^m_{ui}` the attention of :class:`~pyg_ckd.nn.DotAttentionConv`. Its attention :math:`\alpha^m_{vw}` to
    all neighbours ``w`` of any node ``v`` and the confidence :math:`s^m_w` that ``w`` has in modality ``m`` refine the
    graph; ids are propagated over it, and embeddings are blocks side by side:

    .. math::
        \hat{a}_{vw} &= \max \left( 0, \max_m \alpha^m_{vw} s^m_w \right), \qquad
        \mathbf{e}_v^{(0)} = \nu ( \mathbf{e}_v ), \qquad
        \mathbf{e}_v^{(l+1)} = \sum_{w \in \mathcal{N}(v)} \hat{a}_{vw} \mathbf{e}_w^{(l)}

        \mathbf{x}_v &= \Big[ \sum_{l=0}^{L} \mathbf{e}_v^{(l)} \, \Vert \, \mathbf{v}_m + \sum_{w \in \mathcal{N}(v)}
        \alpha^m_{vw} \mathbf{w}_m \; \text{for every } m \Big]

    In a view, a modality that is intervened on has one prototype for all items, one preference for all users and one
    confidence, the mean over all nodes. Its attention is then uniform over a node's neighbours and depends only on
    degrees, and its block only shows whether a node has edges.

    The routing of the published implementation passes nothing to the users, which is ``num_routing=0`` here. The L2
    penalty acts on the batch's id embeddings and on its users' preferences, as published.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        feature_dims: Feature width of every modality, in order.
        embedding_dim: Width of the id block.
        latent_dim: Width of every modality's block.
        num_layers: Number of layers :math:`L` of the id block.
        num_routing: Number of routing iterations :math:`T`.
        cosine: With a number :math:`s`, the blocks of modalities score with :math:`s` times the cosine of user and
            item, as in :func:`~pyg_ckd.nn.models.cosine.cosine_rows`. (default: :obj:`None`, with dot products)

    Raises:
        InputError: If a size or ``cosine`` is not positive, there is no modality, or a number of iterations is
            negative.
    """

    capturable = True
    normalization = "mean"  # The weights of the graph are then the uniform attention.

    strategies: ClassVar[frozenset[str]] = frozenset({"ddp"})
    recommended: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "model": {"num_routing": 0},
        "trainer": {"lr": 5e-3, "batch_size": 4096, "patience": 500},
        "plain": {"l2": 1e-3},
        "teacher": {"l2": 1e-3},
        "distillation": {"l2": 1e-3, "distillation_weight": 0.01},
    }

    def __init__(
        self,
        num_users: int,
        num_items: int,
        feature_dims: Mapping[str, int],
        embedding_dim: int = 64,
        latent_dim: int = 64,
        num_layers: int = 2,
        num_routing: int = 3,
        cosine: float | None = None,
    ) -> None:
        check_modalities(feature_dims)
        super().__init__(num_users, num_items, feature_dims)
        for name, size in {"embedding_dim": embedding_dim, "latent_dim": latent_dim}.items():
            check_size(name, size)
        for name, size in {"num_layers": num_layers, "num_routing": num_routing}.items():
            check_size(name, size, least=0)
        check_cosine(cosine)
        self.num_routing, self.cosine = num_routing, cosine
        self.user_embedding = nn.Parameter(torch.empty(num_users, embedding_dim))
        self.item_embedding = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.user_confidence = nn.Parameter(torch.empty(num_users, len(feature_dims)))
        self.item_confidence = nn.Parameter(torch.empty(num_items, len(feature_dims)))
        self.preference = nn.ParameterDict({m: torch.empty(num_users, latent_dim) for m in feature_dims})
        self.project = nn.ModuleDict({m: nn.Linear(d, latent_dim) for m, d in feature_dims.items()})
        self.attend = DotAttentionConv()
        self.convs = nn.ModuleList(LGConv(normalize=False) for _ in range(num_layers))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for table in (self.user_embedding, self.item_embedding, *self.preference.values()):
            nn.init.xavier_normal_(table)
        for confidence in (self.user_confidence, self.item_confidence):
            nn.init.xavier_normal_(confidence)
        for lin in self.project.values():
            cast(nn.Linear, lin).reset_parameters()

    def branch(self, modality: str, feature: Tensor, inputs: Inputs, factual: bool) -> DetailedEmbeddings:
        """Return the block of a modality and, as a part, its ``"attention"`` on every edge of the graph."""
        item = F.normalize(F.leaky_relu(self.project[modality](feature)))
        preference = self.preference[modality]
        user = F.normalize(inputs.take_users(preference) if factual else mean_row(preference))
        if not factual:
            return self._intervened(user, item, inputs)
        to_users = inputs.graph.to_users(user.size(0))
        for _ in range(self.num_routing):
            user = F.normalize(user + self.attend((item, user), to_users))
        x = torch.cat([user, item])
        neighbors, (_, attention) = self.attend(x, inputs.graph, return_attention_weights=True)
        return DetailedEmbeddings(*self.split(x + neighbors, inputs.n_id_dict), {"attention": attention})

    def _intervened(self, user: Tensor, item: Tensor, inputs: Inputs) -> DetailedEmbeddings:
        """Do the same where all users have one row ``[1, C]`` and all items another: nodes differ by having edges."""
        graph = inputs.graph
        nodes = torch.zeros(graph.num_nodes, 1, dtype=torch.bool, device=graph.weight.device)
        linked = self.split(nodes.index_fill(0, graph.edge_index[1], True), inputs.n_id_dict)
        routed = user
        for _ in range(self.num_routing):
            routed = F.normalize(routed + item)
        both = routed + item
        parts = {"attention": graph.weight}
        return DetailedEmbeddings(torch.where(linked.user, both, user), torch.where(linked.item, both, item), parts)

    def encode(self, views: Sequence[View], inputs: Inputs) -> Sequence[Output]:
        """Refine the graph for every view and put the id block and the blocks of the modalities side by side."""
        branches = cast(Mapping[tuple[str, bool], DetailedEmbeddings], self.branches(views, inputs))
        source = inputs.graph.edge_index[0]
        everywhere = torch.cat([self.user_confidence, self.item_confidence])
        here = torch.cat([inputs.take_users(self.user_confidence), inputs.take_items(self.item_confidence)])
        constants = dict(zip(self.modalities, everywhere.mean(dim=0), strict=True))
        columns = dict(zip(self.modalities, here.unbind(dim=1), strict=True))
        scores = {
            (m, factual): branch.parts["attention"] * (columns[m].index_select(0, source) if factual else constants[m])
            for (m, factual), branch in branches.items()
        }
        blocks = {key: Block(branch.user, branch.item) for key, branch in branches.items()}
        ids = torch.cat([inputs.take_users(self.user_embedding), inputs.take_items(self.item_embedding)])
        ids = F.normalize(ids)
        out = []
        for view in views:
            weight = torch.stack([scores[m, m in view] for m in self.modalities]).amax(dim=0).relu()
            total = sum_of_layers(self.convs, ids, inputs.graph, weight)
            first = Block(*self.split(total, inputs.n_id_dict))
            out.append(BlockEmbeddings([first, *(blocks[m, m in view] for m in self.modalities)]))
        return out

    def penalty(self, out: Output, batch: TripletBatch) -> Tensor:
        """Return the L2 penalty on the batch's id embeddings and on its users' preferences."""
        ids, whole = Embeddings(self.user_embedding, self.item_embedding), in_whole_graph(out, batch)
        rows = ids.rows(whole.user, whole.positive, whole.negative)
        rows += [preference.index_select(0, whole.user) for preference in self.preference.values()]
        return l2_penalty(*rows)
