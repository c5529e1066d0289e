"""Consistency of views (UmURL): what one modality says can be read from the fused rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyg_ckd.arguments import as_integer
from pyg_ckd.balance.contrast import check_widths
from pyg_ckd.balance.given import MaskedObjective, added_rows_of
from pyg_ckd.balance.objective import check_not_negative
from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn.loss import first_of_each
from pyg_ckd.nn.models.base import Backbone, Graph
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.rows import added_item_rows
from pyg_ckd.scoring.views import EMPTY, View, unimodal_views

CLOSENESS, VARIANCE = 5.0, 5.0
"""Published weights of the consistency terms and of the variance term."""
SMALL = 1e-4
"""Published addition to a variance under the root."""
LEAST_SPREAD = 0.01
"""Smallest scale of rows, as a share of their root mean square, so that rows that are nearly alike do not explode."""


class ViewConsistency(MaskedObjective):
    r"""Keeps the rows of every modality alone close to a projection of the fused rows.

    The consistency learning of `"Unified Multi-modal Unsupervised Representation Learning for Skeleton-based Action
    Understanding" <https://arxiv.org/abs/2311.03106>`_ (UmURL), beside the ranking loss. With :math:`\mathbf{z}_m`,
    what modality :math:`m` adds to the rows of items in the empty view, :math:`\mathbf{z}`, what all modalities
    together add in the same columns, and a projector :math:`\mathbf{u}_m = \mathbf{A}_m \mathbf{z}`,

    .. math::
        \mathcal{L}_{intra} &= \sum_m \textrm{MSE}(\mathbf{z}_m, \mathbf{u}_m), \qquad
        \mathcal{L}_{inter} = \sum_m \textrm{MSE} \Big( \mathbf{z}_m, \frac{1}{M} \sum_n \mathbf{z}_n \Big)

        R(\mathbf{x}) &= 5 \, \underset{d}{\textrm{mean}} \max \big( 0, 1 - \sqrt{\textrm{var}_d + 10^{-4}} \big)
        + \frac{1}{D} \sum_{d \neq e} \textrm{cov}_{de}^2

        \mathcal{L} &= \mathcal{L}_{BPR} + \lambda \, \mathcal{L}_2 + w \Big( 5 ( \mathcal{L}_{intra} +
        \mathcal{L}_{inter} ) + \sum_m \big( R(\mathbf{z}_m) + R(\mathbf{u}_m) \big) \Big)

    over the positive items of a batch, each once. The first term counteracts a modality that is lost in the fused rows;
    :math:`R` keeps the rows from collapsing to one, which is possible without negatives. Published representations have
    a scale of one, but those of a recommender do not: rows are divided by the root mean variance of the batch's fused
    rows, one number without gradient, but by no less than a hundredth of the root mean square of the rows. Of fewer
    than two items nothing can be compared, and the terms are zero. The projectors are learned matrices, initialised as
    the identity. :meth:`prepare` creates them from the rows of one forward pass.

    Meant for early fusion, where all modalities are in one stream. Where every modality has columns of its own, as in
    :class:`~pyg_ckd.nn.VBPR`, the fused rows are the modality's own and the first term has no effect.

    Overrides ``views``, ``balance`` and ``prepare``. Costs the uni-modal views and the empty one. Differs from the
    published code in its projectors, which have two layers there and 4,096 columns.

    Args:
        student: The backbone to train, with at least two modalities whose views have rows of one width.
        weight: Weight :math:`w` of all consistency terms.
        projector: Whether the projectors are learned; if not, they stay the identity.
        num_items: Positive items of a batch, at most, whose rows are compared.
        l2: Weight :math:`\lambda` of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`. An item that lacks any modality is left out.

    Raises:
        InputError: If there are fewer than two modalities, a number is out of its range or a mask does not fit; in the
            first step, if the modalities' rows differ in width.
    """

    name = "umurl"
    capturable = True
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (1e-3, 0.1)}
    neutral: ClassVar[Mapping[str, Any]] = {"weight": 0.0}
    needs_whole = ""

    def __init__(
        self,
        student: Backbone,
        weight: float = 0.01,
        projector: bool = True,
        num_items: int = 512,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, l2)
        self.store_masks(has)
        self.check_views()
        check_not_negative("weight", weight)
        self.weight, self.projector, self.num_items = weight, projector, as_integer(num_items, "num_items", 2)
        self._alone = unimodal_views(student.modalities)
        self.projectors = nn.ParameterDict()

    @property
    def batch_items(self) -> int:  # type: ignore[override]
        """Positives of a batch that a step reads the rows of."""
        return self.num_items

    @property
    def views(self) -> Sequence[View]:
        """The full, the uni-modal and the empty views; the full view alone if consistency weighs nothing."""
        return [self.view, *self._alone.values(), EMPTY] if self.weight > 0 else [self.view]

    def prepare(self, features: Mapping[str, Tensor], edge_index_dict: Mapping[EdgeType, Graph]) -> dict[EdgeType, Any]:
        """Prepare the graphs once, and make the projectors as wide as the rows of the modalities."""
        graphs = super().prepare(features, edge_index_dict)
        if self.projector and self.weight > 0 and not self.projectors:
            for m, row in added_rows_of(self.student, features, graphs, self._alone).items():
                self.projectors[m] = nn.Parameter(torch.eye(row.size(1), dtype=row.dtype, device=row.device))
        return graphs

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Make the projectors that are stored and not there yet, before PyTorch copies them."""
        stored = {m: state_dict.get(f"{prefix}projectors.{m}") for m in self.modalities}
        whole = all(isinstance(value, Tensor) and value.dim() == 2 for value in stored.values())
        if whole and self.projector and self.weight > 0 and not self.projectors:
            device = next(self.student.parameters()).device
            for m, value in stored.items():
                assert value is not None
                self.projectors[m] = nn.Parameter(torch.empty_like(value, device=device))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return closeness within and between modalities, and what keeps rows apart."""
        if self.weight == 0:
            return {}
        items = batch.whole.positive[: self.num_items]
        counted, known = first_of_each(items), self.available(items, items)
        if known is not None:
            counted = counted & known.all(dim=1)
        alone = {m: added_item_rows(out[view], out[EMPTY], items) for m, view in self._alone.items()}
        check_widths(self, alone)
        fused = [added_item_rows(out[self.view], out[EMPTY], items, out[view]) for view in self._alone.values()]
        z, u = torch.stack(list(alone.values())), torch.stack(fused)
        scale, too_few = scale_of(z, u, counted), counted.sum() < 2
        z, u = z / scale, u / scale
        if self.projectors:
            u = torch.stack([x @ self.projectors[m].t().to(x.dtype) for m, x in zip(self._alone, u, strict=True)])
        apart = torch.stack([regularisation(x, counted) for x in (z, u)]).sum()
        terms = {
            "intra": self.weight * CLOSENESS * closeness(z, u, counted),
            "inter": self.weight * CLOSENESS * closeness(z, z.mean(dim=0, keepdim=True), counted),
            "apart": self.weight * apart,
        }
        return {name: value.masked_fill(too_few, 0) for name, value in terms.items()}


@torch.no_grad()
def scale_of(rows: Tensor, fused: Tensor, counted: Tensor) -> Tensor:
    """Return the root mean variance of fused rows, at least a share of the root mean square of all rows, a scalar.

    Args:
        rows: Rows ``[M, B, D]`` of the modalities alone.
        fused: Fused rows ``[M, B, D]``.
        counted: Which rows count, bool ``[B]``.

    Returns:
        The scale, and 1 if all rows that count are zero.
    """
    spread = _covariance(fused, counted).diagonal(dim1=1, dim2=2).mean().sqrt()
    squares = torch.stack([rows, fused]).square().mean(dim=(0, 1, 3))
    size = ((squares * counted).sum() / counted.sum().clamp(min=1)).sqrt()
    scale = torch.maximum(spread, LEAST_SPREAD * size)
    return scale.masked_fill(scale == 0, 1)


def closeness(rows: Tensor, targets: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return the mean squared difference of rows, summed over modalities, a scalar.

    Args:
        rows: Rows ``[M, B, D]``.
        targets: What they shall be close to, ``[M, B, D]`` or ``[1, B, D]``; gradient reaches both.
        counted: Which rows count, bool ``[B]``. (default: :obj:`None`, all)
    """
    gap = (rows - targets).square().mean(dim=-1)
    return gap.mean(dim=1).sum() if counted is None else (gap * counted).sum() / counted.sum().clamp(min=1)


def regularisation(rows: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return five times the hinge of the deviations at one plus the squared covariances, summed over modalities.

    Args:
        rows: Rows ``[M, B, D]``.
        counted: Which rows count, bool ``[B]``. (default: :obj:`None`, all)
    """
    return (VARIANCE * variance_hinge(rows, counted) + squared_covariance(rows, counted)).sum()


def variance_hinge(rows: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return by how much the deviation of a column is below one, the mean over columns, ``[M]``.

    Args:
        rows: Rows ``[M, B, D]``.
        counted: Which rows count, bool ``[B]``. (default: :obj:`None`, all)
    """
    variance = _covariance(rows, counted).diagonal(dim1=1, dim2=2)
    return (1 - (variance + SMALL).sqrt()).clamp(min=0).mean(dim=-1)


def squared_covariance(rows: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return the sum of the squared covariances of different columns, divided by the number of columns, ``[M]``.

    Args:
        rows: Rows ``[M, B, D]``.
        counted: Which rows count, bool ``[B]``. (default: :obj:`None`, all)
    """
    covariance = _covariance(rows, counted)
    own = covariance.diagonal(dim1=1, dim2=2).square().sum(dim=-1)
    return (covariance.square().sum(dim=(1, 2)) - own) / rows.size(-1)


def _covariance(rows: Tensor, counted: Tensor | None) -> Tensor:
    """Return the unbiased covariance of the columns, ``[M, D, D]``."""
    known = rows.new_ones(rows.size(1)) if counted is None else counted.to(rows.dtype)
    known, number = known.unsqueeze(-1), known.sum()
    centred = (rows - (rows * known).sum(dim=1, keepdim=True) / number.clamp(min=1)) * known
    return centred.transpose(1, 2) @ centred / (number - 1).clamp(min=1)
