"""What a training step of every balancing strategy costs over a plain one."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.common import Bars, Row, Suite, Table
from benchmarks.problems import BATCH_SIZE, Problem, Steps
from pyg_ckd.balance import strategies
from pyg_ckd.nn import backbones

BACKBONES = ("VBPR", "EarlyFusionLightGCN", "GRCN")


def run(suite: Suite, names: Sequence[str] = BACKBONES, batch_size: int = BATCH_SIZE) -> list[Table]:
    """Measure plain steps and those of all strategies that train, in turns.

    Args:
        suite: What to measure on.
        names: Backbones.
        batch_size: Triples in a step.
    """
    problem = Problem.of(suite.data, suite.device)
    table = Table("Steps of strategies against plain steps", [], chart=Bars("step / plain", ("backbone", "strategy")))
    for backbone in names:
        table.rows += measure(suite, problem, backbone, batch_size)
    return [table]


def measure(suite: Suite, problem: Problem, backbone: str, batch_size: int) -> list[Row]:
    """Return a row for every strategy on one backbone."""
    cls = backbones()[backbone]
    found = {name: strategy for name, strategy in strategies().items() if strategy.trains}
    objectives = {name: problem.objective(cls, strategy) for name, strategy in found.items()}
    times = suite.compare({name: Steps(problem, objective, batch_size) for name, objective in objectives.items()})
    return [
        {
            "backbone": backbone,
            "strategy": name,
            "views": len(list(objectives[name].views)),
            "step (ms)": 1e3 * times[name].median,
            "step / plain": times[name].median / times["plain"].median,
            "of minima": times[name].minimum / times["plain"].minimum,
        }
        for name in found
    ]
