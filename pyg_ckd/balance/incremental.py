"""Incremental training: a new period of clicks, new users, items or modalities, without forgetting what was learnt."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyg_ckd.arguments import as_integer
from pyg_ckd.balance.ckd import best_target
from pyg_ckd.balance.given import MaskedObjective, added_rows_of
from pyg_ckd.balance.gradients import only
from pyg_ckd.balance.objective import check_not_negative
from pyg_ckd.balance.relational import distances, smooth_difference
from pyg_ckd.data.identity import Known
from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.data.modules import evaluating
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn.loss import first_of_each
from pyg_ckd.nn.models.base import Backbone, Graph
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.rows import added_item_rows, item_rows, table_margins
from pyg_ckd.scoring.views import EMPTY, View, unimodal_views

UNIMODAL_WEIGHT = 0.01
"""Published weight of the uni-modal margins in the rehearsal, relative to the joint one."""


class Incremental(MaskedObjective):
    r"""Trains an earlier model further, and preserves the relations between known items and earlier rankings.

    After `"Multi-modal Continual Learning via Cross-modality Adapters and Representation Alignment with Knowledge
    Preservation" <https://arxiv.org/abs/2511.06723>`_, and the rehearsal of `"Beyond Unimodal Learning: The Importance
    of Integrating Multiple Modalities for Lifelong Learning" <https://arxiv.org/abs/2405.02766>`_ (SAMM). The earlier
    model, ``start_from`` of :meth:`Trainer.fit <pyg_ckd.Trainer.fit>`, gives its parameters to the student, and its
    embeddings on its own graph are the targets of what is preserved. With the distances :math:`\psi(\mathbf{x})`
    between the rows of the positive items of a batch, relative to their mean, see
    :func:`~pyg_ckd.balance.relational.distances`, :math:`\mathbf{x}` the fused rows, :math:`\mathbf{x}^m` what modality
    :math:`m` adds to the empty view, and :math:`\mathbf{x}^\ast` the rows of the earlier model,

    .. math::
        \mathcal{L} = \mathcal{L}_{BPR} + \lambda \, \mathcal{L}_2
        + a \, \textrm{mean} \, h \big( \psi(\mathbf{x}) - \psi(\mathbf{x}^\ast) \big)
        + b \sum_m \textrm{mean} \, h \big( \psi(A_m \mathbf{x}^m) - \textrm{sg} \, \psi(\mathbf{x}) \big)
        + r \, \mathcal{L}_{rehearsal}

    with the smooth absolute value :math:`h` (quadratic up to one). **Preserved relations**, weight :math:`a`: of the
    items that the earlier model knows. **Alignment**, :math:`b`: adapters of every modality,

    .. math::
        A_m \mathbf{x} = \mathbf{x} + \sum_e \textrm{softmax}(\mathbf{R} \mathbf{x})_e \, \mathbf{W}^2_e \,
        \textrm{relu}(\mathbf{W}^1_e \mathbf{x})

    learn to predict from one modality which items are similar in the whole model, so that new items, which only have
    content, get useful positions. Experts that an earlier period relied on (a mean routing weight above :math:`1 / E`
    over the known items) are frozen, with their row of :math:`\mathbf{R}`, and stay so in all later periods; how much
    of the sum is theirs still moves with the rows of the others. **Rehearsal**, :math:`r`: random triples of known
    users and items, whose margins are kept. With the margin :math:`t` of the earlier model,

    .. math::
        \mathcal{L}_{rehearsal} = \textrm{mean} \Big( h \big( \delta(\textrm{full}) - t \big)
        + 0.01 \sum_m h \big( \delta(\{m\}) - t \big) \Big)

    or, with ``best``, the earlier margin of the view, joint or uni-modal, that now ranks the two items best in the
    order in which the earlier model has them.

    A **new modality** trains alone, its parameters and its adapter, in the first ``epochs_alone`` epochs; what is kept
    is then that of the view of the modalities there were.

    **The outputs of the earlier model** are computed once, before the first epoch, by its backbone on its own graph. Of
    a file, that graph is the recorded interactions with today's features of the users and items it knew; of a model,
    the graph given beside it or, while it is there and unchanged, the one that it was trained on. Where it cannot be
    had (an item has left the shop and only a file is given, or features are others), a warning says so, and a frozen
    copy of the student is read on the graph of today: the margins are then not quite the earlier ones where a backbone
    propagates over the graph or a modality is new.

    Without an earlier model, only the alignment is left. Overrides ``views``, ``balance``, ``backward``, ``prepare``,
    ``begin_epoch`` and ``begin_from``. Costs the uni-modal views and the empty one, one pass of the earlier model, and
    its tables of the joint and the uni-modal views in memory.

    No code of the first paper was found: functional forms and constants are those of this package. It aligns rows where
    this aligns relations, which needs no common width. SAMM stores samples of earlier tasks; here they are drawn anew
    in every step, since the earlier model ranks any two items; the smooth absolute value replaces the square, since
    margins have no fixed scale; and the target is the joint margin unless ``best`` says otherwise.

    Args:
        student: The backbone to train, with at least two modalities.
        preserve: Weight :math:`a` of the preserved relations.
        rehearsal: Weight :math:`r` of the rehearsal.
        alignment: Weight :math:`b` of the alignment.
        best: Whether the target of the rehearsal is the margin of the best view, as published; if not, the joint one.
        experts: Experts :math:`E` of an adapter.
        rank: Width inside an expert.
        epochs_alone: Epochs in which only new modalities are trained.
        num_items: Positive items of a batch, at most, whose relations are compared.
        num_random_triples: Triples of a rehearsal.
        l2: Weight :math:`\lambda` of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`. An item that lacks any modality is left out of the alignment.

    Raises:
        InputError: If there are fewer than two modalities, a number is out of its range or a mask does not fit.
    """

    name = "incremental"
    sampled = True
    takes_new_modalities = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"preserve": (0.1, 10.0), "rehearsal": (0.01, 1.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"alignment": 0.0}  # The rest asks for an earlier model.
    needs_whole = ""
    carried_buffers = ("frozen",)
    unchanging_state = ("previous",)

    def __init__(
        self,
        student: Backbone,
        preserve: float = 10.0,
        rehearsal: float = 0.1,
        alignment: float = 0.01,
        best: bool = False,
        experts: int = 4,
        rank: int = 8,
        epochs_alone: int = 1,
        num_items: int = 128,
        num_random_triples: int = 2048,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, l2)
        self.store_masks(has)
        self.check_views()
        for name, weight in (("preserve", preserve), ("rehearsal", rehearsal), ("alignment", alignment)):
            check_not_negative(name, weight)
        self.preserve, self.rehearsal, self.alignment, self.best = preserve, rehearsal, alignment, best
        self.experts, self.rank = as_integer(experts, "experts", 1), as_integer(rank, "rank", 1)
        self.epochs_alone = as_integer(epochs_alone, "epochs_alone", 0)
        self.num_items = as_integer(num_items, "num_items", 2)
        self._triples = as_integer(num_random_triples, "num_random_triples", 1)
        self._alone = unimodal_views(student.modalities)
        self.adapters = nn.ModuleDict()
        self.previous: Backbone | None = None
        self._known: Known | None = None
        self._kept: dict[View, Embeddings] = {}
        self._known_users = self._known_items = torch.empty(0, dtype=torch.bool)
        self._relied: dict[str, Tensor] = {}  # Rows of known items in the earlier model, until experts are frozen.

    @property
    def batch_items(self) -> int:  # type: ignore[override]
        """Positives of a batch that a step reads the rows of."""
        return self.num_items

    @property
    def views(self) -> Sequence[View]:
        """The full view, and the uni-modal and the empty ones as far as they are compared."""
        rehearses = self.rehearsal > 0 and self._known is not None
        alone = self._alone.values() if self.alignment > 0 or rehearses else ()
        return [self.view, *alone, *([EMPTY] if self.alignment > 0 else [])]

    def prepare(self, features: Mapping[str, Tensor], edge_index_dict: Mapping[EdgeType, Graph]) -> dict[EdgeType, Any]:
        """Prepare the graphs once, and make the adapters as wide as the rows of the modalities."""
        graphs = super().prepare(features, edge_index_dict)
        if self.alignment > 0 and not self.adapters:
            for m, row in added_rows_of(self.student, features, graphs, self._alone).items():
                self.adapters[m] = Adapter(row.size(1), self.experts, self.rank, m).to(row)
        return graphs

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Make the adapters that are stored and not there yet, before PyTorch copies them."""
        stored = {m: state_dict.get(f"{prefix}adapters.{m}.route") for m in self.modalities}
        whole = all(isinstance(value, Tensor) and value.dim() == 2 for value in stored.values())
        if whole and self.alignment > 0 and not self.adapters:
            device = next(self.student.parameters()).device
            for m, value in stored.items():
                assert value is not None
                self.adapters[m] = Adapter(value.size(1), self.experts, self.rank, m).to(device, value.dtype)
        if self.previous is None:  # What it was begun from is no state of its own.
            state_dict = {k: v for k, v in state_dict.items() if not k.startswith(f"{prefix}previous.")}
        super()._load_from_state_dict(state_dict, prefix, *args)

    def begin_from(self, known: Known) -> None:
        """Keep what the earlier model says on its own graph, or else a frozen copy of the student."""
        self._known, self._kept, self._relied = replace(known, earlier=None), {}, {}
        self.previous = None
        inputs = None if known.earlier is None else known.earlier()
        if inputs is None:
            self.previous = copy.deepcopy(self.student).requires_grad_(False)
        else:
            self._keep(*inputs)
        self.num_random_triples = self._triples if self.rehearsal > 0 else 0
        device = next(self.student.parameters()).device
        self._known_users, self._known_items = ((x >= 0).to(device) for x in (known.user, known.item))

    @torch.no_grad()
    def _keep(self, backbone: Backbone, features: Mapping[str, Tensor], edges: Mapping[EdgeType, Any]) -> None:
        """Keep the tables of a backbone on its own graph, in the rows of today; those of newcomers count nowhere."""
        assert self._known is not None
        views, sample = self._old_views, next(self.student.parameters())
        rows = [x.clamp(min=0).to(sample.device) for x in (self._known.user, self._known.item)]
        with evaluating(backbone):
            graphs = backbone.prepare(features, edges)
            for view, tables in zip(views, backbone.forward_views(features, graphs, views), strict=True):
                own = (x.to(sample).index_select(0, row) for x, row in zip(tables, rows, strict=True))
                self._kept[view] = Embeddings(*own)
        if self.alignment > 0:
            known = self._known.item[self._known.item >= 0].to(next(iter(features.values())).device)
            alone = {m: view for m, view in self._alone.items() if view in views}
            added = added_rows_of(backbone, features, graphs, alone, known)
            self._relied = {m: x.to(sample) for m, x in added.items()}

    @property
    def _old_views(self) -> list[View]:
        """The joint and the uni-modal views of the earlier model."""
        assert self._known is not None
        old = [m for m in self.modalities if m not in self._known.new_modalities]
        return list(dict.fromkeys([frozenset(old), *(self._alone[m] for m in old)]))

    def begin_epoch(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> dict[EdgeType, Any]:
        """Read what the earlier model says, if that is not known yet, and freeze the experts that it relied on."""
        if self.previous is not None and not self._kept:
            views = self._old_views
            with torch.no_grad():
                self.previous.eval()
                self._kept = dict(zip(views, self.previous.forward_views(features, graphs, views), strict=True))
            if self.alignment > 0:
                items = self._known_items.nonzero()[:, 0]
                alone = {m: view for m, view in self._alone.items() if view in views}
                self._relied = added_rows_of(self.previous, features, graphs, alone, items)
        if self.progress.epoch == 1:
            for m, rows in self._relied.items():
                adapter = self.adapters[m]
                assert isinstance(adapter, Adapter)
                adapter.freeze(rows)
        self._relied = {}
        self._move(next(self.student.parameters()).device)
        return super().begin_epoch(features, graphs)

    def end_fit(self) -> None:
        """Keep what the earlier model says in host memory."""
        self._move(torch.device("cpu"))

    def _move(self, device: torch.device) -> None:
        self._kept = {view: Embeddings(*(x.to(device) for x in tables)) for view, tables in self._kept.items()}
        self._relied = {m: rows.to(device) for m, rows in self._relied.items()}
        self._known_users, self._known_items = self._known_users.to(device), self._known_items.to(device)

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return the alignment, the preserved relations and the rehearsal, as far as they weigh anything."""
        items = batch.whole.positive[: self.num_items]
        once, terms = first_of_each(items), {}
        fused = item_rows(out[self.view], items)
        if self.alignment > 0:
            known = self.available(items, items)
            counted = once if known is None else once & known.all(dim=1)
            target = distances(fused.detach(), counted)
            for m, view in self._alone.items():
                rows = added_item_rows(out[view], out[EMPTY], items)
                rows = self.adapters[m](rows) if m in self.adapters else rows
                terms[f"alignment/{m}"] = self.alignment * smooth_difference(distances(rows, counted), target, counted)
        if self._known is None:
            return terms
        if self.preserve > 0:
            whole = self.items_in_whole(items)
            counted = once & self._known_items[whole]
            old = next(iter(self._kept.values())).item_rows(whole)
            relations = smooth_difference(distances(fused, counted), distances(old, counted), counted)
            terms["relations"] = self.preserve * relations
        if self.rehearsal > 0:
            terms["rehearsal"] = self.rehearsal * self._rehearse(out, batch)
        return terms

    def _rehearse(self, out: Mapping[View, Output], batch: TripletBatch) -> Tensor:
        triples = (batch.random_user, batch.random_first, batch.random_second)
        first, second = (self.items_in_whole(items) for items in triples[1:])
        whole = (self.users_in_whole(batch.random_user), first, second)
        counted = self._known_users[whole[0]] & self._known_items[first] & self._known_items[second]
        joint, *alone = self._old_views
        old = torch.stack([self._kept[view].margins(whole)[0] for view in (joint, *alone)])  # [1 + M, R]
        now = torch.stack([table_margins(out[view], triples)[0] for view in (self.view, *alone)])
        has = torch.ones_like(old, dtype=torch.bool)
        available = self.available(*triples[1:])
        if available is not None:
            columns = {self._alone[m]: column for m, column in zip(self.modalities, available.t(), strict=True)}
            has = torch.stack([has[0], *(columns[view] for view in alone)])
        target = old[0]
        if self.best:
            score = (now.detach() * old[0].sign()).masked_fill(~has, -torch.inf)
            target = best_target(score, old)[1]
        return rehearsal_loss(now, target, has & counted, batch)

    def backward(self, terms: Mapping[str, Tensor], run: Callable[..., None]) -> None:
        """Compute gradients; in the first epochs, only those of new modalities stay."""
        super().backward(terms, run)
        new = self._known.new_modalities if self._known is not None else ()
        if new and self.progress.epoch <= self.epochs_alone:
            only(self.student, new, shared=False)
            for m, adapter in self.adapters.items():
                if m not in new:
                    for p in adapter.parameters():
                        p.grad = None


class Adapter(nn.Module):
    r"""A mixture of experts beside the identity, which begins as the identity.

    Args:
        width: Width :math:`D` of the rows.
        experts: Number of experts :math:`E`.
        rank: Width inside an expert.
        name: Seeds the draw, so that it does not depend on the order in which adapters are made.
    """

    frozen: Tensor

    def __init__(self, width: int, experts: int, rank: int, name: str = "") -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))

        def draw(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) / max(width, 1) ** 0.5)

        self.route, self.down = draw(experts, width), draw(experts, rank, width)
        self.up = nn.Parameter(torch.zeros(experts, width, rank))
        self.register_buffer("frozen", torch.zeros(experts, dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        """Return the rows ``[B, D]`` adapted; frozen experts and their rows of the routing get no gradient."""
        route, down, up = (
            torch.where(self.frozen.view(-1, *[1] * (w.dim() - 1)), w.detach(), w).to(x.dtype)
            for w in (self.route, self.down, self.up)
        )
        share = F.linear(x, route).softmax(dim=-1)  # [B, E]
        inside = torch.einsum("bd,erd->ber", x, down).relu()
        return x + torch.einsum("be,ber,edr->bd", share, inside, up)

    @torch.no_grad()
    def freeze(self, x: Tensor) -> None:
        """Freeze the experts that have learnt something and to which more than their share of rows is routed.

        Those that are frozen already stay so.

        Args:
            x: Rows ``[B, D]``.
        """
        share = F.linear(x, self.route.to(x.dtype)).softmax(dim=-1).mean(dim=0)
        self.frozen |= (share > 1 / share.numel()) & (self.up != 0).flatten(1).any(dim=1)


def rehearsal_loss(margins: Tensor, target: Tensor, counted: Tensor, batch: TripletBatch) -> Tensor:
    """Return how far margins are from what they were, a scalar.

    Args:
        margins: Margins of the joint view and of the uni-modal ones, ``[1 + M, R]``.
        target: What all of them shall be, ``[R]``, used without gradient.
        counted: Which of them count, bool ``[1 + M, R]``.
        batch: The batch that the triples are of.
    """
    gap = F.smooth_l1_loss(margins, target.detach().expand_as(margins), reduction="none")
    each = batch.mean_of_random(gap, counted)
    return each[0] + UNIMODAL_WEIGHT * each[1:].sum()
