"""AGM against its authors' numbers, in margins and in classes, and against gradients of gated sums."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_ckd import Objective, Trainer
from pyg_ckd.balance.agm import (
    AGM,
    LEAST_PROBABILITY,
    contribution_score,
    lead,
    modulation_factors,
    modulation_loss,
    running_mean,
)
from pyg_ckd.balance.asymmetric import ARM
from pyg_ckd.balance.attribution import shapley_values
from pyg_ckd.balance.curriculum import DifficultyCurriculum, DynamicCurriculum
from pyg_ckd.balance.gradients import gate, modulated
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR, LightGCN
from tests.balance.test_ckd import BACKBONES, one_batch
from tests.conftest import TOLERANCE, Golden
from tests.nn.models import zoo
from tests.nn.models.zoo import built, doubled


def instances(file: Golden, kind: str) -> list[str]:
    found = sorted({key.split("/")[0] for key in file if re.match(rf"{kind}\d/", key)})
    assert found
    return found


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def game(file: Golden, name: str) -> tuple[dict[frozenset[str], Tensor], list[str]]:
    start = f"{name}/v/"
    values = {frozenset(k.removeprefix(start)): file[k].requires_grad_() for k in file if k.startswith(start)}
    names = sorted(set().union(*values))
    return values | {frozenset(): torch.zeros_like(values[frozenset(names)])}, names


def test_every_array_of_the_margin_form_equals_the_published_code(golden: Callable[[str], Golden]):
    file = golden("balance/agm")
    for name in instances(file, "margins"):
        values, names = game(file, name)
        phi = shapley_values(values, names)
        same(phi.t(), file[f"{name}/contribution"])
        score = contribution_score(phi)
        same(score, file[f"{name}/score"])
        check_factors(file, name, score.detach())
        loss = F.softplus(-modulated(values[frozenset(names)], phi, file[f"{name}/coeff"])).mean()
        same(loss, file[f"{name}/loss"])
        loss.backward()
        for view, value in values.items():
            if view:
                same(value.grad, file[f"{name}/grad/{''.join(sorted(view))}"])


def test_scores_factors_and_gradients_of_classes_equal_the_published_code(golden: Callable[[str], Golden]):
    file = golden("balance/agm")
    for name in instances(file, "classes"):
        values, names = game(file, name)
        label = file[f"{name}/label"]
        phi = shapley_values(values, names)  # [B, C, M]
        same(phi.movedim(-1, 0), file[f"{name}/contribution"])
        chosen = -phi.log_softmax(dim=1)[torch.arange(label.numel()), label]
        same(chosen.clamp(max=-torch.tensor(LEAST_PROBABILITY).double().log()).mean(dim=0), file[f"{name}/score"])
        check_factors(file, name, file[f"{name}/score"])
        loss = F.cross_entropy(modulated(values[frozenset(names)], phi, file[f"{name}/coeff"]), label)
        same(loss, file[f"{name}/loss"])
        loss.backward()
        for view, value in values.items():
            if view:
                same(value.grad, file[f"{name}/grad/{''.join(sorted(view))}"])


def check_factors(file: Golden, name: str, score: Tensor) -> None:
    running = file[f"{name}/running_score"]
    same(lead(score), file[f"{name}/ratio"])
    same(lead(running), file[f"{name}/target_ratio"])
    same(modulation_factors(score, running, file.number("alpha")), file[f"{name}/coeff"])
    same(running_mean(running, score, file.integer("iteration")), file[f"{name}/new_running_score"])


def test_modulated_margins_are_the_margins_with_the_gradient_of_gated_contributions():
    generator = torch.Generator().manual_seed(0)
    base, phi = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((6,), (6, 3)))
    factors = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)
    gradients = []
    for modulate in (
        lambda b, p: modulated(b + p.sum(dim=-1), p, factors),
        lambda b, p: b + gate(p, factors).sum(dim=-1),
    ):
        b, p = base.clone().requires_grad_(), phi.clone().requires_grad_()
        out = modulate(b, p)
        torch.testing.assert_close(out, base + phi.sum(dim=-1), rtol=0, atol=1e-12)
        F.softplus(-out).sum().backward()
        gradients.append((b.grad, p.grad))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
    margin = base.float()
    assert torch.equal(modulated(margin, phi, factors), margin)


def test_the_term_of_modulation_is_zero_and_its_gradient_makes_up_the_rest():
    generator = torch.Generator().manual_seed(1)
    base, phi, weight = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((6,), (6, 2), (6,)))
    factors = torch.rand(6, 2, generator=generator, dtype=torch.float64) * 2
    phi.requires_grad_()
    margin = base + phi.sum(dim=-1)
    term = modulation_loss(margin, phi, factors, weight)
    assert term.item() == 0
    ((F.softplus(-margin) * weight).mean() + term).backward()
    for i in range(6):
        for m in range(2):
            slope = -torch.sigmoid(-margin[i]) * weight[i] / 6
            assert phi.grad[i, m].item() == pytest.approx((slope * factors[i, m]).item(), abs=1e-12)


def test_scores_leave_out_what_items_lack():
    phi = torch.tensor([[1.0, -2.0], [0.5, 3.0], [100.0, -100.0]], dtype=torch.float64)
    known = torch.tensor([[True, False], [True, True], [True, False]])
    expected = [sum(F.softplus(-phi[:, 0]).tolist()) / 3, F.softplus(-phi[1, 1]).item()]
    assert contribution_score(phi, known).tolist() == pytest.approx(expected, abs=1e-12)
    assert contribution_score(phi)[1].item() == pytest.approx(
        (F.softplus(-phi[:2, 1]).sum().item() - torch.tensor(LEAST_PROBABILITY).double().log().item()) / 3
    )


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("backbone", ["VBPR", "EarlyFusionLightGCN"])
def test_the_first_step_is_plain_and_later_ones_modulate_shared_parameters(backbone, modalities, make_data):
    data = make_data(modalities=modalities)
    model = built(BACKBONES[backbone], data)
    objective, batch = AGM(model, alpha=2.0, l2=0.0), one_batch(data, 0)
    features, graph = doubled(data)

    def gradient(of: Objective) -> Tensor:
        model.zero_grad(set_to_none=True)
        sum(of.loss(features, graph, batch).values()).backward()
        return model.user_embedding.grad.clone()

    plain = gradient(Objective(model, l2=0.0))
    torch.testing.assert_close(gradient(objective), plain, rtol=0, atol=1e-12)
    first = objective.running.clone()
    objective.running += torch.linspace(-0.3, 0.3, modalities)
    factors = modulation_factors(first, objective.running, 2.0)
    found = gradient(objective)
    out = dict(zip(objective.views, model.outputs(features, graph, objective.views), strict=True))
    margins = objective.margins(out, batch)
    phi = shapley_values(margins, model.modalities)
    base = margins[objective.view] - phi.sum(dim=-1)
    loss = F.softplus(-(base + gate(phi, factors).sum(dim=-1))).mean()
    (expected,) = torch.autograd.grad(loss, [model.user_embedding])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    # In VBPR ids are in no contribution, so that only parameters of one modality feel the factors.
    assert torch.allclose(found, plain) == (backbone == "VBPR")


def test_steps_of_the_next_epoch_go_by_the_mean_factors_of_the_last(make_data):
    data = make_data()
    with_steps, without = (AGM(VBPR.from_data(data, embedding_dim=4), step_sizes=on) for on in (True, False))
    options = {"max_epochs": 2, "batch_size": 8, "monitor": "recall@5", "device": "cpu", "progress": False}
    history = Trainer(**options).fit(with_steps, data)
    assert with_steps.step_sizes() == {m: history.best_row[f"weight/{m}"] for m in data.modalities}
    assert set(with_steps.step_sizes().values()) != {1.0}
    assert without.step_sizes() == {}
    assert with_steps.running.isfinite().all()


def test_far_apart_scores_give_factors_within_their_bounds(make_data):
    objective = AGM(VBPR.from_data(make_data(), embedding_dim=4), alpha=3.0)
    objective.iterations += 1
    objective.running.copy_(torch.tensor([18.0, 0.0]))
    phi = torch.tensor([[50.0, -50.0]]).expand(4, 2)
    assert objective._factors(phi, None).tolist() == [pytest.approx(0.1), pytest.approx(10.0)]


def test_bad_arguments_are_refused(make_data):
    data = make_data()
    with pytest.raises(InputError, match="alpha: found -1"):
        AGM(VBPR.from_data(data), alpha=-1)
    with pytest.raises(InputError, match="agm: found LightGCN, which ignores features"):
        AGM(LightGCN.from_data(data))


def test_leads_are_over_the_modalities_that_have_scores():
    score, before = torch.tensor([0.4, 0.0, 0.9]).double(), torch.tensor([0.6, 0.0, 0.7]).double()
    known = torch.tensor([True, False, True])
    both = torch.tensor([0, 2])
    assert lead(score, known)[both].tolist() == pytest.approx(lead(score[both]).tolist(), abs=1e-12)
    found = modulation_factors(score, before, 0.8, known)
    assert found[both].tolist() == pytest.approx(modulation_factors(score[both], before[both], 0.8).tolist(), abs=1e-12)
    assert found[1] == 1.0
    for few in ([True, False, False], [False] * 3):
        assert modulation_factors(score, before, 0.8, torch.tensor(few)).tolist() == [1.0] * 3


def test_a_modality_that_no_triple_has_leaves_the_factors_of_the_others(make_data):
    data = make_data(modalities=3)
    with pytest.warns(UserWarning, match="agm: found 1 of 9 items with all modalities"):
        rare = AGM(built(BACKBONES["VBPR"], data), has={"mod1": torch.arange(9) == 0})
    pair = torch.tensor([0, 2])
    generator, counted = torch.Generator().manual_seed(0), torch.tensor([[True, False, True]]).expand(20, 3)
    contributions = [torch.randn(20, 3, generator=generator) for _ in range(3)]
    other = AGM(built(BACKBONES["VBPR"], make_data(modalities=2)))
    for each in contributions:
        factors = rare._factors(each, counted)
        expected = other._factors(each[:, pair], None)
        assert factors[pair].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
        assert factors[1] == 1.0
    assert expected.min() < 1
    rare._factors(contributions[0], torch.ones(20, 3, dtype=torch.bool))
    score = contribution_score(contributions[0])[1]
    assert float(rare.running[1]) == pytest.approx(float(score), abs=1e-12)  # Not its share of all steps.


def test_triples_that_lack_a_rare_modality_are_compared_by_the_others(make_data):
    data = make_data(modalities=2)
    items = torch.arange(9)
    rare = AGM(built(BACKBONES["VBPR"], data), has={"mod1": items < 2})
    assert torch.equal(rare.compared(items, items), rare.complete(items, items))  # Two of nine are enough.
    others = torch.arange(2, 9)
    assert not rare.complete(others, others).any()
    assert rare.compared(others, others).tolist() == [[True, False]] * 7
    assert AGM(built(BACKBONES["VBPR"], data)).compared(items, items) is None


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("around", ["odsw", "dyncim", "own weights"])
@pytest.mark.parametrize("inside", ["agm", "arm"])
@pytest.mark.parametrize("backbone", ["VBPR", "EarlyFusionLightGCN"])
def test_modulation_weighs_triples_as_the_main_loss_does(backbone, inside, around, lost, make_data):
    data = make_data(modalities=3)
    model = built(BACKBONES[backbone], data)
    names, batch, features = model.modalities, one_batch(data, 0), doubled(data)
    scale = torch.where(torch.arange(batch.user.numel()) < 3, 0.0 if lost else 0.5, 1.2)
    batch = batch.weighted(scale)

    class Weighted(AGM if inside == "agm" else ARM):  # type: ignore[misc]
        factors = None

        def triple_weights(self, out, batch):
            return torch.linspace(0.5, 1.5, batch.user.numel()) if around == "own weights" else None

        def _factors(self, *args):
            return torch.tensor([0.4, 1.0, 2.5])

    objective = Weighted(model, l2=0.0)
    if around != "own weights":
        objective = (DifficultyCurriculum if around == "odsw" else DynamicCurriculum)(objective)
    objective.begin_epoch(*features)
    terms = objective.loss(*features, batch)
    parameters = [p for p in model.parameters() if p.requires_grad]
    term = terms["agm" if inside == "agm" else "reinforced"]
    found = torch.autograd.grad(terms["bpr"] + term, parameters, retain_graph=True, allow_unused=True)

    out = dict(zip(objective.views, model.outputs(*features, objective.views), strict=True))
    margins = {view: own.margin(*batch[:3]) for view, own in out.items()}
    phi, full = shapley_values(margins, names), margins[frozenset(names)]
    if around == "own weights":
        weight = torch.linspace(0.5, 1.5, batch.user.numel())
    else:
        fresh = type(objective)(AGM(model))
        fresh.begin_epoch(*features)
        weight = fresh.weigh(out, batch)
        assert weight.std() > 0
    decision = full + (torch.tensor([0.4, 1.0, 2.5]) * (phi - phi.detach())).sum(dim=-1)
    decision = decision - phi.sum(dim=-1) + phi.sum(dim=-1).detach()  # The gradient of the margin is in that of phi.
    loss = (scale * weight * F.softplus(-decision)).mean()
    expected = torch.autograd.grad(loss, parameters, allow_unused=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(*(torch.zeros(()) if x is None else x for x in (a, b)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("ranking", ["bpr", "softmax"])
@pytest.mark.parametrize("around", [False, True])
def test_where_the_main_loss_is_a_softmax_arm_reinforces_uni_modal_losses_alone(around, ranking, make_data):
    data = make_data(modalities=2)
    model = built(zoo.BACKBONES["VBPR" if ranking == "softmax" else "FISM on content"], data)
    objective = ARM(model.float(), l2=0.0)
    trainer = Trainer(
        max_epochs=2, batch_size=8, lr=0.05, ranking=ranking, monitor="recall@5", device="cpu", progress=False
    )
    rows = trainer.fit(DynamicCurriculum(objective) if around else objective, data).rows
    assert all("loss/softmax" in row and "loss/alone/mod0" in row for row in rows)
    assert all("loss/reinforced" not in row for row in rows)
    assert rows[-1]["weight/mod0"] != 1


@pytest.mark.parametrize("ranking", ["bpr", "softmax"])
def test_where_the_main_loss_is_a_softmax_factors_act_on_step_sizes_alone(ranking, make_data):
    data = make_data(modalities=2)
    model = built(zoo.BACKBONES["VBPR" if ranking == "softmax" else "FISM on content"], data)
    objective = AGM(model, l2=0.0)
    rows = (
        Trainer(max_epochs=3, batch_size=8, lr=0.05, ranking=ranking, monitor="recall@5", device="cpu", progress=False)
        .fit(objective.float(), data)
        .rows
    )
    assert all("loss/softmax" in row and "loss/agm" not in row for row in rows)
    assert rows[-1]["weight/mod0"] != 1
    assert set(objective.step_sizes()) <= {"mod0", "mod1"}
    assert any(k != 1 for k in objective.step_sizes().values())
