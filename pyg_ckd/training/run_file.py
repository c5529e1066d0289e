"""The file that a training leaves behind while it goes on, and from which it goes on after a break."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyg_ckd.processes import ALONE, Processes
from pyg_ckd.training.checkpoint import check_settings, load_checkpoint, save_checkpoint
from pyg_ckd.training.run import Run

CHECKPOINT_NAME = "last.pt"


class RunFile:
    """The checkpoint of a run.

    Args:
        folder: Where it is; :obj:`None` reads and writes nothing.
        settings: What decides about the result of the run; a checkpoint of others is refused.
        processes: The processes that train; the first one writes, and all read.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any], processes: Processes = ALONE) -> None:
        self.path = None if folder is None else folder / CHECKPOINT_NAME
        self.settings, self.processes = dict(settings), processes

    def resume(self, run: Run) -> None:
        """Bring a run to where the checkpoint is, if there is one.

        Raises:
            InputError: If it is damaged or of other settings.
        """
        with self.processes.together():
            if self.path is not None and self.path.exists():
                content = load_checkpoint(self.path, "run")
                check_settings(self.path, content["settings"], self.settings)
                run.load_state_dict(content["run"])
        self.processes.agree(f"checkpoint {self.path}: finished epochs, read by every process,", run.epoch)

    def write(self, run: Run) -> None:
        """Write the checkpoint, whole or not at all."""
        if self.path is None:
            return
        with self.processes.together():
            if self.processes.first:
                save_checkpoint(self.path, {"kind": "run", "settings": self.settings, "run": run.state_dict()})
