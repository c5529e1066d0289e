"""FREEDOM: its item graphs, its losses and its samples of edges against plain definitions."""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain, combinations, permutations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch_geometric.data import HeteroData

from pyg_ckd.balance import DistillationWrapper, Objective
from pyg_ckd.data.inputs import RATES
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.datasets import SyntheticMultimodal
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import evaluate
from pyg_ckd.nn import LightGCN
from pyg_ckd.nn.models.freedom import FREEDOM, interactions, prune, sample_edges
from pyg_ckd.nn.structure import item_graph_type
from pyg_ckd.training import Trainer, build
from tests.nn.models.zoo import built, doubled

NOTHING = torch.zeros(0, dtype=torch.int64)
BATCH = TripletBatch(
    torch.tensor([0, 3, 3, 7]), torch.tensor([2, 5, 5, 0]), torch.tensor([1, 1, 4, 8]), NOTHING, NOTHING, NOTHING
)
WEIGHTS = {"mod0": 1.0, "mod1": 3.0, "mod2": 4.0}


def freedom(data: HeteroData, seed: int = 0, **options) -> FREEDOM:
    options = {"num_neighbors": 3} | options
    return built(lambda data: FREEDOM.from_data(data, embedding_dim=6, **options), data, seed)


def neighbours(x: Tensor, k: int) -> Tensor:
    """Return the 0/1 matrix of the most similar items, item by item."""
    matrix = torch.zeros(x.size(0), x.size(0), dtype=torch.float64)
    for i, row in enumerate(x):
        cosine = [float(row @ other / (row.norm() * other.norm())) for other in x]
        for j in sorted(range(len(cosine)), key=lambda j: -cosine[j])[:k]:
            matrix[i, j] = 1
    return matrix


@pytest.mark.parametrize("num_item_layers", [0, 1, 2])
@pytest.mark.parametrize("num_modalities", [1, 3])
def test_views_are_lightgcn_plus_the_mixed_item_graph_of_the_equation(num_modalities, num_item_layers, make_data):
    data = make_data(modalities=num_modalities)
    weights = {m: WEIGHTS[m] for m in data.modalities}
    model = freedom(data, num_item_layers=num_item_layers, modality_weights=weights)
    features, graph = doubled(data)
    size = data["item"].num_nodes
    plain = LightGCN.from_data(data, embedding_dim=6, num_layers=2).double()
    plain.load_state_dict({name: model.state_dict()[name] for name in plain.state_dict()})
    base = plain(features, graph)
    sizes = range(num_modalities + 1)
    views = [frozenset(v) for v in chain.from_iterable(combinations(data.modalities, size) for size in sizes)]
    for view, out in zip(views, model.forward_views(features, graph, views), strict=True):
        mixed = torch.zeros(size, size, dtype=torch.float64)
        for m, weight in weights.items():
            own = neighbours(features[m], 3) / 3 if m in view else torch.ones_like(mixed) / size
            mixed += weight / sum(weights.values()) * own
        h = torch.linalg.matrix_power(mixed, num_item_layers) @ model.item_embedding
        assert_close(out.user, base.user, atol=1e-10, rtol=0)
        assert_close(out.item, base.item + h, atol=1e-10, rtol=0)


def test_modality_outside_the_view_does_not_matter_at_all(make_data):
    data = make_data(modalities=3)
    model = freedom(data)
    features, graph = doubled(data)
    for m in model.modalities:
        others = set(model.modalities) - {m}
        changed = features | {m: torch.randn_like(features[m])}
        assert torch.equal(torch.cat(model(changed, graph, others)), torch.cat(model(features, graph, others)))
        (out,) = model.outputs(features, graph, [others])
        terms = model.losses(out, BATCH, features, frozenset(others))
        again = model.losses(out, BATCH, changed, frozenset(others))
        assert terms.keys() == {"bpr", *(f"bpr/{n}" for n in others)}
        assert all(torch.equal(term, again[name]) for name, term in terms.items())


@pytest.mark.parametrize("num_modalities", [1, 3])
def test_losses_equal_the_equations_triple_by_triple(num_modalities, make_data):
    data = make_data(modalities=num_modalities)
    model = freedom(data, modality_loss_weight=0.3)
    features, graph = doubled(data)
    (out,) = model.outputs(features, graph, [None])
    tables = out.dense()
    triples = list(zip(*(index.tolist() for index in BATCH[:3]), strict=True))

    def bpr(item: Tensor) -> float:
        margins = [float((tables.user[u] @ (item[i] - item[j])).detach()) for u, i, j in triples]
        return sum(math.log(1 + math.exp(-margin)) for margin in margins) / len(triples)

    expected = {"bpr": bpr(tables.item)}
    for m, lin in model.project.items():  # Any bias cancels.
        expected[f"bpr/{m}"] = 0.3 * bpr(features[m] @ lin.weight.t() + 7.0)
    terms = model.losses(out, BATCH, features, frozenset(model.modalities))
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, abs=1e-10)
    model.modality_loss_weight = 0.0
    assert list(model.losses(out, BATCH, features, frozenset(model.modalities))) == ["bpr"]


