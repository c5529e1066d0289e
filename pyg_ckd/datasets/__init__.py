from pyg_ckd.datasets.loading import load
from pyg_ckd.datasets.npz import MultimodalNpz, read_npz, write_npz

__all__ = [
    "MultimodalNpz",
    "load",
    "read_npz",
    "write_npz",
]
