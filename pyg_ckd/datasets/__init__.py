from pyg_ckd.datasets.amazon import AmazonReviews
from pyg_ckd.datasets.batches import encode_batches
from pyg_ckd.datasets.conversion import recognise
from pyg_ckd.datasets.folder import read_folder
from pyg_ckd.datasets.formats import (
    read_diffmm,
    read_lattice,
    read_mmrec,
    read_recbole,
    write_diffmm,
    write_lattice,
    write_mmrec,
    write_recbole,
)
from pyg_ckd.datasets.loading import convert, load
from pyg_ckd.datasets.npz import MultimodalNpz, read_npz, write_npz
from pyg_ckd.datasets.processed import MultimodalFolder
from pyg_ckd.datasets.stored import write_folder
from pyg_ckd.datasets.synthetic import SyntheticMultimodal, synthetic_multimodal
from pyg_ckd.datasets.text import sentence_encoder, text_features
from pyg_ckd.datasets.vectors import encode_files, read_vectors, write_vectors

__all__ = [
    "AmazonReviews",
    "MultimodalFolder",
    "MultimodalNpz",
    "SyntheticMultimodal",
    "convert",
    "encode_batches",
    "encode_files",
    "load",
    "read_diffmm",
    "read_folder",
    "read_lattice",
    "read_mmrec",
    "read_npz",
    "read_recbole",
    "read_vectors",
    "recognise",
    "sentence_encoder",
    "synthetic_multimodal",
    "text_features",
    "write_diffmm",
    "write_folder",
    "write_lattice",
    "write_mmrec",
    "write_npz",
    "write_recbole",
    "write_vectors",
]
