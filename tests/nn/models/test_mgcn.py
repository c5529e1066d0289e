"""MGCN: views, contrastive loss and options against dense definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pyg_ckd.balance import DistillationWrapper, Objective
from pyg_ckd.data.inputs import RATES
from pyg_ckd.data.sampler import TripletBatch, TripletSampler
from pyg_ckd.datasets import synthetic_multimodal
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import evaluate
from pyg_ckd.nn.loss import contrastive_loss
from pyg_ckd.nn.models.base import Inputs
from pyg_ckd.nn.models.mgcn import MGCN
from pyg_ckd.nn.structure import UniformGraph, item_graph_type
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.training import Trainer, build
from tests.nn.models.test_base import all_views
from tests.nn.models.zoo import built, doubled


def make(**options):
    return lambda data: MGCN.from_data(data, **({"embedding_dim": 5, "num_neighbors": 4} | options))


def content_by_hand(x: Tensor, k: int, keep_negative: bool) -> Tensor:
    """Return the normalised graph of nearest neighbours as a dense matrix."""
    unit = x / x.norm(dim=1, keepdim=True)
    cosine = unit @ unit.t()
    s = torch.zeros_like(cosine)
    for i in range(x.size(0)):
        for j in sorted(range(x.size(0)), key=lambda j: -float(cosine[i, j]))[:k]:
            s[i, j] = cosine[i, j] if keep_negative else max(float(cosine[i, j]), 0.0)
    degree = s.sum(dim=1)
    return s / (degree.unsqueeze(1) * degree).sqrt()


def by_hand(model: MGCN, features: dict[str, Tensor], edges: Tensor, view: frozenset[str]) -> Tensor:
    """Follow the equations of the docstring with dense matrices and, in the fusion, node by node, ``[N, D]``."""
    users, num_nodes = model.num_users, model.num_users + model.num_items
    a = torch.zeros(num_nodes, num_nodes, dtype=torch.float64)
    a[edges[0], edges[1] + users] = a[edges[1] + users, edges[0]] = 1
    scale = torch.where(a.sum(dim=1) > 0, a.sum(dim=1), 1).rsqrt()
    a = scale.unsqueeze(1) * a * scale
    layers = model.num_layers + 1
    powers = sum(torch.linalg.matrix_power(a, layer) for layer in range(layers)) / layers
    content = powers @ torch.cat([model.user_embedding, model.item_embedding])
    enriched = {}
    for m in model.modalities:
        x, graph = features[m], torch.full((model.num_items, model.num_items), 1 / model.num_items, dtype=torch.float64)
        if m in view:
            graph = content_by_hand(x, model.num_neighbors, model.keep_negative)
        else:
            x = x.mean(dim=0).expand_as(x)
        gate = model.lin_purify[m](model.project[m](x))
        item = torch.linalg.matrix_power(graph, model.num_item_layers) @ (model.item_embedding / (1 + (-gate).exp()))
        enriched[m] = torch.cat([a[:users, users:] @ item, item])
    rows = []
    for n in range(num_nodes):
        e = {m: enriched[m][n] for m in model.modalities}
        score = {m: model.lin_score(torch.tanh(model.lin_query(e[m]))).item() for m in e}
        total = sum(math.exp(value) for value in score.values())
        common = sum(math.exp(score[m]) / total * e[m] for m in e)
        specific = [torch.sigmoid(model.lin_prefer[m](content[n])) * (e[m] - common) for m in e]
        if model.fusion == "sum":
            rows.append(content[n] + common + sum(specific) / len(specific))
        else:
            rows.append(content[n] + sum([common, *specific]) / (1 + len(specific)))
    return torch.stack(rows)


@pytest.mark.parametrize("modalities", [1, 3, ["zeta", "alpha"]], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fusion": "mean", "num_layers": 0, "num_item_layers": 2},
        {"keep_negative": True, "num_layers": 3},
        {"num_item_layers": 0},
    ],
    ids=str,
)
def test_every_view_equals_the_equations(modalities, options, make_data):
    data = make_data(modalities=modalities, num_items=12)
    model = built(make(**options), data)
    features, graph = doubled(data)
    for view in all_views(model.modalities):
        out = torch.cat(model(features, graph, view))
        assert_close(out, by_hand(model, features, graph[RATES], view), atol=1e-10, rtol=0)


def test_intervened_modality_leaves_nothing_but_constants(make_data):
    data = make_data(modalities=3, transform="none")
    model = built(make(), data)
    features, graph = doubled(data)
    changed = dict(features, mod1=features["mod1"].flip(0))
    for view in ([], ["mod0"], ["mod0", "mod2"]):
        assert_close(
            torch.cat(model(changed, graph, view)), torch.cat(model(features, graph, view)), atol=1e-10, rtol=0
        )
    assert (torch.cat(model(changed, graph)) - torch.cat(model(features, graph))).abs().max() > 0.01


def test_intervened_modality_is_one_row_for_items_and_its_multiples_for_users(make_data):
    data = make_data()
    model = built(make(), data)
    features, graph = doubled(data)
    inputs = Inputs(features, model.prepare(features, graph), {})
    user, item = model.enrich("mod0", False, inputs).split([model.num_users, model.num_items])
    assert_close(item, item[:1].expand_as(item), atol=1e-12, rtol=0)
    assert torch.linalg.matrix_rank(torch.cat([user, item]), atol=1e-10) == 1
    assert torch.linalg.matrix_rank(model.enrich("mod0", True, inputs)) > 1


def test_constant_features_are_their_own_intervention(make_data):
    data = make_data(transform="none")
    model = built(make(), data)
    features, graph = doubled(data)
    features["mod0"] = features["mod0"].mean(dim=0, keepdim=True).expand_as(features["mod0"])
    assert isinstance(model.prepare(features, graph)[item_graph_type("mod0")], UniformGraph)
    out, without = model(features, graph), model(features, graph, ["mod1"])
    assert_close(torch.cat(out), torch.cat(without), atol=1e-10, rtol=0)


def test_given_graph_of_items_takes_the_place_of_the_computed_one(make_data):
    data = make_data()
    model = built(make(), data)
    features, graph = doubled(data)
    prepared = model.prepare(features, graph)
    one, other = (item_graph_type(m) for m in model.modalities)
    swapped = model.prepare(features, prepared | {one: prepared[other]})
    assert swapped[one] is prepared[other]
    assert (torch.cat(model(features, swapped)) - torch.cat(model(features, graph))).abs().max() > 0.01
    loops = torch.arange(model.num_items).expand(2, -1)
    item = model.item_embedding * torch.sigmoid(model.lin_purify["mod0"](model.project["mod0"](features["mod0"])))
    inputs = Inputs(features, model.prepare(features, graph | {one: loops}), {})
    assert_close(model.enrich("mod0", True, inputs)[model.num_users :], item, atol=1e-10, rtol=0)


def batch_of(triples: list[tuple[int, int, int]]) -> TripletBatch:
    return TripletBatch(*torch.tensor(triples).t(), *torch.zeros(3, 0, dtype=torch.int64))


def nce(x: Tensor, y: Tensor, rows: list[int], temperature: float) -> float:
    total = 0.0
    for b in rows:
        cosines = [(x[b] @ y[c] / (x[b].norm() * y[c].norm())).item() for c in rows]
        terms = [math.exp(cosine / temperature) for cosine in cosines]
        total -= math.log(terms[rows.index(b)] / sum(terms))
    return total / len(rows)


def test_contrastive_term_is_over_distinct_users_and_distinct_positives(make_data):
    data = make_data()
    model = built(make(contrastive_weight=0.3, temperature=0.7), data)
    features, graph = doubled(data)
    view = frozenset(model.modalities)
    (out,) = model.outputs(features, graph, [view])
    triples = [(2, 1, 3), (5, 0, 4), (2, 4, 3), (7, 1, 0)]
    terms = model.losses(out, batch_of(triples), features, view)
    side, content = out.parts["side"], out.parts["content"]
    assert_close(torch.cat(out.dense()), side + content, atol=1e-12, rtol=0)
    items = [model.num_users + i for i in (0, 1, 4)]
    expected = nce(side, content, [2, 5, 7], 0.7) + nce(side, content, items, 0.7)
    assert terms["contrastive"].item() == pytest.approx(0.3 * expected)
    again = model.losses(out, batch_of(triples + triples), features, view)
    assert again["contrastive"].item() == pytest.approx(terms["contrastive"].item())


def test_contrastive_loss_of_one_pair_and_of_rows_without_direction_is_known():
    x = torch.randn(1, 3, generator=torch.Generator().manual_seed(0))
    assert contrastive_loss(x, -x, 0.2).item() == pytest.approx(0.0)
    assert contrastive_loss(torch.zeros(4, 3), torch.zeros(4, 3), 0.2).item() == pytest.approx(math.log(4))


def test_contrastive_weight_of_zero_adds_no_term(make_data):
    data = make_data()
    model = built(make(contrastive_weight=0.0), data)
    terms = Objective(model).loss(*doubled(data), batch_of([(2, 1, 3)]))
    assert set(terms) == {"bpr", "l2"}


def test_penalty_is_on_the_rows_that_the_batch_scores_with(make_data):
    data = make_data()
    model = built(make(), data)
    out = model(*doubled(data))
    triples = [(2, 1, 3), (5, 0, 4), (2, 1, 3)]
    expected = sum((out.user[u].square().sum() + out.item[[i, j]].square().sum()).item() for u, i, j in triples) / 6
    assert model.penalty(out, batch_of(triples)).item() == pytest.approx(expected)


def test_distillation_step_has_finite_gradients(make_data):
    data = make_data(modalities=3)
    model = built(make(), data)
    users, items = model.num_users, model.num_items
    teachers = {m: Embeddings(torch.randn(users, 4).double(), torch.randn(items, 4).double()) for m in model.modalities}
    objective = DistillationWrapper(model, teachers, num_random_triples=20)
    batch = next(iter(TripletSampler(data[RATES].edge_index, users, items, 16, num_random_triples=20)))
    terms = objective.loss(*doubled(data), batch)
    assert {"bpr", "l2", "contrastive", "specific", "generic"} == terms.keys()
    sum(terms.values()).backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in model.parameters())


def test_gradients_equal_finite_differences(make_data):
    data = make_data(num_users=6, num_items=7)
    model = built(make(embedding_dim=2), data)
    features, graph = doubled(data)
    prepared = model.prepare(features, graph)
    names = ("user_embedding", "item_embedding", "lin_query.weight", "lin_prefer.mod1.weight")

    def run(feature: Tensor, *values: Tensor) -> Tensor:
        state = dict(zip(names, values, strict=True))
        arguments = (features | {"mod0": feature}, prepared, ["mod0"])
        return torch.cat(torch.func.functional_call(model, state, arguments))

    parameters = dict(model.named_parameters())
    assert torch.autograd.gradcheck(run, (features["mod0"].requires_grad_(), *(parameters[name] for name in names)))


def test_training_lowers_the_loss_and_finds_held_out_items():
    data = synthetic_multimodal(num_users=150, num_items=80, num_interactions=3000, seed=0)
    model = build(MGCN, data, 0, embedding_dim=16, contrastive_weight=0.01)
    untrained = evaluate(model, data, "val", k=20)["recall@20"]
    trainer = Trainer(max_epochs=8, batch_size=128, lr=0.01, device="cpu", progress=False, track_views=False)
    rows = trainer.fit(model, data).rows
    for name in ("loss/bpr", "loss/contrastive"):
        assert rows[-1][name] < 0.8 * rows[0][name]
    assert max(row["val/recall@20"] for row in rows) > untrained + 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding_dim": 0}, "embedding_dim: found 0, expected at least 1"),
        ({"num_layers": -1}, "num_layers: found -1, expected at least 0"),
        ({"num_item_layers": -1}, "num_item_layers: found -1, expected at least 0"),
        ({"num_neighbors": 0}, "num_neighbors: found 0, expected at least 1"),
        ({"fusion": "summ"}, "unknown fusion 'summ': did you mean 'sum'"),
        ({"contrastive_weight": -1.0}, "contrastive_weight: found -1.0, expected a number of zero or more"),
        ({"contrastive_weight": math.nan}, "contrastive_weight: found nan"),
        ({"temperature": 0.0}, "temperature: found 0.0, expected a positive number"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        MGCN(2, 2, {"visual": 3}, **options)
    with pytest.raises(InputError, match="number of modalities: found 0"):
        MGCN(2, 2, {})
