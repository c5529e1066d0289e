"""G-Blending against the published numbers, and weights of a training against losses by hand."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_ckd import Trainer
from pyg_ckd.balance.blending import GBlending, blending_weights, chosen_weights, generalisation
from pyg_ckd.data.inputs import RATES
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR, LightGCN
from tests.balance.test_ckd import BACKBONES, one_batch
from tests.conftest import TOLERANCE, Golden
from tests.nn.models.zoo import built, doubled

TRAINER = {"batch_size": 8, "lr": 0.01, "monitor": "recall@5", "device": "cpu", "progress": False}


def test_gains_overfitting_and_weights_equal_the_published_code(golden: Callable[[str], Golden]):
    file = golden("balance/gblending")
    names = sorted({key.split("/")[0] for key in file if re.match(r"m\d/", key)})
    assert names
    for name in names:
        before, after = (
            torch.stack([file[f"{name}/{part}_{when}"] for part in ("train", "val")]) for when in ("before", "after")
        )
        gain, overfitting = generalisation(before, after)
        for key, value in {
            "gain": gain,
            "overfitting": overfitting,
            "weight": blending_weights(gain, overfitting),
        }.items():
            torch.testing.assert_close(value, file[f"{name}/{key}"], rtol=0, atol=TOLERANCE)


def losses(train: list[float], val: list[float]) -> Tensor:
    return torch.tensor([train, val], dtype=torch.float64)


def test_views_that_generalise_without_overfitting_get_the_weight():
    before, old = losses([0.7] * 3, [0.7] * 3), torch.tensor([0.5, 1.5, 1.0], dtype=torch.float64)
    after = losses([0.5, 0.4, 0.6], [0.6, 0.5, 0.6 + 1e-3])  # Gains of 0.1, 0.2, 0.099; gaps of 0.1, 0.1, 0.001.
    floor = 0.1 * (0.1 + 0.1 + 0.001) / 3
    ratio = torch.tensor([0.1 / 0.01, 0.2 / 0.01, 0.099 / floor**2]).double()
    expected = (3 * ratio / ratio.sum()).clamp(min=0.1)
    torch.testing.assert_close(chosen_weights(before, after, old), expected / expected.mean(), rtol=0, atol=1e-9)
    worse = chosen_weights(before, losses([0.5, 0.5, 0.5], [0.8, 0.5, 0.6]), old)
    assert float(worse[0]) == float(worse.min()) == pytest.approx(0.1, abs=0.02)
    assert torch.equal(chosen_weights(before, losses([0.1] * 3, [0.7, 0.8, 0.9]), old), old)
    assert torch.equal(chosen_weights(before, before, old), old)
    alike = chosen_weights(before, losses([0.6] * 3, [0.6] * 3), old)
    torch.testing.assert_close(alike, torch.ones(3).double())


def bpr(model, data, view, triples, known=None) -> float:
    loss = F.softplus(-model(*doubled(data), view).margin(*triples))
    return float((loss if known is None else loss[known]).mean())


class Score:
    def __init__(self, *triples: Tensor) -> None:
        self.triples = triples

    def __call__(self, embeddings) -> float:
        return 0.0


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lacking", [False, True])
@pytest.mark.parametrize("backbone", ["VBPR", "EarlyFusionLightGCN"])
def test_weights_follow_from_the_losses_of_two_epochs(backbone, lacking, make_data):
    data = make_data()
    model, batch = built(BACKBONES[backbone], data), one_batch(data, 0)
    has = {"mod1": torch.arange(9) % 3 > 0} if lacking else {}
    objective = GBlending(model, weight=0.5, period=2, l2=0.0, has=has)
    features, graph = doubled(data)
    graphs = objective.prepare(features, graph)
    held = (data[RATES].val_edge_index[0], data[RATES].val_edge_index[1], torch.arange(12) % 9)
    measured = []
    for epoch in range(1, 5):
        objective.progress = type(objective.progress)(epoch, 9)
        terms = objective.loss(features, graphs, batch)
        for n, m in enumerate([*model.modalities, None]):
            known = [has[m][t[1]] & has[m][t[2]] if m in has else torch.ones_like(t[1]).bool() for t in (batch, held)]
            weight = objective.weights[n].item()
            if m is None:
                assert terms["bpr"].item() == pytest.approx(weight * bpr(model, data, None, batch[:3]), abs=1e-9)
            else:
                mean = bpr(model, data, m, batch[:3], known[0]) * float(known[0].double().mean())
                assert terms[f"alone/{m}"].item() == pytest.approx(0.5 * weight * mean, abs=1e-9)
            measured.append([bpr(model, data, m, batch[:3], known[0]), bpr(model, data, m, held, known[1])])
        statistics = objective.epoch_statistics()
        assert list(statistics.values()) == objective.weights.tolist()
        objective.before_validation(features, graphs, Score(*held))
        if epoch < 3:
            assert objective.weights.tolist() == [1.0] * 3
        with torch.no_grad():
            for n, p in enumerate(model.parameters()):
                p.mul_(1.1 + 0.1 * (n % 3))
    table = torch.tensor(measured).view(4, 3, 2).transpose(1, 2)  # [epochs, 2, views]
    torch.testing.assert_close(objective.before, table[2], rtol=0, atol=1e-9)
    expected = chosen_weights(table[0], table[2], torch.ones(3))
    torch.testing.assert_close(objective.weights, expected, rtol=0, atol=1e-7)


def test_weights_change_in_a_training_and_are_in_the_history(make_data):
    data = make_data()
    data[RATES].val_edge_index = data[RATES].edge_index[:, ::2]  # So that losses fall there, from whatever start.
    objective = GBlending(VBPR.from_data(data, embedding_dim=4), period=2)
    rows = Trainer(max_epochs=6, patience=10, **TRAINER).fit(objective, data).rows
    weights = [[*(row[f"weight/{m}"] for m in data.modalities), row["joint_weight"]] for row in rows]
    assert weights[:3] == [[1.0] * 3] * 3
    assert weights[3] == weights[4] != weights[5]
    assert all(sum(w) == pytest.approx(3) and min(w) > 0 for w in weights)


def test_what_cannot_be_is_refused(make_data):
    data = make_data()
    with pytest.raises(InputError, match="weight: found -1"):
        GBlending(VBPR.from_data(data), weight=-1)
    with pytest.raises(InputError, match="period: found 0, expected at least 1"):
        GBlending(VBPR.from_data(data), period=0)
    with pytest.raises(InputError, match="g-blending: found LightGCN, which ignores features"):
        GBlending(LightGCN.from_data(data))
    data[RATES].val_edge_index = data[RATES].val_edge_index[:, :0]
    with pytest.raises(InputError, match="g-blending: found a graph without a validation part"):
        Trainer(max_epochs=1, **TRAINER).fit(GBlending(VBPR.from_data(data)), data)
