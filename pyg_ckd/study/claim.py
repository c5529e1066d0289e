"""The folder of a study: claimed first, and given back if what comes next is refused."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyg_ckd.errors import InputError
from pyg_ckd.files import atomic_path
from pyg_ckd.training.folder import MANIFEST, claim_folder


@contextmanager
def claimed(folder: Path, manifest: Mapping[str, Any], free: Collection[str], runs: Path) -> Iterator[None]:
    """Claim a folder, and leave it as it was if bad input ends the block.

    Args:
        folder: The folder.
        manifest: Settings of the present work, see :func:`~pyg_ckd.training.folder.claim_folder`.
        free: Settings that may differ from call to call.
        runs: The folder of its runs, which another study can share.

    Raises:
        InputError: If the folder cannot be used, or what the block raises.
    """
    path = folder / MANIFEST
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    before = path.read_bytes() if path.is_file() else None
    claim_folder(folder, manifest, free, f"; --runs {runs} (runs= in Python) keeps the finished runs")
    try:
        yield
    except InputError:
        if before is None:
            path.unlink(missing_ok=True)
        else:
            with atomic_path(path) as temporary:
                temporary.write_bytes(before)
        with suppress(OSError):  # A folder with something in it stays.
            for place in made:
                place.rmdir()
        raise
