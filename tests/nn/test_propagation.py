"""The normalised graph against dense matrices built entry by entry."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pyg_ckd.data.inputs import RATES, embed, unpack
from pyg_ckd.errors import InputError
from pyg_ckd.nn import Adjacency, backbones
from pyg_ckd.nn.propagation import NORMALIZATIONS

USERS, ITEMS = 4, 3
GRAPHS = {
    "usual": [[0, 0, 1, 2, 3], [0, 1, 1, 2, 0]],
    "repeated interactions": [[0, 0, 0, 1, 2, 2], [0, 0, 1, 1, 2, 2]],
    "isolated nodes": [[1, 1], [0, 2]],
    "one interaction": [[3], [2]],
    "empty": [[], []],
}


def dense(edges: list[list[int]], normalization: str, self_loops: bool, eps: float) -> Tensor:
    """Build the matrix entry by entry."""
    size = USERS + ITEMS
    pattern = [[0.0] * size for _ in range(size)]
    for user, item in zip(*edges, strict=True):
        pattern[user][USERS + item] = pattern[USERS + item][user] = 1.0
    if self_loops:
        for node in range(size):
            pattern[node][node] = 1.0
    degree = [sum(row) + eps for row in pattern]
    for row in range(size):
        for col in range(size):
            if pattern[row][col] and normalization == "sym":
                pattern[row][col] = 1 / (degree[row] * degree[col]) ** 0.5
            elif pattern[row][col] and normalization == "mean":
                pattern[row][col] = 1 / degree[row]
    return torch.tensor(pattern, dtype=torch.float64)


def both(name: str, normalization: str, self_loops: bool = False, eps: float = 0.0) -> tuple[Adjacency, Tensor]:
    edge_index = torch.tensor(GRAPHS[name], dtype=torch.int64)
    graph = Adjacency.from_interactions(
        edge_index, USERS, ITEMS, normalization, self_loops, eps=eps, dtype=torch.float64
    )
    return graph, dense(GRAPHS[name], normalization, self_loops, eps)


every_case = pytest.mark.parametrize(
    ("name", "normalization", "self_loops", "eps"),
    [
        (name, normalization, loops, eps)
        for name in GRAPHS
        for normalization in NORMALIZATIONS
        for loops, eps in [(False, 0.0), (True, 0.0), (False, 0.1)]
    ],
)


@every_case
def test_matrix_and_transpose_equal_the_dense_definition(name, normalization, self_loops, eps):
    graph, expected = both(name, normalization, self_loops, eps)
    torch.testing.assert_close(graph.matrix.to_dense(), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(graph.transposed.to_dense(), expected.t(), atol=1e-12, rtol=0)
    assert graph.num_nodes == USERS + ITEMS
    assert graph.dtype == torch.float64


@every_case
def test_product_and_gradient_equal_those_of_the_dense_matrix(name, normalization, self_loops, eps):
    graph, matrix = both(name, normalization, self_loops, eps)
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(USERS + ITEMS, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    seen_from_above = torch.randn(USERS + ITEMS, 5, dtype=torch.float64, generator=generator)
    (graph.matmul(ours) * seen_from_above).sum().backward()
    (matrix @ theirs * seen_from_above).sum().backward()
    torch.testing.assert_close(graph.matmul(ours), matrix @ theirs, atol=1e-12, rtol=0)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-12, rtol=0)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_gradient_equals_finite_differences(normalization):
    graph, _ = both("usual", normalization)
    x = torch.randn(USERS + ITEMS, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(graph.matmul, x.requires_grad_())


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_gradient_of_an_expanded_or_transposed_result_is_right(normalization):
    graph, matrix = both("usual", normalization)
    x = torch.ones(USERS + ITEMS, 2, dtype=torch.float64, requires_grad=True)
    graph.matmul(x).sum().backward()  # The incoming gradient is one expanded number.
    torch.testing.assert_close(x.grad, (matrix.t().sum(dim=1, keepdim=True)).expand(-1, 2), atol=1e-12, rtol=0)


def test_nodes_without_edges_receive_exactly_nothing():
    for normalization in NORMALIZATIONS:
        graph, _ = both("isolated nodes", normalization)
        out = graph.matmul(torch.ones(USERS + ITEMS, 2, dtype=torch.float64))
        assert out[[0, 2, 3, USERS + 1]].eq(0).all()
        assert out[[1, USERS, USERS + 2]].gt(0).all()


def test_symmetric_graphs_store_one_matrix_and_indices_of_32_bits():
    graph, _ = both("usual", "sym")
    assert graph.matrix is graph.transposed
    assert graph.matrix.col_indices().dtype == torch.int32


def test_input_of_another_type_is_brought_to_that_of_the_weights():
    graph, matrix = both("usual", "mean")
    out = graph.matmul(torch.ones(USERS + ITEMS, 1, dtype=torch.bfloat16))
    assert out.dtype == torch.float64
    torch.testing.assert_close(out, matrix.sum(dim=1, keepdim=True), atol=1e-12, rtol=0)


def test_autocast_leaves_the_product_in_the_type_of_the_weights():
    graph, matrix = both("usual", "sym")
    x = torch.rand(USERS + ITEMS, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(graph.matmul(x), matrix @ x, atol=1e-12, rtol=0)


def test_unknown_normalization_is_refused_with_the_closest_name():
    with pytest.raises(InputError, match="unknown normalization 'symm': did you mean 'sym'"):
        Adjacency.from_interactions(torch.zeros(2, 0, dtype=torch.int64), 1, 1, "symm")


def directed(num_edges: int = 9, num_nodes: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Return the edges, weights and dense matrix of a directed graph whose last node has no edge."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randperm((num_nodes - 1) ** 2, generator=generator)[:num_edges]
    edge_index = torch.stack([pairs % (num_nodes - 1), pairs // (num_nodes - 1)])
    weight = torch.randn(num_edges, generator=generator, dtype=torch.float64)
    matrix = torch.zeros(num_nodes, num_nodes, dtype=torch.float64)
    matrix[edge_index[1], edge_index[0]] = weight
    return edge_index, weight, matrix


def test_any_directed_graph_multiplies_like_its_matrix_both_ways():
    edge_index, weight, matrix = directed()
    graph = Adjacency.from_edges(edge_index, weight, 6)
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    assert_close(graph.matmul(x), matrix @ x)
    (grad,) = torch.autograd.grad(graph.matmul(x).square().sum(), x)
    (expected,) = torch.autograd.grad((matrix @ x).square().sum(), x)
    assert_close(grad, expected)


def test_edges_come_back_sorted_by_target_with_their_weights():
    edge_index, weight, matrix = directed()
    graph = Adjacency.from_edges(edge_index, weight, 6)
    source, target = graph.edge_index
    assert (target * 6 + source).tolist() == sorted((edge_index[1] * 6 + edge_index[0]).tolist())
    assert_close(graph.weight, matrix[target, source])


def test_weights_of_a_product_get_the_right_gradient():
    edge_index, weight, _ = directed()
    graph = Adjacency.from_edges(edge_index, weight, 6)
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    own = torch.randn(9, dtype=torch.float64, requires_grad=True)
    assert_close(graph.matmul(x, graph.weight), graph.matmul(x))
    assert torch.autograd.gradcheck(graph.matmul, (x, own))


def test_directed_graph_without_edges_gives_zeros():
    graph = Adjacency.from_edges(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0), 3)
    x, weight = torch.ones(3, 2, requires_grad=True), torch.zeros(0, requires_grad=True)
    out = graph.matmul(x, weight)
    out.sum().backward()
    assert not out.any()
    assert not x.grad.any()


def test_inner_products_along_the_edges_of_a_directed_graph_and_their_gradients():
    edge_index, weight, _ = directed()
    graph = Adjacency.from_edges(edge_index, weight, 6)
    target, source = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = [target[i] @ source[j] for j, i in graph.edge_index.t().tolist()]
    assert_close(graph.dot(target, source), torch.stack(expected))
    assert torch.autograd.gradcheck(graph.dot, (target.requires_grad_(), source.requires_grad_()))
    empty = Adjacency.from_edges(edge_index[:, :0], weight[:0], 6)
    assert empty.dot(target, source).shape == (0,)


def test_inner_products_stay_in_the_type_of_the_weights():
    edge_index, weight, _ = directed()
    graph = Adjacency.from_edges(edge_index, weight.float(), 6)
    x = torch.rand(6, 3, generator=torch.Generator().manual_seed(1))
    expected = (x @ x.t())[graph.edge_index[1], graph.edge_index[0]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(graph.dot(x, x), expected)
        assert graph.dot(x.bfloat16(), x).dtype == torch.float32


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_half_towards_the_users_is_that_block_of_the_matrix(name, normalization):
    graph, matrix = both(name, normalization)
    half, block = graph.to_users(USERS), matrix[:USERS, USERS:]
    assert_close(half.matrix.to_dense(), block)
    assert_close(half.transposed.to_dense(), block.t())
    assert graph.to_users(USERS) is half
    user, item = torch.randn(USERS, 2, dtype=torch.float64), torch.randn(ITEMS, 2, dtype=torch.float64)
    assert_close(half.matmul(item), block @ item)
    source, target = half.edge_index
    assert_close(half.dot(user, item), (user @ item.t())[target, source])
    weight = torch.randn(source.numel(), dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (user, item, weight)]
    assert torch.autograd.gradcheck(lambda u, i, w: half.matmul(i, w).sum() + half.dot(u, i).square().sum(), inputs)


def test_constants_follow_their_input_and_keep_the_latest_only():
    graph, _ = both("usual", "sym")
    calls: list[Tensor] = []

    def compute(x: Tensor) -> Tensor:
        calls.append(x)
        return graph.matmul(x)

    for _ in range(3):
        x = torch.randn(USERS + ITEMS, 2, dtype=torch.float64)
        assert_close(graph.constant(("c",), x, compute), graph.matmul(x))
        graph.constant(("c",), x, compute)
        x += 1
        assert_close(graph.constant(("c",), x, compute), graph.matmul(x))
    assert len(calls) == 6
    assert len(graph._constants) == 1


def test_graph_first_used_in_inference_mode_still_trains():
    graph, _ = both("usual", "mean")
    x = torch.randn(USERS + ITEMS, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(graph.weight.numel(), dtype=torch.float64, requires_grad=True)
    with torch.inference_mode():
        graph.matmul(x, weight)
        graph.transposition()
        graph.to_users(USERS)
        graph.constant(("c",), None, lambda: graph.matmul(torch.ones_like(x)))
    loss = graph.matmul(x, weight).sum() + (x * graph.constant(("c",), None, lambda: x)).sum()
    (loss + graph.to_users(USERS).matmul(x[USERS:]).sum()).backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("normalization", ["sym", "mean"])
@pytest.mark.parametrize("num_powers", [0, 1, 2, 5])
def test_mean_of_powers_is_the_mean_over_layers_forward_and_backward(normalization, num_powers):
    generator = torch.Generator().manual_seed(0)
    edge_index = torch.stack([torch.randint(n, (20,), generator=generator) for n in (6, 5)])
    graph = Adjacency.from_interactions(edge_index, 6, 5, normalization, dtype=torch.float64)
    x = torch.randn(11, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    layer, total = x, x
    for _ in range(num_powers):
        layer = graph.matmul(layer)
        total = total + layer
    expected, found = total / (num_powers + 1), graph.mean_of_powers(x, num_powers)
    assert_close(found, expected, atol=1e-12, rtol=0)
    weight = torch.randn(11, 3, generator=generator, dtype=torch.float64)
    before = x.detach().clone()
    (a,), (b,) = (torch.autograd.grad((out * weight).sum(), x) for out in (found, expected))
    assert_close(a, b, atol=1e-12, rtol=0)
    assert torch.equal(x.detach(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["FISM", "GRCN", "LightGCN", "MMGCN"])
def test_models_of_graphs_run_in_half_precision_on_the_cpu(name, dtype, make_data):
    data = make_data()
    data[RATES].edge_index = data[RATES].edge_index[:, data[RATES].edge_index[0] > 0]  # Somebody has met nothing.
    model = backbones()[name].from_data(data, embedding_dim=8)
    whole = embed(model, data)[0]
    for found, expected in zip(embed(model.to(dtype), data)[0], whole, strict=True):
        assert found.dtype == dtype
        assert_close(found.float(), expected, atol=0.1, rtol=0.1)
    batch = torch.tensor([[1, 2, 3], [0, 1, 2], [3, 4, 5]])
    features, graph = unpack(data, dtype=dtype)
    model.forward_views(features, graph, [None])[0].margin(*batch).sum().backward()
    assert any(p.grad is not None and p.grad.dtype == dtype for p in model.parameters())
