"""What strategies share to tell modalities apart: the estimator of their effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pyg_ckd.errors import InputError
from pyg_ckd.scoring.effects import effect_weights, relative_effects

if TYPE_CHECKING:
    import pandas as pd


class ModalityEffectEstimator(nn.Module):
    r"""Finds the weak modality from margins and turns effects into weights.

    From `"Modality-Balanced Learning for Multimedia Recommendation" <https://arxiv.org/abs/2408.06360>`_.

    .. math::
        e_m = \textrm{clamp} \left( \frac{\delta(\textrm{full}) - \delta(\textrm{full} \setminus m)}{\delta(\{m\})},
        10^{-8}, 10 \right), \qquad
        w_m = \frac{M}{M - 1} \left( 1 - \frac{e_m}{\sum_n e_n} \right)

    The effect is how much modality ``m`` still adds to the joint decision on a triple, relative to what it can do
    alone. The weights of a triple sum to :math:`M`; the smallest effect gets the largest weight.

    Every input gives finite effects:

    * Where the single-modality margin goes to zero, the ratio grows without bound and the clamp ends it at 10 (the
      joint decision follows ``m`` more than ``m`` alone supports) or at 1e-8 (the signs differ).
    * Where both are exactly zero, there is no evidence that ``m`` is used, and the effect is 1e-8.
    * Where both margins are negative, the ratio is positive and kept: alone, ``m`` prefers the wrong item, and the
      joint decision follows it in that. This is use of the modality just as a shared correct preference is, and the
      effect measures use, not success.
    * Where all effects of a triple are 1e-8, nothing tells the modalities apart, and every weight is 1.

    Args:
        modalities: Names of the modalities, at least two.

    Shapes:
        - **input:** margins of the full view :math:`(B)`, of the leave-one-out views :math:`(B, M)`, of the uni-modal
          views :math:`(B, M)`
        - **output:** effects :math:`(B, M)`, without gradient

    Raises:
        InputError: If there are fewer than two modalities.
    """

    effect_sum: Tensor
    weight_sum: Tensor
    count: Tensor
    effect: Tensor
    weight: Tensor

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__()
        if len(modalities) < 2:
            raise InputError(
                f"modality effects: found {len(modalities)} modality ({', '.join(modalities) or 'none'}), expected at "
                "least two to balance; train a single modality without the wrapper"
            )
        self.modalities = tuple(modalities)
        for name in ("effect_sum", "weight_sum"):
            self.register_buffer(name, torch.zeros(len(modalities), dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        for name in ("effect", "weight"):
            self.register_buffer(name, torch.full((len(modalities),), torch.nan, dtype=torch.float64))

    @torch.no_grad()
    def forward(self, full: Tensor, without: Tensor, alone: Tensor) -> Tensor:
        """Return the effects of every modality on every triple."""
        return relative_effects(full, without, alone)

    @torch.no_grad()
    def weights(self, effects: Tensor, available: Tensor | None = None) -> Tensor:
        """Return the weight of every modality on every triple, see :func:`~pyg_ckd.scoring.effects.effect_weights`.

        Args:
            effects: Effects ``[B, M]``.
            available: Which modalities the items of each triple have, bool ``[B, M]``. (default: :obj:`None`, all)
        """
        return effect_weights(effects, available)

    @torch.no_grad()
    def track(self, effects: Tensor, weights: Tensor) -> None:
        """Add a batch to the means of the running epoch.

        Args:
            effects: Effects ``[B, M]``.
            weights: Weights ``[B, M]``.
        """
        self.effect_sum += effects.sum(dim=0)
        self.weight_sum += weights.sum(dim=0)
        self.count += effects.size(0)

    def finish_epoch(self) -> dict[str, float]:
        """Return the epoch's mean effects and weights, keep them for :meth:`summary` and start the next epoch."""
        if int(self.count):
            self.effect.copy_(self.effect_sum / self.count)
            self.weight.copy_(self.weight_sum / self.count)
        for total in (self.effect_sum, self.weight_sum, self.count):
            total.zero_()
        effect, weight = self.effect.tolist(), self.weight.tolist()
        return {f"effect/{m}": e for m, e in zip(self.modalities, effect, strict=True)} | {
            f"weight/{m}": w for m, w in zip(self.modalities, weight, strict=True)
        }

    def summary(self) -> pd.DataFrame:
        """Return mean effect and mean weight per modality over the last finished epoch, the weakest first."""
        import pandas as pd

        table = pd.DataFrame(
            {"effect": self.effect.tolist(), "weight": self.weight.tolist()},
            index=pd.Index(self.modalities, name="modality"),
        )
        return table.sort_values("effect", kind="stable")
