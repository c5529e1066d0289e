"""Rules that choose the step sizes of modalities by what the last epoch has shown: OGM-GE, CGGM and ARL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_ckd.balance.attribution import RunningInformation, masked_mean
from pyg_ckd.balance.given import counted_weights
from pyg_ckd.balance.gradients import edit
from pyg_ckd.balance.multitask import unimodal_losses
from pyg_ckd.balance.objective import check_not_negative
from pyg_ckd.balance.pacing import PacedObjective, discrepancy, scaled_softmax, triples_of
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.rows import blocks_of
from pyg_ckd.scoring.views import View

LEAST_SHARE = 0.6
"""Least share of a modality in the sum of entropies, relative to an equal share: 0.3 of two, as published."""


class OGM(PacedObjective):
    r"""Slows down the modality that ranks better than the others, and adds noise to gradients.

    From `"Balanced Multimodal Learning via On-the-fly Gradient Modulation" <https://arxiv.org/abs/2203.15332>`_. With
    the margins :math:`a_m` of modality :math:`m` alone without the id part, over the triples of an epoch,

    .. math::
        s_m = \textrm{mean} \; \sigma(a_m), \qquad \rho_m = \frac{1}{M - 1} \sum_{n \ne m} \frac{s_m}{s_n}, \qquad
        k_m = \begin{cases} 1 - \tanh(\alpha \rho_m) & \textrm{if } \rho_m > 1 \\ 1 & \textrm{else} \end{cases}

    is the factor of the learning rate of :math:`m` in the next epoch. It falls from 1 to :math:`1 - \tanh \alpha` where
    a modality gets ahead. Generalisation enhancement adds normal noise to the gradients of tables and matrices that
    belong to a modality, with the standard deviation of the gradient itself over the rows that the step reaches; other
    rows get none.

    Overrides ``views``, ``balance``, ``step_sizes`` and ``backward``. Costs the uni-modal and the empty view.

    The published code multiplies gradients, which has no effect under Adam; computes the factors in every step;
    supports only two modalities; and adds noise as large as the gradient, which is too much for Adam's steps.

    Args:
        student: The backbone to train, with at least two modalities and parameters that belong to one alone.
        alpha: Strength :math:`\alpha`.
        noise: Standard deviation of the noise relative to that of the gradient; 0 adds none.
        l2: Weight of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`.

    Raises:
        InputError: If there are fewer than two modalities, no trained parameter belongs to one alone, ``alpha`` or
            ``noise`` is negative, or a mask does not fit.
    """

    name = "ogm-ge"
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"alpha": (0.1, 0.8), "noise": (0.0, 1.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"alpha": 0.0, "noise": 0.0}
    needs_whole = "the gradients of a batch"
    batch_items = 0
    reports: ClassVar[Mapping[str, str]] = {"weight": "factor of the modality's step size"}

    score: Tensor

    def __init__(
        self,
        student: Backbone,
        alpha: float = 0.3,
        noise: float = 0.1,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, l2)
        check_not_negative("alpha", alpha)
        check_not_negative("noise", noise)
        self.alpha, self.noise = alpha, noise
        if noise == 0 and type(self).needs_whole == OGM.needs_whole:
            self.needs_whole = ""
        self.watch(has, alpha > 0)
        self.register_state("score", torch.zeros_like(self.factors))

    def observe(self, alone: Tensor, known: Tensor | None) -> None:
        """Add up the probabilities that every modality alone ranks a triple right."""
        number = triples_of(alone, known)
        self.count += number
        self.score += masked_mean(alone.sigmoid(), known) * number

    def next_factors(self) -> Tensor:
        """Return the published coefficients of the epoch's mean probabilities."""
        known, factors = self.count > 0, torch.ones_like(self.factors)  # What no triple has is not compared.
        if int(known.sum()) > 1:
            factors[known] = ogm_coefficients(discrepancy(self.score[known] / self.count[known]), self.alpha)
        self.score.zero_()
        self.count.zero_()
        return factors

    def backward(self, terms: Mapping[str, Tensor], run: Callable[..., None]) -> None:
        """Compute the gradients and add noise to those of modalities."""
        super().backward(terms, run)
        if self.noise > 0:
            for _, own in sorted(self.student.modality_parameters.items()):  # Draws do not depend on the order.
                edit((p for p in own if p.dim() > 1), partial(with_noise, scale=self.noise))


class CGGM(PacedObjective):
    r"""Slows down the modality that improves most, and pulls the joint gradient towards those of the others.

    From `"Classifier-guided Gradient Modulation for Enhanced Multimodal Learning"
    <https://arxiv.org/abs/2411.01409>`_. With the :func:`~pyg_ckd.balance.label_information` :math:`I_m` of modality
    :math:`m` alone over an epoch and its change :math:`D_m` from the epoch before,

    .. math::
        B_m = M \, \textrm{softmax}_m \left( - \beta \, \frac{D_m}{\textrm{mean}_n |D_n|} \right)

    is the factor of the learning rate of :math:`m` in the next epoch, at least 0.1. The gradient of a triple's loss on
    the row of its user has the direction of :math:`\mathbf{x}_i - \mathbf{x}_j`, the rows of its items in a view. The
    term

    .. math::
        \frac{\lambda}{M} \sum_m B_m \left( 1 - \underset{uij}{\textrm{mean}} \;
        \cos \left( \mathbf{x}_i - \mathbf{x}_j, \mathbf{x}_i^{\{m\}} - \mathbf{x}_j^{\{m\}} \right) \right)

    brings the direction of the joint gradient nearer to that of each modality, most for those that improve least.
    Its mean is over the triples whose items have all modalities, for all are in the joint direction, as long as enough
    of the batch have, see :meth:`compared`. For :math:`I_m`, triples with an item that lacks the modality do not count.

    Overrides ``views``, ``balance`` and ``step_sizes``. Costs the uni-modal and the empty view.

    Differs from the published code, which multiplies gradients by :math:`(\sum_n D_n - D_m) / \sum_n D_n`, negative
    where the metrics of two batches happen to change in opposite ways and without bound where the changes cancel;
    whose metric is the accuracy of a batch; and whose cosine is that of the weights of classifiers.

    Args:
        student: The backbone to train, with at least two modalities and parameters that belong to one alone.
        sharpness: Strength :math:`\beta` of the factors; with 0 all are 1.
        direction: Weight :math:`\lambda` of the term.
        l2: Weight of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`.

    Raises:
        InputError: If there are fewer than two modalities, no trained parameter belongs to one alone, ``sharpness`` or
            ``direction`` is negative, or a mask does not fit.
    """

    name = "cggm"
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"sharpness": (0.1, 2.0), "direction": (1e-3, 0.1)}
    neutral: ClassVar[Mapping[str, Any]] = {"sharpness": 0.0, "direction": 0.0}
    needs_whole = ""
    batch_items = 0
    reports: ClassVar[Mapping[str, str]] = {"weight": "factor of the modality's step size"}

    before: Tensor

    def __init__(
        self,
        student: Backbone,
        sharpness: float = 0.5,
        direction: float = 0.01,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, l2)
        check_not_negative("sharpness", sharpness)
        check_not_negative("direction", direction)
        self.sharpness, self.direction = sharpness, direction
        self.watch(has, sharpness > 0 or direction > 0)
        self.information = RunningInformation(self.modalities)
        self.register_state("before", torch.full_like(self.factors, torch.nan))

    def observe(self, alone: Tensor, known: Tensor | None) -> None:
        """Gather label information."""
        self.information.track(alone, None, known)

    def next_factors(self) -> Tensor:
        """Return the softmax of the changes of label information, or ones as long as only one epoch is known."""
        self.information.finish_epoch()
        label = torch.where(self.information.known, self.information.label, torch.nan)
        change = label - self.before
        self.before.copy_(label)
        factors, known = torch.ones_like(self.factors), ~change.isnan()  # Of the first epoch it is NaN.
        change = change[known]
        scale = change.abs().mean()
        if scale > 0:
            factors[known] = scaled_softmax(-self.sharpness * change / scale)
        return factors

    def terms(
        self, margins: Mapping[str, Tensor], out: Mapping[View, Output], batch: TripletBatch, known: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the term of directions."""
        if self.direction == 0:
            return {}
        cosine = direction_cosines(out[self.view], [out[view] for view in self._alone.values()], batch)
        counted = self.compared(*batch.whole[1:3])  # All modalities are in the joint direction.
        if counted is not None:  # Of a modality that no triple has, nothing is left of the term.
            weights = torch.stack([counted_weights(column) for column in counted.unbind(dim=-1)], dim=-1)
            cosine = 1 - batch.own(weights.to(cosine.dtype)) * (1 - cosine)
        mean = cosine.mean(dim=0) if cosine.size(0) else cosine.sum(dim=0)
        loss = direction_loss(self.factors.to(cosine.dtype), mean)
        return {"direction": self.direction * loss}


class ARL(PacedObjective):
    r"""Lets the joint model rely on every modality in inverse proportion to its variance.

    From `"Improving Multimodal Learning via Imbalanced Learning" <https://arxiv.org/abs/2507.10203>`_. With the margins
    :math:`a_m` of modality :math:`m` alone without the id part, over the triples of an epoch, :math:`h` the entropy of
    a probability, and everything normalised to sum 1 over the modalities,

    .. math::
        v_m \propto \textrm{mean} \; h(\sigma(a_m)), \qquad w_m \propto \frac{1}{\max(v_m, 0.6 / M)}, \qquad
        n_m \propto \textrm{mean} \; |a_m|, \qquad
        c_m = M \, \textrm{softmax}_m \left( T \, w_m \textstyle\sum_{n \ne m} n_n \right)

    are the factors of the learning rates in the next epoch, at least 0.1, and those of the uni-modal terms

    .. math::
        \gamma \sum_m c_m \; \underset{uij}{\textrm{mean}} \; \ell(\delta_{uij}(\{m\})).

    Each includes the penalty of its view, without :math:`c_m`. A modality with certain predictions should contribute
    more to the decision: its factor is large as long as the others contribute most.

    Overrides ``views``, ``balance``, ``ranked`` and ``step_sizes``. Costs the uni-modal and the empty view.

    The published code prints its weights and never uses them, supports only two modalities, and computes weights in
    every step.

    Args:
        student: The backbone to train, with at least two modalities and parameters that belong to one alone.
        temperature: Strength :math:`T`; with 0 all factors are 1, and this is multitask training.
        weight: Weight :math:`\gamma` of the uni-modal terms.
        l2: Weight of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`.

    Raises:
        InputError: If there are fewer than two modalities, no trained parameter belongs to one alone, ``temperature``
            or ``weight`` is negative, or a mask does not fit.
    """

    name = "arl"
    capturable = True
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"temperature": (1.0, 16.0), "weight": (0.01, 3.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"temperature": 0.0, "weight": 0.0}
    needs_whole = ""
    batch_items = 0
    reports: ClassVar[Mapping[str, str]] = {"weight": "factor of the modality's step size"}

    strength: Tensor
    entropy: Tensor

    def __init__(
        self,
        student: Backbone,
        temperature: float = 8.0,
        weight: float = 1.0,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, l2)
        check_not_negative("temperature", temperature)
        check_not_negative("weight", weight)
        self.temperature, self.weight = temperature, weight
        self.watch(has, temperature > 0 or weight > 0)
        for name in ("strength", "entropy"):
            self.register_state(name, torch.zeros_like(self.factors))

    def ranked(self, out: Mapping[View, Output]) -> Mapping[View, float]:
        """Return the weight of the uni-modal losses, without factors."""
        return dict.fromkeys(self._alone.values(), self.weight) if self.weight > 0 else {}

    def observe(self, alone: Tensor, known: Tensor | None) -> None:
        """Add up sizes and entropies of margins."""
        number = triples_of(alone, known)
        self.count += number
        self.strength += masked_mean(alone.abs(), known) * number
        self.entropy += masked_mean(binary_entropy(alone), known) * number

    def next_factors(self) -> Tensor:
        """Return the weights of the epoch's mean sizes and entropies."""
        known, factors = self.count > 0, self.factors.clone()  # What no triple has keeps its factor.
        strength, entropy = (gathered[known] / self.count[known] for gathered in (self.strength, self.entropy))
        factors[known] = scaled_softmax(arl_logits(strength, entropy, self.temperature))
        for gathered in (self.count, self.strength, self.entropy):
            gathered.zero_()
        return factors

    def terms(
        self, margins: Mapping[str, Tensor], out: Mapping[View, Output], batch: TripletBatch, known: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the weighted BPR loss of every uni-modal view."""
        if self.weight == 0:
            return {}
        losses = unimodal_losses(margins, known)
        factors = self.factors.unbind()
        return {f"alone/{m}": self.weight * c * loss for (m, loss), c in zip(losses.items(), factors, strict=True)}


def ogm_coefficients(ratio: Tensor, alpha: float) -> Tensor:
    r"""Return :math:`k_m`, below 1 for modalities that are ahead, ``[M]``.

    Args:
        ratio: Ratios :math:`\rho_m`, ``[M]``.
        alpha: Strength :math:`\alpha`.
    """
    return torch.where(ratio > 1, 1 - torch.tanh(alpha * ratio), 1)


def with_noise(grad: Tensor, scale: float = 1.0, draw: Tensor | None = None) -> Tensor:
    """Return a gradient with normal noise of its own standard deviation on the rows that are not zero.

    Args:
        grad: The gradient ``[rows, ...]``.
        scale: Standard deviation of the noise relative to that of the gradient.
        draw: Standard normal numbers of the same shape. (default: :obj:`None`, drawn)
    """
    reached = (grad != 0).flatten(1).any(dim=1).view(-1, *[1] * (grad.dim() - 1))
    number = reached.sum() * grad[:1].numel()
    centred = (grad - grad.sum() / number.clamp(min=1)) * reached
    spread = (centred.square().sum() / (number - 1).clamp(min=1)).sqrt()
    draw = torch.randn_like(grad) if draw is None else draw
    return grad + scale * spread * reached * draw


def cggm_coefficients(before: Tensor, after: Tensor, eps: float = 1e-8) -> Tensor:
    r"""Return the published coefficients :math:`(\sum_n D_n - D_m) / \sum_n D_n` of changes of a metric, ``[M]``.

    Args:
        before: The metric of every modality before a step, ``[M]``.
        after: The metric after it, ``[M]``.
        eps: Added to the sum.
    """
    change = after - before
    whole = change.sum() + eps
    return (whole - change) / whole


def direction_loss(coefficients: Tensor, cosine: Tensor) -> Tensor:
    r"""Return :math:`\frac{1}{M} ( \sum_m |B_m| - \sum_m B_m \cos_m )`, a scalar.

    Args:
        coefficients: Coefficients :math:`B_m`, ``[M]``.
        cosine: Cosine between the joint direction and that of each modality, ``[M]``.
    """
    return (coefficients.abs() - coefficients * cosine).mean()


def direction_cosines(joint: Output, others: Sequence[Output], batch: TripletBatch) -> Tensor:
    r"""Return the cosine of :math:`\mathbf{x}_i - \mathbf{x}_j` in the joint view and in each other, ``[B, V]``.

    Views share blocks of columns; each is read once.

    Args:
        joint: The output of the joint view.
        others: The outputs of other views.
        batch: The triples.
    """
    items, known = torch.cat([batch.positive, batch.negative]), {}

    def differences(out: Output) -> list[Tensor | None]:
        found: list[Tensor | None] = []
        for block in blocks_of(out):
            if id(block) not in known and not block.constant:
                preferred, other = block.item_rows(items).chunk(2)
                known[id(block)] = block, preferred - other  # Held, or others could get their ids.
            found.append(known[id(block)][1] if id(block) in known else None)
        return found

    def inner(first: list[Tensor | None], second: list[Tensor | None]) -> Tensor:
        pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
        parts = [(a * b).sum(dim=-1) for a, b in pairs]
        return torch.stack(parts).sum(dim=0) if parts else joint.margin(*batch[:3]) * 0

    whole = differences(joint)
    length, columns = inner(whole, whole), []
    for each in map(differences, others):
        product = length * inner(each, each)
        columns.append(inner(whole, each) / torch.where(product > 0, product, 1).sqrt())
    return torch.stack(columns, dim=-1)


def binary_entropy(margin: Tensor) -> Tensor:
    r"""Return the entropy of :math:`\sigma(\delta)` in nats, of the shape of the margins.

    Args:
        margin: Margins :math:`\delta`.
    """
    return F.softplus(margin) - margin * margin.sigmoid()


def arl_logits(strength: Tensor, entropy: Tensor, temperature: float) -> Tensor:
    r"""Return :math:`T \, w_m \sum_{n \ne m} n_n`, whose softmax weighs modalities, ``[M]``.

    Args:
        strength: Mean size of every modality's margins, ``[M]``.
        entropy: Mean entropy of its predictions, ``[M]``.
        temperature: Strength :math:`T`.
    """
    share = entropy / entropy.sum()
    inverse = share.clamp(min=LEAST_SHARE / max(share.numel(), 1)).reciprocal()
    whole = strength.sum()
    share_of = torch.where(whole > 0, strength / torch.where(whole > 0, whole, 1), 1 / max(strength.numel(), 1))
    others = 1 - share_of
    return temperature * others * inverse / inverse.sum()
