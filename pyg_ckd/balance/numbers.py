"""What options that are numbers must be."""

from __future__ import annotations

import torch

from pyg_ckd.errors import InputError


def check_not_negative(name: str, value: float) -> None:
    """Raise an InputError unless ``value`` is a finite number of zero or more."""
    if not (torch.isfinite(torch.tensor(float(value))) and value >= 0):
        raise InputError(f"{name}: found {value}, expected a number of zero or more")


def check_positive(name: str, value: float) -> None:
    """Raise an InputError unless ``value`` is a finite number above zero."""
    if not (torch.isfinite(torch.tensor(float(value))) and value > 0):
        raise InputError(f"{name}: found {value}, expected a positive number")
