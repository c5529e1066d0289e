"""Inner products of pairs of rows: as entries of a sparse matrix and by copies of rows."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from pyg_ckd.scoring import pairs
from pyg_ckd.scoring.pairs import pair_keys, pair_products
from pyg_ckd.scoring.triples import shared_triples


def _tables(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(n, 3, generator=generator).to(dtype) for n in (7, 5))
    return left.requires_grad_(), right.requires_grad_()


@pytest.mark.parametrize("same", [False, True], ids=["two tables", "a table and itself"])
@pytest.mark.parametrize("count", [0, 1, 6, 30, 60])
def test_products_and_gradients_are_those_of_rows(count, same):
    generator = torch.Generator().manual_seed(count)
    row, col = (torch.randint(5, (count,), generator=generator) for _ in range(2))
    weight = torch.arange(1.0, count + 1).double()
    found = []
    for by_rows in (False, True):
        left, right = _tables()
        right = left if same else right
        out = (left[row] * right[col]).sum(dim=1) if by_rows else pair_products(left, right, row, col)
        (out * weight).sum().backward()
        found.append([out.detach(), left.grad, right.grad])
    for one, two in zip(*found, strict=True):
        assert_close(one, two, atol=1e-12, rtol=0)


def test_a_table_without_gradient_gets_none():
    left, right = _tables()
    index = torch.tensor([0, 4, 4])
    pair_products(left, right.detach(), index, index).sum().backward()
    assert_close(left.grad, torch.zeros(7, 3).double().index_add_(0, index, right.detach()[index]))
    assert right.grad is None


def test_pairs_are_sorted_once_for_all_tables_of_a_step(monkeypatch):
    made, original = [], pairs.SortedPairs
    monkeypatch.setattr(pairs, "SortedPairs", lambda *args: made.append(1) or original(*args))
    row, col = torch.tensor([2, 0, 1]), torch.tensor([0, 1, 1])
    with shared_triples():
        for _ in range(3):
            pair_products(*_tables(), row, col)
        assert len(made) == 1
        pair_products(*_tables(), row, row)
        row[0] = 3
        expected = (_tables()[0][row] * _tables()[1][col]).sum(dim=1)
        assert_close(pair_products(*_tables(), row, col), expected)
    assert len(made) == 3


def test_rows_beyond_a_table_are_refused():
    with pytest.raises(IndexError, match="row 5 of a table of 5"):
        pair_products(*_tables(), torch.tensor([0]), torch.tensor([5]))


def test_half_precision_is_multiplied_by_copies_of_rows():
    left, right = _tables(torch.bfloat16)
    index = torch.tensor([0, 3])
    assert_close(pair_products(left, right, index, index), (left[index] * right[index]).sum(dim=1))


def test_keys_of_pairs_do_not_wrap_in_32_bits():
    user, item = torch.tensor([0, 61_356, 69_999]), torch.tensor([0, 47_296, 3])
    expected = [u * 70_000 + i for u, i in zip(user.tolist(), item.tolist(), strict=True)]
    for dtype in (torch.int32, torch.int64):
        assert pair_keys(user.to(dtype), item.to(dtype), 70_000).tolist() == expected
