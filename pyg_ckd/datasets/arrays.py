"""NumPy files from outside: no header is believed, nothing is unpickled, and every message names the file."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data.checks import TEXTS
from pyg_ckd.data.ids import as_ids, id_column
from pyg_ckd.datasets.places import check_link
from pyg_ckd.datasets.signatures import first_bytes, refuse_other, what_it_is
from pyg_ckd.errors import InputError


def read_array(file: Path, mapped: bool = False) -> np.ndarray:
    """Read one ``.npy`` file.

    The size that its header promises is compared with the size of the file before anything is allocated.

    Args:
        file: The file.
        mapped: Whether to map the file copy-on-write instead of reading it. Then it must not be overwritten while the
            array is in use; replacing it with another file is fine. (default: :obj:`False`)

    Raises:
        InputError: If the file is missing, damaged, cut short, or holds Python objects.
    """
    refuse_other(file, "cannot be read as a plain array", npy.MAGIC_PREFIX)
    try:
        _check_header(file)
        return np.load(file, mmap_mode="c" if mapped else None, allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError, OverflowError) as error:
        raise InputError(
            f"{file}: cannot be read as a plain array ({one_line(error)}); "
            f"save it again with numpy.save and a dtype other than object{_texts(error)}"
        ) from None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an ``.npz`` file.

    Raises:
        InputError: If the file is missing, damaged, cut short, or holds Python objects.
    """
    check_link(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path}: {found}, expected a .npz file written by numpy.savez")
    if not zipfile.is_zipfile(path):
        other = what_it_is(first_bytes(path), b"PK\x03\x04") or "not a zip file, or cut short; copy or write it again"
        raise InputError(f"{path}: not a readable .npz archive ({other})")
    name = ""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {}
            for name in archive.files:
                if not name.startswith("__MACOSX/"):  # What macOS adds when it packs an archive anew.
                    arrays[name] = archive[name]
    except (
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        KeyError,
        RuntimeError,
        MemoryError,
    ) as error:
        if "Object arrays" in str(error):
            raise InputError(
                f"{path}: array {name!r} holds Python objects, which are never unpickled; save it with a plain dtype"
                f"{_texts(error)}"
            ) from None
        where = f"array {name!r}" if name else "the archive"
        raise InputError(f"{path}: {where} cannot be read ({one_line(error)}); copy or write the file again") from None
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise InputError(f"{path}: entry {name!r} is not a NumPy array; write the file with numpy.savez")
    return arrays


def as_size(arrays: Mapping[str, np.ndarray], name: str, source: str) -> int | None:
    """Return a scalar integer among ``arrays``, or :obj:`None` if it is not there."""
    if name not in arrays:
        return None
    array = arrays[name]
    if array.size != 1 or array.dtype.kind not in "iu":
        raise InputError(f"{source}: {name!r} is {array.dtype} of shape {list(array.shape)}, expected a single integer")
    return int(array.item())


def as_original_ids(array: np.ndarray, name: str, size: int, source: str) -> Tensor | list[str]:
    """Return the ids behind ``size`` rows as an int64 tensor, or as a list of strings where they do not fit into it."""
    if array.shape != (size,) or array.dtype.kind not in "iuU":
        mend = "numpy.char.decode(ids)" if array.dtype.kind == "S" else "ids.astype('int64') or ids.astype('str')"
        raise InputError(
            f"{source}: {name!r} is {array.dtype} of shape {list(array.shape)}, expected {size} integers or strings, "
            f"one per {name[:4]}; write {mend}, in the order of the rows"
        )
    values, first, counts = np.unique(array, return_index=True, return_counts=True)
    if values.size < size:
        twice = values[counts > 1][np.argmin(first[counts > 1])]
        row = np.flatnonzero(array == twice)[1]
        raise InputError(
            f"{source}: {name!r} holds {twice.item()!r} again in row {row}, expected every id once; merge the rows, or "
            f"correct the ids"
        )
    return array.tolist() if array.dtype.kind == "U" else as_ids(array)


def ids_of(data: HeteroData) -> dict[str, np.ndarray]:
    """Return the ids behind the users and items of a graph as arrays, as far as it has them.

    Raises:
        InputError: If they are not one integer or string for each, all different.
    """
    arrays: dict[str, np.ndarray] = {}
    for name in ("user_id", "item_id"):
        ids = getattr(data, name, None)
        if ids is not None:
            plain = as_ids(id_column(ids, f"data: {name!r}"))
            arrays[name] = plain.numpy() if isinstance(plain, Tensor) else np.array(plain)
            as_original_ids(arrays[name], name, data[name[:4]].num_nodes, "data")
    return arrays


def one_line(error: BaseException) -> str:
    """Return the message of an exception in one line, or its type if it has none."""
    if isinstance(error, UnicodeDecodeError):
        return "its text is not UTF-8; save it as UTF-8"
    return " ".join(str(error).split()) or type(error).__name__


def _texts(error: BaseException) -> str:
    return TEXTS if "Object arrays" in str(error) else ""


def _check_header(file: Path) -> None:
    with file.open("rb") as stream:
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version[0]}.{version[1]} of the format holds no plain array")
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(stream)
        left = file.stat().st_size - stream.tell()
    if dtype.hasobject:
        raise ValueError("Object arrays would have to be unpickled")
    promised = math.prod(shape) * dtype.itemsize
    if promised > left or any(size < 0 for size in shape):
        raise ValueError(
            f"the header promises {dtype} of shape {list(shape)}, {promised} bytes, but {left} follow: "
            f"cut short or damaged"
        )
