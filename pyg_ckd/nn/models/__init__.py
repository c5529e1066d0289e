"""Backbones, one file each."""

from pyg_ckd.nn.models.adapter import AdaptedBackbone, as_backbone
from pyg_ckd.nn.models.base import Backbone, EarlyFusion, LateFusion
from pyg_ckd.nn.models.bm3 import BM3
from pyg_ckd.nn.models.dualgnn import DualGNN
from pyg_ckd.nn.models.egogcn import EgoGCN
from pyg_ckd.nn.models.fism import FISM
from pyg_ckd.nn.models.freedom import FREEDOM
from pyg_ckd.nn.models.grcn import GRCN
from pyg_ckd.nn.models.lattice import LATTICE
from pyg_ckd.nn.models.lightgcn import EarlyFusionLightGCN, LightGCN
from pyg_ckd.nn.models.mgcn import MGCN
from pyg_ckd.nn.models.micro import MICRO
from pyg_ckd.nn.models.mmgcn import MMGCN
from pyg_ckd.nn.models.vbpr import VBPR

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
    "Backbone",
    "DualGNN",
    "EarlyFusion",
    "EarlyFusionLightGCN",
    "EgoGCN",
    "LateFusion",
    "LightGCN",
    "as_backbone",
]
