"""SciPy COO matrices in pickles, read by an unpickler that can build nothing else and calls no code but this file's.

Neither SciPy nor NumPy see anything of the file: each of the few names that the pickle of a COO matrix needs stands for
an inert class below, which keeps the bytes; arrays are made of them afterwards, of plain numeric dtypes only. (NumPy's
own ``dtype.__setstate__`` takes flags from the file that can make it treat bytes as pointers.)
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pyg_ckd.datasets.arrays import one_line
from pyg_ckd.datasets.signatures import what_it_is
from pyg_ckd.errors import InputError

_ADVICE = "store a scipy.sparse.coo_matrix of numbers and nothing else"


class _Coo:
    """A COO matrix: the dictionary that it was pickled as."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("a matrix without attributes")
        self.state = state


class _Dtype:
    """A plain numeric dtype: its letter and size, and the byte order."""

    def __init__(self, text: Any, *_: Any) -> None:
        self.dtype = np.dtype(text) if isinstance(text, str) and len(text) <= 4 else np.dtype(object)
        if self.dtype.kind not in "biuf":
            raise pickle.UnpicklingError(f"dtype {_short(text)}")

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"byte order {_short(order)}")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array: made of shape, dtype and bytes."""

    def __init__(self, *_: Any) -> None:
        self.array = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        self._fill(content, dtype, shape, "F" if fortran else "C")

    @classmethod
    def from_buffer(cls, content: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        out = cls()
        out._fill(content, dtype, shape, order)
        return out

    def _fill(self, content: Any, dtype: Any, shape: Any, order: Any) -> None:
        if not isinstance(dtype, _Dtype) or not isinstance(content, (bytes, bytearray)):
            raise pickle.UnpicklingError("an array of objects")
        self.array = np.frombuffer(bytes(content), dtype.dtype).reshape(shape, order=order)


class _Name:
    """A callable of the pickle that cannot be changed by it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a state for a name")


def _rebuild(kind: Any, *_: Any) -> _Coo:
    if kind is not _Coo:
        raise pickle.UnpicklingError("an object of another class")
    return _Coo()


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":  # So are bytes written in protocols 0 to 2.
        raise pickle.UnpicklingError(f"an encoding {_short(encoding)}")
    return text.encode("latin1")


_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Name(_Array),
    ("numpy", "dtype"): _Name(_Dtype),
    ("_codecs", "encode"): _Name(_encode),
}
for _module in ("scipy.sparse", "scipy.sparse.coo", "scipy.sparse._coo"):
    _NAMES |= {(_module, "coo_matrix"): _Coo, (_module, "coo_array"): _Coo}
for _module in ("numpy.core", "numpy._core"):
    _NAMES[f"{_module}.multiarray", "_reconstruct"] = _Name(_Array)
    _NAMES[f"{_module}.numeric", "_frombuffer"] = _Name(_Array.from_buffer)
for _module in ("copyreg", "copy_reg"):
    _NAMES[_module, "_reconstructor"] = _Name(_rebuild)
for _module in ("builtins", "__builtin__"):
    _NAMES[_module, "object"] = _Name(object)


class _Unpickler(pickle._Unpickler):  # In Python: the one in C allocates as much as the file tells it to.
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it refers to {_short(f'{module}.{name}')}")
        return _NAMES[module, name]


def read_coo(file: Path) -> tuple[np.ndarray, tuple[int, int]]:
    """Read where a pickled COO matrix is not zero, and its shape, see :func:`read_entries`."""
    pairs, shape, _ = read_entries(file)
    return pairs, shape


def read_entries(file: Path) -> tuple[np.ndarray, tuple[int, int], np.ndarray]:
    """Read a pickled COO matrix.

    Args:
        file: The file.

    Returns:
        The row and column of each entry that is not zero, int64 ``[2, E]``, in the order of the file, the shape, and
        the entries ``[E]``.

    Raises:
        InputError: If the file is missing, damaged, holds anything else, or the matrix is malformed.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({error.strerror}), expected a pickled scipy.sparse.coo_matrix"
        ) from None
    other = what_it_is(content[:512], b"") if content else None
    if other is not None:
        raise InputError(f"{file}: not a pickled COO matrix: {other}")
    try:
        matrix = _Unpickler(io.BytesIO(content)).load()
    except pickle.UnpicklingError as error:
        if "exhausted" in str(error) or "truncated" in str(error):
            raise InputError(f"{file}: not a pickled COO matrix, but one that was cut short; copy it again") from None
        raise InputError(
            f"{file}: not a pickled COO matrix ({one_line(error)}), and nothing else is unpickled; {_ADVICE}"
        ) from None
    except Exception as error:  # An unpickler fails in many ways on bytes that are no pickle.
        reason = "cut short" if isinstance(error, (EOFError, IndexError)) else one_line(error)
        raise InputError(
            f"{file}: not a pickled COO matrix (damaged or {reason}); copy it again, or {_ADVICE}"
        ) from None
    if not isinstance(matrix, _Coo):
        raise InputError(f"{file}: holds a {type(matrix).__name__.strip('_')}, expected a COO matrix; {_ADVICE}")
    return _entries(matrix.state, file)


def _entries(state: dict[str, Any], file: Path) -> tuple[np.ndarray, tuple[int, int], np.ndarray]:
    shape = state.get("_shape", state.get("shape"))
    coords = state.get("coords", (state.get("row"), state.get("col")))
    if not isinstance(shape, tuple) or len(shape) != 2 or not all(type(n) is int and n >= 0 for n in shape):
        raise InputError(f"{file}: the matrix has shape {_short(shape)}, expected (users, items); write it again")
    fields = dict(zip(("row", "col"), coords, strict=False)) if isinstance(coords, tuple) else {}
    fields["data"] = state.get("data")
    arrays = {name: value.array for name, value in fields.items() if isinstance(value, _Array)}
    if set(arrays) != {"row", "col", "data"} or len({array.shape for array in arrays.values()}) != 1:
        sizes = {name: list(array.shape) for name, array in arrays.items()}
        raise InputError(f"{file}: the matrix has the arrays {sizes}, expected row, col and data of one length")
    for name, size in zip(("row", "col"), shape, strict=True):
        index = arrays[name]
        if index.ndim != 1 or index.dtype.kind not in "iu":
            raise InputError(
                f"{file}: {name!r} is {index.dtype} of shape {list(index.shape)}, expected a list of integers"
            )
        wrong = np.flatnonzero((index < 0) | (index >= size))
        if wrong.size:
            raise InputError(
                f"{file}: {name!r} holds {index[wrong[0]]} at position {wrong[0]}, expected 0 to {size - 1}, "
                f"as the shape is {list(shape)}; write the matrix again"
            )
    filled = arrays["data"] != 0
    pairs = np.stack([arrays["row"][filled], arrays["col"][filled]]).astype(np.int64)
    return pairs, (shape[0], shape[1]), arrays["data"][filled]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return " ".join(text[:60].split())
