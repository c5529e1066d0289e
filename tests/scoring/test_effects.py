"""Relative effects with and without the id part in their denominator, by hand."""

from __future__ import annotations

import pytest
import torch

from pyg_ckd.scoring.effects import MAX_EFFECT, MIN_EFFECT, relative_effects


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
