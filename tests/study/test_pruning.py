"""Pruning on planted curves: never before the warm-up, never in a climb out of a dip, and soon where nothing comes."""

from __future__ import annotations

import math

import pytest

from pyg_ckd.study.pruning import Pruner, Pruning, bars_of, budgets, curve_of, may_reach, reached, reason_to_prune
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
        (lambda steps: 0.19 * math.exp(-steps / 300), 200),
        (lambda steps: 0.15 + 0.002 * math.sin(78.233 * steps), 230),
        (lambda steps: 0.18 - 0.10 * math.exp(-steps / 40), 260),
        (lambda steps: 0.10 + steps / 2e5, 200),
    ],
    ids=["flat", "collapse", "noisy plateau", "saturated below", "climb too slow to get there"],
)
def test_what_will_not_get_there_is_pruned_soon(curve, latest):
    found = steps_until(curve)
    assert found is not None
    assert 200 <= found <= latest


def test_whoever_reaches_the_bars_is_not_pruned_however_it_goes_on():
    assert steps_until(lambda steps: 0.23 if steps < 50 else 0.05) is None


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
