"""Item-item graphs against dense matrices built entry by entry, and what is kept between passes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pyg_ckd.data.neighbors import knn_graph
from pyg_ckd.errors import InputError
from pyg_ckd.nn import Adjacency, structure
from pyg_ckd.nn.structure import (
    WEIGHTINGS,
    LearnedGraph,
    Learning,
    UniformGraph,
    content_graph,
    item_graph_type,
    matmul_together,
    weighted,
    with_content_graphs,
)

ITEMS = 7


def features(width: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(ITEMS, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dense_content_graph(x: Tensor, k: int, weighting: str, eps: float = 0.0) -> Tensor:
    """Build the matrix entry by entry."""
    size = x.size(0)
    kept = [[0.0] * size for _ in range(size)]
    for i in range(size):
        cosine = [float(x[i] @ x[j] / (x[i].norm() * x[j].norm())) for j in range(size)]
        for j in sorted(range(size), key=lambda j: -cosine[j])[:k]:
            value = {"similarity": cosine[j], "positive": max(0.0, cosine[j]), "binary": 1.0}
            kept[i][j] = value[weighting]
    degree = [sum(row) + eps for row in kept]
    scaled = [[kept[i][j] / (degree[i] * degree[j]) ** 0.5 for j in range(size)] for i in range(size)]
    return torch.tensor(scaled, dtype=torch.float64)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize(("k", "eps"), [(1, 0.0), (3, 0.0), (4, 0.1)])
def test_content_graph_equals_its_definition(weighting, k, eps):
    x = features()
    graph = content_graph(x, k, weighting, eps)
    assert_close(graph.matrix.to_dense(), dense_content_graph(x, k, weighting, eps), atol=1e-12, rtol=0)


def test_more_neighbours_than_items_are_all_items():
    x = features()
    expected = dense_content_graph(x, ITEMS, "positive")
    assert_close(content_graph(x, 99).matrix.to_dense(), expected, atol=1e-12, rtol=0)


def test_weights_differ_where_similarities_are_negative():
    x = features(1)  # On a line, cosines are 1 and -1.
    kept = content_graph(x, ITEMS, "binary").matrix.to_dense()
    positive = content_graph(x, ITEMS, "positive").matrix.to_dense()
    assert (kept > 0).all()
    assert torch.equal(positive > 0, x @ x.t() > 0)


def test_gradients_do_not_reach_the_features_of_a_fixed_graph():
    graph = content_graph(features().requires_grad_(), 3)
    assert not graph.weight.requires_grad


def test_constant_features_give_the_uniform_mean_over_all_items():
    graph = content_graph(torch.full((ITEMS, 3), 0.1), 3)
    assert isinstance(graph, UniformGraph)
    x = features().requires_grad_()
    dense = torch.full((ITEMS, ITEMS), 1 / ITEMS, dtype=torch.float64)
    assert_close(graph.matmul(x), dense @ x, atol=1e-12, rtol=0)
    weight = features(seed=1)
    (gradient,) = torch.autograd.grad((graph.matmul(x) * weight).sum(), x)
    assert_close(gradient, dense.t() @ weight, atol=1e-12, rtol=0)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("fill", ["zero", "mean"])
def test_items_that_lack_features_have_themselves_alone_as_neighbours(fill, weighting):
    x = features()
    x[[0, 2, 5]] = 0 if fill == "zero" else x[[1, 3, 4, 6]].mean(dim=0)
    graph = content_graph(x, 2, weighting).matrix.to_dense()
    lacking = torch.tensor([0, 2, 5])
    assert_close(graph[lacking], torch.eye(ITEMS, dtype=torch.float64)[lacking])
    assert_close(graph[:, lacking], torch.eye(ITEMS, dtype=torch.float64)[:, lacking])
    rest = torch.tensor([1, 3, 4, 6])
    assert_close(graph[rest][:, rest], dense_content_graph(x[rest], 2, weighting), atol=1e-12, rtol=0)


def test_graphs_that_are_there_are_kept_and_plain_edges_are_normalised():
    mine = content_graph(features(), 2)
    plain = torch.tensor([[0, 1, 1, 1, 2], [1, 1, 1, 2, 2]])  # The edge 1 -> 1 stands there twice.
    graphs = {item_graph_type("a"): mine, item_graph_type("b"): plain, "other": 1}
    out = with_content_graphs({m: features().float() for m in "abc"}, graphs, ITEMS, 2, dtype=torch.float64)
    assert out["item", "a", "item"] is mine
    expected = torch.zeros(ITEMS, ITEMS, dtype=torch.float64)
    expected[1, :2] = expected[2, 1:3] = 1  # Rows are targets.
    expected /= 2  # Items 1 and 2 receive twice each, and item 0, whose row sum is zero, sends nothing.
    expected[1, 0] = 0
    assert_close(out["item", "b", "item"].matrix.to_dense(), expected)
    assert out["item", "c", "item"].dtype == torch.float64
    assert out["other"] == 1
    assert item_graph_type("c") not in graphs


def test_only_modalities_with_features_get_a_graph():
    assert with_content_graphs({}, {}, ITEMS, 2) == {}


def test_unknown_weighting_is_refused():
    with pytest.raises(InputError, match="unknown weighting 'positiv': did you mean 'positive'"):
        weighted(torch.ones(2), "positiv")


def test_learned_graph_adds_repeated_edges_and_has_the_gradients_of_the_dense_matrix():
    edge_index = torch.tensor([[0, 3, 0, 2, 0], [1, 1, 1, 0, 4]])
    ours = torch.tensor([1.0, 2.0, -0.5, 3.0, 1.5], dtype=torch.float64, requires_grad=True)
    theirs, x, y = ours.detach().clone().requires_grad_(), features().requires_grad_(), features(seed=1)
    graph = LearnedGraph(edge_index, ours, ITEMS)
    dense = x.new_zeros(ITEMS, ITEMS).index_put((edge_index[1], edge_index[0]), theirs, accumulate=True)
    assert_close(graph.matmul(x), dense @ x, atol=1e-12, rtol=0)
    found = torch.autograd.grad((graph.matmul(x) * y).sum(), [ours, x])
    expected = torch.autograd.grad((dense @ x * y).sum(), [theirs, x])
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, atol=1e-12, rtol=0)
    assert isinstance(graph.detach(), Adjacency)
    assert_close(graph.detach().matmul(x), dense @ x, atol=1e-12, rtol=0)
    assert not graph.detach().weight.requires_grad


def test_one_pass_of_an_epoch_has_gradients_and_later_ones_the_same_constant():
    x = torch.ones(2, requires_grad=True)
    learning = Learning().begin_epoch()
    with torch.no_grad():
        assert not learning.once("key", lambda: 3 * x).requires_grad
    first = learning.once("key", lambda: 2 * x)  # The pass without gradients kept nothing.
    later = learning.once("key", lambda: 5 * x)
    assert first.requires_grad
    assert not later.requires_grad
    assert torch.equal(first, later)
    assert learning.once("other key", lambda: 5 * x).requires_grad
    assert learning.begin_epoch().once("key", lambda: 5 * x).tolist() == [5, 5]


def test_outside_an_epoch_everything_is_computed_anew():
    x = torch.ones(2, requires_grad=True)
    learning = Learning()
    learning.begin_epoch().once("key", lambda: 2 * x)
    for factor in (3, 4):
        value = learning.once("key", lambda factor=factor: factor * x)
        assert value.tolist() == [factor, factor]
        assert value.requires_grad


def test_learned_edges_are_those_of_the_nearest_neighbours_with_their_gradients():
    ours, theirs = features().requires_grad_(), features().requires_grad_()
    learning, weight = Learning(), features(4).flatten()
    for _ in range(2):  # Found, and remembered.
        edge_index, similarity = learning.edges("m", ours, 4)
        expected_index, expected = knn_graph(theirs, 4)
        assert torch.equal(edge_index, expected_index)
        assert_close(similarity, expected, atol=1e-12, rtol=0)
        (found,) = torch.autograd.grad(similarity @ weight, ours)
        assert_close(found, torch.autograd.grad(expected @ weight, theirs)[0], atol=1e-12, rtol=0)
    with torch.no_grad():
        assert_close(learning.edges("m", ours, 4)[1], expected, atol=1e-12, rtol=0)


def test_neighbours_are_looked_for_again_only_when_features_change(monkeypatch):
    calls = []
    monkeypatch.setattr(structure, "knn_graph", lambda x, k, alone: calls.append(k) or knn_graph(x, k, alone=alone))
    learning, x = Learning(), features()
    learning.edges("m", x, 2)
    learning.begin_epoch().edges("m", x.clone(), 2)
    assert calls == [2]
    learning.edges("m", x, 3)
    learning.edges("n", x, 2)
    assert calls == [2, 3, 2]
    moved = x.clone()
    moved[0] = -moved[0]
    edge_index, _ = learning.begin_epoch().edges("m", moved, 2)
    assert torch.equal(edge_index, knn_graph(moved, 2)[0])
    assert calls == [2, 3, 2, 2]


def test_matrices_propagated_together_give_what_each_gives_alone():
    class Counting(UniformGraph):
        def matmul(self, x: Tensor) -> Tensor:
            columns.append(x.size(1))
            return x.roll(1, dims=0)

    columns: list[int] = []
    a, b = features(), features(seed=1)
    out = matmul_together(Counting(), [a, b, a])
    assert columns == [6]  # Once, and the repeated matrix not twice.
    for product, x in zip(out, [a, b, a], strict=True):
        assert torch.equal(product, x.roll(1, dims=0))
