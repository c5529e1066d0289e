"""Arrays, tensors and columns of other libraries are plain numbers, or are refused with what to write."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from pyg_ckd.data import build_data
from pyg_ckd.errors import InputError

PAIRS = np.array([[0, 1, 2], [0, 1, 2]])
X = np.array([[0.5, 1.0, 2.0], [4.0, -0.25, 0.0], [1.5, 3.0, -8.0]])  # Of few bits, so that short floats hold them.


def features_of(values, **options) -> torch.Tensor:
    return build_data(PAIRS, {"a": values, "b": X}, transform=None, **options)["item"].a


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_short_floats_of_torch_are_features(kind):
    rows = torch.from_numpy(X).to(kind)
    assert features_of(rows).tolist() == X.tolist()
    assert features_of(pd.Series(list(rows))).tolist() == X.tolist()


def quantized() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.from_numpy(X).float(), 0.25, 0, torch.qint8)


TENSORS = {
    "quantized": (quantized, r"found a quantized tensor \(torch.qint8\), expected numbers; call .dequantize\(\)"),
    "nested": (
        lambda: torch.nested.nested_tensor(list(torch.ones(3, 2)), layout=torch.jagged),
        r"found a nested tensor, expected a dense one; call .to_padded_tensor\(0.0\)",
    ),
    "sparse": (lambda: torch.eye(3).to_sparse(), r"found a sparse tensor, expected a dense one; call .to_dense\(\)"),
    "nowhere": (lambda: torch.ones(3, 2, device="meta"), "found a tensor of torch.float32 on meta, which NumPy cannot"),
}
if hasattr(torch, "float4_e2m1fn_x2"):  # Since PyTorch 2.8.
    TENSORS["packed"] = (
        lambda: torch.ones(3, 2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
        "found a tensor of torch.float4_e2m1fn_x2 on cpu, which NumPy cannot read, expected numbers such as float32",
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("tensor", "pattern"), TENSORS.values(), ids=TENSORS.keys())
def test_tensors_that_are_no_plain_numbers_are_refused_with_what_to_call(tensor, pattern):
    with pytest.raises(InputError, match=f"input: features of 'a': {pattern}"):
        features_of(tensor())


@pytest.mark.filterwarnings("ignore")
def test_quantized_features_work_as_they_are_told_to_be_written():
    assert features_of(quantized().dequantize()).tolist() == X.tolist()


def test_masked_rows_in_a_list_are_counted_and_in_a_column_missing():
    rows = list(np.ma.masked_equal(X, -8.0))
    with pytest.raises(InputError, match=r"features of 'a': found 1 masked values.*values.filled\(numpy.nan\)"):
        features_of(rows)
    with pytest.raises(InputError, match="not finite in 1 rows, first in row 2, column 2: nan"):
        features_of(pd.Series(rows))
    assert features_of(pd.Series(rows), has={"a": [True, True, False]})[2].tolist() == X[:2].mean(0).tolist()


ARROW = {"list": pa.list_(pa.float32()), "large": pa.large_list(pa.float64()), "fixed": pa.list_(pa.float32(), 3)}


@pytest.mark.parametrize("kind", ARROW.values(), ids=ARROW.keys())
def test_lists_of_arrow_are_vectors(kind):
    column = pd.Series(pd.array(X.tolist(), dtype=pd.ArrowDtype(kind)))
    assert features_of(column).tolist() == X.tolist()
    assert features_of(pd.DataFrame({"item": [2, 1, 0], "v": column})).tolist() == X[::-1].tolist()
    gap = pd.Series(pd.array([X[0].tolist(), None, X[2].tolist()], dtype=pd.ArrowDtype(kind)))
    has = {"a": [True, False, True]}
    assert features_of(gap, has=has).tolist() == [X[0].tolist(), X[[0, 2]].mean(0).tolist(), X[2].tolist()]


@pytest.mark.parametrize("arrow", [False, True])
def test_a_gap_in_a_vector_is_missing(arrow):
    cells = [[0.5, None, 2.0], *X[1:].tolist()]
    column = pd.Series(pd.array(cells, dtype=pd.ArrowDtype(ARROW["list"]))) if arrow else pd.Series(cells)
    with pytest.raises(InputError, match="not finite in 1 rows, first in row 0, column 1: nan"):
        features_of(column)


COLUMNS = {
    "truth and floats": {"x": [True, False, True], "y": [0.5, 1.0, 2.0]},
    "truth and integers": {"x": [True, False, True], "y": [7, 8, 9]},
    "truth of objects": {"x": pd.Series([True, False, True], dtype=object), "y": [0.5, 1.0, 2.0]},
    "truth of pandas": {"x": pd.array([True, False, True], dtype="boolean"), "y": [0.5, 1.0, 2.0]},
    "truth of arrow": {"x": pd.array([True, False, True], dtype="bool[pyarrow]"), "y": pd.array([7, 8, 9], "Int8")},
}


@pytest.mark.parametrize("columns", COLUMNS.values(), ids=COLUMNS.keys())
def test_columns_of_truth_values_and_of_numbers_are_features_together(columns):
    expected = [[float(x), float(y)] for x, y in zip(columns["x"], columns["y"], strict=True)]
    assert features_of(pd.DataFrame(columns)).tolist() == expected


@pytest.mark.parametrize("gap", [None, pd.NA], ids=repr)
def test_a_missing_truth_value_is_missing(gap):
    frame = pd.DataFrame({"x": pd.Series([True, gap, False], dtype=object), "y": [0.5, 1.0, 2.0]})
    with pytest.raises(InputError, match="not finite in 1 rows, first in row 1, column 0: nan"):
        features_of(frame)


NOT_REAL = {"complex128": [1j, 2j, 3j], "category": pd.Categorical(["x", "y", "x"]), "str|object": ["x", "y", "x"]}


@pytest.mark.parametrize(("kind", "column"), NOT_REAL.items(), ids=NOT_REAL.keys())
@pytest.mark.parametrize("beside", [False, True])
def test_columns_of_anything_else_are_refused_with_their_type(kind, column, beside):
    frame = pd.DataFrame({"x": column} | ({"y": [True, False, True]} if beside else {}))
    with pytest.raises(InputError, match=rf"column 'x' holds no numbers \(dtype ({kind})\).*pandas.get_dummies"):
        features_of(frame)


GIVEN = {
    "gradient": lambda x: x.float().requires_grad_(),
    "bfloat16": lambda x: x.bfloat16(),
    "float8": lambda x: x.to(torch.float8_e5m2),
    "negative view": lambda x: torch.view_as_complex(torch.stack([x, -x], dim=2)).conj().imag,
    "conjugate view": lambda x: torch.view_as_complex(torch.stack([x, -x], dim=2)).conj().real,
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN.keys())
@pytest.mark.parametrize("kind", [lambda x: x, list, tuple, lambda x: pd.Series(list(x))])
def test_tensors_and_lists_of_tensors_of_every_type_are_features(given, kind):
    assert features_of(kind(given(torch.from_numpy(X)))).tolist() == X.tolist()


def test_lists_of_lists_of_tensors_are_interactions_and_sparse_ones_are_refused():
    pairs = [list(row) for row in torch.from_numpy(PAIRS)]
    data = build_data(pairs, {"a": X})
    assert data["user", "rates", "item"].edge_index.tolist() == PAIRS.tolist()
    with pytest.raises(InputError, match="features of 'a': found a sparse tensor"):
        features_of([torch.ones(2), torch.ones(2).to_sparse(), torch.ones(2)])


@pytest.mark.parametrize("change", [lambda x: x, lambda x: x.to_sparse_csr()], ids=["coo", "csr"])
def test_a_sparse_matrix_of_interactions_is_refused_with_what_to_write(change):
    matrix = change(torch.sparse_coo_tensor(torch.from_numpy(PAIRS), torch.ones(3), (3, 3)))
    call = "coalesce" if matrix.layout == torch.sparse_coo else "to_sparse_coo"
    with pytest.raises(InputError, match=rf"train: .*sparse tensor.*or for interactions .{call}\(\).indices\(\)"):
        build_data(matrix, {"a": X})
    assert getattr(matrix, call)().indices().tolist() == PAIRS.tolist()
