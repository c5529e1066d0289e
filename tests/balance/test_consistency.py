"""Consistency of views against the published arithmetic and autograd, and its projectors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyg_ckd import Objective, Trainer
from pyg_ckd.balance import DifficultyCurriculum
from pyg_ckd.balance.consistency import (
    CLOSENESS,
    ViewConsistency,
    closeness,
    regularisation,
    scale_of,
    squared_covariance,
    variance_hinge,
)
from pyg_ckd.datasets import synthetic_multimodal
from pyg_ckd.errors import InputError
from pyg_ckd.nn import EarlyFusionLightGCN
from tests.balance.test_ckd import one_batch
from tests.conftest import TOLERANCE
from tests.nn.models.zoo import BACKBONES, built, doubled


def consistency(data, backbone: str = "EarlyFusionLightGCN", **options) -> ViewConsistency:
    return ViewConsistency(built(BACKBONES[backbone], data), **options)


def test_terms_and_gradients_equal_the_reference(golden):
    file = golden("balance/umurl")
    groups = sorted({key.partition("/")[0] for key in file})
    assert groups
    for group in groups:
        alone, fused = (file[f"{group}/{name}"].requires_grad_() for name in ("alone", "fused"))
        intra, inter = closeness(alone, fused), closeness(alone, alone.mean(dim=0, keepdim=True))
        assert intra.item() == pytest.approx(file.number(f"{group}/intra"), abs=TOLERANCE)
        assert inter.item() == pytest.approx(file.number(f"{group}/inter"), abs=TOLERANCE)
        hinge = torch.cat([variance_hinge(alone), variance_hinge(fused)])
        covariance = torch.cat([squared_covariance(alone), squared_covariance(fused)])
        assert torch.allclose(hinge, file[f"{group}/variance_hinge"], rtol=0, atol=TOLERANCE)
        assert torch.allclose(covariance, file[f"{group}/covariance"], rtol=0, atol=TOLERANCE)
        assert torch.allclose(5 * hinge + covariance, file[f"{group}/regularisation"], rtol=0, atol=TOLERANCE)
        loss = CLOSENESS * (intra + inter) + regularisation(alone) + regularisation(fused)
        assert loss.item() == pytest.approx(file.number(f"{group}/loss"), abs=TOLERANCE)
        loss.backward()
        for name, rows in (("alone", alone), ("fused", fused)):
            assert torch.allclose(rows.grad, file[f"{group}/grad_{name}"], rtol=0, atol=TOLERANCE)


def test_rows_that_do_not_count_are_as_if_they_were_not_there():
    rows = torch.randn(3, 8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counted = torch.tensor([True, False, True, True, False, True, True, False])
    kept = rows[:, counted]
    assert closeness(rows, rows.flip(0), counted).item() == pytest.approx(closeness(kept, kept.flip(0)).item())
    assert torch.allclose(variance_hinge(rows, counted), variance_hinge(kept), rtol=0, atol=1e-12)
    assert torch.allclose(squared_covariance(rows, counted), squared_covariance(kept), rtol=0, atol=1e-12)
    nobody = torch.zeros(8, dtype=torch.bool)
    assert closeness(rows, rows.flip(0), nobody).item() == 0.0
    assert torch.isfinite(regularisation(rows, nobody))


def mse(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square().mean()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lacking", [False, True])
@pytest.mark.parametrize("modalities", [2, 3])
def test_terms_compare_what_modalities_add_to_the_rows_of_the_batchs_items(modalities, lacking, make_data):
    data = make_data(modalities=modalities)
    has = {"mod1": torch.arange(9) % 4 > 0} if lacking else {}
    objective = consistency(data, weight=0.3, num_items=17, has=has)
    objective.prepare(*doubled(data))
    with torch.no_grad():
        for k, projector in enumerate(objective.projectors.values()):
            projector.copy_(torch.randn(6, 6, generator=torch.Generator().manual_seed(k)))
    batch = one_batch(data, 0)
    terms = objective.loss(*doubled(data), batch)
    items = [i for i in dict.fromkeys(batch.positive[:17].tolist()) if all(bool(mask[i]) for mask in has.values())]
    assert len(items) > 3
    empty, full, *alone = (
        objective.student(*doubled(data), view).item[items].detach() for view in ([], None, *data.modalities)
    )
    scale = (full - empty).var(dim=0).mean().sqrt()
    z = [(x - empty) / scale for x in alone]
    u = [(full - empty) / scale @ projector.detach().t() for projector in objective.projectors.values()]
    intra = sum(mse(x, y) for x, y in zip(z, u, strict=True))
    inter = sum(mse(x, sum(z) / modalities) for x in z)
    apart = 0.0
    for x in (*z, *u):
        covariance = torch.cov(x.t())
        apart += 5 * (1 - (covariance.diag() + 1e-4).sqrt()).clamp(min=0).mean()
        apart += (covariance - torch.diag(covariance.diag())).square().sum() / 6
    for name, expected in {"intra": 5 * intra, "inter": 5 * inter, "apart": apart}.items():
        assert terms[name].item() == pytest.approx(0.3 * float(expected), abs=1e-9), name


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("complete", [0, 1])
def test_of_fewer_than_two_items_nothing_is_compared(complete, make_data):
    data = make_data()
    has = {"mod1": torch.arange(9) < complete}
    objective = consistency(data, weight=0.3, has=has)
    objective.prepare(*doubled(data))
    terms = objective.loss(*doubled(data), one_batch(data, 0))
    assert [terms[name].item() for name in ("intra", "inter", "apart")] == [0.0, 0.0, 0.0]
    sum(terms.values()).backward()
    plain = Objective(built(BACKBONES["EarlyFusionLightGCN"], data))
    sum(plain.loss(*doubled(data), one_batch(data, 0)).values()).backward()
    for found, expected in zip(objective.student.parameters(), plain.student.parameters(), strict=True):
        assert torch.allclose(found.grad, expected.grad, rtol=0, atol=1e-12)


def test_a_last_batch_of_one_does_not_break_a_training():
    data = synthetic_multimodal(num_users=60, num_items=40, num_interactions=900)
    objective = ViewConsistency(EarlyFusionLightGCN.from_data(data))
    trainer = Trainer(max_epochs=3, batch_size=359, lr=0.01, device="cpu", progress=False)
    rows = trainer.fit(objective, data).rows
    assert data["user", "rates", "item"].edge_index.size(1) % 359 == 1
    assert max(row[f"loss/{name}"] for row in rows for name in ("intra", "inter", "apart")) < 10.0


def test_rows_that_are_nearly_alike_are_divided_by_a_share_of_their_size():
    counted = torch.tensor([True, True, True, False])
    rows = torch.full((2, 4, 3), 2.0, dtype=torch.float64)
    rows[:, 3] = 1e6
    fused = rows.clone()
    assert scale_of(rows, fused, counted).item() == pytest.approx(0.02, abs=1e-12)
    fused[:, 0, 0] += 1.0
    spread = fused[0, :3].var(dim=0).mean().sqrt().item()
    assert spread > 0.02
    assert scale_of(rows, fused, counted).item() == pytest.approx(spread, abs=1e-12)
    assert scale_of(rows * 0, fused * 0, counted).item() == 1.0


def test_projectors_begin_as_the_identity_and_are_trained(make_data):
    data = make_data(modalities=3)
    objective = consistency(data)
    assert not list(objective.projectors)
    unprepared = objective.loss(*doubled(data), one_batch(data, 0))
    objective.prepare(*doubled(data))
    prepared = objective.loss(*doubled(data), one_batch(data, 0))
    for name, value in unprepared.items():
        assert prepared[name].item() == pytest.approx(value.item(), abs=1e-12)
    before = {m: p.detach().clone() for m, p in objective.projectors.items()}
    assert all(torch.equal(p, torch.eye(6, dtype=torch.float64)) for p in before.values())
    Trainer(max_epochs=1, batch_size=8, lr=0.01, monitor="recall@5", device="cpu", progress=False).fit(objective, data)
    assert all(not torch.equal(objective.projectors[m], p) for m, p in before.items())
    fixed = consistency(data, projector=False)
    fixed.prepare(*doubled(data))
    assert not list(fixed.projectors)


def test_in_late_fusion_the_fused_rows_of_a_modality_are_its_own(make_data):
    data = make_data(modalities=3)
    terms = consistency(data, "VBPR").loss(*doubled(data), one_batch(data, 0))
    assert terms["intra"].item() == pytest.approx(0.0, abs=1e-12)
    assert terms["inter"].item() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "weight: found -1.0, expected a number of zero or more"),
        ({"num_items": 1}, "num_items: found 1, expected at least 2"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message, make_data):
    with pytest.raises(InputError, match=message):
        consistency(make_data(), **options)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_new_objective_takes_the_state_of_a_trained_one(wrapped, make_data):
    data = make_data()

    def made(**options) -> Objective:
        objective = ViewConsistency(built(BACKBONES["VBPR"], data), **options)
        return DifficultyCurriculum(objective, stage_epochs=1) if wrapped else objective

    trained = made().float()
    Trainer(max_epochs=1, progress=False, device="cpu", monitor="recall@5").fit(trained, data)
    new, state = made().float(), trained.state_dict()
    assert any(".projectors." in f".{name}" for name in state)
    new.load_state_dict(state)
    assert state.keys() == new.state_dict().keys()
    assert all(torch.equal(value, new.state_dict()[name]) for name, value in state.items())
    Trainer(max_epochs=1, progress=False, device="cpu", monitor="recall@5").fit(new, data)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        made(weight=0.0).float().load_state_dict(state)
