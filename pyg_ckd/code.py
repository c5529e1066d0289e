"""What code does, as a hash that changes with it: a result that is kept on disk is that of the code as it is now."""

from __future__ import annotations

import argparse
import dataclasses
import dis
import functools
import hashlib
import inspect
import sys
from collections import deque
from collections.abc import Mapping
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["code_of"]

_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.generic)
_LIBRARIES = ("site-packages", "dist-packages")
_WRITERS = ("add", "append", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "setdefault", "update")
_READERS = ("get", "items", "keys", "values")
_TAKES = ("CALL_FUNCTION_EX", "CONTAINS_OP", "DICT_MERGE", "DICT_UPDATE", "GET_ITER", "LIST_EXTEND")
_IDLE = ("CACHE", "EXTENDED_ARG", "NOP", "PRECALL", "PUSH_NULL", "RESUME")
_MOST = 20_000  # Functions, classes and objects that are looked at.


def code_of(*parts: Any, package: bool = True) -> str:
    """Return a hash of the code of functions, classes and objects, and of all that they use.

    Followed are what functions refer to (other functions, classes, constants, defaults, what closures hold), base
    classes, the attributes of objects, numbers in arrays, weights and hooks of modules among them, and plain values in
    namespaces, dataclasses and containers in capital letters, such as ``OPTIONS = {"dropout": 0.1}``, that functions
    and classes of the user only read. So do containers outside of functions under other names, such as ``config``, if
    all functions of the module only look values up in them or go through them. Other lists and dicts, and those in
    closures, are left out: a cache is no setting. Code of libraries counts by its name alone. Addresses, names of files
    and line numbers do not enter, so that it is the same in every process.

    Args:
        *parts: Functions, classes, objects or plain values.
        package: Whether the code of this package counts as the user's does, and not by its name alone.
    """
    walk, digest = _Walk(package), hashlib.sha256()
    for part in parts:
        digest.update(walk.mention(part).encode())
    for text in walk:
        digest.update(text.encode())
    return digest.hexdigest()[:16]


def modules_of(*parts: Any) -> list[str]:
    """Return the modules of the user and of this package that hold classes and functions, and what these use.

    Args:
        *parts: Classes, functions or objects; what is built on them and what the user's code refers to is followed.
    """
    walk = _Walk(package=False)
    for part in parts:
        walk.mention(part)
        for base in inspect.getmro(part) if inspect.isclass(part) else ():
            walk.mention(base)
    deque(walk, maxlen=0)
    found = {_module_of(inspect.unwrap(value)) for value in walk.seen.values() if callable(value)}
    return sorted(module for module in found if module is not None and is_own(module))


