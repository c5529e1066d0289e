"""What a training is made of that its settings do not say: classes from outside of the package."""

from __future__ import annotations

from typing import Any

from torch import nn

from pyg_ckd.balance.objective import Objective
from pyg_ckd.code import code_of, is_own, is_packages
from pyg_ckd.nn.models.adapter import AdaptedBackbone
from pyg_ckd.training.attributes import attributes_of


def made_of(objective: Objective) -> dict[str, Any]:
    """Return class and widths of a model from outside of the package, and the code of all such classes.

    A checkpoint of others is refused. Models and strategies of the package are told by their names and options, which
    are settings, and nothing is returned for them: their checkpoints stay what they are.

    Args:
        objective: What is trained.
    """
    model = own_module(objective.student)
    found: dict[str, Any] = {}
    if not is_packages(type(model).__module__):
        found["model"] = _path(type(model))
        found["parameters"] = {name: list(value.shape) for name, value in model.named_parameters()}
    codes: dict[str, list[str]] = {}
    for cls in {type(part) for part in objective.modules()}:
        if is_own(cls.__module__) and not is_packages(cls.__module__):
            codes.setdefault(_path(cls), []).append(code_of(cls, package=False))
    if codes:
        found["code"] = {path: " ".join(sorted(own)) for path, own in sorted(codes.items())}
    return {"made_of": found} if found else {}


def own_attributes(objective: Objective) -> dict[str, str]:
    """Return plain options of a model from outside of the package, such as the rate of a dropout, from name to text.

    Args:
        objective: What is trained.
    """
    return {f"model.{name}": text for name, text in attributes_of(own_module(objective.student), whole=False).items()}


def own_module(student: nn.Module) -> nn.Module:
    """Return the module that the user made: the one that was adapted, or the backbone.

    Args:
        student: The backbone.
    """
    return student.module if isinstance(student, AdaptedBackbone) else student


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
