"""The file that a training leaves behind while it goes on, and from which it goes on after a break."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyg_ckd.training.checkpoint import check_settings, load_checkpoint, save_checkpoint
from pyg_ckd.training.layouts.base import Layout
from pyg_ckd.training.run import Run

CHECKPOINT_NAME = "last.pt"


class RunFile:
    """The checkpoint of a run.

    Args:
        folder: Where it is; :obj:`None` reads and writes nothing.
        settings: What decides about the result of the run; a checkpoint of others is refused.
        layout: What this process has of the training; the first process writes all of it, and each reads its part.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any], layout: Layout) -> None:
        self.path = None if folder is None else folder / CHECKPOINT_NAME
        self.settings, self.layout, self.processes = dict(settings), layout, layout.processes

    def resume(self, run: Run) -> None:
        """Bring a run to where the checkpoint is, if there is one.

        Raises:
            InputError: If it is damaged or of other settings.
        """
        with self.processes.together():
            if self.path is not None and self.path.exists():
                content = load_checkpoint(self.path, "run")
                check_settings(self.path, content["settings"], self.settings)
                optimizer = None if run.steps is None else run.steps.optimizer
                run.load_state_dict(self.layout.own_state(content["run"], run.objective, optimizer))
        self.processes.agree(f"checkpoint {self.path}: finished epochs, read by every process,", run.epoch)

    def write(self, run: Run) -> None:
        """Write the checkpoint, whole or not at all."""
        if self.path is None:
            return
        optimizer = None if run.steps is None else run.steps.optimizer
        state = self.layout.whole_state(run.state_dict(), run.objective, optimizer)
        with self.processes.together():
            if self.processes.first:
                save_checkpoint(self.path, {"kind": "run", "settings": self.settings, "run": state})
