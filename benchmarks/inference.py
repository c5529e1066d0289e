"""Peak memory of inference over a whole graph, whole and in parts, each in a process of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.common import WIDTH, Bars, Missing, Suite, Table, first_line, quiet_clock
from benchmarks.memory import apart, forget_peak, held, peak
from benchmarks.problems import Problem
from pyg_ckd.data.inputs import RATES
from pyg_ckd.nn import MMGCN, EarlyFusionLightGCN, LightGCN, bounded

BACKBONES = {model.__name__: model for model in (LightGCN, EarlyFusionLightGCN, MMGCN)}
SIZES = {False: (30_000, 10_000, 200_000), True: (150_000, 50_000, 1_000_000)}
"""Users, items and interactions."""
WAYS = {"whole": float("inf"), "parts": 0.0}
"""From the way to the bytes from which on a table counts as large."""


def run(
    suite: Suite, sizes: tuple[int, int, int] | None = None, backbones: Sequence[str] = tuple(BACKBONES)
) -> list[Table]:
    """Measure the backbones on a random graph with two modalities, the full view alone and both uni-modal ones beside.

    Args:
        suite: What to measure on.
        sizes: Users, items and interactions.
        backbones: Names of what is measured.
    """
    users, items, interactions = sizes or SIZES[suite.full]
    table = Table(
        f"inference on {interactions} interactions of {users} users and {items} items",
        [],
        chart=Bars("peak / table", ("backbone", "views", "way")),
    )
    for name, views, way in itertools.product(backbones, (1, 3), WAYS):
        try:
            size = (users, items, interactions)
            place = suite.device.type
            found = apart(suite.device, measure, name, views, way, size, place, torch.get_num_threads())
        except (Missing, RuntimeError) as error:
            table.notes.append(f"{name}, {views} views, {way}: left out, {first_line(error)}.")
            continue
        table.rows.append({"backbone": name, "views": views, "way": way, **found})
    table_size = (users + items) * WIDTH * 4 / 2**20
    table.notes.append(
        f"The peak is what the process holds at most in a pass beyond what it held before: parameters, features and "
        f"the prepared graph. A table of all nodes takes {table_size:.1f} MiB; the results are one for every view, of "
        "LightGCN one in all. Kept is what is left when the results are gone. Seconds are the least of three passes."
    )
    return [table]


def measure(name: str, views: int, way: str, sizes: tuple[int, int, int], device: str, threads: int) -> dict[str, Any]:
    """Return the peak of a pass in MiB and in tables of all nodes, what it keeps, and the seconds of CPU."""
    torch.set_num_threads(threads)
    place = torch.device(device)
    clock, large = quiet_clock(place), bounded.LARGE
    bounded.LARGE = WAYS[way]  # type: ignore[assignment]
    try:
        return _measured(name, views, sizes, place, clock)
    finally:
        bounded.LARGE = large


def _measured(
    name: str, views: int, sizes: tuple[int, int, int], place: torch.device, clock: Callable[[], float]
) -> dict[str, Any]:
    _call(name, views, (200, 100, 2000), place)()
    table = (sizes[0] + sizes[1]) * WIDTH * 4
    call = _call(name, views, sizes, place)
    forget_peak(place)
    before = held(place)
    call()
    most, kept = peak(place) - before, held(place) - before
    seconds = []
    for _ in range(3):
        start = clock()
        call()
        seconds.append(clock() - start)
    return {
        "peak (MiB)": most / 2**20,
        "peak / table": most / table,
        "kept (MiB)": kept / 2**20 if kept > 0 else None,
        "CPU s" if place.type == "cpu" else "s": min(seconds),
    }


def _call(name: str, views: int, sizes: tuple[int, int, int], place: torch.device) -> Any:
    """Return a function that computes the tables of a new model."""
    users, items, interactions = sizes
    generator = torch.Generator().manual_seed(0)
    edges = torch.stack([torch.randint(n, (interactions,), generator=generator) for n in (users, items)]).to(place)
    problem = Problem({}, edges, users, items).with_random_features(2)
    model = problem.objective(BACKBONES[name]).student.to(place).eval()
    graph = model.prepare(problem.features, {RATES: edges})
    wanted = [None, *([m] for m in problem.features)][:views]

    def call() -> None:
        with torch.no_grad():
            model.forward_views(problem.features, graph, wanted)

    return call
