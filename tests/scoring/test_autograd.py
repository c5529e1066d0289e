"""The graph of differentiation as it is read: every node and every leaf once."""

from __future__ import annotations

import torch

from pyg_ckd.scoring.autograd import leaf_of, leaves_behind, nodes_behind


def test_leaves_are_what_a_backward_pass_gives_gradients_to():
    a, b, c, unused = (torch.ones(2, requires_grad=True) for _ in range(4))
    fixed = torch.ones(2)
    first, second = (a * b + a * fixed).sum(), (b.detach() * c).sum()
    found = leaves_behind([first, second, a, fixed])
    assert sorted(map(id, found)) == sorted(map(id, [a, b, c]))
    (first + second).backward()
    assert all(x.grad is not None for x in found)
    assert unused.grad is None
    assert leaves_behind([fixed]) == []


def test_nodes_of_a_graph_with_many_ways_are_found_once():
    x = torch.ones(2, requires_grad=True)
    out = x
    for _ in range(60):  # 2 ** 60 ways, 60 nodes.
        out = out + out
    nodes = nodes_behind([out])
    assert len(nodes) == len(set(nodes)) == 61
    assert [leaf_of(node) is x for node in nodes].count(True) == 1
