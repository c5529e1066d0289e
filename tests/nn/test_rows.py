"""Rows of a graph alone give what the whole graph gives there, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from pyg_ckd.nn import Adjacency
from pyg_ckd.nn.rows import GraphRows

USERS, ITEMS = 30, 20
NODES = torch.tensor([0, 3, 4, 17, 29, 30, 41, 49])  # The last user and item have no edges.


def _graph(normalization: str, self_loops: bool) -> Adjacency:
    generator = torch.Generator().manual_seed(0)
    edges = torch.stack(
        [
            torch.randint(USERS - 1, (150,), generator=generator),
            torch.randint(ITEMS - 1, (150,), generator=generator),
        ]
    )
    return Adjacency.from_interactions(edges, USERS, ITEMS, normalization, self_loops, dtype=torch.float64)


def _x() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(USERS + ITEMS, 5, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("normalization", ["sym", "mean"])
@pytest.mark.parametrize("self_loops", [False, True], ids=["plain", "loops"])
def test_rows_of_a_product_and_of_its_input(normalization, self_loops):
    graph, x = _graph(normalization, self_loops), _x()
    weight = torch.arange(8.0, dtype=torch.float64).unsqueeze(1)
    rows = GraphRows(graph, NODES)

    product, own = rows.read(x)
    (expected_grad,) = torch.autograd.grad(
        (graph.matmul(x)[NODES].square() * weight).sum() + x[NODES].square().sum(), x
    )
    (grad,) = torch.autograd.grad((product.square() * weight).sum() + own.square().sum(), x)

    assert_close(product, graph.matmul(x)[NODES], rtol=0, atol=1e-12)
    assert torch.equal(own, x[NODES])
    assert_close(grad, expected_grad, rtol=0, atol=1e-12)
    linked = torch.ones(8, 1, dtype=torch.float64)
    linked[[4, 7]] = float(self_loops)
    assert torch.equal(rows.linked, linked)


@pytest.mark.parametrize("normalization", ["sym", "mean"])
@pytest.mark.parametrize("num_powers", [0, 1, 2, 3, 4])
def test_rows_of_a_mean_of_powers(normalization, num_powers):
    graph, x = _graph(normalization, False), _x()
    weight = torch.arange(8.0, dtype=torch.float64).unsqueeze(1)

    whole = graph.mean_of_powers(x, num_powers)[NODES]
    found = GraphRows(graph, NODES).mean_of_powers(x, num_powers)
    (expected_grad,) = torch.autograd.grad((whole.square() * weight).sum(), x)
    (grad,) = torch.autograd.grad((found.square() * weight).sum(), x)

    assert_close(found, whole, rtol=0, atol=1e-12)
    assert_close(grad, expected_grad, rtol=0, atol=1e-12)


def test_the_backward_pass_runs_twice():
    graph, x = _graph("sym", False), _x()
    total = GraphRows(graph, NODES).mean_of_powers(x, 3).square().sum()
    first, second = (torch.autograd.grad(total, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
