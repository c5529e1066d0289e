"""EgoGCN against its equations on dense matrices, and its interventions against their definition."""

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
from pyg_ckd.nn.models.egogcn import EgoGCN
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.training import Trainer, build
from tests.nn.models.zoo import built, doubled

every_modulation = pytest.mark.parametrize("modulation", ["hard", "soft"])


def make(**options):
    return lambda data: EgoGCN.from_data(data, **({"embedding_dim": 6, "latent_dim": 5, "threshold": 0.3} | options))


def attention(scores: Tensor, pattern: Tensor) -> Tensor:
    """Return the softmax of each row over the edges of the pattern; of rows without one, zeros."""
    return scores.masked_fill(~pattern, -torch.inf).softmax(dim=1).nan_to_num(0.0)


def by_hand(model: EgoGCN, features: dict[str, Tensor], edges: Tensor) -> Tensor:
    """Follow the equations of the docstring on dense matrices, ``[N, D]``."""
    num_nodes = model.num_users + model.num_items
    pattern = torch.zeros(num_nodes, num_nodes, dtype=torch.bool)
    pattern[edges[0], model.num_users + edges[1]] = True
    pattern |= pattern.clone().t()
    starts = {}
    for m in model.modalities:
        lin = model.project[m]
        starts[m] = F.normalize(torch.cat([model.preference[m], F.leaky_relu(features[m] @ lin.weight.t() + lin.bias)]))
    blocks = []
    for m, x in starts.items():
        conv, others = model.modulate[m], [y for n, y in starts.items() if n != m]
        if conv.modulation == "soft":
            gated = [torch.sigmoid(y @ lin.weight.t() + lin.bias) * y for lin, y in zip(conv.lins, others, strict=True)]
            message = (torch.stack([x, *gated]).sum(dim=0) / len(starts)).expand(num_nodes, -1, -1)
        else:
            chosen = (attention(x @ x.t(), pattern) > conv.threshold).unsqueeze(-1)
            message = torch.where(chosen, torch.stack([x, *others]).mean(dim=0), x)
        weight = attention((x.unsqueeze(1) * message).sum(dim=-1), pattern)
        x = F.normalize((weight.unsqueeze(-1) * message).sum(dim=1))
        for _ in range(model.num_routing):
            x = F.normalize(x + attention(x @ x.t(), pattern) @ x)
        blocks.append(x)
    scale = pattern.sum(dim=1).double().clamp(min=1).rsqrt()
    adjacency = scale[:, None] * pattern * scale
    x = F.normalize(torch.cat([model.user_embedding, model.item_embedding]))
    ids = sum(torch.linalg.matrix_power(adjacency, layer) @ x for layer in range(len(model.convs) + 1))
    return torch.cat([ids, *blocks], dim=1)


@every_modulation
@pytest.mark.parametrize("num_modalities", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"num_layers": 1, "num_routing": 1}, {"num_routing": 0}], ids=str)
def test_embeddings_equal_the_equations_on_dense_matrices(modulation, num_modalities, options, make_data):
    data = make_data(modalities=num_modalities)
    model = built(make(modulation=modulation, **options), data)
    features, graph = doubled(data)
    out = torch.cat(model(features, graph))
    assert_close(out, by_hand(model, features, graph[RATES]), atol=1e-10, rtol=0)


@every_modulation
def test_a_block_sees_the_other_modalities(modulation, make_data):
    data = make_data(modalities=2)
    model = built(make(modulation=modulation), data)
    features, graph = doubled(data)
    changed = dict(features, mod1=features["mod1"].flip(0))
    difference = (torch.cat(model(changed, graph)) - torch.cat(model(features, graph))).abs()
    assert difference[:, :6].max() == 0  # The ids.
    assert difference[:, 6:11].max() > 1e-2
    assert difference[:, 11:].max() > 1e-2


def test_hard_modulation_at_a_threshold_of_one_isolates_the_modalities(make_data):
    data = make_data(modalities=2)
    model = built(make(threshold=1.0), data)
    features, graph = doubled(data)
    changed = dict(features, mod1=features["mod1"].flip(0))
    assert_close(torch.cat(model(changed, graph))[:, :11], torch.cat(model(features, graph))[:, :11])


def views_of(model: EgoGCN) -> list[frozenset[str]]:
    return [frozenset(), *(frozenset([m]) for m in model.modalities), frozenset(["mod0", "mod2"])]


