"""Graphs in a folder: one table of interactions (or one per split) and one feature matrix per modality."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.arguments import as_integer
from pyg_ckd.data import build_data
from pyg_ckd.data.checks import IMAGES, SPLITS, check_keep, check_unique_rows
from pyg_ckd.data.feedback import Positive, liked_parts
from pyg_ckd.data.ids import comparable
from pyg_ckd.data.opinions import TIME, chosen, coded
from pyg_ckd.data.splits import k_core as core_mask
from pyg_ckd.data.timestamps import warn_of_units
from pyg_ckd.datasets.arrays import read_array
from pyg_ckd.datasets.columns import check_times
from pyg_ckd.datasets.npz import Impute, Transform
from pyg_ckd.datasets.origins import Origin, put_together
from pyg_ckd.datasets.overlooked import media, warn_of_overlooked
from pyg_ckd.datasets.parts import find_part, parts_in
from pyg_ckd.datasets.places import files_in
from pyg_ckd.datasets.splitting import AS_GIVEN, TIMED, shares_of, split_method, split_pairs
from pyg_ckd.datasets.stored import is_stored, read_stored
from pyg_ckd.datasets.tables import (
    SUFFIXES,
    as_ids,
    as_timestamps,
    check_ids,
    find_table,
    map_ids,
    read_table,
    rows_of,
    value_at,
)
from pyg_ckd.errors import InputError
from pyg_ckd.files import as_path

SHEETS = (".xlsx", ".xls", ".ods", ".numbers")
"""What the names of spreadsheets end in, which are not read."""


def read_folder(
    path: str | os.PathLike[str],
    transform: Transform = "standardize",
    split: str = "auto",
    ratios: Sequence[float] | None = None,
    seed: int = 0,
    k_core: int = 0,
    cold_share: float = 0.2,
    impute: Impute = "mean",
    strict: bool = True,
    keep: str = "error",
    min_rating: float | None = None,
    positive: Positive = None,
) -> HeteroData:
    r"""Read a graph from a folder of plain files.

    ============================================== ====================================================================
    file                                           content
    ============================================== ====================================================================
    ``interactions.parquet`` or ``.csv``           columns ``user``, ``item``; optional ``timestamp``, ``split``
                                                   (``train``, ``val`` or ``test``), ``rating`` and ``label``
    or ``train``, ``val``, ``test`` (same types)   columns ``user``, ``item``; ``val`` and ``test`` are optional;
                                                   ``valid``, ``validation`` and the like are read as well
    ``<modality>.npy``                             ``[num_items, d_m]`` real; in alphabetical order of the names
    ``has_<modality>.npy``                         ``[num_items]`` bool: items that have the modality (optional)
    ``items.parquet`` or ``.csv``                  column ``item``: the item id of each feature row (optional)
    ============================================== ====================================================================

    In ``.csv`` files the fields are separated by ``,``, ``;``, ``|``, ``::`` or tabs, as in the header; ``.tsv``,
    ``.csv.gz`` and folders of Parquet files (``interactions.parquet/``) are read as well. Names of tables, suffixes and
    columns may be in upper case, ``user_id`` is a ``user``, ``item_id`` an ``item``, and ``time``, ``datetime`` or
    ``date`` a ``timestamp``. The columns ``timestamp`` and ``split`` are read only if the arguments ``split`` or
    ``keep`` use them.

    A folder that :func:`write_folder` wrote is recognised by ``pyg_ckd.npz``. Its features stay in their files, are not
    transformed again, and are checked again only if the size or the modification time of their files has changed.

    Ids may be integers, strings or UUIDs. UUIDs and integers beyond 63 bits become strings. In CSV files, ids that all
    look like integers are integers, unless one has a leading zero or a plus. Ids that are text in one file and numbers
    in another are compared as text. User ids are mapped to rows in ascending order. Item ids are looked up in
    ``items``; without that file they are the zero-based rows of the feature matrices.

    Args:
        path: The folder.
        transform: The feature transform, see :func:`pyg_ckd.data.feature_transform`. (default: :obj:`"standardize"`)
        split: ``"given"`` (by the files or the column ``split``), ``"random"``, ``"leave-one-out"``, ``"temporal"``,
            ``"cold-start"``, ``"none"`` (all are training interactions, whatever a file or column says; best for
            serving), or ``"auto"``: as given, else at random. All but ``"given"`` and ``"none"`` need ``interactions``.
            ``"leave-one-out"`` and ``"temporal"`` go by the column ``timestamp``; without it, the first is at random.
            (default: :obj:`"auto"`)
        ratios: Shares of training, validation and test interactions, if split here; none with ``split="none"``.
            (default: :obj:`None`, ``(0.8, 0.1, 0.1)``)
        seed: Seeds what is random in a split. (default: :obj:`0`)
        k_core: Keep users and items with at least this many interactions, before splitting; items stay in the graph.
            (default: :obj:`0`, keep all)
        cold_share: Share of cold items in a cold-start split, see :func:`pyg_ckd.data.cold_start_split`. (default:
            :obj:`0.2`)
        impute: What stands in for missing features, see :func:`pyg_ckd.data.imputation`. (default: :obj:`"mean"`)
        strict: See :func:`pyg_ckd.data.build_data`. (default: :obj:`True`)
        keep: Which of repeated interactions to keep: ``"first"``, ``"last"``, or ``"error"``, which refuses them. It
            goes by the column ``timestamp`` if there is one, else by row, and is chosen before ``min_rating`` and
            ``positive`` apply. (default: :obj:`"error"`)
        min_rating: Keep interactions with a rating of at least this, from the column ``rating``. (default:
            :obj:`None`, all, with a warning if ratings differ)
        positive: Keep interactions whose column ``label`` has this value, or one of these. (default: :obj:`None`, all,
            with a warning if labels differ)

    Returns:
        The graph, see :func:`pyg_ckd.data.build_data`. ``data.user_id`` and ``data.item_id`` hold the ids behind the
        rows: an int64 tensor, or a list of strings.

    Raises:
        InputError: If a file is missing, damaged or inconsistent with another.

    Warns:
        UserWarning: If files that look like features are in another format than ``.npy``, or are images or audio, so
            that they are not read, or there is no column ``timestamp`` for ``split="leave-one-out"``.
    """
    folder = as_path(path)
    split = split_method(split)
    shares = shares_of(split, ratios)
    check_keep(keep)
    if is_stored(folder):
        if split not in ("auto", "given") or k_core or min_rating is not None or positive is not None:
            raise InputError(
                f"{folder}: holds interactions that are split and chosen already, expected split='given' and no "
                "k_core, min_rating or positive; give these when the folder is written"
            )
        return read_stored(folder, transform, impute, strict, keep)
    features, has = _read_features(folder)
    frames, splits = _read_interactions(folder, split, keep)
    source = next(iter(frames)) if len(frames) == 1 else folder
    masks = liked_parts(frames, min_rating, positive, str(source))
    frame, origin = put_together(frames, splits)  # Rows keep their index from here on, which tells where they are from.
    with naming(source):
        part = np.repeat(np.arange(len(frames)), [len(one) for one in frames.values()])
        frame = likes_of(frame, masks, keep, part, warns=split not in TIMED)
    num_items = next(iter(features.values())).shape[0]
    pairs, user_id, item_id = _map(frame, origin, folder, num_items)
    _check_rows(features, num_items, folder)
    if strict and keep == "error":
        check_unique_rows(pairs, frame["user"], frame["item"], f"{source}: interactions", origin.named(frame))
    k_core = as_integer(k_core, f"{folder}: k_core")
    if k_core:
        with naming(folder):
            core = core_mask(pairs, k_core)
        frame = frame[core]
        users, user_id = map_ids(frame["user"])
        pairs = np.stack([users, pairs[1, core]])
    with naming(source):
        train, val, test = split_pairs(pairs, frame, split, shares, seed, cold_share, str(source))
    data = build_data(
        train,
        features,
        val=val,
        test=test,
        num_users=len(user_id),
        num_items=num_items,
        has=has,
        source=str(folder),
        transform=transform,
        impute=impute,
        strict=strict,
    )
    data.user_id, data.item_id = user_id, item_id
    return data


def likes_of(
    frame: pd.DataFrame,
    masks: list[np.ndarray] | None,
    keep: str,
    part: np.ndarray,
    names: tuple[str, str] = ("user", "item"),
    warns: bool = True,
) -> pd.DataFrame:
    """Return the rows that count: of repeated interactions the one that ``keep`` names, and of these the likes.

    Args:
        frame: The interactions of all files, one after the other; a column ``timestamp`` says when.
        masks: Which rows of each file are likes; :obj:`None` if all are.
        keep: ``"first"``, ``"last"``, or ``"error"``, which leaves repetitions in.
        part: The number of the file or the part of each row. What is in an earlier one is earlier.
        names: The columns of users and items.
        warns: Whether to warn of times in several units, which a split by time does itself.

    Raises:
        InputError: If a time cannot be read.
    """
    stay = np.ones(len(frame), dtype=bool) if masks is None else np.concatenate(masks)
    if keep != "error":
        times = as_timestamps(frame[TIME]) if TIME in frame.columns and not frame[TIME].isna().any() else None
        if times is not None and warns:
            warn_of_units(times, frame.index)
        stay = stay & chosen(coded(*(frame[name] for name in names)), keep, times, part)
    return frame[stay]


def _read_interactions(folder: Path, split: str, keep: str) -> tuple[dict[Path, pd.DataFrame], dict[Path, str]]:
    """Return the frame of each file, and the split of each that holds one.

    Frames have the columns ``user``, ``item`` and, if there, ``timestamp``, ``split`` and those of feedback.
    """
    whole = find_table(folder, "interactions")
    parts = {name: table for name in SPLITS if (table := find_part(folder, name, *SUFFIXES)) is not None}
    if whole is not None and parts:
        raise InputError(
            f"{folder}: holds {whole.name} and {next(iter(parts.values())).name}, expected one or the other"
        )
    mends = {TIME: f", or drop the column: keep={keep!r} then goes by row"}
    if whole is not None:
        timed = () if keep == "error" or split in TIMED else (TIME,)
        frame = read_table(whole, ("user", "item"), (*_deciding(split), *timed), mends if timed else None)
        _check_frame(frame, whole, filled=True)
        if split in TIMED and "timestamp" not in frame.columns:
            check_times(frame.attrs["columns"], split, whole)
        return {whole: frame}, {}
    if "train" not in parts:
        sheets = [file.name for file in sorted(folder.iterdir()) if file.suffix.lower() in SHEETS]
        if sheets:
            raise InputError(
                f"{folder}: no interactions found, but {sheets[0]}, which is not read, expected interactions as "
                f"{', '.join(SUFFIXES)}; save the sheet as interactions.csv"
            )
        raise InputError(
            f"{folder}: no interactions found, expected interactions or train as {', '.join(SUFFIXES)}, with the "
            f"columns user and item; {listing(folder)}"
        )
    if split not in AS_GIVEN:
        raise InputError(
            f"{folder}: split={split!r} needs interactions.parquet or .csv, but found the parts {[*parts]}"
        )
    frames = []
    for name, table in parts.items():
        part = read_table(table, ("user", "item"), () if keep == "error" else (TIME,), mends)
        _check_frame(part, table, filled=name == "train")
        frames.append(part)
    alike = {name: comparable(*(frame[name] for frame in frames)) for name in ("user", "item")}
    frames = [frame.assign(**{name: alike[name][n] for name in alike}) for n, frame in enumerate(frames)]
    return dict(zip(parts.values(), frames, strict=True)), {table: name for name, table in parts.items()}


def _deciding(split: str) -> tuple[str, ...]:
    """Return the columns that a way to split goes by."""
    if split in ("auto", "given"):
        return ("split",)
    return ("timestamp",) if split in TIMED else ()


def _check_frame(frame: pd.DataFrame, path: Path, filled: bool) -> None:
    if frame.empty and filled:
        raise InputError(f"{path}: has no rows, expected at least one interaction")
    for name in ("user", "item"):
        if not frame.empty:
            check_ids(frame, name, path)
    if "split" in frame.columns:
        frame["split"] = parts_in(frame["split"], str(path))


def _map(
    frame: pd.DataFrame, origin: Origin, folder: Path, num_items: int
) -> tuple[np.ndarray, Tensor | list[str], Tensor | list[str]]:
    """Return interactions as rows ``[2, E]`` and the ids behind the rows of users and items."""
    users, user_id = map_ids(frame["user"])
    listed = find_table(folder, "items")
    if listed is not None:
        item_id = _listed_items(listed, num_items)
        return np.stack([users, rows_of(frame["item"], item_id, origin, listed)]), user_id, item_id
    if not pd.api.types.is_integer_dtype(frame["item"]):
        words = np.flatnonzero(~frame["item"].astype(str).str.fullmatch(r"[0-9]+").to_numpy(dtype=bool))
        first = int(words[0]) if words.size else 0
        file, row = origin.of(frame, first)
        raise InputError(
            f"{file}: items have dtype {frame['item'].dtype}, e.g. {value_at(frame['item'], first)!r} in row {row}, "
            f"leaving open what the order of the feature rows is; add items.csv with the column 'item', one id per "
            f"feature row"
        )
    items = frame["item"].to_numpy()
    outside = np.flatnonzero((items < 0) | (items >= num_items))
    if outside.size:
        file, row = origin.of(frame, outside[0])
        raise InputError(
            f"{file}: item {items[outside[0]]} in row {row} is none of the {num_items} feature rows; number "
            f"items from 0, or add items.csv with the column 'item', one id per feature row"
        )
    return np.stack([users, items.astype(np.int64)]), user_id, as_ids(np.arange(num_items))


def _listed_items(path: Path, num_items: int) -> Tensor | list[str]:
    frame = read_table(path, ("item",))
    check_ids(frame, "item", path)
    if len(frame) != num_items:
        raise InputError(f"{path}: lists {len(frame)} items, but the features have {num_items} rows; list one per row")
    repeated = np.flatnonzero(frame["item"].duplicated())
    if repeated.size:
        raise InputError(
            f"{path}: lists {value_at(frame['item'], repeated[0])!r} again in row {repeated[0]}; list it once"
        )
    return as_ids(frame["item"])


def _check_rows(features: Mapping[str, np.ndarray], num_items: int, folder: Path) -> None:
    """Refuse a feature file that does not fit the list of items."""
    listed = find_table(folder, "items")
    if listed is None:
        return
    for name, array in features.items():
        if len(array) != num_items:
            problem = "too few" if len(array) < num_items else "too many"
            raise InputError(
                f"{folder / name}.npy: features of {name!r} have {len(array)} rows, {problem} for {num_items} items; "
                f"give one row per line of {listed.name}, in its order"
            )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the folder or the file in front of every message from inside the block."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _read_features(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    if not folder.is_dir():
        raise InputError(f"{folder}: {'is a file' if folder.exists() else 'does not exist'}, expected a folder")
    arrays = {file.stem: read_array(file, mapped=True) for file in files_in(folder, ".npy")}
    features = {name: array for name, array in arrays.items() if not name.startswith("has_")}
    if not features:
        raise InputError(
            f"{folder}: no features, expected <modality>.npy of shape [num_items, d], written by numpy.save; "
            f"{'; '.join([listing(folder), *media(folder, ())])}"
        )
    warn_of_overlooked(folder, features)
    for name, array in features.items():
        if array.ndim != 2:
            hint = IMAGES if array.ndim > 2 else ""
            raise InputError(f"{folder / name}.npy: has shape {list(array.shape)}, expected [num_items, d]{hint}")
    return features, {name[4:]: array for name, array in arrays.items() if name.startswith("has_")}


def listing(folder: Path) -> str:
    """Return the first names in a folder, for messages."""
    names = sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))
    return "found " + (", ".join(names[:8]) + (" ..." if len(names) > 8 else "") if names else "nothing")
