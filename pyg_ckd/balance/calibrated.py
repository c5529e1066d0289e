"""Strategies that compare what views decide on the same triple: calibrated confidence, self-distillation, alignment."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_ckd.arguments import as_integer
from pyg_ckd.balance.given import MaskedObjective
from pyg_ckd.balance.gradients import SHARED, assign, combine, inner_product, parameter_groups, per_term
from pyg_ckd.balance.multitask import unimodal_losses
from pyg_ckd.balance.objective import check_not_negative, total
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn.loss import mean_of_triples
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.views import EMPTY, View, leave_one_out_views, unimodal_views

REMOVALS = ("each", "chain")
SMALLEST_SHARE, LARGEST_SHARE = 0.05, 0.95


class CalibratedObjective(MaskedObjective):
    r"""Penalises the model if it is more confident about a triple without a modality than with it.

    From `"Calibrating Multimodal Learning" <https://arxiv.org/abs/2306.01265>`_. The confidence of view :math:`S` in a
    triple is :math:`c(S) = \sigma(\delta_{uij}(S))`, its probability that the user prefers the positive item. If it
    rises when a modality is removed, the model does not use the information of that modality. With :math:`\ell(x) =
    \ln(1 + e^{-x})` and the views :math:`T` that are left when a modality is removed from :math:`S`,

    .. math::
        \mathcal{L} = \underset{uij}{\textrm{mean}} \; \ell(\delta_{uij}(\textrm{full})) + \lambda \, \mathcal{L}_2
        + \sum_{(S, T)} \underset{uij}{\textrm{mean}} \left[ w \, \ell(\delta_{uij}(T))
        + \kappa \max ( 0, c(T) - c(S) ) \right]

    Each BPR loss includes the penalty of its view. Overrides ``views``, ``ranked`` and ``balance``. Costs the
    leave-one-out views, which for two modalities are the uni-modal ones; a chain costs one view less than there are
    modalities. A triple with an item that lacks a modality of :math:`S` does not count for the pair.

    The published losses are a mean over the views with one weight for all, and the rises are summed over the batch;
    here the full view keeps its weight, and all are means. The toolkit BalanceBenchmark takes the hinge of the
    batch's sum, so that falls of some samples pay for rises of others; here each triple has its own, as in the paper.

    Args:
        student: The backbone to train, with at least two modalities.
        weight: Weight :math:`\kappa` of the rises in confidence.
        view_weight: Weight :math:`w` of the BPR loss of every view with a modality removed.
        removal: ``"each"``, every modality is removed from the full view in every step, or ``"chain"``, one after the
            other in random order until one is left.
        absolute: Whether confidence is in whichever item is preferred, :math:`\sigma(|\delta|)`, as the largest
            probability of a classifier; if not, in the positive item.
        l2: Weight :math:`\lambda` of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`.

    Raises:
        InputError: If there are fewer than two modalities, a weight is negative, ``removal`` is neither of the two or
            a mask does not fit.
    """

    name = "cml"
    capturable = True
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (0.1, 10.0), "view_weight": (0.01, 3.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"weight": 0.0, "view_weight": 0.0}
    needs_whole = ""
    batch_items = 0

    def __init__(
        self,
        student: Backbone,
        weight: float = 1.0,
        view_weight: float = 1.0,
        removal: str = "each",
        absolute: bool = False,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, l2)
        check_not_negative("weight", weight)
        check_not_negative("view_weight", view_weight)
        if removal not in REMOVALS:
            raise unknown_name("removal", removal, REMOVALS)
        self.weight, self.view_weight, self.removal, self.absolute = weight, view_weight, removal, absolute
        self.capturable = self.capturable and removal != "chain"  # A chain is drawn in every step.
        self.store_masks(has)
        self.check_views()
        self._without = list(leave_one_out_views(student.modalities).values())

    @property
    def views(self) -> Sequence[View]:
        """The full view and those with modalities removed; a chain is drawn anew at every reading."""
        if self.weight == self.view_weight == 0:
            return [self.view]
        if self.removal == "each":
            return [self.view, *self._without]
        order = torch.randperm(len(self.modalities)).tolist()  # On the CPU, so that no step waits for a device.
        return [frozenset(self.modalities[n] for n in order[first:]) for first in range(len(order))]

    def ranked(self, out: Mapping[View, Output]) -> Mapping[View, float]:
        """Return the weight of the views with a modality removed."""
        return {view: self.view_weight for view in out if view != self.view}

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return the BPR loss of the views with modalities removed, and the rises in confidence."""
        if len(out) == 1:
            return {}
        margins = self.margins(out, batch)
        confidence = {view: torch.sigmoid(m.abs() if self.absolute else m) for view, m in margins.items()}
        views, known = list(margins), self.available(batch.positive, batch.negative)
        before = views[:-1] if self.removal == "chain" else [self.view] * (len(views) - 1)
        losses, rises = [], []
        for larger, smaller in zip(before, views[1:], strict=True):
            there = self.whole(known, larger)
            losses.append(mean_of_triples(F.softplus(-margins[smaller]), there))
            rises.append(mean_of_triples(confidence_rise(confidence[larger], confidence[smaller]), there))
        terms = {
            "removed": self.view_weight * torch.stack(losses).sum(),
            "rise": self.weight * torch.stack(rises).sum(),
        }
        weights = {"removed": self.view_weight, "rise": self.weight}
        return {name: term for name, term in terms.items() if weights[name] > 0}


def confidence_rise(before: Tensor, after: Tensor) -> Tensor:
    r"""Return by how much confidence rose when something was removed, :math:`\max(0, c(T) - c(S))`.

    Args:
        before: Confidence :math:`c(S)` of every triple or sample with it, ``[B]``.
        after: Confidence :math:`c(T)` without it, ``[B]``.
    """
    return F.relu(after - before)


class SelfDistillation(MaskedObjective):
    r"""Lets the modality that is better on a triple teach the others, without teachers.

    After MBSD, `"Multimodal Pre-Training with Self-Distillation for Product Understanding in E-Commerce"
    <https://doi.org/10.1145/3539597.3570423>`_, as a general balancer in the toolkit BalanceBenchmark. With
    :math:`\ell(x) = \ln(1 + e^{-x})` and what modality :math:`m` alone adds to the ids, :math:`p_m = \sigma \left(
    \delta_{uij}(\{m\}) - \delta_{uij}(\emptyset) \right)`,

    .. math::
        w_{mn} &= [ p_m > \tfrac{1}{2} \; \textrm{or} \; p_n > \tfrac{1}{2} ] \max ( 0, p_n - p_m )

        \mathcal{L} &= \underset{uij}{\textrm{mean}} \; \ell(\delta_{uij}(\textrm{full})) + \lambda \, \mathcal{L}_2
        + w \sum_m \underset{uij}{\textrm{mean}} \; \ell(\delta_{uij}(\{m\}))

        &+ \kappa \, \underset{uij}{\textrm{mean}} \sum_{m \neq n} w_{mn} \, \textrm{BCE} \left(
        \sigma ( \delta_{uij}(\{m\}) ), \sigma ( \delta_{uij}(\{n\}) ) \right)

    where weights and the better modality's :math:`\sigma(\delta_{uij}(\{n\}))` have no gradient. Each BPR loss includes
    the penalty of its view. Overrides ``views``, ``ranked`` and ``balance``. Costs the uni-modal views and the empty
    one. A triple with an item that lacks :math:`m` or :math:`n` adds nothing to their pair.

    The toolkit's code pulls both modalities of a pair towards each other by the squared difference of their outputs
    and has probabilities where the Kullback-Leibler divergence has logarithms; here the worse follows the better one.

    Args:
        student: The backbone to train, with at least two modalities.
        weight: Weight :math:`\kappa` of the distillation between modalities.
        alone_weight: Weight :math:`w` of the uni-modal BPR losses.
        l2: Weight :math:`\lambda` of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`.

    Raises:
        InputError: If there are fewer than two modalities, a weight is negative or a mask does not fit.
    """

    name = "mbsd"
    capturable = True
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (0.01, 1.0), "alone_weight": (0.01, 3.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"weight": 0.0, "alone_weight": 0.0}
    needs_whole = ""
    batch_items = 0

    def __init__(
        self,
        student: Backbone,
        weight: float = 0.1,
        alone_weight: float = 1.0,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, l2)
        check_not_negative("weight", weight)
        check_not_negative("alone_weight", alone_weight)
        self.weight, self.alone_weight = weight, alone_weight
        self.store_masks(has)
        self.check_views()
        self._alone = unimodal_views(student.modalities)

    @property
    def views(self) -> Sequence[View]:
        """The full and the uni-modal views, and for weights between modalities the empty one."""
        alone = self._alone.values() if self.weight > 0 or self.alone_weight > 0 else ()
        return [self.view, *alone, *([EMPTY] if self.weight > 0 else [])]

    def ranked(self, out: Mapping[View, Output]) -> Mapping[View, float]:
        """Return the weight of the uni-modal losses."""
        return dict.fromkeys(self._alone.values(), self.alone_weight) if self.alone_weight > 0 else {}

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return the uni-modal BPR losses and the distillation between modalities."""
        if len(out) == 1:
            return {}
        alone = {m: out[view].margin(*batch[:3]) for m, view in self._alone.items()}
        known = self.available(batch.positive, batch.negative)
        terms: dict[str, Tensor] = {}
        if self.alone_weight > 0:
            losses = unimodal_losses(alone, known)
            terms |= {f"alone/{m}": self.alone_weight * loss for m, loss in losses.items()}
        if self.weight > 0:
            margins = torch.stack(list(alone.values()), dim=-1)
            with torch.no_grad():
                prob = torch.sigmoid(margins - out[EMPTY].margin(*batch[:3]).unsqueeze(-1))
                weights = distillation_weights(prob, prob > 0.5)
                if known is not None:
                    weights = weights * (known.unsqueeze(-1) & known.unsqueeze(-2))
                target = torch.sigmoid(margins).unsqueeze(-2).expand_as(weights)
            student = margins.unsqueeze(-1).expand_as(weights)
            loss = F.binary_cross_entropy_with_logits(student, target, reduction="none")
            terms["distilled"] = self.weight * mean_of_triples((weights * loss).sum(dim=(-2, -1)))
        return terms


def distillation_weights(prob: Tensor, right: Tensor) -> Tensor:
    r"""Return how much every modality should learn from every other, :math:`w_{mn} = [m \, \textrm{or} \, n \;
    \textrm{is right}] \max(0, p_n - p_m)`.

    Args:
        prob: The probability that each modality alone gives to what is true, ``[B, M]``.
        right: Which modalities alone decide rightly, bool ``[B, M]``.

    Returns:
        The weights ``[B, M, M]``: of the first modality as the student and the second as its teacher, with gradient.
    """
    either = right.unsqueeze(-1) | right.unsqueeze(-2)
    return F.relu(prob.unsqueeze(-2) - prob.unsqueeze(-1)) * either


class ModalityGapObjective(MaskedObjective):
    r"""Aligns the decisions of the modalities, with a weight that is learned from the ranking loss.

    From LFM, "Facilitating Multimodal Classification via Dynamically Learning Modality Gap" (Yang, Wan, Jiang, Xu,
    NeurIPS 2024; https://github.com/njustkmg/NeurIPS24-LFM). With :math:`p_m = \sigma(\delta_{ujk}(\{m\}))` on random
    triples, the Jensen-Shannon divergence :math:`\textrm{JS}` of two decisions, and a share :math:`\alpha` that is
    learned,

    .. math::
        \mathcal{L} = \underset{uij}{\textrm{mean}} \; \ell(\delta_{uij}(\textrm{full})) + \lambda \, \mathcal{L}_2
        + \kappa \frac{\alpha}{1 - \alpha} \, \underset{m < n}{\textrm{mean}} \; \underset{ujk}{\textrm{mean}} \;
        \textrm{JS}(p_m, p_n)

    The share is that of the alignment beside the ranking loss, as published; only the ratio of the two matters here.
    It is learned by descent on the other losses *after* a step. To first order, the derivative is the negative inner
    product of the gradients of the other losses :math:`g` and of the alignment :math:`h`, so that after every step

    .. math::
        \alpha \leftarrow \textrm{clamp} \left( \alpha + \eta \frac{g^\top h}{\lVert g \rVert \lVert h \rVert}, 0.05,
        0.95 \right)

    Alignment gets more weight if it moves the model in the same direction as the other losses. Both gradients come from
    the same step, but from different triples. Overrides ``views``, ``balance`` and ``backward``. Costs the uni-modal
    views, random triples and, unless :math:`\eta` is 0, a second backward pass. Random triples with an item that lacks
    one of two modalities do not count for the pair.

    The published code measures divergences from the mean to each side, which is the other direction of what the paper
    names; :func:`jensen_shannon` has both. Its derivative of the share is the mean of a part of a product with the
    Hessian, and the released share is a polynomial fitted to one run on one data set; neither is used here.

    Args:
        student: The backbone to train, with at least two modalities.
        weight: Weight :math:`\kappa`.
        share: Share :math:`\alpha` at the beginning, from 0.05 to 0.95.
        rate: Step size :math:`\eta` of the share; 0 keeps it.
        num_random_triples: Random triples per batch.
        l2: Weight :math:`\lambda` of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`.

    Raises:
        InputError: If there are fewer than two modalities, a number is out of its range or a mask does not fit.
    """

    name = "lfm"
    capturable = True
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (0.1, 10.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"weight": 0.0}
    needs_whole = "the gradients of single terms"
    batch_items = 0
    reports: ClassVar[Mapping[str, str]] = {"share": "share of the alignment in the loss"}
    alignment_share: Tensor

    def __init__(
        self,
        student: Backbone,
        weight: float = 1.0,
        share: float = 0.2,
        rate: float = 1e-3,
        num_random_triples: int = 2048,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, l2)
        check_not_negative("weight", weight)
        check_not_negative("rate", rate)
        if not SMALLEST_SHARE <= share <= LARGEST_SHARE:
            raise InputError(f"share: found {share}, expected a number from {SMALLEST_SHARE} to {LARGEST_SHARE}")
        num_random_triples = as_integer(num_random_triples, "num_random_triples", 1)
        self.weight, self.rate = weight, rate
        if (weight == 0 or rate == 0) and type(self).needs_whole == ModalityGapObjective.needs_whole:
            self.needs_whole = ""
        self.num_random_triples = num_random_triples if weight > 0 else 0
        self.store_masks(has)
        self.check_views()
        self.register_state("alignment_share", torch.tensor(share, dtype=torch.float64))
        self._alone = unimodal_views(student.modalities)

    @property
    def views(self) -> Sequence[View]:
        """The full and the uni-modal views; the full view alone without weight."""
        return [self.view, *(self._alone.values() if self.weight > 0 else ())]

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return the divergence of the modalities' decisions on random triples."""
        if self.weight == 0:
            return {}
        log_prob = {m: decision_log_prob(out[view].margin(*batch[3:])) for m, view in self._alone.items()}
        known = self.available(batch.random_first, batch.random_second)
        divergences = []
        for m, n in combinations(self.modalities, 2):
            divergence, there = jensen_shannon(log_prob[m], log_prob[n]), self.whole(known, frozenset([m, n]))
            divergences.append(batch.mean_of_random(divergence, there))
        ratio = (self.alignment_share / (1 - self.alignment_share)).to(divergences[0].dtype)
        return {"alignment": self.weight * ratio * torch.stack(divergences).mean()}

    def backward(self, terms: Mapping[str, Tensor], run: Callable[..., None]) -> None:
        """Compute the gradients of the sum, and move the share by how well its two parts agree."""
        if self.rate == 0 or "alignment" not in terms:
            return super().backward(terms, run)
        parts = {"main": total({k: v for k, v in terms.items() if k != "alignment"}), "alignment": terms["alignment"]}
        parameters = [p for group in parameter_groups(self).values() for p in group]
        found = per_term(parts, {SHARED: parameters}, run)
        main, alignment = found["main"][SHARED], found["alignment"][SHARED]
        assign(parameters, combine([main, alignment], [1.0, 1.0]))
        with torch.no_grad():
            sizes = inner_product(main, main) * inner_product(alignment, alignment)
            cosine = torch.nan_to_num(inner_product(main, alignment) / sizes.sqrt(), 0.0)  # Also of a skipped step.
            self.alignment_share.add_(self.rate * cosine).clamp_(SMALLEST_SHARE, LARGEST_SHARE)
        return None

    def epoch_statistics(self) -> dict[str, float]:
        """Return the share of the alignment at the end of the epoch."""
        return {"share/alignment": float(self.alignment_share)} if self.weight > 0 else {}


