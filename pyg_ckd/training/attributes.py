"""What modules from outside of the package hold beside parameters and buffers, as texts that can be compared."""

from __future__ import annotations

import functools
import hashlib
import re
from argparse import Namespace
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyg_ckd.code import code_of, digest_of, instructions, is_own, is_packages, name_of

SHORT = 80
"""Letters of a text that is kept as it is; of a longer one there is a hash."""
_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.generic)
_SHOWN = (torch.dtype, torch.device, torch.Size, PurePath, Enum, range, slice)
_CODE = (FunctionType, MethodType, BuiltinFunctionType, functools.partial, type)
_TORCHS = frozenset({*vars(nn.Module()), "_compiled_call_impl"})


def attributes_of(module: nn.Module, whole: bool) -> dict[str, str]:
    """Return what tells a module from others of its class and code: options of its parts, from name to text.

    Parts of the package are left out, and those of libraries inside of one of the package: options say what they are.
    Addresses do not enter, so that the texts are the same in every process.

    Args:
        module: The module.
        whole: Whether tensors, objects of the user's classes and all that functions use count as well. Without them,
            it is the same for a module that was built again, with other initial weights, or that keeps results.
    """
    found: dict[str, str] = {}
    inside = is_packages(type(module).__module__)
    for path, part in module.named_modules():
        home = type(part).__module__
        own = is_own(home) and not is_packages(home)
        if is_packages(home) or (inside and not own):
            continue
        found[path or type(part).__name__] = _short(_shown(part))
        for name, value in sorted(vars(part).items()):
            if name in _TORCHS or not (own or _is_option(name, value)):
                continue
            text = _Texts(whole)(value)
            if text is not None:
                found[f"{path}.{name}" if path else name] = _short(text)
    return found


class _Texts:
    """Makes texts of values; :obj:`None` is one that does not count."""

    def __init__(self, whole: bool) -> None:
        self.whole = whole
        self.seen: dict[int, Any] = {}  # Holds what it has seen, so that no number is used again.

    def __call__(self, value: Any) -> str | None:
        if isinstance(value, _PLAIN):
            return repr(value) if value is not None or self.whole or self.seen else None  # A result that is not there.
        if isinstance(value, _SHOWN):
            return str(value)
        if isinstance(value, BuiltinFunctionType):
            return name_of(value)
        if id(value) in self.seen:
            return "..."
        self.seen[id(value)] = value
        if isinstance(value, (Tensor, np.ndarray)):
            return _content(value) if self.whole else None
        if isinstance(value, Mapping):
            return self.of_many([part for pair in value.items() for part in pair], "{}")
        if isinstance(value, (tuple, list)):
            return self.of_many(list(value), "[]")
        if isinstance(value, (set, frozenset)):
            texts = [self(part) for part in value]
            return None if None in texts else str(sorted(map(str, texts)))
        if isinstance(value, _CODE):
            return self.of_code(value)
        return self.of_object(value) if self.whole else None

    def of_many(self, values: list[Any], brackets: str) -> str | None:
        texts = [self(part) for part in values]
        return None if None in texts else f"{brackets[0]}{', '.join(map(str, texts))}{brackets[1]}"

    def of_code(self, value: Any) -> str | None:
        if isinstance(value, functools.partial):
            return self.of_many([value.func, value.args, value.keywords], "()")
        if isinstance(value, MethodType):
            return self(value.__func__)
        if not is_own(value.__module__) or is_packages(value.__module__):
            return name_of(value)
        if self.whole or isinstance(value, type):
            return f"{name_of(value)} {code_of(value, package=False)}"
        cells = [text for cell in value.__closure__ or () if (text := self(_held(cell))) is not None]
        defaults = [self(part) for part in (value.__defaults__, value.__kwdefaults__)]
        return f"{name_of(value)} {instructions(value.__code__)} {cells} {defaults}"

    def of_object(self, value: Any) -> str:
        if isinstance(value, nn.Module):
            return f"{_shown(value)} {attributes_of(value, False)} {code_of(value, package=False)}"
        own = is_own(type(value).__module__) and not is_packages(type(value).__module__)
        if (own or isinstance(value, (Namespace, SimpleNamespace))) and hasattr(value, "__dict__"):
            return f"{name_of(value)} {self(dict(sorted(vars(value).items())))}"
        return name_of(value)


def _is_option(name: str, value: Any) -> bool:
    """Return whether an attribute of a part of a library is an option of it."""
    return not name.startswith("_") and isinstance(value, (*_PLAIN, tuple, *_CODE)) and value is not None


def _shown(part: nn.Module) -> str:
    """Return what a module shows of itself, without its parts and without addresses."""
    text = repr(part)
    if "\n" in text:
        text = f"{type(part).__name__}({part.extra_repr()})"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(text.split()))


def _content(value: Tensor | np.ndarray) -> str:
    try:
        return digest_of(value)
    except (RuntimeError, TypeError):  # Of a layout that has no bytes in a row.
        return f"{type(value).__name__} {tuple(value.shape)}"


def _held(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # Not filled yet.
        return None


def _short(text: str) -> str:
    return text if len(text) <= SHORT else hashlib.sha256(text.encode()).hexdigest()[:16]
