"""Columns of the tables on several processes: memory, exchanges and processor time of a step beside one process.

``python -m benchmarks.columns`` starts the processes itself, on the CPU with one thread each. Processor time is that of
a process, so that others on the machine change little; of a step's exchange it holds the copies, not the waiting.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
from typing import Any

import torch

from benchmarks import layouts
from benchmarks.problems import Problem
from benchmarks.several import in_processes
from pyg_ckd.processes import present

CASES = {
    "LightGCN": ("LightGCN", False, 2),
    "EarlyFusionLightGCN, ckd": ("EarlyFusionLightGCN", True, 2),
    "EarlyFusionLightGCN, ckd, three modalities": ("EarlyFusionLightGCN", True, 3),
    "VBPR, ckd": ("VBPR", True, 2),
}
"""From case to backbone, whether it is distilled, and modalities."""


def measure(name: str, interactions: int, steps: int) -> dict[str, Any]:
    """Return what steps cost this process, as :func:`benchmarks.layouts.measure` does.

    Args:
        name: One of the cases.
        interactions: Interactions of the random graph.
        steps: Steps that are timed.
    """
    backbone, distils, modalities = CASES[name]
    problem = Problem.random(interactions, torch.device("cpu"), modalities)
    return layouts.measure(problem, backbone, distils, "" if present().alone else "columns", steps)


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
            most = {key: max(x[key] for x in found) for key in ("parameters", "cpu")}
            one = one or most
            ratios = {key: f"{most[key] / one[key]:.3f}" for key in most}
            calls, sent = (round(found[0][key]) for key in ("calls", "bytes"))
            print(
                f"| {name} | {size} | {most['parameters']:,} | {ratios['parameters']} | {1e3 * most['cpu']:.1f} | "
                f"{ratios['cpu']} | {calls} | {sent:,} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
