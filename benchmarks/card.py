"""What steps cost on a GPU beside seconds: the time to issue them, and the kernels that they run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import Row, Suite

CALLS, FEW, WARM_UP = 20, 5, 3


class Seconds(NamedTuple):
    """Seconds of a call on a GPU, medians.

    Attributes:
        issued: Until it returns, when the GPU had nothing to do before.
        done: Until the GPU is done as well.
        in_a_row: Of one of many calls that wait for nothing but the GPU after the last.
    """

    issued: float
    done: float
    in_a_row: float


class Kernel(NamedTuple):
    """A kernel of a call.

    Attributes:
        name: Its name.
        calls: How often it ran.
        seconds: How long it ran in all.
    """

    name: str
    calls: int
    seconds: float


def on_a_card(suite: Suite, calls: Mapping[str, Callable[[], Any]]) -> Row:
    """Return columns with the time to issue calls and their numbers of kernels; on the CPU none.

    Args:
        suite: What to measure on.
        calls: From what the names of the columns start with to what is called.
    """
    row: Row = {}
    for name, call in calls.items() if suite.device.type == "cuda" else ():
        row[f"{name}host (ms)"] = 1e3 * seconds_of(call, FEW).issued
        row[f"{name}kernels"] = sum(kernel.calls for kernel in kernels_of(call)) or None
    return row


def seconds_of(call: Callable[[], Any], calls: int = CALLS) -> Seconds:
    """Measure a call on a GPU.

    Args:
        call: What is called.
        calls: How often, after a warm-up.
    """
    issued, done = [], []
    for turn in range(calls + WARM_UP):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        returned = time.perf_counter()
        torch.cuda.synchronize()
        if turn >= WARM_UP:
            issued.append(returned - start)
            done.append(time.perf_counter() - start)
    rows = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
        rows.append((time.perf_counter() - start) / calls)
    return Seconds(median(issued), median(done), median(rows))


def kernels_of(call: Callable[[], Any]) -> list[Kernel]:
    """Return the kernels of a call, copies and fills of memory among them, those that take longest first.

    Args:
        call: What is called, three times as a warm-up.
    """
    for _ in range(WARM_UP):
        call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        call()
        torch.cuda.synchronize()
    return longest(event for event in profiled.events() if event.device_type == DeviceType.CUDA)


def longest(events: Any) -> list[Kernel]:
    """Return the kernels that events of a GPU tell of, those that take longest first.

    Args:
        events: Events of :class:`torch.profiler.profile` on a GPU; annotations of the program are left out.
    """
    found: dict[str, list[float]] = {}
    for event in events:
        if not getattr(event, "is_user_annotation", False):
            found.setdefault(event.name, []).append(event.device_time_total / 1e6)
    kernels = [Kernel(name, len(times), sum(times)) for name, times in found.items()]
    return sorted(kernels, key=lambda kernel: -kernel.seconds)
