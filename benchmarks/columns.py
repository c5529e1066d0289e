"""Columns of the tables on several processes: memory, exchanges and processor time of a step beside one process.

``python -m benchmarks.columns`` starts the processes itself, on the CPU with one thread each. Processor time is that of
a process's own thread, so that others on the machine change little; a step's exchange is waited for and costs little of
it.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from benchmarks.problems import Problem
from benchmarks.several import in_processes
from pyg_ckd.balance import DistillationWrapper
from pyg_ckd.balance.objective import Objective
from pyg_ckd.data.inputs import RATES
from pyg_ckd.data.sampler import TripletSampler
from pyg_ckd.nn import VBPR, EarlyFusionLightGCN, LightGCN
from pyg_ckd.processes import present
from pyg_ckd.training import RowAdam
from pyg_ckd.training.groups import parameter_groups
from pyg_ckd.training.layouts.columns import Columns
from pyg_ckd.training.layouts.whole import Whole

CASES: dict[str, tuple[type, type[Objective], int]] = {
    "LightGCN": (LightGCN, Objective, 2),
    "EarlyFusionLightGCN, ckd": (EarlyFusionLightGCN, DistillationWrapper, 2),
    "EarlyFusionLightGCN, ckd, three modalities": (EarlyFusionLightGCN, DistillationWrapper, 3),
    "VBPR, ckd": (VBPR, DistillationWrapper, 2),
}


def measure(name: str, interactions: int, steps: int) -> dict[str, Any]:
    """Return parameters, bytes and milliseconds of processor time of a step in this process.

    Args:
        name: One of the cases.
        interactions: Interactions of the random graph.
        steps: Steps that are timed.
    """
    backbone, strategy, modalities = CASES[name]
    problem, processes = Problem.random(interactions, torch.device("cpu"), modalities), present()
    objective = problem.objective(backbone, strategy).train()
    layout = Whole(processes) if processes.alone else Columns(processes)
    features, graph = layout.cut(objective, problem.features, {RATES: problem.edge_index})
    optimizer = RowAdam(parameter_groups(objective), lr=1e-3, fused=True)
    sizes = (problem.num_users, problem.num_items, 2048, objective.num_random_triples)
    batches = iter(TripletSampler(problem.edge_index, *sizes))
    times, sent = [], []
    for _ in range(steps + 2):
        batch, start, before = next(batches), time.thread_time(), (processes.calls, processes.bytes)
        optimizer.zero_grad(set_to_none=True)
        with layout.step():
            terms = objective.loss(features, graph, batch)
        objective.backward(terms, lambda loss, **options: loss.backward(**options))
        optimizer.step()
        times.append(time.thread_time() - start)
        sent.append((processes.calls - before[0], processes.bytes - before[1]))
    parameters = sum(p.numel() for p in objective.parameters())
    # The backward pass has threads of its own on devices alone: on the CPU, this thread's time is all there is.
    return {"parameters": parameters, "ms": 1e3 * sorted(times[2:])[steps // 2], "sent": sent[-1]}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interactions", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    chosen = parser.parse_args()
    print("| case | processes | parameters a process | of one | CPU ms a step | of one | calls a step | bytes a step |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in chosen.cases:
        one: dict[str, Any] = {}
        for size in chosen.processes:
            found = in_processes(size, measure, name, chosen.interactions, chosen.steps)
            most = {key: max(x[key] for x in found) for key in ("parameters", "ms")}
            one = one or most
            ratios = {key: f"{most[key] / one[key]:.3f}" for key in most}
            calls, sent = found[0]["sent"]
            print(
                f"| {name} | {size} | {most['parameters']:,} | {ratios['parameters']} | {most['ms']:.1f} | "
                f"{ratios['ms']} | {calls} | {sent:,} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
