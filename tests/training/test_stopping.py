"""When to stop, without a model: planted curves, whose true end is known."""

from __future__ import annotations

import math

import pytest

from examples.planted_curves import BEYOND, CURVES, EARLY, END, NOISE, PATIENCE, missed, stop_of
from pyg_ckd.errors import InputError
from pyg_ckd.training import EarlyStopping
from pyg_ckd.training.stopping import LEAST, SMOOTHED

SEEDS = {20: 4, 50: 8, 100: 8, 200: 8}
"""From the steps between two evaluations to the seeds that are tried."""


def run(values: list[float], every: int = 1, **options) -> tuple[EarlyStopping, list[bool], int | None]:
    """Feed values until it stops; return the stopper, which values were best, and the evaluation of the stop."""
    stopper, improved = EarlyStopping(**options), []
    for epoch, value in enumerate(values, start=1):
        improved.append(stopper.update(epoch * every, epoch, value))
        if stopper.should_stop:
            return stopper, improved, epoch
    return stopper, improved, None


@pytest.mark.parametrize("every", SEEDS)
@pytest.mark.parametrize("name", CURVES)
def test_it_stops_soon_after_the_true_end_and_never_before(name, every):
    earliest, latest = CURVES[name].bounds(every)
    stops = [stop_of(CURVES[name], every, seed) for seed in range(SEEDS[every])]
    assert earliest <= min(stops)
    assert max(stops) <= latest


@pytest.mark.parametrize("name", ["dip", "plateau", "over-fitting"])
@pytest.mark.parametrize("wander", [0.5, 0.9])
def test_noise_that_wanders_from_one_evaluation_to_the_next_is_no_rise_either(name, wander):
    curve = CURVES[name]
    stops = [stop_of(curve, 50, seed, wander=wander) for seed in range(6)]
    assert max(2 * PATIENCE, curve.end - EARLY) <= min(stops)
    assert max(stops) <= curve.end + 4 * PATIENCE


def test_a_slow_climb_out_of_a_long_dip_is_seen_if_evaluations_are_close_and_may_else_be_taken_for_noise():
    (curve,) = BEYOND.values()
    assert missed(curve, 20, 6) == (0, 0)
    early, late = missed(curve, 100, 24)
    assert 0 < early < 12
    assert late == 0


def test_a_rise_that_ends_nowhere_never_stops():
    assert run([0.01 * n for n in range(1, 300)], patience=5)[2] is None
    assert run([0.5, *(0.01 + 0.001 * n for n in range(300))], patience=5)[2] is None


def test_what_grows_by_less_than_the_share_that_counts_has_ended():
    values = [1 - math.exp(-n / 20) for n in range(400)]
    _, _, stop = run(values, every=10, patience=200, min_rise=0.01)
    # It lacks min_rise once exp(-n/20) is about that, at evaluation 92, and a last high may lie just below.
    assert 92 < stop < 92 + 3 * 20
    assert run(values, every=10, patience=200, min_rise=0.0)[2] is None


def test_few_evaluations_are_waited_for_however_many_steps_they_are():
    _, _, stop = run([0.3] * 50, every=5000, patience=1000)
    assert stop == 12  # A level of 4 evaluations, and 8 without a rise.


def test_it_never_stops_before_twice_the_patience():
    _, _, stop = run([0.3] * 50, every=10, patience=200)
    assert stop == 40


