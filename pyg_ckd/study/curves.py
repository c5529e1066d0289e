"""What the curve of a validation metric says about its end: whether it may reach a value, also out of a dip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from pyg_ckd.training.stopping import DEVIATION

SMOOTHED = 20
"""A curve is smoothed over a twentieth of its evaluations on either side of each."""
DEPTH, UNITS = 0.01, 5.0
"""A dip is deeper than this share of its start, and than this many units of the noise."""
FEW, ROUGHLY = 8, 0.03
"""Of fewer evaluations the noise is not known, for it is mostly their bend: a dip is then deeper than this share."""
HIGH, COLLAPSED = 0.5, 0.1
"""The end of a fall is waited for from the one share of what is to be reached on, and not below the other."""
LEAST = 4
"""Evaluations from the bottom of a dip on that its climb is judged by, at the least."""
ERRORS = 3.0
"""Standard errors by which a slope may be wrong."""
SHARE = 0.2
"""A climb would close this share of the gap in a training of the whole length, at the least."""

Curve = Sequence[tuple[int, float]]
"""Steps and the monitored validation metric of every evaluation, oldest first."""


def may_reach(curve: Curve, bar: float, most: int) -> bool:
    """Return whether a metric that goes on as it went would reach a value within the whole training.

    The line through the means of the last quarter of the curve and of the quarter before is drawn to the end. Curves
    bend downwards, so that it promises more than they keep. A quarter has two evaluations at least; with fewer than two
    quarters it is too early to tell, and the answer is yes.

    Args:
        curve: The curve so far.
        bar: The value.
        most: Steps of the whole training.
    """
    size = max(2, len(curve) // 4)
    if len(curve) < 2 * size:
        return True
    (before, low), (after, high) = (
        (fmean(steps for steps, _ in part), fmean(value for _, value in part))
        for part in (curve[-2 * size : -size], curve[-size:])
    )
    return high > low and high + (high - low) / (after - before) * (most - after) >= bar


@dataclass(frozen=True)
class Dip:
    """The deepest fall of a curve and what came after it.

    Attributes:
        fall: Steps from the start of the fall to its lowest value.
        start: The value at its start, smoothed.
        low: The lowest value, smoothed.
        since: The curve from the lowest value on.
        noise: Standard deviation of an evaluation around the curve.
    """

    fall: int
    start: float
    low: float
    since: Curve
    noise: float

    @classmethod
    def of(cls, curve: Curve, bar: float) -> Dip | None:
        """Return the dip of a curve, :obj:`None` if it has fallen no further than by noise, or just now and from low.

        Args:
            curve: The curve so far; with fewer than four evaluations it is too early to tell.
            bar: The value that is to be reached.
        """
        values = [value for _, value in curve]
        side, noise = len(values) // SMOOTHED, deviation(values)
        smooth = [fmean(values[max(0, i - side) : i + side + 1]) for i in range(len(values))]
        top, bottom = deepest_fall(smooth)
        known = len(values) >= FEW
        least = max(DEPTH * smooth[top], UNITS * noise / math.sqrt(2 * side + 1)) if known else ROUGHLY * smooth[top]
        since = curve[bottom:]
        early = len(values) < LEAST or (smooth[top] < HIGH * bar and len(since) < LEAST)
        if early or smooth[top] - smooth[bottom] <= least:
            return None
        noise = max(noise, deviation([value for _, value in since]))
        return cls(curve[bottom][0] - curve[top][0], smooth[top], smooth[bottom], since, noise)

    def may_reach(self, bar: float, most: int) -> bool:
        """Return whether training goes on although the curve is below a value: it falls, rises, or may reach the value.

        - It is waited for while it falls, and at the bottom for half as long as it fell, if it started at half of the
          bar or more, and if the lowest value lies in the first half of the training and is a tenth of the bar or
          more.
        - A climb is judged by four evaluations or more. It goes on as long as the metric rises: by more than its noise,
          and fast enough to close a fifth of the gap to the bar in a training of the whole length.
        - It also goes on if the line through its last half, or one that is steeper by three standard errors, would
          reach the bar by the end.

        Args:
            bar: The value.
            most: Steps of the whole training.
        """
        (bottom, _), (now, _) = self.since[0], self.since[-1]
        hopeful = self.start >= HIGH * bar and self.low >= COLLAPSED * bar and 2 * bottom <= most
        if hopeful and (len(self.since) == 1 or 2 * (now - bottom) < self.fall):
            return True
        if len(self.since) < LEAST:
            return len(self.since) > 1
        last = self.since[-max(LEAST, len(self.since) // 2) :]
        steps, level = fmean(step for step, _ in last), fmean(value for _, value in last)
        spread = sum((step - steps) ** 2 for step, _ in last)
        slope = sum((step - steps) * (value - level) for step, value in last) / spread
        wrong, left = ERRORS * self.noise / math.sqrt(spread), most - steps
        rises = slope > wrong and slope * most >= SHARE * (bar - level)
        return rises or level + (slope + wrong) * left >= bar


def deepest_fall(values: Sequence[float]) -> tuple[int, int]:
    """Return the places of the two values between which a curve has fallen most, the same place twice if it never has.

    Args:
        values: The values, one or more.
    """
    top, found = 0, (0, 0)
    for place, value in enumerate(values):
        if value > values[top]:
            top = place
        if values[top] - value > values[found[0]] - values[found[1]]:
            found = top, place
    return found


def deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of values around a smooth curve, by their second differences.

    Args:
        values: The values; fewer than three have none.
    """
    second = [abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    return DEVIATION * median(second) if second else 0.0
