"""Rows that are gathered part by part where parts are large, and lists of some users under strategy users."""

from __future__ import annotations

import torch

from pyg_ckd import processes as module
from pyg_ckd.processes import present
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.training.layouts.rows import UserRows
from pyg_ckd.training.layouts.users import Users
from tests.training.several import in_processes


def gathered() -> list[list[torch.Tensor]]:
    processes, found = present(), []
    counts = {0: 3, 1: 0, 2: 5}
    x = torch.full((counts[processes.rank], 2), float(processes.rank)).t().contiguous().t()  # Not in rows.
    for module.LARGE_PART in (2**26, 0):
        found.append([processes.gather_rows(y, first_only) for y in (x, x.long()) for first_only in (False, True)])
    return found


def test_large_parts_are_gathered_like_small_ones():
    for rank, (small, large) in enumerate(in_processes(gathered, size=3)):
        assert small[0].tolist() == [[0.0, 0.0]] * 3 + [[2.0, 2.0]] * 5
        assert small[1].size(0) == (8, 0, 5)[rank]
        assert all(torch.equal(x, y) for x, y in zip(small, large, strict=True))


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
