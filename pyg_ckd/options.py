"""How classes remember the options that they were built with: these decide about results and checkpoints."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pyg_ckd.arguments import as_flag, as_integer, as_number, plain_number, shown
from pyg_ckd.errors import InputError
from pyg_ckd.wrappers import unwrap


def record_options(
    cls: type,
    leave_out: Collection[str] = (),
    checked: bool = False,
    refuse: Callable[[Any, Mapping[str, Any]], None] | None = None,
) -> None:
    """Let the constructor of a class keep its plain arguments, defaults included, in the attribute ``options``.

    Args:
        cls: The class; nothing happens if it has no constructor of its own.
        leave_out: Names of arguments that are no options.
        checked: Whether the constructor refuses options that are not of their annotated type, of those that are
            integers, numbers, truth values or texts.
        refuse: Called with the class and the given values by name before these are checked, to refuse them in words of
            its own. (default: :obj:`None`, nothing is)
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
        if checked:
            given = dict(zip(list(signature.parameters)[1:], args, strict=False)) | options
            if refuse is not None:
                refuse(type(self), given)
            _check_types(signature, {name: value for name, value in given.items() if name not in leave_out})
        init(self, *args, **options)
        if type(self).__init__ is recorded:  # Not the constructor of a base class.
            bound = signature.bind(self, *args, **options)
            bound.apply_defaults()
            self.options = {k: v for k, v in list(bound.arguments.items())[1:] if k not in leave_out and is_plain(v)}

    cls.__init__ = recorded  # type: ignore[misc]


def _check_types(signature: inspect.Signature, given: Mapping[str, Any]) -> None:
    """Refuse values that are not of the annotated type; types other than the simplest ones are not looked at.

    Args:
        signature: The signature.
        given: The values by the names of their parameters.

    Raises:
        InputError: If there is one.
    """
    for name, value in given.items():
        parameter = signature.parameters.get(name)
        if parameter is not None and (value is parameter.default or _same(value, parameter.default)):
            continue  # Whatever it is annotated as, such as width: int = None.
        annotation = getattr(parameter, "annotation", "")
        text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
        kinds = {part.strip() for part in text.split("|")}
        if value is None and "None" in kinds:
            continue
        match kinds - {"None"}:
            case names if names == {"int"}:
                as_integer(value, name)
            case names if names and names <= {"int", "float"}:
                as_number(value, name)
            case names if names == {"bool"}:
                as_flag(value, name)
            case names if names == {"str"} and not isinstance(value, str):
                raise InputError(f"{name}: found {shown(value)}, expected a text")


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and is_plain(other) and value == other


def is_plain(value: Any) -> bool:
    """Return whether a value is made of numbers, texts, lists and mappings only."""
    if isinstance(value, Mapping):
        return all(is_plain(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
