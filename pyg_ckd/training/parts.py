"""Tables of a run of which every process has the rows of its own users, in files of several processes.

Beside its checkpoint, such a run has a folder with a file of every process, which holds that process's rows of all
tables that are cut. The checkpoint holds the rest, and says which rows are where, so that any number of processes can
read them.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyg_ckd.balance.objective import Objective
from pyg_ckd.errors import InputError
from pyg_ckd.files import remove_leftovers
from pyg_ckd.processes import Processes
from pyg_ckd.training.checkpoint import load_checkpoint, save_checkpoint
from pyg_ckd.training.layouts.rows import UserRows
from pyg_ckd.training.run import Run

Place = tuple[str | int, ...]
"""The keys that lead to a tensor in a nested state."""
KIND = "part of a run"
SUFFIX = ".parts"


def places_of(state: Mapping[str, Any], run: Run, names: frozenset[str], rows: int) -> list[Place]:
    """Return where the state of a run has tables of users.

    Args:
        state: What :meth:`Run.state_dict` returned, of this run or another one.
        run: The run.
        names: Entries of the objective's ``state_dict`` that are such tables.
        rows: Number of their rows in the state.
    """
    places: list[Place] = [(part, name) for part in ("model", "best_state") for name in state[part] if name in names]
    if run.steps is None:
        return places
    own = _parameters(run.objective, names)
    average = [id(p) for p in run.objective.parameters() if p.requires_grad]
    places += [("average", "average", n) for n, p in enumerate(average) if p in own and "average" in state]
    order = [id(p) for group in run.steps.optimizer.param_groups for p in group["params"]]
    for n, values in state["optimizer"]["state"].items():
        if order[n] in own:
            of_rows = (k for k, v in values.items() if isinstance(v, Tensor) and v.dim() and v.size(0) == rows)
            places += [("optimizer", "state", n, key) for key in of_rows]
    return places


def _parameters(objective: Objective, names: frozenset[str]) -> set[int]:
    return {id(p) for name, p in objective.named_parameters(remove_duplicate=False) if name in names}


def write_parts(
    path: Path, content: Mapping[str, Any], state: Any, places: Sequence[Place], rows: UserRows, processes: Processes
) -> None:
    """Write a run of which every process has a part, whole or not at all: until the end, the checkpoint is the old one.

    Args:
        path: The checkpoint.
        content: What it holds beside the run.
        state: The state of this process.
        places: Where it has tables of which this process has a part.
        rows: Which part.
        processes: The processes.

    Raises:
        InputError: If a process cannot write.
    """
    folder = path.parent / processes.gather(f"{path.stem}-{secrets.token_hex(4)}{SUFFIX}")[0]
    count, finished = processes.size, False
    try:
        with processes.together():
            mine = [_at(state, place) for place in places]
            write_whole(folder / part_name(processes.rank, count), {"kind": KIND, "tables": mine})
        with processes.together():
            if processes.first:
                missing = [n for n in range(count) if not (folder / part_name(n, count)).exists()]
                if missing:
                    raise InputError(
                        f"checkpoint {folder}: found no part of process {missing[0] + 1}, expected a folder that all "
                        f"{count} processes write to and see"
                    )
                rest = replaced(state, dict.fromkeys(places))
                about = {"folder": folder.name, "starts": list(rows.starts), "places": [list(p) for p in places]}
                write_whole(path, {**content, "run": rest, "parts": about})
                finished = True
                remove_parts(path, but=folder.name)
    except InputError:
        if processes.first and not finished:  # Else the checkpoint needs it, though another process has ended since.
            shutil.rmtree(folder, ignore_errors=True)
        raise


def write_whole(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all; what killed processes have left of it goes first, to make room.

    Args:
        path: The file.
        content: What it holds.

    Raises:
        InputError: If not all of it can be written.
    """
    remove_leftovers(path)
    try:
        save_checkpoint(path, content)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"checkpoint {path}: cannot be written ({reason}); the one before is as it was, free some space and start "
            "the same command again"
        ) from error.__cause__  # What a library said.


def part_name(rank: int, count: int) -> str:
    """Return the name of the file of a process.

    Args:
        rank: Number of the process.
        count: Number of processes.
    """
    return f"part-{rank:05d}-of-{count:05d}.pt"


def remove_parts(path: Path, but: str = "") -> None:
    """Remove the folders of parts that belong to a checkpoint, or to one that was never finished.

    Args:
        path: The checkpoint.
        but: Name of the folder that stays.
    """
    for folder in path.parent.glob(f"{path.stem}-*{SUFFIX}"):
        if folder.name != but:
            shutil.rmtree(folder, ignore_errors=True)


def read_parts(path: Path, state: Any, parts: Mapping[str, Any], rows: UserRows | None) -> Any:
    """Return the state of a run with the rows of this process, from the files of however many processes.

    Args:
        path: The checkpoint.
        state: What it holds of the run.
        parts: What it says of its parts.
        rows: Which rows this process has; :obj:`None` if all.

    Raises:
        InputError: If a part is missing or damaged.
    """
    places, starts = [tuple(place) for place in parts["places"]], parts["starts"]
    first, last = (0, starts[-1]) if rows is None else (rows.first, rows.last)
    if rows is not None and rows.all != starts[-1]:
        raise InputError(f"checkpoint {path}: found {starts[-1]} users, expected {rows.all} as in the graph")
    found: dict[Place, list[Tensor]] = {place: [] for place in places}
    count = len(starts) - 1
    for n, (start, stop) in enumerate(pairwise(starts)):
        if stop <= first or start >= last:
            continue
        file = path.parent / parts["folder"] / part_name(n, count)
        tables = load_checkpoint(file, KIND, mmap=True)["tables"]
        for place, table in zip(places, tables, strict=True):
            found[place].append(table[max(first, start) - start : min(last, stop) - start])
    return replaced(state, {place: torch.cat(pieces) for place, pieces in found.items()}, torch.clone)


def read_rows(state: Any, places: Sequence[Place], rows: UserRows) -> Any:
    """Return the state of a whole run with the rows of this process alone.

    Args:
        state: The state, perhaps mapped from a file.
        places: Where it has tables of all users.
        rows: Which rows this process has.
    """
    mine = {place: _at(state, place)[rows.first : rows.last].clone() for place in places}
    return replaced(state, mine, torch.clone)


def replaced(
    tree: Any, values: Mapping[Place, Any], copy: Callable[[Tensor], Tensor] = lambda x: x, at: Place = ()
) -> Any:
    """Return nested dicts and lists with other values in some places.

    Args:
        tree: The dicts and lists.
        values: The values by place.
        copy: Called with every other tensor; what it returns takes its place.
        at: Where ``tree`` stands.
    """
    if at in values:
        return values[at]
    if isinstance(tree, Mapping):
        return {key: replaced(value, values, copy, (*at, key)) for key, value in tree.items()}
    if isinstance(tree, list):
        return [replaced(value, values, copy, (*at, n)) for n, value in enumerate(tree)]
    return copy(tree) if isinstance(tree, Tensor) else tree


def _at(tree: Any, place: Place) -> Any:
    for key in place:
        tree = tree[key]
    return tree
