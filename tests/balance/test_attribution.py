"""Effects, Shapley values and information of margins against closed forms, brute force and numerical integrals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from torch import Tensor

from pyg_ckd.balance import ModalityEffectEstimator
from pyg_ckd.balance.attribution import (
    RunningInformation,
    conditional_label_information,
    gaussian_information,
    label_information,
    shapley_values,
    unbiased_label_information,
)
from pyg_ckd.errors import InputError
from pyg_ckd.scoring.effects import MAX_EFFECT, MIN_EFFECT
from pyg_ckd.scoring.views import View, counterfactual_views

ANY = st.one_of(st.floats(width=32), st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-30, 1e38]))


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(2, 4), st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
def test_effects_are_within_bounds_and_weights_sum_to_the_number_of_modalities(data, num_modalities, dtype):
    size = data.draw(st.integers(1, 4))
    rows = st.lists(ANY, min_size=size, max_size=size)
    full = torch.tensor(data.draw(rows), dtype=dtype)
    without, alone = (torch.tensor([data.draw(rows) for _ in range(num_modalities)], dtype=dtype).t() for _ in range(2))
    estimator = ModalityEffectEstimator([f"m{n}" for n in range(num_modalities)])
    effects = estimator(full, without, alone)
    weights = estimator.weights(effects)
    assert effects.shape == weights.shape == (size, num_modalities)
    assert torch.isfinite(effects).all()
    assert effects.min() > 0
    assert effects.max() <= MAX_EFFECT
    assert torch.isfinite(weights).all()
    assert weights.min() >= 0
    assert weights.sum(dim=-1).tolist() == pytest.approx([num_modalities] * size, rel=1e-5)
    for effect, weight in zip(effects, weights, strict=True):
        assert weight[effect.argmin()] == weight.max()
        assert weight[effect.argmax()] == weight.min()


@pytest.mark.parametrize(
    ("full", "without", "alone", "expected"),
    [
        (3.0, 1.0, 4.0, 0.5),  # The usual case.
        (-3.0, -1.0, -4.0, 0.5),  # Both negative: use in the wrong direction is use.
        (3.0, 1.0, -4.0, MIN_EFFECT),  # The joint decision goes against what the modality says alone.
        (1.0, 3.0, 4.0, MIN_EFFECT),
        (3.0, 1.0, 0.1, MAX_EFFECT),
        (3.0, 1.0, 0.0, MAX_EFFECT),
        (1.0, 3.0, 0.0, MIN_EFFECT),
        (1.0, 1.0, 0.0, MIN_EFFECT),  # 0 / 0.
        (1.0, 1.0, 2.0, MIN_EFFECT),  # 0.
        (math.nan, 1.0, 2.0, MIN_EFFECT),
        (math.inf, math.inf, 2.0, MIN_EFFECT),
        (math.inf, 1.0, 2.0, MAX_EFFECT),
        (1.0, 0.0, math.inf, MIN_EFFECT),
    ],
)
def test_effect_of_a_triple_is_the_clamped_ratio(full, without, alone, expected):
    estimator = ModalityEffectEstimator(["a", "b"])
    one = torch.ones((), dtype=torch.float64)
    effects = estimator(
        torch.tensor([full], dtype=torch.float64),
        torch.stack([torch.tensor(without).double(), one]).view(1, 2),
        torch.stack([torch.tensor(alone).double(), one]).view(1, 2),
    )
    assert float(effects[0, 0]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("effects", [[0.5, 0.25], [1.0, 2.0, 5.0], [0.1, 0.1, 0.1, 0.1], [10.0, 1e-8]])
def test_weights_equal_the_formula(effects):
    num, total = len(effects), sum(effects)
    expected = [num / (num - 1) * (1 - effect / total) for effect in effects]
    estimator = ModalityEffectEstimator([f"m{n}" for n in range(num)])
    weights = estimator.weights(torch.tensor([effects], dtype=torch.float64))
    assert weights[0].tolist() == pytest.approx(expected, abs=1e-12)


def test_equal_evidence_gives_every_modality_the_weight_one():
    estimator = ModalityEffectEstimator(["a", "b", "c"])
    weights = estimator.weights(torch.full((2, 3), MIN_EFFECT, dtype=torch.float64))
    assert weights.flatten().tolist() == pytest.approx([1.0] * 6)


def test_effects_carry_no_gradient():
    margins = torch.randn(3, dtype=torch.float64, requires_grad=True)
    estimator = ModalityEffectEstimator(["a", "b"])
    effects = estimator(margins, torch.randn(3, 2), torch.randn(3, 2))
    assert not effects.requires_grad
    assert not estimator.weights(effects).requires_grad


def test_epoch_means_weigh_every_triple_alike_and_start_anew():
    estimator = ModalityEffectEstimator(["a", "b"])
    first, second = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]]), torch.tensor([[7.0, 1.0]])
    estimator.track(first, 2 * first)
    estimator.track(second, 2 * second)
    assert estimator.finish_epoch() == {"effect/a": 4.0, "effect/b": 4.0, "weight/a": 8.0, "weight/b": 8.0}
    estimator.track(second, second)
    assert estimator.finish_epoch() == {"effect/a": 7.0, "effect/b": 1.0, "weight/a": 7.0, "weight/b": 1.0}
    assert estimator.summary().index.tolist() == ["b", "a"]  # The weakest first.
    assert estimator.summary().loc["b", "effect"] == 1.0


@pytest.mark.parametrize(
    ("method", "shapes", "message"),
    [
        (
            "forward",
            [(4,), (4, 3), (4, 2)],
            r"without: found shape \[4, 3\], expected \[4, 2\], a column for each of",
        ),
        ("forward", [(4,), (4, 2), (2, 4)], r"alone: found shape \[2, 4\], expected \[4, 2\]"),
        ("forward", [(4, 1), (4, 2), (4, 2)], r"full: found shape \[4, 1\], expected \[4\], one value per triple"),
        ("forward", [(4,), (4, 2), (4, 2), (4, 2)], r"base: found shape \[4, 2\], expected \[4\]"),
        ("forward", [(1,), (4, 2), (4, 2)], r"full: found shape \[1\], expected \[4\]"),
        ("weights", [(4,)], r"effects: found shape \[4\], expected \[4, 2\]"),
        ("weights", [(4, 2), (4, 1)], r"available: found shape \[4, 1\], expected \[4, 2\]"),
        ("track", [(4, 2), (2,)], r"weights: found shape \[2\], expected \[4, 2\]"),
        ("track", [(4, 2), (3, 2)], r"weights: found shape \[3, 2\], expected \[4, 2\]"),
    ],
    ids=range(9),
)
def test_margins_of_other_shapes_are_refused(method, shapes, message):
    estimator = ModalityEffectEstimator(["a", "b"])
    with pytest.raises(InputError, match=f"^{message}"):
        getattr(estimator, method)(*(torch.ones(shape) for shape in shapes))
    assert not estimator.count


def test_what_is_no_tensor_is_refused():
    with pytest.raises(InputError, match=r"^without: found list, expected a tensor"):
        ModalityEffectEstimator(["a", "b"])(torch.ones(2), [[1.0, 2.0]], torch.ones(2, 2))


def test_epoch_without_triples_keeps_the_last_summary():
    estimator = ModalityEffectEstimator(["a", "b"])
    assert estimator.summary().isna().all(axis=None)
    estimator.track(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.5, 0.5]]))
    estimator.finish_epoch()
    estimator.finish_epoch()
    assert estimator.summary()["effect"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("modalities", [[], ["visual"]])
def test_fewer_than_two_modalities_are_refused(modalities):
    with pytest.raises(InputError, match="expected at least two to balance"):
        ModalityEffectEstimator(modalities)


NAMES = ["a", "b", "c", "d", "e"]


def random_game(num: int, seed: int = 0, size: int = 5) -> dict[View, Tensor]:
    """Margins of all subsets of modalities, drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    subsets = [frozenset(s) for n in range(num + 1) for s in itertools.combinations(NAMES[:num], n)]
    return {s: torch.randn(size, generator=generator, dtype=torch.float64) for s in subsets}


