"""The layer of MMGCN, in the manner of PyG's own layer tests."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.typing import WITH_TORCH_SPARSE, SparseTensor
from torch_geometric.utils import to_torch_csc_tensor

from pyg_ckd.errors import InputError
from pyg_ckd.nn import Adjacency, MMGCNConv

USERS, ITEMS = 4, 3
EDGES = torch.tensor([[0, 0, 1, 2, 2], [0, 1, 1, 0, 2]])  # User 3 is isolated.


def both_directions(edges: Tensor) -> Tensor:
    user, item = edges[0], edges[1] + USERS
    edge_index = torch.stack([torch.cat([user, item]), torch.cat([item, user])])
    return edge_index[:, edge_index[1].argsort(stable=True)]


def layer(**options) -> MMGCNConv:
    torch.manual_seed(0)
    return MMGCNConv(5, 6, **options)


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(USERS + ITEMS, 5, generator=generator, dtype=dtype),
        torch.randn(USERS + ITEMS, 6, generator=generator, dtype=dtype),
    )


def phi(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.01 * x)


def by_hand(conv: MMGCNConv, x: Tensor, id_embedding: Tensor | None, edges: Tensor = EDGES) -> Tensor:
    """Follow the equations node by node."""
    weight = {name: value.detach() for name, value in conv.named_parameters()}
    neighbors: list[list[int]] = [[node] if conv.add_self_loops else [] for node in range(x.size(0))]
    for user, item in edges.t().tolist():
        neighbors[user].append(USERS + item)
        neighbors[USERS + item].append(user)
    rows = []
    for node, near in enumerate(neighbors):
        messages = [weight["lin_neighbor.weight"] @ x[j] + weight.get("lin_neighbor.bias", 0) for j in near]
        h = phi(sum(messages) / len(near)) if near else x.new_zeros(conv.in_channels)
        own = phi(weight["lin_self.weight"] @ x[node] + weight["lin_self.bias"])
        own = own if id_embedding is None else own + id_embedding[node]
        w3, b3 = weight["lin_merge.weight"], weight["lin_merge.bias"]
        rows.append(phi(w3 @ torch.cat([h, own]) + b3) if conv.combine == "concat" else phi(w3 @ h + b3 + own))
    return torch.stack(rows)


every_variant = pytest.mark.parametrize(
    "options",
    [
        {"combine": combine, "add_self_loops": loops, "bias": bias}
        for combine in ("concat", "add")
        for loops, bias in [(False, False), (True, True)]
    ],
    ids=str,
)


@every_variant
@pytest.mark.parametrize("with_id", [True, False])
def test_layer_equals_its_equations_node_by_node(options, with_id):
    conv = layer(**options).double()
    x, id_embedding = inputs(torch.float64)
    given = id_embedding if with_id else None
    expected = by_hand(conv, x, given)
    torch.testing.assert_close(conv(x, both_directions(EDGES), given), expected, atol=1e-12, rtol=0)


@every_variant
def test_every_kind_of_graph_gives_the_same_result(options):
    conv = layer(**options)
    x, id_embedding = inputs()
    edge_index, size = both_directions(EDGES), (USERS + ITEMS, USERS + ITEMS)
    expected = by_hand(conv, x, id_embedding)
    kinds = {
        "tensor": edge_index,
        "EdgeIndex": EdgeIndex(edge_index, sparse_size=size),
        "sorted EdgeIndex": EdgeIndex(edge_index, sparse_size=size, sort_order="col"),
        "torch.sparse CSR": to_torch_csc_tensor(edge_index, size=size).t(),
        "Adjacency": Adjacency.from_interactions(
            EDGES, USERS, ITEMS, normalization="mean", self_loops=options["add_self_loops"]
        ),
    }
    if WITH_TORCH_SPARSE:
        kinds["SparseTensor"] = SparseTensor.from_edge_index(edge_index, sparse_sizes=size).t()
    for kind, graph in kinds.items():
        torch.testing.assert_close(conv(x, graph, id_embedding), expected, atol=1e-6, rtol=0, msg=kind)


def test_a_loop_that_is_there_counts_once_in_every_kind_of_graph():
    edge_index, size = torch.tensor([[0, 1, 1], [0, 0, 2]]), (3, 3)
    conv = layer(add_self_loops=True)
    x = torch.randn(3, conv.in_channels)
    expected = conv(x, torch.tensor([[1, 1], [0, 2]]))
    kinds = {
        "tensor": edge_index,
        "EdgeIndex": EdgeIndex(edge_index, sparse_size=size),
        "torch.sparse CSR": to_torch_csc_tensor(edge_index, size=size).t(),
    }
    if WITH_TORCH_SPARSE:
        kinds["SparseTensor"] = SparseTensor.from_edge_index(edge_index, sparse_sizes=size).t()
    for kind, graph in kinds.items():
        torch.testing.assert_close(conv(x, graph), expected, msg=kind)


@pytest.mark.parametrize("aggr", ["mean", "sum", "max"])
@pytest.mark.parametrize("sort_order", ["row", "col", None])
def test_edge_indices_of_any_order_work_in_double_precision(aggr, sort_order):
    conv = layer(aggr=aggr).double()
    x, _ = inputs(torch.float64)
    edges = EdgeIndex(both_directions(EDGES), sparse_size=(USERS + ITEMS, USERS + ITEMS))
    given = edges if sort_order is None else edges.sort_by(sort_order).values
    torch.testing.assert_close(conv(x, given), conv(x, both_directions(EDGES)), atol=1e-12, rtol=0)


@pytest.mark.skipif(not WITH_TORCH_SPARSE, reason="torch-sparse is not installed")
def test_weights_of_a_sparse_tensor_do_not_enter_the_average():
    conv = layer()
    x, id_embedding = inputs()
    edge_index = both_directions(EDGES)
    value = torch.rand(edge_index.size(1), generator=torch.Generator().manual_seed(0))
    weighted = SparseTensor.from_edge_index(edge_index, value, sparse_sizes=(USERS + ITEMS, USERS + ITEMS)).t()
    torch.testing.assert_close(conv(x, weighted, id_embedding), by_hand(conv, x, id_embedding), atol=1e-6, rtol=0)


@every_variant
def test_gradients_equal_finite_differences(options):
    conv = layer(**options).double()
    x, id_embedding = inputs(torch.float64)
    graph = Adjacency.from_interactions(
        EDGES, USERS, ITEMS, "mean", self_loops=options["add_self_loops"], dtype=torch.float64
    )
    for edge_index in (both_directions(EDGES), graph):
        assert torch.autograd.gradcheck(
            lambda x, e, edge_index=edge_index: conv(x, edge_index, e),
            (x.requires_grad_(), id_embedding.requires_grad_()),
        )


@pytest.mark.parametrize("aggr", ["sum", "max", "min", "mul", "std"])
def test_gradients_of_other_aggregations_equal_finite_differences(aggr):
    conv = layer(aggr=aggr).double()
    x, id_embedding = inputs(torch.float64)
    edge_index = torch.cat([both_directions(EDGES), torch.arange(USERS + ITEMS).expand(2, -1)], dim=1)
    assert torch.autograd.gradcheck(lambda x: conv(x, edge_index, id_embedding), x.requires_grad_())


@pytest.mark.parametrize("kind", ["tensor", "Adjacency"])
def test_ids_are_added_in_single_precision_under_autocast(kind):
    conv, (x, id_embedding) = layer(combine="add"), inputs()
    graph = both_directions(EDGES) if kind == "tensor" else Adjacency.from_interactions(EDGES, USERS, ITEMS, "mean")
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x, graph, id_embedding).dtype == torch.float32


def test_what_the_layer_is_given_stays_as_it_is():
    for combine in ("concat", "add"):
        given, edge_index = inputs(), both_directions(EDGES)
        before = [x.clone() for x in given]
        layer(combine=combine)(given[0], edge_index, given[1])
        assert all(map(torch.equal, given, before))


@every_variant
def test_empty_graph_and_isolated_nodes_use_the_node_alone(options):
    conv = layer(**options).double()
    x, id_embedding = inputs(torch.float64)
    empty = EDGES[:, :0]
    expected = by_hand(conv, x, id_embedding, empty)
    torch.testing.assert_close(conv(x, both_directions(empty), id_embedding), expected, atol=1e-12, rtol=0)
    graph = Adjacency.from_interactions(
        empty, USERS, ITEMS, "mean", self_loops=options["add_self_loops"], dtype=torch.float64
    )
    torch.testing.assert_close(conv(x, graph, id_embedding), expected, atol=1e-12, rtol=0)


def test_graph_without_nodes_gives_an_empty_result():
    out = layer()(torch.zeros(0, 5), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0, 6))
    assert out.shape == (0, 6)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("options", [{}, {"combine": "add", "add_self_loops": True, "bias": True}], ids=str)
def test_layer_compiles_into_one_graph(options):
    conv = layer(**options)
    x, id_embedding = inputs()
    compiled = torch.compile(conv, fullgraph=True)
    out = compiled(x, both_directions(EDGES), id_embedding)
    torch.testing.assert_close(out, by_hand(conv, x, id_embedding), atol=1e-5, rtol=0)


def test_new_parameters_are_drawn_on_reset():
    conv = layer(bias=True)
    before = {name: value.clone() for name, value in conv.named_parameters() if value.dim() == 2}
    conv.reset_parameters()
    assert all(not torch.equal(value, dict(conv.named_parameters())[name]) for name, value in before.items())


def test_repr_names_sizes_and_combination():
    assert repr(MMGCNConv(5, 6)) == "MMGCNConv(5, 6, combine='concat')"
    assert repr(MMGCNConv(16, 32, combine="add")) == "MMGCNConv(16, 32, combine='add')"


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match="unknown combination 'concatt': did you mean 'concat'"):
        MMGCNConv(5, 6, combine="concatt")
    for sizes in ((0, 6), (5, 0), (-2, 6), (5, -1), ((5, 0), 6)):
        with pytest.raises(InputError, match="expected positive sizes"):
            MMGCNConv(*sizes)
