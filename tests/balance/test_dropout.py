"""Which views modality dropout draws, and how often."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
import torch

from pyg_ckd.balance import ModalityDropout
from pyg_ckd.errors import InputError
from tests.balance.test_ckd import one_batch
from tests.nn.models.zoo import BACKBONES, built, doubled


@pytest.mark.parametrize(("modalities", "rate"), [(2, 0.5), (3, 0.3)])
def test_views_come_as_often_as_the_probabilities_say(modalities, rate, make_data):
    objective = ModalityDropout(built(BACKBONES["VBPR"], make_data(modalities=modalities)), rate=rate)
    torch.manual_seed(0)
    num = 4000
    drawn = Counter(objective.views[0] for _ in range(num))
    nothing = rate**modalities / modalities  # What is left of the empty view goes to the uni-modal ones.
    for size in range(1, modalities + 1):
        for view in combinations(objective.modalities, size):
            share = (1 - rate) ** size * rate ** (modalities - size) + (nothing if size == 1 else 0)
            assert abs(drawn[frozenset(view)] / num - share) < 5 * (share * (1 - share) / num) ** 0.5
    assert sum(drawn.values()) == num
    assert frozenset() not in drawn


def test_the_drawn_view_is_the_one_that_is_trained(make_data):
    data = make_data(modalities=3)
    model, batch = built(BACKBONES["VBPR"], data), one_batch(data, 0)
    objective = ModalityDropout(model, rate=0.6, l2=0.0)
    torch.manual_seed(3)
    view = objective.views[0]
    torch.manual_seed(3)
    loss = objective.loss(*doubled(data), batch)["bpr"]
    margin = model(*doubled(data), view).margin(*batch[:3])
    assert loss.item() == pytest.approx(torch.nn.functional.softplus(-margin).mean().item(), abs=1e-10)
    assert len(view) < 3


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_out_of_its_range_is_refused(rate, make_data):
    with pytest.raises(InputError, match=f"rate: found {rate}, expected a probability"):
        ModalityDropout(built(BACKBONES["VBPR"], make_data()), rate=rate)
