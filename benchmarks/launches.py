"""What a step on a GPU waits for: kernels, the time to issue them, and steps that are captured as CUDA graphs."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.card import CALLS, Kernel, kernels_of, seconds_of
from benchmarks.common import Bars, Missing, Row, Suite, Table, first_line
from benchmarks.problems import BATCH_SIZE, Problem, Steps
from pyg_ckd.balance import DistillationWrapper, Objective
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn import backbones
from pyg_ckd.training.captured import CapturedSteps

NAMES = ("VBPR", "LightGCN", "FISM", "GRCN", "MMGCN", "EgoGCN")
KINDS: dict[str, type[Objective]] = {"plain": Objective, "CKD": DistillationWrapper}
SHOWN = 10
CAPTURED, DRAWN = "captured (ms)", "with sampling (ms)"


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
    cases = [(n, k) for n in names for k in KINDS if k == "plain" or backbones()[n].uses_features]
    note = (
        "Issued: until the program may go on, with nothing to wait for. Step: until the GPU is done. In a row: one of "
        "many steps without a pause. Idle: the share of a step in a row in which no kernel runs. Captured: the same "
        "step as one CUDA graph, in a row; its triples are drawn before it, or in it (with sampling). Medians of "
        f"{CALLS} calls, {batch_size} triples a step."
    )
    table = Table("Steps on a GPU", [], [note], Bars("in a row (ms)", ("backbone", "objective")))
    details = []
    for name, kind in cases:
        steps = _steps(problem, name, kind, batch_size)
        kernels = kernels_of(steps)
        table.rows.append({"backbone": name, "objective": kind, **_row(steps, kernels)})
        details.append(_detail(f"{name}, {kind}", kernels))
    for row, (name, kind) in zip(table.rows, cases, strict=True):  # Last: one that fails may leave generators broken.
        for column, capture in ((CAPTURED, captured), (DRAWN, captured_with_sampling)):
            try:
                steps = _steps(problem, name, kind, batch_size)
                row[column] = 1e3 * seconds_of(capture(steps, problem)).in_a_row
            except Exception as error:  # Other steps may still be captured.
                table.notes.append(f"{name}, {kind}, {column}: left out, {first_line(error)}.")
                row[column] = None
            gc.collect()
        row["in a row / captured"] = None if row[CAPTURED] is None else row["in a row (ms)"] / row[CAPTURED]
    return [table, *details]


def _steps(problem: Problem, name: str, kind: str, batch_size: int) -> Steps:
    return Steps(problem, problem.objective(backbones()[name], KINDS[kind]), batch_size)


def _row(steps: Steps, kernels: Sequence[Kernel]) -> Row:
    seconds, busy = seconds_of(steps), sum(kernel.seconds for kernel in kernels)
    return {
        "kernels": sum(kernel.calls for kernel in kernels) or None,
        "kernels (ms)": 1e3 * busy or None,
        "issued (ms)": 1e3 * seconds.issued,
        "step (ms)": 1e3 * seconds.done,
        "in a row (ms)": 1e3 * seconds.in_a_row,
        "idle": max(0.0, 1 - busy / seconds.in_a_row) if kernels else None,
    }


def captured(steps: Steps, problem: Problem) -> Callable[[], Any]:
    """Return what takes a captured step on a batch that is drawn operation by operation, as the trainer does.

    Args:
        steps: The steps.
        problem: What they are trained on.
    """
    _make_capturable(steps)
    take = CapturedSteps(steps.optimizer).epoch(steps.take)
    return lambda: take(steps.draw())


def captured_with_sampling(steps: Steps, problem: Problem) -> Callable[[], Any]:
    """Return what draws a batch and takes a step on it, both captured as one CUDA graph.

    Args:
        steps: The steps.
        problem: What they are trained on.
    """
    sampler, edges = steps.sampler, problem.edge_index
    _make_capturable(steps)
    size = min(steps.batch_size, edges.size(1))
    place = torch.zeros((), dtype=torch.int64, device=edges.device)
    own = torch.arange(size, device=edges.device)
    order = torch.randperm(edges.size(1), device=edges.device)

    def whole() -> None:
        user, item = edges[:, order[(place + own) % order.numel()]]
        place.add_(size)
        batch = TripletBatch(user, item, sampler.sample_negatives(user), *sampler.sample_random())
        steps.take(batch)

    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            whole()
    torch.cuda.current_stream().wait_stream(stream)
    graph.register_generator_state(sampler.generator)
    with torch.cuda.graph(graph, stream=stream):
        whole()
    return partial(_replay, graph, whole)


def _replay(graph: torch.cuda.CUDAGraph, whole: Callable[[], None]) -> None:
    """Replay a graph, whose memory lives as long as what was captured."""
    graph.replay()


def _make_capturable(steps: Steps) -> None:
    for group in steps.optimizer.param_groups:
        group["capturable"] = True
    vars(steps.optimizer)["_warned_capturable_if_run_uncaptured"] = True  # The first steps are not captured on purpose.


def _detail(name: str, kernels: Sequence[Kernel]) -> Table:
    whole = sum(kernel.seconds for kernel in kernels) or 1.0
    rows: list[Row] = [
        {"kernel": k.name.replace("|", " ")[:90], "calls": k.calls, "ms": 1e3 * k.seconds, "share": k.seconds / whole}
        for k in kernels[:SHOWN]
    ]
    return Table(f"Kernels of a step: {name}", rows)
