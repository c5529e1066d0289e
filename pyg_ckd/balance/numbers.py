"""What options that are numbers must be, and what is no number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

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


class SingleModality(InputError):
    """The error where there is nothing to balance, because there are fewer than two modalities."""


def check_several(modalities: Sequence[str], what: str = "balancing") -> None:
    """Refuse fewer than two modalities.

    Args:
        modalities: Their names.
        what: What begins the message.

    Raises:
        SingleModality: If there is nothing to balance.
    """
    if len(modalities) < 2:
        raise SingleModality(
            f"{what}: found {len(modalities)} modality ({', '.join(modalities) or 'none'}), expected at least two "
            "to balance; train a single one plainly, on the command line with --objective plain or --contenders plain"
        )


def teachers_as_l2(name: str) -> InputError:
    """Return the error for a strategy whose base class gets teachers in the place of the weight of the penalty.

    Args:
        name: Name of the class.
    """
    return InputError(
        f"{name}: found teachers as l2, expected a number; teachers belong to store_teachers(teachers): write "
        "def __init__(self, student, teachers, l2=0.01) with super().__init__(student, l2) and "
        "self.store_teachers(teachers), in a class derived from pyg_ckd.balance.TaughtObjective"
    )


def refuse_teachers(cls: type, given: Mapping[str, Any]) -> None:
    """Refuse teachers as the weight of the penalty.

    Args:
        cls: The strategy.
        given: What its constructor is given, by the names of the arguments.

    Raises:
        InputError: If they are.
    """
    if isinstance(given.get("l2"), Mapping):
        raise teachers_as_l2(cls.__name__)
