"""What is looked at before a training: the model, the graph, gradients, and which parts are in training mode."""

from __future__ import annotations

import inspect
import warnings

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch_geometric.data import HeteroData

from pyg_ckd.balance.objective import Objective, as_objective
from pyg_ckd.data.inputs import check_graph
from pyg_ckd.data.modules import dtype_of
from pyg_ckd.errors import InputError
from pyg_ckd.nn.models.adapter import AdaptedBackbone
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.training.made_of import own_module

HOOKS = (
    *("balance", "triple_weights", "backward", "step_sizes", "begin_epoch", "before_training", "before_validation"),
    *("begin_fit", "end_fit", "begin_from", "epoch_sums", "epoch_statistics"),
)
"""Methods of a strategy that are called with what its base class names, by position."""


def trainable(model: nn.Module, data: HeteroData) -> Objective:
    """Return what is trained, an objective, if it can be trained on a graph.

    Args:
        model: As :func:`~pyg_ckd.balance.objective.as_objective` takes it.
        data: The graph.

    Raises:
        InputError: If the model was built for other numbers of users or items, the graph lacks a modality of the model
            or has one of other width, gradients are switched off, or tensors cannot be trained.

    Warns:
        UserWarning: If weights are in float16.
    """
    check_graph(data)
    if not torch.is_inference_mode_enabled():  # Which is refused below.
        _check_weights(model)
    objective = as_objective(model, data)
    if objective.trains and (torch.is_inference_mode_enabled() or not torch.is_grad_enabled()):
        mode = "torch.inference_mode" if torch.is_inference_mode_enabled() else "torch.no_grad"
        raise InputError(f"fit: found a block of {mode}, which computes no gradients; call fit outside of it")
    _check_hooks(objective)
    student = objective.student
    _check_sizes(student, data)
    for m, width in student.feature_dims.items() if student.uses_features else ():
        if m not in data.modalities:
            raise InputError(f"features: found none of modality {m!r}, only of {', '.join(data.modalities)}")
        if data["item"][m].size(1) != width:
            raise InputError(f"features of {m!r}: found width {data['item'][m].size(1)}, expected {width}")
        if data["item"][m].is_inference() and data["item"][m].dtype == dtype_of(
            student
        ):  # Not cast, so saved as it is.
            raise InputError(
                f"features of {m!r}: found a tensor made in a block of torch.inference_mode, which cannot be trained "
                "with; build the graph outside of the block, or give data.clone()"
            )
    return objective


def _check_weights(model: nn.Module) -> None:
    """Refuse weights without memory behind them or without the versions that gradients need, and warn of float16."""
    half = ""
    if not isinstance(model, nn.Module):
        return
    for name, x in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(x):  # It has no numbers before the first pass.
            continue
        if x.is_meta:
            raise InputError(
                f"model: found {name} on the meta device, which has no memory behind it, expected numbers; build the "
                "model on another device"
            )
        if x.is_inference():
            raise InputError(
                f"model: found {name} made in a block of torch.inference_mode, which cannot be trained; build the "
                "model outside of the block"
            )
        half = half or (name if x.requires_grad and x.dtype == torch.float16 else "")
    if half:
        warnings.warn(
            f"model: found {half} in float16, in which small steps of training are lost; train model.float(), with "
            "precision='bf16-mixed' or '16-mixed' to save memory",
            stacklevel=4,
        )


def _check_hooks(objective: Objective) -> None:
    """Refuse methods of a strategy, and of those inside it, that cannot be called as the trainer calls them."""
    while True:
        for name in HOOKS:
            expected = [*inspect.signature(getattr(Objective, name)).parameters][1:]
            try:  # What a decorator calls is its own affair.
                signature = inspect.signature(getattr(objective, name), follow_wrapped=False)
            except ValueError:  # A built-in one has none.
                continue
            try:
                signature.bind(*expected)
            except TypeError:
                wanted = ", ".join(["self", *expected])
                raise InputError(
                    f"{type(objective).__name__}.{name}: found {name}{signature}, expected "
                    f"{name}({', '.join(expected)}); write def {name}({wanted})"
                ) from None
        if not objective.wraps:
            return
        objective = getattr(objective, "inner")  # noqa: B009  An attribute of wrappers alone.


def _check_sizes(student: Backbone, data: HeteroData) -> None:
    found, expected = (student.num_users, student.num_items), (data["user"].num_nodes, data["item"].num_nodes)
    if found != expected:
        name = type(own_module(student)).__name__
        adapted = isinstance(student, AdaptedBackbone)
        mend = f"as_backbone({name}(...), data)" if adapted else f"{name}.from_data(data, ...)"
        raise InputError(
            f"model: found {name} built for {found[0]} users and {found[1]} items, expected {expected[0]} and "
            f"{expected[1]} as in the graph; build another one with {mend}, which can begin with the weights of this "
            "one: fit(..., start_from=this)"
        )


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
