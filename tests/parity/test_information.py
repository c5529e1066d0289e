"""Information of margins and Shapley values of margins against values made with NumPy and SciPy, and AGM's code."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from pyg_ckd.balance.attribution import _best_scale, gaussian_information, label_information, shapley_values
from pyg_ckd.balance.canonical import canonical_correlations, row_information
from pyg_ckd.errors import InputError
from pyg_ckd.nn.loss import contrastive_loss
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
    found = _best_scale(torch.where(wrong, -margins, margins), torch.full_like(margins, 1 / margins.size(0)))
    assert torch.allclose(torch.where(wrong, -found, found), file["scale"], rtol=0, atol=1e-6)
    assert (best >= raw - TOLERANCE).all()


def test_information_of_rows_equals_the_reference(golden: Callable[[str], Golden]):
    file = golden("balance/information")
    pair, ridge = (file["rows_x"], file["rows_y"]), file.number("ridge")
    found = canonical_correlations(*pair, ridge)
    assert torch.allclose(found, file["canonical_correlation"], rtol=0, atol=TOLERANCE)
    assert float(row_information(*pair, ridge)) == pytest.approx(file.number("gaussian_mi_rows"), abs=TOLERANCE)
    one, other = file["nce_x"], file["nce_y"]
    bound = math.log(one.size(0)) - contrastive_loss(one, other, file.number("nce_temperature"))
    assert float(bound) == pytest.approx(file.number("nce_bound"), abs=TOLERANCE)


def test_information_of_rows_is_that_of_their_only_columns_and_refuses_what_does_not_match():
    one, other = torch.randn(2, 3000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    other = 0.8 * one + 0.6 * other
    expected = gaussian_information(torch.cat([one, other], dim=1))[0, 1]
    assert float(row_information(one, other, 1e-12)) == pytest.approx(float(expected), abs=1e-9)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    wide = torch.cat([one, other, one * other], dim=1)
    assert float(row_information(wide @ turn, other)) == pytest.approx(float(row_information(wide, other)), abs=1e-9)
    with pytest.raises(InputError, match=r"found shapes \[3000, 1\] and \[2999, 1\], expected two tables"):
        row_information(one, other[1:])
    with pytest.raises(InputError, match=r"ridge: found 0\.0"):
        row_information(one, other, 0.0)


def test_shapley_values_of_margins_equal_the_contributions_of_agm(golden: Callable[[str], Golden]):
    file = golden("balance/agm")
    instances = sorted({key.split("/")[0] for key in file if key.startswith("margins")})
    assert instances
    for instance in instances:
        start = f"{instance}/v/"
        margins = {frozenset(key.removeprefix(start)): file[key] for key in file if key.startswith(start)}
        names = sorted(set().union(*margins))
        assert len(margins) == 2 ** len(names) - 1
        margins[frozenset()] = torch.zeros_like(margins[frozenset(names)])
        phi = shapley_values(margins, names)
        assert torch.allclose(phi.t(), file[f"{instance}/contribution"], rtol=0, atol=TOLERANCE)
