"""PMR: the modality that is behind learns to tell a user's items by their distance to a prototype."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from pyg_ckd.balance.attribution import masked_mean
from pyg_ckd.balance.given import MaskedObjective
from pyg_ckd.balance.multitask import unimodal_losses
from pyg_ckd.balance.objective import check_not_negative
from pyg_ckd.balance.pacing import discrepancy
from pyg_ckd.data.inputs import RATES, EdgeType
from pyg_ckd.data.modules import evaluating
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.nn.models.base import Backbone, Graph
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.pairs import pair_keys
from pyg_ckd.scoring.rows import added_item_rows
from pyg_ckd.scoring.sparse import csr_matrix, product, row_starts
from pyg_ckd.scoring.views import EMPTY, View, unimodal_views


class PMR(MaskedObjective):
    r"""Pulls the items of a user towards their mean, in the modality that is behind.

    From `"PMR: Prototypical Modal Rebalance for Multimodal Learning" <https://arxiv.org/abs/2211.07089>`_. There, every
    class has a prototype; here, every user :math:`u` has one: the mean of the user's items in the training part. Rows
    of items are those of the view of modality :math:`m` without those of the empty view,
    :math:`\mathbf{z}_i = \mathbf{x}_i^{\{m\}} - \mathbf{x}_i^\emptyset`, so that ids do not count. With the rows
    :math:`\mathbf{z}'` at the beginning of the epoch,

    .. math::
        \mathbf{c}_{u \setminus i}^m &= \frac{1}{|\mathcal{N}(u)| - 1} \sum_{k \in \mathcal{N}(u) \setminus i}
        \mathbf{z}'_k

        e^m_{uij} &= \| \mathbf{z}_j - \mathbf{c}_{u \setminus i}^m \|
        - \| \mathbf{z}_i - \mathbf{c}_{u \setminus i}^m \|

    ranks a triple by distances, and the terms, with weights from the batch,

    .. math::
        \alpha \sum_m b_m \, \underset{uij}{\textrm{mean}} \; \ell(e^m_{uij}), \qquad
        b_m = \textrm{clamp} \left( \frac{1}{M - 1} \sum_{n \ne m} \frac{S_n}{S_m} - 1, \, 0, \, 1 \right), \qquad
        S_m = \underset{uij}{\textrm{mean}} \; \sigma(e^m_{uij})

    train the modalities whose prototypes rank worse than the others'. With ``hard=True``, :math:`b_m` is 1 wherever it
    is positive. Items that lack a modality are in none of its prototypes, and triples with such an item do not count
    for it; neither do those of users with a single item. Such a triple adds nothing to the loss of the modality, whose
    mean is over all triples of the batch; the mean :math:`S_m` is over the triples that count. A modality without a
    triple that counts is not compared.

    Overrides ``views``, ``begin_epoch`` and ``balance``. Costs the uni-modal and the empty view in every step, and once
    more at the beginning of every epoch with a sparse product for each modality.

    Differs from the published code, which has the ``hard`` weights, computes prototypes from a part of the data, the
    item itself included, and smooths them over epochs with a momentum of 0.2, because a part is noisy. The entropy term
    of the paper is in neither.

    Args:
        student: The backbone to train, with at least two modalities.
        alpha: Weight :math:`\alpha`; 0 is plain training.
        hard: Whether weights are 0 and 1.
        l2: Weight of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`.

    Raises:
        InputError: If there are fewer than two modalities, the backbone ignores features, ``alpha`` is negative or a
            mask does not fit.
    """

    name = "pmr"
    capturable = True
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"alpha": (0.1, 3.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"alpha": 0.0}
    needs_whole = ""
    batch_items = 0
    reports: ClassVar[Mapping[str, str]] = {"weight": "weight of the modality's prototype loss, mean over the epoch"}

    weight_sum: Tensor
    steps: Tensor

    def __init__(
        self,
        student: Backbone,
        alpha: float = 1.0,
        hard: bool = False,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, l2)
        check_not_negative("alpha", alpha)
        self.alpha, self.hard = alpha, hard
        self.store_masks(has)
        self.check_views()
        self._alone = unimodal_views(self.modalities)
        self.register_state("weight_sum", torch.zeros(len(self.modalities), dtype=torch.float64))
        self.register_state("steps", torch.zeros((), dtype=torch.int64))
        self._graph: Any = None
        self._members = torch.empty(0)
        self._prototypes: dict[str, Prototypes] = {}  # Made anew from the model in every epoch.

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is made anew: PyTorch copies no sparse matrices."""
        return self.__dict__ | {"_graph": None, "_members": torch.empty(0)}

    def end_fit(self) -> None:
        """Let go of the prototypes."""
        self._graph, self._members, self._prototypes = None, torch.empty(0), {}

    @property
    def views(self) -> Sequence[View]:
        """The full, the uni-modal and the empty view; the full view alone if ``alpha`` is zero."""
        return [self.view, *self._alone.values(), EMPTY] if self.alpha > 0 else [self.view]

    def begin_epoch(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> dict[EdgeType, Any]:
        """Make the prototypes of all users."""
        if self.alpha > 0:
            self._make_prototypes(features, graphs)
        return super().begin_epoch(features, graphs)

    @torch.no_grad()
    def _make_prototypes(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> None:
        with evaluating(self):
            views = [*self._alone.values(), EMPTY]
            out = dict(zip(views, self.student.outputs(features, graphs, views), strict=True))
        rows = self._content(out, torch.arange(self.student.num_items, device=self.steps.device))
        if graphs[RATES] is not self._graph:
            self._graph, like = graphs[RATES], next(iter(rows.values()))
            self._members = membership(self._graph, self.student.num_users, self.student.num_items, like)
        for m, own in rows.items():
            has = getattr(self, f"item_mask_{m}", None)
            there = own.new_ones(own.size(0), 1) if has is None else has.to(own.dtype).unsqueeze(-1)
            number = product(self._members, there)
            total = product(self._members, own * there)
            self._prototypes[m] = Prototypes(own, total, number)

    def loss(
        self,
        features: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Graph],
        batch: TripletBatch,
        n_id_dict: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss terms of a batch; prototypes that no epoch has made yet are made first."""
        if self.alpha > 0 and not self._prototypes:
            if n_id_dict is not None:
                raise InputError(
                    f"{self.name}: found a step on a subgraph before any epoch, expected begin_epoch(features, graphs) "
                    "with the whole graph first, of which prototypes are made"
                )
            self._make_prototypes(features, edge_index_dict)
        return super().loss(features, edge_index_dict, batch, n_id_dict)

    def _content(self, out: Mapping[View, Output], items: Tensor) -> dict[str, Tensor]:
        """Return what every modality adds to the rows of items, ``[B, D]`` each."""
        return {m: added_item_rows(out[view], out[EMPTY], items) for m, view in self._alone.items()}

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return the weighted losses of distances to prototypes."""
        if self.alpha == 0:
            return {}
        user, positive, negative = batch.user, batch.positive, batch.negative
        content = self._content(out, torch.cat([positive, negative]))
        margins, counted = {}, []
        for m, rows in content.items():
            own = self._prototypes[m]
            rest, number = own.without(self.users_in_whole(user), self.items_in_whole(positive))
            preferred, other = rows.chunk(2)
            margins[m] = similarity(preferred, rest) - similarity(other, rest)
            counted.append(number > 0)
        known, available = torch.stack(counted, dim=-1), self.available(positive, negative)
        known = known if available is None else known & available
        with torch.no_grad():
            counts = batch.gathered(known)
            score = masked_mean(batch.gathered(torch.stack(list(margins.values()), dim=-1).sigmoid()), counts)
            there = counts.any(dim=0)
            weights = rebalance_weights(torch.where(there, score, 0.5), self.hard, there)
            self.weight_sum += weights
            self.steps += 1
        losses = unimodal_losses(margins, known)
        return {f"prototype/{m}": self.alpha * b * losses[m] for m, b in zip(losses, weights.unbind(), strict=True)}

    def epoch_statistics(self) -> dict[str, float]:
        """Return the mean weight of every modality over the finished epoch."""
        mean = self.weight_sum / self.steps.clamp(min=1)
        self.weight_sum.zero_()
        self.steps.zero_()
        return {f"weight/{m}": b for m, b in zip(self.modalities, mean.tolist(), strict=True)}


class Prototypes(NamedTuple):
    """What the prototypes of all users in a modality are made of.

    Attributes:
        rows: Rows of all items ``[I, D]``.
        total: Sum of the rows of every user's items, ``[U, D]``.
        number: How many these are, ``[U, 1]``.
    """

    rows: Tensor
    total: Tensor
    number: Tensor

    def without(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean of users' items but one, ``[B, D]``, and how many these are, ``[B]``.

        Args:
            user: Users, int64 ``[B]``.
            item: For each of them the item that is left out, one of the user's own, int64 ``[B]``.
        """
        number = self.number[user] - 1
        return (self.total[user] - self.rows[item]) / number.clamp(min=1), number.squeeze(-1)


def membership(graph: Any, num_users: int, num_items: int, like: Tensor) -> Tensor:
    """Return the matrix of zeros and ones that says which items every user has, CSR ``[num_users, num_items]``.

    Args:
        graph: The interactions as an edge index ``[2, E]``, or a graph of users and items that was made of them.
        num_users: Number of users.
        num_items: Number of items.
        like: A tensor of the type and on the device of the matrix.
    """
    if isinstance(graph, Tensor):
        user, item = graph
    else:
        source, target = graph.edge_index
        chosen = (target < num_users) & (source >= num_users)
        user, item = target[chosen], source[chosen] - num_users
    key = torch.unique(pair_keys(user, item, num_items))
    user, item = key.div(num_items, rounding_mode="floor"), key % num_items
    crow = row_starts(torch.bincount(user, minlength=num_users))
    return csr_matrix(crow, item, torch.ones_like(item, dtype=like.dtype), num_users, num_items)


def similarity(rows: Tensor, prototypes: Tensor) -> Tensor:
    r"""Return :math:`- \| \mathbf{z} - \mathbf{c} \|` of rows and prototypes, of their shapes without the last.

    Args:
        rows: Rows ``[..., D]``.
        prototypes: Prototypes ``[..., D]`` of a shape that broadcasts.
    """
    return -torch.linalg.vector_norm(rows - prototypes, dim=-1)


def rebalance_weights(score: Tensor, hard: bool = False, known: Tensor | None = None) -> Tensor:
    r"""Return :math:`b_m`, positive for modalities that are behind, ``[M]``.

    Args:
        score: Scores :math:`S_m`, ``[M]``.
        hard: Whether weights are 0 and 1.
        known: Which modalities have a score, bool ``[M]``; the others are not compared and get 0. (default:
            :obj:`None`, all)
    """
    behind = discrepancy(score.reciprocal(), known) - 1
    return (behind > 0).to(score.dtype) if hard else behind.clamp(0, 1)
