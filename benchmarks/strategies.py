"""What a training step of every balancing strategy costs over a plain one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.card import on_a_card
from benchmarks.common import Bars, Row, Suite, Table, quiet_clock
from benchmarks.problems import BATCH_SIZE, Problem, Steps
from pyg_ckd.balance import Objective, strategies
from pyg_ckd.balance.objective import Progress
from pyg_ckd.data.identity import Known
from pyg_ckd.nn import backbones

BACKBONES = ("VBPR", "EarlyFusionLightGCN", "GRCN")
INSIDE = "ckd"
"""The strategy that wrappers are measured around, beside plain training."""
LATER = Progress(epoch=50, max_epochs=100)
"""When strategies with stages have left the first one."""
READINGS = 50
"""How often the views are counted, because some strategies draw them."""
NOISE = 1.05
"""A ratio is called above the number of views if it is so by more than two equal steps differ."""


def run(suite: Suite, names: Sequence[str] | None = None, batch_size: int = BATCH_SIZE) -> list[Table]:
    """Measure plain steps and those of all strategies that train, in turns.

    Args:
        suite: What to measure on.
        names: Backbones. (default: :obj:`None`, three, or one on a GPU unless at full size)
        batch_size: Triples in a step.
    """
    if names is None:
        names = BACKBONES if suite.full or suite.device.type == "cpu" else BACKBONES[:1]
    problem = Problem.of(suite.data, suite.device)
    chart = Bars("of minima", ("backbone", "strategy"))
    note = (
        "Seconds are those of the processor, where it is the device: ratios are little disturbed by what else the "
        "machine does. Views are those of a step, mean where they are drawn; a plain step has one. Where every view is "
        f"computed anew, a step costs as many plain ones: 'above' costs {NOISE - 1:.0%} more than that, of minima."
    )
    table = Table("Steps of strategies against plain steps", [], [note], chart)
    for backbone in names:
        table.rows += measure(suite, problem, backbone, batch_size)
    return [table]


def measure(suite: Suite, problem: Problem, backbone: str, batch_size: int) -> list[Row]:
    """Return a row for every strategy on one backbone, for wrappers one more, and one for a second stage."""
    objectives = objectives_of(problem, backbone)
    steps = {name: Steps(problem, objective, batch_size) for name, objective in objectives.items()}
    times = suite.compare(steps, quiet_clock(suite.device))
    rows: list[Row] = []
    for name, objective in objectives.items():
        views = mean_views(objective)
        ratio = times[name].minimum / times["plain"].minimum
        rows.append(
            {
                "backbone": backbone,
                "strategy": name,
                "views": round(views, 2) if views % 1 else int(views),
                "step (ms)": 1e3 * times[name].median,
                "step / plain": times[name].median / times["plain"].median,
                "of minima": ratio,
                "above": "above" if ratio > NOISE * views else "",
                **on_a_card(suite, {"": steps[name]}),
            }
        )
    return rows


def objectives_of(problem: Problem, backbone: str) -> dict[str, Objective]:
    """Return every strategy that trains, wrappers around another one, and later stages with other views, by title."""
    cls = backbones()[backbone]
    found = {name: strategy for name, strategy in strategies().items() if strategy.trains}
    objectives = {name: problem.objective(cls, strategy) for name, strategy in found.items()}
    if "incremental" in objectives:  # Without an earlier model it is alignment alone.
        objectives["incremental"].to(problem.edge_index.device).begin_from(everything(problem))
    for name, strategy in found.items():
        if strategy.wraps:
            objectives[f"{name} around {INSIDE}"] = strategy(problem.objective(cls, found[INSIDE]))  # type: ignore[arg-type]
            continue
        later = problem.objective(cls, strategy)
        later.progress = LATER
        if mean_views(later) != mean_views(objectives[name]):
            objectives[f"{name}, later"] = later
    return objectives


def everything(problem: Problem) -> Known:
    """Return what an earlier model of the same users, items and modalities knows."""
    device, names = problem.edge_index.device, tuple(problem.features)
    user, item, modality = (torch.arange(n, device=device) for n in (problem.num_users, problem.num_items, len(names)))
    return Known(user, item, modality, names, "an earlier model")


def mean_views(objective: Objective) -> float:
    """Return the number of views of a step, the mean where they are drawn at every reading."""
    return sum(len(list(objective.views)) for _ in range(READINGS)) / READINGS
