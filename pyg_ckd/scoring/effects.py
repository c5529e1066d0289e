"""The relative effect of a modality on a margin, and the weights that follow from it."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_EFFECT, MAX_EFFECT = 1e-8, 10.0


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
