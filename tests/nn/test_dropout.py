"""Dropout of large tables: shares, scale, independence, gradients and seeds."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from pyg_ckd.nn.dropout import dropout


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_share_is_dropped_and_the_rest_is_scaled_up(share: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.full((401, 251), 3.0, dtype=dtype)  # Not a multiple of four entries.
    found = dropout(x, share)
    assert (found.dtype, found.shape) == (x.dtype, x.shape)
    dropped = (found == 0).double().mean().item()
    assert abs(dropped - share) < 5 * (share * (1 - share) / x.numel()) ** 0.5 + 1e-5
    scale = 3 / (1 - share)
    assert_close(found[found != 0].double().unique(), torch.tensor([scale]).double(), atol=0.01 * scale, rtol=0)


def test_entries_that_share_a_draw_are_independent() -> None:
    torch.manual_seed(0)
    kept = dropout(torch.ones(50_000, 4), 0.5) != 0  # A row is a draw.
    together = torch.corrcoef(kept.t().double()) - torch.eye(4).double()
    assert together.abs().max() < 5 / 50_000**0.5


def test_no_more_than_one_in_65536_is_kept_or_dropped_by_mistake() -> None:
    torch.manual_seed(0)
    x = torch.ones(10_000)
    assert (dropout(x, 1e-9) == 1).all()
    assert (dropout(x, 1 - 1e-9) != 0).sum() < 10


def test_a_seed_decides_and_gradients_flow_where_entries_are_kept() -> None:
    x = torch.ones(7, 3, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(1)
    first = dropout(x, 0.5)
    torch.manual_seed(1)
    assert torch.equal(dropout(x, 0.5), first)
    assert not torch.equal(dropout(x, 0.5), first)
    (grad,) = torch.autograd.grad(first.sum(), x)
    assert_close(grad, first.detach(), atol=1e-12, rtol=0)
    assert dropout(x[:0], 0.5).shape == (0, 3)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_of_all_draws_the_kept_ones_are_counted_exactly(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.int64)
    monkeypatch.setattr(torch.Tensor, "random_", lambda self, *bounds: self.copy_(every))
    found = dropout(torch.ones(2**16, dtype=torch.float64), share)
    kept = round((1 - share) * 2**16)
    assert int((found != 0).sum()) == kept
    assert_close(found.sum(), torch.tensor(2.0**16).double(), atol=1e-6, rtol=0)
