"""Patterns of sparse matrices: counting on the CPU and sorting elsewhere give the same."""

from __future__ import annotations

import pytest
import torch

from pyg_ckd.scoring import patterns
from pyg_ckd.scoring.patterns import pattern_of, transposed_pattern

SIZE = (13, 9)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("count", [0, 1, 60])
def test_both_ways_give_the_distinct_pairs_in_order(count, dtype):
    generator = torch.Generator().manual_seed(0)
    row, col = (torch.randint(size - 1, (count,), generator=generator).to(dtype) for size in SIZE)
    pairs = sorted(set(zip(row.tolist(), col.tolist(), strict=True)))
    turned = sorted((j, i) for i, j in pairs)
    for way, transposed in (
        (pattern_of, transposed_pattern),
        (patterns._pattern_by_keys, patterns._transposed_by_order),
    ):
        crow, columns = way(row, col, SIZE)
        back, rows = transposed(crow, columns, SIZE)
        assert [(i, j) for i in range(SIZE[0]) for j in columns[crow[i] : crow[i + 1]].tolist()] == pairs
        assert [(j, i) for j in range(SIZE[1]) for i in rows[back[j] : back[j + 1]].tolist()] == turned


def test_what_is_given_stays_as_it_is():
    row, col = torch.tensor([2, 0, 2], dtype=torch.int32), torch.tensor([1, 1, 0], dtype=torch.int32)
    pattern_of(row, col, SIZE)
    assert (row.tolist(), col.tolist()) == ([2, 0, 2], [1, 1, 0])
