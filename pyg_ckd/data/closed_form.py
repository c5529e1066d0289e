"""Item-item weights in closed form: what every item says about every other one, by least squares."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from pyg_ckd.arguments import as_integer, as_number
from pyg_ckd.data.neighbors import shared_counts
from pyg_ckd.errors import InputError
from pyg_ckd.scoring.finite import all_finite

MAX_ITEMS = 20_000
"""Items up to which a closed form is solved by default: three matrices of them in float64, 10 GB."""

FEW = 8
"""How many times more items than columns there must be for an inverse to be corrected instead of computed anew."""

LOST = 1e-3
"""A correction that leaves less than this share of an entry of the diagonal is not used, for digits are lost by it."""

_ROWS = 512  # Rows that are mirrored at once.


def check_catalogue(name: str, num_items: int, mend: str, max_items: int = MAX_ITEMS) -> None:
    """Refuse a catalogue that is too large for a closed form.

    Args:
        name: What needs the closed form, for the message.
        num_items: Number of items.
        mend: What to do if there are too many, for the message.
        max_items: The largest catalogue to try.

    Raises:
        InputError: If there are more items than that.
    """
    max_items = as_integer(max_items, "max_items")
    if num_items > max_items:
        raise InputError(
            f"{name}: found {num_items} items, expected at most {max_items}: a closed form holds three matrices of "
            f"{num_items} x {num_items} numbers, {3 * 8 * num_items**2 / 1e9:.1f} GB; {mend}"
        )


def gram_matrix(edge_index: Tensor, num_users: int, num_items: int) -> Tensor:
    """Return how many users every two items share, float64 ``[num_items, num_items]``, on the CPU.

    Args:
        edge_index: Interactions (user row, item row), int64 ``[2, E]``.
        num_users: Number of users.
        num_items: Number of items, see :func:`check_catalogue`.
    """
    gram = torch.zeros(num_items, num_items, dtype=torch.float64)
    for first, shared in shared_counts(edge_index.flip(0), num_items, num_users):
        block = shared.tocoo()
        gram.numpy()[block.row + first, block.col] = block.data
    return gram


def item_weights(gram: Tensor, ridge: float, rows: Tensor | None = None, weight: float = 1.0) -> Tensor:
    r"""Return the weights :math:`\mathbf{B}(\mathbf{G} + w \mathbf{F} \mathbf{F}^\top, \lambda)` of EASE.

    Args:
        gram: :math:`\mathbf{G}`, float64 ``[num_items, num_items]``.
        ridge: :math:`\lambda`, positive.
        rows: :math:`\mathbf{F}` in the same type, ``[num_items, d]``. (default: :obj:`None`, none)
        weight: :math:`w`, 0 or more.

    Returns:
        Float32 ``[num_items, num_items]``.

    Raises:
        InputError: If ``ridge`` is not positive, or so small that the matrix cannot be inverted.
    """
    return _weights(_inverse(gram, ridge, rows, weight))


class FastItemWeights:
    r"""Weights of one Gram matrix near those of :func:`item_weights`, solved in float32.

    That is half the time and memory; where it fails, float64 takes its place. Weights are near as long as the largest
    count and :math:`w` times the largest kernel are far below :math:`10^7` ridges. For a ridge whose inverse
    :math:`\mathbf{P}` without content is kept, the one with content comes from a matrix of columns (`Woodbury
    <https://en.wikipedia.org/wiki/Woodbury_matrix_identity>`_) where there are few of them:

    .. math::
        (\mathbf{P}^{-1} + w \mathbf{F} \mathbf{F}^\top)^{-1} = \mathbf{P} - \mathbf{P} \mathbf{F}
        (\tfrac{1}{w} \mathbf{I} + \mathbf{F}^\top \mathbf{P} \mathbf{F})^{-1} \mathbf{F}^\top \mathbf{P}

    Args:
        gram: The Gram matrix ``[num_items, num_items]`` of whole numbers up to :math:`2^{24}`, which float32 holds.
    """

    def __init__(self, gram: Tensor) -> None:
        self._gram = gram.float()
        self._kept: tuple[float, Tensor] | None = None

    def __call__(self, ridge: float, rows: Tensor | None = None, weight: float = 1.0) -> Tensor:
        """Return the weights of a ridge, and of content.

        Args:
            ridge: Positive.
            rows: Rows of the content, float64 ``[num_items, d]``. (default: :obj:`None`, none)
            weight: 0 or more.

        Raises:
            InputError: As :func:`item_weights`.
        """
        single = None if rows is None else rows.float()
        with torch.autocast("cpu", enabled=False), suppress(InputError):  # Lower precision would not do.
            weights = _weights(self._inverse(ridge, single, weight))
            if all_finite(weights):
                return weights
        return item_weights(self._gram.double(), ridge, rows, weight)

    def keep(self, ridge: float, columns: int) -> None:
        """Replace the kept inverse with that of this ridge, if content with so many columns can correct it.

        Args:
            ridge: Positive.
            columns: Columns of the content that is to come.
        """
        self._kept = None
        if columns * FEW <= len(self._gram):
            with suppress(InputError):
                self._kept = ridge, _inverse(self._gram, ridge)

    def _inverse(self, ridge: float, rows: Tensor | None, weight: float) -> Tensor:
        if self._kept is None or self._kept[0] != ridge:
            return _inverse(self._gram, ridge, rows, weight)
        kept = self._kept[1]
        if rows is None or weight == 0:
            return kept.clone()
        read = kept @ rows
        columns = rows.t() @ read
        columns.diagonal().add_(1 / weight)
        half = torch.linalg.solve_triangular(_cholesky(columns, ridge), read.t(), upper=False)  # [d, I]
        found = torch.addmm(kept, half.t(), half, alpha=-1)
        if bool((found.diagonal() > LOST * kept.diagonal()).all()):
            return found
        return _inverse(self._gram, ridge, rows, weight)


def content_weights(rows: Tensor, ridge: float) -> Tensor:
    r"""Return the weights :math:`\mathbf{B}(\mathbf{F} \mathbf{F}^\top, \lambda)` of EASE.

    The inverse comes from a matrix of columns, of which there are fewer than items (`Woodbury
    <https://en.wikipedia.org/wiki/Woodbury_matrix_identity>`_):

    .. math::
        (\mathbf{F} \mathbf{F}^\top + \lambda \mathbf{I})^{-1} = \frac{1}{\lambda} \left( \mathbf{I} -
        \mathbf{F} (\mathbf{F}^\top \mathbf{F} + \lambda \mathbf{I})^{-1} \mathbf{F}^\top \right)

    Args:
        rows: :math:`\mathbf{F}`, float64 ``[num_items, d]``.
        ridge: :math:`\lambda`, positive.

    Returns:
        Float32 ``[num_items, num_items]``.

    Raises:
        InputError: As :func:`item_weights`.
    """
    ridge = _check_ridge(ridge)
    columns = rows.t() @ rows
    columns.diagonal().add_(ridge)
    half = torch.linalg.solve_triangular(_cholesky(columns, ridge), rows.t(), upper=False)  # [d, I]
    inverse = half.t() @ half
    inverse.neg_().diagonal().add_(1)
    return _weights(inverse)  # The factor 1 / ridge leaves the weights as they are.


def _check_ridge(ridge: float) -> float:
    number = as_number(ridge, "ease ridge")
    if not 0 < number < float("inf"):
        raise InputError(f"ease ridge: found {ridge}, expected a finite positive number")
    return number


def _inverse(gram: Tensor, ridge: float, rows: Tensor | None = None, weight: float = 1.0) -> Tensor:
    ridge = _check_ridge(ridge)
    matrix = gram.clone() if rows is None else torch.addmm(gram, rows, rows.t(), alpha=weight)
    matrix.diagonal().add_(ridge)
    return _invert(matrix, ridge)


def _invert(matrix: Tensor, ridge: float) -> Tensor:
    """Invert a symmetric positive definite matrix, whose memory is used.

    SciPy's LAPACK took half the time of PyTorch's on an AMD EPYC, see ``benchmarks/closed_form.py``.
    """
    from scipy.linalg import get_lapack_funcs  # Here, for importing it takes long.
    from threadpoolctl import threadpool_limits

    given = matrix.detach().numpy().T  # Columns are contiguous, as LAPACK wants them.
    with threadpool_limits(torch.get_num_threads(), "blas"):
        potrf, potri = get_lapack_funcs(("potrf", "potri"), (given,))
        factor, failed = potrf(given, lower=1, clean=0, overwrite_a=1)
        _check_factor(bool(failed) or not np.isfinite(factor.diagonal()).all(), ridge)
        inverse, _ = potri(factor, lower=1, overwrite_c=1)
    found = torch.from_numpy(inverse.T)  # Of every row there is what stands from the diagonal on.
    for first in range(0, len(found), _ROWS):
        rows = slice(first, first + _ROWS)
        found[rows, :first] = found[:first, rows].t()
        square = found[rows, rows]
        square.copy_(square.triu() + square.triu(1).t())
    return found


def _cholesky(matrix: Tensor, ridge: float) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(matrix)
    _check_factor(bool(failed), ridge)
    return factor


def _check_factor(failed: bool, ridge: float) -> None:
    if failed:
        raise InputError(f"ease ridge: found {ridge}, too small for the matrix to be inverted; choose a larger one")


def _weights(inverse: Tensor) -> Tensor:
    """Return the weights by an inverse ``P``, whose memory is used."""
    inverse /= -inverse.diagonal().clone()
    inverse.fill_diagonal_(0)
    return inverse.float()
