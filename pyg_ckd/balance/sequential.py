"""Unidirectional dynamic interaction (UDI): modalities learn one after the other from those before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyg_ckd.arguments import as_integer
from pyg_ckd.balance.attribution import RunningInformation
from pyg_ckd.balance.fusion import fuse, fused, logistic_weights, score_spread, user_weights
from pyg_ckd.balance.given import TaughtObjective, counted_weights
from pyg_ckd.balance.gradients import check_steerable, only
from pyg_ckd.balance.objective import check_not_negative, check_positive, total
from pyg_ckd.balance.progress import Score
from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import unknown_name
from pyg_ckd.nn.loss import contrastive_loss, ranking_cross_entropies
from pyg_ckd.nn.models.base import AnyView, Backbone, Graph
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.rows import score_matrix
from pyg_ckd.scoring.triples import Triples
from pyg_ckd.scoring.views import EMPTY, View, as_views, unimodal_views

CONSISTENCIES, FUSIONS = ("prediction", "contrast"), ("validation", "confidence")
SHORTEST = 1e-6
"""Profiles shorter than this have no direction to learn."""
CONTRAST_TEMPERATURE = 0.2


class UnidirectionalInteraction(TaughtObjective):
    r"""Trains modalities one after the other, without a joint loss; each learns from those before it.

    After `"Balanced Multimodal Learning: An Unidirectional Dynamic Interaction Perspective"
    <https://arxiv.org/abs/2509.02281>`_ (UDI). The frame is the paper's; no code is public, and the terms are built
    here to do what it describes. The *anchor* is the modality whose teacher ranks best on the validation part: trained
    alone, then frozen. All others follow in the order of their teachers, a stage each. Let :math:`t` be the mean margin
    of the modalities before: of the anchor's teacher and of the frozen views of earlier followers. Follower :math:`f`
    is trained with

    .. math::
        \mathcal{L}_f = \underset{uij}{\textrm{mean}} \; \ell(\delta_{uij}(\{f\})) + \lambda \, \mathcal{L}_2 + a \,
        \textrm{BCE} \big( \sigma ( \delta_{ujk}(\{f\}) / \tau ), \sigma ( t_{ujk} / \tau ) \big) + b \,
        \textrm{corr} \big( \delta_{uij}(\{f\}) - \delta_{uij}(\emptyset), t_{uij} \big)^2 .

    The first of the two further terms makes its predictions consistent with the anchor's, on random triples; the second
    makes it say what the anchor does not. The dynamic controller weighs them by the label information of the epoch
    before, :math:`I_f` of :math:`\delta(\{f\})` and :math:`I_t` of :math:`t`, both with the ids,

    .. math::
        a = \kappa \, (1 - I_f / I_t)_+, \qquad b = \kappa \, \min (1, I_f / I_t) :

    a follower learns from the anchor while it is behind, and to differ once it is level. With
    ``consistency="contrast"``, the first term is that of DI-MML (`"Detached and Interactive Multimodal Learning"
    <https://arxiv.org/abs/2407.19514>`_): which row of the anchor belongs to an item's row of the follower, one way and
    only in the dimensions that are effective for the anchor and not for the follower. Models that were trained apart
    share no axes, but users: a row holds the scores of the batch's users for the item, and a user is effective for a
    model that ranks the user's triple correctly.

    Only parameters of the follower are trained, with the first follower those that belong to no modality too. A stage
    ends after ``stage_patience`` evaluations without a better fused score. Where the view of a modality depends on
    others through their means, as in :class:`~pyg_ckd.nn.MMGCN`, what is frozen moves with these.

    Validation, test and serving rank with the sum of the scores of all modalities that have begun, each divided by its
    spread and weighted by the weights that rank the triples of the validation part best; with ``fusion="confidence"``,
    as DI-MML, weighted for every user by :math:`\textrm{softmax}_m (\max_i p^m_{ui} / T)`, with the probability
    :math:`p` of each of about a thousand items. A modality that a view intervenes on adds nothing there.

    Until the last follower has begun, the trainer does not stop early. With each stage, its patience and its choice of
    the best epoch begin anew, so that the epoch that is kept is the best one of the last stage that was reached. Where
    ``max_epochs`` ends a training before the last stage, ``history.stopped`` says so.

    Overrides ``views``, ``balance``, ``backward``, ``triple_weights``, ``before_training``, ``before_validation`` and
    ``forward_views``. Costs the follower's view and the empty one, later stages the views of earlier followers as well.

    Args:
        student: The backbone to train, with at least two modalities and parameters that belong to one alone.
        teachers: From modality to the teacher's embeddings, see :func:`~pyg_ckd.train_teachers`.
        sequential: Whether modalities are trained in sequence; if not, training and ranking are plain.
        strength: Strength :math:`\kappa` of both further terms.
        temperature: Temperature :math:`\tau` of the consistency of predictions.
        consistency: ``"prediction"`` or ``"contrast"``.
        fusion: ``"validation"`` or ``"confidence"``.
        confidence_temperature: Temperature :math:`T` of ``fusion="confidence"``.
        stage_patience: Evaluations without a better fused score after which the next follower begins.
        num_random_triples: Random triples per batch for the consistency of predictions.
        num_items: Positive items and users of a batch, at most, for the contrast.
        l2: Weight :math:`\lambda` of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`. Triples with an item that lacks the follower do not count, nor, in the
            further terms, those that lack a modality before.

    Raises:
        InputError: If there are fewer than two modalities, no parameter belongs to one alone, a teacher is missing or
            unknown or has other sizes than the student, a word is unknown, a number is out of its range or a mask does
            not fit; with three modalities or more, also if scores do not depend on parameters of each alone in every
            step, as those of :class:`~pyg_ckd.nn.FREEDOM`: from the second stage on, nothing else is trained.
    """

    name = "udi"
    capturable = True
    sampled = True
    needs_validation = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"strength": (0.01, 2.0), "temperature": (0.1, 5.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"sequential": False}
    needs_whole = ""
    batch_items = 0
    reports: ClassVar[Mapping[str, str]] = {
        "stage": "number of the stage, a modality each",
        "strength": "weight of a further term",
        "weight": "weight of the modality's scores in the last validation",
    }

    order: Tensor
    stage: Tensor
    began: Tensor
    strengths: Tensor
    weights: Tensor
    spread: Tensor

    def __init__(
        self,
        student: Backbone,
        teachers: Mapping[str, Embeddings],
        sequential: bool = True,
        strength: float = 0.1,
        temperature: float = 1.0,
        consistency: str = "prediction",
        fusion: str = "validation",
        confidence_temperature: float = 1.0,
        stage_patience: int = 5,
        num_random_triples: int = 5000,
        num_items: int = 512,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, l2)
        self.store_masks(has)
        self.store_teachers(teachers)
        if sequential:
            check_steerable(student, self.name, scores="steps" if len(student.modalities) > 2 else "")
            self.check_views()
        check_not_negative("strength", strength)
        check_positive("temperature", temperature)
        check_positive("confidence_temperature", confidence_temperature)
        for option, word, words in (("consistency", consistency, CONSISTENCIES), ("fusion", fusion, FUSIONS)):
            if word not in words:
                raise unknown_name(option, word, words)
        self.sequential, self.strength, self.temperature = sequential, strength, temperature
        self.consistency, self.fusion, self.confidence_temperature = consistency, fusion, confidence_temperature
        self.stage_patience = as_integer(stage_patience, "stage_patience", 1)
        self.num_items = as_integer(num_items, "num_items", 2)
        if sequential and strength > 0 and consistency == "contrast":
            self.needs_whole = "the scores of a batch's users"
        if sequential and strength > 0 and consistency == "prediction":
            self.num_random_triples = as_integer(num_random_triples, "num_random_triples", 1)
        num = len(self.modalities)
        self._alone = unimodal_views(self.modalities)
        self.information = RunningInformation(("follower", "before"))
        self.register_state("order", torch.arange(num))
        self.register_state("stage", torch.ones((), dtype=torch.int64))
        self.register_state("began", torch.zeros((), dtype=torch.int64))
        self.register_state("strengths", torch.tensor([strength, 0.0], dtype=torch.float64))
        self.register_state("weights", torch.ones(num, dtype=torch.float64))
        self.register_state("spread", torch.ones(num, dtype=torch.float64))
        self._begun, self._steered = self._look(), ""

    def _look(self) -> tuple[str, ...]:
        """Return the modalities that have begun, the anchor first; not in a step, for it reads from the device."""
        return tuple(self.modalities[n] for n in self.order[: int(self.stage) + 1].tolist())

    @property
    def follower(self) -> str:
        """The modality that the present stage trains."""
        return self._begun[-1]

    @property
    def stages_left(self) -> int:  # type: ignore[override]
        """Followers that are still to come."""
        return len(self.modalities) - len(self._begun) if self.sequential else 0

    @property
    def stage_of_best(self) -> int:  # type: ignore[override]
        """Number of the stage: scores of fewer modalities do not count any more."""
        return len(self._begun) - 1 if self.sequential else 0

    @property
    def views(self) -> Sequence[View]:
        """The follower's view, and what its further terms need: the empty one and those of earlier followers."""
        if not self.sequential:
            return [self.view]
        further = [EMPTY, *(self._alone[m] for m in self._begun[1:-1])] if self.strength > 0 else []
        return [self._alone[self.follower], *further]

    def before_training(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any], score: Score) -> None:
        """Put the modalities in the order of their teachers, the best first."""
        if self.sequential:
            value = {m: score(self.teacher(m)) for m in self.modalities}
            order = sorted(self.modalities, key=lambda m: (-value[m], m))
            self.order.copy_(torch.tensor([self.modalities.index(m) for m in order]))

    def begin_epoch(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> dict[EdgeType, Any]:
        """Begin the next stage if the present one has stalled, and weigh the further terms anew."""
        if self.sequential:
            stage, values = int(self.stage), self.progress.evaluations()
            own = values[int(self.began) :]
            stalled = bool(own) and len(own) - 1 - own.index(max(own)) >= self.stage_patience
            if stalled and stage + 1 < len(self.modalities):
                self.stage.fill_(stage + 1)
                self.began.fill_(len(values))
                self.information.label.fill_(torch.nan)
            self._begun = self._look()
            follower, before = self.information.label.nan_to_num(nan=0.0)
            self.strengths.copy_(controller(follower, before, self.strength))
        return super().begin_epoch(features, graphs)

    def triple_weights(self, out: Mapping[View, Output], batch: TripletBatch) -> Tensor | None:
        """Return zero for triples with an item that lacks the follower, and one number for all others."""
        known = self.available(*batch.whole[1:3]) if self.sequential else None
        return None if known is None else batch.own(counted_weights(known[:, self.modalities.index(self.follower)]))

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return the consistency with the modalities before and what makes the follower differ from them."""
        if not self.sequential:
            return {}
        training = (batch.user, batch.positive, batch.negative)
        random = (batch.random_user, batch.random_first, batch.random_second)
        triples = [training, random] if self.consistency == "prediction" and self.strength > 0 else [training]
        own = out[self._alone[self.follower]].margins(*triples)
        if self._steered != self.follower and len(self.modalities) > 2:  # With two, shared parameters are trained too.
            check_steerable(self.student, self.name, own[:1], modality=self.follower)
            self._steered = self.follower
        if self.strength == 0:
            return {}
        before = self._before(out, triples)
        known = self._known(batch.whole[:3])
        base = out[EMPTY].margin(*training)
        follower, added, other = (batch.gathered(x) for x in (own[0], own[0] - base, before[0]))
        seen = None if known is None else known.unsqueeze(-1).expand(-1, 2)
        self.information.track(torch.stack([follower, other], dim=-1), None, seen)
        if self.consistency == "prediction":
            each = ranking_cross_entropies(own[1], before[1], self.temperature)
            first = batch.mean_of_random(each, self._known(random))
        else:
            effective = (own[0] <= 0) & (before[0] > 0)
            first = self._contrast(out, batch, effective if known is None else effective & known)
        a, b = self.strengths.to(added.dtype)
        return {"consistency": a * first, "complement": b * squared_correlation(added, other, known)}

    @torch.no_grad()
    def _before(self, out: Mapping[View, Output], triples: Sequence[Triples]) -> list[Tensor]:
        """Return the mean margins of the modalities before the follower, for each list of triples."""
        anchor, *earlier = self._begun[:-1]
        margins = [self.teacher(anchor).margins(*triples)]
        margins += [out[self._alone[m]].margins(*triples) for m in earlier]
        return [torch.stack(found).mean(dim=0) for found in zip(*margins, strict=True)]

    def _known(self, triples: Triples) -> Tensor | None:
        return self.whole(self.available(*triples[1:]), frozenset(self._begun))

    def _contrast(self, out: Mapping[View, Output], batch: TripletBatch, effective: Tensor) -> Tensor:
        some = slice(self.num_items)
        users, items = batch.user[some], batch.positive[some]
        own = score_matrix(out[self._alone[self.follower]], users, items)
        with torch.no_grad():
            anchor, *earlier = self._begun[:-1]
            before = score_matrix(self.teacher(anchor), users, items)
            for m in earlier:
                before = before + score_matrix(out[self._alone[m]], users, items)
        known = self.whole(self.available(items, items), frozenset(self._begun))
        x, y = (_profiles(scores, effective[some], known) for scores in (own, before.to(own.dtype)))
        return contrastive_loss(x, y, CONTRAST_TEMPERATURE, items, known, SHORTEST)

    def backward(self, terms: Mapping[str, Tensor], run: Callable[..., None]) -> None:
        """Compute the gradients of the follower's parameters; with the first follower, those of shared ones too."""
        run(total(terms))
        if self.sequential:
            only(self.student, self.follower, shared=len(self._begun) == 2)

    def before_validation(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any], score: Score) -> None:
        """Measure the spread of the scores, and weigh them so that they rank the validation part best together."""
        if not self.sequential:
            return
        self._begun = self._look()
        tables = self._tables(super().forward_views(features, graphs, self._followers))
        triples = tuple(x.to(self.weights.device) for x in score.triples)
        columns = [self.modalities.index(m) for m in tables]
        self.spread[columns] = torch.stack([score_spread(own) for own in tables.values()]).to(self.spread)
        margins = torch.stack([own.margin(*triples).double() for own in tables.values()], dim=-1) / self.spread[columns]
        known = self.available(*triples[1:])
        if known is not None:
            margins = margins * known[:, columns]
        self.weights.zero_()
        self.weights[columns] = logistic_weights(margins).to(self.weights)

    @property
    def _followers(self) -> list[View]:
        return [self._alone[m] for m in self._begun[1:]]

    def _tables(self, followers: Sequence[Embeddings]) -> dict[str, Embeddings]:
        """Return the tables of all modalities that have begun."""
        return {self._begun[0]: self.teacher(self._begun[0])} | dict(zip(self._begun[1:], followers, strict=True))

    def forward_views(
        self,
        features: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Graph],
        views: Sequence[AnyView],
        **kw: Any,
    ) -> list[Embeddings]:
        """Return the fused tables of views; of a modality that has not begun, those of the student."""
        asked = as_views(views, self.modalities)
        if not self.sequential:
            return super().forward_views(features, edge_index_dict, views, **kw)
        self._begun = self._look()
        later = [view for view in asked if view and view.isdisjoint(self._begun)]
        needed = list(dict.fromkeys([*self._followers, *later]))
        out = dict(zip(needed, super().forward_views(features, edge_index_dict, needed, **kw), strict=True))
        tables = self._tables([out[view] for view in self._followers])
        return [out[view] if view in later else self._fused(view, tables) for view in asked]

    def _fused(self, view: View, tables: dict[str, Embeddings]) -> Embeddings:
        columns = [self.modalities.index(m) for m in tables]
        if self.fusion == "validation" or not view:
            return fused(tables, self.weights[columns], self.spread[columns], view)
        chosen = [m for m in tables if m in view]
        scale = [1 / self.spread[self.modalities.index(m)] for m in chosen]
        parts = [fuse([tables[m]], [factor]) for m, factor in zip(chosen, scale, strict=True)]
        return fuse(parts, user_weights(parts, lambda scores: confidence_weights(scores, self.confidence_temperature)))

    def epoch_statistics(self) -> dict[str, float]:
        """Return stage, weights of scores in the last validation and of the further terms, and start the next epoch."""
        if not self.sequential:
            return {}
        self.information.finish_epoch()
        names = ("strength/consistency", "strength/complement")
        shown = {"stage": float(self.stage)} | dict(zip(names, self.strengths.tolist(), strict=True))
        return shown | {f"weight/{m}": w for m, w in zip(self.modalities, self.weights.tolist(), strict=True)}


def controller(follower: Tensor, before: Tensor, strength: float) -> Tensor:
    """Return the weights of consistency and complement, ``[2]``, see :class:`UnidirectionalInteraction`.

    Args:
        follower: Label information of the follower, a scalar of zero or more.
        before: That of the modalities before it.
        strength: The largest weight.
    """
    level = torch.where(before > 0, follower / torch.where(before > 0, before, 1), (follower > 0).to(follower.dtype))
    return strength * torch.stack([(1 - level).clamp(min=0), level.clamp(max=1)])


def squared_correlation(x: Tensor, y: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return the squared correlation of two lists of numbers, a scalar with gradient; zero where one does not vary.

    Args:
        x: Numbers ``[B]``.
        y: Numbers ``[B]``.
        counted: Which count, bool ``[B]``. (default: :obj:`None`, all)
    """
    weight = torch.ones_like(x) if counted is None else counted.to(x.dtype)
    weight = weight / weight.sum().clamp(min=1)
    x, y = (z - (weight * z).sum() for z in (x, y.to(x.dtype)))
    scale = (weight * x.square()).sum() * (weight * y.square()).sum()
    return (weight * x * y).sum().square() / scale.clamp(min=torch.finfo(x.dtype).tiny)


def confidence_weights(logits: Tensor, temperature: float) -> Tensor:
    r"""Return weights that grow with the largest probability of a prediction, :math:`\textrm{softmax}_m(\max p / T)`.

    Args:
        logits: Logits of every modality, user and item, ``[M, B, C]``.
        temperature: Temperature :math:`T`.

    Returns:
        The weights ``[M, B]``.
    """
    return torch.softmax(logits.softmax(dim=-1).amax(dim=-1) / temperature, dim=0)


def _profiles(scores: Tensor, effective: Tensor, known: Tensor | None) -> Tensor:
    """Return for every item what the effective users think of it beside the other items, ``[C, B]``."""
    weight = torch.ones_like(scores[0]) if known is None else known.to(scores.dtype)
    mean = (scores * weight).sum(dim=1, keepdim=True) / weight.sum().clamp(min=1)
    return ((scores - mean) * effective.unsqueeze(1)).t()
