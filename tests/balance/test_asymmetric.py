"""ARM: the repaired rule against plain loops, and the published arithmetic against its authors' numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from sklearn.metrics import mutual_info_score
from torch import Tensor

from pyg_ckd.balance.asymmetric import (
    ARM,
    conditional_information,
    histogram,
    information_values,
    published_scales,
    reinforcement,
    spread,
)
from pyg_ckd.balance.attribution import calibrated_loss, label_information, shapley_values
from pyg_ckd.balance.gradients import gate
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR, LightGCN
from pyg_ckd.scoring.views import counterfactual_views
from tests.balance.test_ckd import BACKBONES, one_batch
from tests.conftest import TOLERANCE, Golden
from tests.nn.models.zoo import built, doubled


def test_the_published_arithmetic_equals_the_published_code(golden: Callable[[str], Golden]):
    file = golden("balance/arm")
    names = ("image", "audio")
    features = [file[name] for name in names]
    logits = torch.stack([file["fused"], *features]) @ file["head_weight"].t() + file["head_bias"]
    label = file["label"]
    prob = logits.softmax(dim=-1)[:, torch.arange(label.numel()), label].mean(dim=1)
    torch.testing.assert_close(prob, file["label_prob"], rtol=0, atol=TOLERANCE)
    found = published_scales(file["fused"], features, prob.tolist())
    keys = ("mi", "nmi", "code_cmi", "code_ncmi", "interaction", "value", "scale")
    for key, values in zip(keys, found, strict=True):
        for name, value in zip(names, values, strict=True):
            assert value == pytest.approx(file.number(f"{key}_{name}"), abs=TOLERANCE), key
    scaled = torch.cat([float(k) * x for k, x in zip(found.scale, features, strict=True)], dim=1)
    torch.testing.assert_close(scaled, file["scaled"], rtol=0, atol=TOLERANCE)
    x, y, z = (file[name].cpu().flatten().numpy() for name in ("image", "audio", "fused"))
    assert conditional_information(x, z, y, 2) == pytest.approx(file.number("cmi_image"), abs=TOLERANCE)
    assert conditional_information(y, z, x, 2) == pytest.approx(file.number("cmi_audio"), abs=TOLERANCE)


def test_conditional_information_of_histograms_is_the_mean_over_the_cells_of_the_condition():
    rng = np.random.default_rng(0)
    x, y, z = rng.normal(size=(3, 500))
    x = x + y * (z > 0)
    cells = [np.digitize(v, np.linspace(v.min(), v.max(), 4)[1:-1]) for v in (x, y, z)]
    parts = [cells[2] == c for c in range(3)]
    expected = sum(p.mean() * mutual_info_score(cells[0][p], cells[1][p]) for p in parts)
    assert conditional_information(x, y, z, 3) == pytest.approx(expected, abs=1e-9)
    assert histogram(x, y, bins=3).sum() == pytest.approx(1)


@pytest.mark.parametrize("seed", range(3))
def test_a_calibrated_loss_is_the_least_over_all_scales_and_its_gradient_goes_through_margins_alone(seed):
    generator = torch.Generator().manual_seed(seed)
    margin = torch.randn(200, 2, generator=generator, dtype=torch.float64) + 0.4
    margin.requires_grad_()
    loss = calibrated_loss(margin)
    torch.testing.assert_close(math.log(2) - loss, label_information(margin), rtol=0, atol=1e-12)
    loss.sum().backward()
    for n in range(2):
        x = margin[:, n].detach().numpy()
        found = minimize_scalar(
            lambda t, x=x: np.logaddexp(0, -t * x).mean(), bounds=(0, 50), method="bounded", options={"xatol": 1e-10}
        )
        assert loss[n].item() == pytest.approx(found.fun, abs=1e-8)
        slope = -1 / (1 + np.exp(found.x * x)) / 200  # As of margins on that scale.
        np.testing.assert_allclose(margin.grad[:, n].numpy(), slope, atol=1e-6)


def test_reinforcement_is_large_for_what_is_worth_little_and_within_its_bounds():
    values = torch.tensor([0.2, 0.1, 0.3], dtype=torch.float64)
    ratio = [1.0, 0.22 / 0.12, 0.22 / 0.32]
    assert reinforcement(values, 1.0).tolist() == pytest.approx(ratio)
    assert reinforcement(values, 0.5).tolist() == pytest.approx([math.sqrt(r) for r in ratio])
    assert reinforcement(values, 0.0).tolist() == [1.0] * 3
    assert reinforcement(torch.tensor([0.0, 1.0]), 1.0).tolist() == pytest.approx([4.0, 0.52 / 1.02])
    assert reinforcement(torch.tensor([0.0, 1.0]), 9.0)[1].item() == 0.25  # What is ahead is weakened,
    assert "weakens" in (ARM.__doc__ or "").splitlines()[0]  # and the list of strategies says so.
    assert reinforcement(torch.tensor([1e-5, 0.0]), 1.0).tolist() == pytest.approx([1.0, 1.0], abs=1e-3)


def margins_of(model, data, batch, names) -> dict[frozenset[str], Tensor]:
    views = counterfactual_views(names, empty=True)
    return {view: model(*doubled(data), view).margin(*batch[:3]) for view in views}


def value_by_hand(margins, names, m, known: Tensor) -> float:
    full, without = frozenset(names), frozenset(names) - {m}

    def best(x: Tensor) -> float:
        return math.log(2) - float(label_information(x[known]))

    q = float(margins[full][known].sigmoid().mean())
    alone = math.log(2) - best(margins[frozenset([m])] - margins[frozenset()])
    return q * alone + (1 - q) * (best(margins[without]) - best(margins[full]))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lacking", [False, True])
@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("backbone", ["VBPR", "EarlyFusionLightGCN"])
def test_terms_and_gradients_equal_the_definition(backbone, modalities, lacking, make_data):
    data = make_data(modalities=modalities)
    model, batch = built(BACKBONES[backbone], data), one_batch(data, 0)
    names = model.modalities
    has = {"mod1": torch.arange(9) % 4 > 0} if lacking else {}
    objective = ARM(model, beta=1.5, weight=0.3, gap=0.2, l2=0.0, has=has)
    known = torch.ones(batch.user.numel(), modalities, dtype=torch.bool)
    if lacking:
        known[:, 1] = has["mod1"][batch.positive] & has["mod1"][batch.negative]
    margins = margins_of(model, data, batch, names)
    values = [value_by_hand(margins, names, m, known.all(dim=1)) for m in names]
    positive = [max(v, 0.0) for v in values]
    mean = sum(positive) / modalities
    factors = [min(max(((mean + 0.02) / (v + 0.02)) ** 1.5, 0.25), 4.0) for v in positive]
    terms = objective.loss(*doubled(data), batch)
    assert terms["reinforced"].item() == 0
    assert terms["gap"].item() == pytest.approx(0.2 * (max(values) - min(values)), abs=1e-7)
    for n, m in enumerate(names):
        loss = F.softplus(-margins[frozenset([m])]) * known[:, n]
        assert terms[f"alone/{m}"].item() == pytest.approx(0.3 * factors[n] * loss.mean().item(), abs=1e-4)
    phi = shapley_values(margins, names)
    shares = torch.where(known, torch.tensor(factors), 1.0)
    base = margins[objective.view] - phi.sum(dim=-1)
    expected = F.softplus(-(base + gate(phi, shares).sum(dim=-1))).mean()
    parameters = [p for p in model.parameters() if p.requires_grad]
    mine = torch.autograd.grad(terms["bpr"] + terms["reinforced"], parameters, retain_graph=True, allow_unused=True)
    theirs = torch.autograd.grad(expected, parameters, allow_unused=True)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(*(torch.zeros(()) if x is None else x for x in (a, b)), rtol=0, atol=1e-5)
    found = objective.epoch_statistics()
    assert [found[f"weight/{m}"] for m in names] == pytest.approx(factors, abs=1e-5)
    assert [found[f"value/{m}"] for m in names] == pytest.approx(positive, abs=1e-7)


def test_the_gap_closes_by_the_weakest_alone():
    generator = torch.Generator().manual_seed(0)
    full, base = (torch.randn(40, generator=generator, dtype=torch.float64) + c for c in (1.0, 0.1))
    alone, without = (torch.randn(40, 2, generator=generator, dtype=torch.float64) + 0.6 for _ in range(2))
    alone[:, 1] += 1
    leaves = [x.requires_grad_() for x in (full, alone, without, base)]
    values = information_values(*leaves)
    assert values[0] < values[1]
    (values.detach().max() - values.min()).backward()
    assert full.grad.any()
    assert alone.grad[:, 0].any()
    assert not alone.grad[:, 1].any()
    assert without.grad is None
    assert base.grad is None


@pytest.mark.usefixtures("double")
def test_values_are_running_means_and_wait_for_triples_of_their_modality(make_data):
    data = make_data()
    objective = ARM(built(BACKBONES["VBPR"], data))
    first, second = torch.tensor([0.2, 0.4]), torch.tensor([0.6, -0.1])
    objective._factors(first, None)
    assert objective.value.tolist() == [0.2, 0.4]
    objective._factors(second, torch.tensor([[True, True], [False, False]]))
    expected = pytest.approx([0.9 * 0.2 + 0.1 * 0.6, 0.9 * 0.4])
    assert objective.value.tolist() == expected
    objective._factors(second, torch.zeros(2, 2, dtype=torch.bool))
    assert objective.value.tolist() == expected


def test_bad_arguments_are_refused(make_data):
    data = make_data()
    for name in ("beta", "weight", "gap"):
        with pytest.raises(InputError, match=f"{name}: found -1"):
            ARM(VBPR.from_data(data), **{name: -1})
    with pytest.raises(InputError, match="arm: found LightGCN, which ignores features"):
        ARM(LightGCN.from_data(data))


def test_reinforcement_is_over_the_modalities_that_something_is_known_of():
    values = torch.tensor([0.2, torch.nan, 0.05]).double()
    known, both = ~values.isnan(), torch.tensor([0, 2])
    found = reinforcement(values, 1.5, known)
    assert found[both].tolist() == pytest.approx(reinforcement(values[both], 1.5).tolist(), abs=1e-12)
    assert found[1] == 1.0


def test_the_gap_is_between_modalities_that_some_triple_has():
    values = torch.tensor([0.3, 0.0, 0.1], requires_grad=True)
    counted = torch.tensor([[True, False, True], [True, False, False]])
    spread(values, counted).backward()
    assert spread(values, counted).item() == pytest.approx(0.2)
    assert values.grad.tolist() == [0.0, 0.0, -1.0]
    values.grad = None
    spread(values, torch.zeros(2, 3, dtype=torch.bool)).backward()
    assert values.grad.tolist() == [0.0] * 3
    assert spread(values).item() == pytest.approx(0.3)


@pytest.mark.usefixtures("double")
def test_a_modality_that_no_triple_has_leaves_the_reinforcement_of_the_others(make_data):
    with pytest.warns(UserWarning, match="arm: found 1 of 9 items with all modalities"):
        objective = ARM(built(BACKBONES["VBPR"], make_data()), has={"mod1": torch.arange(9) == 0})
    counted, values = torch.tensor([[True, False]]), torch.tensor([0.2, 0.0])
    assert objective._factors(values, counted).tolist() == [1.0, 1.0]
    assert objective.value[0] == 0.2
    assert objective.value[1].isnan()
    objective._factors(torch.tensor([0.2, 0.4]), torch.ones(1, 2, dtype=torch.bool))
    assert objective.value.tolist() == pytest.approx([0.2, 0.4])  # The first value, not a tenth of it.
