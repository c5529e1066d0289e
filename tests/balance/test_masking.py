"""AMSS: shares, probabilities and masks, and what they do to whom."""

from __future__ import annotations

import math

import pytest
import torch

from pyg_ckd.balance.attribution import LEAST_TRIPLES, unbiased_label_information
from pyg_ckd.balance.gradients import SHARED, parameter_groups
from pyg_ckd.balance.masking import IDS, MaskedSubnetworks, kept_shares, masked_rows, row_probabilities
from pyg_ckd.data.inputs import unpack
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from tests.balance.test_ckd import one_batch
from tests.nn.models.zoo import BACKBONES, built, doubled


def test_shares_are_the_mean_information_over_ones_own_between_the_least_and_one():
    assert kept_shares(torch.tensor([0.4, 0.1, 0.1]), 0.1).tolist() == pytest.approx([0.5, 1.0, 1.0])
    assert kept_shares(torch.tensor([0.4, 0.0]), 0.6).tolist() == pytest.approx([0.6, 1.0])
    assert kept_shares(torch.zeros(2), 0.1).tolist() == [1.0, 1.0]
    assert kept_shares(torch.full((2,), torch.nan), 0.1).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("keep", [0.1, 0.3, 0.6, 0.8])
def test_probabilities_grow_with_the_length_and_sum_to_the_share(keep):
    norm = torch.rand(200, generator=torch.Generator().manual_seed(0)) + 0.1
    norm[::4] = 0
    found = row_probabilities(norm, keep)
    assert not found[norm == 0].any()
    assert found.max() <= 1
    assert found.sum().item() == pytest.approx(keep * 150, rel=1e-3)
    open_ = (found > 0) & (found < 1)
    ratio = found[open_] / norm[open_]
    assert ratio.numel() == 0 or (ratio / ratio[0] - 1).abs().max() < 1e-6
    assert not row_probabilities(torch.zeros(3), keep).any()


