"""GRCN: routing, refined graph and interventions against their definitions, edge by edge."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from pyg_ckd.balance import DistillationWrapper
from pyg_ckd.data.inputs import RATES
from pyg_ckd.data.sampler import TripletBatch, TripletSampler
from pyg_ckd.datasets import synthetic_multimodal
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import evaluate
from pyg_ckd.nn.models.base import Inputs
from pyg_ckd.nn.models.grcn import GRCN
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.training import Trainer, build
from tests.nn.models.zoo import built, doubled


def make(**options):
    return lambda data: GRCN.from_data(data, **({"embedding_dim": 6, "latent_dim": 5} | options))


def unit(x: Tensor) -> Tensor:
    return x / x.norm()


def softmax(scores: list[Tensor]) -> list[Tensor]:
    total = sum(score.exp() for score in scores)
    return [score.exp() / total for score in scores]


def by_hand(model: GRCN, features: dict[str, Tensor], edges: Tensor) -> Tensor:
    """Follow the equations of the docstring node by node and edge by edge, ``[N, D]``."""
    users, num_nodes = model.num_users, model.num_users + model.num_items
    neighbors: list[list[int]] = [[] for _ in range(num_nodes)]
    for user, item in edges.t().tolist():
        neighbors[user].append(users + item)
        neighbors[users + item].append(user)
    refined: dict[tuple[int, int], list[Tensor]] = {(v, w): [] for v in range(num_nodes) for w in neighbors[v]}
    confidence = torch.cat([model.user_confidence, model.item_confidence])
    blocks = []
    for column, m in enumerate(model.modalities):
        lin = model.project[m]
        items = [unit(F.leaky_relu(lin.weight @ x + lin.bias)) for x in features[m]]
        vectors = [unit(p) for p in model.preference[m]] + items
        for _ in range(model.num_routing):
            moved = []
            for u in range(users):
                attention = softmax([vectors[u] @ vectors[i] for i in neighbors[u]])
                moved.append(
                    unit(vectors[u] + sum(a * vectors[i] for a, i in zip(attention, neighbors[u], strict=True)))
                )
            vectors = moved + items
        rows = []
        for v in range(num_nodes):
            attention = softmax([vectors[v] @ vectors[w] for w in neighbors[v]])
            rows.append(vectors[v] + sum(a * vectors[w] for a, w in zip(attention, neighbors[v], strict=True)))
            for a, w in zip(attention, neighbors[v], strict=True):
                refined[v, w].append(a * confidence[w, column])
        blocks.append(torch.stack(rows))
    ids = [unit(row) for row in torch.cat([model.user_embedding, model.item_embedding])]
    total = torch.stack(ids)
    for _ in model.convs:
        nothing = torch.zeros_like(ids[0])
        ids = [
            sum((max(*refined[v, w], torch.tensor(0.0)) * ids[w] for w in neighbors[v]), nothing)
            for v in range(num_nodes)
        ]
        total = total + torch.stack(ids)
    return torch.cat([total, *blocks], dim=1)


@pytest.mark.parametrize("num_modalities", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"num_layers": 1, "num_routing": 1}, {"num_routing": 0}], ids=str)
def test_embeddings_equal_the_equations_edge_by_edge(num_modalities, options, make_data):
    data = make_data(modalities=num_modalities)
    model = built(make(**options), data)
    features, graph = doubled(data)
    out = torch.cat(model(features, graph))
    assert_close(out, by_hand(model, features, graph[RATES]), atol=1e-10, rtol=0)


def test_routing_moves_users_towards_their_items(make_data):
    data = make_data(modalities=1)
    features, graph = doubled(data)
    similarities = []
    for num_routing in (0, 3):
        model = built(make(num_routing=num_routing), data)
        inputs = Inputs(features, model.prepare(features, graph), {})
        x = torch.cat(model.branch("mod0", features["mod0"], inputs, factual=True))
        similarities.append(F.cosine_similarity(x, model.attend(x, inputs.graph))[: model.num_users].mean())
    assert similarities[1] > similarities[0] + 0.1


def test_edges_without_confidence_are_pruned(make_data):
    data = make_data()
    model = built(make(), data)
    with torch.no_grad():
        model.user_confidence.abs_().neg_()
        model.item_confidence.abs_().neg_()
    out = torch.cat(model(*doubled(data)))[:, :6]
    assert_close(out, F.normalize(torch.cat([model.user_embedding, model.item_embedding])), atol=1e-10, rtol=0)


def views_of(model: GRCN) -> list[frozenset[str]]:
    return [frozenset(), *(frozenset([m]) for m in model.modalities), frozenset(model.modalities)]


@pytest.mark.parametrize("num_routing", [0, 3])
def test_view_equals_the_full_view_with_means_put_in(num_routing, make_data):
    data = make_data(modalities=3, transform="none")
    model = built(make(num_routing=num_routing), data)
    features, graph = doubled(data)
    for view in [*views_of(model), frozenset(["mod0", "mod2"])]:
        changed, intervened = dict(features), built(make(num_routing=num_routing), data)
        for column, m in enumerate(model.modalities):
            if m in view:
                continue
            changed[m] = features[m].mean(dim=0, keepdim=True).expand_as(features[m])
            with torch.no_grad():
                intervened.preference[m][:] = model.preference[m].mean(dim=0)
                constant = torch.cat([model.user_confidence, model.item_confidence])[:, column].mean()
                intervened.user_confidence[:, column] = intervened.item_confidence[:, column] = constant
        expected = torch.cat(intervened(changed, graph))
        assert_close(torch.cat(model(features, graph, view)), expected, atol=1e-10, rtol=0)


def test_intervened_modality_leaves_nothing_but_constants(make_data):
    data = make_data(modalities=3, transform="none")
    model, other = built(make(), data), built(make(), data)
    features, graph = doubled(data)
    changed = dict(features, mod1=features["mod1"].flip(0))
    with torch.no_grad():
        other.preference["mod1"].copy_(model.preference["mod1"].flip(0))
        other.user_confidence[:, 1] = model.user_confidence[:, 1].flip(0)
        other.item_confidence[:, 1] = model.item_confidence[:, 1].flip(0)
    for view in ([], ["mod0"], ["mod0", "mod2"]):
        assert_close(torch.cat(other(changed, graph, view)), torch.cat(model(features, graph, view)))
    for part in (slice(0, 6), slice(11, 16)):  # The ids' block sees the modality too, through the refined graph.
        difference = torch.cat(other(changed, graph))[:, part] - torch.cat(model(features, graph))[:, part]
        assert difference.abs().max() > 1e-2


def test_intervened_modality_refines_by_degrees_alone(make_data):
    data = make_data(modalities=2)
    model = built(make(), data)
    features, graph = doubled(data)
    inputs = Inputs(features, model.prepare(features, graph), {})
    out = model.branch("mod0", features["mod0"].mean(dim=0, keepdim=True), inputs, factual=False)
    target = inputs.graph.edge_index[1]
    degree = torch.bincount(target)
    assert_close(out.parts["attention"], 1 / degree[target].double())
    linked = torch.bincount(target, minlength=model.num_users + model.num_items) > 0
    assert linked.sum() < linked.numel()  # The last item has no edge.
    assert out.user.unique(dim=0).size(0) == 1
    assert out.item[linked[model.num_users :]].unique(dim=0).size(0) == 1


def test_gradients_reach_every_parameter_and_are_finite(make_data):
    data = make_data(modalities=2)
    model = built(make(), data).float()
    features, graph = doubled(data)
    out = model.outputs({m: x.float() for m, x in features.items()}, graph, [None, "mod0", []])
    sum(torch.cat(view.dense()).square().sum() for view in out).backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_views_share_the_blocks_of_the_modalities(make_data):
    data = make_data(modalities=2)
    model = built(make(), data)
    full, alone, nothing = model.outputs(*doubled(data), [None, "mod0", []])
    assert full.blocks[1] is alone.blocks[1]
    assert alone.blocks[2] is nothing.blocks[2]
    assert alone.blocks[1] is not nothing.blocks[1]


def test_penalty_is_on_raw_ids_and_preferences_of_the_batch(make_data):
    data = make_data(modalities=2)
    model = built(make(), data)
    out = model.outputs(*doubled(data), [None])[0]
    triples = [(2, 1, 3), (5, 0, 4), (2, 1, 3)]
    batch = TripletBatch(*torch.tensor(triples).t(), *torch.zeros(3, 0, dtype=torch.int64))
    expected = torch.zeros(())
    for u, i, j in triples:
        expected = expected + model.user_embedding[u].square().sum() + model.item_embedding[[i, j]].square().sum()
        expected = expected + sum(p[u].square().sum() for p in model.preference.values())
    assert_close(model.penalty(out, batch), expected / 6)


def test_distillation_step_has_finite_gradients(make_data):
    data = make_data(modalities=3)
    model = built(make(), data)
    users, items = model.num_users, model.num_items
    teachers = {m: Embeddings(torch.randn(users, 4).double(), torch.randn(items, 4).double()) for m in model.modalities}
    objective = DistillationWrapper(model, teachers, num_random_triples=20)
    batch = next(iter(TripletSampler(data[RATES].edge_index, users, items, 16, num_random_triples=20)))
    terms = objective.loss(*doubled(data), batch)
    assert {"bpr", "l2", "specific", "generic"} <= terms.keys()
    sum(terms.values()).backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in model.parameters())


def test_training_lowers_the_loss_and_finds_held_out_items():
    data = synthetic_multimodal(num_users=150, num_items=80, num_interactions=3000, seed=0)
    model = build(GRCN, data, 0, embedding_dim=16, latent_dim=16)
    untrained = evaluate(model, data, "val", k=20)["recall@20"]
    trainer = Trainer(max_epochs=8, batch_size=512, lr=0.01, device="cpu", progress=False, track_views=False)
    rows = trainer.fit(model, data).rows
    assert rows[-1]["loss/bpr"] < 0.7 * rows[0]["loss/bpr"]
    assert max(row["val/recall@20"] for row in rows) > untrained + 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding_dim": 0}, "embedding_dim: found 0, expected at least 1"),
        ({"latent_dim": 0}, "latent_dim: found 0, expected at least 1"),
        ({"num_layers": -1}, "num_layers: found -1, expected at least 0"),
        ({"num_routing": -1}, "num_routing: found -1, expected at least 0"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        GRCN(2, 2, {"visual": 3}, **options)
    with pytest.raises(InputError, match="number of modalities: found 0"):
        GRCN(2, 2, {})


def test_with_cosines_the_blocks_of_modalities_have_rows_of_one_length(make_data):
    data = make_data(modalities=2)
    plain, scaled = built(make(), data), built(make(cosine=4.0), data)
    features, graph = doubled(data)
    for view in (None, "mod0", []):
        for before, after in zip(plain(features, graph, view), scaled(features, graph, view), strict=True):
            parts = zip(before.split([6, 5, 5], dim=1), after.split([6, 5, 5], dim=1), strict=True)
            for n, (own, block) in enumerate(parts):
                assert_close(block, own if n == 0 else 2 * F.normalize(own), rtol=0, atol=1e-10)
    with pytest.raises(InputError, match=r"cosine: found -1\.0, expected a positive number"):
        GRCN.from_data(data, cosine=-1.0)
