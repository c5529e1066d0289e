"""Unseen modality interaction: ranks with combinations of modalities that no item had in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from pyg_ckd.arguments import as_integer
from pyg_ckd.balance.contrast import check_widths
from pyg_ckd.balance.dropout import check_rate, draw_view
from pyg_ckd.balance.fusion import fuse
from pyg_ckd.balance.given import TaughtObjective
from pyg_ckd.balance.objective import check_not_negative, check_positive
from pyg_ckd.balance.prototype import membership
from pyg_ckd.data.identity import Known
from pyg_ckd.data.inputs import RATES, EdgeType
from pyg_ckd.data.modules import evaluating
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn.loss import first_of_each, l2_penalty, ranking_cross_entropies
from pyg_ckd.nn.models.base import AnyView, Backbone, Graph
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.rows import added_item_rows, blocks_of
from pyg_ckd.scoring.triples import Triples
from pyg_ckd.scoring.views import EMPTY, View, unimodal_views

COMPONENTS = 32
"""Directions of the interactions, at most, in which classes of items are found."""


class UnseenInteraction(TaughtObjective):
    r"""Trains random views, and a second branch that ranks items by their content alone, as teachers would.

    After `"Learning Unseen Modality Interaction" <https://arxiv.org/abs/2306.12795>`_: in training, items have some
    combinations of modalities; when they are ranked, they have others. Three parts of the paper, in terms of views:

    - *Summed common space*. Every step trains a random non-empty view :math:`S`: the modalities of a random item, each
      dropped with probability :math:`p`. An item's row in the common space is what the view adds to the empty one,
      :math:`\mathbf{z}_i(S) = \mathbf{x}_i(S) - \mathbf{x}_i(\emptyset)`.
    - *Dual branch*. Second users :math:`\mathbf{y}_u` score these rows, :math:`\delta'_{ujk}(S) = \mathbf{y}_u^\top
      (\mathbf{z}_j(S) - \mathbf{z}_k(S))`, and learn what the uni-modal teachers say of random triples. These
      pseudo-labels keep a modality from being more certain than it can be alone.
    - *Alignment*. The rows of every modality alone are drawn towards a learned vector :math:`\mathbf{v}` of the item's
      class :math:`c(i)`. A class is a group of items that the same users have met, see :func:`item_classes`.

    .. math::
        \mathcal{L} &= \underset{uij}{\textrm{mean}} \; \ell(\delta_{uij}(S)) + \lambda \, \mathcal{L}_2
        + a \, \underset{m \in S}{\textrm{mean}} \; \underset{ujk}{\textrm{mean}} \; \textrm{BCE} \big( \sigma (
        \delta'_{ujk}(S) / \tau ), \sigma ( t^m_{ujk} / \tau ) \big)

        &+ \lambda \, \underset{u}{\textrm{mean}} \; \tfrac{1}{2} \| \mathbf{y}_u \|^2 + b \sum_m
        \underset{i}{\textrm{mean}} \; \| \mathbf{z}_i(\{m\}) - \mathbf{v}_{c(i)} \|^2

    Validation, test and serving rank with the mean of both branches, :math:`\frac{1}{2} ( s_{ui}(S) +
    \mathbf{y}_u^\top \mathbf{z}_i(S) )`: tables of twice the width.

    Overrides ``views``, ``prepare``, ``balance``, ``begin_from`` and ``forward_views``. Costs the empty view, in steps
    and when ranking, and the uni-modal ones for the alignment. Second users are initialised as the student's users;
    :meth:`prepare` creates them and the classes from one forward pass. When an earlier model of this kind is trained
    further, known users keep their rows.

    Differs from the published code, which classifies clips: both branches there see the same tokens. Here, ids would
    let the second branch memorise every teacher, and items without ids would gain nothing, so it has no ids. There,
    classes are labels, learned by a softmax over a few thousand classes, with a factor of 3,000; here, preferences of
    users between two items are learned, with a factor of one.

    Args:
        student: The backbone to train, with at least two modalities.
        teachers: From modality to the teacher's embeddings, see :func:`~pyg_ckd.train_teachers`.
        rate: Probability :math:`p` with which a step drops a modality, at least 0 and below 1; never all are dropped.
        weight: Weight :math:`a` of the pseudo-labels; with 0 there is no second branch.
        temperature: Temperature :math:`\tau` of the pseudo-labels.
        alignment: Weight :math:`b` of the alignment; modalities' rows must then have one width.
        num_classes: Classes of items, at most.
        num_random_triples: Random triples per batch for the pseudo-labels.
        num_items: Positive items of a batch, at most, that are aligned.
        l2: Weight :math:`\lambda` of the backbone's penalty and of that of the second users.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`. Pseudo-labels count where both items have all modalities of
            the view, and an item counts for the alignment of those that it has.

    Raises:
        InputError: If there are fewer than two modalities, the backbone ignores features, a teacher is missing or
            unknown or has other sizes than the student, a number is out of its range or a mask does not fit; when
            training begins, if rows to be aligned differ in width.
    """

    name = "unseen"
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (0.1, 10.0), "temperature": (0.3, 3.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"rate": 0.0, "weight": 0.0, "alignment": 0.0}
    needs_whole = ""

    own_rows: Mapping[str, str] = {"second": "user", "centres": "class"}

    classes: Tensor
    _given: tuple[Mapping[str, Tensor], Mapping[EdgeType, Any]] | None = None

    def __init__(
        self,
        student: Backbone,
        teachers: Mapping[str, Embeddings],
        rate: float = 0.5,
        weight: float = 1.0,
        temperature: float = 1.0,
        alignment: float = 0.0,
        num_classes: int = 32,
        num_random_triples: int = 5000,
        num_items: int = 512,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, l2)
        self.store_masks(has)
        self.store_teachers(teachers)
        self.check_views()
        check_rate("rate", rate)
        check_not_negative("weight", weight)
        check_positive("temperature", temperature)
        check_not_negative("alignment", alignment)
        self.rate, self.weight, self.temperature, self.alignment = rate, weight, temperature, alignment
        self.num_classes = as_integer(num_classes, "num_classes", 1)
        self.num_items = as_integer(num_items, "num_items", 1)
        if weight > 0:
            self.num_random_triples = as_integer(num_random_triples, "num_random_triples", 1)
        self._alone = unimodal_views(self.modalities)
        self._had, self._share = self._combinations()
        self.second = nn.ParameterDict()  # From the number of a block to the second users' columns in it.
        self.centres = nn.ParameterDict()
        if alignment > 0:
            self.register_buffer("classes", torch.zeros(student.num_items, dtype=torch.int64))

    @property
    def batch_items(self) -> int:  # type: ignore[override]
        """Positives of a batch that a step reads the rows of."""
        return self.num_items if self.alignment > 0 else 0

    def _combinations(self) -> tuple[list[list[str]], Tensor]:
        """Return the combinations of modalities that items have, and how many have each, on the CPU."""
        names = sorted(self.modalities)  # Not in the order of the data, which must not decide about a result.
        every = torch.ones(self.student.num_items, dtype=torch.bool)
        columns = [getattr(self, f"item_mask_{m}").cpu() if m in self._masked else every for m in names]
        kinds, number = torch.stack(columns, dim=1).unique(dim=0, return_counts=True)
        some = kinds.any(dim=1)
        if not some.any():
            return [names], torch.ones(1)
        found = [[m for m, kept in zip(names, kind, strict=True) if kept] for kind in kinds[some].tolist()]
        return found, number[some].double()

    @property
    def views(self) -> Sequence[View]:
        """One view, drawn anew at every reading, the empty one, and those of one modality for the alignment."""
        drawn = self.view
        if self.rate > 0:
            had = self._had[int(torch.multinomial(self._share, 1))]
            drawn = draw_view(had, [self.rate] * len(had))
        alone = self._alone.values() if self.alignment > 0 else ()
        empty = [EMPTY] if self.weight > 0 or self.alignment > 0 else []
        return list(dict.fromkeys([drawn, *alone, *empty]))

    def prepare(self, features: Mapping[str, Tensor], edge_index_dict: Mapping[EdgeType, Graph]) -> dict[EdgeType, Any]:
        """Prepare the graphs once; the first time, make the second users and the classes of items."""
        graphs = super().prepare(features, edge_index_dict)
        if (self.weight > 0 and not self.second) or (self.alignment > 0 and not self.centres):
            self._begin(features, graphs)
            self._given = features, graphs
        return graphs

    def begin_from(self, known: Known) -> None:
        """Let the second users begin as the users that the student has by now."""
        super().begin_from(known)
        if self._given is not None:
            self._begin(*self._given)

    def begin_epoch(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> dict[EdgeType, Any]:
        """Begin an epoch, after which nothing begins anew."""
        self._given = None
        return super().begin_epoch(features, graphs)

    @torch.no_grad()
    def _begin(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> None:
        with evaluating(self.student):
            views = [self.view, *self._alone.values(), EMPTY]
            out = dict(zip(views, self.student.outputs(features, graphs, views), strict=True))
        if self.weight > 0:
            for n, block in enumerate(blocks_of(out[self.view])):
                if block.user is not None:
                    self.second[str(n)] = nn.Parameter(block.user.clone())
        if self.alignment > 0:
            some = torch.zeros(1, dtype=torch.int64, device=self.classes.device)
            rows = {m: added_item_rows(out[view], out[EMPTY], some) for m, view in self._alone.items()}
            check_widths(self, rows)
            row = next(iter(rows.values()))
            graph = membership(graphs[RATES], self.student.num_users, self.student.num_items, row)
            self.classes.copy_(item_classes(graph, self.num_classes))
            self.centres["all"] = nn.Parameter(row.new_zeros(self.num_classes, row.size(1)))

    def loss(
        self,
        features: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Graph],
        batch: TripletBatch,
        n_id_dict: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss terms of a batch; second users and classes that are not there yet are made first."""
        if n_id_dict is None:  # Before a step on a subgraph, the trainer has prepared the whole graph.
            self.prepare(features, edge_index_dict)
        return super().loss(features, edge_index_dict, batch, n_id_dict)

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return the loss of the second users by the pseudo-labels of the teachers, and the alignment."""
        terms = {}
        if self.weight > 0:
            terms["pseudo"] = self.weight * self._pseudo(out, batch)
            users = self.users_in_whole(batch.user)
            rows = [table.index_select(0, users) for table in self.second.values()]
            terms["second"] = self.l2 * l2_penalty(torch.cat(rows, dim=1))
        if self.alignment > 0:
            terms["alignment"] = self.alignment * self._aligned(out, batch)
        return terms

    def _pseudo(self, out: Mapping[View, Output], batch: TripletBatch) -> Tensor:
        view, triples = next(iter(out)), (batch.random_user, batch.random_first, batch.random_second)
        margin = self._second_margin(out[view], out[EMPTY], triples)
        known = self.whole(self.available(*triples[1:]), view)
        losses = [
            ranking_cross_entropies(margin, self.teacher(m).margin(*triples), self.temperature)
            for m in self.modalities
            if m in view
        ]
        return torch.stack([batch.mean_of_random(loss, known) for loss in losses]).mean()

    def _second_margin(self, out: Output, base: Output, triples: Triples) -> Tensor:
        """Return the margins of the second users on what a view adds to the empty one, ``[B]``."""
        parts = []
        for n, (own, other) in enumerate(zip(blocks_of(out), blocks_of(base), strict=True)):
            if own is not other and str(n) in self.second:
                users = self.here(self.second[str(n)], "user")
                parts += [
                    sign * x.with_users(users).margins(triples)[0]
                    for sign, x in ((1, own), (-1, other))
                    if not x.constant
                ]
        return torch.stack(parts).sum(dim=0) if parts else out.margin(*triples) * 0

    def _aligned(self, out: Mapping[View, Output], batch: TripletBatch) -> Tensor:
        items = batch.whole.positive[: self.num_items]
        once, known = first_of_each(items), self.available(items, items)
        centre = self.centres["all"].index_select(0, self.classes[self.items_in_whole(items)])
        total = []
        for n, view in enumerate(self._alone.values()):
            gap = (added_item_rows(out[view], out[EMPTY], items) - centre).square().sum(dim=1)
            counted = once if known is None else once & known[:, n]
            total.append((gap * counted).sum() / counted.sum().clamp(min=1))
        return torch.stack(total).sum()

    def forward_views(
        self,
        features: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Graph],
        views: Sequence[AnyView],
        **kw: Any,
    ) -> list[Embeddings]:
        """Return tables that score with the mean of both branches."""
        if not self.second:
            return super().forward_views(features, edge_index_dict, views, **kw)
        *tables, empty = super().forward_views(features, edge_index_dict, [*views, EMPTY], **kw)
        second = self._second_users(empty.user.size(1)).to(empty.user.dtype)
        rows = (kw.get("n_id_dict") or {}).get("user")
        second = second if rows is None else second.index_select(0, rows)
        half = second.new_full((), 0.5)
        return [fuse([own, Embeddings(second, own.item - empty.item)], [half, half]) for own in tables]

    def _second_users(self, width: int) -> Tensor:
        """Return the second users' columns ``[num_users, width]``; in those of a bias ones."""
        tables = list(self.second.values())
        blocks = len(tables) + width - sum(table.size(1) for table in tables)  # A bias has one column.
        ones = tables[0].new_ones(tables[0].size(0), 1)
        return torch.cat([self.second.get(str(n), ones) for n in range(blocks)], dim=1)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Make second users and vectors of classes that are stored and not there yet, before PyTorch copies them."""
        device = next(self.student.parameters()).device
        for part, own, weight in (("second", self.second, self.weight), ("centres", self.centres, self.alignment)):
            start = f"{prefix}{part}."
            for name, value in state_dict.items():
                key = name.removeprefix(start)
                if weight > 0 and name.startswith(start) and key not in own and isinstance(value, Tensor):
                    own[key] = nn.Parameter(torch.empty_like(value, device=device))
        super()._load_from_state_dict(state_dict, prefix, *args)


def item_classes(graph: Tensor, num_classes: int, seed: int = 0) -> Tensor:
    """Return a class of every item, such that items of a class have been met by the same users, int64 ``[num_items]``.

    Classes are clusters (k-means) of the directions of items in the leading components of the interactions, in which a
    user weighs the less the more items the user has met. Items without interactions are in one class with each other.

    Args:
        graph: Interactions as zeros and ones, CSR ``[num_users, num_items]``.
        num_classes: Number of classes; there are fewer where fewer items differ.
        seed: Seeds both algorithms.
    """
    from sklearn.cluster import KMeans
    from sklearn.utils.extmath import randomized_svd

    graph = graph.cpu()
    values, columns, starts = (x.numpy() for x in (graph.values().double(), graph.col_indices(), graph.crow_indices()))
    weight = values / np.sqrt(np.repeat(np.diff(starts), np.diff(starts)))
    items = csr_array((weight, columns, starts), shape=tuple(graph.shape)).T.tocsr()
    left, scale, _ = randomized_svd(items, min(COMPONENTS, *items.shape), random_state=seed)
    rows = left * scale
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    different = min(num_classes, np.unique(rows.round(6), axis=0).shape[0])
    found = KMeans(different, n_init=4, random_state=seed).fit_predict(rows)
    return torch.from_numpy(found.astype(np.int64))
