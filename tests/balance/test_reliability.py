"""MARGO's terms, weights and fused scores against loops."""

from __future__ import annotations

import math

import pytest
import torch

from pyg_ckd import Trainer
from pyg_ckd.balance import Progress
from pyg_ckd.balance.reliability import ReliabilityObjective, previous, reliability
from pyg_ckd.data.inputs import unpack
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from tests.balance.test_ckd import one_batch
from tests.nn.models.zoo import BACKBONES, built, doubled

HAS = torch.arange(9) % 3 > 0


def made(data, backbone: str = "VBPR", lacking: bool = False, **options) -> ReliabilityObjective:
    """Return an objective in double precision whose gates are random."""
    has = {"mod1": HAS} if lacking else {}
    objective = ReliabilityObjective(built(BACKBONES[backbone], data), 0.7, 0.3, l2=0.0, has=has, **options).double()
    with torch.no_grad():
        for p in objective.gates.parameters():
            p.copy_(3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return objective


def weights_by_hand(objective, data, item: int, view, lacking: bool) -> dict[str, float]:
    """Return the weights of an item's modalities, whose sum is the number of those that it has in a view."""
    here = [m for m in view if not (lacking and m == "mod1" and not HAS[item])]
    logits = {}
    for m in here:
        x = doubled(data)[0][m][item]
        logits[m] = float(objective.gates[m].weight[0].detach() @ (x / x.abs().sum())) + float(
            objective.gates[m].bias.detach()
        )
    total = sum(math.exp(z) for z in logits.values())
    return {m: len(here) * math.exp(z) / total for m, z in logits.items()}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lacking", [False, True])
@pytest.mark.parametrize(("backbone", "modalities"), [("VBPR", 2), ("VBPR", 3), ("EarlyFusionLightGCN", 3)])
def test_terms_equal_a_loop(backbone, modalities, lacking, make_data):
    data = make_data(modalities=modalities)
    objective, batch = made(data, backbone, lacking), one_batch(data, 0)
    terms = objective.loss(*doubled(data), batch)
    names = data.modalities
    tables = [t.detach() for t in objective.student.forward_views(*doubled(data), [*names, []])]
    score = {
        m: t.user @ t.item.t() - tables[-1].user @ tables[-1].item.t() for m, t in zip(names, tables, strict=False)
    }
    empty = tables[-1].user @ tables[-1].item.t()
    fused = supervision = 0.0
    for n, (u, i, j) in enumerate(zip(*(x.tolist() for x in batch[:3]), strict=True)):
        third = dict.fromkeys(names, n - 1)
        while lacking and not HAS[batch.negative[third["mod1"]]]:
            third["mod1"] -= 1
        third = {m: batch.negative[at].item() for m, at in third.items()}
        r_i, r_j = (weights_by_hand(objective, data, item, names, lacking) for item in (i, j))
        margin = float(empty[u, i] - empty[u, j])
        margin += sum(w * float(score[m][u, i] - score[m][u, third[m]]) for m, w in r_i.items())
        margin -= sum(w * float(score[m][u, j] - score[m][u, third[m]]) for m, w in r_j.items())
        fused += math.log1p(math.exp(-margin))
        both = {m: float(score[m][u, i] - score[m][u, j]) for m in names if m in r_i and m in r_j}
        total = sum(math.exp(max(0.0, a)) for a in both.values())
        confidence = 1 / (1 + math.exp(-max(both.values())))
        for m, a in both.items():
            supervision -= confidence * math.exp(max(0.0, a)) / total * math.log(r_i[m] / sum(r_i.values()))
    assert terms["fused"].item() == pytest.approx(0.7 * fused / 20, abs=1e-5)  # Logits are single precision.
    assert terms["reliability"].item() == pytest.approx(0.3 * supervision / 20, abs=1e-5)
    assert set(terms) == {"bpr", "fused", "reliability"}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lacking", [False, True])
@pytest.mark.parametrize("backbone", ["VBPR", "EarlyFusionLightGCN", "MMGCN"])
def test_fused_scores_equal_a_loop_in_every_view(backbone, lacking, make_data):
    data = make_data(modalities=3)
    objective = made(data, backbone, lacking)
    objective.begin_epoch(*doubled(data))
    *alone, empty = (
        t.user @ t.item.t() for t in objective.student.forward_views(*doubled(data), ["mod0", "mod1", "mod2", []])
    )
    effects = {m: s - empty for m, s in zip(data.modalities, alone, strict=True)}
    known = {
        m: objective.available(torch.arange(9), torch.arange(9))[:, n] if lacking else torch.ones(9) > 0
        for n, m in enumerate(data.modalities)
    }
    centred = {m: a - a[:, known[m]].mean(dim=1, keepdim=True) for m, a in effects.items()}
    views = [["mod0", "mod1", "mod2"], ["mod1", "mod2"], ["mod1"], []]
    for view, tables in zip(views, objective.forward_views(*doubled(data), views), strict=True):
        found = tables.user @ tables.item.t()
        if len(view) < 2:
            expected = objective.student(*doubled(data), view)
            torch.testing.assert_close(tables.item, expected.item, rtol=0, atol=1e-12)
            continue
        expected = empty.clone()
        for item in range(9):
            for m, w in weights_by_hand(objective, data, item, view, lacking).items():
                expected[:, item] += w * centred[m][:, item]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("double")
def test_equal_weights_of_an_additive_backbone_rank_as_the_full_view(make_data):
    data = make_data(modalities=3)
    objective = ReliabilityObjective(built(BACKBONES["VBPR"], data)).double()
    objective.begin_epoch(*doubled(data))
    fused, full = objective(*doubled(data)), objective.student(*doubled(data))
    difference = fused.user @ fused.item.t() - full.user @ full.item.t()
    assert (difference - difference[:, :1]).abs().max() < 1e-6


def test_the_third_item_is_the_last_marked_one_before_going_round():
    items = torch.tensor([10, 11, 12, 13, 14])
    assert previous(items, torch.ones(5, dtype=torch.bool))[0].tolist() == [14, 10, 11, 12, 13]
    assert previous(items, torch.tensor([False, True, False, True, False]))[0].tolist() == [13, 13, 11, 11, 13]
    assert previous(items, torch.tensor([False, False, True, False, False]))[0].tolist() == [12] * 5
    assert previous(items, torch.zeros(5, dtype=torch.bool))[1].tolist() == [False]


def test_reliability_follows_the_margins_that_are_positive():
    margins = torch.tensor([[2.0, -1.0, 0.0], [-3.0, -1.0, -2.0], [1.0, 1.0, 5.0]], dtype=torch.float64)
    target, confidence = reliability(margins)
    assert torch.allclose(target[0], torch.tensor([math.exp(2), 1, 1]).double() / (math.exp(2) + 2))
    assert torch.allclose(target[1], torch.full((3,), 1 / 3).double())
    assert torch.allclose(confidence, torch.sigmoid(torch.tensor([2.0, -1.0, 5.0]).double()))
    known = torch.tensor([[True, True, True], [False, False, False], [True, True, False]])
    target, confidence = reliability(margins, known)
    assert target[2].tolist() == pytest.approx([0.5, 0.5, 0.0])
    assert target[1].tolist() == [0.0, 0.0, 0.0]
    assert confidence[1].item() == 0.0
    assert confidence[2].item() == pytest.approx(1 / (1 + math.exp(-1)))


def test_supervision_gives_weight_to_the_modality_that_ranks_rightly(make_data):
    data = make_data(modalities=2)
    objective = ReliabilityObjective(VBPR.from_data(data, embedding_dim=4), weight=0.0, supervision=1.0)
    with torch.no_grad():
        objective.student.preference["mod1"].zero_()  # Says nothing, and learns nothing without its projection.
        objective.student.project["mod1"].weight.zero_()
    for p in objective.student.modality_parameters["mod1"]:
        p.requires_grad_(False)
    rows = (
        Trainer(max_epochs=8, batch_size=8, lr=0.05, monitor="recall@5", device="cpu", progress=False)
        .fit(objective, data)
        .rows
    )
    assert rows[-1]["weight/mod0"] > rows[0]["weight/mod0"] > 1.0
    assert rows[-1]["weight/mod0"] + rows[-1]["weight/mod1"] == pytest.approx(2.0, abs=1e-5)


def test_the_warm_up_trains_and_ranks_plainly(make_data):
    data = make_data(modalities=2)
    objective = ReliabilityObjective(VBPR.from_data(data, embedding_dim=4), warmup=1)
    features, graph = unpack(data)
    batch = one_batch(data, 0)
    for epoch, fuses in ((1, False), (2, True)):
        objective.progress = Progress(epoch, 3)
        objective.begin_epoch(features, graph)
        assert ("fused" in objective.loss(features, graph, batch)) == fuses
        plain, ranked = objective.student(features, graph), objective(features, graph)
        assert (plain.item.shape == ranked.item.shape) == (not fuses)
    assert bool(objective.fusing)


def test_bad_numbers_are_refused(make_data):
    model = built(BACKBONES["VBPR"], make_data())
    for options, message in (
        ({"weight": -1.0}, r"weight: found -1\.0"),
        ({"supervision": math.inf}, "supervision: found inf"),
        ({"warmup": -1}, "warmup: found -1, expected at least 0"),
    ):
        with pytest.raises(InputError, match=message):
            ReliabilityObjective(model, **options)
