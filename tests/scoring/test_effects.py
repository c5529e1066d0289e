"""Relative effects with and without the id part in their denominator, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from pyg_ckd.scoring.effects import (
    MAX_EFFECT,
    MAX_SIGNAL,
    MIN_EFFECT,
    margin_sums,
    relative_effects,
    signal_to_noise,
)


def effects(full: float, without: list[float], alone: list[float], base: float | None) -> list[float]:
    one = None if base is None else torch.tensor([base], dtype=torch.float64)
    rows = (torch.tensor([x], dtype=torch.float64) for x in (without, alone))
    return relative_effects(torch.tensor([full], dtype=torch.float64), *rows, one)[0].tolist()


def test_without_a_base_the_id_part_is_in_the_denominator():
    # Ids give 6, a gives 3, b gives 1.
    assert effects(10, [7, 9], [9, 7], None) == pytest.approx([3 / 9, 1 / 7])
    assert effects(10, [7, 9], [9, 7], 0.0) == effects(10, [7, 9], [9, 7], None)


def test_with_the_empty_view_as_base_additive_modalities_have_the_effect_one():
    assert effects(10, [7, 9], [9, 7], 6.0) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    ("full", "without", "alone", "base", "expected"),
    [
        (10.0, 8.0, 9.0, 5.0, 0.5),
        (-10.0, -8.0, -9.0, -5.0, 0.5),
        (10.0, 8.0, 4.0, 5.0, MIN_EFFECT),  # Below the ids alone.
        (10.0, 8.0, 5.1, 5.0, MAX_EFFECT),
        (10.0, 8.0, 5.0, 5.0, MAX_EFFECT),
        (10.0, 10.0, 5.0, 5.0, MIN_EFFECT),  # 0 / 0.
    ],
)
def test_effect_is_the_clamped_ratio_beside_the_ids(full, without, alone, base, expected):
    assert effects(full, [without], [alone], base) == pytest.approx([expected], rel=1e-12)


@pytest.mark.parametrize("ratio", [0.3, 1.5])
def test_a_ratio_of_signal_to_noise_says_how_many_gaussian_margins_are_right(ratio):
    noise = torch.randn(200_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    base = torch.randn(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    margins = 0.2 * (ratio + noise)
    found = signal_to_noise(margin_sums(margins + base.unsqueeze(1), base)).item()
    assert found == pytest.approx(ratio, abs=0.01)
    share = 0.5 * (1 + math.erf(found / math.sqrt(2)))
    assert (margins > 0).double().mean().item() == pytest.approx(share, abs=0.005)


def test_sums_of_batches_add_up_and_what_items_lack_does_not_count():
    margins = torch.randn(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    available = torch.rand(30, 3, generator=torch.Generator().manual_seed(1)) > 0.3
    sums = sum(margin_sums(margins[part], None, available[part]) for part in (slice(0, 11), slice(11, 30)))
    for m, found in enumerate(signal_to_noise(sums).tolist()):
        own = margins[available[:, m], m]
        assert found == pytest.approx(max(0.0, (own.mean() / own.std(correction=0)).item()), abs=1e-10)


def test_margins_without_noise_or_signal_have_a_finite_ratio():
    margins = torch.tensor([[0.7, 0.0, -1.0]]).repeat(5, 1)
    assert signal_to_noise(margin_sums(margins)).tolist() == pytest.approx([MAX_SIGNAL, 0.0, 0.0], rel=1e-5)
    assert signal_to_noise(torch.zeros(3, 2)).tolist() == [0.0, 0.0]
