"""Folders of MMRec (Zhou et al., *MMRec: Simplifying Multimodal Recommendation*, arXiv 2302.03497)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from torch_geometric.data import HeteroData

from pyg_ckd.data import check_data
from pyg_ckd.data.checks import SPLITS
from pyg_ckd.datasets.arrays import one_line
from pyg_ckd.datasets.folder import listing
from pyg_ckd.datasets.formats.common import Contents, build, parts_of, write_features
from pyg_ckd.datasets.npz import Impute, Transform
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.files import atomic_folder

_COLUMNS = ("userID", "itemID", "x_label")


def read_mmrec(
    path: str | os.PathLike[str], transform: Transform = "standardize", impute: Impute = "mean", strict: bool = True
) -> HeteroData:
    r"""Read a graph from a folder of MMRec.

    ============================ =========================================================================
    file                         content
    ============================ =========================================================================
    ``<name>.inter``             tab-separated: ``userID``, ``itemID`` (rows from 0) and ``x_label`` (0
                                 train, 1 validation, 2 test); other columns are ignored
    ``<modality>_feat.npy``      ``[num_items, d_m]``, see :mod:`pyg_ckd.datasets.formats.common`
    ============================ =========================================================================

    Args:
        path: The folder.
        transform: The feature transform, see :func:`pyg_ckd.data.feature_transform`. (default: :obj:`"standardize"`)
        impute: What stands in for missing features, see :func:`pyg_ckd.data.imputation`. (default: :obj:`"mean"`)
        strict: See :func:`pyg_ckd.data.build_data`. (default: :obj:`True`)

    Returns:
        The graph, see :func:`pyg_ckd.data.build_data`; interactions keep the order of the file.

    Raises:
        InputError: If a file is missing, damaged or inconsistent with another.
    """
    folder = Path(path)
    file = inter_file(folder)
    frame = _read_inter(file)
    label = frame["x_label"].to_numpy()
    pairs = frame[["userID", "itemID"]].to_numpy().T
    parts = {split: np.ascontiguousarray(pairs[:, label == number]) for number, split in enumerate(SPLITS)}
    if not parts["train"].size:
        raise InputError(f"{file}: no row has x_label 0, expected at least one training interaction")
    return build(Contents(folder, file, parts), transform, impute, strict)


def write_mmrec(data: HeteroData, path: str | os.PathLike[str]) -> None:
    r"""Write a graph as a folder of :func:`read_mmrec`, whole or not at all.

    Features are written as they are, so read them back with ``transform="none"``.

    Args:
        data: The graph; it is checked first, see :func:`pyg_ckd.data.check_data`.
        path: The folder, new or empty.

    Raises:
        InputError: If the graph does not pass the checks or the folder is not empty.
    """
    data = check_data(data, impute="given")
    parts = parts_of(data)
    frame = pd.DataFrame(np.concatenate([parts[split] for split in SPLITS], axis=1).T, columns=["userID", "itemID"])
    frame["x_label"] = np.repeat(range(len(SPLITS)), [parts[split].shape[1] for split in SPLITS])
    with atomic_folder(path) as folder:
        frame.to_csv(folder / f"{Path(path).absolute().name}.inter", sep="\t", index=False)
        write_features(data, folder)


def inter_file(folder: Path) -> Path:
    """Return the only ``.inter`` file of a folder."""
    files = sorted(folder.glob("*.inter")) if folder.is_dir() else []
    if len(files) == 1:
        return files[0]
    if files:
        raise InputError(f"{folder}: holds {files[0].name} and {files[1].name}, expected one .inter file; remove one")
    found = listing(folder) if folder.is_dir() else "is no folder"
    raise InputError(f"{folder}: no interactions, expected <name>.inter with the columns {list(_COLUMNS)}; {found}")


def read_header(file: Path) -> list[str]:
    """Return the column names of a tab-separated file."""
    try:
        return list(pd.read_csv(file, sep="\t", nrows=0, index_col=False).columns)
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise InputError(f"{file}: cannot be read as a tab-separated table ({one_line(error)})") from None


def read_tab_separated(file: Path, columns: Sequence[str], dtypes: Mapping[str, type]) -> pd.DataFrame:
    """Read columns that are there.

    Raises:
        ValueError: If values do not fit ``dtypes``, or a line has more fields than the header.
    """
    # All columns are read, as pandas ignores further fields of a line when it is given `usecols`.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.ParserWarning)  # Of long lines, which are refused below.
        frame = pd.read_csv(
            file, sep="\t", dtype=dict(dtypes), index_col=False, keep_default_na=False, low_memory=False
        )
    with file.open(encoding="utf-8-sig") as lines:  # pandas takes the width of the first line of data on trust.
        widths = [next(lines, "").count("\t") for _ in range(2)]
    if widths[1] > widths[0]:
        raise ValueError(f"Expected {widths[0] + 1} fields in line 2, saw {widths[1] + 1}")
    return frame[list(columns)]


def _read_inter(file: Path) -> pd.DataFrame:
    header = read_header(file)
    for name in _COLUMNS:
        if name not in header:
            raise InputError(
                f"{file}: the column {name!r} is missing; rename one: {unknown_name('column', name, header)}"
            )
    try:
        frame = read_tab_separated(file, _COLUMNS, dict.fromkeys(_COLUMNS, np.int64))
    except (ValueError, OverflowError, OSError, pd.errors.ParserError) as error:
        _diagnose(file)
        raise InputError(f"{file}: cannot be read as a tab-separated table ({one_line(error)})") from None
    for name in _COLUMNS:
        low, high = (0, 2) if name == "x_label" else (0, np.iinfo(np.int64).max)
        wrong = np.flatnonzero((frame[name] < low) | (frame[name] > high))
        if wrong.size:
            raise _wrong(file, name, int(wrong[0]), str(frame[name].iloc[wrong[0]]))
    return frame


def _diagnose(file: Path) -> None:
    """Name the first value that is no integer."""
    try:
        text = read_tab_separated(file, _COLUMNS, dict.fromkeys(_COLUMNS, str))
    except (ValueError, OSError, pd.errors.ParserError):
        return
    for name in _COLUMNS:
        wrong = np.flatnonzero(~text[name].fillna("").str.fullmatch(r"\d{1,18}").to_numpy(dtype=bool))
        if wrong.size:
            raise _wrong(file, name, int(wrong[0]), text[name].fillna("").iloc[wrong[0]])


def _wrong(file: Path, name: str, row: int, value: str) -> InputError:
    expected = "0 (train), 1 (validation) or 2 (test)" if name == "x_label" else "a row number from 0"
    found = repr(value) if value else "nothing (line cut short?)"
    mend = "repair the line" if name == "x_label" else "map ids to row numbers first, e.g. with pandas.factorize"
    return InputError(
        f"{file}: column {name!r} holds {found} in row {row} (rows count from zero, without the header), "
        f"expected {expected}; {mend}"
    )
