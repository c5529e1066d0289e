"""How classes remember the options that they were built with: these decide about results and checkpoints."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Collection, Mapping
from typing import Any

from pyg_ckd.arguments import plain_number
from pyg_ckd.wrappers import unwrap


def record_options(cls: type, leave_out: Collection[str] = ()) -> None:
    """Let the constructor of a class keep its plain arguments, defaults included, in the attribute ``options``.

    Args:
        cls: The class; nothing happens if it has no constructor of its own.
        leave_out: Names of arguments that are no options.
    """
    init = cls.__dict__.get("__init__")
    if init is None:
        return
    signature = inspect.signature(init)

    @functools.wraps(init)
    def recorded(self: Any, *args: Any, **options: Any) -> None:
        if args:
            args = (unwrap(args[0]), *args[1:])
        options = {name: unwrap(value) if name in leave_out else value for name, value in options.items()}
        args, options = plain_number(args), plain_number(options)  # np.int64(8) is the 8 that a file can hold.
        init(self, *args, **options)
        if type(self).__init__ is recorded:  # Not the constructor of a base class.
            bound = signature.bind(self, *args, **options)
            bound.apply_defaults()
            self.options = {k: v for k, v in list(bound.arguments.items())[1:] if k not in leave_out and is_plain(v)}

    cls.__init__ = recorded  # type: ignore[misc]


def is_plain(value: Any) -> bool:
    """Return whether a value is made of numbers, texts, lists and mappings only."""
    if isinstance(value, Mapping):
        return all(is_plain(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
