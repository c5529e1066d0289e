"""The effect report on models whose effects are known in closed form."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from pyg_ckd.data import build_data
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import effects
from pyg_ckd.evaluation.effects import estimate_effects
from pyg_ckd.nn import VBPR, Backbone, as_backbone
from pyg_ckd.scoring.effects import MAX_EFFECT, MIN_EFFECT


def clamp(x: float) -> float:
    return min(max(x, MIN_EFFECT), MAX_EFFECT)


class Known(nn.Module):
    """Scores with one weight per user and modality, and one weight on the product of the first two modalities."""

    def __init__(self, weights: Tensor, product: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.cat([weights, torch.full((weights.size(0), 1), product)], dim=1))

    def forward(self, x_dict: dict[str, Tensor], edge_index: Tensor) -> tuple[Tensor, Tensor]:
        columns = list(x_dict.values())
        product = columns[0] * (columns[1] if len(columns) > 1 else 0)
        return self.weights, torch.cat([*columns, product], dim=1)


NUM_ITEMS = 10


def planted(values: dict[str, tuple[float, float]], num_users: int = 40) -> HeteroData:
    """Everybody has item 1 in training and item 0 held out; a modality has one value on item 0, one on all others."""
    features = {m: torch.tensor([[held_out]] + [[other]] * (NUM_ITEMS - 1)) for m, (held_out, other) in values.items()}
    users = torch.arange(num_users)
    train, val = torch.stack([users, torch.ones_like(users)]), torch.stack([users, torch.zeros_like(users)])
    return build_data(train, features, val=val, num_items=NUM_ITEMS, transform="none")


def known_model(data: HeteroData, weights: Tensor, product: float = 0.0) -> Backbone:
    return as_backbone(Known(weights, product), data)


def test_report_equals_effects_in_closed_form():
    """Modality a carries the decision, b helps through a product with a, c misleads."""
    data = planted({"a": (3.0, 0.0), "b": (2.0, 0.0), "c": (0.0, 1.0)})
    weights = torch.tensor([[1.0, 0.5, 1.5]]).repeat(40, 1)
    product = 0.5
    report = estimate_effects(known_model(data, weights, product), data, k=1, num_negatives=3, num_bootstrap=50)
    mean = {"a": 3.0 / NUM_ITEMS, "b": 2.0 / NUM_ITEMS}
    full = 1.0 * 3 + 0.5 * 2 - 1.5 + product * 6
    without = {
        "a": 0.5 * 2 - 1.5 + product * mean["a"] * 2,
        "b": 1.0 * 3 - 1.5 + product * mean["b"] * 3,
        "c": 1.0 * 3 + 0.5 * 2 + product * 6,
    }
    alone = {"a": 1.0 * 3 + product * mean["b"] * 3, "b": 0.5 * 2 + product * mean["a"] * 2, "c": -1.5}
    ratio = {m: clamp((full - without[m]) / alone[m]) for m in alone}
    table = report.table
    assert table.index.tolist() == sorted(alone, key=lambda m: full - without[m])
    assert report.weakest == "c"
    for m in alone:
        for column in ("effect", "low", "high"):  # All users are alike, so the interval has no width.
            assert table.loc[m, column] == pytest.approx(full - without[m], abs=1e-5)
        assert table.loc[m, "share"] == pytest.approx((full - without[m]) / full, abs=1e-5)
        assert table.loc[m, "ratio"] == pytest.approx(ratio[m], abs=1e-5)
        assert table.loc[m, "weight"] == pytest.approx(1.5 * (1 - ratio[m] / sum(ratio.values())), abs=1e-5)
        assert table.loc[m, "recall_drop"] == float(without[m] < 0)  # Item 0 is first if it beats all others.
        assert table.loc[m, "recall_alone"] == float(alone[m] > 0)
    assert table.loc["a", "recall_drop"] == 1.0  # The example has a drop at all.
    assert (report.recall, report.k, report.split) == (1.0, 1, "val")
    assert "recall@1 1.0000, 95% intervals" in str(report)


def test_shares_divide_means_where_ratios_are_means_of_clamped_divisions():
    """Half of the users follow a the right way, half weakly the wrong way; everybody follows b."""
    data = planted({"a": (1.0, 0.0), "b": (1.0, 0.0)})
    weights = torch.tensor([[3.0, 2.0], [-1.0, 2.0]]).repeat(20, 1)
    table = estimate_effects(known_model(data, weights), data, k=1, num_bootstrap=10).table
    assert table.loc["a", "share"] == pytest.approx(1.0 / (1.0 + 2.0), rel=1e-5)
    assert table.loc["b", "share"] == pytest.approx(2.0 / (1.0 + 2.0), rel=1e-5)
    assert table["ratio"].tolist() == pytest.approx([1.0, 1.0], rel=1e-5)  # Additive: the effect is all of it alone.


def test_signal_to_noise_is_mean_by_deviation_of_what_a_modality_says_without_the_ids():
    """Every user follows a more or less; b misleads everybody alike, and c says nothing."""
    data = planted({"a": (1.0, 0.0), "b": (0.0, 1.0), "c": (0.0, 0.0)})
    pull = torch.tensor([1.0, 3.0]).repeat(20)
    weights = torch.stack([pull, torch.ones(40), torch.ones(40)], dim=1)
    table = estimate_effects(known_model(data, weights), data, k=1, num_bootstrap=10).table
    assert table.loc["a", "snr"] == pytest.approx(2.0 / 1.0, abs=1e-6)
    assert table.loc[["b", "c"], "snr"].tolist() == [0.0, 0.0]
    ten = estimate_effects(known_model(data, 10 * weights), data, k=1, num_bootstrap=10).table
    assert ten["snr"].tolist() == pytest.approx(table["snr"].tolist(), abs=1e-6)


def test_the_scale_of_scores_changes_effects_and_no_share():
    data = planted({"a": (3.0, 0.0), "b": (2.0, 0.0)})
    weights = torch.tensor([[1.0, 0.5]]).repeat(40, 1)
    one, ten = (estimate_effects(known_model(data, s * weights, s), data, k=1, num_bootstrap=10).table for s in (1, 10))
    assert ten["effect"].tolist() == pytest.approx((10 * one["effect"]).tolist(), rel=1e-5)
    assert ten["share"].tolist() == pytest.approx(one["share"].tolist(), rel=1e-5)
    assert one["share"].sum() > 1.1  # Acting together, a lead is lost with either.


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_held_out_items_that_do_not_lead_leave_no_lead_to_share(weight):
    data = planted({"a": (2.0, 0.0), "b": (1.0, 0.0)})
    table = estimate_effects(known_model(data, torch.full((40, 2), weight)), data, k=1, num_bootstrap=10).table
    assert table["share"].isna().all()
    assert table["effect"].notna().all()


def test_effects_are_averaged_per_user_first():
    """A user with many held-out items counts as much as one with a single item."""
    train = torch.tensor([[0, 1], [5, 5]])
    val = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 2]])
    x = torch.tensor([[1.0], [1.0], [1.0], [0.0], [0.0], [0.0]])
    data = build_data(train, {"a": x, "b": 0 * x}, val=val, transform="none")
    # User 0 may draw items 1 and 2 as negatives, which have the same value as item 0; give that user no weight.
    report = estimate_effects(known_model(data, torch.tensor([[0.0, 0.0], [4.0, 0.0]])), data, k=1, num_bootstrap=10)
    assert report.table.loc["a", "effect"] == pytest.approx((0.0 + 4.0) / 2)
    assert report.table.loc["a", "share"] == pytest.approx(1.0)  # Leads are averaged in the same way.


def test_intervals_equal_those_of_the_normal_distribution_for_many_users():
    generator = torch.Generator().manual_seed(0)
    size = 400
    weights = torch.stack([torch.randn(size, generator=generator) + 0.3, torch.rand(size, generator=generator)], dim=1)
    data = planted({"a": (1.0, 0.0), "b": (1.0, 0.0)}, size)
    table = estimate_effects(known_model(data, weights), data, k=1, num_bootstrap=4000, confidence=0.9).table
    for m, column in zip("ab", weights.double().t().numpy(), strict=True):
        error = column.std() / np.sqrt(size)
        assert table.loc[m, "effect"] == pytest.approx(column.mean(), abs=1e-6)
        assert table.loc[m, "low"] == pytest.approx(column.mean() - 1.645 * error, abs=0.15 * error)
        assert table.loc[m, "high"] == pytest.approx(column.mean() + 1.645 * error, abs=0.15 * error)


def test_intervals_cover_the_true_effect_as_often_as_they_claim():
    generator = torch.Generator().manual_seed(1)
    data = planted({"a": (2.0, 0.0)}, num_users=50)
    covered = 0
    for seed in range(150):
        weights = torch.randn(50, 1, generator=generator) + 0.5  # True mean effect: 2 * 0.5.
        row = estimate_effects(
            known_model(data, weights), data, k=1, num_negatives=1, num_bootstrap=300, confidence=0.8, seed=seed
        ).table.loc["a"]
        covered += row["low"] <= 1.0 <= row["high"]
    assert 0.69 < covered / 150 < 0.89  # Three standard errors around 0.79, the level of 50 resampled users.


def test_same_seed_gives_the_same_report_and_another_seed_another(make_data):
    data = make_data(num_users=30, num_items=20)
    torch.manual_seed(0)
    model = VBPR.from_data(data)
    arguments = {"data": data, "k": 3, "num_bootstrap": 20}
    first, again, other = (estimate_effects(model, seed=seed, **arguments).table for seed in (1, 1, 2))
    assert first.equals(again)
    assert not np.allclose(first["effect"], other.loc[first.index, "effect"])


def test_single_modality_has_effects_and_nothing_to_be_weighed_against():
    data = planted({"a": (2.0, 0.0)})
    table = estimate_effects(known_model(data, torch.ones(40, 1)), data, k=1, num_bootstrap=10).table
    assert table.loc["a", "effect"] == pytest.approx(2.0)
    assert table.loc["a", "share"] == pytest.approx(1.0)
    assert "weight" not in table


def test_nothing_to_measure_on_is_refused():
    data = planted({"a": (2.0, 0.0)})
    model = known_model(data, torch.ones(40, 1))
    with pytest.raises(InputError, match="the test split holds no interaction to measure on"):
        estimate_effects(model, data, split="test", k=1)
    with pytest.raises(InputError, match="unknown split 'vall': did you mean 'val'"):
        estimate_effects(model, data, split="vall", k=1)
    with pytest.raises(InputError, match="found 'train'"):
        estimate_effects(model, data, split="train", k=1)


@pytest.mark.filterwarnings("ignore:1 users interacted with all")
def test_held_out_users_who_know_every_item_are_refused_for_want_of_negatives():
    train, val = torch.tensor([[0, 1], [0, 0]]), torch.tensor([[0], [1]])
    data = build_data(train, {"a": torch.eye(2)}, val=val)
    with pytest.raises(InputError, match="every user of the val split interacted with every item"):
        estimate_effects(VBPR.from_data(data), data, k=1)


@pytest.mark.parametrize(
    "arguments", [{"confidence": 1.0}, {"confidence": 0}, {"num_negatives": 0}, {"num_bootstrap": 0}]
)
def test_arguments_out_of_range_are_refused(arguments):
    data = planted({"a": (2.0, 0.0)})
    with pytest.raises(InputError, match="expected 0 < confidence < 1 and at least one negative and one resample"):
        estimate_effects(known_model(data, torch.ones(40, 1)), data, k=1, **arguments)


@pytest.mark.parametrize("level", ["0.9", None, True])
def test_a_level_that_is_no_number_is_refused(level):
    data = planted({"a": (2.0, 0.0)})
    with pytest.raises(InputError, match=f"^confidence: found {level!r}, expected a number"):
        estimate_effects(known_model(data, torch.ones(40, 1)), data, k=1, confidence=level)


def test_one_user_has_effects_and_no_intervals():
    data = planted({"a": (2.0, 0.0), "b": (1.0, 0.0)}, num_users=1)
    report = estimate_effects(known_model(data, torch.ones(1, 2)), data, k=1, num_bootstrap=10)
    bounds = ["low", "high", "recall_drop_low", "recall_drop_high"]
    assert report.table[bounds].isna().all(axis=None)
    assert report.table.loc["a", "effect"] == pytest.approx(2.0)
    row = next(line for line in str(report).splitlines() if line.startswith("a "))
    assert row.count("–") == 4
    assert report._repr_html_().count(">–<") == 8
    assert "nan" not in (str(report) + report._repr_html_()).lower()
    two = planted({"a": (2.0, 0.0), "b": (1.0, 0.0)}, num_users=2)
    found = estimate_effects(known_model(two, torch.ones(2, 2)), two, k=1, num_bootstrap=10).table
    assert not found[bounds].isna().any(axis=None)


def test_intervals_do_not_depend_on_how_many_resamples_are_held_at_once(monkeypatch):
    data = planted({"a": (3.0, 0.0), "b": (2.0, 0.0)})
    model = known_model(data, torch.rand(40, 2, generator=torch.Generator().manual_seed(0)))
    tables = []
    for held in (2**22, 7 * 80, 1):
        monkeypatch.setattr(effects, "_BOOTSTRAP_VALUES", held)
        tables.append(estimate_effects(model, data, k=1, num_bootstrap=250).table)
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], rtol=1e-12, atol=0)


def test_the_docstring_names_every_column(make_data):
    data = make_data()
    table = estimate_effects(VBPR.from_data(data, embedding_dim=4), data, k=3, num_bootstrap=5).table
    assert [name for name in table.columns if f"``{name}``" not in effects.EffectReport.__doc__] == []
