"""Multitask training against a plain loop."""

from __future__ import annotations

import math

import pytest
import torch

from pyg_ckd.balance import MultitaskObjective
from pyg_ckd.errors import InputError
from tests.balance.test_ckd import one_batch
from tests.nn.models.zoo import BACKBONES, built, doubled


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
