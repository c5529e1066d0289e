"""Ready vectors of items from files, and vectors from files of images or sound through a callable."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pyg_ckd.data.arrays import as_array
from pyg_ckd.data.ids import id_column, known_ids
from pyg_ckd.datasets.arrays import one_line, read_array
from pyg_ckd.datasets.batches import Encoder, encode_batches, version_of
from pyg_ckd.datasets.columns import find_column
from pyg_ckd.datasets.tables import check_ids, find_table, read_table
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.files import as_path, atomic_path


def read_vectors(
    path: str | os.PathLike[str], items: Sequence[Any], only_known: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    r"""Read the vectors of some items.

    ================== ================================================================================================
    file               content
    ================== ================================================================================================
    ``<name>.parquet`` the column ``item`` and one column of lists of numbers, all of one length; a null is a missing
                       vector
    ``<name>.npy``     ``[num_rows, d]``, and beside it ``items.csv`` or ``items.parquet`` with the column ``item``, the
                       item of each row
    ================== ================================================================================================

    Args:
        path: The file.
        items: The ids of the items, all different.
        only_known: If set to :obj:`False`, vectors of other items are ignored, unless all are of other items. (default:
            :obj:`True`, refuse them)

    Returns:
        The vectors, float32 ``[N, d]``, zero where there are none, and the mask of the items that have them, bool
        ``[N]``.

    Raises:
        InputError: If the file is damaged, of another kind or without a vector for any item, lists an item twice, or
            one that is not among ``items``.
    """
    file, items = as_path(path), id_texts(items, "items")
    if file.suffix.lower() not in (".npy", ".parquet"):
        raise InputError(f"{file}: expected a file of vectors that ends in .npy or .parquet")
    ids, vectors = _read_parquet(file) if file.suffix.lower() == ".parquet" else _read_npy(file)
    rows = pd.Index(items, dtype=object).get_indexer(pd.Index(ids, dtype=object))
    unknown = np.flatnonzero(rows < 0)
    if unknown.size and (only_known or unknown.size == rows.size):
        raise InputError(
            f"{file}: {unknown.size} of {rows.size} vectors are of unknown items, the first is {ids[unknown[0]]!r} in "
            f"row {unknown[0]}, {known_ids(items, ids[unknown[0]])}; remove them or mend the ids"
        )
    repeated = np.flatnonzero(pd.Index(ids, dtype=object).duplicated())
    if repeated.size:
        raise InputError(f"{file}: lists item {ids[repeated[0]]!r} again in row {repeated[0]}; keep one vector of each")
    at = np.flatnonzero(rows >= 0)
    features = np.zeros((len(items), vectors.shape[1]), dtype=np.float32)
    has = np.zeros(len(items), dtype=bool)
    with np.errstate(over="ignore"):  # What float32 cannot hold becomes infinite and is reported below.
        features[rows[at]], has[rows[at]] = vectors[at], True
    wrong = at[~np.isfinite(features[rows[at]]).all(axis=1)]
    if wrong.size:
        raise InputError(
            f"{file}: the vector of item {ids[wrong[0]]!r} in row {wrong[0]} is not finite as float32; repair it or "
            f"leave it out"
        )
    return features, has


def write_vectors(path: str | os.PathLike[str], items: Sequence[Any], vectors: Any) -> None:
    r"""Write vectors in the Parquet layout of :func:`read_vectors`, atomically.

    Args:
        path: The file to write, ending in ``.parquet``.
        items: The ids, one per vector, each once.
        vectors: The vectors ``[N, d]``, an array or a tensor of finite float16, float32 or float64, or a list of them.

    Raises:
        InputError: If the name, the shape or the number of ids is wrong, an id is there twice, a number is not finite,
            or the file cannot be written.
    """
    items, vectors = id_texts(items, "items"), as_array(vectors, f"{path}: vectors")
    if as_path(path).suffix.lower() != ".parquet":
        raise InputError(f"{path}: expected a file name that ends in .parquet")
    if vectors.ndim != 2 or vectors.shape[0] != len(items):
        raise InputError(f"{path}: vectors have shape {list(vectors.shape)}, expected [{len(items)}, d], one per item")
    twice = np.flatnonzero(pd.Index(items, dtype=object).duplicated())
    if twice.size:
        raise InputError(f"{path}: item {items[twice[0]]!r} is there again in row {twice[0]}; keep one vector of each")
    if vectors.dtype.kind not in "fiu":
        raise InputError(f"{path}: vectors have dtype {vectors.dtype}, expected real numbers such as float32")
    wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if wrong.size:
        row = wrong[0]
        raise InputError(
            f"{path}: the vector of item {items[row]!r} in row {row} is not finite; repair it or leave it out"
        )
    lists = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).reshape(-1)), vectors.shape[1])
    try:
        with atomic_path(path) as temporary:
            pq.write_table(pa.table({"item": pa.array(items, pa.string()), "vector": lists}), temporary)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}), nothing was; make room or choose another place"
        ) from None


def encode_files(
    files: str | os.PathLike[str] | Mapping[Any, str | os.PathLike[str]],
    encode: Encoder,
    batch_size: int = 64,
    cache: str | os.PathLike[str] | None = None,
    name: str = "encoder",
    progress: bool = True,
) -> tuple[list[str], np.ndarray]:
    r"""Turn files of images, sound or anything else into vectors.

    Args:
        files: A folder, where the item is the name of a file without its last suffix, or the file of each item.
        encode: Maps a list of paths to an array ``[B, d]``.
        batch_size: Number of files that the encoder gets at once. (default: :obj:`64`)
        cache: A folder that keeps finished batches, see :func:`encode_batches`. (default: :obj:`None`)
        name: Name of the encoder in messages and in the cache. (default: :obj:`"encoder"`)
        progress: If set to :obj:`False`, show no progress bar. (default: :obj:`True`)

    Returns:
        The items, in ascending order for a folder, and their vectors, float32 ``[N, d]``; save them with
        :func:`write_vectors`.

    Raises:
        InputError: If a file is missing, two files of the folder belong to the same item, or the encoder returns no
            array ``[B, d]``.
    """
    paths = (
        {str(item): as_path(file) for item, file in files.items()}
        if isinstance(files, Mapping)
        else _by_stem(as_path(files))
    )
    for item, file in paths.items():
        if not file.is_file():
            raise InputError(f"{file}: is no file, expected one for item {item!r}; leave the item out or add the file")
    return list(paths), encode_batches(
        list(paths.values()), encode, batch_size, cache, name, progress, version_of(encode)
    )


def id_texts(ids: Any, where: str) -> list[str]:
    """Return ids of any type as text.

    Args:
        ids: A list, an array, a tensor or a column of integers, strings or UUIDs.
        where: What they are, for messages.
    """
    return id_column(ids, where).astype(str).tolist()


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder, expected one with a file per item")
    paths: dict[str, Path] = {}
    for file in sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")):
        if file.stem in paths:
            raise InputError(
                f"{folder}: holds {paths[file.stem].name} and {file.name}, expected one file per item; remove one"
            )
        paths[file.stem] = file
    return paths


def _read_npy(file: Path) -> tuple[list[str], np.ndarray]:
    vectors = read_array(file, mapped=True)
    if vectors.ndim != 2 or vectors.shape[1] == 0 or vectors.dtype.kind not in "fiub":
        raise InputError(f"{file}: is {vectors.dtype} of shape {list(vectors.shape)}, expected numbers [num_rows, d]")
    listed = find_table(file.parent, "items")
    if listed is None:
        raise InputError(
            f"{file}: nothing says which items its {len(vectors)} rows are; add items.csv beside it, with the column "
            f"'item', one id per row"
        )
    ids = read_table(listed, ("item",))
    check_ids(ids, "item", listed)
    if len(ids) != len(vectors):
        raise InputError(f"{file}: has {len(vectors)} rows, but {listed.name} lists {len(ids)} items; give one per row")
    return id_texts(ids["item"], f"{listed}: column 'item'"), vectors


def _read_parquet(file: Path) -> tuple[list[str], np.ndarray]:
    try:
        table = pq.read_table(file)
    except (ValueError, OSError) as error:  # Arrow's errors are ValueErrors or OSErrors.
        raise InputError(f"{file}: cannot be read as a Parquet table ({one_line(error)})") from None
    name = find_column(table.column_names, "item", file)
    if name is None:
        raise InputError(f"{file}: has no ids; {unknown_name('column', 'item', table.column_names)}")
    lists = [column.name for column in table.schema if _is_list_of_numbers(column.type)]
    if len(lists) != 1:
        raise InputError(
            f"{file}: has {len(lists)} columns of lists of numbers among {', '.join(table.column_names)}, expected one"
        )
    missing = np.flatnonzero(table[name].is_null().to_numpy())
    if missing.size:
        raise InputError(f"{file}: column {name!r} is empty in row {missing[0]}, expected an id; fill or drop the row")
    column = table[name].to_pandas()
    if len(column):
        check_ids(column.to_frame("item"), "item", file)
    return _stack(column.astype(str).to_numpy(dtype=object), table[lists[0]].combine_chunks(), lists[0], file)


def _stack(ids: np.ndarray, column: Any, name: str, file: Path) -> tuple[list[str], np.ndarray]:
    """Return the lists of a column as one matrix, and the ids of those that are there."""
    there = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    column = column.take(pa.array(there))
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    uneven = np.flatnonzero(lengths != lengths[:1].sum())
    if uneven.size or not lengths.sum():
        row = there[uneven[0]] if uneven.size else 0
        raise InputError(
            f"{file}: column {name!r} has {lengths[uneven[0]] if uneven.size else 0} numbers in row {row}, expected "
            f"as many as in the first vector, and at least one; repair or drop the row"
        )
    values = column.flatten()
    if values.null_count:
        row = there[np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0] // lengths[0]]
        raise InputError(f"{file}: column {name!r} has a null inside its vector in row {row}; fill it or drop the row")
    return ids[there].tolist(), values.to_numpy(zero_copy_only=False).reshape(len(there), -1)


def _is_list_of_numbers(kind: Any) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))
