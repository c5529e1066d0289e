"""Backbones, one file each."""

from pyg_ckd.nn.models.adapter import AdaptedBackbone, as_backbone
from pyg_ckd.nn.models.base import Backbone, EarlyFusion, LateFusion
from pyg_ckd.nn.models.lightgcn import EarlyFusionLightGCN, LightGCN
from pyg_ckd.nn.models.mmgcn import MMGCN
from pyg_ckd.nn.models.vbpr import VBPR

__all__ = [
    "MMGCN",
    "VBPR",
    "AdaptedBackbone",
    "Backbone",
    "EarlyFusion",
    "EarlyFusionLightGCN",
    "LateFusion",
    "LightGCN",
    "as_backbone",
]
