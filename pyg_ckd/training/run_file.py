"""The file that a training leaves behind while it goes on, and from which it goes on after a break."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pyg_ckd.errors import InputError
from pyg_ckd.files import remove_leftovers
from pyg_ckd.training.checkpoint import check_content, check_settings, load_checkpoint
from pyg_ckd.training.layouts.base import Layout
from pyg_ckd.training.made_of import own_attributes
from pyg_ckd.training.options import Options
from pyg_ckd.training.parts import places_of, read_parts, read_rows, remove_parts, write_parts, write_whole
from pyg_ckd.training.run import Run
from pyg_ckd.training.trained import misfit

CHECKPOINT_NAME = "last.pt"
IN_PARTS = "run in parts"
"""What a checkpoint is whose tables of users are in files of several processes."""


class RunFile:
    """The checkpoint of a run.

    One process writes all of it. Where processes have rows of some users each, every one of them writes its own, see
    :mod:`pyg_ckd.training.parts`. Whoever wrote it, any number of processes can go on from it.

    Args:
        folder: Where it is; :obj:`None` reads and writes nothing.
        settings: What decides about the result of the run; a checkpoint of others is refused.
        layout: What this process has of the training; the first process writes all of it, and each reads its part.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any], layout: Layout) -> None:
        self.path = None if folder is None else folder / CHECKPOINT_NAME
        self.settings, self.layout, self.processes = dict(settings), layout, layout.processes
        self.attributes: dict[str, str] = {}  # Of the model when the training began.

    def resume(self, run: Run) -> None:
        """Bring a run to where the checkpoint is, if there is one.

        Raises:
            InputError: If it is damaged, of other settings or of other parameters.
        """
        with self.processes.together():
            if self.path is not None:
                self.attributes = own_attributes(run.objective)
            if self.path is not None and self.path.exists():
                optimizer = None if run.steps is None else run.steps.optimizer
                state = self._read(self.path, run)
                try:
                    own = self.layout.own_state(state, run.objective, optimizer)
                    if run.trained is not None:
                        run.trained.check_shapes(self.path, own)
                    run.load_state_dict(own)
                except (InputError, torch.cuda.OutOfMemoryError):
                    raise
                except (RuntimeError, ValueError) as error:  # Of PyTorch, about widths and groups of parameters.
                    raise misfit(self.path, " ".join(str(error).split())[:200]) from error
        self.processes.agree(f"checkpoint {self.path}: finished epochs, read by every process,", run.epoch)

    def _read(self, path: Path, run: Run) -> Any:
        rows = self.layout.rows
        content = load_checkpoint(path, None, mmap=rows is not None)
        if content.get("kind") != IN_PARTS:
            check_content(path, content, "run")
        found, expected = content["settings"], self.settings
        if "sampler" not in found and "sampler" not in expected:  # Else it has its own order and number.
            found, expected = (Options.resolved(s, run.objective.student.shuffle) for s in (found, expected))
        check_settings(path, found, expected)
        stored = content.get("attributes")
        if stored is not None and self.processes.first:  # Not in a run of before; of one process where they differ.
            both = stored.keys() & self.attributes.keys()
            self.attributes = {name: self.attributes[name] for name in sorted(both)}
            check_settings(path, {name: stored[name] for name in both}, self.attributes)
        state = content["run"]
        if run.trained is not None:
            run.trained.check(path, state)
        if content["kind"] == IN_PARTS:
            return read_parts(path, state, content["parts"], rows)
        if rows is None:
            return state
        return read_rows(state, places_of(state, run, self.layout.cut_names, rows.all), rows)

    def write(self, run: Run) -> None:
        """Write the checkpoint, whole or not at all."""
        if self.path is None:
            return
        optimizer = None if run.steps is None else run.steps.optimizer
        now = own_attributes(run.objective)
        kept = {name: text for name, text in self.attributes.items() if now.get(name) == text}  # Others are no options.
        rows, content, state = self.layout.rows, {"settings": self.settings, "attributes": kept}, run.state_dict()
        if rows is not None:
            places = places_of(state, run, self.layout.cut_names, rows.own)
            write_parts(self.path, {"kind": IN_PARTS, **content}, state, places, rows, self.processes)
            return
        state = self.layout.whole_state(state, run.objective, optimizer)
        with self.processes.together():
            if self.processes.first:
                write_whole(self.path, {"kind": "run", **content, "run": state})
                remove_parts(self.path)


def remove_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of a run that has ended, if there is one, and what killed processes have left of it.

    Args:
        folder: Where it is.
    """
    (folder / CHECKPOINT_NAME).unlink(missing_ok=True)
    remove_parts(folder / CHECKPOINT_NAME)
    remove_leftovers(folder / CHECKPOINT_NAME)
