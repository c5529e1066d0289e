"""Search is exact whatever the sizes and the block, and masked pairs are never found."""

from __future__ import annotations

import pytest
import torch

from pyg_ckd.errors import InputError
from pyg_ckd.serving.search import SeenItems, search


@pytest.mark.parametrize("num_items", [1, 31, 32, 33, 700, 1500])
@pytest.mark.parametrize("block_bytes", [1, 20_000, 2**25])
def test_the_best_are_those_of_a_full_sort(num_items: int, block_bytes: int) -> None:
    generator = torch.Generator().manual_seed(num_items)
    query = torch.randn(17, 5, generator=generator, dtype=torch.float64)  # No two products are nearly equal.
    items = torch.randn(num_items, 5, generator=generator, dtype=torch.float64)
    expected = (query @ items.t()).sort(dim=1, descending=True)
    for k in {1, min(3, num_items), num_items}:
        value, index = search(query, items, k, block_bytes=block_bytes)
        torch.testing.assert_close(value, expected.values[:, :k])
        assert torch.equal(index, expected.indices[:, :k])


@pytest.mark.parametrize("block_bytes", [1, 2**25])
def test_masked_pairs_leave_empty_slots_and_nothing_of_an_earlier_block_is_left(block_bytes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query, items = torch.randn(9, 4, generator=generator), torch.randn(200, 4, generator=generator)
    masked = torch.rand(9, 200, generator=generator) < 0.5
    masked[3, 2:] = True

    def pairs(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(masked[start:stop].nonzero().t())  # type: ignore[return-value]

    value, index = search(query, items, 4, pairs, block_bytes)
    scores = (query @ items.t()).masked_fill(masked, -torch.inf).sort(dim=1, descending=True)
    torch.testing.assert_close(value, scores.values[:, :4])
    assert torch.equal(index, scores.indices[:, :4].masked_fill(scores.values[:, :4] == -torch.inf, -1))
    assert (index[3, 2:] == -1).all()


def test_no_query_gives_no_rows() -> None:
    value, index = search(torch.empty(0, 3), torch.randn(5, 3), 2)
    assert value.shape == index.shape == (0, 2)


def test_what_users_have_met_is_found_for_any_users_in_any_order() -> None:
    seen = SeenItems(torch.tensor([[2, 0, 2, 0], [5, 1, 3, 4]]), 4)
    seen = seen.extended(torch.tensor([0, 1, 1]), torch.tensor([9, 8, 7]), 2)
    position, item = seen.of(torch.tensor([5, 3, 2, 0, 2]))
    found = {n: sorted(item[position == n].tolist()) for n in range(5)}
    assert found == {0: [7, 8], 1: [], 2: [3, 5], 3: [1, 4], 4: [3, 5]}


@pytest.mark.parametrize("new", [[[], []], [[1, 1, 3, 1], [2, 9, 0, 2]], [[0, 1, 2, 3], [5, 5, 5, 5]]])
def test_further_pairs_are_those_of_sets(new: list[list[int]]) -> None:
    old = torch.tensor([[2, 0, 2, 0, 2], [5, 1, 3, 4, 5]])
    more = torch.tensor(new, dtype=torch.int64)
    found = SeenItems(old, 4).with_pairs(more)
    sets = {user: {i for u, i in torch.cat([old, more], dim=1).t().tolist() if u == user} for user in range(4)}
    assert {user: set(found.of(torch.tensor([user]))[1].tolist()) for user in range(4)} == sets
    touched = [user for user in range(4) if user in new[0]]
    assert all(found.of(torch.tensor([user]))[1].tolist() == sorted(sets[user]) for user in touched)


@pytest.mark.parametrize("num_items", [5, 700])
@pytest.mark.parametrize("sign", [1, -1])
def test_scores_that_overflow_are_refused(sign: int, num_items: int) -> None:
    query, items = torch.full((3, 4), 1e30), torch.full((num_items, 4), sign * 1e30)
    with pytest.raises(InputError, match=r"scores: found NaN or infinite values.*too large for torch\.float32"):
        search(query, items, 2)
    items[:, 1] *= -1
    with pytest.raises(InputError, match="scores: found NaN or infinite values"):
        search(query, items, 2)
    assert search(query.double(), items.double(), 2)[0].isfinite().all()


def test_an_infinite_score_that_is_masked_is_none() -> None:
    query, items = torch.tensor([[1e30], [1.0]]), torch.tensor([[1e30], [1.0], [2.0]])

    def first(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)  # The same pair twice.

    value, index = search(query, items, 3, first)
    assert index.tolist() == [[2, 1, -1], [0, 2, 1]]
    assert value[0, 2] == -torch.inf


@pytest.mark.parametrize("sign", [1, -1])
def test_slots_are_empty_without_candidates_and_not_by_overflow(sign: int) -> None:
    query, items = torch.full((2, 4), 1.0), torch.full((6, 4), 1.0)

    def among(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = torch.tensor([[1, 1, 1], [2, 4, 4]])
        kept = pairs[:, (pairs[0] >= start) & (pairs[0] < stop)]
        return kept[0] - start, kept[1]

    def masked(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        row = torch.arange(stop - start)
        return row, torch.full_like(row, 2)

    index = search(query, items, 3, masked, among=among)[1]
    assert index.tolist() == [[-1, -1, -1], [4, -1, -1]]
    with pytest.raises(InputError, match="scores: found NaN or infinite values"):
        search(query * 1e30, items * sign * 1e30, 3, masked, among=among)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_what_users_met_grows_whatever_integers_it_began_with(dtype):
    seen = SeenItems(torch.tensor([[2, 0, 2], [1, 3, 0]], dtype=dtype), 3)
    grown = seen.with_pairs(torch.tensor([[1, 2, 2], [3, 1, 4]]))
    assert grown.pairs().t().tolist() == [[0, 3], [1, 3], [2, 0], [2, 1], [2, 4]]
