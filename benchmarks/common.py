"""What the suite's benchmarks share: fair timing of alternatives, the machine's own limits, and tables."""

from __future__ import annotations

import os
import platform
import statistics
import time
import timeit
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.benchmark import Timer
from torch.utils.benchmark.utils.timer import timer
from torch_geometric.data import HeteroData

from pyg_ckd.versions import versions

Cell = str | float | int | None
Row = dict[str, Any]
Calls = Mapping[str, Callable[[], Any]]
WIDTH = 64
"""Width of the embeddings in all benchmarks."""


class Missing(Exception):
    """A device, library or amount of memory that a measurement needs and the machine lacks."""


class Timing(NamedTuple):
    """Seconds that one call took.

    Attributes:
        median: Median over all measurements.
        minimum: The fastest one, which depends least on what else the machine does.
        runs: Number of measurements.
    """

    median: float
    minimum: float
    runs: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """Summarise measurements."""
        return cls(statistics.median(seconds), min(seconds), len(seconds))


def compare(
    functions: Mapping[str, Callable[[], Any]],
    rounds: int = 5,
    min_run_time: float = 0.1,
    clock: Callable[[], float] | None = None,
) -> dict[str, Timing]:
    """Time alternatives in turns, so that all of them meet the same machine.

    Args:
        functions: From name to what is called.
        rounds: Turns; every other one runs in the reverse order. Each has at least one measurement after a warm-up.
        min_run_time: Seconds that a function is repeated for in each turn; one that takes longer runs once.
        clock: What tells the seconds, see :func:`wall_clock` and :func:`quiet_clock`. (default: :obj:`None`, a wall
            clock that waits for GPUs)
    """
    threads = torch.get_num_threads()
    timers = {
        name: Timer("call()", timer=clock or timer, globals={"call": f}, num_threads=threads)
        for name, f in functions.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds):
        for name in list(timers)[:: -1 if turn % 2 else 1]:
            seconds[name] += timers[name].blocked_autorange(min_run_time=min_run_time).times
    return {name: Timing.of(values) for name, values in seconds.items()}


def wall_clock(device: torch.device) -> Callable[[], float]:
    """Return a clock that tells seconds once a GPU is done with what it was given.

    Args:
        device: Where to measure.
    """
    if device.type != "cuda":
        return timeit.default_timer

    def now() -> float:
        torch.cuda.synchronize(device)
        return timeit.default_timer()

    return now


def quiet_clock(device: torch.device) -> Callable[[], float]:
    """Return a clock that other programs disturb little: seconds of the processor, or on a GPU :func:`wall_clock`.

    Args:
        device: Where to measure.
    """
    return wall_clock(device) if device.type == "cuda" else time.process_time


