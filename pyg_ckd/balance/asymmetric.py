"""ARM: modalities that add little information are reinforced, those that add much are slowed down."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyg_ckd.balance.agm import main_modulation
from pyg_ckd.balance.attribution import calibrated_loss, masked_mean, shapley_values
from pyg_ckd.balance.given import MaskedObjective
from pyg_ckd.balance.multitask import unimodal_losses
from pyg_ckd.balance.objective import check_not_negative
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.views import EMPTY, View, counterfactual_views, leave_one_out_views, unimodal_views

LARGEST_FACTOR = 4.0
LEAST_VALUE = 0.02
"""In nats; what every modality is taken to be worth at least, so that an untrained model's noise decides nothing."""
MOMENTUM = 0.9


class ARM(MaskedObjective):
    r"""Strengthens the gradients of modalities that tell little about the positive item, and weakens the others.

    After `"Asymmetric Reinforcing against Multi-modal Representation Bias" <https://arxiv.org/abs/2501.01240>`_. With
    :math:`L(\cdot)` the mean BPR loss of margins times the scale that is best for them, see
    :func:`~pyg_ckd.balance.attribution.calibrated_loss`, the value of modality :math:`m` in a batch is

    .. math::
        I_m = \ln 2 - L(\delta(\{m\}) - \delta(\emptyset)), \qquad
        K_m = L(\delta(\textrm{full} \setminus m)) - L(\delta(\textrm{full})), \qquad
        V_m = q \, I_m + (1 - q) \, K_m

    with :math:`q = \textrm{mean} \; \sigma(\delta(\textrm{full}))`. :math:`I_m` is the information of the modality
    alone, and :math:`K_m` that which it adds to the others; it counts more while the joint scores are uncertain. With a
    running mean :math:`\bar{V}_m` of its positive part,

    .. math::
        k_m = \textrm{clamp} \left( \left( \frac{\epsilon + \frac{1}{M} \sum_n \bar{V}_n}{\epsilon + \bar{V}_m}
        \right)^\beta, \tfrac{1}{4}, 4 \right), \qquad \epsilon = 0.02 \textrm{ nats},

    is the reinforcement of the modality, and the loss is

    .. math::
        \underset{uij}{\textrm{mean}} \; \ell \left( \delta(\emptyset) + \sum_m \phi_m \right)
        + \lambda \, \mathcal{L}_2 + \gamma \left( \max_m V_m - \min_m V_m \right)
        + \kappa \sum_m k_m \, \underset{uij}{\textrm{mean}} \; \ell(\delta_{uij}(\{m\})).

    The gradient through the Shapley value :math:`\phi_m` is multiplied by :math:`k_m`, as in :class:`AGM`. The gap has
    no gradient through the largest value, the leave-one-out views and the empty one: it closes when the weakest
    modality gets better, and not when the strongest, the others or the ids get worse.

    Where the main loss is a softmax over items, as that of :class:`~pyg_ckd.nn.FISM` or with ``ranking="softmax"``,
    contributions to margins do not determine its gradient. It stays as it is there, and :math:`k_m` acts on the
    uni-modal losses alone.

    Each uni-modal loss includes the penalty of its view, without :math:`k_m`. Overrides ``views``, ``ranked`` and
    ``balance``. Costs the views of :class:`DistillationWrapper` and the empty one. A triple with an item that lacks a
    modality is neither modulated for it nor in its uni-modal loss, and does not count for values, as long as enough
    triples of the batch have all modalities, see :meth:`compared`.

    The published code multiplies features by ratios of values from one batch, crosswise, in training and in tests. What
    it computes as conditional information is not one, so values and ratios may be negative; see
    :func:`published_scales`. The gap is only in the paper, and so is a re-sampling of samples that is left out here.

    Args:
        student: The backbone to train, with at least two modalities.
        beta: Power :math:`\beta` of the reinforcement; with 0 every :math:`k_m` is 1.
        weight: Weight :math:`\kappa` of the uni-modal terms.
        gap: Weight :math:`\gamma` of the gap.
        l2: Weight :math:`\lambda` of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`.

    Raises:
        InputError: If there are fewer than two modalities, the backbone ignores features, ``beta``, ``weight`` or
            ``gap`` is negative, or a mask does not fit.
    """

    name = "arm"
    capturable = True
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.25, 2.0), "weight": (0.01, 3.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"beta": 0.0, "weight": 0.0, "gap": 0.0}
    needs_whole = ""
    batch_items = 0
    reports: ClassVar[Mapping[str, str]] = {
        "weight": "factor of the gradient through the modality, mean over the epoch",
        "value": "what the modality tells about the positive item, in nats",
    }

    value: Tensor
    factor_sum: Tensor
    steps: Tensor
    begun: Tensor

    def __init__(
        self,
        student: Backbone,
        beta: float = 1.0,
        weight: float = 1.0,
        gap: float = 0.1,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, l2)
        for name, value in {"beta": beta, "weight": weight, "gap": gap}.items():
            check_not_negative(name, value)
        self.beta, self.weight, self.gap = beta, weight, gap
        self.store_masks(has)
        self.check_views()
        self.warn_of_gaps()
        self._alone, self._without = unimodal_views(self.modalities), leave_one_out_views(self.modalities)
        self._active = beta > 0 or weight > 0 or gap > 0
        self._views = counterfactual_views(self.modalities, empty=True) if self._active else [self.view]
        for name in ("value", "factor_sum"):
            self.register_state(name, torch.zeros(len(self.modalities), dtype=torch.float64))
        self.register_state("steps", torch.zeros((), dtype=torch.int64))
        self.register_state("begun", torch.zeros((), dtype=torch.bool))

    @property
    def views(self) -> Sequence[View]:
        """Full, uni-modal, leave-one-out and empty views, each once; the full view alone if all weights are zero."""
        return self._views

    def ranked(self, out: Mapping[View, Output]) -> Mapping[View, float]:
        """Return the weight of the uni-modal losses, without reinforcement."""
        return dict.fromkeys(self._alone.values(), self.weight) if self.weight > 0 else {}

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return the terms of reinforcement: modulation, whose value is zero, the gap, and the uni-modal losses."""
        if not self._active:
            return {}
        margins, known = self.margins(out, batch), self.available(batch.positive, batch.negative)
        alone = torch.stack([margins[view] for view in self._alone.values()], dim=-1)
        without = torch.stack([margins[view] for view in self._without.values()], dim=-1)
        counted = self.compared(*batch.whole[1:3])
        full, base = batch.gathered(margins[self.view]), batch.gathered(margins[EMPTY].detach())
        values = information_values(full, batch.gathered(alone), batch.gathered(without.detach()), base, counted)
        factors = self._factors(values.detach(), counted)
        terms: dict[str, Tensor] = {}
        if self.beta > 0:
            shares = factors if known is None else torch.where(known, factors, 1)
            contributions = shapley_values(margins, self.modalities)
            terms |= main_modulation(self, "reinforced", out, batch, contributions, shares)
        if self.gap > 0:
            terms["gap"] = self.gap * spread(values, counted)
        if self.weight > 0:
            losses = unimodal_losses({m: margins[view] for m, view in self._alone.items()}, known)
            shared = zip(losses.items(), factors.unbind(), strict=True)
            terms |= {f"alone/{m}": self.weight * k * loss for (m, loss), k in shared}
        return terms

    @torch.no_grad()
    def _factors(self, values: Tensor, counted: Tensor | None) -> Tensor:
        """Return the reinforcement ``[M]`` of a step, after its values have entered the running ones."""
        values, begun, known = values.clamp(min=0).to(self.value.dtype), self.begun, None
        if counted is not None:  # Without a triple there is nothing new, and NaN if there never was one.
            values = torch.where(counted.any(dim=0), values, torch.where(begun, self.value, torch.nan))
            begun, known = begun & ~self.value.isnan(), ~values.isnan()
        self.value.copy_(torch.where(begun, torch.lerp(values, self.value, MOMENTUM), values))
        self.begun.fill_(True)
        factors = reinforcement(self.value, self.beta, known)
        self.factor_sum += factors
        self.steps += 1
        return factors

    def epoch_statistics(self) -> dict[str, float]:
        """Return the mean reinforcement of every modality over the finished epoch, and what it is worth, in nats."""
        mean = self.factor_sum / self.steps.clamp(min=1)
        self.factor_sum.zero_()
        self.steps.zero_()
        found = {f"weight/{m}": k for m, k in zip(self.modalities, mean.tolist(), strict=True)}
        return found | {f"value/{m}": v for m, v in zip(self.modalities, self.value.tolist(), strict=True)}


def information_values(
    full: Tensor, alone: Tensor, without: Tensor, base: Tensor, available: Tensor | None = None
) -> Tensor:
    r"""Return :math:`V_m`, with gradient through the full and the uni-modal margins alone, ``[M]``.

    Args:
        full: Margins of the full view ``[B]``.
        alone: Margins of the uni-modal views ``[B, M]``.
        without: Margins of the leave-one-out views ``[B, M]``.
        base: Margins of the empty view ``[B]``.
        available: Which modalities the items of each triple have, bool ``[B, M]``. (default: :obj:`None`, all)

    Returns:
        Values in nats and double precision; negative where the joint scores are better without a modality, zero where
        no triple has it.
    """
    joint = full.unsqueeze(-1).expand_as(without)
    sure = masked_mean(joint.detach().sigmoid(), available)
    own = math.log(2) - calibrated_loss(alone - base.detach().unsqueeze(-1), available)
    if available is not None:
        own = torch.where(available.any(dim=0), own, 0)
    added = calibrated_loss(without.detach(), available) - calibrated_loss(joint, available)
    return sure * own + (1 - sure) * added


def spread(values: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return the largest value minus the smallest, with gradient through the smallest alone, a scalar.

    Args:
        values: What modalities are worth, ``[M]``.
        counted: Which triples tell about which modality, bool ``[B, M]``; one that none tells about is left out.
            (default: :obj:`None`, all)
    """
    if counted is None:
        return values.detach().max() - values.min()
    known = counted.any(dim=0)
    largest = torch.where(known, values.detach(), -torch.inf).max()
    return torch.where(known.any(), largest - torch.where(known, values, torch.inf).min(), 0)


