"""Rows of length one against a plain division in double precision, at any scale."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from pyg_ckd.scoring.unit import largest, unit_length

DTYPES = [torch.float32, torch.float64]


def rows(dtype: torch.dtype = torch.float32, size: int = 300) -> torch.Tensor:
    return torch.randn(size, 37, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ordinary_rows_keep_all_bits_of_a_plain_normalisation(dtype: torch.dtype) -> None:
    x = rows(dtype) * torch.logspace(-6, 6, 300, dtype=dtype).unsqueeze(1)
    assert torch.equal(unit_length(x), F.normalize(x))
    mean = 0.3 * x[:1]
    assert torch.equal(unit_length(x - mean, torch.maximum(largest(x), largest(mean))), F.normalize(x - mean))


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-30, 1e-15, 1e15, 1e30, 5e37])
def test_rows_of_any_scale_have_length_one(scale: float) -> None:
    x = rows() * scale
    expected = x.double() / x.double().norm(dim=1, keepdim=True)
    torch.testing.assert_close(unit_length(x).double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, *DTYPES])
def test_rows_of_zeros_and_rows_without_columns_stay_what_they_are(dtype: torch.dtype) -> None:
    x = rows(dtype, 3).index_fill(0, torch.tensor([1]), 0)
    got = unit_length(x)
    assert not got[1].any()
    assert got[[0, 2]].double().norm(dim=1).tolist() == pytest.approx([1, 1], abs=0.01)
    assert unit_length(x[:, :0]).shape == (3, 0)


def test_what_rounding_leaves_of_equal_numbers_stays_small() -> None:
    x = torch.full((3, 2), 1e-9 / 3, dtype=torch.float64)
    noise = x * 2**-52
    assert float(unit_length(noise, largest(x)).norm(dim=1).max()) < 0.01
    assert unit_length(noise).norm(dim=1).tolist() == pytest.approx([1] * 3)


@pytest.mark.parametrize("scale", [1.0, 1e-20])
def test_gradients_are_those_of_the_division(scale: float) -> None:
    x = (rows(torch.float64, 4) * scale).requires_grad_()
    weight = rows(torch.float64, 4).flip(0)
    (unit_length(x) * weight).sum().backward()
    u = (x / x.norm(dim=1, keepdim=True)).detach()
    expected = (weight - u * (u * weight).sum(dim=1, keepdim=True)) / x.detach().norm(dim=1, keepdim=True)
    assert x.grad is not None
    torch.testing.assert_close(x.grad * scale, expected * scale, atol=1e-9, rtol=0)


def test_the_largest_number_of_a_row_is_that_of_either_sign() -> None:
    assert largest(torch.tensor([[1.0, -3.0], [2.0, 0.5]])).tolist() == [[3], [2]]
    assert math.isnan(float(largest(torch.tensor([[math.nan, 1.0]]))))
