"""Planted validation curves, whose true end is known, and where training stops on them.

``python -m examples.planted_curves`` prints, for curves with drawn noise and evaluations that lie more or less far
apart, in how many draws training stops too early and too late by what :class:`~pyg_ckd.training.EarlyStopping` says.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pyg_ckd.training import EarlyStopping

PATIENCE = 1000
NOISE = 0.002
END = 7000
EARLY = 0.4 * PATIENCE
"""How long before its end a rise may be so small that it is none any more."""


@dataclass(frozen=True)
class Curve:
    """A curve over steps.

    Attributes:
        value: From step to metric, without noise.
        end: Step at which the last rise ends.
        late: Patiences after it in which training has to stop.
        evaluations: Evaluations after it in which training has to stop, where these are more steps.
    """

    value: Callable[[float], float]
    end: int
    late: float = 3.5
    evaluations: int = 25

    def bounds(self, every: int) -> tuple[float, float]:
        """Return the first and the last step at which training may stop.

        Args:
            every: Steps from one evaluation to the next.
        """
        return max(2 * PATIENCE, self.end - EARLY), self.end + max(self.late * PATIENCE, self.evaluations * every)


def ramp(step: float, begin: float, end: float) -> float:
    """Return how much of the way from one step to another is done, from 0 to 1.

    Args:
        step: The step.
        begin: First step of the way.
        end: Last step of the way.
    """
    return min(max((step - begin) / (end - begin), 0.0), 1.0)


def rise(step: float, begin: float) -> float:
    """Return a rise of four times the noise in as many steps as patience has.

    Args:
        step: The step.
        begin: First step of the rise.
    """
    return 4 * NOISE / PATIENCE * (END - begin) * ramp(step, begin, END)


def fall(step: float, depth: float, begin: float, end: float) -> float:
    """Return a fall from nothing to minus ``depth``.

    Args:
        step: The step.
        depth: How deep it falls.
        begin: First step of the fall.
        end: Last step of the fall.
    """
    return -depth * ramp(step, begin, end)


CURVES = {
    "dip": Curve(lambda t: 0.2 + fall(t, 0.064, 0, 400) + 0.124 * ramp(t, 700, END), END),
    "long dip": Curve(lambda t: 0.2 + fall(t, 0.064, 0, 1000) + 0.124 * ramp(t, 1000, END), END),
    "shallow dip": Curve(lambda t: 0.2 + fall(t, 0.02, 0, 400) + 0.06 * ramp(t, 700, END), END),
    "later dip": Curve(
        lambda t: (
            0.2 * ramp(t, 0, 2000) + fall(t, 0.08, 2000, 2100) + 0.08 * ramp(t, 2100, 2500) + 0.07 * ramp(t, 2500, END)
        ),
        END,
    ),
    "start above everything": Curve(lambda t: 0.4 + fall(t, 0.3, 0, 100) + 0.15 * ramp(t, 100, END), END),
    "slow climb below the start": Curve(lambda t: 0.4 + fall(t, 0.3, 0, 100) + rise(t, 100), END),
    "rise": Curve(lambda t: 0.3 * ramp(t, 0, END), END),
    "slow rise": Curve(lambda t: 0.2 + rise(t, 0), END),
    "rise in steps": Curve(lambda t: 0.1 + 0.01 * min(t // 700, END // 700), END),
    "plateau": Curve(lambda t: 0.2, 0, 4),
    "collapse": Curve(lambda t: 0.3 * ramp(t, 0, END) if t < END else 0.05, END, 2, 15),
    "over-fitting": Curve(lambda t: 0.3 * ramp(t, 0, END) + fall(t, 0.1, END, 3 * END), END, 2, 15),
}


BEYOND = {"long dip, slow climb": Curve(lambda t: 0.2 + fall(t, 0.064, 0, 300) + rise(t, PATIENCE), END)}
"""Curves of which nothing is promised."""


def stop_of(curve: Curve, every: int, seed: int, noise: float = NOISE, wander: float = 0.0) -> int:
    """Return the step at which training stops that is evaluated at every ``every``-th step.

    Args:
        curve: The curve.
        every: Steps from one evaluation to the next.
        seed: Seed of the noise.
        noise: Its standard deviation.
        wander: Its correlation from one evaluation to the next.
    """
    draw = np.random.default_rng(seed).normal(scale=noise, size=4 * END // every)
    stopper, error = EarlyStopping(PATIENCE), 0.0
    for index, fresh in enumerate(draw):
        error = wander * error + math.sqrt(1 - wander**2) * fresh
        step = (index + 1) * every
        stopper.update(step, index + 1, curve.value(step) + error)
        if stopper.should_stop:
            return step
    raise AssertionError("it never stopped")


def missed(curve: Curve, every: int, draws: int) -> tuple[int, int]:
    """Return in how many draws of the noise training stops too early, and too late.

    Args:
        curve: The curve.
        every: Steps from one evaluation to the next.
        draws: Number of draws.
    """
    first, last = curve.bounds(every)
    stops = [stop_of(curve, every, seed) for seed in range(draws)]
    return sum(stop < first for stop in stops), sum(stop > last for stop in stops)


def main() -> None:
    """Print in how many draws training stops too early and too late, for every curve and distance of evaluations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", nargs="+", type=int, default=[20, 50, 100, 200], metavar="STEPS")
    parser.add_argument("--draws", type=int, default=100)
    args = parser.parse_args()
    head = ["curve", *(f"every {every} steps" for every in args.every)]
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}", flush=True)
    for name, curve in {**CURVES, **BEYOND}.items():
        counts = [missed(curve, every, args.draws) for every in args.every]
        cells = [", ".join(f"{100 * count / args.draws:.0f} %" for count in pair) for pair in counts]
        print(f"| {' | '.join([name, *cells])} |", flush=True)


if __name__ == "__main__":
    main()
