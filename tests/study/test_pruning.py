"""Pruning on planted curves: never before the warm-up, never in a climb out of a dip, and soon where nothing comes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from statistics import fmean

import pytest

from pyg_ckd.study.curves import Dip, deepest_fall, deviation, may_reach
from pyg_ckd.study.pruning import Pruner, Pruning, bars_of, budgets, curve_of, reached, reason_to_prune
from pyg_ckd.training import History, Trainer

MOST, STEP = 1000, 10
BARS = ((200, 0.20), (400, 0.21), (800, 0.22))


def steps_until(value, bars=BARS) -> int | None:
    """Return the steps after which a curve is pruned, a function of the steps."""
    curve = []
    for steps in range(STEP, MOST, STEP):
        curve.append((steps, value(steps)))
        if reason_to_prune(curve, bars, MOST):
            return steps
    return None


def dip(steps: float, start: float = 0.19, low: float = 0.10, high: float = 0.25, bottom: int = 100) -> float:
    """A high start, a fall to ``bottom``, and a slow climb above the start."""
    if steps < bottom:
        return start + (low - start) * steps / bottom
    return high - (high - low) * math.exp(-(steps - bottom) / 400)


def test_a_model_that_climbs_out_of_its_dip_is_not_pruned():
    assert dip(200) < BARS[0][1]
    assert dip(400) < BARS[1][1]
    assert steps_until(dip) is None


def test_a_noisy_climb_out_of_a_dip_is_not_pruned():
    noise = [0.004 * math.sin(12.9898 * k) for k in range(MOST)]
    assert steps_until(lambda steps: dip(steps) + noise[steps]) is None


def test_nothing_is_pruned_before_the_warm_up():
    assert steps_until(lambda steps: 0.1 - steps / 1e5) == 200
    assert steps_until(lambda steps: 0.1 - steps / 1e5, bars=((300, 0.2),)) == 300
    assert steps_until(lambda steps: 0.1, bars=()) is None


@pytest.mark.parametrize(
    ("curve", "latest"),
    [
        (lambda steps: 0.15, 200),
        (lambda steps: 0.19 * math.exp(-steps / 300), 510),  # Until half of the budget it may be a dip.
        (lambda steps: 0.19 * math.exp(-steps / 30), 200),
        (lambda steps: 0.15 + 0.002 * math.sin(78.233 * steps), 230),
        (lambda steps: 0.18 - 0.10 * math.exp(-steps / 40), 260),
        (lambda steps: 0.10 + steps / 2e5, 200),
    ],
    ids=["flat", "long fall", "collapse", "noisy plateau", "saturated below", "climb too slow to get there"],
)
def test_what_will_not_get_there_is_pruned_soon(curve, latest):
    found = steps_until(curve)
    assert found is not None
    assert 200 <= found <= latest


def test_whoever_reaches_the_bars_is_not_pruned_however_it_goes_on():
    assert steps_until(lambda steps: 0.23 if steps < 50 else 0.05) is None


def falls_and_rises(bottom: int, last: int, rise: str, low: float = 0.136) -> Callable[[int], float]:
    """A metric by epoch that falls from 0.200 to a bottom and rises to 0.24 or more in the last epoch."""
    length = last - bottom

    def value(epoch: int) -> float:
        if epoch < bottom:
            return 0.2 + (low - 0.2) * (epoch - 1) / (bottom - 1)
        share = (epoch - bottom) / length
        shares = {"line": share, "fast": 1 - math.exp(-3 * share), "round": 1 - math.exp(-((2 * share) ** 2))}
        shares["late"] = share**1.5
        return low + (0.26 - low) * shares[rise]

    return value


def noisy(value: Callable[[int], float], noise: float, drawn: random.Random) -> Callable[[int], float]:
    return lambda epoch: value(epoch) + drawn.gauss(0, noise)


def pruned_after(value: Callable[[int], float], epochs: int, bar: float = 0.21, spacing: int = 1, steps: int = 60):
    """Return the epoch after which a training is pruned, evaluated every so many epochs, with the default warm-up."""
    most = epochs * steps
    bars = tuple((budget, bar) for budget in budgets(most // 5, most))
    curve = []
    for epoch in range(spacing, epochs, spacing):
        curve.append((epoch * steps, value(epoch)))
        if reason_to_prune(curve, bars, most):
            return epoch
    return None


@pytest.mark.parametrize("bar", [0.205, 0.23])
@pytest.mark.parametrize("low", [0.18, 0.136, 0.05])
@pytest.mark.parametrize("rise", ["line", "fast", "round", "late"])
def test_no_dip_whose_bottom_is_in_the_first_half_is_pruned(rise, low, bar):
    for epochs in (8, 12, 20, 50, 100):
        for bottom in {max(2, round(share * epochs)) for share in (0.03, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.45)}:
            for spacing in {1, max(1, min(epochs // 25, bottom // 3))}:
                found = pruned_after(falls_and_rises(bottom, epochs, rise, low), epochs, bar, spacing)
                assert found is None, (epochs, bottom, spacing)


def test_the_dip_of_the_guide_is_not_pruned_while_it_rises():
    values = [0.200, 0.160, 0.136, 0.150, 0.170, 0.190, 0.210, 0.230]
    assert pruned_after(lambda epoch: values[epoch - 1], 8, bar=0.205) is None
    assert pruned_after(lambda epoch: values[epoch - 1], 8, bar=0.300) is None


def test_a_climb_is_not_pruned_even_if_it_has_become_slow():
    assert pruned_after(lambda epoch: 0.2 - 0.007 * epoch if epoch < 10 else 0.13 + 0.0002 * (epoch - 10), 100) is None


@pytest.mark.parametrize("noise", [0.001, 0.003])
def test_noise_does_not_prune_a_climb(noise):
    drawn = random.Random(0)
    pruned = [
        pruned_after(noisy(falls_and_rises(bottom, epochs, rise), noise, drawn), epochs)
        for epochs in (8, 20, 50)
        for bottom in (max(2, epochs // 10), epochs // 4)
        for rise in ("line", "fast", "round")
        for _ in range(20)
    ]
    assert sum(epoch is not None for epoch in pruned) <= 0.01 * len(pruned)


HOPELESS: dict[str, tuple[Callable[[float], float], float]] = {
    "flat": (lambda share: 0.15, 0.75),
    "flat and close": (lambda share: 0.19, 0.75),
    "at random": (lambda share: 0.01, 0.75),
    "climb too slow": (lambda share: 0.10 + 0.02 * share, 0.75),
    "saturated": (lambda share: 0.18 - 0.10 * math.exp(-share / 0.06), 0.65),
    "collapse": (lambda share: 0.01 + 0.18 * math.exp(-share / 0.04), 0.75),
    "long fall": (lambda share: 0.19 * math.exp(-share / 0.3), 0.45),
    "over-fitting": (lambda share: 0.19 - 0.16 * abs(share - 0.15), 0.45),
    "fall to a plateau": (lambda share: 0.20 - 0.08 * min(1, share / 0.1), 0.5),
}
"""Metrics by the share of the training that is over, and the share of the budget that pruning saves at least."""


def saved(curve: Callable[[float], float], epochs: int, noise: float) -> float:
    """Return the share of the budget that is saved on average of twenty draws of the noise."""
    drawn = random.Random(1)
    found = [pruned_after(noisy(lambda epoch: curve(epoch / epochs), noise, drawn), epochs) for _ in range(20)]
    return 1 - fmean(epochs if epoch is None else epoch for epoch in found) / epochs


@pytest.mark.parametrize("case", HOPELESS)
def test_pruning_saves_most_of_the_budget_of_hopeless_trials(case):
    """Of the budget 80 % come after the warm-up; of a fall, half is waited for at most."""
    curve, least = HOPELESS[case]
    assert all(saved(curve, 50, noise) >= least for noise in (0.0, 0.001, 0.003))


@pytest.mark.parametrize("case", HOPELESS)
def test_pruning_saves_a_quarter_of_the_budget_of_hopeless_trials_of_eight_evaluations(case):
    assert all(saved(HOPELESS[case][0], 8, noise) >= 0.25 for noise in (0.0, 0.001, 0.003))


def test_a_fall_is_waited_for_until_half_of_the_budget():
    assert pruned_after(lambda epoch: 0.2 - 0.001 * epoch, 100) == 51
    assert pruned_after(falls_and_rises(60, 100, "fast"), 100) == 51


def test_no_end_of_a_fall_is_waited_for_from_a_low_start_or_to_nearly_nothing():
    assert pruned_after(lambda epoch: 0.10 - 0.001 * epoch, 100) == 20
    assert pruned_after(lambda epoch: max(0.2 - 0.01 * epoch, 0.02 - 1e-4 * epoch), 100) == 20


def test_the_bottom_of_a_dip_may_last_half_as_long_as_the_fall():
    def flat(length: int):
        return lambda epoch: 0.2 - 0.004 * min(epoch, 20) + 0.005 * max(0, epoch - 20 - length)

    assert pruned_after(flat(9), 100) is None
    assert 30 <= pruned_after(flat(40), 100) <= 32


def test_a_dip_is_the_deepest_fall_beyond_the_noise():
    assert deepest_fall([0.1, 0.3, 0.2, 0.5, 0.1, 0.4]) == (3, 4)
    assert deepest_fall([0.1, 0.2, 0.3]) == (0, 0)
    curve = [(step, value) for step, value in enumerate([0.2, 0.15, 0.1, 0.12, 0.14])]
    dip = Dip.of(curve, 0.21)
    assert dip is not None
    assert (dip.fall, dip.start, dip.low, dip.since) == (2, 0.2, 0.1, curve[2:])
    assert Dip.of([(step, 0.2 - 0.001 * step) for step in range(6)], 0.21) is None  # By 2.5 %, of few evaluations.
    assert Dip.of([(step, 0.2 - 0.0002 * step) for step in range(10)], 0.21) is None  # By 0.9 %.
    assert Dip.of(curve[:3], 0.21) is None  # Too early.
    drawn = random.Random(3)
    noisy = [drawn.gauss(0.15, 0.01) for _ in range(60)]
    assert deviation(noisy) == pytest.approx(0.01, abs=3e-3)
    assert Dip.of(list(enumerate(noisy)), 0.21) is None
    assert deviation([0.1, 0.2]) == 0


def test_a_line_is_drawn_through_two_quarters_to_the_end():
    line = [(steps, 0.1 + steps / 10_000) for steps in range(10, 110, 10)]  # 0.2 at step 1000.
    assert may_reach(line, 0.1999, 1000)
    assert not may_reach(line, 0.2001, 1000)
    assert may_reach(line[:3], 9.0, 1000)  # Too early to tell.


def test_budgets_double_from_the_warm_up_and_the_whole_one_is_none_of_them():
    assert budgets(100, 900) == [100, 200, 400, 800]
    assert budgets(100, 800) == [100, 200, 400]
    assert budgets(100, 100) == []


def test_trials_take_part_where_they_have_been_or_ended_by_themselves():
    curve = [(100, 0.3), (200, 0.1), (300, 0.4)]
    assert reached(curve, [50, 100, 250, 300, 600], ended=False) == {100: 0.3, 250: 0.3, 300: 0.4}
    assert reached(curve, [100, 250, 600], ended=True) == {100: 0.3, 250: 0.3, 600: 0.4}


def test_a_bar_is_the_median_of_three_trials_or_more():
    trials = [{100: 0.1, 200: 0.4}, {100: 0.3, 200: 0.2}, {100: 0.2}]
    assert bars_of(trials) == ((100, 0.2),)
    assert bars_of([*trials, {100: 0.4, 200: 0.3}]) == ((100, 0.25), (200, 0.3))


def test_the_callback_reads_the_curve_in_steps_and_leaves_the_last_epoch_alone():
    pruning = Pruning(epoch_steps=50, bars=((200, 0.5),))
    rows = [{"epoch": float(e), "val/recall@20": 0.1} if e != 2 else {"epoch": 2.0} for e in range(1, 6)]
    assert curve_of(rows, "recall@20", pruning) == [(50, 0.1), (150, 0.1), (200, 0.1), (250, 0.1)]
    pruner, trainer = Pruner(pruning, "recall@20"), Trainer(max_epochs=6)
    stopped = []
    for seen in range(1, 6):
        history = History(rows=rows[:seen])
        pruner.on_train_epoch_end(trainer, history)
        stopped.append(history.stopped)
    assert stopped[:4] == [""] * 4  # With three evaluations it is too early to tell.
    assert stopped[4].startswith("pruned after 250 steps: 0.1000 is below 0.5000")
    history = History(rows=rows)
    pruner.on_train_epoch_end(Trainer(max_epochs=5), history)
    assert history.stopped == ""


def test_nothing_ends_before_the_first_evaluation():
    assert reason_to_prune([], BARS, MOST) == ""
