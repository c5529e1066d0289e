"""Values of options: which types they can have, lists with commas, paths with a tilde, and how messages call them."""

from __future__ import annotations

import builtins
import collections.abc
import inspect
import json
import os
import re
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from pyg_ckd.cli.arguments import Entry
from pyg_ckd.cli.yaml_files import as_flag, parse, parse_mapping
from pyg_ckd.errors import InputError

SIMPLE = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
PLURAL = {bool: "true or false", int: "integers", float: "numbers", str: "names"}
SHORT = {bool: "true|false", int: "INT", float: "NUMBER", str: "TEXT"}
EXAMPLES = {int: "5,10", float: "0.8,0.1,0.1", str: "a,b", bool: "true,false"}
SHOWN = 60
ANYTHING = bool | int | float | str
VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def option_type(hint: Any) -> Any:
    """Return the part of a type that can be written on a command line, :obj:`None` if there is none.

    Sequences become lists, mappings become dicts with names as keys, and paths become texts. What is either a value or
    a sequence of them becomes a list, because one value stands for a list of one.

    Args:
        hint: The type, resolved.
    """
    if hint in SIMPLE or hint is type(None) or get_origin(hint) is Literal:
        return hint
    if inspect.isclass(hint) and issubclass(hint, (os.PathLike, PurePath)):
        return str
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, types.UnionType):
        return _union([option_type(argument) for argument in arguments])
    if not inspect.isclass(origin):
        return None
    if issubclass(origin, os.PathLike):
        return str
    if issubclass(origin, collections.abc.Mapping):
        inner = Any if len(arguments) < 2 or arguments[1] is Any else option_type(arguments[1])
        return None if inner is None else types.GenericAlias(dict, (str, inner))
    if issubclass(origin, (collections.abc.Sequence, collections.abc.Set)) or origin is collections.abc.Iterable:
        inner = option_type(arguments[0]) if arguments else str
        return types.GenericAlias(list, (inner,)) if inner in SIMPLE else None
    return None


def _union(members: list[Any]) -> Any:
    kept = [member for member in members if member is not None]
    lists = [member for member in kept if get_origin(member) is list]
    kept = [member for member in dict.fromkeys(kept) if not any(member in get_args(found) for found in lists)]
    if all(member is type(None) for member in kept):
        return None
    return Union[tuple(kept)]  # noqa: UP007 - The members are known at run time only.


def types_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the type of every argument that a command line can give, by name.

    An annotation may name what is imported for type checkers only; the rest of a union counts then. Without one, the
    type is that of the default, and without a default it is any number, truth value or text.

    Args:
        target: A class or a function.
    """
    function = inspect.unwrap(target.__init__ if inspect.isclass(target) else target)
    names = _Names({**vars(builtins), **function.__globals__})
    hints = typing.get_type_hints(function, localns=names)
    found = {name: option_type(hint) for name, hint in hints.items() if name != "return"}
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in hints:
            anything = parameter.default is parameter.empty and parameter.kind not in VARIABLE
            found[name] = ANYTHING if anything else option_type(type(parameter.default))
    return {name: hint for name, hint in found.items() if hint not in (None, type(None))}


class _Anything(type):
    def __getattr__(cls, name: str) -> Any:
        return cls

    def __getitem__(cls, item: Any) -> Any:
        return cls


class _Unknown(metaclass=_Anything):
    """Stands for a name in an annotation that is imported for type checkers only."""


class _Names(dict[str, Any]):
    def __missing__(self, name: str) -> Any:
        return _Unknown


def is_path(hint: Any) -> bool:
    """Return whether a type is that of a path.

    Args:
        hint: The type, resolved.
    """
    return "PathLike" in str(hint) or "pathlib" in str(hint)


def item_of(hint: Any) -> Any:
    """Return the type of the items of a list, :obj:`None` if a type is no list.

    Args:
        hint: What :func:`option_type` returned.
    """
    for member in members(hint):
        if get_origin(member) is list:
            return get_args(member)[0]
    return None


def takes_mapping(hint: Any) -> bool:
    """Return whether an option can be a mapping.

    Args:
        hint: What :func:`option_type` returned.
    """
    return any(get_origin(member) is dict for member in members(hint))


def members(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself.

    Args:
        hint: What :func:`option_type` returned.
    """
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def words_for(hint: Any) -> str:
    """Return how messages call a type.

    Args:
        hint: What :func:`option_type` returned.
    """
    found = []
    for member in members(hint):
        if get_origin(member) is list:
            item = get_args(member)[0]
            found.append(f"{PLURAL[item]} with commas between them, such as {EXAMPLES[item]}")
        elif get_origin(member) is dict:
            found.append("a mapping, such as '{name: value}'")
        elif get_origin(member) is Literal:
            found.append("one of " + ", ".join(map(str, get_args(member))))
        else:
            found.append("null" if member is type(None) else SIMPLE[member])
    return " or ".join(found)


