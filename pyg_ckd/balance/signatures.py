"""Signatures of methods that the library wraps: those of the methods inside, not of what these wrap themselves."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any


def passes_on(method: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator for a function that calls a method with what it is called with, as :func:`functools.wraps`.

    The function has the signature of the method. Where that is a decorator's, which may give a method inside it more
    arguments, it is the decorator's.

    Args:
        method: The method.
    """

    def named(function: Callable[..., Any]) -> Callable[..., Any]:
        found = functools.wraps(method)(function)
        with suppress(TypeError, ValueError):  # A built-in one has none.
            found.__signature__ = inspect.signature(method, follow_wrapped=False)  # type: ignore[attr-defined]
        return found

    return named
