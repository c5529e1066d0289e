"""Which processes train, and how the training is laid out over them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from pyg_ckd.arguments import as_integer
from pyg_ckd.balance.discovery import innermost
from pyg_ckd.balance.objective import Objective
from pyg_ckd.devices import Device
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.launching import launch
from pyg_ckd.processes import Processes, present, started
from pyg_ckd.training.layouts.base import Layout
from pyg_ckd.training.layouts.columns import Columns
from pyg_ckd.training.layouts.users import Users
from pyg_ckd.training.layouts.whole import Whole

LAYOUTS: dict[str, type[Layout]] = {"users": Users, "columns": Columns, "ddp": Whole}
"""The layouts, the one that ``"auto"`` takes first in the first place."""
STRATEGIES = ("auto", *LAYOUTS)


def check_devices(devices: int | str, num_nodes: int, strategy: str) -> tuple[int | str, int]:
    """Return the trainer's arguments about processes, checked.

    Args:
        devices: As :class:`~pyg_ckd.training.Trainer` takes it.
        num_nodes: As the trainer takes it.
        strategy: As the trainer takes it.

    Raises:
        InputError: If a number is below 1 or the strategy unknown.
    """
    if strategy not in STRATEGIES:
        raise unknown_name("strategy", strategy, STRATEGIES)
    if isinstance(devices, str) and devices.isdecimal():
        devices = int(devices)
    if isinstance(devices, str):
        if devices != "auto":
            raise InputError(f"devices: found {devices!r}, expected 'auto' or a number of devices from 1 on")
    else:
        devices = as_integer(devices, "devices", 1)
    return devices, as_integer(num_nodes, "num_nodes", 1)


def open_processes(devices: int | str, num_nodes: int, device: Device) -> Processes:
    """Return the processes that train: those of the group that this one is in, or has been started for.

    Args:
        devices: Devices of this machine, or ``"auto"``.
        num_nodes: Number of machines.
        device: The trainer's device.

    Raises:
        InputError: If there is no such group, or a device is named where every process needs one of its own.
    """
    if devices == "auto":
        found = present()
        if not found.alone or started() == 1:
            return _checked(found, device)
        devices = int(os.environ.get("LOCAL_WORLD_SIZE", started()))
        num_nodes = max(num_nodes, started() // devices)
    return _checked(launch(int(devices), num_nodes, accelerator_of(device)), device)


def _checked(processes: Processes, device: Device) -> Processes:
    if not processes.alone and ":" in str(device):
        raise InputError(
            f"device: found {str(device)!r} for {processes.size} processes, expected a kind of device such as 'cuda', "
            "of which every process takes its own"
        )
    return processes


def accelerator_of(device: Device) -> str:
    """Return the accelerator of lightning-fabric that processes of a training share out.

    Args:
        device: The trainer's device.
    """
    kind = str(device).split(":")[0]
    return {"gpu": "cuda"}.get(kind, kind)


def own_device(processes: Processes, device: Device) -> Device:
    """Return the device of this process.

    Args:
        processes: The processes.
        device: The trainer's device.
    """
    number = os.environ.get("LOCAL_RANK", str(processes.rank))
    if ":" in str(device) or (processes.alone and "LOCAL_RANK" not in os.environ):
        return device  # One of several that work apart takes its own, too.
    kind = accelerator_of(device)
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    return f"cuda:{number}" if kind == "cuda" else kind


def choose_layout(
    strategy: str,
    processes: Processes,
    objective: Objective,
    num_neighbors: Sequence[int] | None = None,
    cut_features: bool = False,
) -> Layout:
    """Return how an objective is laid out over processes.

    Args:
        strategy: As the trainer takes it.
        processes: The processes.
        objective: What is trained.
        num_neighbors: Neighbours that nodes keep, or :obj:`None` for training on the whole graph.
        cut_features: As the trainer takes it.

    Raises:
        InputError: If the backbone or the objective cannot be laid out so.
    """
    if objective.student.is_part:
        raise InputError(
            f"{type(objective.student).__name__}: found a model of which several processes have a part each, left by a "
            "training that was broken off, expected a whole one; build it again, the checkpoint is whole"
        )
    if processes.alone:
        return Whole(processes)
    student = objective.student
    names = [s for s in LAYOUTS if num_neighbors is None or not LAYOUTS[s].cuts]
    if strategy not in ("auto", *names):
        raise InputError(
            f"strategy: found {strategy!r} beside num_neighbors={list(num_neighbors or ())}, whose neighbourhoods are "
            f"sampled from a whole graph with whole tables, expected {' or '.join(map(repr, names))}"
        )
    name, can = type(student).__name__, [s for s in names if s in student.strategies]
    if not can:
        raise InputError(
            f"strategy: found {processes.size} processes for {name}, whose losses are no means over the triples of a "
            "batch, expected one process; a study trains several runs at a time, one process each (--workers)"
        )
    if strategy != "auto" and strategy not in can:
        raise InputError(f"strategy: found {strategy!r} for {name}, expected {' or '.join(map(repr, can))}")
    if objective.needs_whole:
        raise InputError(
            f"strategy: found {processes.size} processes for {objective.name}, which needs {objective.needs_whole} "
            "whole, expected one process; a study trains several runs at a time, one process each "
            f"(--workers){_mend(objective)}"
        )
    fits = [s for s in can if s in objective.strategies]
    if not fits or (strategy != "auto" and strategy not in fits):
        raise InputError(
            f"strategy: found {strategy!r} for {objective.name}, which reads more than margins of its own triples, "
            f"expected {' or '.join(map(repr, fits)) or 'one process'}"
        )
    reasons = []
    for chosen in fits if strategy == "auto" else [strategy]:
        layout = LAYOUTS[chosen](processes)
        reasons.append(layout.refuses(objective))
        if not reasons[-1]:
            if cut_features and chosen != "users":
                raise InputError(
                    f"cut_features: found True for {name} under strategy={chosen!r}, whose processes have all of them, "
                    "expected strategy='users'"
                )
            layout.cut_features = cut_features
            return layout
    raise InputError(f"strategy={chosen!r}: found {reasons[-1]}")


def _mend(objective: Objective) -> str:
    """Return what the class of a strategy from outside the library can declare; nothing of one of the library."""
    cls = type(innermost(objective))
    if cls.__module__.startswith("pyg_ckd."):
        return ""
    return (
        f'. If all terms of {cls.__name__} are means over triples, declare needs_whole = "" in the class; if it reads '
        "nothing but margins of its own triples, also strategies = frozenset({'users', 'columns', 'ddp'})"
    )