def short(hint: Any) -> str:
    """Return how a usage line calls a type.

    Args:
        hint: What :func:`option_type` returned.
    """
    found = []
    for member in members(hint):
        if get_origin(member) is list:
            found.append(f"{SHORT[get_args(member)[0]]},...")
        elif get_origin(member) is dict:
            found.append("MAPPING")
        elif get_origin(member) is Literal:
            found.append("|".join(map(str, get_args(member))))
        elif member is not type(None):
            found.append(SHORT[member])
    return "|".join(found)


def shown(value: Any) -> str:
    """Return a value as messages show it.

    Args:
        value: Words of the command line, or a value from a file.
    """
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        value = " ".join(value)
    text = "nothing" if value is None or value == "" else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def single(entry: Entry, hint: Any) -> Any:
    """Return the value of an option that is no list: one word of the command line, or a value of a file.

    Args:
        entry: The option.
        hint: Its type.

    Raises:
        InputError: If there is none, or more than one.
    """
    if not entry.typed:
        return entry.value
    if not entry.value:
        raise InputError(f"{entry.label}: found no value, expected {words_for(hint)}")
    if len(entry.value) > 1:
        raise InputError(f"{entry.label}: found {len(entry.value)} values ({shown(entry.value)}), expected one")
    return entry.value[0]


def as_list(entry: Entry, hint: Any, many: bool = False, blank: bool = False) -> list[Any] | None:
    """Return the items of a list: ``5``, ``5,10`` and ``[5, 10]`` alike.

    Args:
        entry: The option.
        hint: Its type.
        many: Whether several words of the command line are several items.
        blank: Whether an empty text is an empty list.

    Raises:
        InputError: If it is something else.
    """
    item, value, optional = item_of(hint), entry.value, type(None) in members(hint)
    bad = InputError(f"{entry.label}: found {shown(value)}, expected {words_for(hint)}")
    if entry.typed:
        if not value or (len(value) > 1 and not many):
            raise bad
        if len(value) > 1:
            return [_item(word, item, bad) for word in value]
        value = value[0]
    if blank and value == "":
        return []
    if optional and (value is None or (entry.typed and value == "null")):
        return None
    if isinstance(value, str):
        value = _items(value, item, bad)
    elif not isinstance(value, list):
        value = [value]
    return [_item(part, item, bad) for part in value]


def _items(text: str, kind: Any, bad: InputError) -> list[Any]:
    text = text.strip()
    if not text.startswith("["):
        parts = [part.strip() for part in text.split(",")]
        if not all(parts):
            raise bad
    else:
        try:
            parts = yaml.load(text, yaml.BaseLoader) if kind is str else parse(text)
        except yaml.YAMLError:
            raise bad from None
        if not isinstance(parts, list):
            raise bad
    if not re.search(r"[\"']", text) and any(isinstance(part, str) and re.search(r"\s", part) for part in parts):
        raise bad  # Blanks between the items.
    return parts


def _item(value: Any, kind: Any, bad: InputError) -> Any:
    if kind is str:
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, bool):
            raise InputError(f'{bad}; write a text that looks like a truth value in quotes, such as "no"')
        raise bad
    if isinstance(value, str):
        try:
            value = parse(value)
        except yaml.YAMLError:
            raise bad from None
    value = as_flag(value) if kind is bool else value
    allowed: Any = {int: int, float: (int, float), bool: bool}[kind]
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise bad
    return kind(value)


def as_mapping(entry: Entry, value: Any) -> Any:
    """Return the mapping that a text holds, or the value itself.

    Args:
        entry: The option.
        value: Its value.
    """
    if entry.typed and isinstance(value, str) and value.lstrip().startswith("{"):
        return parse_mapping(value, entry.label)
    return value


def without_tilde(value: Any) -> Any:
    """Return a path, or a mapping or list of paths, with the user's home in the place of a leading tilde.

    Args:
        value: The path or paths.
    """
    if isinstance(value, str):
        return os.path.expanduser(value)  # noqa: PTH111 - Leaves the home of an unknown user as it is.
    if isinstance(value, Mapping):
        return {key: without_tilde(path) for key, path in value.items()}
    if isinstance(value, list):
        return list(map(without_tilde, value))
    return value


def as_word(value: Any) -> str:
    """Return a value as it would stand on a command line.

    Args:
        value: A value of a file, or a word.
    """
    return value if isinstance(value, str) else json.dumps(value, default=str)
