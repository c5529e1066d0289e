"""EASE, the closed form of a linear auto-encoder of items, and its two forms with content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data.inputs import RATES
from pyg_ckd.data.neighbors import shared_counts
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.evaluation.baselines.content import content_rows
from pyg_ckd.evaluation.baselines.neighbours import check_not_negative, history_of
from pyg_ckd.scoring.neighbourhood import Neighbourhood

MAX_ITEMS = 20_000
"""Items up to which a closed form is solved by default: three matrices of them in float64, 10 GB."""

RIDGE, CONTENT_RIDGE, CONTENT_WEIGHT, FORM = 100.0, 10.0, 0.5, "additive"
"""What the knobs are where there is no validation part to choose them on."""

FORMS = ("additive", "collective")


def ease(data: HeteroData, ridge: float = RIDGE, max_items: int = MAX_ITEMS) -> Neighbourhood:
    r"""Return the item-item weights of EASE (`Steck, WWW 2019 <https://arxiv.org/abs/1905.03375>`_).

    With the Gram matrix :math:`\mathbf{G} = \mathbf{X}^\top \mathbf{X}` of the training interactions,

    .. math::
        \mathbf{P} = (\mathbf{G} + \lambda \mathbf{I})^{-1}, \qquad
        \mathbf{B}_{ji} = -\frac{\mathbf{P}_{ji}}{\mathbf{P}_{ii}} \quad (j \neq i), \qquad \mathbf{B}_{ii} = 0, \qquad
        s_{ui} = \sum_{j \in \mathcal{I}_u} \mathbf{B}_{ji}

    which is the least-squares prediction of every column of :math:`\mathbf{X}` from the others. The inverse comes from
    a Cholesky decomposition in float64 on the CPU; the weights are kept in float32. Time grows with the cube of the
    number of items: about a second of one core for 2 700.

    Args:
        data: The graph.
        ridge: :math:`\lambda`, positive.
        max_items: The largest catalogue to try.

    Raises:
        InputError: If ``ridge`` is not positive or there are more than ``max_items`` items.
    """
    gram = gram_matrix(data, max_items)
    return Neighbourhood(history_of(data), item_weights(gram, ridge))


def ease_content(
    data: HeteroData,
    ridge: float = RIDGE,
    weight: float = CONTENT_WEIGHT,
    form: str = FORM,
    content_ridge: float = CONTENT_RIDGE,
    modalities: Sequence[str] | None = None,
    max_items: int = MAX_ITEMS,
) -> Neighbourhood:
    r"""Return EASE with the content of items (`Jeunen, Van Balen and Goethals, RecSys 2020
    <https://doi.org/10.1145/3383313.3418480>`_), with cosine kernels in the place of tags.

    With the sum of the modalities' cosine kernels :math:`\mathbf{K} = \sum_m \mathbf{F}_m \mathbf{F}_m^\top` and
    the weights :math:`\mathbf{B}(\mathbf{A}, \lambda)` of :func:`ease` for the Gram matrix :math:`\mathbf{A}`,

    .. math::
        \mathbf{B}_{\textrm{collective}} = \mathbf{B}(\mathbf{G} + w \mathbf{K}, \lambda), \qquad
        \mathbf{B}_{\textrm{additive}} = \mathbf{B}(\mathbf{G}, \lambda) + w \, \mathbf{B}(\mathbf{K}, \lambda_K)

    The collective form takes every column of the features for a further user; the additive form adds what features
    predict of each other. (The paper's :math:`\alpha` is :math:`w / (1 + w)`, which ranks the same.) Features count as
    they are in the graph, after its transform.

    Args:
        data: The graph.
        ridge: :math:`\lambda`, positive.
        weight: :math:`w`, 0 or more.
        form: ``"additive"`` or ``"collective"``.
        content_ridge: :math:`\lambda_K` of the additive form, positive.
        modalities: The modalities to use. (default: :obj:`None`, all)
        max_items: The largest catalogue to try.

    Raises:
        InputError: As :func:`ease`, and if ``weight`` is negative, ``form`` or a modality is unknown, or no modality
            has content.
    """
    if form not in FORMS:
        raise unknown_name("form of EASE with content", form, FORMS)
    check_not_negative("ease-content weight", weight)
    gram, rows = gram_matrix(data, max_items), stacked(content_rows(data, modalities))
    if form == "collective":
        return Neighbourhood(history_of(data), item_weights(gram, ridge, rows, weight))
    weights = item_weights(gram, ridge)
    weights += weight * content_weights(rows, content_ridge)
    return Neighbourhood(history_of(data), weights)


def stacked(rows: Mapping[str, Tensor]) -> Tensor:
    """Return rows side by side, whose dot products are the sum of the kernels.

    Args:
        rows: From modality to its rows ``[num_items, d_m]``.
    """
    return torch.cat(list(rows.values()), dim=1)


def gram_matrix(data: HeteroData, max_items: int = MAX_ITEMS) -> Tensor:
    """Return how many users every two items share, float64 ``[num_items, num_items]``.

    Args:
        data: The graph.
        max_items: The largest catalogue to try.

    Raises:
        InputError: If there are more items than that.
    """
    users, items = data["user"].num_nodes, data["item"].num_nodes
    if items > max_items:
        raise InputError(
            f"ease: found {items} items, expected at most {max_items}: a closed form holds three matrices of {items} x "
            f"{items} numbers, {3 * 8 * items**2 / 1e9:.1f} GB; use item-knn or LightGCN, or raise max_items"
        )
    gram = torch.zeros(items, items, dtype=torch.float64)
    for first, shared in shared_counts(data[RATES].edge_index.flip(0), items, users):
        block = shared.tocoo()
        gram.numpy()[block.row + first, block.col] = block.data
    return gram


def item_weights(gram: Tensor, ridge: float, rows: Tensor | None = None, weight: float = 1.0) -> Tensor:
    r"""Return the weights :math:`\mathbf{B}(\mathbf{G} + w \mathbf{F} \mathbf{F}^\top, \lambda)` of :func:`ease`.

    Args:
        gram: :math:`\mathbf{G}`, float64 ``[num_items, num_items]``.
        ridge: :math:`\lambda`, positive.
        rows: :math:`\mathbf{F}`, float64 ``[num_items, d]``. (default: :obj:`None`, none)
        weight: :math:`w`, 0 or more.

    Returns:
        Float32 ``[num_items, num_items]``.

    Raises:
        InputError: If ``ridge`` is not positive, or so small that the matrix cannot be inverted.
    """
    _check_ridge(ridge)
    matrix = gram.clone() if rows is None else torch.addmm(gram, rows, rows.t(), alpha=weight)
    matrix.diagonal().add_(ridge)
    factor = _cholesky(matrix, ridge)
    del matrix
    return _weights(torch.cholesky_inverse(factor))


def content_weights(rows: Tensor, ridge: float) -> Tensor:
    r"""Return the weights :math:`\mathbf{B}(\mathbf{F} \mathbf{F}^\top, \lambda)` of :func:`ease`.

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
    _check_ridge(ridge)
    columns = rows.t() @ rows
    columns.diagonal().add_(ridge)
    half = torch.linalg.solve_triangular(_cholesky(columns, ridge), rows.t(), upper=False)  # [d, I]
    inverse = half.t() @ half
    inverse.neg_().diagonal().add_(1)
    return _weights(inverse)  # The factor 1 / ridge leaves the weights as they are.


def _check_ridge(ridge: float) -> None:
    if not 0 < ridge < float("inf"):
        raise InputError(f"ease ridge: found {ridge}, expected a finite positive number")


def _cholesky(matrix: Tensor, ridge: float) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        raise InputError(f"ease ridge: found {ridge}, too small for the matrix to be inverted; choose a larger one")
    return factor


def _weights(inverse: Tensor) -> Tensor:
    """Return the weights by an inverse ``P``, whose memory is used."""
    inverse /= -inverse.diagonal().clone()
    inverse.fill_diagonal_(0)
    return inverse.float()
