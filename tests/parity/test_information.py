"""Information of margins and Shapley values of margins against values made with NumPy and SciPy, and AGM's code."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from pyg_ckd.balance.attribution import gaussian_information, label_information, shapley_values
from tests.conftest import TOLERANCE, Golden


def test_label_and_gaussian_information_equal_the_reference(golden: Callable[[str], Golden]):
    file = golden("balance/information")
    margins = file["margin"].t()
    assert margins.size(1) > 1
    correlation = torch.corrcoef(margins.t())
    assert torch.allclose(correlation, file["correlation"], rtol=0, atol=TOLERANCE)
    assert torch.allclose(gaussian_information(margins), file["gaussian_mi"], rtol=0, atol=TOLERANCE)
    raw = math.log(2) - F.softplus(-margins).mean(dim=0)
    assert torch.allclose(raw, file["label_information_raw"], rtol=0, atol=TOLERANCE)
    # The reference lets the scale be negative; here margins that are rather wrong than right tell nothing.
    wrong = file["scale"] < 0
    best = label_information(torch.where(wrong, -margins, margins))
    assert torch.allclose(best, file["label_information"], rtol=0, atol=TOLERANCE)
    assert not label_information(margins)[wrong].any()
    assert (best >= raw - TOLERANCE).all()


@pytest.mark.parametrize("num", [2, 3])
def test_shapley_values_of_margins_equal_the_contributions_of_agm(num: int, golden: Callable[[str], Golden]):
    file = golden("balance/agm")
    start = f"margins{num}/v/"
    margins = {frozenset(key.removeprefix(start)): file[key] for key in file if key.startswith(start)}
    assert len(margins) == 2**num - 1
    names = [str(m) for m in range(num)]
    margins[frozenset()] = torch.zeros_like(margins[frozenset(names)])
    phi = shapley_values(margins, names)
    assert torch.allclose(phi.t(), file[f"margins{num}/contribution"], rtol=0, atol=TOLERANCE)
