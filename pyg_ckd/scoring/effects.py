"""The relative effect of a modality on a margin, the weights that follow from it, and its signal-to-noise ratio."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_EFFECT, MAX_EFFECT = 1e-8, 10.0
MAX_SIGNAL = 1000.0
"""Ratio of signal to noise beyond which the noise is rounding alone."""


@torch.no_grad()
def relative_effects(full: Tensor, without: Tensor, alone: Tensor, base: Tensor | None = None) -> Tensor:
    r"""Return how much every modality adds to a margin, relative to what it can do alone, without gradient.

    .. math::
        e_m = \textrm{clamp} \left( \frac{\delta(\textrm{full}) - \delta(\textrm{full} \setminus m)}
        {\delta(\{m\}) - \delta_0}, 10^{-8}, 10 \right)

    The distillation paper has :math:`\delta_0 = 0`. Then the denominator holds what the ids say besides what the
    modality says, while the ids cancel out of the numerator. With the margin of the empty view as :math:`\delta_0`,
    both are about the modality alone, and a model that is additive over modalities has :math:`e_m = 1` for all of them.

    Args:
        full: Margins of the full view ``[B]``.
        without: Margins of the leave-one-out views ``[B, M]``.
        alone: Margins of the uni-modal views ``[B, M]``.
        base: Margins :math:`\delta_0` of the empty view ``[B]``. (default: :obj:`None`, zero)
    """
    # In half precision 1e-8 would be zero, and so would the sum that the weights divide by.
    dtype = torch.promote_types(full.dtype, torch.float32)
    alone = alone if base is None else alone - base.unsqueeze(-1)
    ratio = (full.unsqueeze(-1) - without).to(dtype) / alone
    return ratio.nan_to_num(MIN_EFFECT, MAX_EFFECT, MIN_EFFECT).clamp_(MIN_EFFECT, MAX_EFFECT)


@torch.no_grad()
def effect_weights(effects: Tensor, available: Tensor | None = None) -> Tensor:
    r"""Return :math:`w_m = \frac{M}{M - 1} ( 1 - e_m / \sum_n e_n )`, the weight of every modality on every triple.

    Args:
        effects: Effects ``[B, M]``.
        available: Which modalities the items of each triple have, bool ``[B, M]``. The others weigh 0, those that
            are left sum to their number, and one that is left alone weighs 1. (default: :obj:`None`, all of them)
    """
    if available is None:
        num = effects.size(-1)
        return num / (num - 1) * (1 - effects / effects.sum(dim=-1, keepdim=True))
    left, kept = available.sum(dim=-1, keepdim=True), effects * available
    weights = left / (left - 1) * (1 - kept / kept.sum(dim=-1, keepdim=True))
    return torch.where(left > 1, weights, 1.0) * available


@torch.no_grad()
def margin_sums(margins: Tensor, base: Tensor | None = None, available: Tensor | None = None) -> Tensor:
    """Return number, sum and sum of squares of every modality's margins, what :func:`signal_to_noise` is made of.

    Args:
        margins: Margins of the uni-modal views ``[B, M]``.
        base: Margins of the empty view ``[B]``, taken away from them. (default: :obj:`None`, nothing is)
        available: Which modalities the items of each triple have, bool ``[B, M]``; the others do not count. (default:
            :obj:`None`, all)

    Returns:
        The sums ``[3, M]`` in double precision; those of several batches can be added up.
    """
    a = (margins if base is None else margins - base.unsqueeze(-1)).double()
    known = torch.ones_like(a) if available is None else available.double()
    a = torch.where(known > 0, a, 0)
    return torch.stack([known.sum(dim=0), a.sum(dim=0), a.square().sum(dim=0)])


@torch.no_grad()
def signal_to_noise(sums: Tensor) -> Tensor:
    r"""Return the signal-to-noise ratio of every modality's margins, :math:`\max(0, \textrm{mean} / \textrm{std})`.

    With :math:`a_m = \delta(\{m\}) - \delta(\emptyset)`, what modality :math:`m` alone says about a triple without
    the ids, the mean over triples is signal, and what varies is noise: of data :math:`y \boldsymbol{\mu} +
    \boldsymbol{\xi}` with labels :math:`y = \pm 1`, the model of `"On the Comparison between Multi-modal and
    Single-modal Contrastive Learning" <https://arxiv.org/abs/2411.02837>`_, it is the ratio
    :math:`\mathbf{w}^\top \boldsymbol{\mu} / \textrm{std}(\mathbf{w}^\top \boldsymbol{\xi})` for the weights
    :math:`\mathbf{w}` that were learned. With Gaussian noise a share :math:`\Phi(\textrm{SNR})` of the triples is
    ranked right.

    Args:
        sums: The sums ``[3, M]`` of :func:`margin_sums`.

    Returns:
        The ratios ``[M]``, from 0 (no signal, or a wrong one) to 1000 (no noise).
    """
    number, first, second = sums
    mean = first / number.clamp(min=1)
    square = second / number.clamp(min=1)
    variance = (square - mean.square()).clamp(min=0)
    noise = torch.maximum(variance, square / (1 + MAX_SIGNAL**2)).sqrt()
    ratio = mean / torch.where(noise > 0, noise, 1)
    return ratio.clamp(0, MAX_SIGNAL)
