"""Groups of an optimizer's parameters by modality, and what an objective makes of their learning rates."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pyg_ckd.balance.objective import Objective
from pyg_ckd.errors import InputError, unknown_name

MODALITY = "modality"
"""Key of a group: the modality that its parameters belong to alone, or :obj:`None` for those that are shared."""


def owners(objective: Objective) -> dict[int, str]:
    """Return the modality of every parameter that belongs to one alone, by the parameter's id.

    Args:
        objective: The objective; the modalities' parameters are those of its student.
    """
    found: dict[int, set[str]] = {}
    for m, parameters in objective.student.modality_parameters.items():
        for p in parameters:
            found.setdefault(id(p), set()).add(m)
    return {p: next(iter(names)) for p, names in found.items() if len(names) == 1}


def parameter_groups(objective: Objective) -> list[dict[str, Any]]:
    """Return all trainable parameters in groups for an optimizer: the shared ones first, then those of every modality.

    Each group has its modality under ``"modality"``; groups without a parameter are left out.

    Args:
        objective: The objective, prepared.

    Raises:
        InputError: If there is no trainable parameter.
    """
    owner = owners(objective)
    groups: dict[str | None, list[nn.Parameter]] = {m: [] for m in (None, *objective.modalities)}
    for p in objective.parameters():
        if p.requires_grad:
            groups[owner.get(id(p))].append(p)
    if not any(groups.values()):
        raise InputError(f"{type(objective.student).__name__}: found no trainable parameter, expected at least one")
    return [{"params": parameters, MODALITY: m} for m, parameters in groups.items() if parameters]


def split_groups(optimizer: torch.optim.Optimizer, objective: Objective) -> None:
    """Split the groups of an optimizer in place, so that each holds parameters of one modality or shared ones only.

    Args:
        optimizer: The optimizer; options of a group go to all its parts.
        objective: The objective.
    """
    owner, split = owners(objective), []
    for group in optimizer.param_groups:
        parts: dict[str | None, list[nn.Parameter]] = {}
        for p in group["params"]:
            parts.setdefault(owner.get(id(p)), []).append(p)
        split += [{**group, "params": parameters, MODALITY: m} for m, parameters in parts.items()]
    optimizer.param_groups[:] = split


def read_step_sizes(objective: Objective) -> dict[str, float]:
    """Return the factor of the learning rate that an objective wants for modalities in the next epoch.

    Args:
        objective: The objective.

    Raises:
        InputError: If a modality does not exist, or a factor is not a finite number of zero or more.
    """
    name = f"{type(objective).__name__}.step_sizes"
    given = objective.step_sizes()
    if not isinstance(given, Mapping):
        raise InputError(f"{name}: found {type(given).__name__}, expected a dict from modality to a factor")
    sizes = {}
    for m, size in given.items():
        if m not in objective.modalities:
            raise unknown_name(f"modality in {name}:", m, objective.modalities)
        try:
            sizes[m] = float(size)
        except (TypeError, ValueError):
            sizes[m] = math.nan
        if not 0 <= sizes[m] < math.inf:
            raise InputError(f"{name}: found {size} for {m!r}, expected a finite number of zero or more")
    return sizes


@contextmanager
def scaled_rates(optimizer: torch.optim.Optimizer, sizes: Mapping[str, float]) -> Iterator[None]:
    """Multiply the learning rates of modalities inside the block; outside, they are those that a schedule wants.

    Args:
        optimizer: The optimizer, with groups by modality.
        sizes: From modality to factor; the others have 1.
    """
    rates = [
        (group, group["lr"], sizes[group[MODALITY]]) for group in optimizer.param_groups if group[MODALITY] in sizes
    ]
    without = [m for m, size in sizes.items() if size != 1 and all(group[MODALITY] != m for group, *_ in rates)]
    if without:
        warnings.warn(
            f"step sizes: found one for {', '.join(map(repr, without))}, without trainable parameters of its own in "
            "this backbone: it changes nothing",
            stacklevel=2,
        )
    for group, rate, size in rates:
        group["lr"] = rate * size
    try:
        yield
    finally:
        for group, rate, _ in rates:
            group["lr"] = rate
