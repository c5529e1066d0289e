"""Drop-in PyG layers."""

from pyg_ckd.nn.conv.lg_conv import LGConv
from pyg_ckd.nn.conv.mmgcn_conv import MMGCNConv

__all__ = ["LGConv", "MMGCNConv"]
