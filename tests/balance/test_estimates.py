"""Information of margins against closed forms and against scikit-learn's nearest neighbours on 2,000 points."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.feature_selection import mutual_info_classif, mutual_info_regression
from torch import Tensor

from pyg_ckd.balance.attribution import RunningInformation, gaussian_information, label_information
from pyg_ckd.balance.information import choose_teachers
from tests.balance.test_attribution import exact_information
from tests.balance.test_information import PLANTED

POINTS = 2000
KSG_NOISE = 0.06  # Its deviation on so many points is about 0.02 nats.


def correlated(correlation: float, size: int, seed: int = 0) -> Tensor:
    """Margins of two modalities with one id part, which is in both, and the id part, ``[size, 3]``."""
    noise = torch.randn(size, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    first, second, base = noise.unbind(dim=1)
    second = correlation * first + math.sqrt(1 - correlation**2) * second
    return torch.stack([0.4 + first + 2 * base, 3 * second + 2 * base, 2 * base], dim=1)


@pytest.mark.parametrize("correlation", [0.5, -0.8, 0.95])
def test_gaussian_information_is_within_two_percent_of_the_closed_form(correlation):
    exact = -0.5 * math.log(1 - correlation**2)
    x = correlated(correlation, 400_000)
    assert float(gaussian_information(x[:, :2], x[:, 2])[0, 1]) == pytest.approx(exact, rel=0.02)
    running = RunningInformation(["a", "b"])
    for batch in x.chunk(100):
        running.track(batch[:, :2], batch[:, 2])
    running.finish_epoch()
    assert float(running.gaussian[0, 1]) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0, 3.0])
def test_label_information_of_drawn_margins_is_within_two_percent_of_the_closed_form(strength):
    noise = torch.randn(400_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = label_information(0.1 * (strength * noise + strength**2 / 2))
    assert float(found) == pytest.approx(exact_information(strength), rel=0.02)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8, 0.95])
def test_gaussian_information_agrees_with_nearest_neighbours(correlation):
    x = correlated(correlation, POINTS)
    alone = (x[:, :2] - x[:, 2:]).numpy()
    (neighbours,) = mutual_info_regression(alone[:, :1], alone[:, 1], n_neighbors=3, random_state=0)
    assert float(gaussian_information(x[:, :2], x[:, 2])[0, 1]) == pytest.approx(neighbours, abs=KSG_NOISE)


def neighbours_label(margin: np.ndarray) -> float:
    """What margins tell about which of two items is the positive one: half of the pairs are turned round."""
    side = np.arange(len(margin)) % 2
    (found,) = mutual_info_classif(np.where(side, margin, -margin)[:, None], side, n_neighbors=3, random_state=0)
    return float(found)


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0, 3.0])
def test_label_information_agrees_with_nearest_neighbours(strength):
    noise = torch.randn(POINTS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    margin = strength * noise + strength**2 / 2
    assert float(label_information(margin)) == pytest.approx(neighbours_label(margin.numpy()), abs=KSG_NOISE)


@pytest.mark.parametrize(("margins", "teaches"), PLANTED.values(), ids=PLANTED.keys())
def test_who_may_teach_is_decided_as_by_nearest_neighbours(margins, teaches):
    strong, weak = (x[:POINTS] for x in margins())
    (between,) = mutual_info_regression(strong[:, None].numpy(), weak.numpy(), n_neighbors=3, random_state=0)
    assert (between > neighbours_label(weak.numpy())) == teaches
    both = torch.stack([strong, weak], dim=1)
    performance = torch.tensor([0.3, 0.2], dtype=torch.float64)
    found = choose_teachers(performance, label_information(both), gaussian_information(both))
    assert found.tolist() == [0, 0 if teaches else 1]
