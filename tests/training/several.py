"""Runs a function in several processes of this machine, as ``torchrun`` would."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _run(rank: int, size: int, folder: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    try:
        torch.save(work(*arguments), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def in_processes(work: Callable[..., Any], *arguments: Any, size: int = 2) -> list[Any]:
    """Return what ``work(*arguments)`` returns in every one of several processes that belong together.

    Args:
        work: A function of a module, which is imported anew in every process.
        *arguments: What can be pickled.
        size: Number of processes.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)  # What is compared with the processes here must be computed as there.
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_run, (size, folder, work, arguments), nprocs=size)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(size)]
