"""MARGO: modalities weigh as much in a score as an item's triples show that they can be relied on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyg_ckd.arguments import as_integer
from pyg_ckd.balance.given import MaskedObjective
from pyg_ckd.balance.objective import check_not_negative
from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.data.mapped import file_of, row_blocks
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn.loss import mean_of_triples
from pyg_ckd.nn.models.base import AnyView, Backbone, Graph
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.views import EMPTY, View, as_view, unimodal_views

HIDDEN = -1e4
"""Logit of a modality that an item lacks: far below any other, and finite where an item lacks all."""


class ReliabilityObjective(MaskedObjective):
    r"""Learns how reliable each modality of an item is, and weighs its scores accordingly.

    MARGO of `"Modality Reliability Guided Multimodal Recommendation" <https://arxiv.org/abs/2504.16524>`_, for any
    backbone. With what modality :math:`m` alone adds to the ids in a score,
    :math:`a^m_{ui} = s_{ui}(\{m\}) - s_{ui}(\emptyset)`, minus its mean over items, a score is a sum over modalities
    with weights of the item,

    .. math::
        s_{ui} = s_{ui}(\emptyset) + \sum_m M w^m_i \left( a^m_{ui} - \underset{k}{\textrm{mean}} \; a^m_{uk} \right),
        \qquad w_i = \textrm{softmax}_m \left( \mathbf{v}_m^\top \mathbf{f}^m_i / \lVert \mathbf{f}^m_i \rVert_1 + b_m
        \right)

    With equal weights and a backbone that is additive over modalities, this is the score of the full view. The triples
    show how reliable a modality is: the larger its margin :math:`a^m_{uij} = a^m_{ui} - a^m_{uj}`, the better it
    satisfies BPR.

    .. math::
        z_{uij} &= \textrm{softmax}_m \max ( 0, a^m_{uij} ), \qquad c_{uij} = \sigma ( \max_m a^m_{uij} )

        \mathcal{L} &= \underset{uij}{\textrm{mean}} \; \ell(\delta_{uij}(\textrm{full})) + \lambda \, \mathcal{L}_2
        + \kappa \, \underset{uij}{\textrm{mean}} \; \ell(s_{ui} - s_{uj}) - \gamma \, \underset{uij}{\textrm{mean}} \;
        c_{uij} \sum_m z^m_{uij} \ln w^m_i

    The confidence :math:`c` reduces the weight of triples that no modality ranks correctly; :math:`z` and :math:`c`
    have no gradient. In a step, the mean over items is estimated by one random item for each triple: the negative of
    another triple, one that has the modality.

    The loss of weighed scores includes the penalty of the full view. Overrides ``views``, ``ranked``, ``balance``,
    ``forward_views`` and ``begin_epoch``. Costs the uni-modal views and the empty one, in steps and when ranking, and
    one weight per feature. Where an item lacks a modality, its weight is 0 and the others share it; in :math:`z`, both
    items must have it. The history shows the mean of :math:`M w^m_i` as ``weight/visual``.

    The paper's functions of margins are known only from summaries; the ones above are the simplest that fit. The paper
    trains in two stages, the second with weights; ``warmup`` is the length of the first. Features are divided by the
    sum of their sizes, so that a step of Adam changes a logit by no more than twice its learning rate.

    Args:
        student: The backbone to train, with at least two modalities.
        weight: Weight :math:`\kappa` of the BPR loss of the weighed scores.
        supervision: Weight :math:`\gamma` of the supervision by reliability.
        warmup: Epochs at the beginning without weights.
        l2: Weight :math:`\lambda` of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`.

    Raises:
        InputError: If there are fewer than two modalities, a number is negative or a mask does not fit.
    """

    name = "margo"
    capturable = True
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (0.01, 1.0), "supervision": (0.01, 1.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"weight": 0.0, "supervision": 0.0}
    needs_whole = ""
    batch_items = None  # A third item may be that of any triple.
    reports: ClassVar[Mapping[str, str]] = {
        "weight": "how far the modality is relied on, mean over the items of the epoch",
    }
    fusing: Tensor
    weight_sum: Tensor
    count: Tensor

    def __init__(
        self,
        student: Backbone,
        weight: float = 0.1,
        supervision: float = 0.1,
        warmup: int = 0,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, l2)
        check_not_negative("weight", weight)
        check_not_negative("supervision", supervision)
        self.weight, self.supervision, self.warmup = weight, supervision, as_integer(warmup, "warmup", 0)
        self.store_masks(has)
        self.check_views()
        self.gates = nn.ModuleDict({m: nn.Linear(d, 1) for m, d in student.feature_dims.items()})
        for parameter in self.gates.parameters():
            nn.init.zeros_(parameter)
        self.register_state("fusing", torch.tensor(False))
        self.register_state("weight_sum", torch.zeros(len(student.modalities), dtype=torch.float64))
        self.register_state("count", torch.zeros((), dtype=torch.int64))
        self._alone = unimodal_views(student.modalities)
        self._features: Mapping[str, Tensor] = {}

    @property
    def _weighs(self) -> bool:
        return (self.weight > 0 or self.supervision > 0) and self.progress.epoch > self.warmup

    def begin_epoch(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> dict[EdgeType, Any]:
        """Rank with weights from here on, if the warm-up is over."""
        self.fusing.fill_(self._weighs)
        return super().begin_epoch(features, graphs)

    @property
    def views(self) -> Sequence[View]:
        """The full, the uni-modal and the empty view; in the warm-up the full view alone."""
        return [self.view, *([*self._alone.values(), EMPTY] if self._weighs else [])]

    def loss(
        self,
        features: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Graph],
        batch: TripletBatch,
        n_id_dict: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss terms of a batch, as any objective."""
        self._features = features
        try:
            return super().loss(features, edge_index_dict, batch, n_id_dict)
        finally:
            self._features = {}

    def ranked(self, out: Mapping[View, Output]) -> Mapping[View, float]:
        """Return the weight of the loss of weighed scores, which are those of the full view."""
        return {self.view: self.weight} if EMPTY in out else {}

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return the loss of the weighed scores and the supervision of the weights."""
        if EMPTY not in out:
            return {}
        first, second = (torch.stack(side, dim=-1) for side in zip(*self._effects(out, batch), strict=True))
        logits, relative = zip(*(self._weights(self._features, items) for items in batch[1:3]), strict=True)
        base = out[EMPTY].margin(*batch[:3])
        fused = base + (relative[0] * first - relative[1] * second).sum(dim=-1)
        self.weight_sum += relative[0].detach().sum(dim=0)
        self.count += batch.user.numel()
        target, confidence = reliability(first - second, self.available(batch.positive, batch.negative))
        entropy = -(target * logits[0].log_softmax(dim=-1)).sum(dim=-1)
        terms = {"fused": mean_of_triples(F.softplus(-fused)), "reliability": mean_of_triples(confidence * entropy)}
        weights = {"fused": self.weight, "reliability": self.supervision}
        return {name: weights[name] * term for name, term in terms.items() if weights[name] > 0}

    def _effects(self, out: Mapping[View, Output], batch: TripletBatch) -> list[tuple[Tensor, Tensor]]:
        """Return for every modality what it adds to the scores of both items, less what it adds to that of a third."""
        negative, found = batch.whole.negative, []
        usual = batch.own(negative.roll(1))
        for m, view in self._alone.items():
            third, there = usual, None
            if m in self._masked:
                third, there = previous(negative, self.here(getattr(self, f"item_mask_{m}"), "item")[negative])
                third = batch.own(third)
            triples = [(batch.user, items, third) for items in (batch.positive, batch.negative)]
            sides = [
                own - ids for own, ids in zip(out[view].margins(*triples), out[EMPTY].margins(*triples), strict=True)
            ]
            sides = sides if there is None else [side * there for side in sides]
            found.append((sides[0], sides[1]))
        return found

    def _weights(
        self, features: Mapping[str, Tensor], items: Tensor | None, view: View | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of items' modalities ``[B, M]``, and weights whose sum is their number."""
        whole = None if items is None else self.items_in_whole(items)
        logits = torch.cat([_gated(gate, features[m], whole) for m, gate in self.gates.items()], dim=-1)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        number = torch.arange(self.student.num_items, device=logits.device) if items is None else items
        known = self.available(number, number)
        known = torch.ones_like(logits, dtype=torch.bool) if known is None else known
        if view is not None:
            known = known & torch.tensor([m in view for m in self.modalities], device=known.device)
        logits = logits.masked_fill(~known, HIDDEN)
        return logits, logits.softmax(dim=-1) * known * known.sum(dim=-1, keepdim=True)

    def forward_views(
        self,
        features: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Graph],
        views: Sequence[AnyView],
        **kw: Any,
    ) -> list[Embeddings]:
        """Return tables that score with weighed modalities; views of one modality or none are the student's."""
        chosen = [as_view(view, self.modalities) for view in views]
        fused = {view for view in chosen if len(view) > 1} if bool(self.fusing) else set()
        wanted = list(dict.fromkeys(view for view in chosen if view not in fused))
        parts = [self._alone[m] for m in self.modalities if any(m in view for view in fused)]
        wanted = list(dict.fromkeys([*wanted, *parts, *([EMPTY] if fused else [])]))
        tables = dict(zip(wanted, super().forward_views(features, edge_index_dict, wanted, **kw), strict=True))
        if fused:
            features, n_id_dict = self.student.as_parameters(features), kw.get("n_id_dict") or {}
            for view in fused:
                tables[view] = self._fused(tables, features, n_id_dict.get("item"), view)
        return [tables[view] for view in chosen]

    def _fused(
        self, tables: Mapping[View, Embeddings], features: Mapping[str, Tensor], number: Tensor | None, view: View
    ) -> Embeddings:
        user, item = tables[EMPTY]
        weights = self._weights(features, number, view)[1].to(item.dtype)
        number = torch.arange(item.size(0), device=item.device) if number is None else number
        known = self.available(number, number)
        share = torch.ones_like(weights) if known is None else known.to(weights.dtype)
        share = share / share.sum(dim=0).clamp(min=1)  # Means are over the items that have a modality.
        users, items = [user], [item - weights.sum(dim=-1, keepdim=True) * item + weights @ (share.t() @ item)]
        columns = zip(self.modalities, weights.split(1, dim=-1), share.split(1, dim=-1), strict=True)
        for m, weight, mean in columns:
            if m in view:
                user, item = tables[self._alone[m]]
                users.append(user)
                items.append(weight * (item - mean.t() @ item))
        return Embeddings(torch.cat(users, dim=1), torch.cat(items, dim=1))

    def epoch_sums(self) -> Sequence[Tensor]:
        """Return the sums of the weights over the triples of the epoch, and their number."""
        return self.weight_sum, self.count

    def epoch_statistics(self) -> dict[str, float]:
        """Return the mean weight of every modality over the epoch's positive items."""
        if not self._weighs:
            return {}
        mean = self.weight_sum / self.count.clamp(min=1)
        self.weight_sum.zero_()
        self.count.zero_()
        return {f"weight/{m}": w for m, w in zip(self.modalities, mean.tolist(), strict=True)}


def previous(items: Tensor, marked: Tensor) -> tuple[Tensor, Tensor]:
    """Return for every position the last marked item before it, going round.

    Args:
        items: The items ``[B]``.
        marked: Which are marked, bool ``[B]``.

    Returns:
        The items ``[B]``, any if none is marked, and whether one is, a scalar.
    """
    position = torch.arange(items.numel(), device=items.device).masked_fill(~marked, -1).cummax(dim=0).values
    last = position[-1:]
    before = torch.cat([last, position[:-1]])
    return items[torch.where(before < 0, last, before).clamp(min=0)], last >= 0


@torch.no_grad()
def reliability(margins: Tensor, available: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Return how reliable modalities are on triples, :math:`z = \textrm{softmax}_m \max(0, a_m)`, without gradient.

    Args:
        margins: What every modality alone adds to the margin of the ids, :math:`a_m`, ``[B, M]``.
        available: Which modalities the items of each triple have, bool ``[B, M]``. (default: :obj:`None`, all)

    Returns:
        :math:`z` ``[B, M]``, of sum 1 where there is any modality, and its confidence :math:`\sigma(\max_m a_m)`
        ``[B]``, which is 0 where there is none.
    """
    margins = margins.float() if margins.dtype in (torch.float16, torch.bfloat16) else margins
    if available is None:
        return margins.relu().softmax(dim=-1), margins.amax(dim=-1).sigmoid()
    target = margins.relu().masked_fill(~available, HIDDEN).softmax(dim=-1) * available
    return target, margins.masked_fill(~available, HIDDEN).amax(dim=-1).sigmoid()


def _gated(gate: nn.Module, x: Tensor, items: Tensor | None) -> Tensor:
    """Return the logits of items, or of all, ``[B, 1]``; of features in a file, rows are read, or blocks of rows."""
    weight = next(gate.parameters())

    def logits(rows: Tensor) -> Tensor:
        return gate(F.normalize(rows.to(weight), p=1.0))

    if items is not None:
        return logits(x.index_select(0, items.to(x.device)))
    return logits(x) if file_of(x) is None else torch.cat([logits(rows) for _, rows in row_blocks(x)])