def test_state_says_whether_a_curve_rises_has_ended_or_is_too_short():
    stopper = EarlyStopping(PATIENCE)
    assert stopper.too_early
    assert [stopper.rising, stopper.converged, stopper.should_stop] == [False] * 3
    noise = [NOISE * math.sin(7.3 * n) for n in range(4 * END // 50)]
    said = {}
    for n, error in enumerate(noise):
        step = 50 * (n + 1)
        stopper.update(step, n, CURVES["dip"].value(step) + error)
        said[step] = (stopper.too_early, stopper.rising, stopper.converged, stopper.should_stop)
    assert all(
        too_early and not converged for step, (too_early, _, converged, _) in said.items() if step < 2 * PATIENCE
    )
    assert {said[step] for step in said if 2 * PATIENCE <= step <= END} == {(False, True, False, False)}
    assert {said[step] for step in said if step > END + 2 * PATIENCE} == {(False, False, True, True)}


@pytest.mark.parametrize(
    ("values", "epoch", "extend", "reason"),
    [
        ([0.1] * 30, 9, 1, ""),
        ([0.1 * n for n in range(30)], 10, 1, "budget: still rising at the end"),
        ([0.1 * n for n in range(30)], 10, 2, ""),
        ([0.1 * n for n in range(30)], 15, 2, ""),
        ([0.1 * n for n in range(30)], 20, 2, "budget: still rising at the end"),
        ([0.1 * n for n in range(12)] + [1.1] * 8, 10, 2, "budget: no longer rising"),
        ([0.1 * n for n in range(12)] + [1.1] * 8, 15, 2, ""),
        ([0.1, 0.2], 10, 1, "budget: too early to tell"),
        ([0.1, 0.2], 10, 3, ""),
        ([], 30, 3, "budget: too early to tell"),
        ([0.1, 0.2], 25, 2, "budget: too early to tell"),  # Of a run that was longer once.
    ],
)
def test_budget_ends_a_training_or_is_given_again_while_it_rises(values, epoch, extend, reason):
    stopper, _, _ = run(values, patience=6)
    assert stopper.end_of(epoch, 10, extend) == reason


def test_an_equal_value_is_no_better_and_the_first_of_equals_is_kept():
    stopper, improved, _ = run([0.1, 0.3, 0.2, 0.3], patience=9)
    assert improved == [True, True, False, False]
    assert (stopper.best, stopper.best_epoch) == (0.3, 2)


def test_nan_is_no_improvement_and_ends():
    stopper, improved, stop = run([math.nan] * 40, patience=5)
    assert not any(improved)
    assert stop == 12
    assert stopper.best_epoch == -1


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("places", [[0], [1], [2, 3], [30], [100], [119], [0, 1, 2, 40, 41, 119]])
def test_a_value_that_is_not_finite_spoils_no_rise_before_or_after_it(broken, places):
    values = [0.01 * n for n in range(1, 121)]
    for place in places:
        values[place] = broken
    stopper, improved, stop = run(values, patience=5)
    assert stop is None
    assert stopper.rising
    assert not stopper.converged
    assert [n for n, better in enumerate(improved) if not better] == places
    assert stopper.best == max(value for value in values if math.isfinite(value))
    again = EarlyStopping(5)
    again.load_state_dict(stopper.state_dict())
    assert again == stopper


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 10, 29, 30, 33])
def test_a_value_that_is_not_finite_hides_no_end(broken, place):
    values = [0.01 * min(n, 30) for n in range(1, 80)]
    _, _, whole = run(values, patience=5)
    values[place] = broken
    stopper, _, stop = run(values, patience=5)
    assert 38 <= whole <= 42  # Of levels of 4 evaluations, the first flat one is that of evaluation 33.
    assert abs(stop - whole) <= 1
    assert stopper.best == pytest.approx(0.3)


def test_values_that_are_not_finite_are_waited_for_like_others():
    _, _, stop = run([0.01 * n for n in range(1, 31)] + [math.nan] * 40, patience=5)
    assert stop == 38  # 8 evaluations after the last rise.


def test_metric_that_stays_zero_has_a_best_epoch_and_ends():
    stopper, _, stop = run([0.0] * 40, patience=5)
    assert (stopper.best, stopper.best_epoch, stop) == (0.0, 1, 12)


def test_stored_state_goes_on_as_if_there_had_been_no_break():
    values = [CURVES["dip"].value(50 * n) + NOISE * math.sin(n * n) for n in range(300)]
    whole, _, stop = run(values, every=50)
    for cut in (1, 3, 10, 60, stop - 1):
        first, _, _ = run(values[:cut], every=50)
        second = EarlyStopping()
        second.load_state_dict(first.state_dict())
        assert second == first
        for epoch, value in enumerate(values[cut:stop], start=cut + 1):
            assert not second.should_stop
            second.update(50 * epoch, epoch, value)
        assert second == whole
        assert second.should_stop