@every_modulation
def test_view_equals_the_full_view_with_means_put_in(modulation, make_data):
    data = make_data(modalities=3, transform="none")
    model = built(make(modulation=modulation), data)
    features, graph = doubled(data)
    for view in views_of(model):
        changed, intervened = dict(features), built(make(modulation=modulation), data)
        for m in set(model.modalities) - view:
            changed[m] = features[m].mean(dim=0, keepdim=True).expand_as(features[m])
            with torch.no_grad():
                intervened.preference[m][:] = model.preference[m].mean(dim=0)
        expected = torch.cat(intervened(changed, graph))
        assert_close(torch.cat(model(features, graph, view)), expected, atol=1e-10, rtol=0)


@every_modulation
def test_intervened_modality_leaves_nothing_but_constants(modulation, make_data):
    data = make_data(modalities=3, transform="none")
    model, other = (built(make(modulation=modulation), data) for _ in range(2))
    features, graph = doubled(data)
    changed = dict(features, mod1=features["mod1"].flip(0))
    with torch.no_grad():
        other.preference["mod1"].copy_(model.preference["mod1"].flip(0))
    for view in ([], ["mod0"], ["mod0", "mod2"]):
        assert_close(torch.cat(other(changed, graph, view)), torch.cat(model(features, graph, view)))
    difference = torch.cat(other(changed, graph, "mod1")) - torch.cat(model(features, graph, "mod1"))
    assert difference[:, 6:].abs().max() > 1e-2


def test_attention_of_an_intervened_modality_is_uniform_to_the_bit(make_data):
    """A threshold of one over a degree decides about edges without a factual modality; rounding must not."""
    data = make_data(modalities=2)
    model = built(make(), data)
    features, graph = doubled(data)
    inputs = Inputs(features, model.prepare(features, graph), {})
    x = model.start("mod0", inputs, factual=False)
    _, (edge_index, alpha) = model.attend(x, inputs.graph, return_attention_weights=True)
    assert torch.equal(alpha, 1 / torch.bincount(edge_index[1])[edge_index[1]].double())


def test_views_share_the_block_of_the_ids_alone(make_data):
    data = make_data(modalities=2)
    model = built(make(), data)
    full, alone = model.outputs(*doubled(data), [None, "mod0"])
    assert full.blocks[0] is alone.blocks[0]
    assert full.blocks[1] is not alone.blocks[1]


@every_modulation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nodes_without_edges_have_zeros_and_finite_gradients(modulation, dtype, make_data):
    data = make_data(modalities=2)
    model = built(make(modulation=modulation), data).to(dtype)
    features, graph = doubled(data)
    features = {m: x.to(dtype) for m, x in features.items()}
    outs = model.forward_views(features, graph, [None, "mod0", []])
    for out in outs:
        assert out.item[-1, 6:].eq(0).all()  # The last item has no edge.
        assert out.item[-1, :6].abs().max() > 0
    sum(torch.cat(out).pow(3).sum() for out in outs).backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
    out = torch.cat(model(features, {RATES: graph[RATES][:, :0]}))
    assert out[:, 6:].eq(0).all()
    assert torch.isfinite(out).all()


def test_only_soft_modulation_has_gates_one_for_each_other_modality(make_data):
    data = make_data(modalities=3)
    hard, soft = (built(make(modulation=modulation), data) for modulation in ("hard", "soft"))
    gates = soft.state_dict().keys() - hard.state_dict().keys()
    assert {name.rsplit(".", 1)[0] for name in gates} == {
        f"modulate.mod{m}.lins.{n}" for m in range(3) for n in range(2)
    }


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


@every_modulation
def test_distillation_step_has_finite_gradients(modulation, make_data):
    data = make_data(modalities=3)
    model = built(make(modulation=modulation), data)
    users, items = model.num_users, model.num_items
    teachers = {m: Embeddings(torch.randn(users, 4).double(), torch.randn(items, 4).double()) for m in model.modalities}
    objective = DistillationWrapper(model, teachers, num_random_triples=20)
    batch = next(iter(TripletSampler(data[RATES].edge_index, users, items, 16, num_random_triples=20)))
    terms = objective.loss(*doubled(data), batch)
    assert {"bpr", "l2", "specific", "generic"} <= terms.keys()
    sum(terms.values()).backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in model.parameters())


@every_modulation
def test_training_lowers_the_loss_and_finds_held_out_items(modulation):
    data = synthetic_multimodal(num_users=150, num_items=80, num_interactions=3000, seed=0)
    model = build(EgoGCN, data, 0, embedding_dim=16, latent_dim=16, modulation=modulation)
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
        ({"modulation": "sof"}, "unknown modulation 'sof': did you mean 'soft'"),
        ({"threshold": 1.5}, "threshold: found 1.5, expected a number from 0 to 1"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        EgoGCN(2, 2, {"visual": 3}, **options)
    with pytest.raises(InputError, match="number of modalities: found 0"):
        EgoGCN(2, 2, {})
