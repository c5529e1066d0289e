"""What a pass is recorded for: for export, where it may not look at numbers, and for gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch

F = TypeVar("F", bound=Callable[..., Any])


def exporting() -> bool:
    """Return whether :func:`torch.export.export` is recording a forward pass, also on the way to ONNX.

    What depends on values, such as a check for NaN, has to be left out then; shapes are known as ever.
    """
    found = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # PyTorch 2.6 has only the latter.
    return bool(found())


def as_it_is(function: F) -> F:
    """Let :func:`torch.compile` call a method instead of compiling it; :func:`torch.export.export` records it.

    Args:
        function: A method that does what compilers cannot follow, such as looking for a graph that was made before.
    """

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if torch.compiler.is_compiling() and not exporting():
            return torch.compiler.disable(function)(*args, **options)
        return function(*args, **options)

    return cast(F, call)


class Recording:
    """How gradients are recorded now, for what is computed when somebody reads it, in whichever mode that is."""

    def __init__(self) -> None:
        self._inference, self._grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    @contextmanager
    def again(self) -> Iterator[None]:
        """Record inside as when this was made."""
        with torch.inference_mode(self._inference), torch.set_grad_enabled(self._grad):
            yield
