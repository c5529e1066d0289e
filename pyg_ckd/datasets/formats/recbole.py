"""Atomic files of RecBole (Zhao et al., *RecBole*, CIKM 2021), with the features of the items beside them."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data import check_data
from pyg_ckd.data.checks import SPLITS, check_keep, check_unique_rows
from pyg_ckd.data.feedback import Positive, feedback_columns, liked_parts
from pyg_ckd.data.ids import known_ids
from pyg_ckd.datasets.arrays import one_line
from pyg_ckd.datasets.columns import ALIASES, check_times, find_column, plain
from pyg_ckd.datasets.delimited import missing_column, read_header, read_tab_separated
from pyg_ckd.datasets.folder import likes_of, listing, naming
from pyg_ckd.datasets.formats.common import Contents, build, parts_of, write_features
from pyg_ckd.datasets.npz import Impute, Transform
from pyg_ckd.datasets.origins import Origin, put_together
from pyg_ckd.datasets.parts import part_of
from pyg_ckd.datasets.places import files_in, find_file
from pyg_ckd.datasets.splitting import AS_GIVEN, TIMED, shares_of, split_method, split_pairs
from pyg_ckd.datasets.tables import map_ids
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.files import as_path, atomic_folder

_SUFFIXES = {"train": "train", "val": "valid", "test": "test"}
_USER, _ITEM, _TIME = "user_id:token", "item_id:token", "timestamp"
_TIME_TYPES = (":float", ":token")
_TYPES = ("token", "float", "token_seq", "float_seq")
_TYPED = re.compile(r"\s*([A-Za-z_]\w*)\s*:(\s*[A-Za-z_]\w*\s*)")
_READ = ("user_id", "item_id", "timestamp", *ALIASES["timestamp"], "rating", "label")


def read_recbole(
    path: str | os.PathLike[str],
    transform: Transform = "standardize",
    split: str = "auto",
    ratios: Sequence[float] | None = None,
    seed: int = 0,
    cold_share: float = 0.2,
    impute: Impute = "mean",
    strict: bool = True,
    keep: str = "error",
    min_rating: float | None = None,
    positive: Positive = None,
) -> HeteroData:
    r"""Read a graph from atomic files of RecBole.

    ============================ ==========================================================================
    file                         content
    ============================ ==========================================================================
    ``<name>.train.inter``       tab-separated, with the header ``user_id:token``, ``item_id:token`` and
                                 perhaps ``rating:float`` or ``label:float``; other columns are ignored
    ``<name>.valid.inter``       the same for validation (optional)
    ``<name>.test.inter``        the same for testing (optional)
    or ``<name>.inter``          the same, all in one; ``timestamp:float``, or ``timestamp:token`` with
                                 numbers or dates, is used for splitting (or ``time``, ``date``)
    ``<name>.item``              ``item_id:token``: the item of each feature row (optional)
    ``<name>.user``              ``user_id:token``: all users in order (optional)
    ``<modality>_feat.npy``      ``[num_items, d_m]``, see :mod:`pyg_ckd.datasets.formats.common`
    ============================ ==========================================================================

    Tokens are ids of any kind; white space around them is removed. Without the file ``.item``, item tokens are the rows
    of the features, counted from 0; without ``.user``, users are numbered in ascending order. If there are both kinds
    of ``.inter``, the separate parts are read. Names of columns may be in upper case.

    Args:
        path: The folder.
        transform: The feature transform, see :func:`pyg_ckd.data.feature_transform`. (default: :obj:`"standardize"`)
        split: ``"given"`` (by the files), ``"random"``, ``"leave-one-out"``, ``"temporal"``, ``"cold-start"``,
            ``"none"`` (all are training interactions, whatever the files say; best for serving), or ``"auto"``: as
            given, else at random. ``"leave-one-out"`` and ``"temporal"`` go by the times; without these, the first is
            at random. (default: :obj:`"auto"`)
        ratios: Shares of training, validation and test interactions, if split here; none with ``split="none"``.
            (default: :obj:`None`, ``(0.8, 0.1, 0.1)``)
        seed: Seeds what is random in a split. (default: :obj:`0`)
        cold_share: Share of cold items in a cold-start split, see :func:`pyg_ckd.data.cold_start_split`. (default:
            :obj:`0.2`)
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
        The graph, see :func:`pyg_ckd.data.build_data`. ``data.user_id`` and ``data.item_id`` hold the tokens: an int64
        tensor if all are integers as Python writes them, else a list of strings.

    Raises:
        InputError: If a file is missing, damaged or inconsistent with another.

    Warns:
        UserWarning: If there is no column of times for ``split="leave-one-out"``.
    """
    split = split_method(split)
    shares = shares_of(split, ratios)
    folder = as_path(path)
    check_keep(keep)
    name, files = _inter_files(folder)
    if "whole" in files and split == "given":
        raise InputError(f"{folder}: split='given' needs {name}.train.inter, but found {files['whole'].name} alone")
    if "whole" not in files and split not in AS_GIVEN:
        raise InputError(f"{folder}: split={split!r} needs {name}.inter, but found the parts {[*files]}")
    timed = "whole" in files and split in TIMED
    frames = {file: _read_inter(file, split if timed else None, keep != "error") for file in files.values()}
    file = next(iter(frames))
    source = file if len(frames) == 1 else folder
    masks = liked_parts(frames, min_rating, positive, str(source))
    # Rows keep their index from here on, which tells where they are from.
    frame, origin = put_together(frames, {file: part for part, file in files.items()})
    with naming(source):
        order = np.repeat(np.arange(len(frames)), [len(one) for one in frames.values()])
        frame = likes_of(frame, masks, keep, order, (_USER, _ITEM), warns=not timed)
    users, user_id = _users(frame[_USER], _list(folder, f"{name}.user"), origin)
    items, item_id = _items(frame[_ITEM], _list(folder, f"{name}.item"), origin)
    pairs = np.stack([users, items])
    if strict and keep == "error":
        for part in files:
            rows = (frame["split"] == part).to_numpy()
            there = frame[rows]
            row_of = partial(origin.row, there)
            check_unique_rows(pairs[:, rows], there[_USER], there[_ITEM], str(files[part]), row_of)
    if "whole" in files:
        frame = frame.drop(columns="split")
    with naming(source):
        parts = dict(zip(SPLITS, split_pairs(pairs, frame, split, shares, seed, cold_share, str(source)), strict=True))
    if not parts["train"].size:
        raise InputError(f"{file}: has no rows, expected at least one training interaction")
    data = build(
        Contents(folder, file, parts, len(user_id), num_items=None if item_id is None else len(item_id), files=files),
        transform,
        impute,
        strict,
        keep=keep,
    )
    data.user_id = _with_type(getattr(data, "user_id", None), user_id)
    rows = torch.arange(data["item"].num_nodes) if item_id is None else item_id
    data.item_id = _with_type(getattr(data, "item_id", None), rows)
    return data


def write_recbole(data: HeteroData, path: str | os.PathLike[str]) -> None:
    r"""Write a graph as a folder for :func:`read_recbole`, atomically.

    Tokens are the original ids (``data.user_id``, ``data.item_id``) if the graph has them, else row numbers. In
    RecBole, name the parts with ``benchmark_filename: [train, valid, test]``. Features are written as they are, so read
    them back with ``transform="none"``.

    Args:
        data: The graph; it is checked first, see :func:`pyg_ckd.data.check_data`.
        path: The folder, new or empty.

    Raises:
        InputError: If the graph does not pass the checks, an id cannot be a token, or the folder is not empty.
    """
    data = check_data(data, impute="given")
    name = as_path(path).absolute().name
    users, items = (_tokens(data, kind) for kind in ("user", "item"))
    with atomic_folder(path) as folder:
        for split, part in parts_of(data).items():
            frame = pd.DataFrame({_USER: users[part[0]], _ITEM: items[part[1]]})
            _write_table(frame, folder / f"{name}.{_SUFFIXES[split]}.inter")
        _write_table(pd.DataFrame({_USER: users}), folder / f"{name}.user")
        _write_table(pd.DataFrame({_ITEM: items}), folder / f"{name}.item")
        write_features(data, folder)


def is_typed(header: Sequence[str]) -> bool:
    """Return whether a header is that of an atomic file: names with types behind a colon, whichever these are."""
    return any(_TYPED.fullmatch(column) for column in header)


def _list(folder: Path, name: str) -> Path:
    return find_file(folder, name) or folder / name


def _inter_files(folder: Path) -> tuple[str, dict[str, Path]]:
    """Return the name of the data set and the file of each split, or the one with all under ``whole``."""
    found = files_in(folder, ".inter") if folder.is_dir() else []
    names: dict[str, dict[str, Path]] = {}
    for file in found:
        name, _, last = file.stem.rpartition(".")
        split = (part_of(last) if name else None) or "whole"
        parts = names.setdefault(file.stem if split == "whole" else name, {})
        if split in parts:
            raise InputError(f"{folder}: holds {parts[split].name} and {file.name}, expected one of them; remove one")
        parts[split] = file
    if len(names) != 1:
        says = f"holds {', '.join(names)}, expected one data set" if names else "no interactions"
        rest = listing(folder) if folder.is_dir() else "is no folder"
        raise InputError(f"{folder}: {says}; expected <name>.inter or <name>.train.inter, .valid.inter, ...; {rest}")
    name, parts = next(iter(names.items()))
    if "train" in parts:
        return name, {split: parts[split] for split in SPLITS if split in parts}
    if "whole" in parts:
        return name, {"whole": parts["whole"]}
    raise InputError(f"{folder}: holds {next(iter(parts.values())).name}, but no {name}.train.inter; add it")


def _read_inter(file: Path, timed: str | None, dated: bool) -> pd.DataFrame:
    """Return users and items, with feedback and the times by which a split goes, if any does, or the last one is told.

    Args:
        file: The file.
        timed: The split that goes by times, if one does.
        dated: Whether to read times in any case, if there are any.
    """
    _check_types(read_header(file), file)
    time = None if timed is None and not dated else find_column(read_header(file), _TIME, file, _TIME_TYPES)
    frame = _read_tokens(file, (_USER, _ITEM), time)
    if time is None:
        if timed is not None:
            check_times(read_header(file), timed, file)
        return frame
    if plain(time).endswith(":float"):
        numbers = pd.to_numeric(frame[time], errors="coerce")
        wrong = np.flatnonzero(~np.isfinite(numbers.to_numpy(dtype=np.float64)))
        if wrong.size:
            raise _wrong(file, time, int(wrong[0]), frame[time].iloc[wrong[0]], "a number", "repair the line")
        frame[time] = numbers
    return frame.rename(columns={time: _TIME})


def _read_tokens(file: Path, required: Sequence[str], time: str | None = None) -> pd.DataFrame:
    header = read_header(file)
    _check_types(header, file)
    found = {name: find_column(header, name, file) for name in required}
    for column in required:
        if found[column] is None:
            near = unknown_name("column", column, header)
            raise missing_column(file, f"the column {column!r} is missing; rename: {near}", header)
    names = {actual: name for name, actual in found.items() if actual is not None}
    columns = [*names, *([] if time is None else [time])]
    feedback = feedback_columns(header) if _USER in required and _ITEM in required else []
    try:
        frame = read_tab_separated(file, [*columns, *feedback], dict.fromkeys([*columns, *feedback], str))
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise InputError(f"{file}: cannot be read as a tab-separated table ({one_line(error)})") from None
    frame = frame.assign(**{column: _without_blanks(frame[column], file) for column in names})
    for column in columns:
        missing = np.flatnonzero(frame[column].isna() | (frame[column] == ""))
        if missing.size:
            raise _wrong(file, column, int(missing[0]), "", "a token", "repair or drop the line")
    return frame.rename(columns=names)


def _check_types(header: Sequence[str], file: Path) -> None:
    """Refuse a column that would be read, were its type one of RecBole and without blanks around it."""
    for column in header:
        found = _TYPED.fullmatch(column)
        if found is None or found[1].lower() not in _READ or found[2].lower() in _TYPES:
            continue
        kind = found[2].strip()
        wrong = "blanks in its type" if kind.lower() in _TYPES else f"the type {kind!r}"
        right = kind.lower() if kind.lower() in _TYPES else "token" if found[1].lower() in _READ[:2] else "float"
        raise InputError(
            f"{file}: the column {column!r} has {wrong}, expected one of {', '.join(_TYPES)}; rename it to "
            f"'{found[1].lower()}:{right}'"
        )


def _without_blanks(column: pd.Series, file: Path) -> pd.Series:
    """Return tokens without the blanks around them; two that differ by these alone are refused."""
    tokens = pd.Series(column.unique(), dtype=object).dropna()
    bare = tokens.str.strip()
    if bare.equals(tokens):
        return column
    twice = tokens[bare.duplicated(keep=False)]
    if len(twice):
        one = twice.iloc[0]
        other = next(token for token in twice.iloc[1:] if token.strip() == one.strip())
        raise InputError(
            f"{file}: column {column.name!r} holds {one!r} and {other!r}, expected tokens that differ by more than "
            f"blanks; take the blanks out"
        )
    return column.str.strip()


def _users(column: pd.Series, file: Path, origin: Origin) -> tuple[np.ndarray, Tensor | list[str]]:
    if file.is_file():
        return _listed(column, file, _USER, origin)
    integers = _as_integers(column)
    return map_ids(column if integers is None else pd.Series(integers))


def _items(column: pd.Series, file: Path, origin: Origin) -> tuple[np.ndarray, Tensor | list[str] | None]:
    if file.is_file():
        return _listed(column, file, _ITEM, origin)
    wrong = np.flatnonzero(~column.str.fullmatch(r"[0-9]{1,18}").to_numpy(dtype=bool))
    if wrong.size:
        mend = f"number the items from 0, or add {file.name} with the column {_ITEM}, one per feature row"
        inter, row = origin.of(column, wrong[0])
        raise _wrong(inter, _ITEM, row, column.iloc[wrong[0]], "the number of a feature row, from 0", mend)
    rows = column.astype(np.int64).to_numpy()
    return rows, None  # One for each feature row; their number is known later.


def _listed(column: pd.Series, file: Path, name: str, origin: Origin) -> tuple[np.ndarray, Tensor | list[str]]:
    listed = _read_tokens(file, (name,))[name]
    repeated = np.flatnonzero(listed.duplicated())
    if repeated.size:
        raise InputError(f"{file}: lists {listed.iloc[repeated[0]]!r} again in row {repeated[0]}; list it once")
    rows = pd.Index(listed).get_indexer(column).astype(np.int64)
    unknown = np.flatnonzero(rows < 0)
    if unknown.size:
        first = column.iloc[unknown[0]]
        mend = f"add it to {file.name}, {known_ids(listed, first)}"
        inter, row = origin.of(column, unknown[0])
        raise _wrong(inter, name, row, first, f"a token that {file.name} lists", mend)
    integers = _as_integers(listed)
    return rows, listed.tolist() if integers is None else torch.from_numpy(integers)


def _as_integers(tokens: pd.Series) -> np.ndarray | None:
    """Return tokens as int64 if every one is an integer as Python writes it (not ``007``), else :obj:`None`."""
    if not tokens.str.fullmatch(r"0|-?[1-9][0-9]{0,17}").all():
        return None
    return np.array(tokens.astype(np.int64))


def _with_type(kept: Tensor | list[str] | None, ids: Tensor | list[str]) -> Tensor | list[str]:
    """Return the ids of the sidecar, which knows text that looks like an integer, if they are those of the tokens."""
    return ids if kept is None or list(map(str.strip, _texts(kept))) != _texts(ids) else kept


def _texts(ids: Tensor | list[str]) -> list[str]:
    return [str(value) for value in (ids.tolist() if isinstance(ids, Tensor) else ids)]


def _tokens(data: HeteroData, kind: str) -> np.ndarray:
    ids = getattr(data, f"{kind}_id", None)
    size = data[kind].num_nodes
    tokens = _texts(torch.arange(size) if ids is None else ids)
    if len({token.strip() for token in tokens}) != size or len(tokens) != size:
        raise InputError(
            f"data.{kind}_id: has {len({token.strip() for token in tokens})} different ids for {size} {kind}s, "
            f"blanks around them aside, expected one for each; delete the attribute to number them"
        )
    for token in tokens:
        if not token or re.search(r'[\t\n\r"\ufeff]', token) or not token.isprintable():
            raise InputError(
                f"data.{kind}_id: {token!r} cannot be a token of RecBole, expected text without tabs, line ends and "
                f"quotation marks; rename it, or delete the attribute to number the {kind}s"
            )
    return np.array(tokens, dtype=object)


def _write_table(frame: pd.DataFrame, file: Path) -> None:
    frame.to_csv(file, sep="\t", index=False, encoding="utf-8", quoting=csv.QUOTE_NONE)


def _wrong(file: Path, name: str, row: int, value: str, expected: str, mend: str) -> InputError:
    found = repr(value) if value else "nothing (line cut short?)"
    if re.fullmatch(r"[0-9]+\.0*", value):
        mend += f"; or write {value.partition('.')[0]}, without a fraction, e.g. with frame[...].astype('int64')"
    return InputError(
        f"{file}: column {name!r} holds {found} in row {row} (rows count from zero, without the header), "
        f"expected {expected}; {mend}"
    )
