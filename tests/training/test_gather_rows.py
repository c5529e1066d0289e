"""Rows that are gathered part by part where parts are large, and lists of some users under strategy users."""

from __future__ import annotations

import pytest
import torch

from pyg_ckd import processes as module
from pyg_ckd.processes import present
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.training.layouts.rows import UserRows
from pyg_ckd.training.layouts.users import Users
from tests.training.several import in_processes


def gathered(limit: int, first_only: bool) -> list[torch.Tensor]:
    module.LARGE_PART = limit
    processes = present()
    counts = {0: 3, 1: 0, 2: 5}
    x = torch.full((counts[processes.rank], 2), float(processes.rank)).t().contiguous().t()  # Not in rows.
    return [processes.gather_rows(x, first_only), processes.gather_rows(x.long(), first_only)]


@pytest.mark.parametrize("first_only", [False, True])
def test_large_parts_are_gathered_like_small_ones(first_only):
    small, large = (in_processes(gathered, limit, first_only, size=3) for limit in (2**26, 0))
    assert small[0][0].tolist() == [[0.0, 0.0]] * 3 + [[2.0, 2.0]] * 5
    for one, other in zip(small, large, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def scores() -> torch.Tensor:
    processes = present()
    layout = Users(processes)
    layout.rows = UserRows((0, 4, 9), processes.rank)
    generator = torch.Generator().manual_seed(0)
    user, item = (torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (9, 7))
    users = torch.tensor([1, 3, 4, 8])
    found = layout.tables_of(Embeddings(user[layout.rows.first : layout.rows.last], item), users)
    assert torch.allclose(found.scores(users[1:3]), (user @ item.t())[[3, 4]], atol=1e-12)
    return torch.tensor(found.user.size(0))


def test_rows_of_the_users_that_are_ranked_alone_are_gathered():
    assert [int(rows) for rows in in_processes(scores)] == [4, 4]