class _Walk:
    """Texts of everything that is reachable, each once, in an order that only the code decides."""

    def __init__(self, package: bool = True) -> None:
        self.package = package
        self.left: deque[Any] = deque()
        self.seen: dict[int, Any] = {}  # Holds what it has seen, so that no number is used again.

    def __iter__(self) -> _Walk:
        return self

    def __next__(self) -> str:
        if not self.left or len(self.seen) > _MOST:
            raise StopIteration
        return self.expand(self.left.popleft())

    def mention(self, value: Any) -> str:
        """Return a plain value as text, and of anything else its name; it is expanded later."""
        if isinstance(value, _PLAIN):
            return repr(value)
        if isinstance(value, (tuple, list)):
            return f"[{','.join(map(self.mention, value))}]"
        if isinstance(value, (set, frozenset)):
            return f"{{{','.join(sorted(map(self.mention, value)))}}}"
        if isinstance(value, Mapping):
            return f"{{{','.join(f'{self.mention(k)}:{self.mention(v)}' for k, v in value.items())}}}"
        if id(value) not in self.seen:
            self.seen[id(value)] = value
            self.left.append(value)
        return name_of(value)

    def expand(self, value: Any) -> str:
        """Return what is to say about something that was mentioned."""
        if isinstance(value, (Tensor, np.ndarray)):
            return digest_of(value)
        if isinstance(value, functools.partial):
            return self.mention([value.func, value.args, value.keywords])
        if isinstance(value, MethodType):
            return self.mention([value.__func__, value.__self__])
        if isinstance(value, (staticmethod, classmethod)):
            return self.mention(value.__func__)
        if isinstance(value, property):
            return self.mention([value.fget, value.fset])
        if isinstance(value, type):
            return self.of_class(value) if self.counts(value.__module__) else ""
        if callable(value) and not isinstance(value, FunctionType) and hasattr(value, "__wrapped__"):
            return self.mention(inspect.unwrap(value))
        if isinstance(value, FunctionType):
            return self.of_function(value) if self.counts(value.__module__) else ""
        if isinstance(value, nn.Module):
            own = [(type(part), {k: v for k, v in vars(part).items() if _is_fixed(v)}) for part in value.modules()]
            hooks = hooks_of(value)
            return self.mention([*own, *([hooks] if hooks else []), value.state_dict()])
        if isinstance(value, ModuleType) or not hasattr(value, "__dict__"):
            return ""
        return self.mention([type(value), dict(sorted(vars(value).items()))])

    def counts(self, module: str | None) -> bool:
        """Return whether code of a module is followed, and not only named."""
        return is_own(module) and (self.package or not is_packages(module))

    def of_class(self, cls: type) -> str:
        """Return what a class defines itself, and mention its bases."""
        own = {
            name: value
            for name, value in sorted(vars(cls).items())
            if isinstance(value, (FunctionType, staticmethod, classmethod, property)) or not name.startswith("__")
        }
        kept = {name: v for name, v in own.items() if _is_code(v) or _is_fixed(v)}
        if not is_packages(cls.__module__):
            methods = list(own.values())
            kept |= {n: v for n, v in own.items() if n.isupper() and _is_constant(v) and not _is_written(n, methods)}
        return self.mention([list(cls.__bases__), kept])

    def of_function(self, function: FunctionType) -> str:
        """Return what a function does, with its defaults and what its closure holds, and mention what it refers to."""
        function = inspect.unwrap(function)
        cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
        cells = [value for value in cells if not isinstance(value, (list, dict, set))]
        names = _names(function.__code__)
        used: dict[str, Any] = {}
        for name in names:
            value = function.__globals__.get(name)
            if isinstance(value, ModuleType) and self.counts(value.__name__):
                used |= {f"{name}.{inner}": vars(value)[inner] for inner in names if inner in vars(value)}
            elif _is_code(value) or _is_fixed(value) or isinstance(value, (nn.Module, Tensor, np.ndarray)):
                used[name] = value
            elif not is_packages(function.__module__):
                used[name] = settings_in(value)
                if _is_constant(value):
                    around = [v for v in function.__globals__.values() if _module_of(v) == function.__module__]
                    used[name] = None if _is_written(name, [function, *around], not name.isupper()) else value
        return instructions(function.__code__) + self.mention(
            [function.__defaults__, function.__kwdefaults__, cells, {k: v for k, v in used.items() if v is not None}]
        )


def instructions(code: CodeType) -> str:
    """Return what a function does as text, without addresses, file names and line numbers."""
    constants = [
        instructions(c) if isinstance(c, CodeType) else repr(sorted(map(repr, c)) if isinstance(c, frozenset) else c)
        for c in code.co_consts
    ]
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def is_own(module: str | None) -> bool:
    """Return whether a module is code of the user or of this package, and none of another library."""
    if is_packages(module):
        return True
    top = (module or "").partition(".")[0]
    file = getattr(sys.modules.get(top), "__file__", None) or ""
    return top not in sys.stdlib_module_names - {"__main__"} and not any(folder in file for folder in _LIBRARIES)


def is_packages(module: str | None) -> bool:
    """Return whether a module is one of this package."""
    return (module or "").partition(".")[0] == "pyg_ckd"


def settings_in(value: Any) -> dict[str, Any] | None:
    """Return what a namespace or an object of a dataclass holds if all of it is plain, else :obj:`None`."""
    if isinstance(value, type):
        return None
    if dataclasses.is_dataclass(value):
        found = {part.name: getattr(value, part.name, None) for part in dataclasses.fields(value)}
    elif isinstance(value, (argparse.Namespace, SimpleNamespace)):
        found = dict(sorted(vars(value).items()))
    else:
        return None
    return found if _is_plain(found) else None


def hooks_of(module: nn.Module) -> list[Any]:
    """Return what is called before and after the ``forward`` of a module and its parts; of objects, their classes."""
    return [
        getattr(hook, "__func__", hook if isinstance(hook, (FunctionType, functools.partial)) else type(hook))
        for part in module.modules()
        for hooks in (part._forward_pre_hooks, part._forward_hooks)
        for hook in hooks.values()
    ]


