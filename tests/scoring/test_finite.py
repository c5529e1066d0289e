"""Whether all numbers are finite."""

from __future__ import annotations

import math

import pytest
import torch

from pyg_ckd.scoring.finite import all_finite


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], True),
        ([1.0, -2.0], True),
        ([3e38, 3e38, 3e38], True),  # Whose sum is not finite.
        ([1.0, math.nan], False),
        ([math.inf, 1.0], False),
        ([math.inf, -math.inf], False),
    ],
)
def test_finite_numbers_are_told_from_others(values: list[float], expected: bool) -> None:
    assert all_finite(torch.tensor(values)) is expected
