"""What two tables of rows tell about each other, whatever their axes are."""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_ckd.balance.objective import check_positive
from pyg_ckd.errors import InputError


@torch.no_grad()
def canonical_correlations(x: Tensor, y: Tensor, ridge: float = 1e-3) -> Tensor:
    r"""Return the canonical correlations :math:`\rho_k` of two tables, such as the rows of items in two modalities.

    They are the singular values of :math:`\mathbf{C}_{xx}^{-1/2} \mathbf{C}_{xy} \mathbf{C}_{yy}^{-1/2}` with
    covariances over rows, to whose diagonals the ridge is added. From `"Relations Between Two Sets of Variates"
    <https://doi.org/10.1093/biomet/28.3-4.321>`_ (Hotelling, 1936).

    Args:
        x: Rows ``[N, D]``, at least two.
        y: Rows ``[N, E]`` of the same objects.
        ridge: Added to both diagonals; if it is small, correlations between few rows are largely chance.

    Returns:
        Values from 0 to 1 in double precision, the largest first, ``[min(D, E)]``, without gradient.

    Raises:
        InputError: If the tables do not have the same number of rows, there are fewer than two, or the ridge is not
            positive.
    """
    check_positive("ridge", ridge)
    if x.dim() != 2 or y.dim() != 2 or x.size(0) != y.size(0) or x.size(0) < 2:
        raise InputError(
            f"rows: found shapes {list(x.shape)} and {list(y.shape)}, expected two tables with a row each for the same "
            "two things or more"
        )
    x, y = (rows.double() - rows.double().mean(dim=0) for rows in (x, y))
    roots = []
    for rows in (x, y):
        own = rows.t() @ rows / (rows.size(0) - 1)
        roots.append(torch.linalg.cholesky(own + ridge * torch.eye(own.size(0), dtype=own.dtype, device=own.device)))
    between = x.t() @ y / (x.size(0) - 1)
    half = torch.linalg.solve_triangular(roots[0], between, upper=False)
    whole = torch.linalg.solve_triangular(roots[1], half.t(), upper=False)
    return torch.linalg.svdvals(whole)


def row_information(x: Tensor, y: Tensor, ridge: float = 1e-3) -> Tensor:
    r"""Return the mutual information of two tables of Gaussian rows, :math:`-\tfrac{1}{2} \sum_k \ln (1 - \rho_k^2)`.

    It is too high where the tables are about as wide as they have rows.

    Args:
        x: Rows ``[N, D]``, see :func:`canonical_correlations`.
        y: Rows ``[N, E]``.
        ridge: Added to the diagonals of both covariances.

    Returns:
        Nats in double precision, a scalar, without gradient.
    """
    return -0.5 * torch.log1p(-canonical_correlations(x, y, ridge).square()).sum()