def name_of(value: Any) -> str:
    """Return the name of a function, a class or the class of an object, with that of its module."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"<{getattr(named, '__module__', '')}.{named.__qualname__}>"


def digest_of(values: Tensor | np.ndarray) -> str:
    """Return a hash of type, shape and content of a tensor or an array."""
    if isinstance(values, Tensor):
        head, raw = f"{values.dtype}{tuple(values.shape)}", bytes_of(values)
    else:
        head = f"{values.dtype}{values.shape}"
        raw = np.array(repr(values.tolist())) if values.dtype.hasobject else np.ascontiguousarray(values)
    return hashlib.sha256(head.encode() + raw.tobytes()).hexdigest()


def bytes_of(values: Tensor) -> np.ndarray:
    """Return the bytes of a tensor of any type, also of one that NumPy lacks such as bfloat16, uint8 ``[N]``."""
    content = values.detach().cpu().contiguous().reshape(-1)
    return content.view(torch.uint8).numpy() if content.numel() else np.empty(0, np.uint8)


def _names(code: CodeType) -> list[str]:
    """Return the names that a function and those inside of it refer to."""
    inner = [name for constant in code.co_consts if isinstance(constant, CodeType) for name in _names(constant)]
    return list(dict.fromkeys([*code.co_names, *inner]))


def _is_written(name: str, parts: list[Any], strictly: bool = False) -> bool:
    """Return whether functions, or methods of classes, write into a container of this name.

    Args:
        name: The name.
        parts: The functions and classes.
        strictly: Whether handing it on counts as well, such as to a function that may write into it.
    """
    left, seen = list(parts), set[int]()
    while left:
        part = left.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, FunctionType):
            code = inspect.unwrap(part).__code__
            if name in _written(code) or (strictly and name in _handed_on(code)):
                return True
        elif isinstance(part, (staticmethod, classmethod)):
            left.append(part.__func__)
        elif isinstance(part, property):
            left += [part.fget, part.fset]
        elif isinstance(part, type):
            left += [v for v in vars(part).values() if not isinstance(v, type)]
    return False


def _module_of(value: Any) -> str | None:
    return value.__module__ if isinstance(value, (type, FunctionType)) else None


def _written(code: CodeType) -> set[str]:
    """Return the names in those lines of a function that write into a container, and of functions inside of it."""
    found: set[str] = set()
    lines: dict[int, set[str]] = {}
    writes, line = set(), 0
    for step in dis.get_instructions(code):
        number = getattr(step, "line_number", step.starts_line)
        line = line if number is None else number
        if isinstance(step.argval, CodeType):
            found |= _written(step.argval)
        elif step.opname in ("STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE") or step.argval in _WRITERS:
            writes.add(line)
        elif isinstance(step.argval, str):
            lines.setdefault(line, set()).add(step.argval)
    return found.union(*(lines.get(line, ()) for line in writes))


def _handed_on(code: CodeType) -> set[str]:
    """Return the names outside of a function that it does more with than look values up, go through or unpack them."""
    steps = [step for step in dis.get_instructions(code) if step.opname not in _IDLE]
    found: set[str] = set()
    for place, step in enumerate(steps):
        if isinstance(step.argval, CodeType):
            found |= _handed_on(step.argval)
        elif step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            first, second = (*steps[place + 1 : place + 3], step, step)[:2]
            looked_up = first.opname.startswith("LOAD_") and (
                second.opname == "BINARY_SUBSCR" or (second.opname == "BINARY_OP" and second.argrepr == "[]")
            )
            read = first.opname in ("LOAD_ATTR", "LOAD_METHOD") and first.argval in _READERS
            if not (looked_up or read or first.opname in _TAKES):
                found.add(step.argval)
    return found


def _is_code(value: Any) -> bool:
    return isinstance(value, (type, FunctionType, MethodType, staticmethod, classmethod, property, functools.partial))


def _is_fixed(value: Any) -> bool:
    """Return whether a value is plain and cannot be changed in its place, as a cache would be."""
    return all(map(_is_fixed, value)) if isinstance(value, (tuple, frozenset)) else isinstance(value, _PLAIN)


def _is_constant(value: Any) -> bool:
    """Return whether a container holds plain values alone."""
    return isinstance(value, (list, dict, set)) and len(value) > 0 and _is_plain(value)


def _is_plain(value: Any) -> bool:
    """Return whether a value and all that it holds is plain, and not too much of it."""
    left, seen = [value], 0
    while left:
        one, seen = left.pop(), seen + 1
        if isinstance(one, Mapping):
            left += [*one.keys(), *one.values()]
        elif isinstance(one, (tuple, list, set, frozenset)):
            left += one
        elif not isinstance(one, _PLAIN):
            return False
        if seen > _MOST:
            return False
    return True


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
