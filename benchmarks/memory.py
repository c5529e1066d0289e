"""Peak memory of training steps with distillation, in a process of its own, over what has to be there at least."""

from __future__ import annotations

import ctypes
import gc
import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import Bars, Missing, Suite, Table, first_line, wall_clock
from benchmarks.problems import Problem, Steps
from pyg_ckd.balance import DistillationWrapper
from pyg_ckd.data.inputs import RATES
from pyg_ckd.memory import kept_memory
from pyg_ckd.nn import MMGCN, Adjacency

QUICK, FULL = (300_000,), (300_000, 1_000_000, 5_000_000)
PARTS = ("features", "parameters", "optimiser", "graph")


def run(suite: Suite, sizes: Sequence[int] | None = None) -> list[Table]:
    """Measure MMGCN with CKD on random graphs with two modalities.

    Args:
        suite: What to measure on.
        sizes: Interactions of the graphs.
    """
    table = Table(
        "peak memory of MMGCN with CKD (MiB)", [], chart=Bars("beyond / needed", ("interactions", "recompute"))
    )
    for size, recompute in itertools.product(sizes or (FULL if suite.full else QUICK), (False, True)):
        try:
            found = apart(suite.device, measure, size, recompute, suite.device.type, torch.get_num_threads())
        except (Missing, RuntimeError) as error:
            table.notes.append(f"{size} interactions, recompute={recompute}: left out, {first_line(error)}.")
            continue
        needed = sum(found[part] for part in PARTS)
        table.rows.append(
            {
                "interactions": int(found["interactions"]),
                "nodes": int(found["nodes"]),
                "recompute": "yes" if recompute else "no",
                **{name: found[name] / 2**20 for name in (*PARTS, "teachers", "prepared", "beyond", "peak")},
                "beyond / needed": found["beyond"] / needed,
                "peak / needed": found["peak"] / needed,
                "wanted, at most": 2.5,
                "s/step": found["seconds"],
            }
        )
    table.notes.append(
        "Needed are features, parameters, optimiser state and prepared graph; teachers come on top. Beyond is the peak "
        "less what the process held after its imports and a tiny step; prepared is the same before the first step."
    )
    return [table]


def alone(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a process of its own, so that its peak memory is nobody else's.

    Raises:
        Missing: If the process was killed, as happens where memory ends.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool:
            raise Missing("its process was killed, most likely because memory ended") from None


def apart(device: torch.device, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function :func:`alone`, or in this process on a GPU, where memory is counted from the call on.

    Args:
        device: Whose memory the function measures.
        function: A function of a module.
        *args: What can be pickled.
    """
    if device.type != "cuda":
        return alone(function, *args)
    gc.collect()
    torch.cuda.empty_cache()
    forget_peak(device)
    return function(*args)


def measure(size: int, recompute: bool, device: str, threads: int) -> dict[str, float]:
    """Make three steps and return sizes in bytes and the seconds of a step, the first one's warm-up included."""
    torch.set_num_threads(threads)
    place = torch.device(device)
    if place.type == "cpu":
        with suppress(OSError):  # Where memory ends, this process is the one to go.
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")
    small = Problem.random(500, place)
    Steps(small, small.objective(MMGCN, DistillationWrapper))()  # Loads what the first step of a process loads.
    before = held(place)
    problem = Problem.random(size, place)
    objective = problem.objective(MMGCN, DistillationWrapper, recompute=recompute)
    steps = Steps(problem, objective)
    prepared = peak(place)
    clock = wall_clock(place)
    start = clock()
    with kept_memory():
        for _ in range(3):
            steps()
    seconds = (clock() - start) / 3
    graph: Adjacency = steps.graph[RATES]
    state = [x for entry in steps.optimizer.state.values() for x in entry.values() if isinstance(x, Tensor)]
    return {
        "interactions": problem.edge_index.size(1),
        "nodes": graph.num_nodes,
        "features": occupied(problem.features.values()),
        "parameters": occupied(objective.parameters()),
        "optimiser": occupied(state),
        "graph": occupied(
            part for m in (graph.matrix, graph.transposed) for part in (m.crow_indices(), m.col_indices(), m.values())
        ),
        "teachers": occupied(objective.buffers()),
        "prepared": prepared - before,
        "seconds": seconds,
        "beyond": peak(place) - before,
        "peak": peak(place),
    }


def occupied(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of tensors, each place in memory counted once."""
    return sum({x.data_ptr(): x.nbytes for x in tensors}.values())


def held(device: torch.device) -> int:
    """Return the bytes that the process holds now."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return _largest()


def peak(device: torch.device) -> int:
    """Return the most bytes that the process has held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(
        OSError, StopIteration
    ):  # Unlike getrusage, without what the parent held when it started the process.
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    return _largest()


def forget_peak(device: torch.device) -> None:
    """Return freed memory to the system and let :func:`peak` count from now on, where Linux and glibc let one."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def anonymous() -> float:
    """Return the anonymous memory of the process, in MiB: what is its own and lies in no file.

    Raises:
        Missing: If the system does not tell.
    """
    return resident("RssAnon")


def resident(kind: str) -> float:
    """Return the memory of a kind that the process has, in MiB.

    Args:
        kind: ``"RssAnon"``, or ``"RssFile"`` for what is mapped from files.

    Raises:
        Missing: If the system does not tell.
    """
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith(kind)).split()[1]) / 1024
    raise Missing("the system does not tell anonymous memory from files")


@contextmanager
def as_asked_for() -> Iterator[None]:
    """Let processes that are started inside of the block hold what their tensors take, and no more.

    glibc keeps tensors of less than 32 MiB on one heap, which holds up to twice of what they take: what the others left
    free does not fit the next one. Where tables are larger, each has memory of its own by itself.
    """
    name = "MALLOC_MMAP_THRESHOLD_"
    before = os.environ.get(name)
    os.environ[name] = str(2**20)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def watched(every: float = 0.02, kind: str = "RssAnon") -> Iterator[list[float]]:
    """Collect the memory of this process while the block runs, in MiB.

    Args:
        every: Seconds between two looks.
        kind: As in :func:`resident`.
    """
    seen, done = [resident(kind)], threading.Event()

    def watch() -> None:
        while not done.wait(every):
            seen.append(resident(kind))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()
        seen.append(resident(kind))


def _largest() -> int:
    from benchmarks.neighbors import peak_memory  # Loads scikit-learn, which would count where the system tells more.

    return int(peak_memory() * 2**20)
