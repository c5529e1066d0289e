"""Runs a function in several processes of this machine, as ``torchrun`` would."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import several

IMPORTED_ONCE = ["torch_geometric.data", *(f"pyg_ckd.{room}" for room in ("balance", "nn", "serving", "training"))]


def in_processes(work: Callable[..., Any], *arguments: Any, size: int = 2) -> list[Any]:
    """Return what ``work(*arguments)`` returns in every one of several processes that belong together.

    Args:
        work: A function of a module, which is imported anew in every process.
        *arguments: What can be pickled.
        size: Number of processes.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)  # What is compared with the processes here must be computed as there.
    multiprocessing.set_forkserver_preload(IMPORTED_ONCE)
    return several.in_processes(size, work, *arguments, start="forkserver")
