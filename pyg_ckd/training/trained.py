"""Which parameters a run trains, in the order in which its checkpoint holds what the optimizer knows of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyg_ckd.errors import InputError
from pyg_ckd.training.averaging import WeightAverage
from pyg_ckd.training.layouts.elementwise import ELEMENTWISE
from pyg_ckd.training.optimizer import LAST

TRAINED = "trained"
"""Key of the names in the state of a run."""


@dataclass(frozen=True)
class Trained:
    """The parameters that a run trains.

    Attributes:
        objective: What is trained.
        optimizer: Its optimizer.
        average: The average of the weights, or :obj:`None`.
    """

    objective: nn.Module
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None

    def names(self) -> dict[str, list[list[str]]]:
        """Return the names of the parameters in every group of the optimizer, and of those that are averaged."""
        names = {id(p): name for name, p in self.objective.named_parameters()}
        groups = [group["params"] for group in self.optimizer.param_groups]
        found = {"optimizer": groups, "average": [] if self.average is None else [self.average.parameters]}
        return {part: [[names.get(id(p), "") for p in group] for group in given] for part, given in found.items()}

    def check(self, path: Path, state: Mapping[str, Any]) -> None:
        """Refuse a stored run of other parameters, or of the same in another order: PyTorch goes by their positions.

        Args:
            path: The checkpoint, for the message.
            state: What it holds of the run; tables may have the rows of all users.

        Raises:
            InputError: If the parameters differ; in a run of before, which has no names, if their numbers do.
        """
        expected, found = self.names(), state.get(TRAINED)
        if found is None:  # In a run of before.
            stored = [len(group["params"]) for group in state["optimizer"]["param_groups"]]
            sizes = [len(group) for group in expected["optimizer"]]
            if stored != sizes:
                raise misfit(path, f"found groups of {_listed(stored)} parameters, trained are {_listed(sizes)}")
        elif found != expected:
            raise misfit(path, _difference(found, expected))

    def check_shapes(self, path: Path, state: Mapping[str, Any]) -> None:
        """Refuse moments and averages of a run without names whose shapes are not those of the parameters.

        Fused kernels would write past their end. Optimizers that do not treat every number by itself may keep other
        shapes.

        Args:
            path: The checkpoint, for the message.
            state: The state of the run that this process goes on from.

        Raises:
            InputError: If a shape differs.
        """
        if TRAINED in state:
            return
        names = {id(p): name for name, p in self.objective.named_parameters()}
        order = [p for group in self.optimizer.param_groups for p in group["params"]]
        known = state["optimizer"]["state"] if isinstance(self.optimizer, ELEMENTWISE) else {}
        pairs = [(order[n], key, x) for n, values in known.items() for key, x in values.items()]
        if self.average is not None:
            stored = state["average"]["average"]
            pairs += [(p, "average", x) for p, x in zip(self.average.parameters, stored, strict=True)]
        for p, key, x in pairs:
            expected = p.shape[:1] if key == LAST else p.shape
            if isinstance(x, Tensor) and x.dim() and x.shape != expected:
                name = names.get(id(p), "a parameter")
                raise misfit(path, f"found {key} of shape {list(x.shape)} for {name} of shape {list(p.shape)}")


def misfit(path: Path, reason: str) -> InputError:
    """Return the error for a checkpoint whose parameters are others than the model's.

    Args:
        path: The checkpoint.
        reason: What differs.
    """
    return InputError(
        f"checkpoint {path}: does not fit the model ({reason}); expected one of the same parameters, of which the same "
        "are trained and not frozen; choose another folder or the same model"
    )


def _difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Return in which parameters two runs differ."""
    before, now = ([name for group in names["optimizer"] for name in group] for names in (found, expected))
    only, more = ([name for name in a if name not in b] for a, b in ((before, now), (now, before)))
    if only or more:
        return f"it trains {_listed(only) or 'none'} that this run does not, this run {_listed(more) or 'none'} besides"
    first = next((pair for pair in zip(before, now, strict=False) if pair[0] != pair[1]), None)
    if first is None:
        return "its optimizer has the same parameters in other groups"
    return f"its optimizer has the same parameters in another order: {first[0]} where this run has {first[1]}"


def _listed(values: list[Any], most: int = 3) -> str:
    shown = ", ".join(map(str, values[:most]))
    return shown if len(values) <= most else f"{shown} and {len(values) - most} more"
