"""FISM with content: users are what they have met, items are ids, content and an item-item graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyg_ckd.data.inputs import RATES, EdgeType
from pyg_ckd.data.negatives import softmax_size
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn.loss import l2_penalty, mean_of_triples
from pyg_ckd.nn.models.base import EarlyFusion, Graph, check_size, in_whole_graph, reset_linear_layers
from pyg_ckd.nn.models.inputs import Inputs
from pyg_ckd.nn.models.item_weights import ItemWeights, unit_rows
from pyg_ckd.nn.structure import UniformGraph, interactions, item_graph_type, with_content_graphs
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.triples import Triples
from pyg_ckd.scoring.views import View

ITEM_GRAPHS = ("auto", "weights", "content", "none")
WEIGHTS = ("item", "weights", "item")
"""Where the graphs of item-item weights are kept among the prepared graphs."""

AUTO_ITEMS = 8_000
"""Items up to which the closed form is the default: a Cholesky decomposition of about a minute of one core."""

NOTHING_LEFT = 1e-8
"""Squared norm below which nothing is left of a sum of rows of norm one."""
SHARE_LEFT = 1e-6
"""The same as a share of the sum's squared norm, where what is left is a difference of products and not of rows."""


class HistoryEmbeddings(Embeddings):
    """Embeddings of users who are the sum of their items, so that an item can be left out of a user.

    Margins of a training triple must not come from the very interaction that is to be predicted: the preferred item is
    taken out of the user's sum where it is in it.

    Attributes:
        total: Sum of the rows of each user's items, ``[U, D]``.
        row: Rows of the items that users are sums of, ``[I, D]``.
        known: Sorted keys ``user * I + item`` of the interactions, int64 ``[E]``, or :obj:`None` to leave out nothing.
        temperature: What cosines are divided by.
        n_id_dict: As in :class:`~pyg_ckd.scoring.BlockEmbeddings`.
    """

    total: Tensor
    row: Tensor
    known: Tensor | None
    temperature: float
    n_id_dict: Mapping[str, Tensor] = MappingProxyType({})

    def __new__(
        cls, total: Tensor, row: Tensor, bias: Tensor, known: Tensor | None, temperature: float
    ) -> HistoryEmbeddings:
        """Hold the tables that rank, and what they are made of."""
        item = torch.cat([row / temperature, bias.unsqueeze(1)], dim=1)
        self = super().__new__(cls, _with_one(_unit(total)), item)
        self.total, self.row, self.known, self.temperature = total, row, known, temperature
        return self

    def without(self, user: Tensor, item: Tensor) -> Tensor:
        """Return the rows of users as they are without an item each, ``[B, D + 1]``.

        Args:
            user: Row numbers of users, int64 ``[B]``.
            item: Row numbers of items, int64 ``[B]``; one that the user has not met changes nothing.
        """
        if self.known is None or self.known.numel() == 0:
            return self.user.index_select(0, user)
        key = user * self.row.size(0) + item
        place = torch.searchsorted(self.known, key).clamp(max=self.known.numel() - 1)
        met = (self.known[place] == key).to(self.row.dtype).unsqueeze(1)
        return _with_one(_unit(self.total.index_select(0, user) - met * self.row.index_select(0, item)))

    def scores(self, user: Tensor, drawn: Tensor | None = None) -> Tensor:
        """Return the scores of users for items, ``[n, I]`` or ``[n, N]``, every item left out of the users who met it.

        Args:
            user: Row numbers of users, int64 ``[n]``.
            drawn: Row numbers of items, int64 ``[N]``. (default: :obj:`None`, all items)
        """
        total, row, bias = self.total.index_select(0, user), self.row, self.item[:, -1]
        if drawn is not None:
            row, bias = row.index_select(0, drawn), bias.index_select(0, drawn)
        with torch.autocast(user.device.type, enabled=False):  # What is left of a short sum is a small difference.
            product, squared = total @ row.to(total.dtype).t(), total.square().sum(dim=1, keepdim=True)
        cosine = _cosine(product, squared, NOTHING_LEFT)
        if self.known is not None and self.known.numel():
            first = user * self.row.size(0)
            start, stop = torch.searchsorted(self.known, torch.stack([first, first + self.row.size(0)]))
            count = stop - start
            few = drawn is None and user.device.type == "cpu"  # Elsewhere their number would have to be waited for.
            if few and int(count.sum()) * row.size(1) <= cosine.numel():
                u, i = place = _pairs(self.known, first, start, count)
                left = (self.without(user[u], i)[:, :-1] * row[i]).sum(dim=1)
                cosine = cosine.index_put(place, left.to(cosine.dtype))
            else:
                own = row.detach().square().sum(dim=1)  # One, but of rows that are zero.
                items = torch.arange(row.size(0), device=user.device) if drawn is None else drawn
                key = first.unsqueeze(1) + items
                met = self.known[torch.searchsorted(self.known, key).clamp(max=self.known.numel() - 1)] == key
                left = _cosine(product - own, squared - 2 * product + own, SHARE_LEFT * squared)
                cosine = torch.where(met, left * (count > 1).unsqueeze(1), cosine)
        return torch.add(bias, cosine, alpha=1 / self.temperature)

    def table_margins(self, *triples: Triples) -> list[Tensor]:
        """As :meth:`Embeddings.margins`, nothing left out: what is compared with the margins of other tables."""
        return super().margins(*triples)

    def margins(self, *triples: Triples) -> list[Tensor]:
        """As :meth:`Embeddings.margins`, every preferred item left out of its user."""
        if self.known is None:
            return super().margins(*triples)
        return [
            (self.without(t[0], t[1]) * (self.item.index_select(0, t[1]) - self.item.index_select(0, t[2]))).sum(dim=1)
            for t in triples
        ]


