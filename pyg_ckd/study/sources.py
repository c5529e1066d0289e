"""Whether a worker has read the same files of code as the process whose keys name the runs."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pyg_ckd.code import modules_of
from pyg_ckd.errors import InputError

Sources = Mapping[str, str]
"""From module to the digest of the text of its file."""

_read: dict[str, str] = {}  # Of a worker: it reads each file once, just after it has imported the module.
_given: dict[str, str] = {}  # Of the process of a study: what it has told its workers so far.


def files_of(part: Any) -> dict[str, str]:
    """Return the digests of the files of a class or function and of what it uses, as they were when first asked for.

    Args:
        part: The class or function.
    """
    return _digests(part) if part.__hash__ is not None else _digests.__wrapped__(part)


def check_sources(title: str, wanted: Sources) -> None:
    """Refuse a run in a worker whose files of code are not those that the key of the run was made of.

    Args:
        title: The run as messages name it.
        wanted: What :func:`~pyg_ckd.study.runs.sources_of` has returned in the process of the study.

    Raises:
        InputError: If a file differs.
    """
    for module in wanted:
        if module not in _read and module in sys.modules:
            _read[module] = _digest(module)
    for module, digest in wanted.items():
        if _read.get(module, "") not in ("", digest):
            raise InputError(
                f"{title}: the file of {module} ({_file(module)}) was changed after the study read it, expected "
                "the code that the study began with; make the same call again. In a Python session, reload the module "
                "or begin a new session first, and restart the workers of a cluster"
            )


def renewed(sources: Iterable[Sources]) -> bool:
    """Return whether a file differs from what workers of this process were told before: they hold the old code.

    Args:
        sources: What the next runs need.
    """
    found = {module: digest for one in sources for module, digest in one.items()}
    differs = any(_given.get(module, digest) != digest for module, digest in found.items())
    _given.update(found)
    _read.update(found)  # For backends whose workers are threads of this process.
    return differs


@functools.cache
def _digests(part: Any) -> dict[str, str]:
    return {module: digest for module in modules_of(part) if (digest := _digest(module))}


def _digest(module: str) -> str:
    """Return the digest of the text of a module's file, nothing if it has none."""
    try:
        return hashlib.sha256(Path(_file(module)).read_bytes()).hexdigest()[:16]
    except (OSError, ValueError):
        return ""


def _file(module: str) -> str:
    return "" if module == "__main__" else getattr(sys.modules.get(module), "__file__", None) or ""
