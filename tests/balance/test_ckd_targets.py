"""What a student of distillation learns from: the best teacher of a triple, and rows instead of margins."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from pyg_ckd.balance import DistillationWrapper
from pyg_ckd.balance.ckd import best_target
from pyg_ckd.errors import InputError
from pyg_ckd.scoring import Embeddings
from tests.balance.test_ckd import one_batch, random_teachers
from tests.conftest import TOLERANCE
from tests.nn.models.zoo import BACKBONES, built, doubled

OPTIONS = {"distillation_weight": 0.3, "generic_weight": 2.0, "temperature": 0.7, "l2": 0.0, "reweight": False}


def test_the_best_target_is_the_one_of_the_published_code(golden):
    file = golden("balance/samm")
    prob = file["new_logits"].softmax(dim=-1).gather(-1, file["label"].expand(3, -1).unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(prob, file["label_prob"], rtol=0, atol=TOLERANCE)
    chosen, target = best_target(prob, file["stored_logits"])
    assert torch.equal(chosen, file["chosen"])
    assert torch.equal(target, file["target_logits"])
    consistency = torch.stack([F.mse_loss(new, target) for new in file["new_logits"]])
    assert torch.allclose(consistency, file["consistency"], rtol=0, atol=TOLERANCE)
    loss = consistency[2] + file["reg_weight"] * consistency[:2].sum()
    assert torch.allclose(loss, file["consistency_loss"], rtol=0, atol=TOLERANCE)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lacking", [False, True])
@pytest.mark.parametrize("modalities", [2, 3])
def test_with_the_best_teacher_terms_equal_a_loop(modalities, lacking, make_data):
    data = make_data(modalities=modalities)
    model, batch = built(BACKBONES["VBPR"], data), one_batch(data, 30)
    teachers = random_teachers(model)
    has = {"mod1": torch.arange(9) % 3 > 0} if lacking else {}
    wrapper = DistillationWrapper(model, teachers, num_random_triples=30, target="best", has=has, **OPTIONS).double()
    terms = wrapper.loss(*doubled(data), batch)
    student = {m: model(*doubled(data), m) for m in data.modalities}
    totals = {"specific": 0.0}
    generic = {m: [] for m in data.modalities}
    for kind, triples in (("specific", batch[:3]), ("generic", batch[3:])):
        taught = {m: out.margin(*triples).tolist() for m, out in teachers.items()}
        own = {m: out.margin(*triples).tolist() for m, out in student.items()}
        for n, (i, j) in enumerate(zip(triples[1].tolist(), triples[2].tolist(), strict=True)):
            here = [m for m in data.modalities if m not in has or (has[m][i] and has[m][j])]
            if kind == "specific":
                best = max(taught[m][n] for m in here)
                totals["specific"] += sum(max(0.0, best - own[m][n]) for m in here)
            else:
                best = max((taught[m][n] for m in here), key=abs)
                a = 1 / (1 + math.exp(-best / 0.7))
                for m in here:
                    s = own[m][n] / 0.7
                    generic[m].append(a * math.log1p(math.exp(-s)) + (1 - a) * math.log1p(math.exp(s)))
    there = dict.fromkeys(data.modalities, 1.0)
    if lacking:
        there["mod1"] = (has["mod1"][batch.positive] & has["mod1"][batch.negative]).double().mean().item()
    expected = sum(there[m] * sum(x) / len(x) for m, x in generic.items())
    assert terms["specific"].item() == pytest.approx(0.3 * totals["specific"] / 20, abs=1e-10)
    assert terms["generic"].item() == pytest.approx(0.3 * 2.0 * expected, abs=1e-10)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("backbone", ["VBPR", "EarlyFusionLightGCN", "MMGCN", "GRCN", "adapted"])
def test_rows_of_items_are_drawn_to_those_of_a_teacher_of_the_same_kind(backbone, make_data):
    data = make_data(modalities=2)
    model, other = built(BACKBONES[backbone], data), built(BACKBONES[backbone], data, seed=1)
    with torch.no_grad():
        teachers = dict(zip(data.modalities, other.forward_views(*doubled(data), data.modalities), strict=True))
    options = {**OPTIONS, "specific": False, "generic": False, "rows_weight": 4.0}
    wrapper = DistillationWrapper(model, teachers, **options).double()
    batch, expected = one_batch(data, 0), 0.0
    terms = wrapper.loss(*doubled(data), batch)
    for m in data.modalities:
        own = model(*doubled(data), m).item.detach()
        moves = (own != own[:1]).any(dim=0) & (teachers[m].item != teachers[m].item[:1]).any(dim=0)
        gaps = (own - teachers[m].item)[:, moves].square().mean(dim=1)
        expected += sum((gaps[i] + gaps[j]).item() / 2 for i, j in zip(batch[1], batch[2], strict=True)) / 20
    assert not {"specific", "generic"} & set(terms)
    assert terms["rows"].item() == pytest.approx(0.3 * 4.0 * expected, abs=1e-8)
    assert wrapper.num_random_triples == 0


@pytest.mark.usefixtures("double")
def test_a_student_that_is_its_teacher_has_no_gap_between_rows(make_data):
    data = make_data(modalities=2)
    model = built(BACKBONES["VBPR"], data)
    teachers = {m: model(*doubled(data), m).detach() for m in data.modalities}
    terms = (
        DistillationWrapper(model, teachers, rows_weight=1.0, generic=False)
        .double()
        .loss(*doubled(data), one_batch(data, 0))
    )
    assert terms["rows"].item() == pytest.approx(0.0, abs=1e-20)


def test_bad_input_is_refused(make_data):
    data = make_data()
    model = built(BACKBONES["VBPR"], data)
    teachers = random_teachers(model)
    with pytest.raises(InputError, match="unknown target 'bets': did you mean 'best'"):
        DistillationWrapper(model, teachers, target="bets")
    with pytest.raises(InputError, match=r"rows_weight: found -1\.0, expected a number of zero or more"):
        DistillationWrapper(model, teachers, rows_weight=-1.0)
    for options in ({"target": "best"}, {"rows_weight": 1.0}):
        with pytest.raises(InputError, match="without teachers, expected teachers to learn from"):
            DistillationWrapper(model, None, **options)
    narrow = {m: Embeddings(*(x.double() for x in out)) for m, out in teachers.items()}
    wrapper = DistillationWrapper(model, narrow, rows_weight=1.0, generic=False).double()
    with pytest.raises(
        InputError, match="rows_weight: found rows of width 11 in the view of 'mod0' and 3 in its teach"
    ):
        wrapper.loss(*doubled(data), one_batch(data, 0))
