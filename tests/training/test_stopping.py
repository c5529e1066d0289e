"""When to stop, without a model."""

from __future__ import annotations

import math

import pytest

from pyg_ckd.errors import InputError
from pyg_ckd.training import EarlyStopping


def run(values: list[float], **options) -> tuple[EarlyStopping, list[bool], int | None]:
    """Feed values until it stops; return the stopper, which values were best, and the epoch of the stop."""
    stopper, improved = EarlyStopping(**options), []
    for epoch, value in enumerate(values, start=1):
        improved.append(stopper.update(epoch, value))
        if stopper.should_stop:
            return stopper, improved, epoch
    return stopper, improved, None


def test_stops_after_patience_evaluations_in_a_row_without_improvement():
    stopper, improved, stop = run([0.1, 0.3, 0.2, 0.3, 0.1, 0.9], patience=3)
    assert improved == [True, True, False, False, False]
    assert stop == 5
    assert (stopper.best, stopper.best_epoch) == (0.3, 2)


def test_an_improvement_starts_the_wait_anew():
    _, _, stop = run([0.1, 0.0, 0.2, 0.1, 0.3, 0.2, 0.2], patience=2)
    assert stop == 7


def test_an_equal_value_is_no_improvement():
    assert run([0.5, 0.5, 0.5], patience=2)[2] == 3


def test_improvements_must_exceed_min_delta():
    stopper, improved, _ = run([0.0, 0.25, 0.5, 0.75], patience=9, min_delta=0.25)
    assert improved == [True, False, True, False]
    assert stopper.best == 0.5


def test_growing_metric_never_stops():
    assert run([n / 100 for n in range(100)], patience=1)[2] is None


def test_nan_is_no_improvement():
    stopper, improved, stop = run([math.nan, math.nan], patience=2)
    assert improved == [False, False]
    assert stop == 2
    assert stopper.best_epoch == -1


def test_metric_that_stays_zero_has_a_best_epoch():
    stopper, _, _ = run([0.0, 0.0], patience=5)
    assert (stopper.best, stopper.best_epoch) == (0.0, 1)


def test_stored_state_goes_on_as_if_there_had_been_no_break():
    values = [0.1, 0.3, 0.2, 0.1, 0.2]
    whole, _, stop = run(values, patience=3)
    first, _, _ = run(values[:3], patience=3)
    second = EarlyStopping(patience=3)
    second.load_state_dict(first.state_dict())
    for epoch, value in enumerate(values[3:], start=4):
        second.update(epoch, value)
    assert stop == 5
    assert second == whole
    assert second.should_stop


@pytest.mark.parametrize("options", [{"patience": 0}, {"patience": -1}, {"min_delta": -0.1}])
def test_nonsense_is_refused(options):
    with pytest.raises(InputError, match="expected a positive patience and a min_delta of zero or more"):
        EarlyStopping(**options)
