"""Arrays, tensors and frames of any kind as plain arrays; what holds no plain numbers is refused with what to write.

It is apart from the checks of what the numbers say, see :mod:`pyg_ckd.data.checks`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyg_ckd.errors import InputError

_NUMBERS = ("boolean", "integer", "floating", "mixed-integer-float", "decimal")


def as_array(values: Any, where: str) -> np.ndarray:
    """Return an array, a tensor or nested lists as an array of NumPy.

    Args:
        values: What was given.
        where: What it is, for messages.

    Raises:
        InputError: If it is sparse, quantized, partly masked, not rectangular, or holds objects.
    """
    if isinstance(values, Tensor):
        return _tensor_array(values, where)
    values = without_tensors(values, where)
    rows = values if isinstance(values, (list, tuple)) else [values]
    masked = [row for row in rows if isinstance(row, np.ma.MaskedArray) and np.ma.is_masked(row)]
    if masked:
        raise InputError(
            f"{where}: found {sum(map(np.ma.count_masked, masked))} masked values, expected none; drop the rows, or "
            "write features as values.filled(numpy.nan)"
        )
    if hasattr(values, "tocoo") and hasattr(values, "toarray"):
        raise InputError(
            f"{where}: found a sparse matrix ({type(values).__name__}), expected a dense array; write features as "
            "values.toarray(), and interactions as numpy.stack(values.nonzero())"
        )
    try:
        array = np.asarray(values)
    except ValueError:
        raise InputError(f"{where}: rows of unequal length, expected a rectangular array") from None
    if array.dtype.kind == "O":
        raise InputError(f"{where} has dtype object ({type(values).__name__}), expected a plain array of numbers")
    return array


def without_tensors(values: Any, where: str) -> Any:
    """Return a tensor, and tensors in lists, as arrays, and anything else as it is.

    Args:
        values: What was given.
        where: What it is, for messages.

    Raises:
        InputError: If a tensor is sparse, quantized, or cannot be read by NumPy.
    """
    if isinstance(values, Tensor):
        return _tensor_array(values, where)
    return [without_tensors(one, where) for one in values] if _holds_tensors(values) else values


def _holds_tensors(values: Any) -> bool:
    """Return whether there are tensors in a list, or in the first list in it, and so on, without a walk through all."""
    while type(values) in (list, tuple) and values:
        if any(isinstance(one, Tensor) for one in values):
            return True
        values = values[0]
    return False


def as_matrix(values: pd.DataFrame | pd.Series, where: str) -> np.ndarray:
    """Return numbers and truth values of a frame as a matrix; one column may hold whole vectors.

    Args:
        values: The frame, or one column.
        where: What it is, for messages.

    Raises:
        InputError: If a column holds something else, or vectors differ in length.
    """
    frame = values.to_frame() if isinstance(values, pd.Series) else values
    if frame.shape[1] == 1 and not _is_number(frame.dtypes.iloc[0]):
        vectors = [_vector(value) for value in _cells(frame.iloc[:, 0])]
        sizes = [vector.size for vector in vectors if vector is not None]
        if sizes:
            return _stacked(vectors, sizes[0], where)
    if any(map(pd.api.types.is_object_dtype, frame.dtypes)):
        frame = frame.apply(_as_numbers)
    wrong = [(name, kind) for name, kind in zip(frame.columns, frame.dtypes, strict=True) if not _is_number(kind)]
    if wrong:
        raise InputError(
            f"{where}: column {wrong[0][0]!r} holds no numbers (dtype {wrong[0][1]}), expected real numbers; drop it, "
            f"write categories as pandas.get_dummies does, or make it the index if it holds the item ids"
        )
    extension = any(map(pd.api.types.is_extension_array_dtype, frame.dtypes))
    mixed = 0 < sum(map(pd.api.types.is_bool_dtype, frame.dtypes)) < frame.shape[1]  # As pandas.get_dummies returns it.
    return frame.to_numpy(dtype=np.float64, na_value=np.nan) if extension or mixed else frame.to_numpy()


def as_floats(x: Tensor) -> Tensor:
    """Return a tensor in single precision, unless it is in that or in double precision.

    Args:
        x: Real numbers or truth values.
    """
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _tensor_array(values: Tensor, where: str) -> np.ndarray:
    if values.is_quantized:
        raise InputError(f"{where}: found a quantized tensor ({values.dtype}), expected numbers; call .dequantize()")
    if values.is_nested or values.layout != torch.strided:
        pairs = ".coalesce()" if values.layout == torch.sparse_coo else ".to_sparse_coo()"
        dense = f"call .to_dense(), or for interactions {pairs}.indices()"
        mend = "call .to_padded_tensor(0.0)" if values.is_nested else dense
        raise InputError(
            f"{where}: found a {'nested' if values.is_nested else 'sparse'} tensor, expected a dense one; {mend}"
        )
    try:
        return _known_to_numpy(values).numpy()
    except (TypeError, NotImplementedError):  # Numbers packed into bytes, and tensors without memory.
        raise InputError(
            f"{where}: found a tensor of {values.dtype} on {values.device}, which NumPy cannot read, expected numbers "
            "such as float32"
        ) from None


def _known_to_numpy(values: Tensor) -> Tensor:
    """Return a tensor on the CPU that NumPy reads: floating-point numbers of other types are in single precision."""
    values = values.as_subclass(Tensor).detach().cpu().resolve_conj().resolve_neg()
    short = values.dtype.is_floating_point and values.dtype not in (torch.float16, torch.float32, torch.float64)
    return values.float() if short else values


def _cells(column: pd.Series) -> pd.Series:
    """Return a column of Arrow's lists as objects, each an array, and any other as it is."""
    listed = isinstance(column.dtype, pd.ArrowDtype) and "list" in str(column.dtype).partition("<")[0]
    return column.array.__arrow_array__().to_pandas() if listed else column


def _vector(value: Any) -> np.ndarray | None:
    """Return a list, an array or a tensor as an array, anything else as :obj:`None`; what it lacks is NaN."""
    if isinstance(value, Tensor):
        value = _known_to_numpy(value)
    if np.ndim(value) != 1:
        return None
    if np.ma.is_masked(value):
        return np.ma.filled(value.astype(np.float64), np.nan)
    vector = np.asarray(value)
    return pd.Series(vector).pipe(_as_numbers).to_numpy() if vector.dtype.kind == "O" else vector


def _stacked(vectors: list[np.ndarray | None], size: int, where: str) -> np.ndarray:
    """Return vectors as a matrix, NaN where there is none."""
    wrong = next((row for row, vector in enumerate(vectors) if vector is not None and vector.size != size), None)
    if wrong is not None:
        found = vectors[wrong]
        raise InputError(
            f"{where} have {0 if found is None else found.size} numbers in row {wrong}, expected {size} as in the "
            f"first; repair or drop the row"
        )
    return np.stack([np.full(size, np.nan) if vector is None else vector for vector in vectors])


def _as_numbers(column: pd.Series) -> pd.Series:
    """Return a column of numbers among which some are missing, as pandas keeps them in objects, as numbers."""
    if pd.api.types.is_object_dtype(column) and pd.api.types.infer_dtype(column, skipna=True) in _NUMBERS:
        return pd.to_numeric(column.map(lambda value: np.nan if pd.isna(value) else float(value)))
    return column


def _is_number(kind: Any) -> bool:
    real = pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_complex_dtype(kind)
    return real or pd.api.types.is_bool_dtype(kind)
