"""AMSS: in every step, strong modalities update a random part of their parameters only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyg_ckd.arguments import as_number
from pyg_ckd.balance.attribution import RunningInformation
from pyg_ckd.balance.given import MaskedObjective
from pyg_ckd.balance.gradients import SHARED, check_steerable, edit, parameter_groups
from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.views import EMPTY, View, unimodal_views

IDS = "ids"
"""Name in the history of all parameters that belong to no modality, unless a modality is called so."""


class MaskedSubnetworks(MaskedObjective):
    r"""Masks a random part of the gradient rows of modalities that already rank well, and of the ids.

    AMSS of `"Learning to Rebalance Multi-Modal Optimization by Adaptively Masking Subnetworks"
    <https://arxiv.org/abs/2404.08347>`_, with the ids as one more modality, because in recommendation they usually
    learn fastest. With the :func:`~pyg_ckd.balance.attribution.label_information` :math:`I_m` of what modality
    :math:`m` alone adds to the ids, :math:`\delta(\{m\}) - \delta(\emptyset)`, and that of the ids,
    :math:`\delta(\emptyset)`, over the last epoch, the share of rows of a gradient that a step learns from is

    .. math::
        k_m = \textrm{clamp} \left( \frac{\textrm{mean}_n \, I_n}{I_m}, k_{\min}, 1 \right)

    A table is masked row by row, a matrix by output units. Row :math:`r` of a gradient is kept with probability
    :math:`\pi_r = \min(1, c \, \lVert \mathbf{g}_r \rVert)`, with :math:`c` such that a share :math:`k_m` of all rows
    that have a gradient is kept, and divided by :math:`\pi_r`, so that the expectation of the gradient stays what it is
    (AMSS+).

    Overrides ``views``, ``balance``, ``backward`` and ``begin_epoch``. Costs the uni-modal views and the empty one,
    without a backward pass. The first epoch is plain. Triples with an item that lacks a modality do not count for its
    information. The history shows the shares as ``keep/visual`` and ``keep/ids``.

    Under Adam, which divides by the root of the mean square of a gradient, a factor of a gradient has no effect. A mask
    has: with or without the division by :math:`\pi`, the mean square grows beside the square of the mean by :math:`1 /
    \pi`, so that a row moves more slowly by about :math:`\sqrt{\pi}`. A masked row still moves, because Adam continues
    with the moments of earlier steps. To leave such rows as they are, every step would have to keep a copy of all
    tables. The paper finds significance with networks that estimate mutual information, and takes squared gradients for
    the probabilities; official code was not found.

    Args:
        student: The backbone to train, with at least two modalities and parameters that belong to one alone.
        least: Smallest share that is kept, :math:`k_{\min}`, above 0 and at most 1; with 1 training is plain.
        ids: Whether what belongs to no modality, such as ids, takes part as one more modality. If not, it learns as
            always.
        unbiased: Whether what is kept is divided by its probability.
        l2: Weight of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`.

    Raises:
        InputError: If there are fewer than two modalities, no trained parameter belongs to one alone, ``least`` is out
            of its range or a mask does not fit; at the first step, if margins depend on no such parameter.
    """

    name = "amss"
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"least": (0.05, 0.9)}
    neutral: ClassVar[Mapping[str, Any]] = {"least": 1.0}
    needs_whole = "the gradients of a batch"
    batch_items = 0
    reports: ClassVar[Mapping[str, str]] = {
        "keep": "share of the rows of the modality's gradients that a step learns from",
        "information": "what the modality alone, or the ids, tell about the positive item, in nats",
    }

    def __init__(
        self,
        student: Backbone,
        least: float = 0.1,
        ids: bool = True,
        unbiased: bool = True,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, l2)
        if not 0 < as_number(least, "least") <= 1:
            raise InputError(f"least: found {least}, expected a share above 0 and at most 1")
        self.least, self.ids, self.unbiased = least, ids, unbiased
        self.store_masks(has)
        check_steerable(student, self.name, scores="epochs" if least < 1 else "")
        self._alone = unimodal_views(student.modalities)
        shared = IDS
        while shared in student.modalities:
            shared += "_"
        names = [*student.modalities, *([shared] if ids else [])]
        self.information = RunningInformation(names)
        self._keep = [1.0] * len(names)

    def begin_epoch(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> dict[EdgeType, Any]:
        """Choose the shares of the epoch by the information of the last one."""
        known = self.information.known
        self._keep = kept_shares(torch.where(known, self.information.label, torch.nan), self.least).tolist()
        return super().begin_epoch(features, graphs)

    @property
    def views(self) -> Sequence[View]:
        """The full, the uni-modal and the empty view; the full view alone if nothing is masked."""
        return [self.view, *([*self._alone.values(), EMPTY] if self.least < 1 else [])]

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Measure the information; the loss has no further terms."""
        if EMPTY not in out:
            return {}
        self.check_reached(out, batch)
        with torch.no_grad():
            ids = out[EMPTY].margin(*batch[:3])
            margins = [out[view].margin(*batch[:3]) - ids for view in self._alone.values()]
            known = self.available(batch.positive, batch.negative)
            if self.ids:
                margins.append(ids)
                if known is not None:
                    known = torch.cat([known, torch.ones_like(known[:, :1])], dim=-1)
            self.information.track(torch.stack(margins, dim=-1), None, known)
        return {}

    def backward(self, terms: Mapping[str, Tensor], run: Callable[..., None]) -> None:
        """Compute the gradients and mask those of strong modalities."""
        super().backward(terms, run)
        groups = parameter_groups(self.student)
        for name, keep in zip([*self.modalities, SHARED], self._keep, strict=False):
            if keep < 1:
                edit(groups[name], lambda grad, keep=keep: masked_rows(grad, keep, self.unbiased))  # type: ignore[misc]

    def epoch_statistics(self) -> dict[str, float]:
        """Return the share of every modality in the finished epoch, and the information that it ended with."""
        if self.least == 1:
            return {}
        self.information.finish_epoch()
        found = {"keep": self._keep, "information": self.information.label.tolist()}
        names = self.information.modalities
        return {f"{k}/{name}": value for k, v in found.items() for name, value in zip(names, v, strict=True)}


def kept_shares(information: Tensor, least: float) -> Tensor:
    r"""Return :math:`\textrm{clamp}(\textrm{mean}_n \, I_n / I_m, k_{\min}, 1)`, ``[M]``.

    Args:
        information: Information :math:`I_m` of zero or more, ``[M]``; where it is zero or unknown, NaN, the share is 1.
        least: :math:`k_{\min}`.
    """
    return torch.nan_to_num(information.nanmean() / information, 1.0).clamp(least, 1.0)


@torch.no_grad()
def masked_rows(grad: Tensor, keep: float, unbiased: bool = True) -> Tensor:
    """Return a gradient of which some rows, drawn at random, are zero.

    Args:
        grad: The gradient ``[N, ...]``.
        keep: The share of the rows with a gradient that is kept.
        unbiased: Whether rows that are kept are divided by their probability.
    """
    rows = grad.reshape(grad.size(0), -1) if grad.dim() else grad.reshape(1, 1)
    probability = row_probabilities(rows.norm(dim=1), keep)
    kept = torch.rand_like(probability) < probability
    factor = torch.where(kept, 1 / probability if unbiased else torch.ones_like(probability), 0)
    return (rows * factor.to(rows.dtype).unsqueeze(-1)).reshape(grad.shape)


def row_probabilities(norm: Tensor, keep: float) -> Tensor:
    r"""Return :math:`\pi_r = \min(1, c x_r)` with :math:`c` such that their sum is a share of the positive :math:`x_r`.

    Args:
        norm: Lengths :math:`x_r` of the rows, ``[N]``.
        keep: The share.
    """
    norm = norm.double()
    if not norm.numel():
        return norm
    target = keep * (norm > 0).sum()
    longest = norm.sort(descending=True).values
    rest = longest.flip(0).cumsum(0).flip(0)  # Of every row, the sum over it and all that are shorter.
    left = target - torch.arange(norm.size(0), device=norm.device)  # Of the target, if all longer rows are certain.
    certain = (left * longest <= rest).int().argmax(dim=0, keepdim=True)  # How many rows would come to more than 1.
    open_ = norm.masked_fill(norm > longest.gather(0, certain), 0).sum()
    scale = (target - certain) / torch.where(open_ > 0, open_, 1)
    return (norm * scale).clamp(max=1)
