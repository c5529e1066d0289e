"""Rows of length one, whatever the scale of the numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_ckd.scoring.tracing import exporting


def unit_length(x: Tensor, size: Tensor | None = None) -> Tensor:
    r"""Return rows divided by their Euclidean length, also where squares overflow or underflow.

    Rows are first divided by a power of two, which changes no bit of the result. Those that are shorter than
    :math:`10^{-12}` then, such as rows of zeros, stay shorter than one.

    Args:
        x: The rows ``[N, d]``.
        size: How large the numbers are that the rows are differences of, see :func:`largest`: what is left of equal
            numbers is rounding, and stays small. (default: :obj:`None`, as large as those of the rows)
    """
    size = largest(x) if size is None else size
    if exporting():  # Formats of models have no frexp.
        power = size
    else:
        wide = size.float() if size.element_size() < 4 else size
        power = (wide / (2 * torch.frexp(wide).mantissa)).to(x.dtype)
    return F.normalize(x / torch.where(size > 0, power, 1), eps=max(1e-12, torch.finfo(x.dtype).tiny))


def largest(x: Tensor) -> Tensor:
    """Return the largest absolute value of every row ``[N, 1]``, without gradient.

    Args:
        x: The rows ``[N, d]``.
    """
    x = x.detach()
    if not x.size(1):
        return x.new_zeros(len(x), 1)
    return torch.maximum(x.amax(dim=1, keepdim=True), -x.amin(dim=1, keepdim=True))