class FISM(EarlyFusion):
    r"""Factored item similarities with content: a user is the sum of the items met.

    From `"FISM: Factored Item Similarity Models for Top-N Recommender Systems"
    <https://doi.org/10.1145/2487575.2487589>`_. With :math:`\mathbf{q}_i` the id embedding of item ``i``,
    :math:`\tilde{\mathbf{f}}^m_i` its centred features of norm one (zero where it has none) and :math:`\mathbf{A}` an
    item-item graph with rows that sum to one,

    .. math::
        \mathbf{z}_i &= \mathbf{q}_i + \sum_m \mathbf{W}_m \tilde{\mathbf{f}}^m_i, \qquad
        \mathbf{E} = (1 - \gamma) \mathbf{Z} + \gamma \mathbf{A} \mathbf{Z}, \qquad
        \mathbf{x}_i = \mathbf{e}_i / \lVert \mathbf{e}_i \rVert_2

        \mathbf{h}_u &= \sum_{i \in \mathcal{I}_u} \mathbf{x}_i, \qquad
        s_{ui} = \frac{1}{\tau} \cos(\mathbf{h}_u, \mathbf{x}_i) + b_i

    Training predicts what a user has met by a softmax over all items. Every item is scored by the user's *other* items,
    :math:`\mathbf{h}_u - \mathbf{x}_i` where :math:`i \in \mathcal{I}_u`, as the diagonal of EASE is zero. Leaving it
    out is most of the quality: on DBbook validation recall@20 was 0.24 without and 0.28 with it, of a model without
    graph that is otherwise the same. One row of scores serves all items that a user has met, so that a step on a CPU
    costs by its users, and the trainer draws all interactions of a user one after the other (``shuffle="users"``);
    elsewhere it costs by its triples. Margins of triples leave the preferred item out of the user for both items.

    The graph :math:`\mathbf{A}` holds the ``num_neighbors`` largest positive item-item weights of EASE with the content
    kernels of the factual modalities, see :func:`~pyg_ckd.evaluation.baselines.ease_content` (collective form): what
    the closed form has learnt is what the model propagates over. In a view, modalities that are intervened on add
    neither features nor kernels. Early fusion: one stream.

    Differs from the paper in content, the graph, cosines with a temperature, and the softmax in the place of a
    regression. There are no tables of users: new users have scores from their first interaction on. The L2 penalty acts
    on the :math:`\mathbf{q}_i` and :math:`b_i` of the batch's positives; rows that rank have norm one and need none.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        feature_dims: Feature width of every modality, in order.
        embedding_dim: Width :math:`D` of the embeddings.
        temperature: Temperature :math:`\tau` of the scores.
        item_graph: Where :math:`\mathbf{A}` is from: ``"weights"``, as above; ``"content"``, the mean of the
            modalities' graphs of nearest neighbours by cosine; ``"none"``, no graph. ``"auto"`` is ``"weights"`` up to
            8,000 items, for which EASE takes about a minute of one core per view, and ``"content"`` beyond;
            ``"weights"`` takes up to 20,000.
        graph_weight: Share :math:`\gamma` of the graph.
        num_neighbors: Neighbours of an item in the graph; of fewer items than that, all.
        ridge: Ridge of EASE, in units of the mean number of interactions of an item.
        kernel_weight: Weight of a modality's cosine kernel in EASE, in the same units.
        feature_dropout: Share of the features that a training step goes without.
        num_negatives: Items that the softmax of a step is over, drawn uniformly, beside the positive; :obj:`None` means
            all items up to 20,000 and else 4,096 of them.
        leave_one_out: Whether, in training, an item that the user has met is taken out of the user for its own score.

    Raises:
        InputError: If a size is not positive, there is no modality, a number is out of its range or ``item_graph`` is
            none of the four; when the graph is prepared, if there are more than 20,000 items for ``"weights"``.
    """

    capturable = True
    normalization = "none"
    shuffle = "users"
    strategies: ClassVar[frozenset[str]] = frozenset({"ddp"})
    recommended: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "trainer": {"lr": 5e-3, "batch_size": 2048, "patience": 150},
        "plain": {"l2": 0.0},
        "teacher": {"l2": 0.0},
        "distillation": {"l2": 0.0, "distillation_weight": 0.01},
    }

    def __init__(
        self,
        num_users: int,
        num_items: int,
        feature_dims: Mapping[str, int],
        embedding_dim: int = 256,
        temperature: float = 0.15,
        item_graph: str = "auto",
        graph_weight: float = 0.5,
        num_neighbors: int = 10,
        ridge: float = 6.0,
        kernel_weight: float = 0.6,
        feature_dropout: float = 0.5,
        num_negatives: int | None = None,
        leave_one_out: bool = True,
    ) -> None:
        check_size("number of modalities", len(feature_dims))
        super().__init__(num_users, num_items, feature_dims)
        check_size("embedding_dim", embedding_dim)
        check_size("num_neighbors", num_neighbors)
        check_size("num_negatives", 1 if num_negatives is None else num_negatives)
        for name, value, fits, expected in (
            ("temperature", temperature, 0 < temperature < float("inf"), "a positive number"),
            ("graph_weight", graph_weight, 0 <= graph_weight <= 1, "a share from 0 to 1"),
            ("ridge", ridge, 0 < ridge < float("inf"), "a positive number"),
            ("kernel_weight", kernel_weight, 0 <= kernel_weight < float("inf"), "a number of zero or more"),
            ("feature_dropout", feature_dropout, 0 <= feature_dropout < 1, "a share from 0 to below 1"),
        ):
            if not fits:
                raise InputError(f"{name}: found {value}, expected {expected}")
        if item_graph not in ITEM_GRAPHS:
            raise unknown_name("item_graph", item_graph, ITEM_GRAPHS)
        self.temperature, self.graph_weight, self.num_neighbors = temperature, graph_weight, num_neighbors
        self.ridge, self.kernel_weight, self.feature_dropout = ridge, kernel_weight, feature_dropout
        self.leave_one_out = leave_one_out
        self.num_negatives = softmax_size(num_negatives, num_items)
        self.item_graph = item_graph if item_graph != "auto" else "weights" if num_items <= AUTO_ITEMS else "content"
        if graph_weight == 0:
            self.item_graph = "none"
        self.item_embedding = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.item_bias = nn.Parameter(torch.empty(num_items))
        self.project = nn.ModuleDict({m: nn.Linear(d, embedding_dim, bias=False) for m, d in feature_dims.items()})
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        nn.init.normal_(self.item_embedding, std=0.1)
        nn.init.zeros_(self.item_bias)
        reset_linear_layers(self)

    @staticmethod
    def users_of(item: Tensor, row: Tensor, member: Tensor, size: int) -> Tensor:
        """Return the embeddings of users from what they have met, ``[size, D + 1]``, as :meth:`forward` does.

        Args:
            item: Item embeddings ``[I, D + 1]``.
            row: Rows of users, int64 ``[E]``.
            member: Rows of the items that they have met, int64 ``[E]``.
            size: Number of users.
        """
        total = item.new_zeros(size, item.size(1) - 1)
        for users, items in zip(row.split(2**20), member.split(2**20), strict=True):
            total.index_add_(0, users, F.normalize(item[:, :-1].index_select(0, items)))
        return _with_one(_unit(total))

    def prepare(self, features: Mapping[str, Tensor], edge_index_dict: Mapping[EdgeType, Graph]) -> dict[EdgeType, Any]:
        """Keep the interactions as they are and add what item graphs are made of.

        Args:
            features: From modality to the full feature matrix ``[I, d_m]``.
            edge_index_dict: The graphs; with ``item_graph="content"``, one under ``('item', m, 'item')`` takes the
                place of the nearest neighbours by content.

        Raises:
            InputError: If there are too many items for a closed form.
        """
        graphs = super().prepare(features, edge_index_dict)
        if self.item_graph == "weights" and WEIGHTS not in graphs:
            options = (self.ridge, self.kernel_weight, self.num_neighbors)
            graphs[WEIGHTS] = ItemWeights(graphs[RATES], self.num_items, *options)
        return self._with_content(features, graphs)

    def encode(self, views: Sequence[View], inputs: Inputs) -> Sequence[Output]:
        """Compute the items of every view, and the users as sums of them."""
        if self.item_graph == "weights" and WEIGHTS not in inputs.graphs:
            raise InputError(
                "graph: found a sampled subgraph without the weights between items, which come from all interactions; "
                f"pass what {type(self).__name__}.prepare returns of the whole graph beside it, or choose "
                "item_graph='content'"
            )
        inputs = inputs._replace(graphs=self._with_content(inputs.features, inputs.graphs))  # A subgraph comes without.
        rows = {m: inputs.of_features("unit rows", m, unit_rows) for m in self.modalities}
        if self.training and self.feature_dropout > 0:
            rows = {m: F.dropout(x, self.feature_dropout) for m, x in rows.items()}
        content = {m: self.project[m](rows[m]) for m in self.modalities if any(m in view for view in views)}
        users = inputs.graph.to_users(inputs.graph.num_nodes - inputs.take_items(self.item_bias).numel())
        known = self._known(inputs) if self.training and self.leave_one_out else None
        out = []
        for view in views:
            z = sum((content[m] for m in self.modalities if m in view), start=self.item_embedding)
            row = F.normalize(inputs.take_items(self._spread(view, z, inputs)))
            bias = inputs.take_items(self.item_bias)
            out.append(HistoryEmbeddings(users.matmul(row), row, bias, known, self.temperature))
        return out

    def _with_content(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> dict[EdgeType, Any]:
        if self.item_graph != "content":
            return dict(graphs)
        dtype = self.item_embedding.dtype
        return with_content_graphs(features, graphs, self.num_items, self.num_neighbors + 1, dtype=dtype)

    def _spread(self, view: View, z: Tensor, inputs: Inputs) -> Tensor:
        r"""Return :math:`(1 - \gamma) \mathbf{Z} + \gamma \mathbf{A} \mathbf{Z}` of a view."""
        if self.item_graph == "none":
            return z
        if self.item_graph == "weights":
            spread = inputs.graphs[WEIGHTS].of(view, inputs.features).matmul(z)
        else:
            alike = UniformGraph()
            parts = [inputs.graphs[item_graph_type(m)] if m in view else alike for m in self.modalities]
            spread = torch.stack([part.matmul(z) for part in parts]).mean(dim=0)
        return (1 - self.graph_weight) * z + self.graph_weight * spread

    def _known(self, inputs: Inputs) -> Tensor:
        graph, items = inputs.graph, inputs.take_items(self.item_bias).numel()

        def keys() -> Tensor:
            user, item = interactions(graph, graph.num_nodes - items)[0]
            return user * items + item

        return graph.constant(("keys", items), None, keys)

    def losses(
        self, out: Output, batch: TripletBatch, features: Mapping[str, Tensor], view: View, bpr_eps: float = 0.0
    ) -> dict[str, Tensor]:
        """Return the softmax of every positive among all items or ``num_negatives`` of them, as ``softmax``.

        Args:
            out: The output of the trained view.
            batch: The triples; of their negatives nothing is made.
            features: Not used.
            view: The trained view.
            bpr_eps: Not used.
        """
        found, positive = cast(HistoryEmbeddings, out), batch.positive
        if positive.device.type == "cpu":
            user, row = batch.user.unique(return_inverse=True)
        else:  # How many users there are would have to be waited for.
            user, row = batch.user, torch.arange(positive.numel(), device=positive.device)
        if self.num_negatives is None or self.num_negatives >= found.item.size(0):
            scores = found.scores(user)
            loss = scores.logsumexp(dim=1)[row] - scores[row, positive]
        else:
            drawn = torch.randint(found.item.size(0), (self.num_negatives,), device=positive.device)
            others = found.scores(user, drawn)[row].masked_fill(drawn == positive.unsqueeze(1), float("-inf"))
            own = (found.without(batch.user, positive) * found.item.index_select(0, positive)).sum(dim=1, keepdim=True)
            loss = (torch.cat([own, others], dim=1).logsumexp(dim=1, keepdim=True) - own).squeeze(1)
        return {"softmax": mean_of_triples(loss, batch.weight)}

    def penalty(self, out: Output, batch: TripletBatch) -> Tensor:
        r"""Return the L2 penalty on the :math:`\mathbf{q}_i` and :math:`b_i` of the batch's positives."""
        item = in_whole_graph(out, batch).positive
        return l2_penalty(self.item_embedding.index_select(0, item), self.item_bias.index_select(0, item).unsqueeze(1))


def _pairs(known: Tensor, first: Tensor, start: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Return all users with an item that they met, as numbers of users among those given and rows of items."""
    place = torch.arange(count.numel()).repeat_interleave(count)
    inside = torch.arange(place.numel()) - (count.cumsum(0) - count)[place]
    return place, known[start[place] + inside] - first[place]


def _cosine(product: Tensor, squared: Tensor, least: float | Tensor) -> Tensor:
    """Return products with rows of norm one over the norms of what they are of; zero where nothing is left of that."""
    return product * (squared > least) * squared.clamp(min=NOTHING_LEFT).rsqrt()


def _unit(x: Tensor) -> Tensor:
    """Return rows of norm one; rows that are zero up to rounding, as of nothing left in a sum, are constant zeros.

    The gradient of a zero row over its norm would be as large as numbers get, and ruin those that it is added to.
    """
    squared = x.square().sum(dim=1, keepdim=True)
    return x * (squared > NOTHING_LEFT) * squared.clamp(min=NOTHING_LEFT).rsqrt()


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(x.size(0), 1)], dim=1)
