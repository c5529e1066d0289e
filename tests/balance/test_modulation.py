"""Rules for step sizes against their authors' numbers, plain loops, and what they do to a training."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_ckd import Trainer
from pyg_ckd.balance.attribution import LEAST_TRIPLES, unbiased_label_information
from pyg_ckd.balance.modulation import (
    ARL,
    CGGM,
    OGM,
    arl_logits,
    binary_entropy,
    cggm_coefficients,
    direction_cosines,
    direction_loss,
    discrepancy,
    ogm_coefficients,
    with_noise,
)
from pyg_ckd.balance.pacing import LEAST_STEP
from pyg_ckd.errors import InputError
from pyg_ckd.nn import FREEDOM, VBPR, LightGCN
from tests.balance.test_calibrated import published_logits
from tests.balance.test_ckd import BACKBONES, one_batch
from tests.conftest import TOLERANCE, Golden
from tests.nn.models.zoo import BACKBONES as ZOO
from tests.nn.models.zoo import built, doubled

TRAINER = {"batch_size": 8, "lr": 0.01, "monitor": "recall@5", "device": "cpu", "progress": False}
RULES = [OGM, CGGM, ARL]


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def instances(file: Golden, kind: str) -> list[str]:
    found = sorted({key.split("/")[0] for key in file if re.match(rf"{kind}\d/", key)})
    assert found
    return found


def test_scores_ratios_and_coefficients_of_ogm_equal_the_published_rule(golden: Callable[[str], Golden]):
    file = golden("balance/ogm")
    for name in instances(file, "margins"):
        check_ogm(file, name, file[f"{name}/margin"].sigmoid().sum(dim=1))
    for name in instances(file, "classes"):
        label = file[f"{name}/label"]
        probability = file[f"{name}/logits"].softmax(dim=-1)[:, torch.arange(label.numel()), label]
        same(probability, file[f"{name}/label_prob"])
        check_ogm(file, name, probability.sum(dim=1))


def check_ogm(file: Golden, name: str, score: Tensor) -> None:
    same(score, file[f"{name}/score"])
    same(discrepancy(score), file[f"{name}/ratio"])
    coefficients = ogm_coefficients(discrepancy(score), file.number("alpha"))
    same(coefficients, file[f"{name}/coeff"])
    if f"{name}/official_coeff" in file:
        same(discrepancy(score), file[f"{name}/official_ratio"])
        same(coefficients, file[f"{name}/official_coeff"])


def test_a_step_of_the_toolkit_is_the_rule_with_its_own_scores(golden: Callable[[str], Golden]):
    file = golden("balance/ogm")
    for step in instances(file, "step"):
        params, alone, modalities, _ = published_logits(file, step)
        label = file[f"{step}/label"]
        loss = F.cross_entropy(torch.stack(alone).sum(dim=0), label)
        same(loss, file[f"{step}/loss"])
        logits = torch.stack(alone).detach()  # [M, B, C]
        # Theirs: of two modalities the published scores, of three those of cosines where the modality is right.
        two = len(modalities) == 2
        probability = (logits if two else logits.cos()).softmax(dim=-1)[:, torch.arange(label.numel()), label]
        score = (probability if two else probability * (logits.argmax(dim=-1) == label)).sum(dim=1)
        ratio = score / ((score.flip(0) if two else score.min()) + 1e-5)
        factors = ogm_coefficients(ratio, file.number("alpha")).clamp(min=0)
        same(factors, file[f"{step}/benchmark_coeff"])
        loss.backward()
        for name, parameter in params.items():
            same(parameter.grad, file[f"{step}/grad/{name}"])
            owner = name.split(".")[1]
            slowed = owner in modalities and parameter.dim() > 1
            factor = factors[modalities.index(owner)] if slowed else 1
            same(factor * parameter.grad, file[f"{step}/benchmark_grad_silent/{name}"])


def test_noise_of_a_step_is_that_of_the_published_code(golden: Callable[[str], Golden]):
    file = golden("balance/ogm")
    for step in instances(file, "step"):
        start = f"{step}/grad/"
        for key in [key for key in file if key.startswith(start)]:
            name, grad = key.removeprefix(start), file[key]
            noise = file[f"{step}/benchmark_grad_noisy/{name}"] - file[f"{step}/benchmark_grad_silent/{name}"]
            if f"{step}/noise/{name}" not in file:
                assert not noise.any()
                assert grad.dim() == 1 or "fusion" in name
                continue
            assert grad.dim() > 1
            draw = file[f"{step}/noise/{name}"] / grad.std()
            same(with_noise(grad, draw=draw) - grad, noise)


def test_noise_has_the_spread_of_the_gradient_and_leaves_out_rows_that_the_step_does_not_reach():
    torch.manual_seed(0)
    grad = 3 * torch.randn(4000, 5, dtype=torch.float64) + 1
    grad[1000:] = 0
    grad[2] = 0
    added = with_noise(grad, 0.5) - grad
    reached = (grad != 0).all(dim=1)
    assert not added[~reached].any()
    assert float(added[reached].std()) == pytest.approx(0.5 * float(grad[reached].std()), rel=0.03)
    assert torch.equal(with_noise(torch.zeros(3, 2)), torch.zeros(3, 2))
    assert with_noise(torch.tensor([[2.0]])).tolist() == [[2.0]]
    assert with_noise(torch.full((3, 2), torch.inf)).isnan().all()  # The step is skipped.


def test_coefficients_and_directions_of_cggm_equal_the_published_code(golden: Callable[[str], Golden]):
    file = golden("balance/cggm")
    for name in instances(file, "m"):
        coefficients = cggm_coefficients(file[f"{name}/metric_before"], file[f"{name}/metric_after"])
        same(coefficients, file[f"{name}/coeff"])
        same(file["rho"] * coefficients, file[f"{name}/grad_scale"])
        joint, each = file[f"{name}/fusion"].flatten(), file[f"{name}/classifier"].flatten(1)
        cosine = F.cosine_similarity(each, joint.unsqueeze(0))
        same(cosine, file[f"{name}/cosine"])
        same(direction_loss(coefficients, cosine), file[f"{name}/direction_loss"])
        assert file.number("lam") > 0  # Their weight of it, which enters no array.


def test_weights_of_arl_equal_the_published_code(golden: Callable[[str], Golden]):
    file = golden("balance/arl")
    logits = file["logits"]
    strength = logits.abs().mean(dim=1).sum(dim=-1)
    probability = logits.softmax(dim=-1)
    entropy = -(probability * (probability + 1e-16).log()).sum(dim=-1).mean(dim=-1)
    same(strength, file["strength"])
    same(strength / strength.sum(), file["strength_share"])
    same(entropy, file["entropy"])
    same((entropy / entropy.sum()).clamp(min=0.3), file["entropy_share"])
    temperature = file.number("temperature")
    same(arl_logits(strength, entropy, temperature).softmax(dim=0), file["weight"])
    other = arl_logits(torch.ones(2).double(), entropy, 1.0)
    same(other / other.sum(), file["inverse_entropy_weight"])


def test_binary_entropy_is_that_of_two_probabilities_and_finite():
    margin = torch.tensor([0.0, 1.3, -4.0, 500.0, -500.0], dtype=torch.float64)
    p = margin.sigmoid()
    expected = torch.special.entr(p) + torch.special.entr(1 - p)
    torch.testing.assert_close(binary_entropy(margin), expected, rtol=0, atol=1e-12)
    assert binary_entropy(margin)[0].item() == pytest.approx(math.log(2))


def without_ids(model, data, batch) -> Tensor:
    full, base = doubled(data), model(*doubled(data), [])
    return torch.stack(
        [model(*full, m).margin(*batch[:3]) - base.margin(*batch[:3]) for m in model.modalities], dim=1
    ).detach()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lacking", [False, True])
@pytest.mark.parametrize("backbone", ["VBPR", "EarlyFusionLightGCN"])
@pytest.mark.parametrize("cls", RULES)
def test_factors_follow_from_the_triples_of_an_epoch(cls, backbone, lacking, make_data):
    data = make_data(modalities=3)
    model = built(BACKBONES[backbone], data)
    has = {"mod1": torch.arange(9) % 3 > 0} if lacking else None
    objective = cls(model, has=has)
    batches = [one_batch(data, 0), one_batch(data, 0)]
    batches[1] = type(batches[1])(*(x[:7] for x in batches[1]))
    alone = torch.cat([without_ids(model, data, batch) for batch in batches])
    known = torch.ones_like(alone, dtype=torch.bool)
    if lacking:
        known[:, 1] = torch.cat([has["mod1"][b.positive] & has["mod1"][b.negative] for b in batches])
    for epoch in range(2):
        for batch in batches:
            objective.loss(*doubled(data), batch)
        found = objective.epoch_statistics()
        if epoch == 0:
            assert list(found.values()) == [1.0] * 3
        if epoch == 0 and cls is CGGM:
            assert objective.factors.tolist() == [1.0] * 3
            objective.before -= torch.tensor([0.1, 0.0, 0.05])
    columns = [alone[known[:, n], n] for n in range(3)]
    if cls is OGM:
        p = [float(x.sigmoid().mean()) for x in columns]
        ratio = [sum(p[m] / p[n] for n in range(3) if n != m) / 2 for m in range(3)]
        expected = [1 - math.tanh(0.3 * r) if r > 1 else 1.0 for r in ratio]
    elif cls is ARL:
        share = torch.stack([binary_entropy(x).mean() for x in columns])
        share = (share / share.sum()).clamp(min=0.2)
        size = torch.stack([x.abs().mean() for x in columns])
        exponent = 8 * (1 - size / size.sum()) * (1 / share) / (1 / share).sum()
        expected = [max(3 * w, LEAST_STEP) for w in exponent.softmax(dim=0).tolist()]
    else:  # Nothing has changed but what was taken off above.
        enough = (torch.stack([part.sum(dim=0) for part in known.split([20, 7])]) >= LEAST_TRIPLES).any(dim=0)
        change, expected = torch.tensor([0.1, 0.0, 0.05])[enough], torch.ones(3)
        expected[enough] = int(enough.sum()) * torch.softmax(-0.5 * change / change.abs().mean(), dim=0)
        expected = expected.tolist()
    assert list(objective.step_sizes()) == list(model.modalities)
    assert list(objective.step_sizes().values()) == pytest.approx(expected, abs=1e-9)
    assert len(set(expected)) > 1


@pytest.mark.usefixtures("double")
def test_label_information_of_an_epoch_is_what_cggm_compares(make_data):
    data = make_data()
    model, batch = built(BACKBONES["VBPR"], data), one_batch(data, 0)
    objective = CGGM(model)
    objective.loss(*doubled(data), batch)
    objective.epoch_statistics()
    expected = unbiased_label_information(without_ids(model, data, batch)).clamp(min=0)
    torch.testing.assert_close(objective.before, expected, rtol=0, atol=1e-10)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("backbone", ["VBPR", "MMGCN", "EarlyFusionLightGCN"])
def test_directions_are_those_of_gradients_on_the_rows_of_users(backbone, make_data):
    data = make_data(modalities=3)
    model, batch = built(BACKBONES[backbone], data), one_batch(data, 0)
    has = {"mod1": torch.arange(9) % 4 > 0}
    objective = CGGM(model, direction=0.7, l2=0.0, has=has)
    objective.factors.copy_(torch.tensor([0.5, 1.5, 1.0]))
    sums, count = torch.zeros(3), 0
    for u, i, j in zip(*(x.tolist() for x in batch[:3]), strict=True):
        if not (has["mod1"][i] and has["mod1"][j]):
            continue
        gradients = []
        for view in [None, *model.modalities]:
            out = model(*doubled(data), view)
            row = out.user[u].detach().requires_grad_()
            F.softplus(-(row @ (out.item[i] - out.item[j]))).backward()
            gradients.append(row.grad)
        sums += torch.stack([1 - F.cosine_similarity(gradients[0], grad, dim=0) for grad in gradients[1:]])
        count += 1
    assert 0 < count < batch.user.numel()
    total = float((objective.factors * sums / count).sum())
    term = objective.loss(*doubled(data), batch)["direction"]
    assert term.item() == pytest.approx(0.7 * total / 3, abs=1e-9)
    term.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.usefixtures("double")
def test_a_modality_that_no_triple_has_leaves_the_directions_of_the_others(make_data):
    data = make_data(modalities=3)
    batch, found = one_batch(data, 0), []
    for has in ({"mod1": torch.zeros(9, dtype=torch.bool)}, None):
        model = built(BACKBONES["EarlyFusionLightGCN"], data)
        objective = CGGM(model, l2=0.0, has=has)
        if has is None:
            objective.factors[1] = 0.0
        term = objective.loss(*doubled(data), batch)["direction"]
        parameters = list(model.parameters())
        found.append([term, *torch.autograd.grad(term, parameters, allow_unused=True, materialize_grads=True)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "backbone", ["VBPR", "GRCN", "MGCN", "LATTICE", "FREEDOM", "FISM on content", "MICRO", "DualGNN"]
)
def test_directions_are_those_of_the_tables_of_any_backbone(backbone, make_data):
    data = make_data(modalities=3)
    model, batch = built(ZOO[backbone], data), one_batch(data, 0)
    joint, *others = model.outputs(*doubled(data), [None, *([m] for m in model.modalities)])
    tables = [out.dense().item for out in (joint, *others)]
    whole, *alone = (table[batch.positive] - table[batch.negative] for table in tables)
    expected = torch.stack([F.cosine_similarity(whole, each) for each in alone], dim=-1)
    same(direction_cosines(joint, others, batch), expected)


@pytest.mark.usefixtures("double")
def test_uni_modal_terms_of_arl_have_the_weights_of_the_last_epoch(make_data):
    data = make_data()
    model, batch = built(BACKBONES["VBPR"], data), one_batch(data, 0)
    objective = ARL(model, weight=0.4)
    objective.factors.copy_(torch.tensor([0.5, 1.5]))
    terms = objective.loss(*doubled(data), batch)
    for factor, m in zip((0.5, 1.5), model.modalities, strict=True):
        loss = F.softplus(-model(*doubled(data), m).margin(*batch[:3])).mean()
        assert terms[f"alone/{m}"].item() == pytest.approx(0.4 * factor * loss.item(), abs=1e-10)


@pytest.mark.parametrize("sparse", [False, True])
def test_noise_reaches_tables_and_matrices_of_modalities_alone(sparse, make_data):
    data = make_data()
    gradients = []
    for noise in (0.0, 1.0):
        torch.manual_seed(0)
        model = built(lambda data: VBPR.from_data(data, embedding_dim=4, sparse=sparse), data)
        objective = OGM(model, noise=noise)
        terms = objective.loss(*doubled(data), one_batch(data, 0))
        objective.backward(terms, lambda loss: loss.backward())
        gradients.append({n: p.grad.to_dense() for n, p in model.named_parameters() if p.grad is not None})
    for name, grad in gradients[0].items():
        own = name.endswith(("mod0", "mod1", "weight"))
        assert torch.equal(gradients[1][name], grad) != own, name
        if own:
            rows = (grad != 0).any(dim=1)
            assert torch.equal((gradients[1][name] != 0).any(dim=1), rows)


@pytest.mark.parametrize("cls", RULES)
def test_steps_of_the_next_epoch_go_by_the_factors_that_the_history_shows(cls, make_data):
    data = make_data()
    objective = cls(VBPR.from_data(data, embedding_dim=4))
    history = Trainer(max_epochs=4, **TRAINER).fit(objective, data)
    rows = [[row[f"weight/{m}"] for m in data.modalities] for row in history.rows]
    assert rows[0] == [1.0, 1.0]
    assert rows[-1] != [1.0, 1.0]
    assert all(0 < k <= 2 for row in rows for k in row)


@pytest.mark.parametrize(
    ("cls", "options"),
    [(OGM, ("alpha", "noise")), (CGGM, ("sharpness", "direction")), (ARL, ("temperature", "weight"))],
)
def test_bad_arguments_are_refused(cls, options, make_data, monkeypatch):
    data = make_data()
    for name in options:
        with pytest.raises(InputError, match=f"{name}: found -0.5"):
            cls(VBPR.from_data(data), **{name: -0.5})
    with pytest.raises(InputError, match=f"{cls.name}: found LightGCN, which ignores features"):
        cls(LightGCN.from_data(data))
    with pytest.raises(InputError, match="found _Shared without a trained parameter of one modality alone"):
        cls(_Shared.from_data(data))
    monkeypatch.setattr(FREEDOM, "steered", "steps")  # As of a backbone that does not say it.
    model = built(lambda data: FREEDOM.from_data(data, embedding_dim=4, num_neighbors=3), data)
    features, graph = doubled(data)
    objective = cls(model)
    graphs = objective.begin_epoch(features, objective.prepare(features, graph))
    with pytest.raises(InputError, match="found FREEDOM without a trained parameter of one modality alone that scores"):
        objective.loss(features, graphs, one_batch(data, 0))


class _Shared(VBPR):
    """A backbone whose parameters belong to all modalities."""

    @property
    def modality_parameters(self):
        return {m: [] for m in self.modalities}


def test_factors_of_arl_are_those_of_the_modalities_that_some_triple_had(make_data):
    data = make_data(modalities=3)
    whole, pair = (ARL(built(BACKBONES["VBPR"], data)) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    alone = torch.randn(30, 3, generator=generator) * torch.tensor([3.0, 1.0, 2.0])
    known = torch.ones(30, 3, dtype=torch.bool)
    known[:, 1] = False
    pair.factors[1] = 0.7
    pair.observe(alone, known)
    mean = [f(alone[:, [0, 2]]).mean(dim=0, dtype=torch.float64) for f in (torch.abs, binary_entropy)]
    logits = arl_logits(*mean, 8.0)
    expected = (2 * logits.softmax(dim=0)).clamp(min=LEAST_STEP).tolist()
    assert pair.next_factors().tolist() == pytest.approx([expected[0], 0.7, expected[1]], abs=1e-7)
    assert pair.next_factors().tolist() == pytest.approx(pair.factors.tolist())  # Nothing new.
    whole.observe(alone, None)
    mean = [f(alone).mean(dim=0, dtype=torch.float64) for f in (torch.abs, binary_entropy)]
    logits = arl_logits(*((x * 30) / 30 for x in mean), 8.0)
    assert torch.equal(whole.next_factors(), (3 * logits.softmax(dim=0)).clamp(min=LEAST_STEP))


@pytest.mark.parametrize("cls", RULES)
def test_a_modality_that_no_triple_has_leaves_the_factors_of_the_others(cls, make_data):
    """Two modalities and a third that no item has: the factors are those of the two."""
    data = make_data(modalities=3)
    model = built(BACKBONES["VBPR"], data)
    margins = without_ids(model, data, one_batch(data, 0))
    known = torch.ones_like(margins, dtype=torch.bool)
    known[:, 2] = False
    objective, factors = cls(model), []
    for keep in (slice(0, 3), slice(0, 2)):
        small = objective
        if keep.stop == 2:
            pair = make_data(modalities=2)
            small = cls(built(BACKBONES["VBPR"], pair))
        for scale in (0.3, 1.0):
            small.observe(margins[:, keep] + scale * torch.tensor([1.0, 0.2, 0.5])[keep], known[:, keep])
            found = small.next_factors()
        factors.append(found.tolist())
    assert factors[0] == pytest.approx([*factors[1], 1.0], abs=1e-12)
    assert factors[1] != [1.0, 1.0]


def test_margins_that_are_all_zero_leave_all_modalities_alike():
    found = arl_logits(torch.zeros(3), torch.full((3,), 0.7), 8.0)
    assert torch.equal(found, found[:1].expand(3))
    assert found.isfinite().all()