def reinforcement(values: Tensor, beta: float, known: Tensor | None = None) -> Tensor:
    r"""Return :math:`k_m`, above 1 for modalities that are worth less than the mean, ``[M]``.

    Args:
        values: What modalities are worth, zero or more, ``[M]``.
        beta: Power :math:`\beta`.
        known: Of which modalities that is known, bool ``[M]``; the others get 1. (default: :obj:`None`, all)
    """
    mean = values.mean() if known is None else torch.where(known, values, 0).sum() / known.sum().clamp(min=1)
    ratio = (mean + LEAST_VALUE) / (values + LEAST_VALUE)
    factors = (ratio**beta).clamp(1 / LARGEST_FACTOR, LARGEST_FACTOR)
    return factors if known is None else torch.where(known, factors, 1)


class PublishedScales(NamedTuple):
    """What the published code computes of a batch, for two modalities in their order.

    Attributes:
        information: Mutual information of each modality's features and the fused ones, in nats.
        normalized: The same over the mean of both entropies.
        conditional: What stands for their information given the other modality; see :func:`published_scales`.
        normalized_conditional: The same over the sum of what stands for two conditional entropies.
        interaction: ``normalized`` minus ``normalized_conditional``.
        value: What each modality is worth.
        scale: The factors of the features.
    """

    information: np.ndarray
    normalized: np.ndarray
    conditional: np.ndarray
    normalized_conditional: np.ndarray
    interaction: np.ndarray
    value: np.ndarray
    scale: np.ndarray