def decision_log_prob(margin: Tensor) -> Tensor:
    """Return the logarithms of both probabilities of a decision between two items.

    Args:
        margin: Margins ``[B]``.

    Returns:
        Of the first item and of the second, ``[B, 2]``.
    """
    return torch.stack([F.logsigmoid(margin), F.logsigmoid(-margin)], dim=-1)


def jensen_shannon(first: Tensor, second: Tensor, from_mean: bool = False) -> Tensor:
    r"""Return the Jensen-Shannon divergence of distributions, in nats, between 0 and :math:`\ln 2`.

    .. math::
        \textrm{JS}(p, q) = \tfrac{1}{2} \left( \textrm{KL}(p \Vert r) + \textrm{KL}(q \Vert r) \right), \qquad
        r = \tfrac{1}{2} (p + q)

    Args:
        first: Logarithms of the probabilities :math:`p`, ``[B, C]``.
        second: Logarithms of the probabilities :math:`q`, ``[B, C]``.
        from_mean: Whether to take the divergences from the mean instead, :math:`\textrm{KL}(r \Vert p)` and
            :math:`\textrm{KL}(r \Vert q)`, which are not bounded. (default: :obj:`False`)

    Returns:
        The divergences ``[B]``.
    """
    mean = torch.logaddexp(first, second) - math.log(2)
    if from_mean:
        return (mean.exp() * (2 * mean - first - second)).sum(dim=-1) / 2
    return (first.exp() * (first - mean) + second.exp() * (second - mean)).sum(dim=-1) / 2
