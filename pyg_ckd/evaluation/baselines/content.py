"""What the features say about the likeness of items: rows whose dot products are cosines."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.arguments import as_names
from pyg_ckd.data.content import dense_features, items_with_content
from pyg_ckd.data.inputs import check_graph
from pyg_ckd.data.mapped import check_all_finite, file_of
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.scoring.unit import unit_length


def content_rows(data: HeteroData, modalities: Sequence[str] | None = None) -> dict[str, Tensor]:
    r"""Return the features of every modality as rows of norm one, so that :math:`\mathbf{F} \mathbf{F}^\top` is the
    cosine kernel.

    Items without content (:func:`~pyg_ckd.data.content.items_with_content`) have rows of zeros: they are like no item.
    Modalities in which fewer than two items have content are left out.

    Args:
        data: The graph.
        modalities: The modalities to use. (default: :obj:`None`, all)

    Returns:
        From modality to float64 ``[num_items, d_m]``, on the CPU.

    Raises:
        InputError: If a modality is unknown, a value of its features is not finite, or none has content.
    """
    check_graph(data)
    rows, found = {}, []
    for m in data.modalities if modalities is None else as_names(modalities, "modalities"):
        if m not in data.modalities:
            raise unknown_name("modality", m, data.modalities)
        x = dense_features(data, m)
        check_all_finite(x, m, file_of(data["item"][m]))
        says = items_with_content(data, m)
        if int(says.sum()) > 1:
            rows[m] = unit_length(x) * says.unsqueeze(1)
        found.append(f"{m}: {int(says.sum())} of {says.numel()} items")
    if not rows:
        raise InputError(
            f"features: found no content that tells items apart ({', '.join(found) or 'no modality'}), expected it for "
            "two items or more of a modality; use the baseline without content"
        )
    return rows
