"""The simulation beside trainings in several processes.

``python -m benchmarks.scale_ranks`` trains a million random interactions in two and in four processes, by users, by
columns and by ``"ddp"``, and prints memory, seconds of the processor and bytes on the wire of a process beside those of
``benchmarks/scale_model.py``. One process is there as well, since the rates are measured in one, but for what it costs
the processor to send.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import layouts
from benchmarks.common import Table
from benchmarks.memory import as_asked_for, forget_peak, held, peak
from benchmarks.scale import FULL, MEASURED_STEPS, QUICK, RANDOM, calibrate, random_problem
from benchmarks.scale_model import GPU, Layout, Measured, Sizes, Wire, check
from benchmarks.several import in_processes
from pyg_ckd.files import write_json
from pyg_ckd.nn import backbones
from pyg_ckd.processes import present

CPU = torch.device("cpu")
WAYS = ("users", "columns", "ddp")
SENT = 2**25
"""Bytes of the tensor whose sum tells what it costs to send."""


def measure(sizes: Sizes, layout: Layout, only: str = "") -> Measured:
    """Return the most that a process takes, of as many as the layout has.

    Args:
        sizes: What is trained.
        layout: How it is shared out.
        only: ``"memory"`` or ``"steps"`` leaves the other out, as not a number.
    """
    strategy = "" if layout.strategy == "one" else layout.strategy
    memory = seconds = math.nan
    if only != "memory":
        found = in_processes(layout.ranks, _work, strategy, vars(sizes), MEASURED_STEPS)
        seconds = max(one["fastest"] for one in found)
    if only != "steps":
        with as_asked_for():
            found = in_processes(layout.ranks, _work, strategy, vars(sizes), 1)
        memory = max(one["memory"] for one in found)
    return Measured(memory, seconds, max(one["bytes"] for one in found))


def copies_of(ranks: int) -> float:
    """Return the bytes per second that the processor of one of so many processes sends to the others.

    Args:
        ranks: Number of processes.
    """
    return max(in_processes(ranks, _copies)) if ranks > 1 else math.inf


def _copies() -> float:
    here, x, times = present(), torch.zeros(SENT // 4), []
    for _ in range(MEASURED_STEPS):
        start = time.process_time()
        here.add_to(x)
        times.append(time.process_time() - start)
    return Wire(SENT, 0, 1, here.size).busy(replace(GPU, copies=1.0)) / min(times)


def _work(strategy: str, options: dict[str, Any], steps: int) -> dict[str, Any]:
    size = present().size
    small = {**options, "users": 30 * size, "items": 20 * size, "interactions": 200 * size, "features": 8}
    for tiny in (Sizes(**small), Sizes(**{**small, "random": 0})):  # Loads what the first step of a process loads.
        _steps(tiny, strategy, 1)
    before = held(CPU)
    found = _steps(Sizes(**options), strategy, steps)
    return found | {"memory": float(peak(CPU) - before)}


def _steps(sizes: Sizes, strategy: str, steps: int) -> dict[str, Any]:
    more: dict[str, Any] = {"embedding_dim": sizes.dim}
    if sizes.backbone != "VBPR":
        more["num_layers"] = sizes.layers
    problem = random_problem(sizes)
    return layouts.measure(
        problem, sizes.backbone, sizes.distilled, strategy, steps, sizes.batch, partial(forget_peak, CPU), **more
    )


def cases_of(
    sizes: Sizes, names: Iterable[str], ranks: Iterable[int], ways: Collection[str] = WAYS
) -> list[tuple[Sizes, Layout]]:
    """Return backbones, plain and distilled, in one process and in so many, in every way they know.

    Args:
        sizes: Their sizes.
        names: The backbones.
        ranks: Numbers of processes.
        ways: The ways to share out; others are left out.
    """
    cases = []
    for name in names:
        own = {**vars(sizes), "backbone": name, "layers": {"MMGCN": 3}.get(name, sizes.layers)}
        kinds = [Sizes(**own)] + ([] if name == "LightGCN" else [Sizes(**{**own, "random": RANDOM})])
        for one in kinds:
            cases.append((one, Layout.of("one")))
            can = [way for way in ways if way in backbones()[name].strategies]
            cases += [(one, Layout.of(way, size)) for size in ranks for way in can]
    return cases


def main(argv: Sequence[str] | None = None) -> None:
    """Compare and print the table.

    Args:
        argv: Arguments; by default those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a third of a million interactions")
    parser.add_argument("--backbones", nargs="+", default=["LightGCN", "EarlyFusionLightGCN", "VBPR", "MMGCN"])
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--strategies", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--only", choices=["memory", "steps"], default="", help="leave the other out")
    parser.add_argument("--out", type=Path, default=None, help="also write the figures to this JSON file")
    args = parser.parse_args(argv)
    sizes = QUICK if args.quick else FULL
    rows: list[dict[str, Any]] = []
    copies = {ranks: copies_of(ranks) for ranks in {1, *args.processes} if args.only != "memory"}
    for case in cases_of(sizes, args.backbones, args.processes, args.strategies):
        # Rates of a machine that others use as well change within minutes; memory needs none.
        machine = GPU if args.only == "memory" else replace(calibrate(sizes), copies=copies[case[1].ranks])
        rows += check([case], machine, partial(measure, only=args.only))
        last = rows[-1]
        told = {key: last[key] for key in ("backbone", "training", "strategy", "ranks", "ratio", "ratio of steps")}
        print(told, flush=True)
        if args.out is not None:
            write_json(args.out, {"rows": rows})
    print(Table("simulation and measurement", rows).markdown())


if __name__ == "__main__":
    main()
