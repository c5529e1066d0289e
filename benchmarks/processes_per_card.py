"""Trainings at once on one device: steps per second of several processes that share it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch_geometric.data import HeteroData

from benchmarks.common import Bars, Missing, Row, Suite, Table, first_line
from benchmarks.launches import captured
from benchmarks.problems import BATCH_SIZE, Problem, Steps
from benchmarks.several import in_processes
from pyg_ckd.nn import VBPR
from pyg_ckd.processes import apart

SIZES = (1, 2, 4, 8)
SECONDS = {False: 1.5, True: 3.0}
WAYS = ("step by step", "captured")
BLOCK = 10
"""Steps that are issued before a process waits for the device."""


def run(
    suite: Suite, sizes: Sequence[int] = SIZES, seconds: float | None = None, batch_size: int = BATCH_SIZE
) -> list[Table]:
    """Train VBPR in several processes at once, operation by operation and as captured steps.

    Args:
        suite: What to measure on, a GPU.
        sizes: Numbers of processes.
        seconds: How long every number of them trains.
        batch_size: Triples in a step.

    Raises:
        Missing: If the device is no GPU.
    """
    if suite.device.type != "cuda":
        raise Missing("processes share a GPU")
    seconds = seconds or SECONDS[suite.full]
    return [measure(suite.data, suite.device.type, sizes, WAYS, seconds, batch_size)]


def measure(
    data: HeteroData, device: str, sizes: Sequence[int], ways: Sequence[str], seconds: float, batch_size: int
) -> Table:
    """Start as many processes as the most of ``sizes``, and let some of them train at a time.

    Args:
        data: The graph.
        device: Where all of them train.
        sizes: Numbers of processes that train at once.
        ways: How steps are taken.
        seconds: How long each number trains.
        batch_size: Triples in a step.
    """
    found = in_processes(max(sizes), train, data, device, tuple(sizes), tuple(ways), seconds, batch_size)
    table = Table("Trainings of VBPR at once on one device", [], chart=Bars("of one", ("steps", "processes")))
    for way in ways:
        failed = [rank[way] for rank in found if isinstance(rank[way], str)]
        if failed:
            table.notes.append(f"{way}: left out, {failed[0]}.")
            continue
        totals = [sum(rank[way][turn] for rank in found) for turn in range(len(sizes))]
        for size, total in zip(sizes, totals, strict=True):
            row: Row = {"steps": way, "processes": size, "steps per second": total, "of each": total / size}
            table.rows.append(row | {"of one": total / totals[0]})
    table.notes.append(f"{batch_size} triples a step, plain, {seconds:g} seconds each; the others wait meanwhile.")
    return table


def train(
    data: HeteroData, device: str, sizes: Sequence[int], ways: Sequence[str], seconds: float, batch_size: int
) -> dict[str, list[float] | str]:
    """Return steps per second of this process for every number of processes, or why there are none, for every way.

    Args:
        data: The graph.
        device: Where to train.
        sizes: Numbers of processes that train at once.
        ways: How steps are taken.
        seconds: How long each number trains.
        batch_size: Triples in a step.
    """
    rank, place = dist.get_rank(), torch.device(device)
    found: dict[str, list[float] | str] = {}
    for way in ways:
        rates: list[float] = []
        with apart():
            step, failure = _step(data, place, way, batch_size)
        for size in sizes:
            dist.barrier()  # All of them are ready, and those that trained before are done.
            rates.append(_rate(step, place, seconds) if rank < size and step is not None else 0.0)
        found[way] = failure or rates
    return found


def _step(data: HeteroData, place: torch.device, way: str, batch_size: int) -> tuple[Callable[[], Any] | None, str]:
    """Return what takes a step, or nothing and why; a process that failed must still meet the others."""
    try:
        problem = Problem.of(data, place)
        steps = Steps(problem, problem.objective(VBPR), batch_size)
        if way == WAYS[0]:
            step: Callable[[], Any] = steps
        else:
            step = captured(steps, problem)
        for _ in range(BLOCK):
            step()
        _wait(place)
    except Exception as error:
        return None, first_line(error)
    return step, ""


def _rate(step: Callable[[], Any], place: torch.device, seconds: float) -> float:
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for _ in range(BLOCK):
            step()
        _wait(place)
        count += BLOCK
    return count / (time.perf_counter() - start)


def _wait(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize(place)
