"""Which items have content of a modality."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data.neighbors import without_content


def dense_features(data: HeteroData, modality: str) -> Tensor:
    """Return the features of a modality in float64, dense and on the CPU, ``[num_items, d_m]``.

    Args:
        data: The graph.
        modality: The modality.
    """
    x = torch.as_tensor(data["item"][modality]).detach().cpu()
    x = (x if x.layout is torch.strided else x.to_dense()).double()
    return x.reshape(len(x), -1)


def items_with_content(data: HeteroData, modality: str) -> Tensor:
    """Return which items have features of a modality that tell them apart, bool ``[num_items]``, on the CPU.

    Items are left out that lack the modality (``has_<m>``), whose features are not finite, or are those that stand in
    for missing ones, see :func:`~pyg_ckd.data.neighbors.without_content`.

    Args:
        data: The graph.
        modality: The modality.
    """
    x, has = dense_features(data, modality), data["item"].get(f"has_{modality}")
    says = torch.isfinite(x).all(dim=1)
    says = says if has is None else says & torch.as_tensor(has).cpu().bool()
    if bool(says.any()):
        says[says.nonzero().squeeze(1)] = ~without_content(x[says])
    return says
