"""EgoGCN for any number of modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn.conv.dot_attention_conv import DotAttentionConv
from pyg_ckd.nn.conv.ego_conv import EgoConv
from pyg_ckd.nn.conv.lg_conv import LGConv
from pyg_ckd.nn.loss import l2_penalty
from pyg_ckd.nn.models.base import EarlyFusion, Inputs, check_modalities, check_size, in_whole_graph, mean_row
from pyg_ckd.nn.models.parts import sum_of_layers
from pyg_ckd.nn.propagation import Adjacency
from pyg_ckd.scoring.blocks import Block, BlockEmbeddings, Output
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.views import View


class EgoGCN(EarlyFusion):
    r"""One graph network per modality, whose messages are modulated edge by edge by the other modalities.

    From `"Breaking Isolation: Multimodal Graph Fusion for Multimedia Recommendation by Edge-wise Modulation"
    <https://doi.org/10.1145/3503161.3548399>`_. With :math:`\mathbf{P}_m` the users' preferences for modality ``m``,

    .. math::
        \mathbf{X}_m &= \left[ \nu ( \mathbf{P}_m ) ; \nu ( \phi ( \mathbf{F}_m \mathbf{W}_m^\top + \mathbf{b}_m ) )
        \right], \qquad
        \mathbf{X}_m^{(0)} = \nu \left( \textrm{EgoConv}_m ( \mathbf{X}_m, \{ \mathbf{X}_n : n \neq m \} ) \right)

        \mathbf{X}_m^{(t+1)} &= \nu \left( \mathbf{X}_m^{(t)} + \textrm{DotAttentionConv} ( \mathbf{X}_m^{(t)} ) \right)

        \mathbf{E}^{(0)} &= \nu ( \mathbf{E} ), \qquad
        \mathbf{E}^{(l+1)} = \mathbf{D}^{-1/2} \mathbf{A} \mathbf{D}^{-1/2} \mathbf{E}^{(l)}, \qquad
        \mathbf{X} = \Big[ \sum_{l=0}^{L} \mathbf{E}^{(l)} \, \Vert \, \mathbf{X}_m^{(T)} \; \text{for every } m \Big]

    where :math:`\nu` divides rows by their length, :math:`\phi` is a leaky ReLU of slope 0.01 and :math:`\mathbf{E}`
    are the id embeddings. The modalities meet in the messages, hence early fusion. A node without edges has zeros in
    the blocks of the modalities.

    In a view, a modality that is intervened on has one row of :math:`\mathbf{X}_m` for all items and one for all users.
    Its own block still carries what the factual modalities put into its messages, and their messages carry its
    constants; its attention is uniform where messages are not modulated.

    The L2 penalty acts on the batch's id embeddings and on its users' preferences, as published. The third id layer of
    the published implementation repeats the second one, and its preferences are normalised outside of the gradient.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        feature_dims: Feature width of every modality, in order.
        embedding_dim: Width of the id block.
        latent_dim: Width of every modality's block.
        num_layers: Number of layers :math:`L` of the id block.
        num_routing: Number of routing iterations :math:`T`.
        modulation: ``"hard"`` or ``"soft"``, see :class:`~pyg_ckd.nn.EgoConv`.
        threshold: Attention above which an edge is modulated; ``"hard"`` only.

    Raises:
        InputError: If a size is not positive, there is no modality, a number of iterations is negative, ``modulation``
            is neither of the two or ``threshold`` is not between 0 and 1.
    """

    capturable = True
    strategies: ClassVar[frozenset[str]] = frozenset({"ddp"})
    recommended: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "trainer": {"lr": 1e-3, "batch_size": 4096, "patience": 400},
        "plain": {"l2": 0.03},
        "teacher": {"l2": 0.03},
        "distillation": {"l2": 0.03, "distillation_weight": 0.01},
    }

    def __init__(
        self,
        num_users: int,
        num_items: int,
        feature_dims: Mapping[str, int],
        embedding_dim: int = 64,
        latent_dim: int = 64,
        num_layers: int = 3,
        num_routing: int = 3,
        modulation: str = "hard",
        threshold: float = 0.4,
    ) -> None:
        check_modalities(feature_dims)
        super().__init__(num_users, num_items, feature_dims)
        for name, size in {"embedding_dim": embedding_dim, "latent_dim": latent_dim}.items():
            check_size(name, size)
        for name, size in {"num_layers": num_layers, "num_routing": num_routing}.items():
            check_size(name, size, least=0)
        self.num_routing = num_routing
        self.user_embedding = nn.Parameter(torch.empty(num_users, embedding_dim))
        self.item_embedding = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.preference = nn.ParameterDict({m: torch.empty(num_users, latent_dim) for m in feature_dims})
        self.project = nn.ModuleDict({m: nn.Linear(d, latent_dim) for m, d in feature_dims.items()})
        self.modulate = nn.ModuleDict(
            {m: EgoConv(latent_dim, len(feature_dims) - 1, modulation, threshold) for m in feature_dims}
        )
        self.attend = DotAttentionConv()
        self.convs = nn.ModuleList(LGConv(normalize=False) for _ in range(num_layers))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for table in (self.user_embedding, self.item_embedding, *self.preference.values()):
            nn.init.xavier_normal_(table)
        for m in self.modalities:
            cast(nn.Linear, self.project[m]).reset_parameters()
            cast(EgoConv, self.modulate[m]).reset_parameters()

    def encode(self, views: Sequence[View], inputs: Inputs) -> Sequence[Output]:
        """Put the id block and the blocks of the modalities side by side; the views share the former."""
        ids = Block(*self.split(self.ids(inputs), inputs.n_id_dict))
        x = {(m, factual): self.start(m, inputs, factual) for m in self.modalities for factual in _kinds(m, views)}
        out = []
        for view in views:
            starts = {m: x[m, m in view] for m in self.modalities}
            content = [self.content(m, starts, inputs.graph) for m in self.modalities]
            out.append(BlockEmbeddings([ids, *(Block(*self.split(h, inputs.n_id_dict)) for h in content)]))
        return out

    def start(self, modality: str, inputs: Inputs, factual: bool) -> Tensor:
        r"""Return :math:`\mathbf{X}_m` of a modality that is factual or intervened on, ``[N, C]``."""
        preference = self.preference[modality]
        if factual:
            preference, feature = inputs.take_users(preference), inputs.take_items(inputs.features[modality])
        else:
            preference, feature = mean_row(preference), inputs.mean_feature(modality)
        user, item = F.normalize(preference), F.normalize(F.leaky_relu(self.project[modality](feature)))
        if not factual:
            user, item = inputs.to_users(user, self.num_users), inputs.to_items(item, self.num_items)
        return torch.cat([user, item])

    def content(self, modality: str, starts: Mapping[str, Tensor], graph: Adjacency) -> Tensor:
        r"""Return the block :math:`\mathbf{X}_m^{(T)}` of a modality, given where all modalities start, ``[N, C]``."""
        others = [x for m, x in starts.items() if m != modality]
        x = _unit(self.modulate[modality](starts[modality], graph, others))
        for _ in range(self.num_routing):
            x = _unit(x + self.attend(x, graph))
        return x

    def ids(self, inputs: Inputs) -> Tensor:
        """Return the id block, ``[N, D]``."""
        x = torch.cat([inputs.take_users(self.user_embedding), inputs.take_items(self.item_embedding)])
        return sum_of_layers(self.convs, F.normalize(x), inputs.graph)

    def penalty(self, out: Output, batch: TripletBatch) -> Tensor:
        """Return the L2 penalty on the batch's id embeddings and on its users' preferences."""
        ids, whole = Embeddings(self.user_embedding, self.item_embedding), in_whole_graph(out, batch)
        rows = ids.rows(whole.user, whole.positive, whole.negative)
        rows += [preference.index_select(0, whole.user) for preference in self.preference.values()]
        return l2_penalty(*rows)


def _unit(x: Tensor) -> Tensor:
    """Return rows of length one; those of nodes without neighbours stay zero, in half precision too."""
    return F.normalize(x, eps=max(1e-12, torch.finfo(x.dtype).tiny))


def _kinds(modality: str, views: Sequence[View]) -> list[bool]:
    """Return whether the views need a modality factual, intervened on, or both."""
    return sorted({modality in view for view in views})
