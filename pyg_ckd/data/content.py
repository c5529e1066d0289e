"""Which items have content of a modality."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data.mapped import row_blocks
from pyg_ckd.data.neighbors import without_content


def dense_features(data: HeteroData, modality: str) -> Tensor:
    """Return the features of a modality in float64, dense and on the CPU, ``[num_items, d_m]``.

    Args:
        data: The graph.
        modality: The modality.
    """
    return _dense(torch.as_tensor(data["item"][modality]))


def items_with_content(data: HeteroData, modality: str) -> Tensor:
    """Return which items have features of a modality that tell them apart, bool ``[num_items]``, on the CPU.

    Items are left out that lack the modality (``has_<m>``), whose features are not finite, or are those that stand in
    for missing ones, see :func:`~pyg_ckd.data.neighbors.without_content`.

    Args:
        data: The graph.
        modality: The modality.
    """
    return _says(dense_features(data, modality), _present(data, modality))


def modalities_without_content(data: HeteroData) -> list[str]:
    """Return the modalities in which fewer than two items have content, so that they tell no items apart.

    Large matrices are read in blocks, mostly the first one alone: only if all rows of a block are alike, the next one
    is read.

    Args:
        data: The graph.
    """
    return [m for m in data.modalities if not _tells_apart(data, m)]


def warn_without_content(data: HeteroData, stacklevel: int = 1) -> list[str]:
    """Warn of modalities without content and return them, see :func:`modalities_without_content`.

    Args:
        data: The graph.
        stacklevel: Whom the warning points at: 1 for the caller, 2 for the caller's caller, and so on.

    Warns:
        UserWarning: If there are any.
    """
    names = modalities_without_content(data)
    if names:
        warnings.warn(
            f"features of {', '.join(map(repr, names))}: found no content that tells items apart, expected it for two "
            "items or more; models learn nothing from such features, so check what was read, or leave them out",
            stacklevel=stacklevel + 1,
        )
    return names


def _tells_apart(data: HeteroData, modality: str) -> bool:
    x, present = torch.as_tensor(data["item"][modality]), _present(data, modality)
    if x.layout is not torch.strided or x.dim() != 2:
        return int(items_with_content(data, modality).sum()) > 1
    ends: list[Tensor] = []
    for start, rows in row_blocks(x):
        block, there = _dense(rows), present[start : start + len(rows)]
        if int(_says(block, there).sum()) > 1:
            return True
        known = block[there & torch.isfinite(block).all(dim=1)]
        if len(known):  # All alike but one at most: the shortest and the longest stand for them.
            norm = known.norm(dim=1)
            ends += known[torch.stack([norm.argmin(), norm.argmax()])[: len(known)]]
    several = bool(ends) and len(block) < len(x)
    return several and int(_says(torch.stack(ends), torch.ones(len(ends), dtype=torch.bool)).sum()) > 1


def _dense(x: Tensor) -> Tensor:
    """Return features in float64, dense and on the CPU, ``[N, d]``."""
    x = x.detach().cpu()
    x = (x if x.layout is torch.strided else x.to_dense()).double()
    return x.reshape(len(x), -1)


def _present(data: HeteroData, modality: str) -> Tensor:
    """Return which items have the modality, bool ``[num_items]``."""
    has = data["item"].get(f"has_{modality}")
    if has is None:
        return torch.ones(len(data["item"][modality]), dtype=torch.bool)
    return torch.as_tensor(has).cpu().bool()


def _says(x: Tensor, present: Tensor) -> Tensor:
    """Return which rows of finite features, among those that are present, are neither zero nor the mean over them."""
    says = torch.isfinite(x).all(dim=1) & present
    if bool(says.any()):
        says[says.nonzero().squeeze(1)] = ~without_content(x[says])
    return says
