"""The map for newcomers is scikit-learn's ridge regression, with the penalty that leaves out best."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as Reference
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from pyg_ckd.data import ridge
from pyg_ckd.data.ridge import ALPHAS, Ridge


def problem(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(columns)
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * 3 + 1
    y = x @ torch.randn(columns, 2, generator=generator, dtype=torch.float64)
    return x, y + 4 * torch.randn(rows, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("rows", "columns"), [(40, 5), (12, 30)])
def test_it_is_the_ridge_regression_with_the_least_leave_one_out_error(rows: int, columns: int) -> None:
    x, y = problem(rows, columns)
    scaled = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()
    square = np.linalg.svd(scaled, compute_uv=False) ** 2
    mean_square = square[square > 1e-10 * square.max()].mean()
    models = [Reference(alpha * mean_square) for alpha in ALPHAS]
    errors = [((cross_val_predict(m, scaled, y, cv=LeaveOneOut()) - y.numpy()) ** 2).sum() for m in models]
    best = models[int(np.argmin(errors))].fit(scaled, y)
    np.testing.assert_allclose(Ridge(x, y)(x).numpy(), best.predict(scaled), rtol=1e-8, atol=1e-8)


def test_a_linear_map_is_found_again() -> None:
    x, _ = problem(50, 6)
    y = x[:, :2] * 2 + 5
    torch.testing.assert_close(Ridge(x[:40], y[:40])(x[40:]), y[40:], rtol=1e-3, atol=1e-3)


def test_constant_columns_and_outputs_stay_finite() -> None:
    x, y = problem(20, 3)
    x[:, 1], y[:, 0] = 7, 1
    fitted = Ridge(x, y)
    far = fitted(x + 100)
    assert far.isfinite().all()
    assert (far.norm(dim=1) <= y.norm(dim=1).max() * (1 + 1e-6)).all()
    near = fitted(0.5 * x + 0.5 * x.mean(dim=0))
    torch.testing.assert_close(near[:, 0], y[:, 0])
    torch.testing.assert_close(
        Ridge(torch.ones(5, 2), torch.arange(5.0).view(-1, 1))(torch.ones(1, 2)), torch.tensor([[2.0]])
    )


def test_too_many_rows_are_sampled_with_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = problem(400, 4)
    whole = Ridge(x, y)(x)
    monkeypatch.setattr(ridge, "_MAX_NUMBERS", 4 * 300)
    part = Ridge(x, y)(x)
    assert torch.equal(part, Ridge(x, y)(x))
    assert 0 < float((part - whole).abs().max()) < 2


@pytest.mark.parametrize("noise", [0.1, 4.0, 40.0])
def test_of_many_rows_some_choose_the_penalty_and_all_are_fitted(noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = problem(403, 6)
    y = y + noise * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    monkeypatch.setattr(ridge, "TRIED", 40)
    scaled = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()
    unit = (np.linalg.svd(scaled, compute_uv=False) ** 2).mean()
    some = np.arange(40) * 403 // 40
    models = [Reference(alpha * unit) for alpha in ALPHAS]
    left_out = (cross_val_predict(m, scaled[some], y[some].numpy(), cv=LeaveOneOut()) for m in models)
    errors = [((found - y[some].numpy()) ** 2).sum() for found in left_out]
    best = models[int(np.argmin(errors))].fit(scaled, y)
    bound = y.norm(dim=1).amax()
    expected = torch.from_numpy(best.predict(scaled))
    length = expected.norm(dim=1, keepdim=True)
    expected = torch.where(length > bound, expected * bound / length, expected)
    torch.testing.assert_close(Ridge(x, y)(x), expected, rtol=1e-8, atol=1e-8)


def test_many_constant_rows_stay_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge, "TRIED", 3)
    fitted = Ridge(torch.ones(5, 2), torch.arange(5.0).view(-1, 1))
    torch.testing.assert_close(fitted(torch.ones(1, 2)), torch.tensor([[2.0]]))
