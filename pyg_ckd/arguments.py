"""Numbers and names as callers give them, of whatever library, as plain Python values, or refused in one line."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor, nn

from pyg_ckd.errors import InputError

_LARGEST = 2**63 - 1  # What int64 holds.
_LARGEST_SEED = 2**64 - 1  # Of PyTorch's generators.
_LONGEST = 120  # Characters of a value in a message.


def shown(value: Any) -> str:
    """Return a value as messages show it: as Python writes it, or its type and size if that is long.

    Args:
        value: Anything.
    """
    kind = type(value).__name__
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim:
        return f"{kind} of shape {list(value.shape)}"
    text = repr(value)
    if len(text) <= _LONGEST and text.isprintable():
        return text
    if isinstance(value, str):
        return f"{text[:_LONGEST]}... ({len(value)} characters)"
    if isinstance(value, Collection):
        unit = "key" if isinstance(value, Mapping) else "value"
        return f"{kind} with {len(value)} {unit}{'s' * (len(value) != 1)}"
    return kind


def as_integer(
    value: Any, name: str, least: int | None = None, expected: str = "an integer", most: int | None = _LARGEST
) -> int:
    """Return an integer of Python, NumPy or PyTorch as :obj:`int`.

    Args:
        value: The integer.
        name: What it is, for the message.
        least: The smallest value that is taken. (default: :obj:`None`, any)
        expected: What it should be, for the message.
        most: The largest value, and with a minus the smallest value, that is taken; :obj:`None` for any. (default: what
            int64 holds)

    Raises:
        InputError: If it is anything else, whole floating-point numbers, text and truth values included, too small or
            too large.
    """
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except (TypeError, RuntimeError):
        whole = isinstance(value, Real) and math.isfinite(value) and float(value).is_integer()
        hint = f" such as {int(value)}" if whole and not isinstance(value, (bool, np.bool_)) else ""
        raise InputError(f"{name}: found {shown(value)}, expected {expected}{hint}") from None
    if least is not None and number < least:
        raise InputError(f"{name}: found {number}, expected at least {least}")
    if most is not None and abs(number) > most:
        digits = str(number) if number.bit_length() < 256 else "a number of more than 75 digits"
        raise InputError(f"{name}: found {digits}, expected an integer of 64 bits")
    return number


def as_integers(value: Any, name: str) -> list[int]:
    """Return one integer or several as a list.

    Args:
        value: An integer, or a sequence, range, array or tensor of integers.
        name: What they are, for the message.

    Raises:
        InputError: If one of them is no integer.
    """
    if isinstance(value, (np.ndarray, Tensor)):
        value = value.tolist()
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return [as_integer(one, name) for one in value]
    return [as_integer(value, name)]


def as_seed(value: Any, name: str = "seed") -> int:
    """Return a seed as :obj:`int`.

    Args:
        value: An integer from 0 to 2^64 - 1.
        name: What it is, for the message.

    Raises:
        InputError: If it is anything else.
    """
    seed = as_integer(value, name, most=None)
    if not 0 <= seed <= _LARGEST_SEED:
        raise InputError(f"{name}: found {seed}, expected an integer from 0 to 2^64 - 1")
    return seed


def as_seeds(value: Any, name: str = "seeds") -> list[int]:
    """Return several seeds as a list, each once.

    Args:
        value: A sequence, range, array or tensor of integers from 0 to 2^64 - 1.
        name: What they are, for the message.

    Raises:
        InputError: If it is anything else, a single number included, which could be a seed or how many there shall be.
    """
    if isinstance(value, (np.ndarray, Tensor)):
        value = value.tolist()
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        count = value if isinstance(value, int) and not isinstance(value, bool) and value > 1 else 3
        raise InputError(
            f"{name}: found {shown(value)}, expected several seeds such as range({count}), or one as in [0]"
        )
    seeds = list(dict.fromkeys(as_seed(seed, name) for seed in value))
    if not seeds:
        raise InputError(f"{name}: found none, expected at least one")
    return seeds


def as_number(value: Any, name: str) -> float:
    """Return a real number of Python, NumPy or PyTorch as :obj:`float`; it may be infinite or NaN.

    Args:
        value: The number.
        name: What it is, for the message.

    Raises:
        InputError: If it is anything else, text and truth values included.
    """
    number = plain_number(value)
    if not isinstance(number, Real) or isinstance(number, bool):
        raise InputError(f"{name}: found {shown(value)}, expected a number")
    return float(number)


def as_flag(value: Any, name: str) -> bool:
    """Return a truth value of Python, NumPy or PyTorch as :obj:`bool`; 0 and 1 are truth values as well.

    Args:
        value: The truth value.
        name: What it is, for the message.

    Raises:
        InputError: If it is anything else, texts such as ``"false"`` included.
    """
    flag = plain_number(value)
    if not isinstance(flag, int) or flag not in (0, 1):
        raise InputError(f"{name}: found {shown(value)}, expected true or false")
    return bool(flag)


def as_names(value: Any, name: str) -> tuple[str, ...]:
    """Return one name or several as a tuple; a text by itself is one name.

    Args:
        value: A name, or a sequence of names.
        name: What they name, for the message.

    Raises:
        InputError: If one of them is no text.
    """
    if isinstance(value, str):
        return (str(value),)
    try:
        names = tuple(value)
    except TypeError:  # Of no collection, and of an array without dimensions.
        raise InputError(f"{name}: found {shown(value)}, expected a name or a list of names") from None
    for one in names:
        if not isinstance(one, str):
            raise InputError(f"{name}: found {shown(one)}, expected names only")
    return tuple(map(str, names))


def plain_number(value: Any) -> Any:
    """Return a number or text of NumPy or PyTorch as Python's own, also within lists, tuples and dicts.

    Args:
        value: Anything; what is no such number comes back as it is.
    """
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    if isinstance(value, Tensor) and value.dim() == 0 and not isinstance(value, nn.Parameter):
        return value if value.requires_grad else value.item()
    if type(value) in (list, tuple):
        return type(value)(plain_number(one) for one in value)
    if type(value) is dict:
        return {key: plain_number(one) for key, one in value.items()}
    return value
