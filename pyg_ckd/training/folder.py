"""The folder of a run: claimed before anything is computed, never shared with other work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyg_ckd.errors import InputError
from pyg_ckd.files import plain_values, read_json, write_json
from pyg_ckd.training.checkpoint import check_settings

MANIFEST = "settings.json"


def claim_folder(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Make sure that a folder can be written to and is empty or holds work of the same settings.

    Args:
        folder: The folder; created if need be.
        manifest: Settings of the present work, compared with those in the folder.

    Raises:
        InputError: If it is a file, not writable, holds something else or work of other settings.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output folder {folder}: found a file of that name, expected a folder")
    path = folder / MANIFEST
    if path.exists() and any(other != path for other in folder.iterdir()):
        found = read_json(path)
        if not isinstance(found, dict):
            raise InputError(f"output folder {folder}: {MANIFEST} is damaged; choose another folder")
        check_settings(path, found, plain_values(manifest))
    elif folder.exists() and any(other != path for other in folder.iterdir()):
        raise InputError(
            f"output folder {folder}: found it not empty and without {MANIFEST}, expected an empty folder or one of an "
            "unfinished run with the same settings; choose another folder"
        )
    try:
        write_json(path, manifest)
    except OSError as error:
        raise InputError(f"output folder {folder}: cannot be written to ({error.strerror}); choose another") from None
