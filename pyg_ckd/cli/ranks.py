"""Commands in several processes: those that ``torchrun`` starts share the work, and only the first of them speaks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from pyg_ckd.errors import InputError

SHARED = ("train", "evaluate", "recommend")
"""Commands whose work several processes share."""

ACCELERATOR = "PYG_CKD_ACCELERATOR"
"""Variable of the environment in which copies of a process find what kind of device they share out."""


def size() -> int:
    """Return the number of processes that were started together, as the environment says; 1 if this is the only one."""
    found = os.environ.get("WORLD_SIZE", "1")
    return max(1, int(found)) if "LOCAL_RANK" in os.environ and found.isdecimal() else 1


def rank() -> int:
    """Return the number of this process among them, from 0."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) if size() > 1 else 0


def first() -> bool:
    """Return whether this is the process that prints, and writes what is not shared."""
    return rank() == 0


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
        from pyg_ckd.launching import launch

        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        launch(here, size() // here, os.environ.get(ACCELERATOR, "auto"))


def start(trainer: Mapping[str, Any]) -> None:
    """Start the processes that the trainer's option ``devices`` asks for, as copies of this one.

    They join by themselves when they read their options, which the copies do before they come here.

    Args:
        trainer: Options of the trainer.

    Raises:
        InputError: If they cannot be started.
    """
    from pyg_ckd.training import Trainer
    from pyg_ckd.training.layouts.choice import accelerator_of, check_devices

    asked = (trainer.get("devices", "auto"), trainer.get("num_nodes", 1), trainer.get("strategy", "auto"))
    devices, num_nodes = check_devices(*asked)
    if size() > 1 or devices in ("auto", 1):
        return
    if num_nodes != 1:
        raise InputError(
            f"num_nodes: found {num_nodes} outside a group of processes, expected 1: start the processes of several "
            "machines with torchrun on each of them"
        )
    from pyg_ckd.launching import launch

    Trainer(**trainer)  # What is wrong with an option is said once.
    os.environ["LOCAL_WORLD_SIZE"] = str(devices)  # For the copies.
    accelerator = os.environ[ACCELERATOR] = accelerator_of(trainer.get("device", "auto"))
    launch(int(devices), 1, accelerator, start=True)
    with alike():  # Meets the copies where they have read their options.
        pass


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
    who = f"process {rank() + 1} of {size()}: " if alone and not line.startswith("process ") else ""
    if alone or first():
        sys.stderr.write(f"pyg-ckd: error: {who}{line}\n")
        sys.stderr.flush()
    if size() > 1 and everywhere:
        from pyg_ckd.processes import present

        with suppress(InputError):
            present().wait()
