"""Seconds of an epoch over the training part, and MMGCN against itself over PyG's edge lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.common import Bars, Row, Suite, Table, Timing
from benchmarks.problems import BATCH_SIZE, Problem, Steps
from pyg_ckd.balance import DistillationWrapper, Objective
from pyg_ckd.data.inputs import RATES
from pyg_ckd.nn import MMGCN, VBPR, Backbone, LightGCN
from pyg_ckd.nn.models.base import Inputs
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.views import View
from pyg_ckd.training import Trainer

CASES: tuple[tuple[type[Backbone], type[Objective], float], ...] = (
    (VBPR, Objective, 0.10),
    (LightGCN, Objective, 0.20),
    (VBPR, DistillationWrapper, 0.20),
)


class EdgeListMMGCN(MMGCN):
    """MMGCN whose layers get the graph as PyG's layers do, as an edge list to gather from and scatter to."""

    def encode(self, views: Sequence[View], inputs: Inputs) -> Sequence[Output]:
        """Run the views, none of them with an intervention, on the edges of the prepared graph."""
        return super().encode(views, inputs._replace(graphs={**inputs.graphs, RATES: inputs.graph.edge_index}))


def run(suite: Suite, batch_size: int = BATCH_SIZE) -> list[Table]:
    """Measure both.

    Args:
        suite: What to measure on.
        batch_size: Triples in a step.
    """
    return [epochs(suite, batch_size), edge_list(suite, batch_size)]


def epochs(suite: Suite, batch_size: int) -> Table:
    """Train in turns; each turn drops the first epoch, which fills caches and buffers."""
    problem = Problem.of(suite.data, suite.device)
    models = {case: problem.objective(*case[:2]) for case in CASES}
    seconds: dict[tuple[type[Backbone], type[Objective], float], list[float]] = {case: [] for case in CASES}
    kept = 3 if suite.full else 2
    last = kept + 1
    options: dict[str, Any] = {"max_epochs": last, "eval_every": last, "num_negatives": 1}
    options |= {"track_views": False, "progress": False}
    for _ in range(suite.rounds):
        for case, model in models.items():
            trainer = Trainer(batch_size=batch_size, device=suite.device.type, **options)
            seconds[case] += trainer.fit(model, suite.data).seconds[1:]
    interactions = problem.edge_index.size(1)
    rows: list[Row] = []
    for (backbone, strategy, wanted), values in seconds.items():
        timing = Timing.of(values)
        rows.append(
            {
                "objective": f"{backbone.__name__}, {strategy.name}",
                "seconds per epoch": timing.median,
                "minimum": timing.minimum,
                "wanted, at most": wanted,
                "triples per second": interactions / timing.median,
                "ratio to plain VBPR": timing.median / Timing.of(seconds[CASES[0]]).median,
            }
        )
    title = f"epochs over {interactions} training interactions, batch {batch_size}"
    return Table(title, rows, chart=Bars("seconds per epoch", ("objective",)))


def edge_list(suite: Suite, batch_size: int) -> Table:
    """Measure steps of both forms of MMGCN in turns; an epoch is as many of them for the one as for the other."""
    problem = Problem.of(suite.data, suite.device)
    models = {"prepared graph": MMGCN, "PyG edge list": EdgeListMMGCN}
    steps = {name: Steps(problem, problem.objective(cls), batch_size) for name, cls in models.items()}
    found = suite.compare(steps)
    ours, rows = found["prepared graph"], []
    for name, timing in found.items():
        other = name != "prepared graph"
        rows.append(
            {
                "MMGCN on": name,
                "step (ms)": 1e3 * timing.median,
                "minimum": 1e3 * timing.minimum,
                "seconds per epoch": len(steps[name].sampler) * timing.median,
                "ratio": timing.median / ours.median,
                "of minima": timing.minimum / ours.minimum,
                "wanted, at least": 5.0 if other else None,
            }
        )
    note = "Seconds per epoch are the step times the number of steps."
    return Table("MMGCN against the same model over edge lists", rows, [note], Bars("step (ms)", ("MMGCN on",)))
