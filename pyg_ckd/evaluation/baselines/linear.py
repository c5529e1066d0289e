"""EASE, the closed form of a linear auto-encoder of items, and its two forms with content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data.closed_form import MAX_ITEMS as MAX_ITEMS
from pyg_ckd.data.closed_form import check_catalogue, content_weights, gram_matrix, item_weights
from pyg_ckd.data.inputs import check_interactions, held_out
from pyg_ckd.errors import unknown_name
from pyg_ckd.evaluation.baselines.content import content_rows
from pyg_ckd.evaluation.baselines.neighbours import check_not_negative, counts_of, history_of
from pyg_ckd.scoring.neighbourhood import Neighbourhood

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
    number of items: on one core, less than a second for 2,700 and ten seconds for 6,700. Users without training
    interactions are ranked by popularity.

    Args:
        data: The graph.
        ridge: :math:`\lambda`, positive.
        max_items: The largest catalogue to try.

    Raises:
        InputError: If ``ridge`` is not positive or there are more than ``max_items`` items.
    """
    mend = "use item-knn or LightGCN, or raise max_items"
    check_interactions(data)
    check_catalogue("ease", data["item"].num_nodes, mend, max_items)
    gram = gram_of(data)
    return Neighbourhood(history_of(data), item_weights(gram, ridge), counts=counts_of(data))


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
    <https://doi.org/10.1145/3383313.3418480>`_), with cosine kernels instead of tags.

    With the sum of the modalities' cosine kernels :math:`\mathbf{K} = \sum_m \mathbf{F}_m \mathbf{F}_m^\top` and
    the weights :math:`\mathbf{B}(\mathbf{A}, \lambda)` of :func:`ease` for the Gram matrix :math:`\mathbf{A}`,

    .. math::
        \mathbf{B}_{\textrm{collective}} = \mathbf{B}(\mathbf{G} + w \mathbf{K}, \lambda), \qquad
        \mathbf{B}_{\textrm{additive}} = \mathbf{B}(\mathbf{G}, \lambda) + w \, \mathbf{B}(\mathbf{K}, \lambda_K)

    The collective form treats every column of the features as a further user; the additive form adds the weights of
    EASE on the features alone. (The paper's :math:`\alpha` is :math:`w / (1 + w)`, which ranks the same.) Features are
    used as they are in the graph, after its transform. Users without training interactions are ranked by popularity.

    Args:
        data: The graph.
        ridge: :math:`\lambda`, positive.
        weight: :math:`w`, 0 or more.
        form: ``"additive"`` or ``"collective"``.
        content_ridge: :math:`\lambda_K` of the additive form, positive.
        modalities: The modalities to use. (default: :obj:`None`, all)
        max_items: The largest catalogue to try.

    Raises:
        InputError: As :func:`ease`, and if ``weight`` is negative, ``form`` or a modality is unknown, features are not
            finite, or no modality has content.
    """
    if form not in FORMS:
        raise unknown_name("form of EASE with content", form, FORMS)
    weight = check_not_negative("ease-content weight", weight)
    mend = "use item-knn-content or a model that is trained, or raise max_items"
    check_interactions(data)
    check_catalogue("ease-content", data["item"].num_nodes, mend, max_items)
    gram, rows = gram_of(data), stacked(content_rows(data, modalities))
    if form == "collective":
        return Neighbourhood(history_of(data), item_weights(gram, ridge, rows, weight), counts=counts_of(data))
    weights = item_weights(gram, ridge)
    weights += weight * content_weights(rows, content_ridge)
    return Neighbourhood(history_of(data), weights, counts=counts_of(data))


def stacked(rows: Mapping[str, Tensor]) -> Tensor:
    """Return rows side by side, whose dot products are the sum of the kernels.

    Args:
        rows: From modality to its rows ``[num_items, d_m]``.
    """
    return torch.cat(list(rows.values()), dim=1)


def gram_of(data: HeteroData) -> Tensor:
    """Return how many users every two items of a graph share, see :func:`~pyg_ckd.data.closed_form.gram_matrix`."""
    return gram_matrix(held_out(data, "train"), data["user"].num_nodes, data["item"].num_nodes)
