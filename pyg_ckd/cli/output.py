"""What commands print: lines and tables in the encoding of the terminal, and epochs where no bar shows them."""

from __future__ import annotations

import codecs
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

HANDLER = "pyg_ckd.similar"
STDOUT = "standard output"
SIMILAR = {
    "±": "+-",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "·": ".",
    "×": "x",
    "≥": ">=",
    "≤": "<=",
    "→": "->",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
}
"""What stands in for a character that the encoding lacks; a question mark stands in for all others."""


def replace_what_the_encoding_lacks() -> None:
    """Let the process's standard streams replace characters that their encodings lack, where they would raise.

    A stream that the caller has closed takes all that is written to it and keeps nothing.
    """
    codecs.register_error(HANDLER, _similar)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - As long as the process.
            setattr(sys, name, nowhere)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def _similar(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(SIMILAR.get(char, "?") for char in error.object[error.start : error.end]), error.end


@contextmanager
def standard_output() -> Iterator[None]:
    """Write what a block prints at once, and name standard output where that fails, as on a full disk.

    Raises:
        OSError: If it cannot be written; nothing more is then.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        error.filename = error.filename or STDOUT
        close_output()
        raise


def close_output() -> None:
    """Let standard output go nowhere, so that the end of the process does not try to write the rest."""
    with suppress(io.UnsupportedOperation):  # A stream of the caller's, which has no file behind it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(line: str) -> None:
    """Print a line at once.

    Args:
        line: The text.
    """
    with standard_output():
        sys.stdout.write(f"{line}\n")


def show(table: RenderableType) -> None:
    """Print a table or another drawing.

    Args:
        table: What rich can render.
    """
    from rich.console import Console

    with standard_output():
        Console().print(table)


@contextmanager
def epoch_lines(bar: bool) -> Iterator[None]:
    """Print the trainer's record of every epoch to stderr as a plain line, unless a progress bar shows it.

    Args:
        bar: Whether a bar was asked for; it is shown on a terminal only.
    """
    if bar and sys.stderr.isatty():
        yield
        return
    logger, handler = logging.getLogger("pyg_ckd.training"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
