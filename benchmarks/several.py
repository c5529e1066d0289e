"""Runs a function in several processes of this machine that belong together, as ``torchrun`` would."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pyg_ckd.memory import kept_memory


def in_processes(
    size: int, work: Callable[..., Any], *arguments: Any, threads: int = 1, start: str = "spawn"
) -> list[Any]:
    """Return what ``work(*arguments)`` returns in every one of several processes.

    Args:
        size: Number of processes.
        work: A function of a module, which is imported anew in every process.
        *arguments: What can be pickled.
        threads: Threads of a process.
        start: How processes start: ``"spawn"``, or ``"forkserver"``, which is sooner and shares memory between them.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_run, (size, folder, threads, work, arguments), nprocs=size, start_method=start)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(size)]


def _run(rank: int, size: int, folder: str, threads: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(threads)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    try:
        with kept_memory():
            torch.save(work(*arguments), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