def shapley_by_orders(game: dict[View, Tensor], names: list[str]) -> Tensor:
    """The mean over all orders of what each modality adds when it comes."""
    total = {m: torch.zeros_like(game[frozenset()]) for m in names}
    orders = list(itertools.permutations(names))
    for order in orders:
        for n, m in enumerate(order):
            total[m] = total[m] + game[frozenset(order[: n + 1])] - game[frozenset(order[:n])]
    return torch.stack([total[m] / len(orders) for m in names], dim=-1)


@pytest.mark.parametrize("num", [1, 2, 3])
def test_shapley_values_of_up_to_three_modalities_are_means_over_all_orders(num):
    names, game = NAMES[:num], random_game(num)
    margins = {view: game[view] for view in counterfactual_views(names, empty=True)}
    phi = shapley_values(margins, names)
    assert phi.shape == (5, num)
    assert torch.allclose(phi, shapley_by_orders(game, names), rtol=0, atol=1e-12)
    assert float((phi.sum(dim=-1) - game[frozenset(names)] + game[frozenset()]).abs().max()) < 1e-10


@pytest.mark.parametrize("num", [4, 5])
def test_shapley_values_of_more_modalities_are_exact_where_only_pairs_act_together(num):
    names, generator = NAMES[:num], torch.Generator().manual_seed(1)
    own = {m: torch.randn(5, generator=generator, dtype=torch.float64) for m in names}
    pair = {
        frozenset(p): torch.randn(5, generator=generator, dtype=torch.float64) for p in itertools.combinations(names, 2)
    }
    base = torch.full((5,), 0.7, dtype=torch.float64)
    game = {s: base + sum(own[m] for m in s) + sum(v for p, v in pair.items() if p <= s) for s in random_game(num)}
    margins = {view: game[view] for view in counterfactual_views(names, empty=True)}
    phi = shapley_values(margins, names)
    assert torch.allclose(phi, shapley_by_orders(game, names), rtol=0, atol=1e-12)


