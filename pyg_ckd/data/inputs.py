"""The one place where a heterogeneous graph is unpacked into the arguments of a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from pyg_ckd.errors import unknown_name
from pyg_ckd.scoring.embeddings import Embeddings

RATES = ("user", "rates", "item")
"""Edge type of the interactions."""

EdgeType = tuple[str, str, str]


def unpack(
    data: HeteroData, device: torch.device | str | None = None
) -> tuple[dict[str, Tensor], dict[EdgeType, Tensor]]:
    """Return ``(features, edge_index_dict)`` of a graph, the first two arguments of every backbone.

    Args:
        data: The graph.
        device: Where the tensors shall lie; by default they stay where they are.

    Returns:
        ``features``, from modality to the float matrix ``[num_items, d_m]``, and ``edge_index_dict``, from edge type to
        the int64 indices ``[2, E]`` of the training interactions and of every further graph.
    """
    features = {m: data["item"][m].to(device) for m in data.modalities}
    return features, {kind: index.to(device) for kind, index in data.edge_index_dict.items()}


@torch.no_grad()
def embed(model: nn.Module, data: HeteroData, views: Sequence[Any] = (None,)) -> list[Embeddings]:
    """Return the embeddings of a model in evaluation mode, one pair of tables for every view.

    Args:
        model: A backbone or an objective.
        data: The graph.
        views: The views.
    """
    device = next((p.device for p in model.parameters()), None)
    features, graph = unpack(data, device)
    training = model.training
    model.eval()
    try:
        return model.forward_views(features, graph, views)  # type: ignore[operator]
    finally:
        model.train(training)


def held_out(data: HeteroData, split: str) -> Tensor:
    """Return the interactions of a split, int64 ``[2, E]``.

    Args:
        data: The graph.
        split: ``"train"``, ``"val"`` or ``"test"``.

    Raises:
        InputError: If ``split`` is not one of them.
    """
    names = {"train": "edge_index", "val": "val_edge_index", "test": "test_edge_index"}
    if split not in names:
        raise unknown_name("split", split, names)
    return data[RATES][names[split]]


def item_masks(data: HeteroData) -> dict[str, Tensor]:
    """Return for every modality that some items lack which items have it, bool ``[num_items]``.

    Args:
        data: The graph.
    """
    masks = {m: data["item"].get(f"has_{m}") for m in data.modalities}
    return {m: has for m, has in masks.items() if has is not None and not bool(has.all())}
