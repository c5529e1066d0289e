"""Which parts of a model are in training mode while it is trained."""

from __future__ import annotations

from torch import nn

from pyg_ckd.balance.objective import Objective
from pyg_ckd.nn.models.adapter import AdaptedBackbone
from pyg_ckd.nn.models.base import Backbone


def into_training(objective: Objective) -> None:
    """Put an objective into training mode, but for what was put into evaluation mode inside a model in training mode.

    So a frozen encoder keeps its running statistics, whereas a model that was evaluated as a whole trains as a whole.

    Args:
        objective: The objective.
    """
    frozen: list[nn.Module] = []
    stack: list[tuple[nn.Module, bool]] = [(objective, objective.training)]
    while stack:
        part, training = stack.pop()
        for child in part.children():
            # A model of its own, whose mode says what those inside it mean.
            whole = isinstance(part, AdaptedBackbone)
            whole |= isinstance(part, Objective) and isinstance(child, (Objective, Backbone))
            if not whole and training and not child.training:
                frozen.append(child)
            stack.append((child, child.training if whole else training))
    objective.train()
    for part in frozen:
        part.training = False
