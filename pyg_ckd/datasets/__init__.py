from pyg_ckd.datasets.folder import read_folder
from pyg_ckd.datasets.loading import load
from pyg_ckd.datasets.npz import MultimodalNpz, read_npz, write_npz
from pyg_ckd.datasets.synthetic import SyntheticMultimodal, synthetic_multimodal

__all__ = [
    "MultimodalNpz",
    "SyntheticMultimodal",
    "load",
    "read_folder",
    "read_npz",
    "synthetic_multimodal",
    "write_npz",
]