def test_sampled_graph_is_made_of_that_share_of_the_edges_and_normalised_anew(make_data):
    data = make_data(num_users=30, num_items=20)
    model = freedom(data, dropout=0.6)
    features, graph = doubled(data)
    prepared = model.prepare(features, graph)
    before = prepared[RATES].matrix.to_dense()
    sampled = model.begin_epoch(features, prepared)
    users = data["user"].num_nodes
    edges, weight = interactions(sampled[RATES], users)
    all_edges = {tuple(edge) for edge in graph[RATES].t().tolist()}
    kept = [tuple(edge) for edge in edges.t().tolist()]
    assert len(kept) == math.floor(0.4 * len(all_edges))
    assert set(kept) < all_edges
    users_of, items_of = Counter(u for u, _ in kept), Counter(i for _, i in kept)
    expected = torch.zeros_like(before)
    for u, i in kept:
        expected[u, users + i] = expected[users + i, u] = (users_of[u] * items_of[i]) ** -0.5
    assert_close(sampled[RATES].matrix.to_dense(), expected, atol=1e-12, rtol=0)
    assert_close(weight, torch.tensor([(users_of[u] * items_of[i]) ** -0.5 for u, i in kept], dtype=weight.dtype))
    for m in model.modalities:  # Frozen; and what evaluation runs on stays as it was.
        assert sampled[item_graph_type(m)] is prepared[item_graph_type(m)]
    assert torch.equal(prepared[RATES].matrix.to_dense(), before)


def test_epochs_differ_and_come_again_under_the_same_seed(make_data):
    data = make_data(num_users=30, num_items=20)
    model = freedom(data)
    features, graph = doubled(data)
    prepared = model.prepare(features, graph)

    def epoch() -> list[list[int]]:
        return interactions(model.begin_epoch(features, prepared)[RATES], 30)[0].tolist()

    torch.manual_seed(0)
    first, second = epoch(), epoch()
    assert first != second
    torch.manual_seed(0)
    assert [epoch(), epoch()] == [first, second]
    model.dropout = 0.0
    assert model.begin_epoch(features, prepared)[RATES] is prepared[RATES]


def test_edges_are_drawn_one_after_the_other_in_proportion_to_their_weights():
    weight = torch.tensor([1.0, 2.0, 3.0, 6.0])
    expected = Counter()
    for order in permutations(range(4), 2):
        first, second = (weight[n].item() for n in order)
        expected[frozenset(order)] += first / 12 * second / (12 - first)
    torch.manual_seed(0)
    draws = 5000
    found = Counter(frozenset(sample_edges(weight, 2).tolist()) for _ in range(draws))
    assert sum(expected.values()) == pytest.approx(1)
    for pair, probability in expected.items():
        deviation = (probability * (1 - probability) / draws) ** 0.5
        assert found[pair] / draws == pytest.approx(probability, abs=4 * deviation)


@pytest.mark.slow
def test_more_edges_can_be_drawn_from_than_multinomial_takes():
    weight = torch.ones(2**24 + 1)
    with pytest.raises(RuntimeError, match="2\\^24"):
        torch.multinomial(weight, 3)
    drawn = sample_edges(weight, 5)
    assert drawn.unique().numel() == 5


@pytest.mark.parametrize(("dropout", "kept"), [(0.9, 1), (0.8, 2), (0.5, 5), (0.05, 9), (0.99, 1)])
def test_number_of_edges_left_is_not_off_by_rounding(dropout, kept):
    edges = torch.stack([torch.arange(10), torch.arange(10)])
    model = FREEDOM(10, 10, {"visual": 3}, dropout=dropout)
    features = {"visual": torch.randn(10, 3)}
    graphs = model.begin_epoch(features, model.prepare(features, {RATES: edges}))
    assert interactions(graphs[RATES], 10)[0].size(1) == kept
    assert all(torch.isfinite(x).all() for x in model(features, graphs))


def test_all_edges_kept_give_the_graph_back(make_data):
    data = make_data()
    model = freedom(data)
    graph = model.prepare(*doubled(data))[RATES]
    edges, _ = interactions(graph, 12)
    again = prune(graph, 12, torch.randperm(edges.size(1)))
    assert_close(again.matrix.to_dense(), graph.matrix.to_dense())


def test_given_item_graph_takes_the_place_of_the_computed_one(make_data):
    data = make_data(modalities=1)
    model = freedom(data)
    features, graph = doubled(data)
    kind = item_graph_type("mod0")
    loops = torch.arange(9).expand(2, -1)  # Everybody's only neighbour is the item itself: h is the id embedding.
    computed = neighbours(features["mod0"], 3) @ model.item_embedding / 3
    difference = model(features, graph | {kind: loops}).item - model(features, graph).item
    assert_close(difference, model.item_embedding - computed, atol=1e-10, rtol=0)


