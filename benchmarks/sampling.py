"""The share of a training step that drawing its triples takes."""

from __future__ import annotations

from benchmarks.common import Bars, Row, Suite, Table
from benchmarks.problems import BATCH_SIZE, Problem, Steps
from pyg_ckd.balance import DistillationWrapper, Objective
from pyg_ckd.nn import MMGCN, VBPR, Backbone, LightGCN

CASES: tuple[tuple[type[Backbone], type[Objective]], ...] = (
    (VBPR, Objective),
    (VBPR, DistillationWrapper),
    (LightGCN, Objective),
    (MMGCN, Objective),
)


def run(suite: Suite, batch_size: int = BATCH_SIZE) -> list[Table]:
    """Measure drawing alone and the whole step, in turns.

    Args:
        suite: What to measure on.
        batch_size: Triples in a step.
    """
    problem = Problem.of(suite.data, suite.device)
    rows: list[Row] = []
    for backbone, strategy in CASES:
        steps = Steps(problem, problem.objective(backbone, strategy), batch_size)
        found = suite.compare({"draw": steps.draw, "step": steps})
        draw, step = found["draw"], found["step"]
        rows.append(
            {
                "objective": f"{backbone.__name__}, {strategy.name}",
                "triples": batch_size + steps.sampler.num_random_triples,
                "sampling (ms)": 1e3 * draw.median,
                "step with sampling (ms)": 1e3 * step.median,
                "share": draw.median / step.median,
                "of minima": draw.minimum / step.minimum,
                "wanted, at most": 0.05,
            }
        )
    return [Table("sampling as a share of a step", rows, chart=Bars("share", ("objective",)))]
