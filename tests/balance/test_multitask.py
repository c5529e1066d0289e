"""Multitask training against a plain loop."""

from __future__ import annotations

import copy
import math
from itertools import combinations, permutations

import pytest
import torch

from pyg_ckd.balance import MultitaskObjective
from pyg_ckd.balance.multitask import valuation_weights
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from pyg_ckd.training import build
from tests.balance.test_ckd import one_batch
from tests.nn.models.zoo import BACKBONES, built, doubled
from tests.training.problem import planted_data, trainer


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lacking", [False, True])
@pytest.mark.parametrize("backbone", ["VBPR", "EarlyFusionLightGCN"])
def test_terms_are_the_bpr_loss_of_every_view_over_the_items_that_have_the_modality(lacking, backbone, make_data):
    data = make_data(modalities=3)
    model, batch = built(BACKBONES[backbone], data), one_batch(data, 0)
    has = {"mod1": torch.arange(9) % 3 > 0} if lacking else {}
    terms = MultitaskObjective(model, weight=0.3, l2=0.0, has=has).loss(*doubled(data), batch)
    for m in data.modalities:
        out, expected = model(*doubled(data), m), 0.0
        for u, i, j in zip(*(x.tolist() for x in batch[:3]), strict=True):
            if m in has and not (has[m][i] and has[m][j]):
                continue
            expected += math.log1p(math.exp(-float(out.user[u] @ (out.item[i] - out.item[j]))))
        assert terms[f"alone/{m}"].item() == pytest.approx(0.3 * expected / batch.user.numel(), abs=1e-10)
    assert set(terms) == {"bpr", *(f"alone/{m}" for m in data.modalities)}


def test_without_weight_no_further_view_is_computed(make_data):
    data = make_data()
    objective = MultitaskObjective(built(BACKBONES["VBPR"], data), weight=0.0)
    assert list(objective.views) == [objective.view]
    assert objective.loss(*doubled(data), one_batch(data, 0)).keys() == {"bpr", "l2"}


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_weight_out_of_its_range_is_refused(weight, make_data):
    with pytest.raises(InputError, match=f"weight: found {weight}, expected a number of zero or more"):
        MultitaskObjective(built(BACKBONES["VBPR"], make_data()), weight=weight)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lacking", [False, True])
@pytest.mark.parametrize("modalities", [2, 3])
def test_with_valuation_a_modality_learns_more_from_triples_to_which_it_contributes_less(
    modalities, lacking, make_data
):
    data = make_data(modalities=modalities)
    model, batch = built(BACKBONES["EarlyFusionLightGCN"], data), one_batch(data, 0)
    has = {"mod1": torch.arange(9) % 3 > 0} if lacking else {}
    objective = MultitaskObjective(model, weight=0.3, l2=0.0, has=has, valuation=0.8)
    names = data.modalities
    subsets = [frozenset(s) for size in range(modalities + 1) for s in combinations(names, size)]
    assert set(objective.views) == set(subsets)
    terms = objective.loss(*doubled(data), batch)
    value = {s: model(*doubled(data), s).margin(*batch[:3]).tolist() for s in subsets}
    expected, means = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for n, (i, j) in enumerate(zip(batch.positive.tolist(), batch.negative.tolist(), strict=True)):
        here = [m for m in names if m not in has or (has[m][i] and has[m][j])]
        phi = {}
        for m in names:  # Over all orders in which the modalities can come.
            gains = [
                value[frozenset(order[: order.index(m) + 1])][n] - value[frozenset(order[: order.index(m)])][n]
                for order in permutations(names)
            ]
            phi[m] = sum(gains) / len(gains)
        total = sum(math.exp(-0.8 * phi[m]) for m in here)
        for m in here:
            weight = len(here) * math.exp(-0.8 * phi[m]) / total
            means[m] += weight / 20
            expected[m] += weight * math.log1p(math.exp(-value[frozenset([m])][n])) / 20
    for m in names:
        assert terms[f"alone/{m}"].item() == pytest.approx(0.3 * expected[m], abs=1e-10)
    found = objective.epoch_statistics()
    assert found == {f"weight/{m}": pytest.approx(means[m], abs=1e-10) for m in names}
    assert objective.epoch_statistics() == {}


def test_a_triple_without_any_modality_has_weights_of_zero():
    known = torch.tensor([[True, True], [False, False], [False, True]])
    found = valuation_weights(torch.tensor([[1.0, 1.0], [1.0, 2.0], [5.0, 1.0]]), 2.0, known)
    assert found.tolist() == [[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]
    assert torch.equal(valuation_weights(torch.randn(4, 3), 0.0), torch.ones(4, 3))


def test_a_negative_valuation_is_refused(make_data):
    with pytest.raises(InputError, match=r"valuation: found -1\.0, expected a number of zero or more"):
        MultitaskObjective(built(BACKBONES["VBPR"], make_data()), valuation=-1.0)


def test_an_epoch_that_was_broken_off_leaves_nothing_in_the_record_of_the_next():
    class Breaks:
        def on_train_batch_end(self, batch_idx):
            if batch_idx == 1:
                raise KeyboardInterrupt

    data = planted_data()
    student = build(VBPR, data, 0, embedding_dim=4)
    objective = MultitaskObjective(copy.deepcopy(student), valuation=1.0)
    with pytest.raises(KeyboardInterrupt):
        trainer(callbacks=Breaks()).fit(objective, data)
    objective.student.load_state_dict(student.state_dict())
    expected = trainer(max_epochs=1).fit(MultitaskObjective(student, valuation=1.0), data)
    assert trainer(max_epochs=1).fit(objective, data).rows == expected.rows
