"""One training at a time in a folder, however many processes it has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pyg_ckd.locks import held
from pyg_ckd.processes import Processes


@contextmanager
def lone_training(folder: Path | None, processes: Processes) -> Iterator[None]:
    """Hold the folder of a training for the length of a block, see :func:`~pyg_ckd.locks.held`; the first process does.

    Args:
        folder: The folder; :obj:`None` is none.
        processes: The processes that train together.

    Raises:
        InputError: If another training holds it, in all processes.
    """
    with ExitStack() as stack:
        with processes.together():
            if folder is not None and processes.first:
                stack.enter_context(held(folder))
        yield
