"""Which GPU of this machine a worker of a study has."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import torch


def share_cards(workers: int) -> tuple[int, int]:
    """Return the number of GPUs that so many workers use, and how many of them a GPU has at most.

    Small graphs leave a GPU idle while the next operation is issued, so that several trainings share it with gain.

    Args:
        workers: Number of processes.
    """
    cards = min(workers, torch.cuda.device_count())
    return cards, -(-workers // cards) if cards else 1


def on_card(cards: int, sharing: int = 1) -> int | None:
    """Let this process see one GPU, that of the fewest workers of this machine, and return its number.

    Its place there is the process's as long as it lives.

    Args:
        cards: Number of GPUs.
        sharing: Workers that a GPU has at most.
    """
    return _take_card(cards, sharing)[0]


@lru_cache(maxsize=1)
def _take_card(cards: int, sharing: int) -> tuple[int | None, Any]:
    from filelock import FileLock, Timeout

    folder = Path(tempfile.gettempdir()) / f"pyg-ckd-cards-{os.getuid() if hasattr(os, 'getuid') else 0}"
    folder.mkdir(exist_ok=True)
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = visible or [str(number) for number in range(cards)]
    for place, (number, name) in product(range(sharing), enumerate(names[:cards])):
        lock = FileLock(folder / (f"{name}.{place}.lock" if place else f"{name}.lock"))
        with suppress(Timeout):
            lock.acquire(timeout=0)
            os.environ["CUDA_VISIBLE_DEVICES"] = name  # Before this process touches CUDA.
            return number, lock
    return None, None
