"""Folders of MMRec (Zhou et al., *MMRec: Simplifying Multimodal Recommendation*, arXiv 2302.03497)."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
from torch_geometric.data import HeteroData

from pyg_ckd.data import check_data
from pyg_ckd.data.checks import SPLITS, check_keep, check_unique_rows
from pyg_ckd.data.feedback import Positive, feedback_columns, liked
from pyg_ckd.data.opinions import TIME
from pyg_ckd.datasets.arrays import one_line
from pyg_ckd.datasets.columns import find_column
from pyg_ckd.datasets.delimited import missing_column, read_header, read_tab_separated
from pyg_ckd.datasets.folder import likes_of, listing, naming
from pyg_ckd.datasets.formats.common import Contents, build, parts_of, write_features
from pyg_ckd.datasets.npz import Impute, Transform
from pyg_ckd.datasets.places import files_in
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.files import as_path, atomic_folder

_COLUMNS = ("userID", "itemID", "x_label")


def read_mmrec(
    path: str | os.PathLike[str],
    transform: Transform = "standardize",
    impute: Impute = "mean",
    strict: bool = True,
    keep: str = "error",
    min_rating: float | None = None,
    positive: Positive = None,
) -> HeteroData:
    r"""Read a graph from a folder of MMRec.

    ============================ =========================================================================
    file                         content
    ============================ =========================================================================
    ``<name>.inter``             tab-separated: ``userID``, ``itemID`` (rows from 0), ``x_label`` (0
                                 train, 1 validation, 2 test) and perhaps ``rating``, ``label`` or
                                 ``timestamp``, which ``keep`` goes by; other columns are ignored;
                                 quotation marks have no meaning
    ``<modality>_feat.npy``      ``[num_items, d_m]``, see :mod:`pyg_ckd.datasets.formats.common`
    ============================ =========================================================================

    Args:
        path: The folder.
        transform: The feature transform, see :func:`pyg_ckd.data.feature_transform`. (default: :obj:`"standardize"`)
        impute: What stands in for missing features, see :func:`pyg_ckd.data.imputation`. (default: :obj:`"mean"`)
        strict: See :func:`pyg_ckd.data.build_data`. (default: :obj:`True`)
        keep: Which of repeated interactions to keep: ``"first"``, ``"last"``, or ``"error"``, which refuses them. It
            goes by the times, if there are any, within a part, else by row, and is chosen before ``min_rating`` and
            ``positive`` apply. (default: :obj:`"error"`)
        min_rating: Keep interactions with a rating of at least this, from the column ``rating``. (default:
            :obj:`None`, all, with a warning if ratings differ)
        positive: Keep interactions whose column ``label`` has this value, or one of these. (default: :obj:`None`, all,
            with a warning if labels differ)

    Returns:
        The graph, see :func:`pyg_ckd.data.build_data`; interactions keep the order of the file.

    Raises:
        InputError: If a file is missing, damaged or inconsistent with another.
    """
    folder = as_path(path)
    check_keep(keep)
    file = inter_file(folder)
    frame = _read_inter(file, keep != "error")
    mask = liked(frame, min_rating, positive, str(file))
    with naming(file):
        masks, part = None if mask is None else [mask], frame["x_label"].to_numpy()
        frame = likes_of(frame, masks, keep, part, ("userID", "itemID"))
    label = frame["x_label"].to_numpy()
    pairs = frame[["userID", "itemID"]].to_numpy().T
    parts = {split: np.ascontiguousarray(pairs[:, label == number]) for number, split in enumerate(SPLITS)}
    if strict and keep == "error":
        for number in range(len(SPLITS)):
            part = frame[label == number]
            check_unique_rows(
                part[["userID", "itemID"]].to_numpy().T,
                part["userID"],
                part["itemID"],
                str(file),
                part.index.__getitem__,
            )
    if not parts["train"].size:
        raise InputError(f"{file}: no row has x_label 0, expected at least one training interaction")
    return build(Contents(folder, file, parts), transform, impute, strict, keep=keep)


def write_mmrec(data: HeteroData, path: str | os.PathLike[str]) -> None:
    r"""Write a graph as a folder for :func:`read_mmrec`, atomically.

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
        name = as_path(path).absolute().name
        frame.to_csv(folder / f"{name}.inter", sep="\t", index=False, quoting=csv.QUOTE_NONE)
        write_features(data, folder)


def inter_file(folder: Path) -> Path:
    """Return the only ``.inter`` file of a folder."""
    files = files_in(folder, ".inter") if folder.is_dir() else []
    if len(files) == 1:
        return files[0]
    if files:
        raise InputError(f"{folder}: holds {files[0].name} and {files[1].name}, expected one .inter file; remove one")
    found = listing(folder) if folder.is_dir() else "is no folder"
    raise InputError(f"{folder}: no interactions, expected <name>.inter with the columns {list(_COLUMNS)}; {found}")


def _read_inter(file: Path, dated: bool) -> pd.DataFrame:
    header = read_header(file)
    time = find_column(header, TIME, file) if dated else None
    for name in _COLUMNS:
        if name not in header:
            near = unknown_name("column", name, header)
            raise missing_column(file, f"the column {name!r} is missing; rename one: {near}", header)
    try:
        columns = [*_COLUMNS, *feedback_columns(header), *([] if time is None else [time])]
        frame = read_tab_separated(file, columns, dict.fromkeys(_COLUMNS, np.int64))
    except (ValueError, OverflowError, OSError, pd.errors.ParserError) as error:
        _diagnose(file)
        raise InputError(f"{file}: cannot be read as a tab-separated table ({one_line(error)})") from None
    for name in _COLUMNS:
        low, high = (0, 2) if name == "x_label" else (0, np.iinfo(np.int64).max)
        wrong = np.flatnonzero((frame[name] < low) | (frame[name] > high))
        if wrong.size:
            raise _wrong(file, name, int(wrong[0]), str(frame[name].iloc[wrong[0]]))
    return frame if time is None else frame.rename(columns={time: TIME})


def _diagnose(file: Path) -> None:
    """Name the first value that is no integer."""
    try:
        text = read_tab_separated(file, _COLUMNS, dict.fromkeys(_COLUMNS, str))
    except (ValueError, OSError, pd.errors.ParserError):
        return
    for name in _COLUMNS:
        wrong = np.flatnonzero(~text[name].fillna("").str.fullmatch(r"[0-9]{1,18}").to_numpy(dtype=bool))
        if wrong.size:
            raise _wrong(file, name, int(wrong[0]), text[name].fillna("").iloc[wrong[0]])


def _wrong(file: Path, name: str, row: int, value: str) -> InputError:
    expected = "0 (train), 1 (validation) or 2 (test)" if name == "x_label" else "a row number from 0"
    found = repr(value) if value else "nothing (line cut short?)"
    mend = "repair the line" if name == "x_label" else "map ids to row numbers first, e.g. with pandas.factorize"
    if re.fullmatch(r"[0-9]+\.0*", value):
        mend = f"write {value.partition('.')[0]} without a fraction, e.g. with frame[{name!r}].astype('int64')"
    return InputError(
        f"{file}: column {name!r} holds {found} in row {row} (rows count from zero, without the header), "
        f"expected {expected}; {mend}"
    )
