"""What a training says while it goes on: a bar, and a record of every epoch for loggers of Python."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyg_ckd.display import progress_console
from pyg_ckd.training.run import Run

LOGGER = logging.getLogger("pyg_ckd.training")
"""Gets a record of level ``INFO`` after every epoch and at the end of a training."""


@contextmanager
def shown_progress(name: str, monitor: str, max_epochs: int, shown: bool) -> Iterator[Any]:
    """Show a progress bar inside the block and yield a function that moves it.

    Args:
        name: Name of the model.
        monitor: Name of the monitored metric.
        max_epochs: Epochs at most.
        shown: Whether to show it; nothing is shown where there is neither a terminal nor a notebook.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = progress_console() if shown else None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=console is None) as bar:
        task = bar.add_task(name, total=max_epochs)

        def advance(run: Run) -> None:
            best = f"{name} {monitor} {run.stopper.best:.4f} (epoch {run.stopper.best_epoch})"
            total = max_epochs * max(1, math.ceil(run.epoch / max_epochs))  # More than once if it is extended.
            bar.update(task, completed=run.epoch, total=total, description=best if run.stopper.best_epoch > 0 else name)

        yield advance


def log_epoch(name: str, monitor: str, max_epochs: int, run: Run) -> None:
    """Log the last finished epoch.

    Args:
        name: Name of the model.
        monitor: Name of the monitored metric.
        max_epochs: Epochs at most.
        run: The training.
    """
    if not LOGGER.isEnabledFor(logging.INFO):
        return
    row, key = run.history.rows[-1], f"val/{monitor}"
    said = [f"{loss} {value:.5g}" for loss, value in row.items() if loss.startswith("loss/")]
    if key in row:
        said.append(f"{key} {row[key]:.4f} (best {run.stopper.best:.4f} in epoch {run.stopper.best_epoch})")
    if run.history.seconds:
        said.append(f"{run.history.seconds[-1]:.2f} s")
    LOGGER.info("%s: epoch %d of at most %d: %s", name, run.epoch, max_epochs, ", ".join(said))


def log_end(name: str, run: Run) -> None:
    """Log why a training ended.

    Args:
        name: Name of the model.
        run: The training.
    """
    LOGGER.info(
        "%s: ended after epoch %d: %s%s; the weights are those of epoch %d",
        name,
        run.epoch,
        run.history.stopped,
        " (not converged)" if run.history.converged is False else "",
        run.history.best_epoch,
    )
