"""DualGNN for any number of modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.utils import coalesce, softmax

from pyg_ckd.data.inputs import RATES, EdgeType
from pyg_ckd.data.neighbors import co_occurrence
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn.conv.lg_conv import LGConv
from pyg_ckd.nn.loss import l2_penalty
from pyg_ckd.nn.models.base import Graph, Inputs, LateFusion, check_modalities, check_size, in_whole_graph, mean_row
from pyg_ckd.nn.models.parts import sum_of_layers
from pyg_ckd.nn.propagation import Adjacency, plain_edges
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.views import View

SHARES = ("user", "shares", "user")
"""Edge type of the graph of users who share items."""


class DualGNN(LateFusion):
    r"""One graph network per modality, with modality weights learned per user and a graph of similar users.

    From `"DualGNN: Dual Graph Neural Network for Multimedia Recommendation"
    <https://doi.org/10.1109/TMM.2021.3138298>`_. With the users' preferences :math:`\mathbf{P}_m` for modality ``m``,
    :math:`\nu` dividing rows by their length and :math:`\phi` a leaky ReLU of slope 0.01,

    .. math::
        \mathbf{X}_m &= \nu \left( \left[ \mathbf{P}_m ; \phi \left( \mathbf{F}_m \mathbf{W}_m^\top + \mathbf{b}_m
        \right) \mathbf{V}_m^\top + \mathbf{c}_m \right] \right), \qquad
        \mathbf{Y}_m = \sum_{l=0}^{L} \left( \mathbf{D}^{-1/2} \mathbf{A} \mathbf{D}^{-1/2} \right)^l \mathbf{X}_m

        \mathbf{r}_u &= \sum_m \alpha_{um} \mathbf{y}_{mu}, \qquad
        \boldsymbol{\alpha}_u = \textrm{softmax}_m \left( \mathbf{a}_u \right)

        \mathbf{x}_u &= \mathbf{r}_u + \sum_{v \in \mathcal{S}(u)} s_{uv} \mathbf{r}_v, \qquad
        \mathbf{x}_i = \sum_m \mathbf{y}_{mi}

    where :math:`\mathcal{S}(u)` are the ``num_neighbors`` users who share most items with ``u`` and
    :math:`\mathbf{s}_u` is the softmax of the numbers of items they share. Users with fewer such neighbours have only
    those; the published implementation repeats some of them at random. It also takes the softmax of
    :math:`\mathbf{a}_u` only once, before training, and weights :math:`\sum_m \mathbf{y}_{mu}` instead of the first
    modality's :math:`\mathbf{y}_{mu}`; here, the paper is followed.

    **Views.** Late fusion: the branches meet after the last layer. The branch of a modality that is intervened on runs
    on mean features and mean preferences, so that it distinguishes nodes only by their position in the graph, and every
    user's :math:`a_{um}` is the mean over users. The graph of users comes from interactions and is the same in all
    views.

    The L2 penalty acts on the :math:`\mathbf{P}_m` and :math:`\mathbf{a}` of the batch's users, as in the published
    implementation.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        feature_dims: Feature width of every modality, in order.
        embedding_dim: Width of the preferences and of the embeddings. The hidden layer is four times as wide.
        num_layers: Number of layers :math:`L`.
        num_neighbors: Number of similar users per user.

    Raises:
        InputError: If a size is not positive, ``num_layers`` is negative, or there is no modality.
    """

    capturable = True
    strategies: ClassVar[frozenset[str]] = frozenset({"ddp"})
    recommended: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "trainer": {"lr": 3e-4},
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
        num_layers: int = 2,
        num_neighbors: int = 40,
    ) -> None:
        check_modalities(feature_dims)
        super().__init__(num_users, num_items, feature_dims)
        check_size("embedding_dim", embedding_dim)
        check_size("num_layers", num_layers, least=0)
        check_size("num_neighbors", num_neighbors)
        self.num_neighbors = num_neighbors
        self.preference = nn.ParameterDict({m: torch.empty(num_users, embedding_dim) for m in feature_dims})
        self.attention = nn.ParameterDict({m: torch.empty(num_users, 1) for m in feature_dims})
        hidden = 4 * embedding_dim
        self.project = nn.ModuleDict(
            {
                m: nn.Sequential(nn.Linear(d, hidden), nn.LeakyReLU(), nn.Linear(hidden, embedding_dim))
                for m, d in feature_dims.items()
            }
        )
        self.convs = nn.ModuleList(LGConv(normalize=False) for _ in range(num_layers))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew; at first, all modalities weigh the same to every user."""
        for preference in self.preference.values():
            nn.init.xavier_normal_(preference)
        for attention in self.attention.values():
            nn.init.zeros_(attention)
        for mlp in self.project.values():
            for lin in cast(nn.Sequential, mlp):
                if isinstance(lin, nn.Linear):
                    lin.reset_parameters()

    def prepare(self, features: Mapping[str, Tensor], edge_index_dict: Mapping[EdgeType, Graph]) -> dict[EdgeType, Any]:
        """Normalise the graph of users and items and add the one of similar users if there is none.

        Args:
            features: As in :meth:`Backbone.prepare`; not used.
            edge_index_dict: The graphs. One under ``('user', 'shares', 'user')`` replaces the computed one: a prepared
                graph is used as it is; in an edge index ``[2, E]`` (neighbour, user), all neighbours of a user get the
                same weight.
        """
        graphs = super().prepare(features, edge_index_dict)
        graphs[SHARES] = self._user_graph(graphs.get(SHARES), graphs[RATES], self.num_users)
        return graphs

    def _user_graph(self, given: Graph | None, graph: Adjacency, num_users: int) -> Adjacency:
        settings = ("most shared items", self.num_neighbors)
        if isinstance(given, Adjacency):
            given.check_prepared(SHARES, settings, graph.dtype)
            return given
        if given is None:
            computed = similar_users(graph, num_users, self.num_neighbors)
            computed.prepared_for = settings
            return computed
        edges = plain_edges(given, (num_users, num_users), f"{SHARES} (neighbour, user)")
        edges = coalesce(edges, num_nodes=num_users)
        weight = torch.ones(edges.size(1), dtype=graph.dtype, device=edges.device)
        return Adjacency.from_edges(edges, softmax(weight, edges[1]), num_users)

    def branch(self, modality: str, feature: Tensor, inputs: Inputs, factual: bool) -> Embeddings:
        r"""Return :math:`\mathbf{Y}_m`.

        The input of an intervened modality is one row for all users and one for all items; how these two spread over
        the graph is the same in every step.
        """
        preference, feature = self.preference[modality], self.project[modality](feature)
        if factual:
            x = F.normalize(torch.cat([inputs.take_users(preference), feature]))
            return self.split(self._propagate(x, inputs.graph), inputs.n_id_dict)
        graph, num_users = inputs.graph, inputs.take_users(preference).size(0)
        name = ("spread", num_users, len(self.convs))
        spread = graph.constant(name, None, lambda: self._propagate(graph.sides(num_users), graph))
        rows = F.normalize(torch.cat([mean_row(preference), feature]))  # [2, D]
        return self.split(spread @ rows, inputs.n_id_dict)

    def _propagate(self, x: Tensor, graph: Adjacency) -> Tensor:
        return sum_of_layers(self.convs, x, graph)

    def fuse(self, view: View, branches: Mapping[str, Embeddings], inputs: Inputs) -> Embeddings:
        r"""Return :math:`\mathbf{r}_u` and :math:`\mathbf{x}_i`."""
        weight = inputs.take_users(self.weights(view)).split(1, dim=1)  # M times [U, 1]
        user = torch.stack([w * branch.user for w, branch in zip(weight, branches.values(), strict=True)])
        item = torch.stack([branch.item for branch in branches.values()])
        return Embeddings(user.sum(dim=0), item.sum(dim=0))

    def weights(self, view: View) -> Tensor:
        r"""Return the weights :math:`\alpha_{um}` of the modalities in a view, ``[U, M]``."""
        tables = {m: self.attention[m] for m in self.modalities}  # A ParameterDict has an order of its own.
        a = [a if m in view else mean_row(a).expand_as(a) for m, a in tables.items()]
        return torch.cat(a, dim=1).softmax(dim=1)

    def encode(self, views: Sequence[View], inputs: Inputs) -> Sequence[Output]:
        """Fuse the branches of every view, and add what similar users have, in one product for all views."""
        out = [cast(Embeddings, own) for own in super().encode(views, inputs)]
        shared = self._of_similar_users(torch.cat([own.user for own in out], dim=1), inputs).chunk(len(out), dim=1)
        return [Embeddings(own.user + add, own.item) for own, add in zip(out, shared, strict=True)]

    def _of_similar_users(self, x: Tensor, inputs: Inputs) -> Tensor:
        given = inputs.graphs.get(SHARES)
        graph = self._user_graph(given, inputs.graph, x.size(0))
        if given is not graph or not inputs.n_id_dict:  # Built of a sampled subgraph, or all users are here.
            return graph.matmul(x)
        rows = inputs.n_id_dict["user"]  # A prepared graph runs over all users; those who are not here add nothing.
        return graph.matmul(x.new_zeros(self.num_users, x.size(1)).index_copy(0, rows, x)).index_select(0, rows)

    def penalty(self, out: Output, batch: TripletBatch) -> Tensor:
        r"""Return the L2 penalty on the batch's rows of preferences :math:`\mathbf{P}_m` and of :math:`\mathbf{a}`."""
        tables = [*self.preference.values(), *self.attention.values()]
        users = in_whole_graph(out, batch).user
        return l2_penalty(*(table.index_select(0, users) for table in tables))


def similar_users(graph: Adjacency, num_users: int, k: int) -> Adjacency:
    """Return the graph from the ``k`` users who share most items with a user to that user.

    The weights of a user's neighbours are the softmax of the numbers of shared items. Where more users share as many
    items as the last one taken, the lowest user numbers are taken.

    Args:
        graph: Graph of users and items.
        num_users: Number of its users.
        k: Neighbours of a user at most.
    """
    source, target = graph.edge_index
    received = (target < num_users) & (source >= num_users)
    edges = torch.stack([target[received], source[received] - num_users])
    index, count = co_occurrence(edges, num_users, graph.num_nodes - num_users, k)  # [U, K]
    there = index >= 0
    weight = count.to(graph.dtype).masked_fill(~there, -torch.inf).softmax(dim=1)
    return Adjacency.from_edges(torch.stack([index[there], there.nonzero()[:, 0]]), weight[there], num_users)