def test_shapley_values_of_four_modalities_are_the_mean_of_first_and_last_contribution():
    names, game = NAMES[:4], random_game(4)
    full, empty = game[frozenset(names)], game[frozenset()]
    phi = shapley_values({view: game[view] for view in counterfactual_views(names, empty=True)}, names)
    for n, m in enumerate(names):
        first, last = game[frozenset([m])] - empty, full - game[frozenset(names) - {m}]
        assert torch.allclose(phi[:, n], (first + last) / 2, rtol=0, atol=1e-12)
    assert not torch.allclose(phi, shapley_by_orders(game, names), atol=0.1)  # With triples acting together.


@pytest.mark.parametrize("num", [3, 4, 5])
def test_shapley_values_of_all_subsets_are_means_over_all_orders(num):
    names, game = NAMES[:num], random_game(num)
    assert torch.allclose(shapley_values(game, names), shapley_by_orders(game, names), rtol=0, atol=1e-12)


def test_shapley_values_carry_the_gradient_of_their_weights():
    names = ["a", "b"]
    margins = {view: torch.zeros(1, requires_grad=True) for view in counterfactual_views(names, empty=True)}
    shapley_values(margins, names)[:, 0].sum().backward()
    gradient = {"".join(sorted(view)): view_margin.grad.item() for view, view_margin in margins.items()}
    assert gradient == {"ab": 0.5, "a": 0.5, "b": -0.5, "": -0.5}


def test_missing_view_of_a_shapley_value_is_named():
    margins = {view: torch.zeros(2) for view in counterfactual_views(["a", "b", "c"])}
    with pytest.raises(InputError, match="no margins of the view of no modality"):
        shapley_values(margins, ["a", "b", "c"])
    margins = {view: torch.zeros(2) for view in counterfactual_views(["a", "b", "c"], empty=True) if len(view) != 2}
    with pytest.raises(InputError, match="no margins of the view of a, b"):
        shapley_values(margins, ["a", "b", "c"])


