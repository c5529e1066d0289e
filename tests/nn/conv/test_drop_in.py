"""Every layer where PyG's own are: between two kinds of nodes, with sizes to be found out, in models, compiled."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.testing import assert_close
from torch_geometric import EdgeIndex
from torch_geometric.nn import HeteroConv, to_hetero
from torch_geometric.typing import WITH_TORCH_SPARSE, SparseTensor
from torch_geometric.utils import to_torch_csc_tensor

from pyg_ckd.errors import InputError
from pyg_ckd.nn import Adjacency, DotAttentionConv, EgoConv, LGConv, MMGCNConv
from pyg_ckd.nn.edges import as_edges

USERS, ITEMS, WIDTH = 4, 3, 5
RATES = torch.tensor([[0, 0, 1, 2, 2], [0, 1, 1, 0, 2]])  # User 3 is isolated.
TO_USERS = RATES.flip(0)
TYPES = {("user", "rates", "item"): RATES, ("item", "rev_rates", "user"): TO_USERS}

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "LGConv": LGConv,
    "LGConv as given": lambda: LGConv(normalize=False),
    "DotAttentionConv": DotAttentionConv,
    "EgoConv hard": lambda: EgoConv(WIDTH, 0, threshold=0.3),
    "EgoConv soft": lambda: EgoConv(WIDTH, 0, modulation="soft"),
    "MMGCNConv": lambda: MMGCNConv(WIDTH, 6),
    "MMGCNConv add": lambda: MMGCNConv((WIDTH, WIDTH), 6, combine="add", bias=True),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())


def features(rows: int, width: int = WIDTH, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(rows + 10 * seed))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


def neighbours(edges: Tensor, node: int) -> list[int]:
    return [j for j, i in edges.t().tolist() if i == node]


def attention(target: Tensor, messages: list[Tensor]) -> Tensor:
    return torch.stack([target @ m for m in messages]).softmax(dim=0)


def loop(conv: nn.Module, x: tuple[Tensor, Tensor], edges: Tensor, others: tuple[Tensor, ...] = ()) -> Tensor:
    """Follow the equations of any layer, one target after the other."""
    source, target = x
    rows = []
    for i in range(target.size(0)):
        near = neighbours(edges, i)
        if isinstance(conv, LGConv):
            degree = lambda j: int((edges[0] == j).sum())  # noqa: E731
            scale = [(degree(j) * len(near)) ** -0.5 if conv.normalize else 1.0 for j in near]
            rows.append(sum((w * source[j] for w, j in zip(scale, near, strict=True)), torch.zeros(source.size(1))))
        elif isinstance(conv, MMGCNConv):
            h = source.new_zeros(source.size(1))
            if near:
                h = F.leaky_relu(torch.stack([conv.lin_neighbor(source[j]) for j in near]).mean(dim=0))
            own = F.leaky_relu(conv.lin_self(target[i]))
            merged = conv.lin_merge(torch.cat([h, own])) if conv.combine == "concat" else conv.lin_merge(h) + own
            rows.append(F.leaky_relu(merged))
        else:
            plain = [source[j] for j in near]
            messages = plain
            if isinstance(conv, EgoConv):
                said = []
                for j in near:
                    row = source[j]
                    for n, y in enumerate(others):
                        row = row + (torch.sigmoid(conv.lins[n](y[j])) * y[j] if conv.modulation == "soft" else y[j])
                    said.append(row / (len(others) + 1))
                messages = said
                if conv.modulation == "hard" and near:
                    alpha = attention(target[i], plain)
                    messages = [m if a > conv.threshold else p for a, m, p in zip(alpha, said, plain, strict=True)]
            if not near:
                rows.append(torch.zeros(source.size(1)))
                continue
            alpha = attention(target[i], messages)
            rows.append(sum(a * m for a, m in zip(alpha, messages, strict=True)))
    return torch.stack(rows)


def kinds(edges: Tensor, size: tuple[int, int]) -> dict[str, object]:
    found: dict[str, object] = {
        "tensor": edges,
        "EdgeIndex": EdgeIndex(edges, sparse_size=size),
        "sorted EdgeIndex": EdgeIndex(edges, sparse_size=size).sort_by("col").values,
        "torch.sparse CSR": to_torch_csc_tensor(edges, size=size).t(),
    }
    if WITH_TORCH_SPARSE:
        found["SparseTensor"] = SparseTensor.from_edge_index(edges, sparse_sizes=size).t()
    return found


@every_layer
def test_between_two_kinds_of_nodes_every_kind_of_graph_gives_what_a_loop_gives(make):
    conv = seeded(make)
    user, item = features(USERS), features(ITEMS)
    for x, edges in (((user, item), RATES), ((item, user), TO_USERS)):
        expected = loop(conv, x, edges)
        for kind, graph in kinds(edges, (x[0].size(0), x[1].size(0))).items():
            assert_close(conv(x, graph), expected, atol=1e-5, rtol=0, msg=kind)


@every_layer
def test_against_the_direction_of_edges_sources_receive(make):
    conv, user, item = seeded(make), features(USERS), features(ITEMS)
    expected = loop(conv, (item, user), TO_USERS)
    conv.flow = "target_to_source"
    graphs = {kind: graph for kind, graph in kinds(RATES, (USERS, ITEMS)).items() if "sparse" not in kind.lower()}
    for kind, graph in graphs.items():
        assert_close(conv((user, item), graph), expected, atol=1e-5, rtol=0, msg=kind)
    with pytest.raises(ValueError, match=r"target_to_source"):
        conv((user, item), kinds(RATES, (USERS, ITEMS))["torch.sparse CSR"])


def test_against_the_direction_of_edges_the_receivers_messages_are_not_read():
    conv, x = seeded(lambda: MMGCNConv(WIDTH, 6)), features(USERS)
    expected = conv(x, TO_USERS)
    conv.flow = "target_to_source"
    assert_close(conv(x, RATES), expected)
    ego = seeded(lambda: EgoConv(WIDTH, 1, modulation="soft"))
    expected, others = ego((features(ITEMS), x), TO_USERS, [features(ITEMS, seed=1)]), [features(ITEMS, seed=1)]
    ego.flow = "target_to_source"
    for given in (others, ([], others)):
        assert_close(ego((x, features(ITEMS)), RATES, given), expected)


@every_layer
def test_a_prepared_half_graph_gives_the_same(make):
    conv = seeded(make)
    user, item = features(USERS), features(ITEMS)
    kind = "mean" if isinstance(conv, MMGCNConv) else "sym" if getattr(conv, "normalize", False) else "none"
    half = Adjacency.from_interactions(RATES, USERS, ITEMS, normalization=kind).to_users(USERS)
    assert_close(conv((item, user), half), loop(conv, (item, user), TO_USERS), atol=1e-5, rtol=0)


def test_light_convolution_between_two_kinds_is_that_of_the_graph_of_both():
    user, item = features(USERS), features(ITEMS)
    joint = torch.cat([RATES + torch.tensor([[0], [USERS]]), TO_USERS + torch.tensor([[USERS], [0]])], dim=1)
    weight = torch.rand(RATES.size(1), generator=torch.Generator().manual_seed(1))
    for given, both in ((None, None), (weight, weight.repeat(2))):
        whole = LGConv()(torch.cat([user, item]), joint, both)
        assert_close(LGConv()((user, item), RATES, given), whole[USERS:], atol=1e-6, rtol=0)
        assert_close(LGConv()((item, user), TO_USERS, given), whole[:USERS], atol=1e-6, rtol=0)


@pytest.mark.parametrize("modulation", ["hard", "soft"])
def test_other_modalities_are_those_of_the_sources(modulation):
    conv = seeded(lambda: EgoConv(WIDTH, 2, modulation=modulation, threshold=0.3))
    x, others = (features(USERS), features(ITEMS)), (features(USERS, seed=1), features(USERS, seed=2))
    expected = loop(conv, x, RATES, others)
    for given in (list(others), others, (list(others), None)):
        assert_close(conv(x, RATES, given), expected, atol=1e-5, rtol=0)


def test_sources_and_targets_may_have_other_widths():
    conv = seeded(lambda: MMGCNConv((WIDTH, 7), 6))
    x = (features(USERS), features(ITEMS, 7))
    assert_close(conv(x, RATES), loop(conv, x, RATES), atol=1e-5, rtol=0)
    assert_close(LGConv()((x[0], x[1]), RATES), LGConv()((x[0], features(ITEMS)), RATES))


LAZY: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "MMGCNConv": (lambda: MMGCNConv(-1, 6), lambda: MMGCNConv(WIDTH, 6)),
    "MMGCNConv with bias": (lambda: MMGCNConv(-1, 6, bias=True), lambda: MMGCNConv(WIDTH, 6, bias=True)),
    "MMGCNConv of a pair": (lambda: MMGCNConv((-1, -1), 6, combine="add"), lambda: MMGCNConv(WIDTH, 6, combine="add")),
    "EgoConv": (lambda: EgoConv(-1, 0, modulation="soft"), lambda: EgoConv(WIDTH, 0, modulation="soft")),
    "EgoConv of three": (lambda: EgoConv(-1, 2, modulation="soft"), lambda: EgoConv(WIDTH, 2, modulation="soft")),
    "EgoConv hard": (lambda: EgoConv(-1, 0), lambda: EgoConv(WIDTH, 0)),
}


@pytest.mark.parametrize(("lazy", "given"), LAZY.values(), ids=LAZY.keys())
def test_sizes_that_the_first_input_tells_are_those_that_could_have_been_given(lazy, given, tmp_path):
    conv, known = lazy(), given()
    x = (features(USERS), features(ITEMS))
    more = ([features(USERS, seed=n) for n in range(conv.num_others)],) if isinstance(conv, EgoConv) else ()
    copied, loaded = copy.deepcopy(conv), lazy()
    for one in (conv, copied):
        one.reset_parameters()
        assert one(x, RATES, *more).shape == known(x, RATES, *more).shape
        assert not any(map(is_lazy, one.parameters()))
        assert {n: p.shape for n, p in one.named_parameters()} == {n: p.shape for n, p in known.named_parameters()}
    loaded.load_state_dict(known.state_dict())
    conv.load_state_dict(known.state_dict())
    assert_close(loaded(x, RATES, *more), known(x, RATES, *more), atol=0, rtol=0)
    assert_close(conv(x, RATES, *more), known(x, RATES, *more), atol=0, rtol=0)


@every_layer
def test_a_layer_in_hetero_conv_gives_what_a_loop_gives(make):
    convs = {kind: seeded(make) for kind in TYPES}
    x = {"user": features(USERS), "item": features(ITEMS)}
    out = HeteroConv(convs)(x, TYPES)
    for (source, _, target), conv in convs.items():
        expected = loop(
            conv, (x[source], x[target]), TYPES[source, "rates" if source == "user" else "rev_rates", target]
        )
        assert_close(out[target], expected, atol=1e-5, rtol=0)


def test_further_arguments_come_through_hetero_conv():
    x = {"user": features(USERS), "item": features(ITEMS)}
    ids = {"user": features(USERS, 6), "item": features(ITEMS, 6)}
    conv = seeded(lambda: MMGCNConv(WIDTH, 6))
    out = HeteroConv(dict.fromkeys(TYPES, conv))(x, TYPES, id_embedding_dict=ids)
    assert_close(out["item"], conv((x["user"], x["item"]), RATES, ids["item"]))
    others = {"user": [features(USERS, seed=1)], "item": [features(ITEMS, seed=1)]}
    ego = EgoConv(WIDTH, 1)
    out = HeteroConv(dict.fromkeys(TYPES, ego))(x, TYPES, others_dict=others)
    assert_close(out["item"], loop(ego, (x["user"], x["item"]), RATES, tuple(others["user"])), atol=1e-5, rtol=0)


class Stack(nn.Module):
    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv = make()

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv(x, edge_index)


@pytest.mark.parametrize(
    "make", [*LAYERS.values(), lambda: MMGCNConv((-1, -1), 6)], ids=[*LAYERS.keys(), "MMGCNConv of any size"]
)
def test_a_layer_in_to_hetero_gives_what_a_loop_gives(make):
    model = to_hetero(Stack(make), (["user", "item"], list(TYPES)))
    x = {"user": features(USERS), "item": features(ITEMS)}
    with torch.no_grad():
        out = model(x, TYPES)
        for (source, name, target), edges in TYPES.items():
            conv = model.conv[f"{source}__{name}__{target}"]
            assert_close(out[target], loop(conv, (x[source], x[target]), edges), atol=1e-5, rtol=0)


def test_missing_features_and_impossible_layers_are_refused():
    x = (features(USERS), None)
    for conv in (LGConv(), DotAttentionConv(), EgoConv(WIDTH, 0), MMGCNConv(WIDTH, 6)):
        with pytest.raises(InputError, match=r"^x: found no features of the targets"):
            conv(x, RATES)
    with pytest.raises(InputError, match=r"^MMGCNConv: found add_self_loops between two kinds of nodes"):
        MMGCNConv(WIDTH, 6, add_self_loops=True)((features(USERS), features(ITEMS)), RATES)


@pytest.mark.parametrize("size", [np.int64(WIDTH), torch.tensor(WIDTH), (np.int64(WIDTH), WIDTH)], ids=str)
def test_sizes_may_be_those_of_any_library(size: object):
    assert MMGCNConv(size, np.int64(6))(features(USERS), RATES[:, :3] % 3).shape == (USERS, 6)


@every_layer
def test_a_layer_between_two_kinds_compiles_into_one_graph(make):
    conv = seeded(make)
    x = (features(USERS), features(ITEMS))
    torch._dynamo.reset()
    out = torch.compile(conv, fullgraph=True, backend="aot_eager")(x, RATES)
    assert_close(out, loop(conv, x, RATES), atol=1e-5, rtol=0)


@every_layer
def test_a_layer_compiles_in_double_precision_with_every_graph_that_compilers_know(make):
    conv = seeded(make).double()
    x, edges = features(USERS).double(), torch.tensor([[0, 1, 2, 3, 3], [1, 2, 3, 0, 1]])
    prepared = as_edges(Adjacency.from_edges(edges, torch.ones(5, dtype=torch.float64), USERS))
    for graph in (EdgeIndex(edges, sparse_size=(USERS, USERS)).sort_by("col").values, prepared):
        expected = conv(x, graph)  # PyG's EdgeIndex can be compiled once it has been used, and its cache filled.
        torch._dynamo.reset()
        out = torch.compile(conv, fullgraph=True, backend="eager")(x, graph)
        assert_close(out, expected, atol=1e-10, rtol=0)


@every_layer
def test_gradients_of_a_sorted_edge_index_between_two_kinds_are_those_of_its_edges(make):
    conv = seeded(make)
    sorted_edges = EdgeIndex(RATES, sparse_size=(USERS, ITEMS)).sort_by("col").values
    grads = []
    for graph in (sorted_edges, sorted_edges.as_tensor()):
        x = features(USERS).requires_grad_()
        conv((x, features(ITEMS)), graph).square().sum().backward()
        grads.append(x.grad)
    assert_close(*grads, atol=1e-5, rtol=0)


@every_layer
def test_a_layer_compiles_with_a_graph_prepared_for_products(make):
    conv = seeded(make)
    graph = Adjacency.from_interactions(torch.tensor([[0, 0, 1, 2], [0, 1, 1, 0]]), 3, 2)
    torch._dynamo.reset()
    x = features(5)
    assert_close(torch.compile(conv, backend="eager")(x, graph), conv(x, graph), atol=1e-6, rtol=0)


def layouts(edges: Tensor, size: tuple[int, int]) -> dict[str, object]:
    csr = to_torch_csc_tensor(edges, size=size).t()
    order = torch.tensor([3, 1, 4, 0, 2])
    values = torch.ones(5)
    return {
        "EdgeIndex": EdgeIndex(edges),
        "EdgeIndex by column": EdgeIndex(edges).sort_by("col").values,
        "EdgeIndex by row": EdgeIndex(edges).sort_by("row").values,
        "CSR": csr,
        "COO": csr.to_sparse_coo(),
        "COO, not coalesced": torch.sparse_coo_tensor(edges.flip(0)[:, order], values, size[::-1]),
        "CSC": csr.to_sparse_csc(),
    }


LAST_ISOLATED = torch.tensor([[0, 1, 2, 1, 0], [1, 2, 0, 0, 2]])  # Of five nodes.


@every_layer
@pytest.mark.parametrize("kind", layouts(TO_USERS, (ITEMS, USERS)))
@pytest.mark.parametrize("square", [False, True])
def test_results_and_gradients_of_every_layout_are_those_of_the_edges(square, kind, make):
    conv = seeded(make)
    edges, size = (LAST_ISOLATED, (5, 5)) if square else (TO_USERS, (ITEMS, USERS))
    found = []
    for graph in (layouts(edges, size)[kind], edges):
        rows = [features(n).requires_grad_() for n in dict.fromkeys(size)]
        out = conv(rows[0] if square else tuple(rows), graph)
        out.square().sum().backward()
        found.append([out, *(torch.zeros_like(row) if row.grad is None else row.grad for row in rows)])
    for one, other in zip(*found, strict=True):
        assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["CSR", "COO", "COO, not coalesced", "CSC"])
def test_attention_comes_back_in_the_layout_of_the_graph(kind):
    conv, x = DotAttentionConv(), features(5)
    graph = layouts(LAST_ISOLATED, (5, 5))[kind]
    out, (weighted, alpha) = conv(x, graph, return_attention_weights=True)
    _, (edges, expected) = conv(x, LAST_ISOLATED, return_attention_weights=True)
    assert weighted.layout == graph.layout
    assert_close(weighted.to_dense()[edges[1], edges[0]], expected, atol=1e-6, rtol=0)
    assert_close(weighted.values(), alpha, atol=0, rtol=0)
    assert_close(weighted.to_dense() @ x, out, atol=1e-5, rtol=0)


def test_an_edge_index_of_more_nodes_than_there_are_is_refused() -> None:
    edges = EdgeIndex(torch.tensor([[0, 1, 2], [1, 2, 0]]), sparse_size=(7, 7))
    with pytest.raises(ValueError, match="size 7"):
        LGConv()(torch.randn(5, WIDTH), edges)