@pytest.mark.parametrize("choice", [False, True])
def test_a_restart_begins_as_a_new_training_and_keeps_the_best_value_unless_told(choice):
    before = [0.1, 0.9, *[0.5] * 6]
    after = [CURVES["dip"].value(50 * n) + NOISE * math.sin(n * n) for n in range(300)]
    _, _, alone = run(after, every=50)
    stopper, _, _ = run(before, every=50)
    stopper.restart(50 * len(before), choice)
    assert stopper.best_epoch == (-1 if choice else 2)
    for epoch, value in enumerate(after[:alone], start=len(before) + 1):
        assert not stopper.should_stop
        stopper.update(50 * epoch, epoch, value)
        again = EarlyStopping()
        again.load_state_dict(stopper.state_dict())
        assert again == stopper
    assert stopper.should_stop
    assert stopper.best == max(after[:alone] if choice else before)


@pytest.mark.parametrize("cut", [1, 2, 4, 7, 11])
@pytest.mark.parametrize(("patience", "steps", "eval_every"), [(1000, 8, 1), (1000, 700, 1), (50, 3, 4), (9, 1, 2)])
def test_the_epochs_that_are_enough_are_those_after_which_it_stops_if_nothing_rises_again(
    patience, steps, eval_every, cut
):
    rising = [0.1 + 0.05 * min(n, cut) for n in range(5000)]
    stopper = EarlyStopping(patience)
    assert stopper.enough_epochs(eval_every) is None
    said = []
    for n, value in enumerate(rising, start=1):
        epoch = n * eval_every
        stopper.update(epoch * steps, epoch, value)
        said.append(stopper.enough_epochs(eval_every))
        if stopper.should_stop:
            break
    assert said[-1] == n * eval_every
    settled = max(4, cut + 4)  # The level, of four evaluations at least, is flat from then on.
    if patience / 4 < 4 * steps * eval_every:
        assert set(said[settled:]) == {n * eval_every}
    assert all(one <= n * eval_every for one in said)
    for few in (cut + 1, cut + 3):  # Asked when the metric has just risen for the last time, it has then converged.
        stopper = EarlyStopping(patience)
        for m, value in enumerate(rising[:n], start=1):
            stopper.update(m * eval_every * steps, m * eval_every, value)
            if m == few:
                enough = stopper.enough_epochs(eval_every)
            if m > few and m * eval_every >= enough:
                assert stopper.converged


def test_few_steps_need_twice_the_patience_and_few_evaluations_twelve():
    assert run([0.2], every=8)[0].enough_epochs() == 250
    assert run([0.2], every=2000)[0].enough_epochs() == 12
    assert run([0.2], every=2000)[0].enough_epochs(eval_every=5) == 60
    assert run([0.2], every=7)[0].enough_epochs(eval_every=5) == 290  # 2,000 steps are 286 epochs, rounded up.
    stopper = run([0.1 * n for n in range(20)], every=200)[0]
    assert stopper.rising
    assert stopper.enough_epochs() == 28  # The last rise and 8 evaluations, or 1,000 steps after 4,000.


def test_a_new_stage_needs_epochs_of_its_own():
    stopper, _, _ = run([0.5] * 6, every=8)
    stopper.restart(8 * 6)
    assert stopper.enough_epochs() == 256
    stopper.update(8 * 7, 7, 0.5)
    assert stopper.enough_epochs() == 256


def test_a_budget_that_ends_before_the_last_stage_says_so_and_is_given_again():
    stopper, _, _ = run([0.1 * n for n in range(12)] + [1.1] * 8, patience=6)
    assert stopper.end_of(20, 10, 2, unfinished=True) == "budget: stages still to come"
    assert stopper.end_of(20, 10, 3, unfinished=True) == ""


@pytest.mark.parametrize("options", [{"patience": 0}, {"patience": -1}, {"min_rise": -0.1}, {"min_rise": 1.0}])
def test_nonsense_is_refused(options):
    with pytest.raises(InputError, match="expected a positive patience and a min_rise from 0 to below 1"):
        EarlyStopping(**options)


def test_an_evaluation_before_the_first_step_does_not_tell_how_long_an_epoch_is():
    stopping = EarlyStopping(patience=10)
    stopping.update(0, 0, 0.1)
    assert stopping.enough_epochs() is None
    stopping.update(5, 1, 0.2)
    assert stopping.enough_epochs() == LEAST + SMOOTHED