def published_scales(fused: Tensor, features: Sequence[Tensor], label_prob: Sequence[float]) -> PublishedScales:
    r"""Return the arithmetic of the published code, to compare with; no strategy uses it.

    Histograms of all numbers of two or three matrices stand for distributions. What stands for a conditional entropy
    divides joint probabilities by those of the condition along another axis and sums :math:`- q \ln q` without the
    weight of the condition, so that the "information" that is made of it may be negative, and so may values and scales.

    Args:
        fused: Fused features ``[B, D]``.
        features: Features of the two modalities, ``[B, D]`` each.
        label_prob: Mean probability of the label, from the fused features and from those of either modality.
    """
    z, own = fused.flatten().cpu().numpy(), [x.flatten().cpu().numpy() for x in features]
    rows = []
    for m, x in enumerate(own):
        joint = histogram(x, z, bins=30)
        mutual = entropy(joint.sum(axis=1)) + entropy(joint.sum(axis=0)) - entropy(joint)
        normalized = 2 * mutual / (entropy(joint.sum(axis=1)) + entropy(joint.sum(axis=0)))
        three = histogram(x, z, own[1 - m], bins=2)
        given = three.sum(axis=(0, 1))
        first, second, both = (_published_entropy(p, given) for p in (three.sum(axis=1), three.sum(axis=0), three))
        conditional = first + second - both
        rows.append([mutual, normalized, conditional, conditional / (first + second)])
    mutual, normalized, conditional, normalized_conditional = np.array(rows).T
    interaction = normalized - normalized_conditional
    value = label_prob[0] * normalized + np.array(label_prob[:0:-1]) * interaction
    return PublishedScales(
        mutual, normalized, conditional, normalized_conditional, interaction, value, value[::-1] / value
    )


def conditional_information(first: np.ndarray, second: np.ndarray, given: np.ndarray, bins: int) -> float:
    """Return the mutual information of two lists of numbers given a third, of histograms, in nats.

    Args:
        first: Numbers ``[N]``.
        second: Numbers ``[N]``.
        given: Numbers ``[N]``.
        bins: Number of bins of each.
    """
    joint = histogram(first, second, given, bins=bins)
    pairs = entropy(joint.sum(axis=1)) + entropy(joint.sum(axis=0))
    return pairs - entropy(joint) - entropy(joint.sum(axis=(0, 1)))


def histogram(*columns: np.ndarray, bins: int) -> np.ndarray:
    """Return the share of points in every cell of equal bins over the ranges of lists of numbers.

    Args:
        *columns: The lists ``[N]``.
        bins: Number of bins of each.
    """
    count = np.histogramdd(np.stack(columns, axis=1), bins=bins)[0]
    return count / count.sum()


def entropy(probability: np.ndarray) -> float:
    """Return the entropy of a distribution in nats.

    Args:
        probability: Its probabilities, of any shape.
    """
    p = probability[probability > 0]
    return -float((p * np.log(p)).sum())


def _published_entropy(probability: np.ndarray, given: np.ndarray) -> float:
    return entropy(probability / np.where(given > 0, given, 1e-10)[:, None, None])
