"""Progress for what takes minutes: downloads and encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyg_ckd.display import progress_console


@contextmanager
def progress_bar(
    name: str, total: int | None, done: int = 0, show: bool = True, in_bytes: bool = False
) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs, on a terminal or in a notebook.

    Args:
        name: What is going on.
        total: Number of steps, or :obj:`None` if it is unknown.
        done: Steps that were done before. (default: :obj:`0`)
        show: If set to :obj:`False`, show nothing. (default: :obj:`True`)
        in_bytes: If set to :obj:`True`, steps are bytes. (default: :obj:`False`)

    Yields:
        A function that moves the bar by a number of steps.
    """
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = progress_console() if show else None
    if console is None:
        yield lambda steps: None
        return
    count = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=total, completed=done)
        yield lambda steps: bar.update(task, advance=steps)
