"""What options that are numbers must be."""

from __future__ import annotations

import math

from pyg_ckd.arguments import as_number
from pyg_ckd.errors import InputError


def check_not_negative(name: str, value: float) -> None:
    """Raise an InputError unless ``value`` is a finite number of zero or more."""
    if not 0 <= as_number(value, name) < math.inf:
        raise InputError(f"{name}: found {value}, expected a number of zero or more")


def check_positive(name: str, value: float) -> None:
    """Raise an InputError unless ``value`` is a finite number above zero."""
    if not 0 < as_number(value, name) < math.inf:
        raise InputError(f"{name}: found {value}, expected a positive number")


def check_share(name: str, value: float) -> None:
    """Raise an InputError unless ``value`` is a number from 0 to 1."""
    if not 0 <= as_number(value, name) <= 1:
        raise InputError(f"{name}: found {value}, expected a number from 0 to 1")
