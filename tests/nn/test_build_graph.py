"""Building the graph: the bits of sorting keys, in a few bytes for each interaction, and cutting by users before."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from pyg_ckd.errors import InputError
from pyg_ckd.nn import Adjacency, build_graph, interactions_of
from pyg_ckd.scoring import patterns

USERS, ITEMS = 60, 35


def random_edges(count: int, seed: int = 0) -> Tensor:
    """Draw interactions with repetitions; the last users and items have none."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (USERS - 4, ITEMS - 3)
    return torch.stack([torch.randint(size, (count,), generator=generator) for size in sizes])


def by_keys(edges: Tensor, normalization: str, self_loops: bool, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return row pointers, columns, weights and the transpose's weights by sorting row * N + column."""
    size = USERS + ITEMS
    user, item = edges[0], edges[1] + USERS
    row, col = torch.cat([user, item]), torch.cat([item, user])
    if self_loops:
        row, col = (torch.cat([x, torch.arange(size)]) for x in (row, col))
    key = torch.unique(row * size + col)
    row, col = key // size, key % size
    count = torch.bincount(row, minlength=size)
    scale = (count.float() + eps).pow(-0.5 if normalization == "sym" else -1.0)
    weights = {
        "sym": (scale[row] * scale[col],) * 2,
        "mean": (scale[row], scale[col]),
        "none": (torch.ones(row.numel()),) * 2,
    }[normalization]
    return torch.cat([count.new_zeros(1), count.cumsum(0)]), col, *weights


@pytest.mark.parametrize("block", [1, 7, 2**22])
@pytest.mark.parametrize("self_loops", [False, True])
@pytest.mark.parametrize("normalization", ["sym", "mean", "none"])
@pytest.mark.parametrize("count", [0, 1, 400])
def test_the_bits_are_those_of_sorted_keys(monkeypatch, count, normalization, self_loops, block):
    monkeypatch.setattr(patterns, "BLOCK", block)
    edges = random_edges(count)
    graph = Adjacency.from_interactions(edges, USERS, ITEMS, normalization, self_loops, eps=0.25)
    crow, col, weight, turned = by_keys(edges, normalization, self_loops, 0.25)
    for matrix, values in ((graph.matrix, weight), (graph.transposed, turned)):
        assert matrix.crow_indices().dtype == matrix.col_indices().dtype == torch.int32
        assert torch.equal(matrix.crow_indices().long(), crow)
        assert torch.equal(matrix.col_indices().long(), col)
        assert torch.equal(matrix.values(), values)


@pytest.mark.parametrize("self_loops", [False, True])
def test_more_entries_than_32_bits_count_have_indices_of_64(monkeypatch, self_loops):
    usual = Adjacency.from_interactions(random_edges(300), USERS, ITEMS, self_loops=self_loops)
    monkeypatch.setattr(build_graph, "_MOST", 200)
    wide = Adjacency.from_interactions(random_edges(300), USERS, ITEMS, self_loops=self_loops)
    assert wide.matrix.col_indices().dtype == torch.int64
    assert torch.equal(wide.matrix.to_dense(), usual.matrix.to_dense())


def test_columns_of_the_memory_of_another_array_are_read_right():
    edges = random_edges(200)
    turned = edges.t().contiguous().t()  # Not contiguous.
    first, second = (Adjacency.from_interactions(x, USERS, ITEMS) for x in (edges, turned))
    assert torch.equal(first.matrix.col_indices(), second.matrix.col_indices())


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_interactions_of_users_are_cut_in_their_order_and_numbered_from_zero(monkeypatch, dtype):
    monkeypatch.setattr(build_graph, "BLOCK", 16)
    edges = random_edges(150)
    parts = [interactions_of(edges.to(dtype), first, last) for first, last in ((0, 20), (20, 20), (20, USERS))]
    expected = [pair for pair in edges.t().tolist() if pair[0] >= 20]
    assert (parts[2].t() + torch.tensor([20, 0])).tolist() == expected
    assert [part.size(1) for part in parts] == [150 - len(expected), 0, len(expected)]
    assert parts[0].dtype == torch.int64
    narrow = interactions_of(edges.to(dtype), 20, USERS, torch.int32)
    assert narrow.dtype == torch.int32
    assert torch.equal(narrow.long(), parts[2])


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint32])
def test_interactions_of_users_are_read_from_an_array_in_a_file(monkeypatch, tmp_path, dtype):
    monkeypatch.setattr(build_graph, "BLOCK", 16)
    edges = random_edges(150)
    np.save(tmp_path / "train.npy", edges.numpy().astype(dtype))
    mapped = np.load(tmp_path / "train.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    found = interactions_of(mapped, 20, 50)
    assert found.dtype == torch.int64
    assert torch.equal(found, interactions_of(edges, 20, 50))
    assert interactions_of(mapped[:, :0], 20, 50).shape == (2, 0)


@pytest.mark.parametrize(
    ("edges", "found"),
    [
        (np.zeros((3, 4), np.int32), "int32 of shape [3, 4]"),
        (np.zeros((2, 4)), "float64 of shape [2, 4]"),
        (torch.zeros(4, dtype=torch.int64), "int64 of shape [4]"),
        (torch.zeros(2, 4), "float32 of shape [2, 4]"),
        (torch.zeros(2, 4, dtype=torch.bool), "bool of shape [2, 4]"),
        ([[0], [1]], "list"),
    ],
    ids=["rows", "double", "one", "single", "bool", "list"],
)
def test_what_is_no_interactions_is_refused_in_one_line(edges, found):
    with pytest.raises(
        InputError, match=rf"^edge_index: found {re.escape(found)}, expected integers \[2, E\]"
    ) as error:
        interactions_of(edges, 0, 3)
    assert "\n" not in str(error.value)


def test_halves_of_a_graph_cut_by_users_are_those_of_the_whole():
    edges = random_edges(300)
    whole = Adjacency.from_interactions(edges, USERS, ITEMS, "none").to_users(USERS).matrix.to_dense()
    part = Adjacency.from_interactions(interactions_of(edges, 20, 50), 30, ITEMS, "none")
    assert torch.equal(part.to_users(30).matrix.to_dense(), whole[20:50])


@pytest.mark.parametrize(("first", "last"), [(-1, 3), (5, 2)])
def test_ranges_that_are_none_are_refused(first, last):
    with pytest.raises(InputError, match=r"first|last"):
        interactions_of(random_edges(10), first, last)


def test_blocks_of_rows_cover_all_entries_once(monkeypatch):
    monkeypatch.setattr(patterns, "BLOCK", 5)
    crow = torch.tensor([0, 0, 12, 12, 13, 15, 17, 17, 30, 30], dtype=torch.int32)
    rows, entries = zip(*patterns.row_blocks(crow), strict=True)
    assert [r for part in rows for r in range(9)[part]] == [0, 1, 2, 3, 4, 5, 6, 7][: rows[-1].stop]
    assert [e for part in entries for e in range(30)[part]] == list(range(30))
    assert not list(patterns.row_blocks(torch.zeros(4, dtype=torch.int32)))
