"""Which GPU of this machine a worker of a study has."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any


def on_card(cards: int) -> int:
    """Let this process see one GPU, that of the fewest workers of all studies of this machine, and return its number.

    Small graphs leave a GPU idle while the next operation is issued, so that several trainings share it with gain. The
    place on the GPU is the process's as long as it lives.

    Args:
        cards: Number of GPUs.
    """
    return _take_card(cards)[0]


@lru_cache(maxsize=1)
def _take_card(cards: int) -> tuple[int, Any]:
    from filelock import FileLock, Timeout

    folder = Path(tempfile.gettempdir()) / f"pyg-ckd-cards-{os.getuid() if hasattr(os, 'getuid') else 0}"
    folder.mkdir(exist_ok=True)
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = visible or [str(number) for number in range(cards)]
    for place in count():
        for number, name in enumerate(names[:cards]):
            lock = FileLock(folder / (f"{name}.{place}.lock" if place else f"{name}.lock"))
            with suppress(Timeout):
                lock.acquire(timeout=0)
                os.environ["CUDA_VISIBLE_DEVICES"] = name  # Before this process touches CUDA.
                return number, lock
    raise AssertionError("there is always a further place")
