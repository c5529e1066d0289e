"""Layers, backbones and loss functions."""

from pyg_ckd.nn.conv import LGConv, MMGCNConv
from pyg_ckd.nn.loss import bpr_loss, l2_penalty, ranking_cross_entropy
from pyg_ckd.nn.models import (
    MMGCN,
    VBPR,
    AdaptedBackbone,
    Backbone,
    EarlyFusion,
    EarlyFusionLightGCN,
    LateFusion,
    LightGCN,
    as_backbone,
)
from pyg_ckd.nn.propagation import Adjacency

__all__ = [
    "MMGCN",
    "VBPR",
    "AdaptedBackbone",
    "Adjacency",
    "Backbone",
    "EarlyFusion",
    "EarlyFusionLightGCN",
    "LGConv",
    "LateFusion",
    "LightGCN",
    "MMGCNConv",
    "as_backbone",
    "bpr_loss",
    "l2_penalty",
    "ranking_cross_entropy",
]