@pytest.mark.parametrize("keep", [0.05, 0.5, 0.8, 0.95, 0.999, 1.0])
@pytest.mark.parametrize("power", [1, 4, 12])
def test_probabilities_of_heavy_tails_sum_to_the_share(power, keep):
    norm = torch.rand(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** -power
    norm[::5] = 0
    found = row_probabilities(norm, keep)
    assert not found[norm == 0].any()
    assert found.sum().item() == pytest.approx(keep * 320, abs=1e-4)

    def total(scale: float) -> float:  # By halving, the independent source.
        return (norm * scale).clamp(max=1).sum().item()

    low, high = 0.0, 1 / norm[norm > 0].min().item()
    for _ in range(2000):
        middle = (low + high) / 2
        low, high = (middle, high) if total(middle) < keep * 320 else (low, middle)
    assert torch.allclose(found, (norm * high).clamp(max=1), rtol=0, atol=1e-4)


def test_probabilities_of_equal_few_and_no_rows():
    assert row_probabilities(torch.ones(10), 0.3).tolist() == pytest.approx([0.3] * 10)
    assert row_probabilities(torch.tensor([0.0, 2.0, 0.0]), 0.5).tolist() == pytest.approx([0.0, 0.5, 0.0])
    assert row_probabilities(torch.tensor([1e9, 1.0, 1.0]), 1.0).tolist() == [1.0, 1.0, 1.0]
    assert row_probabilities(torch.zeros(0), 0.5).tolist() == []


@pytest.mark.parametrize("shape", [(40,), (40, 3), (40, 2, 2)])
def test_kept_rows_are_divided_by_their_probability_and_the_mean_of_masks_is_the_gradient(shape):
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(shape, generator=generator, dtype=torch.float64)
    probability = row_probabilities(grad.reshape(40, -1).norm(dim=1), 0.5)
    torch.manual_seed(0)
    draws = torch.stack([masked_rows(grad, 0.5) for _ in range(3000)])
    factors = (draws[0].reshape(40, -1) / grad.reshape(40, -1))[:, 0]
    for factor, p in zip(factors.tolist(), probability.tolist(), strict=True):
        assert factor == 0 or factor == pytest.approx(1 / p)
    deviation = (draws.mean(dim=0) - grad).reshape(40, -1) / grad.reshape(40, -1)
    assert (deviation[:, 0].abs() < 5 * ((1 / probability - 1) / 3000).sqrt() + 1e-12).all()
    torch.manual_seed(0)
    plain = masked_rows(grad, 0.5, unbiased=False)
    assert torch.equal(plain, torch.where(draws[0] != 0, grad, 0))


def test_a_gradient_that_is_not_finite_stays_so():
    for bad in (math.inf, math.nan):
        grad = torch.ones(4, 2)
        grad[1, 0] = bad
        assert not torch.isfinite(masked_rows(grad, 0.5)).all()


def strong(data, model, **options) -> MaskedSubnetworks:
    """Return an objective at the beginning of an epoch, for which the first modality and the ids are strong."""
    objective = MaskedSubnetworks(model, **options)
    objective.information.label.copy_(torch.tensor([0.5, 0.1, 0.6])[: objective.information.label.numel()])
    objective.information.known.fill_(True)
    objective.begin_epoch(*unpack(data))
    return objective


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("ids", [False, True])
def test_only_what_belongs_to_strong_modalities_is_masked(ids, sparse, make_data):
    data = make_data()
    model = built(lambda data: VBPR.from_data(data, embedding_dim=4, sparse=sparse), data).float()
    objective = strong(data, model, least=0.3, ids=ids)
    batch, before = one_batch(data, 0), {}
    terms = objective.loss(*unpack(data), batch)
    super(MaskedSubnetworks, objective).backward(terms, lambda loss: loss.backward(retain_graph=True))
    for name, p in model.named_parameters():
        before[name], p.grad = p.grad.clone(), None
    torch.manual_seed(0)
    objective.backward(terms, lambda loss: loss.backward())
    groups = {id(p): m for m, group in parameter_groups(model).items() for p in group}
    touched = dict.fromkeys(("mod0", "mod1", SHARED), 0)
    for name, p in model.named_parameters():
        assert p.grad.is_sparse == before[name].is_sparse
        touched[groups[id(p)]] += int((p.grad.to_dense() != before[name].to_dense()).sum())
        assert not (p.grad.to_dense() != 0)[before[name].to_dense() == 0].any()
    assert touched["mod0"] > 0
    assert touched["mod1"] == 0
    assert (touched[SHARED] > 0) == ids


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lacking", [False, True])
def test_information_is_that_of_what_each_adds_to_the_ids_and_of_the_ids(lacking, make_data):
    data = make_data(modalities=2)
    model, batch = built(BACKBONES["EarlyFusionLightGCN"], data), one_batch(data, 0)
    has = {"mod1": torch.arange(9) % 3 > 0} if lacking else {}
    objective = MaskedSubnetworks(model, l2=0.0, has=has)
    objective.loss(*doubled(data), batch)
    found = objective.epoch_statistics()
    empty = model(*doubled(data), []).margin(*batch[:3])
    for m in data.modalities:
        there = has[m][batch.positive] & has[m][batch.negative] if m in has else torch.ones(20, dtype=torch.bool)
        expected = unbiased_label_information((model(*doubled(data), m).margin(*batch[:3]) - empty)[there]).item()
        expected = max(expected, 0) if there.sum() >= LEAST_TRIPLES else 0.0
        assert found[f"information/{m}"] == pytest.approx(expected, abs=1e-10)
    expected = max(unbiased_label_information(empty).item(), 0)
    assert found[f"information/{IDS}"] == pytest.approx(expected, abs=1e-10)
    assert [found[f"keep/{name}"] for name in (*data.modalities, IDS)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("unbiased", [False, True])
def test_under_adam_masks_slow_rows_down_by_the_root_of_their_share(unbiased):
    torch.manual_seed(0)
    tables = [torch.zeros(400, 1, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.Adam(tables, lr=0.01)
    for _ in range(400):
        grad = torch.ones(400, 1)
        tables[0].grad, tables[1].grad = grad.clone(), masked_rows(grad, 0.25, unbiased)
        optimizer.step()
    ratio = (tables[1].mean() / tables[0].mean()).item()
    assert ratio == pytest.approx(0.25**0.5, abs=0.05)


@pytest.mark.parametrize("least", [0.0, -0.1, 1.5, math.nan])
def test_a_share_out_of_its_range_is_refused(least, make_data):
    with pytest.raises(InputError, match=f"least: found {least}, expected a share above 0 and at most 1"):
        MaskedSubnetworks(built(BACKBONES["VBPR"], make_data()), least=least)


def test_a_backbone_without_parameters_of_modalities_is_refused(make_data):
    with pytest.raises(InputError, match="amss: found LightGCN without a trained parameter of one modality alone"):
        MaskedSubnetworks(built(BACKBONES["LightGCN"], make_data()))


def test_a_modality_called_ids_is_masked_by_its_own_share(make_data):
    data = make_data(modalities=["ids", "other"])
    model = built(lambda data: VBPR.from_data(data, embedding_dim=4), data).float()
    objective = MaskedSubnetworks(model, least=0.3)
    assert objective.information.modalities == ("ids", "other", "ids_")
    objective.information.label.copy_(torch.tensor([0.6, 0.05, 0.05]))
    objective.information.known.fill_(True)
    objective.begin_epoch(*unpack(data))
    terms = objective.loss(*unpack(data), one_batch(data, 0))
    super(MaskedSubnetworks, objective).backward(terms, lambda loss: loss.backward(retain_graph=True))
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    objective.backward(terms, lambda loss: loss.backward())
    changed = {name for name, p in model.named_parameters() if not torch.equal(p.grad, before[name])}
    own = {id(p) for p in model.modality_parameters["ids"]}
    assert changed
    assert changed <= {name for name, p in model.named_parameters() if id(p) in own}


def test_what_is_not_known_of_a_modality_is_left_out_of_the_mean():
    nan = float("nan")
    assert kept_shares(torch.tensor([0.4, 0.2, nan]), 0.1).tolist() == pytest.approx([0.75, 1.0, 1.0])
