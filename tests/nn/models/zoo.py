"""Every backbone in every variant, and what a test needs to call it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from pyg_ckd.data.inputs import RATES, unpack
from pyg_ckd.nn import (
    BM3,
    FISM,
    FREEDOM,
    GRCN,
    LATTICE,
    MGCN,
    MICRO,
    MMGCN,
    VBPR,
    AdaptedBackbone,
    Backbone,
    DualGNN,
    EarlyFusionLightGCN,
    EgoGCN,
    LightGCN,
)


class Toy(nn.Module):
    """A small model with ``forward(x_dict, edge_index) -> (user, item)`` that knows nothing of this package."""

    def __init__(self, num_users: int, dims: dict[str, int], width: int = 4) -> None:
        super().__init__()
        self.user_embedding = nn.Parameter(torch.randn(num_users, width))
        self.lins = nn.ModuleDict({m: nn.Linear(d, width) for m, d in dims.items()})

    def forward(self, x_dict: dict[str, Tensor], edge_index: Tensor) -> tuple[Tensor, Tensor]:
        item = torch.stack([lin(x_dict[m]).tanh() for m, lin in self.lins.items()]).sum(dim=0)
        user = self.user_embedding.index_add(0, edge_index[0], item[edge_index[1]])
        return user, item.index_add(0, edge_index[1], self.user_embedding[edge_index[0]])


def adapted(data: HeteroData) -> AdaptedBackbone:
    dims = {m: data["item"][m].size(1) for m in data.modalities}
    return AdaptedBackbone(Toy(data["user"].num_nodes, dims), data["user"].num_nodes, data["item"].num_nodes, dims)


SMALL_FISM: dict[str, Any] = {
    "embedding_dim": 6,
    "num_neighbors": 3,
    "feature_dropout": 0.0,
    "leave_one_out": False,
}

BACKBONES: dict[str, Callable[[HeteroData], Backbone]] = {
    "LightGCN": lambda data: LightGCN.from_data(data, embedding_dim=6),
    "LightGCN without layers": lambda data: LightGCN.from_data(data, embedding_dim=6, num_layers=0),
    "EarlyFusionLightGCN": lambda data: EarlyFusionLightGCN.from_data(data, embedding_dim=6),
    "EarlyFusionLightGCN without ids": lambda data: EarlyFusionLightGCN.from_data(
        data, embedding_dim=6, id_embedding=False
    ),
    "VBPR": lambda data: VBPR.from_data(data, embedding_dim=5),
    "VBPR sum": lambda data: VBPR.from_data(data, embedding_dim=5, item_bias=False, fusion="sum"),
    "MMGCN": lambda data: MMGCN.from_data(data, embedding_dim=6, num_layers=2, latent_dims=5),
    "MMGCN of the distillation paper": lambda data: MMGCN.from_data(
        data,
        embedding_dim=6,
        latent_dims=6,
        combine="add",
        self_loops=True,
        message_bias=True,
        fusion="mean",
    ),
    "MMGCN on raw features": lambda data: MMGCN.from_data(data, embedding_dim=6, num_layers=2, latent_dims=None),
    "GRCN": lambda data: GRCN.from_data(data, embedding_dim=6, latent_dim=5),
    "GRCN without routing": lambda data: GRCN.from_data(data, embedding_dim=6, latent_dim=5, num_routing=0),
    "EgoGCN": lambda data: EgoGCN.from_data(data, embedding_dim=6, latent_dim=5, threshold=0.3),
    "EgoGCN soft": lambda data: EgoGCN.from_data(data, embedding_dim=6, latent_dim=5, modulation="soft"),
    "FISM on content": lambda data: FISM.from_data(data, **SMALL_FISM, item_graph="content"),
    "FISM without a graph": lambda data: FISM.from_data(data, **SMALL_FISM, item_graph="none"),
    "FREEDOM": lambda data: FREEDOM.from_data(data, embedding_dim=6, num_neighbors=3),
    "BM3": lambda data: BM3.from_data(data, embedding_dim=6),
    "LATTICE": lambda data: LATTICE.from_data(data, embedding_dim=6, num_neighbors=3),
    "MICRO": lambda data: MICRO.from_data(data, embedding_dim=6, num_neighbors=3),
    "MGCN": lambda data: MGCN.from_data(data, embedding_dim=6, num_neighbors=3),
    "DualGNN": lambda data: DualGNN.from_data(data, embedding_dim=6),
    "adapted": adapted,
}


def _every(chosen: Callable[[str], bool]) -> pytest.MarkDecorator:
    makers = {name: make for name, make in BACKBONES.items() if chosen(name)}
    return pytest.mark.parametrize("make", makers.values(), ids=makers.keys())


every_backbone = _every(lambda name: True)
every_own_backbone = _every(lambda name: name != "adapted")
every_multimodal_backbone = _every(lambda name: not name.startswith(("LightGCN", "BM3")))  # Ranking with features.
every_own_multimodal_backbone = _every(lambda name: not name.startswith(("LightGCN", "BM3", "adapted")))
every_backbone_with_preferences = _every(
    lambda name: name == "VBPR" or name.startswith(("MMGCN", "GRCN", "EgoGCN", "DualGNN"))
)


def built(make: Callable[[HeteroData], Backbone], data: HeteroData, seed: int = 0) -> Backbone:
    """Build a backbone in float64 with every parameter drawn from a normal distribution."""
    torch.manual_seed(seed)
    model = make(data).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.5)
    return model


def doubled(data: HeteroData) -> tuple[dict[str, Tensor], dict]:
    """Return features in float64 and the plain graph."""
    features, graph = unpack(data)
    return {m: x.double() for m, x in features.items()}, {RATES: graph[RATES]}
