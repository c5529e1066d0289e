"""DualGNN: graph of similar users, weights of the modalities and interventions against their definitions."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pyg_ckd.balance import DistillationWrapper
from pyg_ckd.data.inputs import RATES
from pyg_ckd.data.sampler import TripletBatch, TripletSampler
from pyg_ckd.datasets import synthetic_multimodal
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import evaluate
from pyg_ckd.nn import Adjacency
from pyg_ckd.nn.models.dualgnn import SHARES, DualGNN, similar_users
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.training import Trainer, build
from tests.nn.models.test_base import all_views
from tests.nn.models.zoo import built, doubled


def make(**options):
    return lambda data: DualGNN.from_data(data, **({"embedding_dim": 5} | options))


def similar_by_hand(edges: Tensor, user: int, k: int) -> dict[int, float]:
    """Return from similar user to weight."""
    items: dict[int, set[int]] = {}
    for u, i in edges.t().tolist():
        items.setdefault(u, set()).add(i)
    shared = Counter({v: len(items[v] & items.get(user, set())) for v in items if v != user})
    nearest = sorted((v for v in shared if shared[v] > 0), key=lambda v: (-shared[v], v))[:k]
    total = sum(torch.tensor(float(shared[v])).double().exp() for v in nearest)
    return {v: float(torch.tensor(float(shared[v])).double().exp() / total) for v in nearest}


def by_hand(model: DualGNN, features: dict[str, Tensor], edges: Tensor) -> tuple[Tensor, Tensor]:
    """Follow the equations of the docstring with dense matrices and, for users, one by one."""
    users, num_nodes = model.num_users, model.num_users + model.num_items
    a = torch.zeros(num_nodes, num_nodes, dtype=torch.float64)
    a[edges[0], edges[1] + users] = a[edges[1] + users, edges[0]] = 1
    scale = torch.where(a.sum(dim=1) > 0, a.sum(dim=1), 1).rsqrt()
    power = scale.unsqueeze(1) * a * scale
    spread = sum(torch.linalg.matrix_power(power, layer) for layer in range(len(model.convs) + 1))
    y = {}
    for m in model.modalities:
        first, _, second = model.project[m]
        hidden = features[m] @ first.weight.t() + first.bias
        hidden = torch.where(hidden > 0, hidden, 0.01 * hidden)
        x = torch.cat([model.preference[m], hidden @ second.weight.t() + second.bias])
        y[m] = spread @ (x / x.norm(dim=1, keepdim=True))
    r = []
    for u in range(users):
        weight = torch.stack([model.attention[m][u, 0].exp() for m in model.modalities])
        weight = weight / weight.sum()
        r.append(sum(w * y[m][u] for w, m in zip(weight, model.modalities, strict=True)))
    user = []
    for u in range(users):
        similar = similar_by_hand(edges, u, model.num_neighbors)
        user.append(r[u] + sum(s * r[v] for v, s in similar.items()))
    return torch.stack(user), sum(y.values())[users:]


@pytest.mark.parametrize("modalities", [1, 3, ["zeta", "alpha"]], ids=str)
@pytest.mark.parametrize("options", [{}, {"num_layers": 0}, {"num_layers": 3, "num_neighbors": 2}], ids=str)
def test_embeddings_equal_the_equations(modalities, options, make_data):
    data = make_data(modalities=modalities)
    model = built(make(**options), data)
    features, graph = doubled(data)
    user, item = by_hand(model, features, graph[RATES])
    out = model(features, graph)
    assert_close(out.user, user, atol=1e-10, rtol=0)
    assert_close(out.item, item, atol=1e-10, rtol=0)


def test_view_equals_the_full_view_with_means_put_in(make_data):
    data = make_data(modalities=3, transform="none")
    model = built(make(), data)
    features, graph = doubled(data)
    for view in all_views(model.modalities):
        changed, intervened = dict(features), built(make(), data)
        for m in set(model.modalities) - view:
            changed[m] = features[m].mean(dim=0, keepdim=True).expand_as(features[m])
            with torch.no_grad():
                for tables, means in (
                    (model.preference, intervened.preference),
                    (model.attention, intervened.attention),
                ):
                    means[m][:] = tables[m].mean(dim=0)
        user, item = by_hand(intervened, changed, graph[RATES])
        out = model(features, graph, view)
        assert_close(out.user, user, atol=1e-10, rtol=0)
        assert_close(out.item, item, atol=1e-10, rtol=0)


def test_intervened_modality_leaves_nothing_but_constants(make_data):
    data = make_data(modalities=3, transform="none")
    model, other = built(make(), data), built(make(), data)
    features, graph = doubled(data)
    changed = dict(features, mod1=features["mod1"].flip(0))
    with torch.no_grad():
        for tables in (other.preference, other.attention):
            tables["mod1"].copy_(tables["mod1"].flip(0))
    for view in ([], ["mod0"], ["mod0", "mod2"]):
        assert_close(
            torch.cat(other(changed, graph, view)), torch.cat(model(features, graph, view)), atol=1e-10, rtol=0
        )
    assert (other(changed, graph).user - model(features, graph).user).abs().max() > 0.1


def test_weights_of_a_user_sum_to_one_and_start_equal(make_data):
    data = make_data(modalities=3)
    fresh, trained = make()(data), built(make(), data)
    assert_close(fresh.weights(frozenset(fresh.modalities)), torch.full((12, 3), 1 / 3))
    for view in all_views(trained.modalities):
        weights = trained.weights(view)
        assert_close(weights.sum(dim=1), torch.ones(12).double())
        assert torch.allclose(weights, weights[:1].expand_as(weights), atol=1e-12, rtol=0) == (not view)


def test_similar_users_are_those_who_share_most_items():
    edges = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 3, 5], [0, 1, 2, 0, 1, 1, 2, 0, 3, 0]])  # Users 3 and 4 are alone.
    graph = Adjacency.from_interactions(edges, 6, 4, dtype=torch.float64)
    for k in (1, 2, 9):
        dense = similar_users(graph, 6, k).matrix.to_dense()
        for user in range(6):
            expected = similar_by_hand(edges, user, k)
            assert len(expected) == {0: min(k, 3), 1: min(k, 3), 2: min(k, 3), 5: min(k, 3)}.get(user, 0)
            for other in range(6):
                assert dense[user, other].item() == pytest.approx(expected.get(other, 0.0))


def test_kind_of_normalisation_and_self_loops_do_not_change_who_is_similar():
    edges = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 1, 2, 2]])
    graphs = [
        Adjacency.from_interactions(edges, 3, 3, kind, loops) for kind in ("sym", "mean") for loops in (False, True)
    ]
    first, *others = [similar_users(graph, 3, 2).matrix.to_dense() for graph in graphs]
    assert first.count_nonzero() == 4
    assert all(torch.equal(first, other) for other in others)


def test_given_graph_of_users_takes_the_place_of_the_computed_one(make_data):
    data = make_data()
    model = built(make(), data)
    features, graph = doubled(data)
    edges = torch.tensor([[3, 4, 3, 4, 3], [0, 0, 1, 2, 1]])  # One edge is there twice.
    weight = torch.tensor([0.5, 0.5, 1.0, 1.0]).double()
    given = Adjacency.from_edges(edges[:, :4], weight, model.num_users)
    without = Adjacency.from_edges(edges[:, :0], weight[:0], model.num_users)
    out, own = (model(features, graph | {SHARES: shares}) for shares in (given, without))
    expected = own.user.clone()
    expected[0] += (own.user[3] + own.user[4]) / 2
    expected[1] += own.user[3]
    expected[2] += own.user[4]
    assert_close(out.user, expected, atol=1e-10, rtol=0)
    assert_close(torch.cat(model(features, graph | {SHARES: edges})), torch.cat(out), atol=1e-10, rtol=0)
    prepared = model.prepare({}, graph | {SHARES: given})
    assert prepared[SHARES] is given
    assert model.prepare({}, prepared)[SHARES] is given


def test_prepared_graph_of_users_serves_subgraphs(make_data):
    data = make_data()
    model = built(make(num_layers=0), data)
    features, graph = doubled(data)
    edges = torch.tensor([[3, 4], [0, 0]])
    shares = Adjacency.from_edges(edges, torch.tensor([0.25, 0.75]).double(), model.num_users)
    users, items = torch.tensor([4, 0, 7]), torch.tensor([2])
    nothing = torch.zeros(2, 0, dtype=torch.int64)
    part = model(features, {RATES: nothing, SHARES: shares}, None, {"user": users, "item": items})
    own = model(features, {RATES: nothing, SHARES: shares}).user.clone()
    own[0] = part.user[1] - 0.75 * own[4]
    assert_close(part.user[[0, 2]], own[[4, 7]], atol=1e-10, rtol=0)
    full = model(features, graph | {SHARES: shares}).user[0]  # Without layers, users are what they were.
    assert_close(own[0] + 0.25 * own[3] + 0.75 * own[4], full, atol=1e-10, rtol=0)
    local = torch.tensor([[0], [1]])  # An edge index is that of the subgraph: user 4 is a neighbour of user 0.
    part = model(features, {RATES: nothing, SHARES: local}, None, {"user": users, "item": items})
    assert_close(part.user[1], own[0] + own[4], atol=1e-10, rtol=0)


def test_user_without_similar_users_is_left_alone(make_data):
    data = make_data()
    features, _ = doubled(data)
    edges = torch.tensor([[0, 1, 1], [0, 1, 2]])
    model = built(make(), data)
    none = Adjacency.from_edges(edges[:, :0], torch.zeros(0).double(), model.num_users)
    assert torch.equal(model(features, {RATES: edges}).user, model(features, {RATES: edges, SHARES: none}).user)


def test_penalty_is_on_preferences_and_weights_of_the_batch(make_data):
    data = make_data(modalities=2)
    model = built(make(), data)
    out = model(*doubled(data))
    nothing = torch.zeros(0, dtype=torch.int64)
    users = [2, 5, 2]
    batch = TripletBatch(torch.tensor(users), torch.tensor([1, 0, 1]), torch.tensor([3, 4, 3]), *[nothing] * 3)
    expected = 0.0
    for u in users:
        for m in model.modalities:
            expected += (model.preference[m][u].square().sum() + model.attention[m][u].square().sum()).item() / 6
    assert model.penalty(out, batch).item() == pytest.approx(expected)


def test_distillation_step_has_finite_gradients(make_data):
    data = make_data(modalities=3)
    model = built(make(), data)
    users, items = model.num_users, model.num_items
    teachers = {m: Embeddings(torch.randn(users, 4).double(), torch.randn(items, 4).double()) for m in model.modalities}
    objective = DistillationWrapper(model, teachers, num_random_triples=20)
    batch = next(iter(TripletSampler(data[RATES].edge_index, users, items, 16, num_random_triples=20)))
    sum(objective.loss(*doubled(data), batch).values()).backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in model.parameters())


def test_gradients_equal_finite_differences(make_data):
    data = make_data(num_users=6, num_items=7)
    model = built(make(embedding_dim=2), data)
    features, graph = doubled(data)
    tables = [model.preference["mod0"], model.attention["mod0"], model.attention["mod1"]]

    def run(*tables: Tensor) -> Tensor:
        names = ("preference.mod0", "attention.mod0", "attention.mod1")
        state = dict(zip(names, tables, strict=True))
        return torch.cat(torch.func.functional_call(model, state, (features, graph, ["mod0"])))

    assert torch.autograd.gradcheck(run, tables)


def test_training_lowers_the_loss_and_finds_held_out_items():
    data = synthetic_multimodal(num_users=150, num_items=80, num_interactions=3000, seed=0)
    model = build(DualGNN, data, 0, embedding_dim=16)
    untrained = evaluate(model, data, "val", k=20)["recall@20"]
    trainer = Trainer(max_epochs=8, batch_size=512, lr=0.01, device="cpu", progress=False, track_views=False)
    rows = trainer.fit(model, data).rows
    assert rows[-1]["loss/bpr"] < 0.8 * rows[0]["loss/bpr"]
    assert max(row["val/recall@20"] for row in rows) > untrained + 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding_dim": 0}, "embedding_dim: found 0, expected at least 1"),
        ({"num_layers": -1}, "num_layers: found -1, expected at least 0"),
        ({"num_neighbors": 0}, "num_neighbors: found 0, expected at least 1"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        DualGNN(2, 2, {"visual": 3}, **options)
    with pytest.raises(InputError, match="number of modalities: found 0"):
        DualGNN(2, 2, {})
