"""Calibrated confidence, self-distillation and alignment against plain loops, finite differences and published code."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_ckd.balance.calibrated import (
    CalibratedObjective,
    ModalityGapObjective,
    SelfDistillation,
    confidence_rise,
    decision_log_prob,
    distillation_weights,
    jensen_shannon,
)
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from tests.balance.test_ckd import one_batch
from tests.conftest import TOLERANCE, Golden
from tests.nn.models.zoo import BACKBONES, built, doubled


def close(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and torch.allclose(one, two, rtol=0, atol=TOLERANCE)


def instances(file: Golden, kind: str) -> list[str]:
    """Return the names of all instances of a kind, such as ``margins2``."""
    return sorted({key.split("/")[0] for key in file if key.startswith(kind)})


def published_logits(file: Golden, name: str) -> tuple[dict[str, Tensor], list[Tensor], list[Tensor], Tensor]:
    """Return parameters, logits of every modality alone and of all, and the bias of the head of a published step."""
    start = f"{name}/param/"
    params = {key.removeprefix(start): file[key].requires_grad_() for key in file if key.startswith(start)}
    modalities = [key.split("/")[-1] for key in file if key.startswith(f"{name}/x/")]
    rows = [F.linear(file[f"{name}/x/{m}"], params[f"enc.{m}.weight"], params[f"enc.{m}.bias"]) for m in modalities]
    bias = params["fusion_module.fc_out.bias"]
    blocks = params["fusion_module.fc_out.weight"].chunk(len(rows), dim=1)
    alone = [F.linear(x, w) + bias / len(rows) for x, w in zip(rows, blocks, strict=True)]
    return params, alone, modalities, bias


def check_gradients(file: Golden, name: str, loss: Tensor, params: dict[str, Tensor]) -> None:
    found = torch.autograd.grad(loss, list(params.values()))
    for key, grad in zip(params, found, strict=True):
        assert close(grad, file[f"{name}/grad/{key}"]), key


def test_confidence_rises_as_in_the_published_step(golden):
    file = golden("balance/cml")
    for name in instances(file, "step"):
        params, alone, modalities, bias = published_logits(file, name)
        label, chain = file[f"{name}/label"], [torch.stack(alone).sum(dim=0)]
        for m in file._arrays[f"{name}/removed"].tolist():
            chain.append(chain[-1] - alone[modalities.index(m)] + bias / len(modalities))
        logits = torch.stack(chain)
        assert close(logits, file[f"{name}/logits"])
        confidence = logits.softmax(dim=-1).amax(dim=-1)
        assert close(confidence, file[f"{name}/confidence"])
        losses = torch.stack([F.cross_entropy(z, label) for z in chain])
        assert close(losses, file[f"{name}/cross_entropy"])
        rises = confidence_rise(confidence[:-1], confidence[1:]).sum(dim=-1)
        assert close(rises, file[f"{name}/rise_per_sample"])
        of_batch = confidence_rise(confidence[:-1].sum(dim=-1), confidence[1:].sum(dim=-1))
        assert close(of_batch, file[f"{name}/rise_batch"])
        loss = losses.mean() + file["lam"] * of_batch.sum()
        assert close(loss, file[f"{name}/loss"])
        assert close(losses.mean() + file["lam"] * rises.sum(), file[f"{name}/loss_per_sample_hinge"])
        check_gradients(file, name, loss, params)


def test_confidence_of_margins_rises_as_in_the_reference(golden):
    file = golden("balance/cml")
    names = instances(file, "margins")
    assert names
    for name in names:
        chain = file[f"{name}/chain"]
        for suffix, key in (("", "rise_per_sample"), ("_absolute", "rise_absolute")):
            confidence = torch.sigmoid(chain.abs() if suffix else chain)
            assert close(confidence, file[f"{name}/confidence{suffix}"])
            assert close(confidence_rise(confidence[:-1], confidence[1:]).sum(dim=-1), file[f"{name}/{key}"])
        assert close(F.softplus(-chain).mean(dim=-1), file[f"{name}/bpr"])


def test_weights_between_modalities_are_those_of_the_published_step(golden):
    file = golden("balance/mbsd")
    names = instances(file, "step")
    assert names
    for name in names:
        params, alone, modalities, _ = published_logits(file, name)
        label, every = file[f"{name}/label"], torch.stack(alone, dim=-1)  # [B, C, M]
        prob = every.softmax(dim=1)
        own = prob.gather(1, label.view(-1, 1, 1).expand(-1, 1, len(alone))).squeeze(1)
        weights = distillation_weights(own, every.argmax(dim=1) == label.unsqueeze(-1))
        pairs = list(combinations(range(len(modalities)), 2))
        both = torch.stack([weights[:, m, n] + weights[:, n, m] for m, n in pairs])
        assert close(both, file[f"{name}/weight"])
        high, low = (torch.stack([f(own[:, m], own[:, n]) for m, n in pairs]) for f in (torch.maximum, torch.minimum))
        assert close(high, file[f"{name}/high"])
        assert close(low, file[f"{name}/low"])
        outputs = every if len(modalities) == 2 else prob
        gaps = torch.stack([(outputs[..., m] - outputs[..., n]).square().mean(dim=1) for m, n in pairs])
        divergence = low * (low.log() - high)
        assert close(gaps, file[f"{name}/squared_gap"])
        assert close(divergence, file[f"{name}/code_kl"])
        losses = [F.cross_entropy(z, label) for z in (torch.stack(alone).sum(dim=0), *alone)]
        loss = torch.stack(losses).sum() + (both * gaps).mean() + (both * divergence).mean()
        assert close(loss, file[f"{name}/loss"])
        check_gradients(file, name, loss, params)


FITTED = (2.04623704e-01, 3.35472727e-03, 1.22989557e-04, -2.92947416e-06, 2.23835486e-08, -5.39717505e-11)
"""Coefficients of the published share of classification by epoch, fitted to one run, which the library does not use."""


def fitted_shares(epoch: Tensor) -> Tensor:
    """Return the published shares of classification and alignment, ``[epochs, 2]``."""
    share = sum(c * epoch.double() ** n for n, c in enumerate(FITTED))
    return torch.stack([share, 1 - share], dim=1)


def test_divergences_and_the_published_loss_of_the_modality_gap(golden):
    file = golden("balance/lfm")
    assert close(fitted_shares(file["epoch"]), file["fitted_alpha"])
    names = [name for kind in ("margins", "classes") for name in instances(file, kind)]
    assert {name[:-1] for name in names} == {"margins", "classes"}
    for name in names:
        classes = name.startswith("classes")
        logits = file[f"{name}/{'logits' if classes else 'margin'}"].requires_grad_()
        log_prob = logits.log_softmax(dim=-1) if classes else decision_log_prob(logits)
        pairs = list(combinations(range(len(logits)), 2))
        if classes:
            assert close(fitted_shares(torch.tensor([10])).squeeze(0), file[f"{name}/alpha"])
        for key, from_mean in (("jensen_shannon", False), ("alignment", True)):
            found = torch.stack([jensen_shannon(log_prob[m], log_prob[n], from_mean).mean() for m, n in pairs])
            assert close(found, file[f"{name}/{key}"]), (name, key)
        if classes:
            cross_entropy = F.cross_entropy(logits.mean(dim=0), file[f"{name}/label"])
            assert close(cross_entropy, file[f"{name}/cross_entropy"])
            loss = 2 * (file[f"{name}/alpha"] * torch.stack([cross_entropy, found.mean()])).sum()
            assert close(loss, file[f"{name}/loss"])
            assert close(torch.autograd.grad(loss, logits)[0], file[f"{name}/grad"])


def test_the_divergence_of_decisions_is_zero_for_equal_ones_and_at_most_ln_2():
    margin = torch.tensor([-60.0, -1.0, 0.0, 2.0, 60.0], dtype=torch.float64)
    same = jensen_shannon(decision_log_prob(margin), decision_log_prob(margin))
    assert same.abs().max() < 1e-12
    opposite = jensen_shannon(decision_log_prob(margin), decision_log_prob(-margin))
    assert opposite[0].item() == pytest.approx(math.log(2), abs=1e-12)
    assert opposite.max() <= math.log(2) + 1e-12


def margins_by_hand(data, model, batch, random: bool = False):
    """Return a function from a view to its margins as a list of floats."""
    user, first, second = batch[3:] if random else batch[:3]

    def margins(view) -> list[float]:
        out = model(*doubled(data), view)
        return (out.user[user] * (out.item[first] - out.item[second])).sum(dim=-1).tolist()

    return margins


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("lacking", [False, True])
@pytest.mark.parametrize("removal", ["each", "chain"])
@pytest.mark.parametrize("modalities", [2, 3])
def test_calibration_terms_equal_a_loop(modalities, removal, lacking, absolute, make_data):
    data = make_data(modalities=modalities)
    model, batch = built(BACKBONES["EarlyFusionLightGCN"], data), one_batch(data, 0)
    has = {"mod1": torch.arange(9) % 3 > 0} if lacking else {}
    objective = CalibratedObjective(model, 0.7, 0.3, removal, absolute, l2=0.0, has=has)
    torch.manual_seed(3)
    views = list(objective.views)
    torch.manual_seed(3)
    terms = objective.loss(*doubled(data), batch)
    assert [len(view) for view in views] == ([modalities] + [modalities - 1] * modalities, [3, 2, 1][-modalities:])[
        removal == "chain"
    ]
    before = views[:-1] if removal == "chain" else [views[0]] * modalities
    margins, removed, rise = margins_by_hand(data, model, batch), 0.0, 0.0
    for larger, smaller in zip(before, views[1:], strict=True):
        assert smaller < larger
        pairs = zip(margins(larger), margins(smaller), batch.positive.tolist(), batch.negative.tolist(), strict=True)
        for full, part, i, j in pairs:
            if "mod1" in larger and lacking and not (has["mod1"][i] and has["mod1"][j]):
                continue
            removed += math.log1p(math.exp(-part))
            full, part = (abs(full), abs(part)) if absolute else (full, part)
            rise += max(0.0, sigmoid(part) - sigmoid(full))
    assert rise > 0
    assert terms["removed"].item() == pytest.approx(0.3 * removed / 20, abs=1e-10)
    assert terms["rise"].item() == pytest.approx(0.7 * rise / 20, abs=1e-10)
    assert set(terms) == {"bpr", "removed", "rise"}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lacking", [False, True])
@pytest.mark.parametrize("backbone", ["VBPR", "EarlyFusionLightGCN"])
def test_self_distillation_equals_a_loop_and_teaches_the_worse_modality_only(backbone, lacking, make_data):
    data = make_data(modalities=3)
    model, batch = built(BACKBONES[backbone], data), one_batch(data, 0)
    has = {"mod1": torch.arange(9) % 3 > 0} if lacking else {}
    objective = SelfDistillation(model, 0.7, 0.3, l2=0.0, has=has)
    terms = objective.loss(*doubled(data), batch)
    margins = margins_by_hand(data, model, batch)
    empty, own = margins([]), {m: margins(m) for m in data.modalities}
    alone = distilled = 0.0
    for n, (i, j) in enumerate(zip(batch.positive.tolist(), batch.negative.tolist(), strict=True)):
        here = [m for m in own if m not in has or (has[m][i] and has[m][j])]
        alone += sum(math.log1p(math.exp(-own[m][n])) for m in here)
        prob = {m: sigmoid(own[m][n] - empty[n]) for m in here}
        for student in here:
            for teacher in here:
                if prob[teacher] > max(0.5, prob[student]):
                    target = sigmoid(own[teacher][n])
                    loss = -target * math.log(sigmoid(own[student][n]))
                    loss -= (1 - target) * math.log(sigmoid(-own[student][n]))
                    distilled += (prob[teacher] - prob[student]) * loss
    assert distilled > 0
    own = sum(terms[f"alone/{m}"].item() for m in data.modalities)
    assert own == pytest.approx(0.3 * alone / 20, abs=1e-10)
    assert terms["distilled"].item() == pytest.approx(0.7 * distilled / 20, abs=1e-10)
    assert set(terms) == {"bpr", "distilled", *(f"alone/{m}" for m in data.modalities)}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lacking", [False, True])
@pytest.mark.parametrize("modalities", [2, 3])
def test_the_alignment_equals_a_loop_over_random_triples(modalities, lacking, make_data):
    data = make_data(modalities=modalities)
    model, batch = built(BACKBONES["VBPR"], data), one_batch(data, 40)
    has = {"mod1": torch.arange(9) % 3 > 0} if lacking else {}
    objective = ModalityGapObjective(model, 0.7, share=0.3, num_random_triples=40, l2=0.0, has=has)
    terms = objective.loss(*doubled(data), batch)
    margins = margins_by_hand(data, model, batch, random=True)
    own = {m: [sigmoid(d) for d in margins(m)] for m in data.modalities}
    means = []
    for m, n in combinations(data.modalities, 2):
        found = []
        for p, q, i, j in zip(own[m], own[n], batch.random_first.tolist(), batch.random_second.tolist(), strict=True):
            if all(name not in has or (has[name][i] and has[name][j]) for name in (m, n)):
                sides = [(p, q), (1 - p, 1 - q)]
                found.append(sum(a * math.log(2 * a / (a + b)) + b * math.log(2 * b / (a + b)) for a, b in sides) / 2)
        means.append(sum(found) / len(found))
    assert terms["alignment"].item() == pytest.approx(0.7 * 0.3 / 0.7 * sum(means) / len(means), abs=1e-10)
    assert objective.num_random_triples == 40


def run(loss: Tensor, retain_graph: bool = False) -> None:
    loss.backward(retain_graph=retain_graph)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("sparse", [False, True])
def test_the_share_moves_by_the_cosine_of_two_gradients_and_the_gradient_stays_that_of_the_sum(sparse, make_data):
    data = make_data(modalities=3)
    batch = one_batch(data, 40)

    def made(**options) -> ModalityGapObjective:
        model = built(lambda data: VBPR.from_data(data, embedding_dim=4, sparse=sparse), data)
        return ModalityGapObjective(model, share=0.3, num_random_triples=40, l2=0.0, **options)

    objective, plain, twin = made(rate=0.01), made(rate=0.0), made(rate=0.0)
    objective.backward(objective.loss(*doubled(data), batch), run)
    plain.backward(plain.loss(*doubled(data), batch), run)
    for p, q in zip(objective.parameters(), plain.parameters(), strict=True):
        assert p.grad.is_sparse == q.grad.is_sparse == (sparse and p.grad.is_sparse)
        torch.testing.assert_close(p.grad.to_dense(), q.grad.to_dense(), rtol=0, atol=1e-6)  # Sums in single precision.
    assert float(plain.alignment_share) == 0.3

    twin.loss(*doubled(data), batch)["alignment"].backward()
    aligned = [torch.zeros_like(p) if p.grad is None else p.grad.to_dense().clone() for p in twin.parameters()]
    values = []
    for step in (1e-4, -2e-4):  # There and back: the slope of the ranking loss along the gradient of the alignment.
        with torch.no_grad():
            for p, direction in zip(twin.parameters(), aligned, strict=True):
                p.add_(step * direction)
        values.append(twin.loss(*doubled(data), batch)["bpr"].item())
    slope = (values[0] - values[1]) / 2e-4
    twin = made(rate=0.0)
    twin.loss(*doubled(data), batch)["bpr"].backward()
    main = math.sqrt(sum(float(p.grad.to_dense().square().sum()) for p in twin.parameters() if p.grad is not None))
    cosine = slope / main / math.sqrt(sum(float(x.square().sum()) for x in aligned))
    assert abs(cosine) > 1e-4
    assert float(objective.alignment_share) - 0.3 == pytest.approx(0.01 * cosine, abs=1e-7)


def test_bad_numbers_are_refused(make_data):
    model = built(BACKBONES["VBPR"], make_data())
    with pytest.raises(InputError, match="mbsd: found LightGCN, which ignores features"):
        SelfDistillation(built(BACKBONES["LightGCN"], make_data()))
    with pytest.raises(InputError, match="weight: found -1, expected a number of zero or more"):
        CalibratedObjective(model, weight=-1)
    with pytest.raises(InputError, match="unknown removal 'chains': did you mean 'chain'"):
        CalibratedObjective(model, removal="chains")
    with pytest.raises(InputError, match="alone_weight: found nan"):
        SelfDistillation(model, alone_weight=math.nan)
    with pytest.raises(InputError, match=r"share: found 1\.0, expected a number from 0\.05 to 0\.95"):
        ModalityGapObjective(model, share=1.0)
    with pytest.raises(InputError, match="num_random_triples: found 0, expected at least 1"):
        ModalityGapObjective(model, num_random_triples=0)
