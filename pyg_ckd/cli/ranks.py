"""Commands in several processes: those that ``torchrun`` starts share the work, and only the first of them speaks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

from pyg_ckd.errors import InputError

SHARED = ("evaluate", "recommend")
"""Commands whose work several processes share."""


def size() -> int:
    """Return the number of processes that were started together, as the environment says; 1 if this is the only one."""
    found = os.environ.get("WORLD_SIZE", "1")
    return max(1, int(found)) if "RANK" in os.environ and found.isdecimal() else 1


def first() -> bool:
    """Return whether this is the process that prints, and writes what is not shared."""
    return size() == 1 or os.environ["RANK"] == "0"


@contextmanager
def one_voice() -> Iterator[None]:
    """Drop what processes other than the first one print inside the block."""
    if first():
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def join() -> None:
    """Join the processes that were started together, if there are any.

    Raises:
        InputError: If they do not find each other.
    """
    if size() > 1:
        from pyg_ckd.processes import launch

        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        launch(here, size() // here)


def check(command: str) -> None:
    """Refuse several processes for a command that one process runs.

    Args:
        command: The command.

    Raises:
        InputError: If it is such a command, and there are several.
    """
    if size() > 1 and command not in SHARED:
        raise InputError(
            f"{command}: found {size()} processes, expected one, for they would all do the same; start it without "
            f"torchrun, which is for {', '.join(SHARED)}"
        )


@contextmanager
def alike() -> Iterator[None]:
    """Run what every process does by itself; what one of them refuses ends all of them.

    Raises:
        InputError: If the block raises one, or an OSError, in any process.
    """
    if size() == 1:
        yield
        return
    from pyg_ckd.processes import present

    with present().together():
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            raise InputError(text_of(error)) from error


def text_of(error: OSError) -> str:
    """Return what the system says about a file, in a line.

    Args:
        error: The error.
    """
    return f"{error.filename or 'a file'}: cannot be used ({error.strerror or error})"


def report(line: str, everywhere: bool) -> None:
    """Print an error: the first process for all of them, or the one that alone has it.

    All wait until it is there, because ``torchrun`` ends them once one has ended.

    Args:
        line: What it says.
        everywhere: Whether all processes have it.
    """
    alone = size() > 1 and not everywhere
    who = f"process {int(os.environ['RANK']) + 1} of {size()}: " if alone and not line.startswith("process ") else ""
    if alone or first():
        sys.stderr.write(f"pyg-ckd: error: {who}{line}\n")
        sys.stderr.flush()
    if size() > 1 and everywhere:
        from pyg_ckd.processes import present

        with suppress(InputError):
            present().wait()