class Limits(NamedTuple):
    """What the machine could do at best when it was measured.

    Attributes:
        copy_bandwidth: Bytes read and written per second by a copy that no cache holds.
        matmul_rate: Floating-point operations per second of a product of square float32 matrices.
        half_rate: The same of bfloat16 matrices, measured on a GPU alone.
    """

    copy_bandwidth: float
    matmul_rate: float
    half_rate: float | None = None

    @classmethod
    def measure(
        cls, device: torch.device, rounds: int = 5, copy_bytes: int | None = None, matmul_size: int | None = None
    ) -> Limits:
        """Copy a buffer and multiply two matrices, larger ones on a GPU, whose cache is larger."""
        large = device.type == "cuda"
        copy_bytes = copy_bytes or (2**31 if large else 2**28)
        matmul_size = matmul_size or (8192 if large else 2048)
        source = torch.rand(copy_bytes // 4, device=device)
        target, square = torch.empty_like(source), torch.randn(matmul_size, matmul_size, device=device)
        calls: dict[str, Callable[[], Any]] = {
            "copy": lambda: target.copy_(source),
            "matmul": lambda: square @ square,
        }
        if large:
            half = square.bfloat16()
            calls["half"] = lambda: half @ half
        found = compare(calls, rounds, clock=wall_clock(device))
        operations = 2 * matmul_size**3
        return cls(
            2 * source.nbytes / found["copy"].minimum,
            operations / found["matmul"].minimum,
            operations / found["half"].minimum if large else None,
        )


@dataclass
class Suite:
    """What a benchmark runs on.

    Attributes:
        data: The graph of the measurements at the size of a real data set.
        device: Where to measure.
        full: Whether the large sizes are wanted.
        rounds: See :func:`compare`.
        min_run_time: See :func:`compare`.
    """

    data: HeteroData
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    full: bool = False
    rounds: int = 5
    min_run_time: float = 0.1

    @cached_property
    def limits(self) -> Limits:
        """The machine's limits, measured once per run."""
        return Limits.measure(self.device, self.rounds)

    def compare(self, functions: Calls, clock: Callable[[], float] | None = None) -> dict[str, Timing]:
        """Time alternatives in turns, see :func:`compare`."""
        return compare(functions, self.rounds, self.min_run_time, clock or wall_clock(self.device))


class Bars(NamedTuple):
    """A chart with a bar for every row: ``value`` names its column, ``label`` those that name the row."""

    value: str
    label: tuple[str, ...]


class Lines(NamedTuple):
    """A chart with a line for every column of ``values`` over ``x``, both logarithmic, and marked places on ``x``."""

    x: str
    values: tuple[str, ...]
    marks: Mapping[str, float]


@dataclass
class Table:
    """Measurements: a row is a dict from column to number or text; every row has the columns of the first.

    Attributes:
        title: What was measured.
        rows: The rows.
        notes: Sentences below the table, such as which alternative is missing.
        chart: How to draw it, if at all.
    """

    title: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    chart: Bars | Lines | None = None

    def markdown(self) -> str:
        """Return the table and its notes as Markdown."""
        lines = [f"## {self.title}", ""]
        if self.rows:
            head = list(self.rows[0])
            numeric = [any(isinstance(row[column], (int, float)) for row in self.rows) for column in head]
            lines += [_line(head), _line("---:" if right else "---" for right in numeric)]
            lines += [_line(show(row[column]) for column in head) for row in self.rows]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)])


def show(value: Cell) -> str:
    """Return a cell as text: three significant digits, a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, (str, int)):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def machine(device: torch.device) -> Row:
    """Return what a reader must know about the machine, without its load."""
    return {
        "processor": _processor(),
        "CPUs available": _cpus(),
        "threads": torch.get_num_threads(),
        "memory (GiB)": round(_memory("MemTotal") / 2**30, 1) if _memory("MemTotal") else None,
        "last cache (MiB)": cache_bytes(device) / 2**20 or None,
        "measured on": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        **{name: value for name, value in versions().items() if name not in ("machine", "device")},
    }


def load_average() -> float | None:
    """Return how many processes wanted to run in the last minute, where the system tells."""
    with suppress(OSError, AttributeError):
        return round(os.getloadavg()[0], 2)
    return None


def cache_bytes(device: torch.device) -> int:
    """Return the size of the last cache before memory, zero if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    caches = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    with suppress(OSError, ValueError):
        return 1024 * max(
            (int(file.read_text(encoding="utf-8").strip().removesuffix("K")) for file in caches), default=0
        )
    return 0


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message without its full stop, or the name of its class."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def need_memory(required: int, device: torch.device) -> None:
    """Raise :class:`Missing` unless so many bytes are free; where the system does not tell, they are."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _memory("MemAvailable")
    if free and required > free:
        raise Missing(f"needs {required / 2**30:.1f} GiB of memory, {free / 2**30:.1f} are free")


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    return _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()


def _memory(name: str) -> int:
    words = _field("/proc/meminfo", name).split()
    return 1024 * int(words[0]) if words else 0


def _field(path: str, name: str) -> str:
    """Return the value of the first line ``name: value`` of a file, empty if there is none."""
    with suppress(OSError):
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""
