"""What a training step with distillation costs over a plain one, for every backbone, with two modalities and four."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.card import on_a_card
from benchmarks.common import Bars, Row, Suite, Table
from benchmarks.problems import BATCH_SIZE, DIMS, Problem, Steps
from pyg_ckd.balance import DistillationWrapper, Objective
from pyg_ckd.nn import backbones

QUICK = ("VBPR", "EarlyFusionLightGCN", "MMGCN")
KINDS = (Objective, DistillationWrapper)
WANTED = {("VBPR", 2): 1.8, ("EarlyFusionLightGCN", 2): 2.0, ("MMGCN", 2): 1.8, ("MMGCN", 4): 2.5}


def run(suite: Suite, names: Sequence[str] | None = None, batch_size: int = BATCH_SIZE) -> list[Table]:
    """Measure plain and distilled steps in turns.

    Args:
        suite: What to measure on.
        names: Backbones; :obj:`None` is a few, or all that use features at full size.
        batch_size: Triples in a step.
    """
    if names is None:
        names = [name for name, cls in backbones().items() if cls.uses_features] if suite.full else QUICK
    problem = Problem.of(suite.data, suite.device)
    own = (f"of the data, M = {len(problem.features)}", problem)
    four = (f"M = 4, random, {DIMS} wide", problem.with_random_features(4))
    table = Table("CKD step against plain step", [], chart=Bars("CKD / plain", ("backbone", "modalities")))
    for name in names:
        for title, case in (own, four):
            table.rows.append({"backbone": name, "modalities": title, **measure(suite, case, name, batch_size)})
    return [table]


def measure(suite: Suite, problem: Problem, name: str, batch_size: int) -> Row:
    """Return the times of one backbone and their ratio."""
    cls = backbones()[name]
    plain, distilled = (Steps(problem, problem.objective(cls, kind), batch_size) for kind in KINDS)
    steps = {"plain": plain, "CKD": distilled}
    found = suite.compare(steps)
    return {
        "plain (ms)": 1e3 * found["plain"].median,
        "minimum": 1e3 * found["plain"].minimum,
        "CKD (ms)": 1e3 * found["CKD"].median,
        "CKD, minimum": 1e3 * found["CKD"].minimum,
        "CKD / plain": found["CKD"].median / found["plain"].median,
        "of minima": found["CKD"].minimum / found["plain"].minimum,
        "wanted, at most": WANTED.get((name, len(problem.features))),
        **on_a_card(suite, {f"{kind}, ": call for kind, call in steps.items()}),
    }
