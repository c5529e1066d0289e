"""Layers, backbones and loss functions."""

from pyg_ckd.nn.build_graph import interactions_of
from pyg_ckd.nn.conv import DotAttentionConv, EgoConv, LGConv, MMGCNConv
from pyg_ckd.nn.loss import bpr_loss, l2_penalty, ranking_cross_entropy, softmax_loss
from pyg_ckd.nn.models import (
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
    EarlyFusion,
    EarlyFusionLightGCN,
    EgoGCN,
    LateFusion,
    LightGCN,
    as_backbone,
)
from pyg_ckd.nn.models.discovery import backbones
from pyg_ckd.nn.propagation import Adjacency

__all__ = [
    "BM3",
    "FISM",
    "FREEDOM",
    "GRCN",
    "LATTICE",
    "MGCN",
    "MICRO",
    "MMGCN",
    "VBPR",
    "AdaptedBackbone",
    "Adjacency",
    "Backbone",
    "DotAttentionConv",
    "DualGNN",
    "EarlyFusion",
    "EarlyFusionLightGCN",
    "EgoConv",
    "EgoGCN",
    "LGConv",
    "LateFusion",
    "LightGCN",
    "MMGCNConv",
    "as_backbone",
    "backbones",
    "bpr_loss",
    "interactions_of",
    "l2_penalty",
    "ranking_cross_entropy",
    "softmax_loss",
]
