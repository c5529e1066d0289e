"""MMPareto against its authors' numbers, a grid over the simplex, and gradients that autograd gives."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyg_ckd.balance import MultitaskObjective
from pyg_ckd.balance.gradients import SHARED, parameter_groups
from pyg_ckd.balance.pareto import MMPareto, gradient_factors, gram_matrix, min_norm_weights, pareto_weights
from pyg_ckd.errors import InputError
from pyg_ckd.nn import FREEDOM, LightGCN
from tests.balance.test_ckd import BACKBONES, one_batch
from tests.conftest import TOLERANCE, Golden
from tests.nn.models.zoo import built, doubled


def test_weights_and_new_gradients_equal_the_published_code(golden: Callable[[str], Golden]):
    file = golden("balance/mmpareto")
    cases = {key.split("/")[0] for key in file if key.endswith("/new0")}
    assert cases
    for case in cases:
        joint, alone, summed = (
            [file[key] for key in sorted(file, key=lambda key: (len(key), key)) if key.startswith(f"{case}/{kind}")]
            for kind in ("joint", "alone", "total")
        )
        whole = gram_matrix([joint, alone])
        cosine = whole[0, 1] / (whole[0, 0] * whole[1, 1]).sqrt()
        weights = pareto_weights(whole)
        torch.testing.assert_close(cosine, file[f"{case}/cosine"], rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(weights, file[f"{case}/weight"], rtol=0, atol=TOLERANCE)
        if cosine <= 0:
            norm = weights @ whole @ weights
            torch.testing.assert_close(norm, file[f"{case}/min_norm"], rtol=0, atol=TOLERANCE)
        else:
            assert not file[f"{case}/min_norm"].any()  # Nothing was solved.
        for n, (g, h, length) in enumerate(zip(joint, alone, summed, strict=True)):
            factors = gradient_factors(gram_matrix([[g], [h]]), weights, length.square().sum())
            found = file["gamma"] * (factors[0] * g + factors[1] * h)
            torch.testing.assert_close(found, file[f"{case}/new{n}"], rtol=0, atol=TOLERANCE)


def test_least_norm_of_three_comes_close_to_where_the_published_solver_stops(golden: Callable[[str], Golden]):
    file = golden("balance/mmpareto")
    vectors = file["three/vector"]
    gram = vectors @ vectors.t()
    weights = min_norm_weights(gram)
    torch.testing.assert_close(weights, file["three/weight"], rtol=0, atol=1e-2)
    norm = float(weights @ gram @ weights)
    assert norm == pytest.approx(float(file["three/min_norm"]), abs=1e-3)
    assert norm <= float(file["three/min_norm"]) + 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_least_norm_is_below_that_of_every_point_of_a_grid(seed):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    if seed % 2:
        vectors += torch.tensor([2.0, 0, 0, 0])  # The shortest lies on the edge of the simplex.
    if seed == 4:
        vectors[2] = 3 * vectors[1]
    gram = vectors @ vectors.t()
    weights = min_norm_weights(gram)
    assert float(weights.sum()) == pytest.approx(1)
    assert (weights >= 0).all()
    grid = [(a / 40, b / 40, 1 - a / 40 - b / 40) for a, b in itertools.product(range(41), repeat=2) if a + b <= 40]
    points = torch.tensor(grid, dtype=torch.float64)
    assert float(weights @ gram @ weights) <= float(((points @ gram) * points).sum(dim=1).min()) + 1e-12


def test_losses_without_gradient_and_opposite_ones_give_finite_factors():
    zero, g = torch.zeros(3, dtype=torch.float64), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for first, second in [(zero, zero), (zero, g), (g, zero), (g, -g), (g, g)]:
        gram = gram_matrix([[first], [second]])
        factors = gradient_factors(gram, pareto_weights(gram))
        assert factors.isfinite().all()
        new = factors[0] * first + factors[1] * second
        torch.testing.assert_close(new, first + second, rtol=0, atol=1e-12)  # As long as the sum, and its direction.
    three = gram_matrix([[zero], [g], [-g]])
    assert gradient_factors(three, pareto_weights(three)).isfinite().all()


def setting(make_data, backbone: str = "VBPR", modalities: int = 2, **options):
    data = make_data(modalities=modalities)
    model = built(BACKBONES[backbone], data)
    objective = MMPareto(model, l2=0.1, **options)
    return objective, objective.loss(*doubled(data), one_batch(data, 0))


def run(loss: Tensor, retain_graph: bool = False) -> None:
    loss.backward(retain_graph=retain_graph)


def flat(objective, group: str, loss: Tensor) -> Tensor:
    parameters = parameter_groups(objective)[group]
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, found, strict=True)]
    )


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("opposed", [False, True])
@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("backbone", ["VBPR", "MMGCN", "EarlyFusionLightGCN"])
def test_a_step_harms_neither_the_joint_nor_the_uni_modal_loss(backbone, modalities, opposed, make_data):
    objective, terms = setting(make_data, backbone, modalities, weight=3.0)
    if opposed:
        terms["bpr"] = -terms["bpr"]
    expected, pull = {}, {}
    for m in objective.modalities:
        expected[m] = flat(objective, m, terms["bpr"]), flat(objective, m, terms[f"alone/{m}"])
        pull[m] = flat(objective, m, terms["l2"])
    shared = flat(objective, SHARED, sum(terms.values()))
    objective.backward(terms, run)
    groups = parameter_groups(objective)
    conflicts = 0
    for m, (g, h) in expected.items():
        new = torch.cat([p.grad.flatten() for p in groups[m]]) - pull[m]
        if g @ h > 0:
            torch.testing.assert_close(new, g + h, rtol=0, atol=1e-12)
        else:
            conflicts += 1
            assert float(new @ g) >= -1e-12
            assert float(new @ h) >= -1e-12
            assert not torch.allclose(new, g + h)
    torch.testing.assert_close(
        torch.cat([p.grad.flatten() for p in groups[SHARED] if p.grad is not None]), shared, rtol=0, atol=1e-12
    )
    found = objective.epoch_statistics()
    assert sum(found.values()) == conflicts
    assert not opposed or conflicts
    assert set(objective.epoch_statistics().values()) == {0.0}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("opposed", [False, True])
def test_shared_parameters_may_follow_the_rule_too(opposed, make_data):
    objective, terms = setting(make_data, modalities=3, weight=5.0, shared="pareto")
    if opposed:
        terms["bpr"], terms["alone/mod1"] = -terms["bpr"], -terms["alone/mod1"]
    losses = [terms["bpr"], *(terms[f"alone/{m}"] for m in objective.modalities)]
    each = torch.stack([flat(objective, SHARED, loss) for loss in losses])
    pull = flat(objective, SHARED, terms["l2"])
    objective.backward(terms, run)
    parameters = [p for p in parameter_groups(objective)[SHARED] if p.grad is not None]
    gram = each @ each.t()
    new = torch.cat([p.grad.flatten() for p in parameters]) - pull
    assert opposed != bool((gram > 0).all())
    if not opposed:
        torch.testing.assert_close(new, each.sum(dim=0), rtol=0, atol=1e-10)
    else:
        assert (each @ new >= -1e-9).all()
    mixed = 4 * pareto_weights(gram) @ each
    length = max(float(mixed.norm()), float(each.sum(dim=0).norm()))
    torch.testing.assert_close(new, mixed / mixed.norm() * length, rtol=0, atol=1e-9)


def test_losses_are_those_of_multitask_training(make_data):
    data = make_data(modalities=3)
    model, batch = built(BACKBONES["VBPR"], data), one_batch(data, 0)
    mine = MMPareto(model, weight=0.3).loss(*doubled(data), batch)
    theirs = MultitaskObjective(model, weight=0.3).loss(*doubled(data), batch)
    assert {name: term.item() for name, term in mine.items()} == {name: term.item() for name, term in theirs.items()}


def test_a_backbone_without_parameters_of_a_modality_is_refused(make_data, monkeypatch):
    data = make_data()
    with pytest.raises(InputError, match="mmpareto: found LightGCN, which ignores features"):
        MMPareto(LightGCN.from_data(data, embedding_dim=4))
    monkeypatch.setattr(FREEDOM, "steered", "steps")  # As of a backbone that does not say it.
    objective = MMPareto(built(lambda data: FREEDOM.from_data(data, embedding_dim=4, num_neighbors=3), data))
    features, graph = doubled(data)
    graphs = objective.begin_epoch(features, objective.prepare(features, graph))
    with pytest.raises(InputError, match="found FREEDOM without a trained parameter of one modality alone that scores"):
        objective.loss(features, graphs, one_batch(data, 0))


def test_options_out_of_range_are_refused(make_data):
    model = built(BACKBONES["VBPR"], make_data())
    with pytest.raises(InputError, match="unknown shared 'paretto': did you mean 'pareto'"):
        MMPareto(model, shared="paretto")
    with pytest.raises(InputError, match="weight: found -1"):
        MMPareto(model, weight=-1)
