"""The folder of a run: claimed before anything is computed, never shared with other work."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pyg_ckd.errors import InputError
from pyg_ckd.files import is_leftover, plain_values, read_json, remove_leftovers, write_json
from pyg_ckd.training.checkpoint import check_settings
from pyg_ckd.training.trainer import FREE

MANIFEST = "settings.json"


def claim_folder(folder: Path, manifest: Mapping[str, Any], free: Collection[str] = (), keep: str = "") -> None:
    """Make sure that a folder can be written to and is empty or holds work of the same settings.

    What a process that was killed has left of the file of settings is removed, and counts as nothing.

    Args:
        folder: The folder; created if need be.
        manifest: Settings of the present work, compared with those in the folder and then written there.
        free: Settings that may differ from call to call: keys, and dotted keys such as ``trainer.device``, see
            :func:`free_options`. (default: none)
        keep: What follows "choose another folder" where the settings are damaged: how to keep the work. (default:
            ``""``)

    Raises:
        InputError: If it is a file, not writable, holds something else or work of other settings.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output folder {folder}: found a file of that name, expected a folder")
    path = folder / MANIFEST
    remove_leftovers(path)
    used = folder.exists() and any(other != path and not is_leftover(path, other) for other in folder.iterdir())
    if used and path.exists():
        found = read_json(path)
        if not isinstance(found, dict):
            raise InputError(f"output folder {folder}: {MANIFEST} is damaged; choose another folder{keep}")
        check_settings(path, _without(found, free), _without(plain_values(manifest), free))
    elif used:
        raise InputError(
            f"output folder {folder}: found it not empty and without {MANIFEST}, expected an empty folder or one of an "
            "unfinished run with the same settings; choose another folder"
        )
    try:
        write_json(path, manifest)
    except OSError as error:
        raise InputError(f"output folder {folder}: cannot be written to ({error.strerror}); choose another") from None


def free_options(*compared: str) -> set[str]:
    """Return the options of the trainer that do not decide about results, as dotted keys of a manifest.

    They are those of :data:`pyg_ckd.training.trainer.FREE`, for instance ``device``, ``progress`` and ``max_epochs``,
    with which a run can be prolonged.

    Args:
        *compared: Names that are to be compared all the same.
    """
    return {f"trainer.{name}" for name in FREE if name not in compared}


def _without(manifest: Mapping[str, Any], free: Collection[str]) -> dict[str, Any]:
    return {
        part: {name: option for name, option in value.items() if f"{part}.{name}" not in free}
        if isinstance(value, Mapping)
        else value
        for part, value in manifest.items()
        if part not in free
    }
