"""Folders of DiffMM and MMSSL: pickled interaction matrices, one per split.

MMSSL: Wei et al., *Multi-Modal Self-Supervised Learning for Recommendation*, WWW 2023; DiffMM: Jiang et al., *DiffMM:
Multi-Modal Diffusion Model for Recommendation*, ACM MM 2024.
"""

from __future__ import annotations

import os
import pickle

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from torch_geometric.data import HeteroData

from pyg_ckd.data import check_data
from pyg_ckd.data.feedback import Positive, liked_parts
from pyg_ckd.data.opinions import chosen
from pyg_ckd.datasets.formats.common import Contents, build, parts_of, write_features
from pyg_ckd.datasets.formats.coo import read_entries
from pyg_ckd.datasets.npz import Impute, Transform
from pyg_ckd.datasets.parts import find_part
from pyg_ckd.errors import InputError
from pyg_ckd.files import as_path, atomic_folder

MATRIX = "Mat.pkl"
"""What the names of all files of interactions end in."""

_FILES = {"train": "trnMat.pkl", "val": "valMat.pkl", "test": "tstMat.pkl"}


def read_diffmm(
    path: str | os.PathLike[str],
    transform: Transform = "standardize",
    impute: Impute = "mean",
    strict: bool = True,
    keep: str = "error",
    min_rating: float | None = None,
    positive: Positive = None,
) -> HeteroData:
    r"""Read a graph from a folder of DiffMM or MMSSL.

    ================================ =====================================================================
    file                             content
    ================================ =====================================================================
    ``trnMat.pkl``                   a pickled ``scipy.sparse.coo_matrix`` ``[num_users, num_items]``; entries
                                     that are not zero are the training interactions
    ``valMat.pkl``, ``tstMat.pkl``   the same for the held-out interactions (optional; ``validMat.pkl``,
                                     ``testMat.pkl`` and the like are read as well)
    ``<modality>_feat.npy``          ``[num_items, d_m]``, see :mod:`pyg_ckd.datasets.formats.common`
    ================================ =====================================================================

    The pickles are read without executing anything: whatever is not a COO matrix of numbers is refused.

    Args:
        path: The folder.
        transform: The feature transform, see :func:`pyg_ckd.data.feature_transform`. (default: :obj:`"standardize"`)
        impute: What stands in for missing features, see :func:`pyg_ckd.data.imputation`. (default: :obj:`"mean"`)
        strict: See :func:`pyg_ckd.data.build_data`. (default: :obj:`True`)
        keep: Which of repeated interactions to keep: ``"first"``, ``"last"``, or ``"error"``, which refuses them. It
            is chosen before ``min_rating`` and ``positive`` apply. (default: :obj:`"error"`)
        min_rating: Keep entries of at least this, where matrices hold ratings. (default: :obj:`None`, all that are not
            zero, with a warning if they differ)
        positive: Keep entries of this value, or of these. (default: :obj:`None`, all that are not zero, with a warning
            if they differ)

    Returns:
        The graph, see :func:`pyg_ckd.data.build_data`; interactions keep the order of the matrix.

    Raises:
        InputError: If a file is missing, damaged, holds anything else, or is inconsistent with another.
    """
    folder = as_path(path)
    parts, shapes, values, files = {}, {}, {}, {}
    for split, name in _FILES.items():
        file = find_part(folder, split, MATRIX) or folder / name
        if split == "train" or file.is_file():
            parts[split], shapes[split], entries = read_entries(file)
            values[file], files[split] = pd.DataFrame({"rating": entries}), file
            if any(np.greater(shapes[split], shapes["train"])):
                raise InputError(
                    f"{file}: has shape {list(shapes[split])}, but trnMat.pkl has {list(shapes['train'])}, expected "
                    f"[num_users, num_items] in each; write them for the same users and items"
                )
    masks = liked_parts(values, min_rating, positive, str(files["train"] if len(files) == 1 else folder))
    if masks is not None and keep != "error":  # Before ratings say which entries are likes.
        sizes = [part.shape[1] for part in parts.values()]
        stay = chosen(np.concatenate([*parts.values()], axis=1), keep, part=np.repeat(np.arange(len(sizes)), sizes))
        masks = [one & other for one, other in zip(masks, np.split(stay, np.cumsum(sizes)[:-1]), strict=True)]
    if masks is not None:
        parts = {split: part[:, mask] for (split, part), mask in zip(parts.items(), masks, strict=True)}
    contents = Contents(folder, files["train"], parts, *shapes["train"], files=files)
    return build(contents, transform, impute, strict, keep=keep)


def write_diffmm(data: HeteroData, path: str | os.PathLike[str]) -> None:
    r"""Write a graph as a folder for :func:`read_diffmm`, atomically.

    Features are written as they are, so read them back with ``transform="none"``.

    Args:
        data: The graph; it is checked first, see :func:`pyg_ckd.data.check_data`.
        path: The folder, new or empty.

    Raises:
        InputError: If the graph does not pass the checks or the folder is not empty.
    """
    data = check_data(data, impute="given")
    shape = (data["user"].num_nodes, data["item"].num_nodes)
    with atomic_folder(path) as folder:
        for split, part in parts_of(data).items():
            matrix = coo_matrix((np.ones(part.shape[1], np.float32), (part[0], part[1])), shape=shape)
            (folder / _FILES[split]).write_bytes(pickle.dumps(matrix, protocol=4))
        write_features(data, folder)
