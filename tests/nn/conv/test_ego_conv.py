"""Edge-wise modulation, in the manner of PyG's own layer tests."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.typing import WITH_TORCH_SPARSE, SparseTensor
from torch_geometric.utils import to_torch_csc_tensor

from pyg_ckd.errors import InputError
from pyg_ckd.nn import Adjacency
from pyg_ckd.nn.conv.dot_attention_conv import DotAttentionConv
from pyg_ckd.nn.conv.ego_conv import EgoConv

USERS, ITEMS = 4, 3
SIZE = (USERS + ITEMS, USERS + ITEMS)
EDGES = torch.tensor([[0, 0, 0, 1, 2, 2], [0, 1, 2, 1, 0, 2]])  # User 3 is isolated.


def both_directions(edges: Tensor) -> Tensor:
    user, item = edges[0], edges[1] + USERS
    edge_index = torch.stack([torch.cat([user, item]), torch.cat([item, user])])
    return edge_index[:, edge_index[1].argsort(stable=True)]


def layer(**options) -> EgoConv:
    torch.manual_seed(0)
    return EgoConv(5, **options)


def inputs(num_others: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return list(torch.randn(1 + num_others, USERS + ITEMS, 5, generator=generator, dtype=dtype))


def softmax(scores: list[Tensor]) -> list[Tensor]:
    total = sum(score.exp() for score in scores)
    return [score.exp() / total for score in scores]


def by_hand(conv: EgoConv, x: Tensor, others: list[Tensor], edges: Tensor = EDGES) -> tuple[Tensor, int]:
    """Follow the equations node by node; return the result and how many edges are modulated."""
    neighbors: list[list[int]] = [[] for _ in range(x.size(0))]
    for user, item in edges.t().tolist():
        neighbors[user].append(USERS + item)
        neighbors[USERS + item].append(user)
    rows, modulated = [], 0
    for node, near in enumerate(neighbors):
        messages = []
        for j, alpha in zip(near, softmax([x[node] @ x[j] for j in near]), strict=True):
            if conv.modulation == "soft":
                gated = [(lin.weight @ y[j] + lin.bias).sigmoid() * y[j] for lin, y in zip(conv.lins, others)]  # noqa: B905
                messages.append((x[j] + sum(gated)) / (1 + len(others)))
            elif alpha > conv.threshold:
                messages.append((x[j] + sum(y[j] for y in others)) / (1 + len(others)))
                modulated += 1
            else:
                messages.append(x[j])
        weights = softmax([x[node] @ message for message in messages])
        rows.append(sum((w * m for w, m in zip(weights, messages, strict=True)), torch.zeros_like(x[0])))
    return torch.stack(rows).detach(), modulated


every_variant = pytest.mark.parametrize(
    "options",
    [
        {"num_others": num_others, "modulation": modulation}
        for num_others in (0, 1, 2, 3)
        for modulation in ("hard", "soft")
    ],
    ids=str,
)


@every_variant
def test_every_kind_of_graph_gives_the_equations_node_by_node(options):
    conv, edge_index = layer(**options), both_directions(EDGES)
    x, *others = inputs(options["num_others"])
    expected, modulated = by_hand(conv, x, others)
    assert modulated in (range(1, edge_index.size(1)) if conv.modulation == "hard" else [0])  # Some, but not all.
    kinds = {
        "tensor": edge_index,
        "unsorted tensor": edge_index.flip(1),
        "EdgeIndex": EdgeIndex(edge_index, sparse_size=SIZE),
        "sorted EdgeIndex": EdgeIndex(edge_index, sparse_size=SIZE, sort_order="col"),
        "EdgeIndex without size": EdgeIndex(edge_index),
        "torch.sparse CSR": to_torch_csc_tensor(edge_index, size=SIZE).t(),
        "Adjacency": Adjacency.from_interactions(EDGES, USERS, ITEMS),
    }
    if WITH_TORCH_SPARSE:
        kinds["SparseTensor"] = SparseTensor.from_edge_index(edge_index, sparse_sizes=SIZE).t()
    for kind, graph in kinds.items():
        torch.testing.assert_close(conv(x, graph, others), expected, atol=1e-5, rtol=0, msg=kind)


@pytest.mark.parametrize("modulation", ["hard", "soft"])
def test_a_single_modality_leaves_attention_alone(modulation):
    (x,), graph = inputs(0), Adjacency.from_interactions(EDGES, USERS, ITEMS)
    out = layer(num_others=0, modulation=modulation)(x, graph)
    torch.testing.assert_close(out, DotAttentionConv()(x, graph), atol=1e-6, rtol=0)


def test_threshold_of_one_modulates_no_edge_and_of_zero_every_edge():
    x, *others = inputs(2)
    graph = Adjacency.from_interactions(EDGES, USERS, ITEMS)
    none, every = (layer(num_others=2, threshold=threshold)(x, graph, others) for threshold in (1.0, 0.0))
    torch.testing.assert_close(none, DotAttentionConv()(x, graph), atol=1e-6, rtol=0)
    fused = torch.stack([x, *others]).mean(dim=0)
    torch.testing.assert_close(every, DotAttentionConv()((fused, x), graph), atol=1e-6, rtol=0)


@every_variant
def test_gradients_equal_finite_differences(options):
    conv = layer(**options).double()
    tensors = [x.requires_grad_() for x in inputs(options["num_others"], torch.float64)]
    graph = Adjacency.from_interactions(EDGES, USERS, ITEMS, dtype=torch.float64)
    for edge_index in (both_directions(EDGES), graph):

        def run(x: Tensor, *others: Tensor, edge_index=edge_index) -> Tensor:
            return conv(x, edge_index, others)

        assert torch.autograd.gradcheck(run, tensors)


def test_both_paths_give_the_gates_the_same_gradients():
    conv = layer(num_others=2, modulation="soft").double()
    x, *others = inputs(2, torch.float64)
    gradients = []
    for graph in (both_directions(EDGES), Adjacency.from_interactions(EDGES, USERS, ITEMS, dtype=torch.float64)):
        conv.zero_grad()
        conv(x, graph, others).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in conv.parameters()])
    assert len(gradients[0]) == 4
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-12, rtol=0)


@every_variant
def test_empty_graph_gives_zeros(options):
    conv = layer(**options)
    x, *others = inputs(options["num_others"])
    empty = EDGES[:, :0]
    for graph in (both_directions(empty), EdgeIndex(empty), Adjacency.from_interactions(empty, USERS, ITEMS)):
        out = conv(x, graph, others)
        assert out.shape == x.shape
        assert out.eq(0).all()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("modulation", ["hard", "soft"])
def test_layer_compiles_into_one_graph(modulation):
    conv = layer(num_others=2, modulation=modulation)
    x, *others = inputs(2)
    compiled = torch.compile(conv, fullgraph=True)
    out = compiled(x, both_directions(EDGES), others)
    torch.testing.assert_close(out, by_hand(conv, x, others)[0], atol=1e-5, rtol=0)


def test_new_parameters_are_drawn_on_reset():
    conv = layer(num_others=2, modulation="soft")
    before = [value.clone() for value in conv.parameters()]
    conv.reset_parameters()
    assert len(before) == 4
    assert all(not torch.equal(old, new) for old, new in zip(before, conv.parameters(), strict=True))


def test_repr_names_sizes_and_modulation():
    assert repr(EgoConv(5, 2)) == "EgoConv(5, others=2, modulation='hard')"
    assert repr(EgoConv(8, 0, "soft")) == "EgoConv(8, others=0, modulation='soft')"


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match="unknown modulation 'hart': did you mean 'hard'"):
        EgoConv(5, 2, "hart")
    for sizes in ((0, 2), (5, -1)):
        with pytest.raises(InputError, match="expected at least 1 and at least 0"):
            EgoConv(*sizes)
    for threshold in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="threshold: found"):
            EgoConv(5, 2, threshold=threshold)
    x, other = inputs(1)
    with pytest.raises(InputError, match="others: found 1 matrices, expected 2"):
        EgoConv(5, 2)(x, both_directions(EDGES), [other])
