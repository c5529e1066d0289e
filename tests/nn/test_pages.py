"""Huge pages are asked for where they can help, and never change a value or fail."""

from __future__ import annotations

import ctypes
import errno
import sys

import pytest
import torch

from pyg_ckd.nn import Adjacency, pages
from pyg_ckd.nn.pages import FOR_FAULTS, HUGE_PAGE, NOW, SMALLEST, use_huge_pages

LARGE = SMALLEST[NOW] // 4 + HUGE_PAGE


@pytest.fixture(name="asked")
def _asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Record what the system is asked for; everything is granted."""
    calls: list[tuple[int, int, int]] = []
    monkeypatch.setattr(pages, "_refused", set())
    monkeypatch.setattr(pages, "_madvise", lambda: lambda *args: calls.append(args) or 0)
    return calls


@pytest.mark.parametrize(("untouched", "advice"), [(False, NOW), (True, FOR_FAULTS)])
def test_whole_huge_pages_inside_a_large_table_are_asked_for(untouched, advice, asked):
    table = torch.empty(LARGE)
    use_huge_pages(table, untouched)
    ((start, size, found),) = asked
    assert found == advice
    assert start % HUGE_PAGE == size % HUGE_PAGE == 0
    assert table.data_ptr() <= start < start + size <= table.data_ptr() + table.nbytes
    assert size > table.nbytes - 2 * HUGE_PAGE


@pytest.mark.parametrize(
    "table",
    [torch.empty(SMALLEST[NOW] // 4 - 1), torch.empty(2, LARGE).t(), torch.empty(LARGE, device="meta")],
    ids=["small", "not contiguous", "not on the CPU"],
)
def test_other_tables_are_left_alone(table, asked):
    use_huge_pages(table)
    assert asked == []


def test_a_refused_request_is_not_made_again(monkeypatch):
    calls = []

    def refuse(start: int, size: int, advice: int) -> int:
        calls.append(advice)
        ctypes.set_errno(errno.ENOMEM)
        return -1

    monkeypatch.setattr(pages, "_refused", set())
    monkeypatch.setattr(pages, "_madvise", lambda: refuse)
    for untouched in (False, False, True, True):
        use_huge_pages(torch.empty(LARGE), untouched)
    assert calls == [NOW, FOR_FAULTS]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked")
def test_memory_that_cannot_have_them_takes_them_from_no_other_table(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "_refused", set())
    torch.zeros(LARGE).numpy().tofile(tmp_path / "table")
    use_huge_pages(torch.from_file(str(tmp_path / "table"), size=LARGE))
    assert pages._refused == set()


def test_a_system_without_them_is_no_obstacle(monkeypatch):
    monkeypatch.setattr(pages, "_refused", set())
    monkeypatch.setattr(pages.sys, "platform", "other")
    pages._madvise.cache_clear()
    try:
        use_huge_pages(torch.empty(LARGE))
        assert pages._madvise() is None
    finally:
        pages._madvise.cache_clear()


def test_a_product_of_large_tables_is_the_same_with_and_without(monkeypatch):
    nodes = LARGE // 64
    index = torch.randint(nodes // 2, (2, 5000), generator=torch.Generator().manual_seed(0))
    graph = Adjacency.from_interactions(index, nodes // 2, nodes - nodes // 2)
    x = torch.randn(nodes, 64, generator=torch.Generator().manual_seed(1))
    before, found = x.clone(), graph.matmul(x)
    assert torch.equal(x, before)
    monkeypatch.setattr(pages, "_refused", {NOW, FOR_FAULTS})
    assert torch.equal(found, graph.matmul(before))
