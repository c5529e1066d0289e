"""Which parameters a run trains, in the order in which its checkpoint holds what the optimizer knows of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pyg_ckd.errors import InputError
from pyg_ckd.training.layouts.elementwise import ELEMENTWISE
from pyg_ckd.training.optimizer import LAST

if TYPE_CHECKING:
    from pyg_ckd.training.run import Run

TRAINED = "trained"
"""Key of the names in the state of a run."""


def trained_names(run: Run) -> dict[str, list[list[str]]]:
    """Return the names of the parameters in every group of the optimizer, and of those that are averaged.

    Args:
        run: A run that takes steps.
    """
    assert run.steps is not None
    names = {id(p): name for name, p in run.objective.named_parameters()}
    groups = [group["params"] for group in run.steps.optimizer.param_groups]
    average = [] if run.steps.average is None else [run.steps.average.parameters]
    found = {"optimizer": groups, "average": average}
    return {part: [[names.get(id(p), "") for p in group] for group in given] for part, given in found.items()}


def check_trained(path: Path, state: Mapping[str, Any], run: Run) -> None:
    """Refuse a stored run that trains other parameters, or the same in another order: PyTorch goes by their positions.

    Args:
        path: The checkpoint, for the message.
        state: What it holds of the run; tables may have the rows of all users.
        run: The present run.

    Raises:
        InputError: If the parameters differ; in a run of before, which has no names, if their numbers do.
    """
    if run.steps is None:
        return
    expected = trained_names(run)
    found = state.get(TRAINED)
    if found is None:  # In a run of before.
        stored = [len(group["params"]) for group in state["optimizer"]["param_groups"]]
        sizes = [len(group) for group in expected["optimizer"]]
        if stored != sizes:
            raise misfit(path, f"found groups of {_listed(stored)} parameters, trained are {_listed(sizes)}")
    elif found != expected:
        raise misfit(path, _difference(found, expected))


def check_shapes(path: Path, state: Mapping[str, Any], run: Run) -> None:
    """Refuse moments and averages of a run without names whose shapes are not those of the parameters.

    Fused kernels would write past their end. Optimizers that do not treat every number by itself may keep other shapes.

    Args:
        path: The checkpoint, for the message.
        state: The state of the run that this process goes on from.
        run: The present run.

    Raises:
        InputError: If a shape differs.
    """
    if run.steps is None or TRAINED in state:
        return
    names = {id(p): name for name, p in run.objective.named_parameters()}
    optimizer = run.steps.optimizer
    order = [p for group in optimizer.param_groups for p in group["params"]]
    known = state["optimizer"]["state"] if isinstance(optimizer, ELEMENTWISE) else {}
    pairs = [(order[n], key, x) for n, values in known.items() for key, x in values.items()]
    if run.steps.average is not None:
        pairs += [
            (p, "average", x) for p, x in zip(run.steps.average.parameters, state["average"]["average"], strict=True)
        ]
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
