"""Sampled neighbourhoods: nothing is left out with all neighbours, and sums over some stand for those over all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch_geometric.data import Data
from torch_geometric.nn import SAGEConv
from torch_geometric.sampler import SamplerOutput

from pyg_ckd import Objective
from pyg_ckd.balance import DistillationWrapper
from pyg_ckd.balance.discovery import strategies
from pyg_ckd.data import TripletSampler, build_data
from pyg_ckd.data.inputs import RATES
from pyg_ckd.data.neighbors_sampled import NeighborhoodSampler, UniformSampler, distinct_numbers
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.datasets.synthetic import synthetic_multimodal
from pyg_ckd.errors import InputError
from pyg_ckd.nn import Adjacency, EarlyFusionLightGCN, LightGCN, as_backbone
from pyg_ckd.nn.subgraph import Cutter, Subgraph, both_directions
from pyg_ckd.training.sampled import Subgraphs
from tests.balance.test_incremental import known_of
from tests.balance.test_strategies import objective_of, teachers_of
from tests.nn.models.zoo import BACKBONES, built, doubled


def sparse_data(make_data: Any, **options: Any) -> Any:
    """Return a graph of which three triples and their neighbours are a part."""
    return make_data(num_users=60, num_items=50, **options)


def few_triples(data: Any, number: int = 3, random: int = 2, seed: int = 0) -> TripletBatch:
    sizes = data["user"].num_nodes, data["item"].num_nodes
    return next(iter(TripletSampler(data[RATES].edge_index, *sizes, number, random, seed)))


def thin(data: Any, keep: int = 60) -> Any:
    """Leave few interactions, so that two hops do not reach everything."""
    edges = data[RATES].edge_index
    order = torch.randperm(edges.size(1), generator=torch.Generator().manual_seed(1))[:keep]
    data[RATES].edge_index = edges[:, order]
    return data


def everything(hops: int | None) -> list[int]:
    return [-1] * (2 if hops is None else hops)


def sampled_backbones() -> list[str]:
    return [
        name for name in BACKBONES if name.split()[0] in ("LightGCN", "EarlyFusionLightGCN", "VBPR", "MMGCN", "BM3")
    ]


@pytest.mark.parametrize("name", sampled_backbones())
def test_losses_and_gradients_with_all_neighbours_are_those_of_the_whole_graph(name, make_data):
    data = thin(sparse_data(make_data, modalities=3))
    model = built(BACKBONES[name], data).eval()
    assert model.sampled
    features, graph = doubled(data)
    graphs, batch = model.prepare(features, graph), few_triples(data)
    for view in (None, ["mod1"], []):
        objective = Objective(model, l2=0.1, view=view)
        expected = objective.loss(features, graphs, batch)
        where = Subgraphs(model, everything(model.num_hops))(graphs, batch)
        assert isinstance(where[0][RATES], Subgraph)
        assert where[0][RATES].num_nodes < 110
        found = objective.loss(features, *where)
        assert found.keys() == expected.keys()
        for term, value in expected.items():
            assert_close(found[term], value, atol=1e-10, rtol=0, msg=term)
        both = [(n, p) for n, p in model.named_parameters() if p.requires_grad and not n.startswith("preference")]
        names, params = zip(*both, strict=True)  # A mean over all users has no gradient on a part of the graph.
        pair = [torch.autograd.grad(sum(t.values()), params, allow_unused=True) for t in (expected, found)]
        for n, one, other in zip(names, *pair, strict=True):
            one, other = (torch.zeros(()) if g is None else g for g in (one, other))
            assert_close(other.expand_as(one), one, atol=1e-10, rtol=0, msg=n)


WAYS: dict[str, tuple[type[Objective], dict[str, Any]]] = {
    name: (cls, {}) for name, cls in strategies().items() if cls.trains and cls.sampled
}
WAYS["ckd, the best teacher's"] = (DistillationWrapper, {"target": "best"})
WAYS["unseen, aligned"] = (strategies()["unseen"], {"alignment": 0.5, "num_classes": 4})


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lacking", [False, True], ids=["all there", "some lacking"])
@pytest.mark.parametrize(("cls", "options"), WAYS.values(), ids=WAYS.keys())
def test_strategies_read_the_rows_of_the_whole_graph(cls, options, lacking, make_data):
    data = thin(sparse_data(make_data, modalities=3))
    if lacking:
        data["item"].has_mod1 = torch.rand(50, generator=torch.Generator().manual_seed(4)) < 0.6
        data["item"].mod1 = data["item"].mod1 * data["item"].has_mod1.unsqueeze(1)
    twins = [
        objective_of(cls, data, lambda d: built(BACKBONES["EarlyFusionLightGCN"], d), **options).double()
        for _ in range(2)
    ]
    found = []
    for own, parts in zip(twins, (None, Subgraphs(twins[1].student, [-1, -1])), strict=True):
        features, graph = doubled(data)
        graphs = own.prepare(features, graph)
        if cls.name == "incremental":
            user, item = torch.arange(60), torch.arange(50)
            user[::3], item[::4] = -1, -1
            own.begin_from(replace(known_of(data), user=user, item=item))
        for epoch in (1, 2):  # Some compare from the second epoch on.
            own.progress = type(own.progress)(epoch, 3)
            torch.manual_seed(3)
            graphs = own.begin_epoch(features, graphs)
            for seed in (0, 1):
                batch = few_triples(data, number=6, random=5, seed=seed)
                where = (graphs, batch) if parts is None else parts(graphs, batch)
                torch.manual_seed(seed)
                terms = own.loss(features, *where)
                found.append({name: value.detach() for name, value in terms.items()})
    half = len(found) // 2
    for whole, part in zip(found[:half], found[half:], strict=True):
        assert whole.keys() == part.keys()
        for name, value in whole.items():
            assert_close(part[name], value, atol=1e-10, rtol=0, msg=name)


@pytest.mark.usefixtures("double")
def test_balance_alone_reads_teachers_and_masks_by_the_rows_that_the_output_is_of(make_data):
    """Also where nobody calls loss: rows of a subgraph in any order, with other neighbours of no concern."""
    data = make_data(num_users=10, num_items=12)
    has = {"mod0": torch.arange(12) % 3 > 0}
    features, graph = doubled(data)
    objective = DistillationWrapper(built(BACKBONES["VBPR"], data), teachers_of(data), has=has, reweight=False)
    generator = torch.Generator().manual_seed(5)
    n_id_dict = {"user": torch.randperm(10, generator=generator), "item": torch.randperm(12, generator=generator)}
    batch = few_triples(data, number=8, random=7)
    kinds = [n_id_dict["user"], n_id_dict["item"], n_id_dict["item"]] * 2
    local = TripletBatch(*(kind.argsort()[rows] for kind, rows in zip(kinds, batch, strict=True)))
    views = list(objective.views)
    whole = dict(zip(views, objective.student.outputs(features, graph, views), strict=True))
    edges = torch.zeros(2, 0, dtype=torch.int64)
    part = dict(zip(views, objective.student.outputs(features, {RATES: edges}, views, n_id_dict), strict=True))
    expected, found = objective.balance(whole, batch), objective.balance(part, local)
    assert {"specific", "generic"} <= expected.keys()
    for name, value in expected.items():
        assert_close(found[name], value, atol=1e-12, rtol=0, msg=name)


COPIES = 100


def many_copies(users: int, items: int, interactions: int) -> Tensor:
    """Return the interactions of a graph so many times side by side, which one call samples independently."""
    edges = synthetic_multimodal(num_users=users, num_items=items, num_interactions=interactions, seed=0)[
        RATES
    ].edge_index
    copy = torch.arange(COPIES).view(-1, 1, 1)
    return (edges + copy * torch.tensor([[users], [items]])).permute(1, 0, 2).reshape(2, -1)


@pytest.mark.parametrize(("normalization", "self_loops"), [("sym", False), ("mean", True)])
def test_mean_of_2000_samples_is_the_product_with_the_whole_graph(normalization, self_loops):
    users, items = 120, 90
    edges, every = many_copies(users, items, 1500), (users * COPIES, items * COPIES)
    whole = Adjacency.from_interactions(edges, *every, normalization, self_loops, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    sides = [torch.randn(size, 3, dtype=torch.float64, generator=generator) for size in (users, items)]
    x = torch.cat([side.repeat(COPIES, 1) for side in sides])
    cutter = Cutter(whole)
    sampler = NeighborhoodSampler(cutter.edge_index, *every, [4])
    torch.manual_seed(0)
    found = []
    for _ in range(2000 // COPIES):
        part = sampler(*map(torch.arange, every))
        user, item = cutter(part, every[0]).matmul(x).split(every)
        found.append(torch.cat([user.view(COPIES, users, 3), item.view(COPIES, items, 3)], dim=1))
    samples = torch.cat(found)  # [2000, U + I, 3]
    user, item = whole.matmul(x).split(every)
    expected = torch.cat([user[:users], item[:items]])
    error = samples.std(dim=0) / samples.size(0) ** 0.5
    far = ((samples.mean(dim=0) - expected).abs() > 4 * error + 1e-9).any(dim=1)
    assert float(far.double().mean()) <= 0.01
    assert float((error > 1e-3).double().mean()) > 0.5  # Most rows lacked something every time.


def test_two_layers_are_unbiased_too():
    users, items = 60, 50
    edges, every = many_copies(users, items, 700), (users * COPIES, items * COPIES)
    whole = Adjacency.from_interactions(edges, *every, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    sides = [torch.randn(size, 2, dtype=torch.float64, generator=generator) for size in (users, items)]
    x = torch.cat([side.repeat(COPIES, 1) for side in sides])
    cutter = Cutter(whole)
    sampler = NeighborhoodSampler(cutter.edge_index, *every, [3, 3])
    start = torch.arange(COPIES).view(-1, 1)
    user, item = (torch.arange(5) + start * users).view(-1), (torch.arange(5) + start * items).view(-1)
    torch.manual_seed(0)
    found = []
    for _ in range(2000 // COPIES):
        part = sampler(user, item)
        out = cutter(part, every[0]).mean_of_powers(x[torch.cat([part.user, part.item + every[0]])], 2)
        rows = torch.searchsorted(part.user, user), part.user.numel() + torch.searchsorted(part.item, item)
        found.append(torch.cat([out[own].view(COPIES, 5, 2) for own in rows], dim=1))
    samples = torch.cat(found)
    expected = whole.mean_of_powers(x, 2)[torch.cat([user[:5], item[:5] + every[0]])]
    error = samples.std(dim=0) / samples.size(0) ** 0.5
    assert bool(((samples.mean(dim=0) - expected).abs() <= 4 * error).all())


def test_sets_of_neighbours_are_kept_equally_often():
    torch.manual_seed(0)
    numbers = distinct_numbers(torch.full((60_000,), 5), 3).sort(dim=1).values
    assert bool((numbers.diff(dim=1) > 0).all())
    sets, count = numbers.unique(dim=0, return_counts=True)
    assert sets.size(0) == 10
    assert bool(((count - 6000).abs() < 5 * (60_000 * 0.1 * 0.9) ** 0.5).all())


def test_a_node_keeps_as_many_neighbours_as_it_may_and_weights_are_those_of_the_whole_graph(make_data):
    data = sparse_data(make_data)
    whole = Adjacency.from_interactions(data[RATES].edge_index, 60, 50, dtype=torch.float64)
    cutter = Cutter(whole)
    torch.manual_seed(0)
    part = NeighborhoodSampler(cutter.edge_index, 60, 50, [3, 2])(torch.tensor([7, 3, 7]), torch.tensor([2]))
    node = torch.cat([part.user, part.item + 60])
    assert bool((part.user.diff() > 0).all())
    assert bool((part.item.diff() > 0).all())
    dense = whole.matrix.to_dense()
    degree = (dense != 0).sum(dim=1)
    kept = torch.bincount(part.target, minlength=node.numel())
    first = torch.isin(node, torch.tensor([7, 3, 62]))
    assert kept[first].tolist() == degree[node[first]].clamp(max=3).tolist()
    expanded = (kept > 0) & ~first
    assert kept[expanded].tolist() == degree[node[expanded]].clamp(max=2).tolist()
    matrix = cutter(part, 60).matrix.to_dense()
    for s, t in zip(part.source.tolist(), part.target.tolist(), strict=True):
        expected = dense[node[t], node[s]] * degree[node[t]] / kept[t]
        assert float(matrix[t, s]) == pytest.approx(float(expected), rel=1e-12)
    assert int((matrix != 0).sum()) == part.source.numel()


def test_samples_depend_on_one_number_of_pytorchs_generator_alone(make_data):
    edges = both_directions(sparse_data(make_data)[RATES].edge_index, 60, 50)
    user, item = torch.arange(20), torch.arange(20)
    found = []
    for fan in ([2, 2], [5, 5]):
        sampler = NeighborhoodSampler(edges, 60, 50, fan)
        torch.manual_seed(8)
        first, second = sampler(user, item), sampler(user, item)
        found.append(torch.rand(3))
        torch.manual_seed(8)
        again = sampler(user, item)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(*found)


def test_triples_keep_exact_negatives_and_weights(make_data):
    data = sparse_data(make_data)
    met = {(int(u), int(i)) for u, i in data[RATES].edge_index.t()}
    model = LightGCN.from_data(data, num_layers=2)
    graphs = model.prepare(*doubled(data)[::1])
    parts = Subgraphs(model, [2, 2])
    for batch in TripletSampler(data[RATES].edge_index, 60, 50, 32, 10):
        weight = torch.rand(batch.user.numel())
        _, local, n_id_dict = parts(graphs, batch.weighted(weight))
        kinds = [n_id_dict["user"], n_id_dict["item"], n_id_dict["item"]] * 2
        for ids, rows, expected in zip(kinds, local, batch, strict=True):
            assert torch.equal(ids[rows], expected)
        assert torch.equal(local.weight, weight)
        assert not met & {(int(u), int(j)) for u, j in zip(batch.user, batch.negative, strict=True)}


class Sage(nn.Module):
    """A PyG model with two layers that knows nothing of parts of a graph."""

    def __init__(self, num_users: int, dims: dict[str, int]) -> None:
        super().__init__()
        self.user = nn.Parameter(torch.randn(num_users, 4))
        self.lins = nn.ModuleDict({m: nn.Linear(d, 4) for m, d in dims.items()})
        self.convs = nn.ModuleList(SAGEConv(4, 4) for _ in range(2))

    def forward(self, x_dict: dict[str, Tensor], edge_index: Tensor) -> tuple[Tensor, Tensor]:
        return self.rows(x_dict, edge_index, self.user)

    def rows(self, x_dict: dict[str, Tensor], edge_index: Tensor, user: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([user, torch.stack([lin(x_dict[m]) for m, lin in self.lins.items()]).sum(dim=0)])
        both = torch.cat([edge_index, edge_index.flip(0)], dim=1)
        shift = torch.tensor([0, user.size(0)])
        shift = torch.cat([shift.expand(edge_index.size(1), 2).t(), shift.flip(0).expand(edge_index.size(1), 2).t()], 1)
        for conv in self.convs:
            x = conv(x, both + shift).tanh()
        return x[: user.size(0)], x[user.size(0) :]


class SageOnParts(Sage):
    """The same, told which users it sees."""

    def forward(
        self, x_dict: dict[str, Tensor], edge_index: Tensor, n_id_dict: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.rows(x_dict, edge_index, self.user if n_id_dict is None else self.user[n_id_dict["user"]])


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("cls", [Sage, SageOnParts])
def test_a_module_of_ones_own_works_on_a_part_of_the_graph(cls, make_data):
    data = thin(sparse_data(make_data))
    torch.manual_seed(0)
    model = as_backbone(cls(60, {m: data["item"][m].size(1) for m in data.modalities}), data)
    objective = DistillationWrapper(model, teachers_of(data), num_random_triples=4)
    features, graph = doubled(data)
    graphs, batch = objective.prepare(features, graph), few_triples(data, random=4)
    expected = objective.loss(features, graphs, batch)
    where = Subgraphs(model, [-1, -1])(graphs, batch)
    assert where[0][RATES].size(1) < graph[RATES].size(1)
    assert len(where) == (3 if cls is SageOnParts else 2)
    found = objective.loss(features, *where)
    for name, value in expected.items():
        assert_close(found[name], value, atol=1e-10, rtol=0, msg=name)


@pytest.mark.parametrize("name", ["LightGCN", "EarlyFusionLightGCN", "VBPR", "MMGCN"])
def test_sparse_gradients_hold_the_rows_of_the_part_and_are_equal(name, make_data):
    data = thin(sparse_data(make_data))
    model = built(BACKBONES[name], data)
    features, graph = doubled(data)
    graphs, batch = model.prepare(features, graph), few_triples(data)
    grads = []
    for sparse in (False, True):
        parts = Subgraphs(model, everything(model.num_hops), sparse=sparse)
        where = parts(graphs, batch)
        assert model.sparse_rows is (sparse and 2 * where[0][RATES].num_nodes <= 110)
        model.zero_grad(set_to_none=True)
        sum(Objective(model).loss(features, *where).values()).backward()
        parts.done()
        assert not model.sparse_rows
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        if sparse and name in ("LightGCN", "VBPR"):
            rows = model.user_embedding.grad.coalesce().indices()[0]
            assert torch.equal(rows, where[2]["user"]) or set(rows.tolist()) <= set(where[2]["user"].tolist())
    for n, one in grads[0].items():
        other = grads[1][n].to_dense() if grads[1][n].is_sparse else grads[1][n]
        assert_close(other, one, atol=1e-12, rtol=0, msg=n)


def test_what_depends_on_features_alone_is_computed_once(make_data, monkeypatch):
    data = sparse_data(make_data)
    model = EarlyFusionLightGCN.from_data(data)
    features = {m: data["item"][m] for m in data.modalities}
    graphs = model.prepare(features, {RATES: data[RATES].edge_index})
    objective = DistillationWrapper(model, teachers_of(data))
    parts, calls = Subgraphs(model, [3, 3]), []
    import pyg_ckd.nn.models.inputs as inputs

    mean = inputs.mean_of_rows
    monkeypatch.setattr(inputs, "mean_of_rows", lambda x: calls.append(1) or mean(x))
    for batch in TripletSampler(data[RATES].edge_index, 60, 50, 64, 10):
        objective.loss(features, *parts(graphs, batch))
    assert len(calls) == len(data.modalities)


def test_a_sampler_of_ones_own_takes_the_place_of_the_uniform_one(make_data):
    data, seen = sparse_data(make_data), []

    def mine(graph: Data, num_neighbors: list[int]) -> Any:
        seen.append((graph.num_nodes, num_neighbors))
        inner = UniformSampler(graph, num_neighbors)

        class OneByOne:
            def sample_from_nodes(self, index: Any, **kw: Any) -> Any:
                return iter([inner.sample_from_nodes(index)])

        return OneByOne()

    edges = both_directions(data[RATES].edge_index, 60, 50)
    rows = torch.arange(6), torch.arange(5)
    found = []
    for make in (None, mine):
        torch.manual_seed(1)
        found.append(NeighborhoodSampler(edges, 60, 50, [2, 2], make)(*rows))
    assert seen == [(110, [2, 2])]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    with pytest.raises(InputError, match="expected an object with PyG's sample_from_nodes"):
        NeighborhoodSampler(edges, 60, 50, [2], lambda graph, fan: 3)


def changed(**changes: Any) -> Any:
    """Return a change of some parts of an output."""
    return lambda out: replace(out, **{name: change(getattr(out, name)) for name, change in changes.items()})


def first_edge_twice(out: SamplerOutput) -> SamplerOutput:
    again = {name: torch.cat([getattr(out, name), getattr(out, name)[:1]]) for name in ("row", "col", "edge")}
    return replace(out, **again)


def without_node_0(node: Tensor) -> Tensor:
    """Return nodes with one in the place of node 0 that is none of them."""
    other = min(set(range(110)) - set(node.tolist()))
    return torch.where(node == 0, other, node)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda out: iter([out, out]), "more than one output for one set of seeds, expected one SamplerOutput"),
        (lambda out: iter([]), "no output for one set of seeds"),
        (lambda out: 3, "int, expected a SamplerOutput"),
        (changed(edge=lambda x: None), r"no numbers of edges \(edge\)"),
        (changed(node=lambda x: x.tolist()), "node as list, expected a vector of integers"),
        (changed(row=lambda x: x.float()), "row as torch.float32 of shape"),
        (changed(edge=lambda x: x[1:]), r"\d+ rows, \d+ columns and \d+ edges, expected as many of each"),
        (changed(node=lambda x: x + 110), "node 110, expected numbers from 0 to below 110"),
        (changed(col=lambda x: x - 99), r"col -\d+, expected numbers from 0 to below"),
        (changed(edge=lambda x: x + 10**6), r"edge \d+, expected numbers from 0 to below"),
        (changed(node=lambda x: x[:1].expand(len(x))), r"node 0 more than once, expected every node once"),
        (first_edge_twice, r"edge \d+ more than once, expected every edge once"),
        (changed(node=without_node_0), r"1 of 11 seeds not in node, first 0, expected all"),
        (
            changed(edge=lambda x: x.flip(0)),
            r"edge \d+ from node\[row\] \d+ to node\[col\] \d+, expected \d+ to \d+ as",
        ),
        (lambda out: replace(out, row=out.col, col=out.row), r"edge \d+ from node\[row\] \d+ to"),
    ],
    ids=[
        "two",
        "none",
        "number",
        "edges",
        "list",
        "float",
        "fewer",
        "node",
        "col",
        "edge",
        "twice",
        "edge twice",
        "seeds",
        "order",
        "turned",
    ],
)
def test_outputs_of_ones_own_sampler_that_are_no_part_of_the_graph_are_refused(make_data, change, message):
    class Strange(UniformSampler):
        def sample_from_nodes(self, index: Any, **kw: Any) -> Any:
            return change(super().sample_from_nodes(index))

    edges = both_directions(sparse_data(make_data)[RATES].edge_index, 60, 50)
    sampler = NeighborhoodSampler(edges, 60, 50, [2, 2], Strange)
    with pytest.raises(InputError, match=f"^neighbor_sampler: Strange gave {message}") as error:
        sampler(torch.arange(6), torch.arange(5))
    assert "\n" not in str(error.value)


def test_users_without_interactions_and_no_edges_at_all(make_data):
    data = build_data(torch.tensor([[0, 1], [0, 1]]), {"a": torch.randn(3, 2)}, num_users=4, num_items=3)
    edges = both_directions(data[RATES].edge_index, 4, 3)
    part = NeighborhoodSampler(edges, 4, 3, [2, 2])(torch.tensor([3]), torch.tensor([2]))
    assert (part.user.tolist(), part.item.tolist(), part.source.numel()) == ([3], [2], 0)
    whole = Adjacency.from_interactions(data[RATES].edge_index, 4, 3)
    assert Cutter(whole)(part, 4).matmul(torch.ones(2, 1)).tolist() == [[0.0], [0.0]]
