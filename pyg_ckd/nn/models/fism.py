"""FISM with content: users are what they have met, items are ids, content and an item-item graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from pyg_ckd.data.inputs import RATES, EdgeType
from pyg_ckd.data.negatives import softmax_size
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn.dropout import dropout
from pyg_ckd.nn.loss import l2_penalty, mean_of_triples
from pyg_ckd.nn.models.base import EarlyFusion, Graph, check_modalities, check_size, in_whole_graph, reset_linear_layers
from pyg_ckd.nn.models.inputs import Inputs
from pyg_ckd.nn.models.item_weights import ItemWeights, unit_rows
from pyg_ckd.nn.rows import LateSums, selections_of
from pyg_ckd.nn.structure import UniformGraph, interactions, item_graph_type, with_content_graphs
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.history import HistoryEmbeddings, unit, with_one
from pyg_ckd.scoring.pairs import pair_keys
from pyg_ckd.scoring.views import View

ITEM_GRAPHS = ("auto", "weights", "content", "none")
WEIGHTS = ("item", "weights", "item")
"""Where the graphs of item-item weights are kept among the prepared graphs."""

ZERO = 1e-24
"""Squared norm up to which an item has no direction."""

AUTO_ITEMS = 8_000
"""Items up to which the closed form is the default: a Cholesky decomposition of less than a minute of one core."""


class FISM(EarlyFusion):
    r"""Factored item similarities with content: a user is the sum of the user's items.

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

    Training predicts the items of a user by a softmax over all items. Every item is scored by the user's *other* items,
    :math:`\mathbf{h}_u - \mathbf{x}_i` where :math:`i \in \mathcal{I}_u`, as the diagonal of EASE is zero. This is
    important: on DBbook, the validation recall@20 of a model without graph was 0.28 if the item is left out and 0.24
    otherwise. One row of scores serves all items of a user, so on a CPU the cost of a step depends on its users, and
    the trainer draws all interactions of a user one after the other (``shuffle="users"``); on a GPU it depends on its
    triples. Margins of triples leave the preferred item out of the user for both items.

    The graph :math:`\mathbf{A}` holds the ``num_neighbors`` largest positive item-item weights of EASE with the content
    kernels of the factual modalities, see :func:`~pyg_ckd.evaluation.baselines.ease_content` (collective form), so the
    model propagates over what the closed form has learned. In a view, modalities that are intervened on add neither
    features nor kernels. Early fusion: one stream.

    Differs from the paper in the content, the graph, the cosines with a temperature, and a softmax instead of a
    regression. There are no tables of users: new users have scores from their first interaction on. The L2 penalty acts
    on the :math:`\mathbf{q}_i` and :math:`b_i` of the batch's positives; the rows used for ranking have norm one and
    need no penalty.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        feature_dims: Feature width of every modality, in order.
        embedding_dim: Width :math:`D` of the embeddings.
        temperature: Temperature :math:`\tau` of the scores.
        item_graph: Source of the item graph: ``"weights"``, item-item weights of EASE; ``"content"``, the mean of the
            modalities' graphs of nearest neighbours by cosine; ``"none"``, no graph. ``"auto"`` is ``"weights"`` up to
            8,000 items, for which EASE takes less than a minute per view on one core, and ``"content"`` beyond;
            ``"weights"`` takes up to 20,000.
        graph_weight: Share :math:`\gamma` of the graph.
        num_neighbors: Number of neighbours of an item in the graph; all items if there are fewer.
        ridge: Ridge of EASE, in units of the mean number of interactions of an item, or of 8 if the mean is smaller.
        kernel_weight: Weight of a modality's cosine kernel in EASE, in the same units.
        feature_dropout: Share of the feature values that are dropped in a training step.
        num_negatives: Number of uniformly drawn items in the softmax of a step, beside the positive. :obj:`None` takes
            all items if there are at most 20,000, else 4,096 of them.
        leave_one_out: Whether, in training, an item is left out of the user's sum for its own score.

    Raises:
        InputError: If a size is not positive, there is no modality, a number is out of its range or ``item_graph`` is
            none of the four; when the graph is prepared, if there are more than 20,000 items for ``"weights"``.
    """

    capturable = True
    normalization = "none"
    shuffle = "users"
    pairwise: ClassVar[bool] = False
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
        check_modalities(feature_dims)
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
        """Return the embeddings of users from their items, ``[size, D + 1]``, as :meth:`forward` does.

        Args:
            item: Item embeddings ``[I, D + 1]``.
            row: Rows of users, int64 ``[E]``.
            member: Rows of their items, int64 ``[E]``.
            size: Number of users.
        """
        total = item.new_zeros(size, item.size(1) - 1)
        for users, items in zip(row.split(2**20), member.split(2**20), strict=True):
            total.index_add_(0, users, unit(item[:, :-1].index_select(0, items), ZERO))
        return with_one(unit(total))

    def prepare(self, features: Mapping[str, Tensor], edge_index_dict: Mapping[EdgeType, Graph]) -> dict[EdgeType, Any]:
        """Keep the interactions as they are and add what item graphs are computed from.

        Args:
            features: From modality to the full feature matrix ``[I, d_m]``.
            edge_index_dict: The graphs; with ``item_graph="content"``, one under ``('item', m, 'item')`` replaces the
                nearest neighbours by content.

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
            rows = {m: dropout(x, self.feature_dropout) for m, x in rows.items()}
        content = {m: self.project[m](rows[m]) for m in self.modalities if any(m in view for view in views)}
        num_users = inputs.graph.num_nodes - inputs.take_items(self.item_bias).numel()
        users, selections = inputs.graph.to_users(num_users), selections_of(inputs.graph, num_users)
        known = self._known(inputs) if self.training and self.leave_one_out else None
        out = []
        for view in views:
            z = sum((content[m] for m in self.modalities if m in view), start=self.item_embedding)
            row = unit(inputs.take_items(self._spread(view, z, inputs)), ZERO)
            bias = inputs.take_items(self.item_bias)
            sums = LateSums(users, row, selections)
            out.append(HistoryEmbeddings(sums, row, bias, known, self.temperature))
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
        return torch.lerp(z, spread.to(z.dtype), self.graph_weight)

    def _known(self, inputs: Inputs) -> Tensor:
        graph, items = inputs.graph, inputs.take_items(self.item_bias).numel()

        def keys() -> Tensor:
            user, item = interactions(graph, graph.num_nodes - items)[0]
            return pair_keys(user, item, items)

        return graph.constant(("keys", items), None, keys)

    def losses(
        self, out: Output, batch: TripletBatch, features: Mapping[str, Tensor], view: View, bpr_eps: float = 0.0
    ) -> dict[str, Tensor]:
        """Return the softmax of every positive among all items or ``num_negatives`` of them, as ``softmax``.

        Args:
            out: The output of the trained view.
            batch: The triples; their negatives are not used.
            features: Not used.
            view: The trained view.
            bpr_eps: Not used.
        """
        found, positive = cast(HistoryEmbeddings, out), batch.positive
        if positive.device.type == "cpu":
            user, row = batch.user.unique(return_inverse=True)
        else:  # How many users there are would have to be waited for.
            user, row = batch.user, torch.arange(positive.numel(), device=positive.device)
        if self.num_negatives is None or self.num_negatives >= found.row.size(0):
            scores = found.scores(user)
            loss = scores.logsumexp(dim=1)[row] - scores[row, positive]
        else:
            drawn = torch.randint(found.row.size(0), (self.num_negatives,), device=positive.device)
            others = found.scores(user, drawn)[row].masked_fill(drawn == positive.unsqueeze(1), float("-inf"))
            own = (found.without(batch.user, positive) * found.item_rows(positive)).sum(dim=1, keepdim=True)
            loss = (torch.cat([own, others], dim=1).logsumexp(dim=1, keepdim=True) - own).squeeze(1)
        return {"softmax": mean_of_triples(loss, batch.weight)}

    def penalty(self, out: Output, batch: TripletBatch) -> Tensor:
        r"""Return the L2 penalty on the :math:`\mathbf{q}_i` and :math:`b_i` of the batch's positives."""
        item = in_whole_graph(out, batch).positive
        return l2_penalty(self.item_embedding.index_select(0, item), self.item_bias.index_select(0, item).unsqueeze(1))
