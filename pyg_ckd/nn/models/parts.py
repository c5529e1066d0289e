"""Small things that many backbones do."""

from __future__ import annotations

from torch import nn

from pyg_ckd.arguments import as_integer
from pyg_ckd.errors import InputError


def reset_linear_layers(module: nn.Module) -> None:
    """Draw the parameters of all linear layers in a module anew."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()


def check_size(name: str, size: int, least: int = 1) -> None:
    """Raise an InputError unless ``size`` is at least ``least``."""
    if as_integer(size, name) < least:
        raise InputError(f"{name}: found {size}, expected at least {least}")
