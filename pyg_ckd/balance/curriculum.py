"""Curricula: which triples and which modalities count while a training goes on, around any objective."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_ckd.arguments import as_integer, as_names, as_number
from pyg_ckd.balance.attribution import shapley_values
from pyg_ckd.balance.given import MaskedObjective
from pyg_ckd.balance.objective import Objective, check_not_negative
from pyg_ckd.balance.wrapper import ObjectiveWrapper
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn.loss import mean_of_triples
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.views import EMPTY, View, counterfactual_views, unimodal_views

STAGES = ("easy", "medium", "hard")
ALL_WRONG = 0.25
"""Weight of what is never right in the last stage, as published."""
FEWEST_RIGHT = 1 / 16
"""Least accuracy above zero that 16 answers can show, as many as the published code takes."""
MOMENTUM = 0.9
"""Share of the past in running means over steps."""
ROUNDING = 1e-12
"""Variances that are smaller relative to the mean square are rounding alone."""
LEAST_GATE, SMALL = 0.1, 1e-2
"""Least gate of a modality, and what keeps improvements from being zero under a logarithm."""


class DifficultyCurriculum(ObjectiveWrapper):
    r"""Weighs triples by their current difficulty, from easy to hard in three stages, around any objective.

    The online difficulty soft weighting of `"VL-Cogito: Progressive Curriculum Reinforcement Learning for Advanced
    Multimodal Reasoning" <https://arxiv.org/abs/2507.22607>`_. The accuracy of a triple, which is a share of right
    answers there, is the confidence of the model here, :math:`A = \sigma(\delta_{uij} / \tau)` in the trained view.
    With :math:`s = \sin(\pi A)`, which is largest for uncertain triples, its weight in the main loss is

    ======== ================= ================= =======================
    stage    :math:`A \le 1/2` :math:`A > 1/2`   :math:`A = 0`
    ======== ================= ================= =======================
    easy     :math:`s`         1                 0
    medium   :math:`s`         :math:`s`         0
    hard     1                 :math:`s`         0.25
    ======== ================= ================= =======================

    divided by the mean over the batch. No accuracy is exactly zero here: one below ``never_right`` counts as zero,
    which by default is :math:`\delta < -2.7 \tau`. Such a triple, often noise in implicit feedback, counts only in the
    last stage, and there least of all that the model gets wrong. It is detected from the current margin, not from
    earlier epochs, because a batch does not tell which interactions of the training data it holds. A stage ends after
    ``patience`` evaluations without a better value of the monitored metric, or after ``stage_epochs``; the last one
    lasts to the end. Until it has begun, the trainer does not stop early, and with each stage its patience begins anew;
    the best epoch may be one of any stage. The gradient of the BPR loss alone, in which hard triples weigh more, is a
    curriculum already: compare with plain training.

    Overrides ``weigh``. Costs no further view. The published code calls the easy stage the third; its reward for the
    length of an answer has no meaning here. Terms that the objective inside adds are not weighed.

    Args:
        student: The backbone to train, with at least two modalities, or an objective around one.
        inner: Name or import path of the strategy inside, where the first argument is a backbone.
        inner_options: Options of that strategy, such as ``{"distillation_weight": 0.1}``.
        temperature: Temperature :math:`\tau`; the larger, the more alike the weights; infinite, all are one.
        stages: The stages in order, of ``"easy"``, ``"medium"`` and ``"hard"``.
        patience: Evaluations without a better value after which a stage ends.
        stage_epochs: Epochs after which a stage ends, whatever the evaluations say. (default: :obj:`None`, by
            ``patience``, which needs a validation part)
        binary: Whether weights are 0 or 1: easy from 1/2, medium from 1/4 to 3/4, hard above 0 up to 1/2.
        never_right: Accuracy below which a triple counts as one that the model never gets right, from 0, where none
            does, to 1/2. Of 16 answers, as many as the published code takes, one that is right makes 1/16.
        teachers: Teachers of the strategy inside, if it needs any and is built here.
        has: For the strategy inside, if it is built here, which items have modalities that some lack, bool
            ``[num_items]``; see :func:`~pyg_ckd.data.item_masks`.

    Raises:
        InputError: If there are fewer than two modalities, the strategy inside cannot be built or trains nothing, a
            stage is unknown, a number out of its range, or teachers or masks are given beside an objective.
    """

    name = "odsw"
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"temperature": (0.1, 10.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"temperature": math.inf}
    needs_whole = ""
    batch_items = 0
    reports: ClassVar[Mapping[str, str]] = {"stage": "stage of the curriculum: 1 easy, 2 medium, 3 hard"}

    def __init__(
        self,
        student: Backbone | Objective,
        inner: str = "plain",
        inner_options: dict[str, Any] | None = None,
        temperature: float = 1.0,
        stages: Sequence[str] = STAGES,
        patience: int = 5,
        stage_epochs: int | None = None,
        binary: bool = False,
        never_right: float = FEWEST_RIGHT,
        teachers: Mapping[str, Embeddings] | None = None,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, inner, inner_options, teachers, has)
        if not temperature > 0:
            raise InputError(f"temperature: found {temperature}, expected a positive number, or infinity")
        self.temperature, self.stages, self.binary = temperature, as_names(stages, "stages"), binary
        if not self.stages:
            raise InputError(f"stages: found none, expected at least one of {', '.join(STAGES)}")
        for stage in self.stages:
            if stage not in STAGES:
                raise unknown_name("stage", stage, STAGES)
        self.patience = as_integer(patience, "patience", 1)
        if not 0 <= as_number(never_right, "never_right") <= 0.5:
            raise InputError(f"never_right: found {never_right}, expected an accuracy from 0 to 0.5")
        self.never_right = never_right
        self.stage_epochs = None if stage_epochs is None else as_integer(stage_epochs, "stage_epochs", 1)
        if stage_epochs is None and math.isfinite(temperature):
            self.in_place_of_validation = "" if self.needs_validation else "stage_epochs"
            self.needs_validation = True
        self.stage, self._number = self.stages[0], 0

    @property
    def stages_left(self) -> int:  # type: ignore[override]
        """Stages that are still to come, with those of the objective inside."""
        own = 0 if math.isinf(self.temperature) else len(self.stages) - 1 - self._number
        return own + self.inner.stages_left

    def begin(self) -> None:
        """Find out which stage the epoch belongs to."""
        if self.stage_epochs is None:
            number = stalled_stages(self.progress.evaluations(), self.patience)
        else:
            number = (self.progress.epoch - 1) // self.stage_epochs
        self._number = min(number, len(self.stages) - 1)
        self.stage = self.stages[self._number]

    def weigh(self, out: Mapping[View, Output], batch: TripletBatch) -> Tensor | None:
        """Return the weight of every triple in the present stage."""
        if math.isinf(self.temperature):
            return None
        joint = next(iter(out.values()))
        margin = joint.margin(batch.user, batch.positive, batch.negative)  # With gradient: the loss reads the same.
        with torch.no_grad():
            accuracy = torch.sigmoid(margin / self.temperature)
            above = accuracy.clamp(min=torch.finfo(accuracy.dtype).tiny)  # Rounding must not decide what is zero.
            weights = difficulty_weights(torch.where(accuracy < self.never_right, 0, above), self.stage, self.binary)
            mean = batch.gathered(weights).mean()
            return torch.where(mean > 0, weights / torch.where(mean > 0, mean, 1), 1.0)

    def statistics(self) -> dict[str, float]:
        """Return the number of the stage, counted from 1 in the order of easy, medium and hard."""
        return {"stage": float(STAGES.index(self.stage) + 1)}


class DynamicCurriculum(ObjectiveWrapper, MaskedObjective):
    r"""Weighs triples from easy to hard, and trains a joint decision in which lagging modalities count more.

    After `"DynCIM: Dynamic Curriculum for Imbalanced Multimodal Learning" <https://arxiv.org/abs/2503.06456>`_, whose
    code is not public; the signals are the paper's, the functional forms are built here. The difficulty of a triple,
    with :math:`p(S) = \sigma(\delta(S))` and the binary entropy :math:`h`, is

    .. math::
        E_1 = \ell(\delta(\textrm{full})) + \underset{m}{\textrm{mean}} \, \ell(\delta(\{m\})), \qquad
        E_2 = \underset{m}{\textrm{mean}} \, ( p(\{m\}) - p(\textrm{full}) )^2, \qquad E_3 = h ( p(\textrm{full}) ),

    deviation, inconsistency and instability. Each is divided by its running mean, and
    :math:`E = \sum_k a_k E_k` with shares :math:`a_k` of their volatility, the running deviation of the batch means. It
    is divided by the running mean as well, so that the unit of a signal decides nothing. With the pace :math:`\rho`,
    which goes from 0 to 1 in ``pace_epochs``, the weights of the main loss are
    :math:`w = B \, \textrm{softmax}_{uij} ( -(1 - 2 \rho) E )`: easy triples first, all alike half-way, hard ones at
    the end.

    Modalities are compared once per epoch, with the mean losses :math:`L` and :math:`L_m` of full and uni-modal views
    and relative improvements :math:`\Delta_m` since the epoch before. The geometric mean ratio and the harmonic mean
    improvement rate

    .. math::
        \textrm{GMR} = \Big( \prod_m L_m / L \Big)^{1 / M}, \qquad
        \textrm{HMIR} = \frac{M}{\sum_m 1 / (\Delta_m + \epsilon)}, \qquad \eta = \sigma ( \ln \textrm{GMR} )

    say what fusion gains over all and how evenly modalities improve; the gate

    .. math::
        g_m = \kappa + (1 - \kappa) \, M \, \textrm{softmax}_m \Big( \eta \ln \frac{L}{L_m} + (1 - \eta)
        \ln \frac{\Delta_m + \epsilon}{\textrm{HMIR} + \epsilon} \Big), \qquad \kappa = 0.1,

    opens for modalities that rank well, or improve more than the others. Gates have a mean of one, and none is below
    :math:`\kappa`. With the Shapley values :math:`\phi_m` of a margin, the gated decision
    :math:`\delta(\emptyset) + \sum_m g_m \phi_m` is trained beside the main loss with weight :math:`\gamma`. The
    published gate acts in the fusion of the model as well; here a wrapper leaves the ranking to what it wraps.

    Overrides ``further_views``, ``weigh`` and ``add_terms``. Costs the uni-modal views, for the gate the leave-one-out
    views and the empty one as well. Terms that the objective inside adds are not weighed.

    Args:
        student: The backbone to train, with at least two modalities, or an objective around one.
        inner: Name or import path of the strategy inside, where the first argument is a backbone.
        inner_options: Options of that strategy, such as ``{"distillation_weight": 0.1}``.
        samples: Whether triples are weighed.
        gate_weight: Weight :math:`\gamma` of the gated decision.
        pace_epochs: Epochs from the easiest triples to the hardest.
        teachers: Teachers of the strategy inside, if it needs any.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`. A triple with an item that lacks any modality is left out of the gated
            decision, and modalities that it lacks of its difficulty. (default: :obj:`None`, the masks of the objective
            inside)

    Raises:
        InputError: If there are fewer than two modalities, the strategy inside cannot be built or trains nothing, a
            number is out of its range, a mask does not fit or is another than that inside, or teachers are given beside
            an objective.
    """

    name = "dyncim"
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"gate_weight": (0.01, 1.0), "pace_epochs": (10, 200)}
    neutral: ClassVar[Mapping[str, Any]] = {"samples": False, "gate_weight": 0.0}
    needs_whole = ""
    batch_items = 0
    reports: ClassVar[Mapping[str, str]] = {
        "pace": "how far the curriculum is, from 0 to 1",
        "share": "share of a signal in the difficulty of triples",
        "gate": "weight of the modality in the gated decision",
    }

    means: Tensor
    volatility: Tensor
    steps: Tensor
    sums: Tensor
    losses: Tensor
    gates: Tensor

    def __init__(
        self,
        student: Backbone | Objective,
        inner: str = "plain",
        inner_options: dict[str, Any] | None = None,
        samples: bool = True,
        gate_weight: float = 0.1,
        pace_epochs: int = 50,
        teachers: Mapping[str, Embeddings] | None = None,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, inner, inner_options, teachers, has)
        check_not_negative("gate_weight", gate_weight)
        self.samples, self.gate_weight = samples, gate_weight
        self.pace_epochs = as_integer(pace_epochs, "pace_epochs", 1)
        self.share_masks(self.inner, has)
        if samples or gate_weight > 0:
            self.check_views()
        num = len(self.modalities)
        self._alone = unimodal_views(self.modalities)
        double = torch.float64
        self.register_state("means", torch.zeros(2, 3, dtype=double))
        self.register_state("volatility", torch.ones(3, dtype=double))
        self.register_state("steps", torch.zeros((), dtype=double))
        self.register_state("sums", torch.zeros(2, num + 1, dtype=double))
        self.register_state("losses", torch.zeros(num + 1, dtype=double))
        self.register_state("gates", torch.ones(num, dtype=double))

    @property
    def pace(self) -> float:
        """How far the curriculum is, from 0 to 1."""
        return min(1.0, (self.progress.epoch - 1) / self.pace_epochs)

    def further_views(self) -> Sequence[View]:
        """Return the full and the uni-modal views, and for the gate all that Shapley values are made of."""
        if self.gate_weight > 0:
            return counterfactual_views(self.modalities, empty=True)
        return [frozenset(self.modalities), *self._alone.values()] if self.samples else []

    def weigh(self, out: Mapping[View, Output], batch: TripletBatch) -> Tensor | None:
        """Return the weight of every triple at the present pace."""
        if not self.samples:
            return None
        with torch.no_grad():
            full, alone, known = self._margins(out, batch)
            signals = batch.gathered(difficulty_signals(full, alone, known))
            difficulty = (signals / self._running(signals) * self._shares()).sum(dim=-1)
            weights = torch.softmax(-(1 - 2 * self.pace) * difficulty, dim=0) * difficulty.numel()
            return batch.own(weights.to(full.dtype))

    def _running(self, signals: Tensor) -> Tensor:
        """Return the running means of the signals, this batch among them, and keep how they vary."""
        mean = signals.mean(dim=0)
        self.steps += 1
        self.means.mul_(MOMENTUM).add_((1 - MOMENTUM) * torch.stack([mean, mean.square()]))
        running = self.means / (1 - MOMENTUM**self.steps)
        variance = running[1] - running[0].square()
        level = running[0].clamp(min=torch.finfo(running.dtype).tiny)
        self.volatility.copy_(torch.where(variance > ROUNDING * running[1], variance, 0).sqrt() / level)
        return level

    def _shares(self) -> Tensor:
        total = self.volatility.sum()
        return torch.where(total > 0, self.volatility / torch.where(total > 0, total, 1), 1 / 3)

    def add_terms(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return the loss of the gated decision."""
        if self.gate_weight == 0:
            return {}
        margins = {view: own.margin(batch.user, batch.positive, batch.negative) for view, own in out.items()}
        full, alone, known = self._margins(out, batch)
        with torch.no_grad():
            every = torch.ones_like(full, dtype=torch.bool).unsqueeze(-1)
            counted = torch.cat([every, torch.ones_like(alone, dtype=torch.bool) if known is None else known], dim=-1)
            losses = F.softplus(-torch.cat([full.unsqueeze(-1), alone], dim=-1)).double()
            self.sums += torch.stack([(losses * counted).sum(dim=0), counted.sum(dim=0, dtype=torch.float64)])
        phi = shapley_values(margins, self.modalities)
        loss = F.softplus(-(margins[EMPTY] + (self.gates.to(phi.dtype) * phi).sum(dim=-1)))
        whole = self.whole(known, frozenset(self.modalities))
        return {"gated": self.gate_weight * mean_of_triples(loss, whole)}

    def _margins(self, out: Mapping[View, Output], batch: TripletBatch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the margins of the full view and of the uni-modal ones, and which modalities count."""
        triples = (batch.user, batch.positive, batch.negative)
        alone = torch.stack([out[view].margin(*triples) for view in self._alone.values()], dim=-1)
        return out[frozenset(self.modalities)].margin(*triples), alone, self.available(*triples[1:])

    def epoch_sums(self) -> Sequence[Tensor]:
        """Return those of the objective inside, and the sums of losses over the triples of the epoch."""
        return [*super().epoch_sums(), self.sums]

    def statistics(self) -> dict[str, float]:
        """Return pace and shares of the signals, gates of the finished epoch, and find those of the next one."""
        shown: dict[str, float] = {}
        if self.samples:
            names = ("deviation", "inconsistency", "instability")
            shown |= {"pace": self.pace} | dict(
                zip((f"share/{n}" for n in names), self._shares().tolist(), strict=True)
            )
        if self.gate_weight > 0:
            shown |= {f"gate/{m}": g for m, g in zip(self.modalities, self.gates.tolist(), strict=True)}
            losses = self.sums[0] / self.sums[1].clamp(min=1)
            if bool(self.losses.any()):
                self.gates.copy_(modality_gates(losses, self.losses))
            self.losses.copy_(losses)
            self.sums.zero_()
        return shown


def stalled_stages(values: Sequence[float], patience: int) -> int:
    """Return how many stages are over that each end after some evaluations without a better value of their own.

    Args:
        values: The monitored metric in all evaluations so far.
        patience: The number of evaluations.
    """
    over, best, since = 0, -math.inf, 0
    for value in values:
        best, since = (value, 0) if value > best else (best, since + 1)
        if since >= patience:
            over, best, since = over + 1, -math.inf, 0
    return over


def difficulty_weights(accuracy: Tensor, stage: str, binary: bool = False) -> Tensor:
    """Return the weight of triples in a stage, see :class:`DifficultyCurriculum`, with the type and shape of accuracy.

    Args:
        accuracy: How sure the model is of each, from 0 to 1.
        stage: ``"easy"``, ``"medium"`` or ``"hard"``.
        binary: Whether weights are 0 or 1.
    """
    low = accuracy <= 0.5
    if binary:
        found = {
            "easy": accuracy >= 0.5,
            "medium": (accuracy >= 0.25) & (accuracy <= 0.75),
            "hard": (accuracy > 0) & low,
        }[stage]
        return found.to(accuracy.dtype)
    peak, one = torch.sin(math.pi * accuracy).clamp(min=0), torch.ones_like(accuracy)  # Rounded, sin(pi) is below 0.
    weight = {"easy": torch.where(low, peak, one), "medium": peak, "hard": torch.where(low, one, peak)}[stage]
    return torch.where(accuracy > 0, weight, ALL_WRONG if stage == "hard" else 0.0)


def difficulty_signals(full: Tensor, alone: Tensor, known: Tensor | None = None) -> Tensor:
    """Return deviation, inconsistency and instability of triples, ``[B, 3]`` in double precision.

    Args:
        full: Margins of the full view ``[B]``.
        alone: Margins of the uni-modal views ``[B, M]``.
        known: Which modalities the items of each triple have, bool ``[B, M]``. (default: :obj:`None`, all)
    """
    full, alone = full.double(), alone.double()
    share = torch.ones_like(alone) if known is None else known.double()
    share = share / share.sum(dim=-1, keepdim=True).clamp(min=1)
    joint = torch.sigmoid(full)
    deviation = F.softplus(-full) + (share * F.softplus(-alone)).sum(dim=-1)
    inconsistency = (share * (torch.sigmoid(alone) - joint.unsqueeze(-1)).square()).sum(dim=-1)
    entropy = joint * F.softplus(-full) + (1 - joint) * F.softplus(full)
    return torch.stack([deviation, inconsistency, entropy], dim=-1)


def modality_gates(losses: Tensor, before: Tensor) -> Tensor:
    """Return the gates of modalities, see :class:`DynamicCurriculum`, ``[M]`` with a mean of one and none below 0.1.

    Args:
        losses: Mean losses of the full view and of every uni-modal one in the last epoch, ``[M + 1]``, above zero.
        before: The same of the epoch before.
    """
    (full, *_), alone = losses, losses[1:].clamp(min=1e-12)
    full = full.clamp(min=1e-12)
    ratio = torch.log(alone / full).mean().exp()
    improved = ((before[1:] - alone) / before[1:].clamp(min=1e-12)).clamp(min=0)
    rate = alone.numel() / (1 / (improved + SMALL)).sum()
    eta = ratio / (1 + ratio)
    score = eta * torch.log(full / alone) + (1 - eta) * torch.log((improved + SMALL) / (rate + SMALL))
    return LEAST_GATE + (1 - LEAST_GATE) * alone.numel() * torch.softmax(score, dim=0)