def gaussian_margins(strength: float, size: int = 200_001) -> Tensor:
    """Margins with the distribution N(strength^2 / 2, strength^2), that of a log-likelihood ratio, at its quantiles."""
    grid = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    return strength * torch.special.ndtri(grid) + strength**2 / 2


def exact_information(strength: float) -> float:
    """ln 2 minus the conditional entropy of which of two items is the positive one, by numerical integration."""

    def integrand(x: float) -> float:
        return math.exp(-x * x / 2) / math.sqrt(2 * math.pi) * np.logaddexp(0, -(strength * x + strength**2 / 2))

    return math.log(2) - quad(integrand, -12, 12, limit=200)[0]


@pytest.mark.parametrize("strength", [0.3, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("scale", [1e-6, 0.3, 1.0, 1e6])
def test_label_information_of_gaussian_margins_is_the_mutual_information_whatever_their_scale(strength, scale):
    exact = exact_information(strength)
    assert float(label_information(scale * gaussian_margins(strength))) == pytest.approx(exact, rel=0.02)
    assert float(label_information(scale * gaussian_margins(strength))) == pytest.approx(exact, abs=1e-4)


def test_integrals_of_exact_information_agree_with_the_published_values():
    assert exact_information(2.0) == pytest.approx(0.3368, abs=5e-4)
    assert exact_information(4.0) == pytest.approx(0.6327, abs=5e-4)


@pytest.mark.parametrize("seed", range(5))
def test_label_information_is_the_best_over_all_scales(seed):
    generator = torch.Generator().manual_seed(seed)
    margin = torch.randn(300, generator=generator, dtype=torch.float64) + 0.3 * seed
    margin[0] = 20.0  # An outlier.
    found = minimize_scalar(
        lambda t: np.logaddexp(0, -t * margin.numpy()).mean(), bounds=(0, 50), method="bounded", options={"xatol": 1e-9}
    )
    expected = max(0.0, math.log(2) - found.fun)
    assert float(label_information(margin)) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("strength", [1.5, 2.0, 2.5])
def test_label_information_of_margins_that_are_hardly_ever_wrong_has_the_best_scale(strength):
    margin = torch.randn(2000, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + strength
    assert margin.min() < 0
    found = minimize_scalar(
        lambda t: np.logaddexp(0, -t * margin.numpy()).mean(), bounds=(0, 50), method="bounded", options={"xatol": 1e-9}
    )
    assert float(label_information(margin)) == pytest.approx(math.log(2) - found.fun, abs=1e-12)


def heavy(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(2000, generator=generator, dtype=torch.float64)
    if kind == "cubes, all right":
        return noise.abs() ** 3
    if kind == "cubes, some wrong":
        return (noise + 1.5) ** 3
    if kind == "two sizes":
        return torch.cat([0.001 * noise[:1000].abs(), noise[1000:].abs()])
    if kind == "two sizes, some wrong":
        return torch.cat([0.001 * (noise[:1000] + 2), noise[1000:].abs()])
    if kind == "nearly nothing":
        return noise + 1e-3
    margin = (3 * noise).exp()
    margin[0] = -1e-4
    return margin


@pytest.mark.parametrize(
    "kind",
    ["cubes, all right", "cubes, some wrong", "two sizes", "two sizes, some wrong", "one wrong", "nearly nothing"],
)
def test_label_information_of_heavy_tailed_margins_is_the_best_over_a_dense_grid_of_scales(kind):
    margin = heavy(kind)
    grid = np.concatenate([[0.0], np.logspace(-4, 12, 12_001)])
    best = math.log(2) - min(np.logaddexp(0, -t * margin.numpy()).mean() for t in grid)
    for scale in (1e-9, 1.0, 1e9):
        found = float(label_information(scale * margin))
        assert found >= best - 1e-12
        assert found == pytest.approx(best, abs=1e-6)  # The grid misses the best scale by up to 0.15 %.
        if bool((margin > 0).all()):
            assert found == pytest.approx(math.log(2), abs=1e-12)


EXTREME = {
    "zeros": (torch.zeros(4), 0.0),
    "all wrong": (-torch.ones(4), 0.0),
    "wrong on the whole": (torch.tensor([1.0, -3.0]), 0.0),
    "no triple": (torch.zeros(0), 0.0),
    "all right": (torch.tensor([0.9, 1.0, 1.1]), math.log(2)),
    "one": (torch.tensor([1e-30]), math.log(2)),
    "as large as numbers get": (torch.tensor([3e38, 3e38]), math.log(2)),
    "half precision": (torch.tensor([6e4, 5e4], dtype=torch.float16), math.log(2)),
}


@pytest.mark.parametrize(("margin", "expected"), EXTREME.values(), ids=EXTREME.keys())
def test_label_information_of_extreme_margins_is_finite_and_between_its_ends(margin, expected):
    value = label_information(margin.requires_grad_())
    assert float(value) == pytest.approx(expected, abs=1e-3)
    assert 0 <= float(value) <= math.log(2)
    assert not value.requires_grad


def test_label_information_of_several_views_is_that_of_each_and_leaves_out_what_is_not_there():
    generator = torch.Generator().manual_seed(0)
    margins = torch.randn(50, 3, generator=generator, dtype=torch.float64) + torch.tensor([0.2, 0.5, 1.0])
    available = torch.rand(50, 3, generator=generator) < 0.6
    available[:, 2] = False
    each = [float(label_information(column)) for column in margins.unbind(dim=1)]
    assert label_information(margins).tolist() == pytest.approx(each, abs=1e-12)
    left = label_information(margins.masked_fill(~available, torch.nan), available)
    for n in range(2):
        assert float(left[n]) == pytest.approx(float(label_information(margins[available[:, n], n])), abs=1e-12)
    assert float(left[2]) == 0.0


def test_information_about_labels_beyond_the_others_of_independent_evidence_adds_up():
    """Log-likelihood ratios of independent modalities add, and so do their squared strengths."""
    generator = torch.Generator().manual_seed(0)
    strengths = (1.0, 2.0)
    noise = torch.randn(200_000, 2, generator=generator, dtype=torch.float64)
    each = torch.stack([s * noise[:, n] + s**2 / 2 for n, s in enumerate(strengths)], dim=1)
    found = conditional_label_information(each.sum(dim=1), each.flip(1))  # Without the first, the second is left.
    joint = exact_information(math.hypot(*strengths))
    expected = [joint - exact_information(strengths[1]), joint - exact_information(strengths[0])]
    assert found.tolist() == pytest.approx(expected, abs=3e-3)


def test_conditional_information_counts_the_triples_that_have_the_modality():
    generator = torch.Generator().manual_seed(0)
    full, without = (torch.randn(*s, generator=generator, dtype=torch.float64) + 0.5 for s in ((40,), (40, 2)))
    available = torch.rand(40, 2, generator=generator) < 0.5
    found = conditional_label_information(full, without, available)
    for n in range(2):
        there = available[:, n]
        expected = label_information(full[there]) - label_information(without[there, n])
        assert float(found[n]) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("correlation", [0.0, 0.3, -0.8])
def test_gaussian_information_is_that_of_the_correlation_without_the_id_part(correlation):
    generator = torch.Generator().manual_seed(0)
    x, y, ids = (torch.randn(500, generator=generator, dtype=torch.float64) for _ in range(3))
    alone = torch.stack([x + 5, 3 * (correlation * x + math.sqrt(1 - correlation**2) * y)], dim=1)
    r = np.corrcoef(alone.numpy().T)[0, 1]
    found = gaussian_information(alone + 10 * ids.unsqueeze(-1), 10 * ids)
    assert found[0, 1].item() == found[1, 0].item() == pytest.approx(-0.5 * math.log(1 - r * r), abs=1e-9)
    assert found.diagonal().tolist() == [0.0, 0.0]
    assert gaussian_information(alone + 10 * ids.unsqueeze(-1))[0, 1] > 0.8  # The ids alone.


def test_gaussian_information_is_finite_for_constant_and_for_identical_margins():
    x = torch.randn(100, generator=torch.Generator().manual_seed(0))
    found = gaussian_information(torch.stack([x, torch.full_like(x, 0.3), x, -2 * x + 1], dim=1))
    assert found.isfinite().all()
    assert found[1].tolist() == found[:, 1].tolist() == [0.0] * 4
    assert found[0, 2] == pytest.approx(8, abs=0.1)
    assert found[0, 3] > 7
    assert gaussian_information(torch.zeros(0, 2)).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_gaussian_information_uses_the_triples_that_have_both_modalities():
    generator = torch.Generator().manual_seed(0)
    margins = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    margins[:, 1] += margins[:, 0]
    available = torch.rand(60, 3, generator=generator) < 0.7
    found = gaussian_information(margins.masked_fill(~available, torch.nan), None, available)
    for m, n in itertools.combinations(range(3), 2):
        both = available[:, m] & available[:, n]
        r = np.corrcoef(margins[both][:, [m, n]].numpy().T)[0, 1]
        assert found[m, n].item() == pytest.approx(-0.5 * math.log(1 - r * r), abs=1e-9)


def test_running_information_over_batches_is_that_of_the_epoch_and_survives_a_break():
    generator = torch.Generator().manual_seed(0)
    margins = torch.randn(90, 2, generator=generator, dtype=torch.float64) + 0.4
    base = torch.randn(90, generator=generator, dtype=torch.float64)
    available = torch.rand(90, 2, generator=generator) < 0.8
    running = RunningInformation(["a", "b"])
    assert running.label.isnan().all()
    running.track(margins[:60], base[:60], available[:60])
    again = RunningInformation(["a", "b"])
    again.load_state_dict(running.state_dict())
    again.track(margins[60:], base[60:], available[60:])
    again.finish_epoch()
    expected = gaussian_information(margins, base, available)
    assert torch.allclose(again.gaussian, expected, rtol=0, atol=1e-12)
    alone = margins - base.unsqueeze(-1)
    parts = [unbiased_label_information(alone[s], available[s]) for s in (slice(60), slice(60, 90))]
    counts = [available[:60].sum(dim=0), available[60:].sum(dim=0)]
    mean = (parts[0] * counts[0] + parts[1] * counts[1]) / (counts[0] + counts[1])
    assert torch.allclose(again.label, mean, rtol=0, atol=1e-12)
    assert again.known.all()
    again.finish_epoch()  # An epoch without a batch changes nothing.
    assert torch.equal(again.label, mean)
    assert not again.count.any()


@pytest.mark.parametrize("count", [8, 16, 64, 512])
def test_noise_of_few_triples_in_a_batch_tells_no_more_than_noise_of_many(count):
    generator = torch.Generator().manual_seed(count)
    noise = torch.randn(4096, 2, generator=generator, dtype=torch.float64)
    running, raw = RunningInformation(["rare", "common"]), []
    for batch in noise.split(512):
        available = torch.ones_like(batch, dtype=torch.bool)
        available[:, 0] = torch.arange(512) < count
        running.track(batch, None, available)
        raw.append(label_information(batch, available))
    running.finish_epoch()
    assert (running.label < 1 / count).all()
    assert running.label[0] < torch.stack(raw).mean(dim=0)[0]
    running.track(noise[:512], None, torch.arange(512).unsqueeze(1) < torch.tensor([7, 512]))
    running.finish_epoch()
    assert running.known.tolist() == [False, True]
    assert running.label[0] == 0


def test_unbiased_information_takes_off_what_is_found_in_noise():
    generator = torch.Generator().manual_seed(0)
    margins = torch.randn(2000, 40, generator=generator, dtype=torch.float64)
    for count in (16, 100):
        found = torch.stack([unbiased_label_information(x) for x in margins.split(count)])
        raw = torch.stack([label_information(x) for x in margins.split(count)])
        assert abs(float(found.mean())) < 0.15 / count < float(raw.mean())
    informed = gaussian_margins(1.0)
    assert float(label_information(informed) - unbiased_label_information(informed)) == pytest.approx(
        0.5 / informed.numel(), abs=1e-12
    )