def test_with_as_many_neighbours_as_items_or_more_all_views_are_the_same(make_data):
    data = make_data()
    model = freedom(data, num_neighbors=10)
    full, alone, nothing = model.forward_views(*doubled(data), [None, "mod0", []])
    assert_close(full.item, alone.item, atol=1e-10, rtol=0)
    assert_close(full.item, nothing.item, atol=1e-10, rtol=0)


def test_modality_without_weight_is_as_good_as_intervened_on(make_data):
    data = make_data(modalities=3)
    model = freedom(data, modality_weights={"mod0": 0.0, "mod1": 0.5, "mod2": 1.5})
    assert model.modality_weights == {"mod0": 0.0, "mod1": 0.25, "mod2": 0.75}
    full, without = model.forward_views(*doubled(data), [None, ["mod1", "mod2"]])
    assert_close(full.item, without.item, atol=1e-12, rtol=0)
    assert freedom(data).modality_weights == dict.fromkeys(data.modalities, 1 / 3)


def test_penalty_acts_on_the_final_rows_of_the_batch(make_data):
    data = make_data()
    model = freedom(data)
    (out,) = model.outputs(*doubled(data), [None])
    tables = out.dense()
    rows = [tables.user[u] for u in BATCH.user] + [tables.item[i] for i in [*BATCH.positive, *BATCH.negative]]
    squares = sum(float(row.detach().square().sum()) for row in rows)
    assert model.penalty(out, BATCH).item() == pytest.approx(0.5 * squares / 4)


def test_a_step_of_distillation_has_finite_gradients(make_data):
    data = make_data(modalities=3)
    student = freedom(data)
    teachers = {m: freedom(data, seed=2 + n)(*doubled(data), m).detach() for n, m in enumerate(student.modalities)}
    wrapper = DistillationWrapper(student, teachers, num_random_triples=7)
    random = [torch.arange(7), torch.arange(7), torch.arange(1, 8)]
    graphs = wrapper.begin_epoch({}, wrapper.prepare(*doubled(data)))
    terms = wrapper.loss(doubled(data)[0], graphs, TripletBatch(*BATCH[:3], *random))
    sum(terms.values()).backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in student.parameters())
    found = wrapper.epoch_statistics()
    assert sum(found[f"weight/{m}"] for m in student.modalities) == pytest.approx(3)
    assert len({found[f"effect/{m}"] for m in student.modalities}) == 3


@pytest.mark.parametrize("view", [None, "textual"])
def test_training_learns_and_touches_the_modalities_of_the_view_only(view):
    data = SyntheticMultimodal(num_users=150, num_items=100, num_interactions=3000)[0]
    model = build(FREEDOM, data, seed=0, embedding_dim=16, modality_loss_weight=0.1, num_neighbors=5)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = evaluate(model, data, "val", k=20, metrics=["recall"], view=view)["recall@20"]
    trainer = Trainer(max_epochs=5, batch_size=512, lr=0.02, device="cpu", progress=False, track_views=False)
    history = trainer.fit(Objective(model, l2=1e-3, view=view), data)
    losses = [sum(value for key, value in row.items() if key.startswith("loss/")) for row in history.rows]
    assert losses[-1] < 0.9 * losses[0]
    assert history.best_value > 1.1 * before
    moved = {m for m in model.modalities if not torch.equal(model.project[m].weight, state[f"project.{m}.weight"])}
    assert moved == set(model.modalities if view is None else [view])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, "dropout: found 1.0, expected a share from 0 to below 1"),
        ({"dropout": -0.1}, "dropout: found -0.1"),
        ({"modality_loss_weight": -1.0}, "modality_loss_weight: found -1.0"),
        ({"modality_loss_weight": math.nan}, "modality_loss_weight: found nan"),
        ({"num_layers": -1}, "num_layers: found -1"),
        ({"num_item_layers": -1}, "num_item_layers: found -1"),
        ({"num_neighbors": 0}, "num_neighbors: found 0"),
        ({"modality_weights": {"visul": 1.0}}, "unknown modality 'visul': did you mean 'visual'"),
        ({"modality_weights": {"visual": 1.0}}, "modality_weights: found None for 'textual', expected a number"),
        ({"modality_weights": {"visual": 1.0, "textual": -0.5}}, "modality_weights: found -0.5 for 'textual'"),
        ({"modality_weights": {"visual": 0.0, "textual": 0.0}}, "modality_weights: found zero for all modalities"),
        ({"feature_dims": {}}, "number of modalities: found 0"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        FREEDOM(**{"num_users": 2, "num_items": 2, "feature_dims": {"visual": 3, "textual": 3}} | options)


def test_an_epoch_without_interactions_has_none():
    model, features = FREEDOM(2, 3, {"visual": 2}), {"visual": torch.randn(3, 2)}
    graphs = model.begin_epoch(features, model.prepare(features, {RATES: torch.zeros(2, 0, dtype=torch.int64)}))
    assert interactions(graphs[RATES], 2)[0].size(1) == 0
