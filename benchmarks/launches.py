"""What a step on a GPU waits for: kernels, the time to issue them, and steps that are captured as CUDA graphs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import Missing, Row, Suite, Table
from benchmarks.problems import BATCH_SIZE, Problem, Steps
from pyg_ckd.balance import DistillationWrapper, Objective
from pyg_ckd.errors import InputError
from pyg_ckd.nn import backbones
from pyg_ckd.training.captured import CapturedSteps

NAMES = ("VBPR", "LightGCN", "GRCN", "FISM", "MMGCN", "EgoGCN")
IN_DETAIL = ("VBPR", "MMGCN", "EgoGCN")
KINDS = {"plain": Objective, "CKD": DistillationWrapper}
SHOWN, CALLS = 10, 20


def run(suite: Suite, names: Sequence[str] = NAMES, batch_size: int = BATCH_SIZE) -> list[Table]:
    """Measure plain and distilled steps, captured and not, and list the kernels that take longest.

    Args:
        suite: What to measure on, a GPU.
        names: Backbones.
        batch_size: Triples in a step.

    Raises:
        Missing: If the device is no GPU.
    """
    if suite.device.type != "cuda":
        raise Missing("steps are issued to a GPU alone")
    problem = Problem.of(suite.data, suite.device)
    note = (
        "Issued: until the program may go on, with nothing to wait for. Idle: the share of a step in which no kernel "
        f"runs. Captured: the same step as one CUDA graph. Medians of {CALLS} calls, {batch_size} triples a step."
    )
    table = Table("Steps on a GPU", [], [note])
    details = []
    for name in names:
        for kind, strategy in KINDS.items():
            if kind == "CKD" and not backbones()[name].uses_features:
                continue
            steps = Steps(problem, problem.objective(backbones()[name], strategy), batch_size)
            kernels = _kernels(steps)
            table.rows.append({"backbone": name, "objective": kind, **_row(steps, kernels)})
            if name in IN_DETAIL and kind == "plain":
                details.append(_detail(name, kernels))
            try:
                captured = 1e3 * _seconds(_captured(problem, name, strategy, batch_size))[1]
            except InputError as error:
                table.notes.append(f"{name}, {kind}: {error}")
                captured = None
            row = table.rows[-1]
            row["captured (ms)"] = captured
            row["step / captured"] = None if captured is None else row["step (ms)"] / captured
    return [table, *details]


def _row(steps: Steps, kernels: Sequence[tuple[str, int, float]]) -> Row:
    issued, whole = _seconds(steps)
    busy = sum(seconds for _, _, seconds in kernels)
    return {
        "kernels": sum(count for _, count, _ in kernels),
        "kernels (ms)": 1e3 * busy,
        "issued (ms)": 1e3 * issued,
        "step (ms)": 1e3 * whole,
        "idle": max(0.0, 1 - busy / whole),
    }


def _captured(problem: Problem, name: str, strategy: type[Objective], batch_size: int) -> Callable[[], Any]:
    steps = Steps(problem, problem.objective(backbones()[name], strategy), batch_size)
    for group in steps.optimizer.param_groups:
        group["capturable"] = True
    take = CapturedSteps().epoch(steps.take)
    return lambda: take(steps.draw())


def _seconds(call: Callable[[], Any]) -> tuple[float, float]:
    """Return how long calls take until they return, and until the GPU is done, medians."""
    found = []
    for turn in range(CALLS + 3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        issued = time.perf_counter() - start
        torch.cuda.synchronize()
        if turn >= 3:
            found.append((issued, time.perf_counter() - start))
    return median(issued for issued, _ in found), median(whole for _, whole in found)


def _kernels(steps: Steps) -> list[tuple[str, int, float]]:
    """Return name, number of calls and seconds of every kernel of a step, the slowest first."""
    for _ in range(3):
        steps()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        steps()
        torch.cuda.synchronize()
    found: dict[str, list[float]] = {}
    for event in profiled.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            found.setdefault(event.name, []).append(event.device_time_total / 1e6)
    rows = [(name, len(times), sum(times)) for name, times in found.items()]
    return sorted(rows, key=lambda row: -row[2])


def _detail(name: str, kernels: Sequence[tuple[str, int, float]]) -> Table:
    whole = sum(seconds for *_, seconds in kernels) or 1.0
    rows: list[Row] = [
        {"kernel": kernel.replace("|", " ")[:90], "calls": count, "ms": 1e3 * seconds, "share": seconds / whole}
        for kernel, count, seconds in kernels[:SHOWN]
    ]
    return Table(f"Kernels of a plain {name} step", rows)
