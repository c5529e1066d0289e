"""Products of sparse matrices in half precision are those in single precision, rounded; others are made as ever."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from pyg_ckd.scoring.history import unit
from pyg_ckd.scoring.pairs import pair_products
from pyg_ckd.scoring.sparse import csr_matrix, inner_products, product, row_starts

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def matrix(dtype: torch.dtype) -> torch.Tensor:
    col = torch.tensor([0, 2, 1, 0, 1, 2])
    value = torch.tensor([1.0, 0.5, -2.0, 3.0, 0.25, 1.5]).to(dtype)
    return csr_matrix(row_starts(torch.tensor([2, 1, 0, 3])), col, value, 4, 3)


def table(rows: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(rows)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_product_is_that_of_dense_matrices(dtype):
    whole, x, start = matrix(dtype), table(3, dtype), table(4, dtype)
    dense = whole.to_dense().double()
    for found, expected in (
        (product(whole, x), dense @ x.double()),
        (product(whole, x, start), start.double() + dense @ x.double()),
    ):
        assert found.dtype == dtype
        assert_close(found, expected.to(dtype))
    out = torch.full((4, 5), 9.0, dtype=dtype)
    assert product(whole, x, out=out) is out
    assert_close(out, (dense @ x.double()).to(dtype))
    product(whole, x, start, out)
    assert_close(out, (start.double() + dense @ x.double()).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_inner_products_are_those_of_rows(dtype):
    left, right = table(4, dtype), table(3, dtype)
    row, col = torch.tensor([0, 0, 1, 3, 3, 3]), torch.tensor([0, 2, 1, 0, 1, 2])
    found = inner_products(matrix(dtype), left, right)
    assert found.dtype == dtype
    assert_close(found, (left[row].double() * right[col].double()).sum(dim=1).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_in_half_precision_are_those_in_single_precision(dtype):
    row, col = torch.tensor([0, 0, 1, 3, 3, 3] * 4), torch.tensor([0, 2, 1, 0, 1, 2] * 4)
    gradients = []
    for kind in (dtype, torch.float32):
        left, right = (table(rows, dtype).to(kind).requires_grad_() for rows in (4, 3))
        pair_products(left, right, row, col).sum().backward()
        gradients.append([left.grad.to(dtype), right.grad.to(dtype)])
    assert_close(*gradients)


def test_rows_of_zeros_have_no_direction_in_half_precision():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]]).half().requires_grad_()
    found = unit(x, 1e-24)
    assert found.dtype == torch.float16
    assert_close(found, torch.tensor([[0.0, 0.0], [0.6, 0.8]]).half())
    found[:, 0].sum().backward()
    assert_close(x.grad, torch.tensor([[0.0, 0.0], [0.128, -0.096]]).half(), atol=1e-3, rtol=0)
