"""Relational alignment against the published arithmetic and plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyg_ckd.balance import MultitaskObjective
from pyg_ckd.balance.relational import RelationalAlignment, angles, distances, smooth_difference
from pyg_ckd.errors import InputError
from tests.balance.test_ckd import one_batch
from tests.conftest import TOLERANCE
from tests.nn.models.zoo import BACKBONES, built, doubled

PAIR = ("audio", "video")


def relational(data, backbone: str = "EarlyFusionLightGCN", **options) -> RelationalAlignment:
    return RelationalAlignment(built(BACKBONES[backbone], data), **options)


def test_distances_angles_and_gradients_equal_the_reference(golden):
    file = golden("balance/samm")
    logits = {m: file[f"{m}_logits"].requires_grad_() for m in PAIR}
    found = {m: distances(x) for m, x in logits.items()}
    for m, n in (PAIR, PAIR[::-1]):
        assert torch.allclose(found[m], file[f"potential_{m}"], rtol=0, atol=TOLERANCE)
        loss = smooth_difference(found[m], found[n].detach())
        assert loss.item() == pytest.approx(file.number(f"distance_{m}"), abs=TOLERANCE)
        loss.backward(retain_graph=True)
        assert torch.allclose(logits[m].grad, file[f"grad_{m}"], rtol=0, atol=TOLERANCE)
    angle = smooth_difference(*(angles(logits[m]) for m in PAIR))
    assert angle.item() == pytest.approx(file.number("angle_audio"), abs=TOLERANCE)


def smooth(x: float) -> float:
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def by_hand(learner: Tensor, teacher: Tensor, weight_of_angles: float) -> float:
    """Compare relations pair by pair and triple by triple."""
    tables = [unit(learner).tolist(), unit(teacher).tolist()]
    num, both = len(tables[0]), []
    for rows in tables:
        psi = {(i, j): max(math.dist(rows[i], rows[j]), 1e-6) for i in range(num) for j in range(num)}
        mean = sum(psi.values()) / num**2 + 1e-8
        both.append({pair: value / mean for pair, value in psi.items()})
    loss = sum(smooth(both[0][pair] - both[1][pair]) for pair in both[0]) / num**2
    if weight_of_angles:
        total = 0.0
        for at in range(num):
            for i in range(num):
                for j in range(num):
                    cosines = []
                    for rows in tables:
                        a, b = ([x - y for x, y in zip(rows[k], rows[at], strict=True)] for k in (i, j))
                        size = math.hypot(*a) * math.hypot(*b)
                        dot = sum(x * y for x, y in zip(a, b, strict=True))
                        cosines.append(dot / size if size > 0 else 0.0)
                    total += smooth(cosines[0] - cosines[1])
        loss += weight_of_angles * total / num**3
    return loss


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lacking", [False, True])
@pytest.mark.parametrize("modalities", [2, 3])
def test_terms_compare_the_relations_of_the_batchs_items_each_once(modalities, lacking, make_data):
    data = make_data(modalities=modalities)
    has = {"mod1": torch.arange(9) % 4 > 0} if lacking else {}
    objective = relational(data, weight=0.2, relations=3.0, angles=0.5, num_items=17, has=has)
    batch = one_batch(data, 0)
    terms = objective.loss(*doubled(data), batch)
    plain = MultitaskObjective(objective.student, 0.2, has=has).loss(*doubled(data), batch)
    for name, value in plain.items():
        assert terms[name].item() == pytest.approx(value.item(), abs=1e-12)
    items = list(dict.fromkeys(batch.positive[:17].tolist()))
    empty = objective.student(*doubled(data), []).item.detach()
    rows = {m: objective.student(*doubled(data), m).item.detach() - empty for m in data.modalities}
    for m in data.modalities:
        expected = 0.0
        for n in data.modalities:
            if n != m:
                kept = [i for i in items if all(bool(has[k][i]) for k in (m, n) if k in has)]
                assert len(kept) > 2
                expected += by_hand(rows[m][kept], rows[n][kept], 0.5)
        found = terms[f"relation/{m}"].item()
        assert found == pytest.approx(0.2 * 3.0 / (modalities - 1) * expected, abs=1e-10)


@pytest.mark.usefixtures("double")
def test_turned_and_scaled_rows_have_the_same_relations():
    rows = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))[0]
    for relation in (distances, angles):
        assert torch.allclose(relation(3 * rows @ turn), relation(rows), rtol=0, atol=1e-12)
    assert not torch.allclose(distances(rows.roll(1, dims=0)), distances(rows))


@pytest.mark.usefixtures("double")
def test_no_gradient_reaches_what_is_learned_from(make_data):
    data = make_data(modalities=3)
    objective = relational(data, "VBPR", angles=0.3)
    objective.loss(*doubled(data), one_batch(data, 0))["relation/mod2"].backward()
    grads = {name: p.grad for name, p in objective.student.named_parameters() if p.grad is not None}
    assert {name for name, grad in grads.items() if grad.abs().max() > 1e-12} >= {"project.mod2.weight"}
    assert all(name.startswith("project.mod2") for name in grads)


def test_gradients_are_finite_where_items_have_one_row(make_data):
    rows = torch.zeros(4, 3, requires_grad=True)
    target = distances(torch.eye(4, 3))
    (smooth_difference(distances(rows), target) + smooth_difference(angles(rows), angles(torch.eye(4, 3)))).backward()
    assert torch.isfinite(rows.grad).all()


def test_without_relations_it_is_multitask_training(make_data):
    data = make_data()
    objective = relational(data, relations=0.0, weight=0.1)
    assert frozenset() not in objective.views
    assert objective.loss(*doubled(data), one_batch(data, 0)).keys() == {"bpr", "l2", "alone/mod0", "alone/mod1"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relations": -1.0}, "relations: found -1.0, expected a number of zero or more"),
        ({"angles": math.inf}, "angles: found inf, expected a number of zero or more"),
        ({"num_items": 1}, "num_items: found 1, expected at least 2"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message, make_data):
    with pytest.raises(InputError, match=message):
        relational(make_data(), **options)
