"""PMR against its authors' numbers, and prototypes of users against plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_ckd import Trainer
from pyg_ckd.balance.pacing import discrepancy
from pyg_ckd.balance.prototype import PMR, Prototypes, membership, rebalance_weights, similarity
from pyg_ckd.data.inputs import RATES
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR, LightGCN
from pyg_ckd.scoring.rows import added_item_rows
from pyg_ckd.scoring.sparse import product
from tests.balance.test_ckd import BACKBONES, one_batch
from tests.conftest import TOLERANCE, Golden
from tests.nn.models.zoo import adapted, built, doubled, every_multimodal_backbone


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def test_similarities_weights_and_losses_equal_the_published_code(golden: Callable[[str], Golden]):
    file = golden("balance/pmr")
    feature, label = file["feature"].requires_grad_(), file["label"]
    logits = file["fused_logits"].requires_grad_()
    close = similarity(feature.unsqueeze(2), file["prototype"].unsqueeze(1))  # [M, B, C]
    same(close, file["similarity"])
    probability = close.softmax(dim=-1)[:, torch.arange(label.numel()), label]
    same(probability, file["label_prob"])
    score = probability.sum(dim=1).detach()
    same(score, file["score"])
    same(discrepancy(score)[0], file["ratio"])
    losses = torch.stack([F.cross_entropy(x, label) for x in close])
    same(losses, file["prototype_loss"])
    hard, soft = rebalance_weights(score, hard=True), rebalance_weights(score)
    same(hard, file["weight_code"])
    same(soft, file["weight_paper"])
    loss = F.cross_entropy(logits, label) + file["alpha"] * (hard * losses).sum()
    same(loss, file["loss"])
    same(F.cross_entropy(logits, label) + file["alpha"] * (soft * losses).sum(), file["loss_paper"])
    loss.backward()
    same(feature.grad, file["grad_feature"])
    same(logits.grad, file["grad_fused_logits"])


def test_means_of_classes_equal_the_published_code(golden: Callable[[str], Golden]):
    file = golden("balance/pmr")
    label, count = file["label"], file["class_count"]
    edges = torch.stack([label, torch.arange(label.numel())])
    members = membership(edges, count.numel(), label.numel(), file["feature"])
    number = product(members, torch.ones(label.numel(), 1, dtype=torch.float64))
    same(number.squeeze(-1), count.double())
    for feature, mean in zip(file["feature"], file["class_mean"], strict=True):
        same(product(members, feature) / number.clamp(min=1), mean)
    # Theirs are of a part of the data and smoothed over epochs; here they are of all of it and anew in every epoch.
    same(torch.lerp(file["class_mean"], file["old_prototype"], file["momentum"]), file["new_prototype"])


def test_users_and_their_items_are_found_in_plain_and_in_prepared_graphs(make_data):
    data = make_data()
    edges = data[RATES].edge_index
    dense = torch.zeros(12, 9)
    dense[edges[0], edges[1]] = 1
    doubled_edges = torch.cat([edges, edges[:, :5]], dim=1)
    assert torch.equal(membership(doubled_edges, 12, 9, dense).to_dense(), dense)
    for make in BACKBONES.values():
        graphs = make(data).prepare({m: data["item"][m] for m in data.modalities}, {RATES: edges})
        assert torch.equal(membership(graphs[RATES], 12, 9, dense).to_dense(), dense)


def test_a_prototype_leaves_out_the_item_itself():
    rows = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 7.0]])
    own = Prototypes(rows, torch.tensor([[9.0, 9.0], [3.0, 2.0]]), torch.tensor([[3.0], [1.0]]))
    mean, number = own.without(torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1]))
    assert mean.tolist() == [[4.0, 4.5], [2.0, 1.0], [0.0, 0.0]]
    assert number.tolist() == [2, 2, 0]


def test_weights_of_three_compare_with_the_mean_over_the_others():
    score = torch.tensor([0.5, 0.6, 0.4], dtype=torch.float64)
    expected = [max(0, (0.6 / 0.5 + 0.4 / 0.5) / 2 - 1), 0.0, (0.5 / 0.4 + 0.6 / 0.4) / 2 - 1]
    assert rebalance_weights(score).tolist() == pytest.approx(expected, abs=1e-12)
    assert rebalance_weights(score, hard=True).tolist() == [0.0, 0.0, 1.0]
    assert rebalance_weights(torch.tensor([0.1, 0.9])).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("hard", [False, True])
def test_weights_are_over_the_modalities_that_some_triple_has(hard):
    score, known = torch.tensor([0.9, 0.5, 0.8], dtype=torch.float64), torch.tensor([True, False, True])
    found = rebalance_weights(score, hard, known)
    assert found[[0, 2]].tolist() == pytest.approx(rebalance_weights(score[[0, 2]], hard).tolist(), abs=1e-12)
    assert found[1] == 0
    assert found[2] > 0
    for few in ([True, False, False], [False] * 3):
        assert rebalance_weights(score, hard, torch.tensor(few)).tolist() == [0.0] * 3
    every = torch.ones(3, dtype=torch.bool)
    assert rebalance_weights(score, hard, every).tolist() == pytest.approx(rebalance_weights(score, hard).tolist())


@every_multimodal_backbone
def test_what_a_view_adds_to_the_ids_keeps_the_distances_of_dense_tables(make, make_data):
    data = make_data(modalities=2)
    model = built(make, data)
    features, graph = doubled(data)
    graphs = model.begin_epoch(features, model.prepare(features, graph))
    views = [frozenset(["mod0"]), frozenset(["mod0", "mod1"]), frozenset()]
    items = torch.tensor([4, 0, 7, 4])
    out = dict(zip(views, model.outputs(features, graphs, views), strict=True))
    for view in views:
        dense = out[view].dense().item[items] - out[frozenset()].dense().item[items]
        rows = added_item_rows(out[view], out[frozenset()], items)
        torch.testing.assert_close(torch.cdist(rows, rows), torch.cdist(dense, dense), rtol=0, atol=1e-7)
    back = added_item_rows(out[frozenset()], out[views[0]], items)
    rows = added_item_rows(out[views[0]], out[frozenset()], items)
    torch.testing.assert_close(torch.cdist(back, back), torch.cdist(rows, rows), rtol=0, atol=1e-7)


def by_hand(objective: PMR, data, batch, has) -> dict[str, float]:
    model, edges = objective.student, data[RATES].edge_index
    features, graph = doubled(data)
    ids = model(features, graph, []).item.detach()
    losses, scores = {}, {}
    for m in model.modalities:
        z = model(features, graph, m).item.detach() - ids
        there = has.get(m, torch.ones(9, dtype=torch.bool))
        found = []
        for u, i, j in zip(*(x.tolist() for x in batch[:3]), strict=True):
            items = {k for k in edges[1, edges[0] == u].tolist() if there[k]} - {i}
            if not (items and there[i] and there[j]):
                continue
            c = z[sorted(items)].mean(dim=0)
            found.append(float((z[j] - c).norm() - (z[i] - c).norm()))
        losses[m] = sum(math.log1p(math.exp(-e)) for e in found) / batch.user.numel()
        if found:
            scores[m] = sum(1 / (1 + math.exp(-e)) for e in found) / len(found)
    terms = {f"prototype/{m}": 0.0 for m in model.modalities}
    for m in scores:
        others = [n for n in scores if n != m]
        behind = sum(scores[n] / scores[m] for n in others) / len(others) - 1
        terms[f"prototype/{m}"] = objective.alpha * min(max(behind, 0), 1) * losses[m]
    return terms


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lacking", ["nothing", "some", "all"])
@pytest.mark.parametrize("backbone", ["VBPR", "MMGCN", "EarlyFusionLightGCN", "adapted"])
def test_terms_equal_those_of_a_loop_over_users_and_their_items(backbone, lacking, make_data):
    data = make_data(modalities=3)
    model, batch = built(BACKBONES.get(backbone, adapted), data), one_batch(data, 0)
    has = {"nothing": {}, "some": {"mod1": torch.arange(9) % 3 > 0}, "all": {"mod1": torch.arange(9) < 0}}[lacking]
    objective = PMR(model, alpha=0.7, l2=0.0, has=has)
    features, graph = doubled(data)
    graphs = objective.begin_epoch(features, objective.prepare(features, graph))
    assert objective.training
    terms = objective.loss(features, graphs, batch)
    expected = by_hand(objective, data, batch, has)
    assert sum(expected.values()) > 0
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, abs=1e-9), name
    weights = objective.epoch_statistics()
    assert {m for m in model.modalities if weights[f"weight/{m}"] > 0} == {
        m for m in model.modalities if expected[f"prototype/{m}"] > 0
    }
    sum(terms[name] for name in expected).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    fresh = PMR(model, alpha=0.7, l2=0.0, has=has).loss(features, graph, batch)  # Without an epoch.
    for name, value in expected.items():
        assert fresh[name].item() == pytest.approx(value, abs=1e-9), name


def test_prototypes_are_made_anew_in_every_epoch(make_data):
    data = make_data()
    objective = PMR(VBPR.from_data(data, embedding_dim=4), hard=True)
    seen = []

    class Watch:
        def on_train_epoch_end(self, trainer, history):
            seen.append(objective._prototypes["mod0"].rows.clone())

    options = {"batch_size": 8, "lr": 0.01, "monitor": "recall@5", "device": "cpu", "progress": False}
    history = Trainer(max_epochs=2, callbacks=Watch(), **options).fit(objective, data)
    assert not torch.equal(*seen)
    assert 0 < sum(row[f"weight/{m}"] for row in history.rows for m in data.modalities) <= 2


def test_bad_arguments_are_refused(make_data):
    data = make_data()
    with pytest.raises(InputError, match="alpha: found -1"):
        PMR(VBPR.from_data(data), alpha=-1)
    with pytest.raises(InputError, match="pmr: found LightGCN, which ignores features"):
        PMR(LightGCN.from_data(data))


def test_membership_of_32_bits_is_that_of_64():
    edges = torch.tensor([[0, 61_356], [0, 47_296]])  # 61356 * 70000 + 47296 is 2**32, zero in 32 bits.
    wide, narrow = (membership(e, 70_000, 70_000, torch.zeros(1)) for e in (edges, edges.int()))
    assert torch.equal(narrow.col_indices(), wide.col_indices())
    assert narrow.col_indices().tolist() == [0, 47_296]
    assert torch.equal(narrow.crow_indices(), wide.crow_indices())
