"""The one-way contrast between modalities against plain loops, and who learns from whom."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyg_ckd.balance.contrast import CrossModalContrast
from pyg_ckd.errors import InputError
from tests.balance.test_ckd import one_batch
from tests.nn.models.zoo import BACKBONES, built, doubled

TAU, WEIGHT = 0.5, 0.3


def contrast(data, backbone: str = "EarlyFusionLightGCN", **options) -> CrossModalContrast:
    return CrossModalContrast(built(BACKBONES[backbone], data), **options)


def own_rows(objective: CrossModalContrast, data, m: str) -> Tensor:
    """Return what a modality adds to all columns of the item table, centred over all items."""
    alone, empty = objective.student.forward_views(*doubled(data), [[m], []])
    return alone.item - empty.item


def cosine(x: Tensor, y: Tensor) -> float:
    return float(x @ y / (x.norm() * y.norm()))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lacking", [False, True])
@pytest.mark.parametrize("modalities", [2, 3])
def test_terms_are_info_nce_from_the_higher_to_the_lower_ratio(modalities, lacking, make_data):
    data = make_data(modalities=modalities)
    has = {"mod1": torch.arange(9) % 4 > 0} if lacking else {}
    objective = contrast(data, weight=WEIGHT, temperature=TAU, num_items=15, has=has)
    snr = [0.5, 1.5, 0.9][:modalities]
    objective.snr.copy_(torch.tensor(snr))
    batch = one_batch(data, 0)
    terms = objective.loss(*doubled(data), batch)
    items = batch.positive[:15].tolist()
    assert len(set(items)) < len(items)
    known = {m: has.get(m, torch.ones(9, dtype=torch.bool)) for m in data.modalities}
    rows = {}
    for m in data.modalities:
        x = own_rows(objective, data, m).detach()
        rows[m] = x - torch.stack([x[i] for i in items if known[m][i]]).mean(dim=0)
    for k, m in enumerate(data.modalities):
        expected = 0.0
        for j, n in enumerate(data.modalities):
            if snr[j] <= snr[k]:
                continue
            counted = [place for place, i in enumerate(items) if known[m][i] and known[n][i]]
            losses = []
            for place in counted:
                i = items[place]
                others = [items[p] for p in counted if items[p] != i]
                up = math.exp(cosine(rows[m][i], rows[n][i]) / TAU)
                down = up + sum(math.exp(cosine(rows[m][i], rows[n][o]) / TAU) for o in others)
                losses.append(-math.log(up / down))
            expected += (snr[j] - snr[k]) * sum(losses) / len(losses)
        pairs = modalities * (modalities - 1) / 2
        assert terms[f"snr-contrast/{m}"].item() == pytest.approx(WEIGHT / pairs * expected, abs=1e-10)
    assert terms["snr-contrast/mod1"].item() == 0.0


@pytest.mark.usefixtures("double")
def test_no_gradient_reaches_what_is_learned_from(make_data):
    data = make_data()
    objective = contrast(data, "VBPR", weight=WEIGHT)
    objective.snr.copy_(torch.tensor([0.2, 0.7]))
    terms = objective.loss(*doubled(data), one_batch(data, 0))
    terms["snr-contrast/mod0"].backward()
    grads = {name: p.grad for name, p in objective.student.named_parameters() if p.grad is not None}
    moved = {name for name, grad in grads.items() if grad.abs().max() > 1e-12}
    assert moved == {"project.mod0.weight"}  # A bias is the same for all items, and ids are in no row.


def test_ratios_are_those_of_the_epochs_margins_without_ids(make_data):
    data = make_data(modalities=3)
    objective = contrast(data, "MMGCN", weight=WEIGHT)
    batch = one_batch(data, 0)
    half = [type(batch)(*(x[part] for x in batch[:3]), *batch[3:]) for part in (slice(0, 7), slice(7, 20))]
    for part in half:
        objective.loss(*doubled(data), part)
    shown = objective.epoch_statistics()
    empty = objective.student(*doubled(data), []).margin(*batch[:3])
    for m in data.modalities:
        a = (objective.student(*doubled(data), m).margin(*batch[:3]) - empty).detach()
        assert shown[f"snr/{m}"] == pytest.approx(max(0.0, float(a.mean() / a.std(correction=0))), abs=1e-6)
    assert objective.snr.tolist() == pytest.approx(list(shown.values()))
    assert float(objective.sums.abs().sum()) == 0.0


def test_an_item_is_not_its_own_negative(make_data):
    data = make_data()
    objective = contrast(data, weight=WEIGHT)
    objective.snr.copy_(torch.tensor([0.0, 1.0]))
    batch = one_batch(data, 0)
    same = type(batch)(batch.user, torch.full_like(batch.positive, 3), batch.negative, *batch[3:])
    assert objective.loss(*doubled(data), same)["snr-contrast/mod0"].item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "weight: found -1.0, expected a number of zero or more"),
        ({"temperature": 0.0}, "temperature: found 0.0, expected a positive number"),
        ({"num_items": 1}, "num_items: found 1, expected at least 2"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message, make_data):
    with pytest.raises(InputError, match=message):
        contrast(make_data(), **options)


def test_rows_of_different_widths_are_refused_in_one_line(make_data):
    data = make_data()
    objective = contrast(data, "VBPR")
    project = objective.student.project["mod1"]
    objective.student.project["mod1"] = type(project)(project.in_features, 3).double()
    objective.student.preference["mod1"] = torch.nn.Parameter(torch.randn(12, 3, dtype=torch.float64))
    with pytest.raises(InputError, match=r"found rows of different widths in VBPR \(mod0 5, mod1 3\)") as error:
        objective.loss(*doubled(data), one_batch(data, 0))
    assert "\n" not in str(error.value)
