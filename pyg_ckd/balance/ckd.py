"""Counterfactual knowledge distillation as a wrapper around any backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_ckd.arguments import as_integer
from pyg_ckd.balance.attribution import ModalityEffectEstimator
from pyg_ckd.balance.given import TaughtObjective, check_features
from pyg_ckd.balance.numbers import check_positive
from pyg_ckd.balance.objective import Objective, check_not_negative
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn.loss import mean_of_triples, ranking_cross_entropies
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.embeddings import Embeddings, varying_columns
from pyg_ckd.scoring.rows import item_rows, table_margins
from pyg_ckd.scoring.triples import Triples
from pyg_ckd.scoring.views import EMPTY, View, counterfactual_views, leave_one_out_views, unimodal_views

EFFECT_BASES = ("paper", "id")
TARGETS = ("own", "best")


class DistillationWrapper(TaughtObjective):
    r"""Trains a student jointly while every modality alone keeps up with its uni-modal teacher.

    From `"Modality-Balanced Learning for Multimedia Recommendation" <https://arxiv.org/abs/2408.06360>`_. With student
    margins :math:`\delta(S)` in view :math:`S`, teacher margins :math:`t^m` and the weights :math:`w_m` of
    :class:`ModalityEffectEstimator`,

    .. math::
        \mathcal{L}_{spec}^m &= \max ( 0, t^m_{uij} - \delta_{uij}(\{m\}) )

        \mathcal{L}_{gen}^m &= \textrm{BCE} \left( \sigma ( \delta_{ujk}(\{m\}) / \tau ),
        \sigma ( t^m_{ujk} / \tau ) \right)

        \mathcal{L} &= \mathcal{L}_{BPR} + \lambda \, \mathcal{L}_2 + \kappa \, \underset{uij}{\textrm{mean}}
        \sum_m w_m \left( \mathcal{L}_{spec}^m + g \, \mathcal{L}_{gen}^m \right)

    The generic loss is a mean over random triples ``(u, j, k)`` of any user and any items.

    The margin of a uni-modal view includes the contribution of the ids, and so does the denominator of the effect in
    :math:`w_m`; in its numerator the ids cancel out. If ids make up most of a margin, the effects of all modalities are
    near zero and say little about the modalities. With ``effect_base="id"`` the margin of the empty view, in which
    every modality is intervened on, is subtracted from the denominator,

    .. math::
        e_m = \textrm{clamp} \left( \frac{\delta(\textrm{full}) - \delta(\textrm{full} \setminus m)}
        {\delta(\{m\}) - \delta(\emptyset)}, 10^{-8}, 10 \right),

    for one more view in every step. In a backbone that is additive over modalities, as :class:`~pyg_ckd.nn.VBPR`, all
    of these effects are 1, and so are all weights.

    With ``target="best"``, every modality learns on a triple from the teacher that is best on it, as in SAMM, `"Beyond
    Unimodal Learning: The Importance of Integrating Multiple Modalities for Lifelong Learning"
    <https://arxiv.org/abs/2405.02766>`_: :math:`t^m_{uij}` becomes :math:`\max_n t^n_{uij}`, and on random triples, of
    which no item is the right one, the margin :math:`t^n_{ujk}` of the largest size. SAMM also uses a stored prediction
    of the joint model as a target; here this would be the student's own, which a hinge loss would increase without
    limit.

    With ``rows_weight``, the item rows of uni-modal views are also pulled towards those of the teachers, like the
    features of encoders in UMT, `"On Uni-Modal Feature Learning in Supervised Multi-Modal Learning"
    <https://arxiv.org/abs/2305.01233>`_,

    .. math::
        \mathcal{L}_{row}^m = \tfrac{1}{2} \sum_{k \in \{i, j\}} \textrm{MSE} ( \mathbf{x}_k(\{m\}), \mathbf{t}^m_k ),

    in the columns that differ between items. Margins are the better target if both are possible: the embeddings of two
    equivalent models may differ by a rotation. UMT alone is ``specific=False, generic=False, reweight=False``; its
    weight is 10.

    Missing modalities are not distilled: if an item of a training triple lacks modality :math:`m`, :math:`w_m` is 0 and
    the other modalities share the weight, and random triples with such an item do not count for
    :math:`\mathcal{L}_{gen}^m`. Overrides ``views`` and ``balance``. Costs the uni-modal and the leave-one-out views,
    which for two modalities are the same, and random triples.

    Args:
        student: The backbone to train, with at least two modalities.
        teachers: From modality to the teacher's embeddings, see :func:`~pyg_ckd.train_teachers`. With :obj:`None` there
            are no teachers, and every uni-modal view learns from the interactions instead: its BPR loss replaces both
            distillation losses.
        distillation_weight: :math:`\kappa`.
        generic_weight: :math:`g`.
        temperature: :math:`\tau`.
        specific: Whether the specific loss is on.
        generic: Whether the generic loss is on.
        reweight: Whether losses are re-weighted by effects; if not, every weight is 1.
        num_random_triples: Random triples per batch for the generic loss.
        l2: Weight :math:`\lambda` of the backbone's penalty.
        log_eps: See :func:`~pyg_ckd.nn.ranking_cross_entropy`.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`.
        effect_base: What effects are relative to: ``"paper"``, the margin of the modality alone, or ``"id"``, that
            margin minus that of the ids.
        target: Whose margins a modality learns from: ``"own"``, its own teacher's, or ``"best"``, those of the teacher
            that is best on the triple.
        rows_weight: Weight of :math:`\mathcal{L}_{row}^m`, the distance of item rows from the teacher's.

    Raises:
        InputError: If there are fewer than two modalities, a teacher is missing or unknown or has other sizes than the
            student, nothing is left to distil, a mask does not fit, or a number is out of its range; at the first
            step, if rows are distilled and a teacher has rows of another width.
    """

    name = "ckd"
    needs_whole = ""
    batch_items = 0
    strategies = Objective.strategies
    sampled = True
    capturable = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"distillation_weight": (1e-3, 1.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"distillation_weight": 0.0, "generic": False}
    reports: ClassVar[Mapping[str, str]] = {
        "effect": "what the modality adds to the joint decision, relative to what it can do alone",
        "weight": "weight of what the modality learns from its teacher",
    }

    def __init__(
        self,
        student: Backbone,
        teachers: Mapping[str, Embeddings] | None,
        distillation_weight: float = 0.01,
        generic_weight: float = 5.0,
        temperature: float = 0.1,
        specific: bool = True,
        generic: bool = True,
        reweight: bool = True,
        num_random_triples: int = 5000,
        l2: float = 1e-2,
        log_eps: float = 0.0,
        has: Mapping[str, Tensor] | None = None,
        effect_base: str = "paper",
        target: str = "own",
        rows_weight: float = 0.0,
    ) -> None:
        super().__init__(student, l2)
        self.effects = ModalityEffectEstimator(student.modalities)
        weights = {"distillation_weight": distillation_weight, "generic_weight": generic_weight}
        for name, value in (weights | {"rows_weight": rows_weight, "log_eps": log_eps}).items():
            check_not_negative(name, value)
        check_positive("temperature", temperature)
        if effect_base not in EFFECT_BASES:
            raise unknown_name("effect_base", effect_base, EFFECT_BASES)
        if target not in TARGETS:
            raise unknown_name("target", target, TARGETS)
        if teachers is not None and not (specific or generic or rows_weight > 0):
            raise InputError(
                "distillation: specific and generic losses are both off, expected at least one of them, or rows_weight "
                "above zero"
            )
        if teachers is None and (target != "own" or rows_weight > 0):
            raise InputError(
                f"distillation: found target={target!r} and rows_weight={rows_weight} without teachers, expected "
                "teachers to learn from"
            )
        self.distillation_weight, self.generic_weight, self.temperature = (
            distillation_weight,
            generic_weight,
            temperature,
        )
        self.specific, self.generic, self.reweight, self.log_eps = specific, generic, reweight, log_eps
        self.effect_base, self.target, self.rows_weight = effect_base, target, rows_weight
        if rows_weight > 0:
            self.strategies = self.strategies - {"columns"}
        self._columns: dict[str, Tensor | None] = {}
        if teachers is not None:
            self.store_teachers(teachers)
            if generic:
                self.num_random_triples = as_integer(num_random_triples, "num_random_triples", 1)
        self.store_masks(has)
        check_features(self)
        self._alone = unimodal_views(student.modalities)
        self._without = leave_one_out_views(student.modalities)
        self._views = counterfactual_views(student.modalities, empty=effect_base == "id")

    @property
    def views(self) -> Sequence[View]:
        """Full, uni-modal and leave-one-out views, and with ``effect_base="id"`` the empty one, each once."""
        return self._views

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return the re-weighted distillation losses."""
        triples = self._lists(batch)
        random = triples[-1]
        alone = {m: self._read(out[view], triples) for m, view in self._alone.items()}
        margins = {m: alone[m][0] for m in self.modalities}
        weights = self._weights(out, margins, batch, self.available(batch.positive, batch.negative))
        scale = self.distillation_weight
        if not self.has_teachers:
            return {"unimodal": scale * _weighted(weights, [F.softplus(-margin) for margin in margins.values()])}
        teachers = {m: self.teacher(m).margins(*triples) for m in self.modalities}
        if self.target == "best":
            teachers = self._best(teachers, triples)
        terms = {}
        if self.specific:
            specific = [specific_loss(margins[m], teachers[m][0]) for m in self.modalities]
            terms["specific"] = scale * _weighted(weights, specific)
        if self.generic:
            tau, eps = self.temperature, self.log_eps
            known = self.available(*random[1:])
            columns = [None] * len(self.modalities) if known is None else known.unbind(dim=-1)
            generic = [
                batch.mean_of_random(ranking_cross_entropies(alone[m][1], teachers[m][1], tau, eps), column)
                for m, column in zip(self.modalities, columns, strict=True)
            ]
            terms["generic"] = scale * self.generic_weight * _weighted(weights, generic)
        if self.rows_weight > 0:
            rows = [self._row_gap(m, out[view], batch) for m, view in self._alone.items()]
            terms["rows"] = scale * self.rows_weight * _weighted(weights, rows)
        return terms

    def end_fit(self) -> None:
        """Let go of which columns the teachers have."""
        self._columns = {}

    def _lists(self, batch: TripletBatch) -> list[Triples]:
        """Return the training triples and, if they are distilled, the random ones."""
        training = (batch.user, batch.positive, batch.negative)
        random = (batch.random_user, batch.random_first, batch.random_second)
        return [training, random] if self.has_teachers and self.generic else [training]

    def read(self, out: Mapping[View, Output], batch: TripletBatch, features: Mapping[str, Tensor]) -> None:
        """Read uni-modal views and teachers, then the main loss, then without gradient what effects need beside."""
        triples = self._lists(batch)
        for view in self._alone.values():
            self._read(out[view], triples)
        self.read_teachers(triples)
        super().read(out, batch, features)
        with torch.no_grad():
            for view in self._views:
                self._read(out[view], triples[:1])

    def _read(self, out: Output, triples: Sequence[Triples]) -> list[Tensor]:
        """Return the margins of the student; beside teachers, as the teachers' tables have them."""
        return table_margins(out, *triples) if self.has_teachers else out.margins(*triples)

    def _best(
        self, teachers: Mapping[str, list[Tensor]], triples: Sequence[tuple[Tensor, Tensor, Tensor]]
    ) -> dict[str, list[Tensor]]:
        """Return for every modality the margins of the best teachers, on training triples and on random ones."""
        best = []
        for n, (_, first, second) in enumerate(triples):
            margins = torch.stack([own[n] for own in teachers.values()])
            score, known = margins if n == 0 else margins.abs(), self.available(first, second)
            score = score if known is None else score.masked_fill(~known.t(), -torch.inf)
            best.append(best_target(score, margins)[1])
        return dict.fromkeys(teachers, best)

    def _row_gap(self, modality: str, out: Output, batch: TripletBatch) -> Tensor:
        """Return how far the rows of a triple's items are from the teacher's, ``[B]``."""
        items, taught = torch.cat(batch[1:3]), self.teacher(modality).item
        rows = item_rows(out, items)
        if modality not in self._columns:
            self._columns[modality] = self._matching(modality, out, rows.size(1), taught.size(1))
        columns = self._columns[modality]
        rows = rows if columns is None else rows.index_select(1, columns)
        return (rows - taught.index_select(0, items)).square().mean(dim=1).view(2, batch.positive.numel()).mean(dim=0)

    @torch.no_grad()
    def _matching(self, modality: str, out: Output, width: int, wanted: int) -> Tensor | None:
        """Return which of the student's columns the teacher has, :obj:`None` if all; looked up in the first step."""
        if width == wanted:
            return None
        taught = self.teacher(modality).item  # Of all items, or of those of a subgraph.
        found = item_rows(out, torch.arange(taught.size(0), device=taught.device))
        columns = varying_columns(found).nonzero()[:, 0]
        if columns.numel() != wanted:
            raise InputError(
                f"rows_weight: found rows of width {columns.numel()} in the view of {modality!r} and {wanted} in its "
                "teacher, expected the same; train the teachers with the student's backbone and widths, or distil "
                "margins alone (rows_weight=0)"
            )
        return columns

    @torch.no_grad()
    def _weights(
        self, out: Mapping[View, Output], alone: Mapping[str, Tensor], batch: TripletBatch, available: Tensor | None
    ) -> Tensor:
        margins = {self._alone[m]: margin for m, margin in alone.items()}
        for view in self._views:
            if view not in margins:  # With two modalities, leaving one out is the other's uni-modal view.
                (margins[view],) = self._read(out[view], [(batch.user, batch.positive, batch.negative)])
        without = torch.stack([margins[self._without[m]] for m in self.modalities], dim=-1)
        base = margins[EMPTY] if self.effect_base == "id" else None
        effects = self.effects(margins[self.view], without, torch.stack(list(alone.values()), dim=-1), base)
        if self.reweight:
            weights = self.effects.weights(effects, available)
        else:
            weights = torch.ones_like(effects) if available is None else available.to(effects.dtype)
        self.effects.track(effects, weights)
        return weights

    def epoch_sums(self) -> Sequence[Tensor]:
        """Return the sums of effects and weights over the triples of the epoch."""
        return self.effects.sums

    def epoch_statistics(self) -> dict[str, float]:
        """Return mean effect and weight of every modality over the finished epoch."""
        return self.effects.finish_epoch()


def specific_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the hinge between teacher and student margin of every triple, zero where the teacher is overtaken.

    Args:
        student: Student margins ``[B]``.
        teacher: Teacher margins ``[B]``.
    """
    return (teacher - student).clamp(min=0)


def best_target(score: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return who is best on every triple, and what that one says.

    Args:
        score: How good each of several teachers is, ``[K, B]``.
        target: What each of them says, ``[K, B]`` or ``[K, B, C]``.

    Returns:
        The best, int64 ``[B]``, and its targets ``[B]`` or ``[B, C]``.
    """
    chosen = score.argmax(dim=0)
    return chosen, target[chosen, torch.arange(chosen.numel(), device=chosen.device)]


def _weighted(weights: Tensor, losses: Sequence[Tensor]) -> Tensor:
    """Return the mean over triples of the weighted sum over modalities; a loss is a vector ``[B]`` or a scalar."""
    return mean_of_triples((weights * torch.stack(list(losses), dim=-1)).sum(dim=-1))
