"""YAML files of options: numbers and truth values as in YAML 1.2, no key twice, one line for all that is wrong."""

from __future__ import annotations

import re
from typing import Any

import yaml

from pyg_ckd.errors import InputError
from pyg_ckd.files import read_text

_INTEGER = re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$")  # Not 01001, which is an id.
_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_FLAG = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")  # Not no, which is a country.
_OTHER = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("timestamp", "int", "float", "bool"))
_WORDS = {"yes": True, "on": True, "no": False, "off": False}


class _Loader(yaml.SafeLoader):
    """Reads ``1e-3`` as a number and refuses a key that stands twice in a mapping."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            problem = "found a list or a mapping as a key, expected a name; write {{x}} as {x}"
            raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"found the key {key.value!r} twice", key.start_mark)
        seen.add(key.value)
    return dict(yaml.SafeLoader.construct_mapping(loader, node, deep=True))


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _OTHER]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", _FLAG, list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def parse(text: str) -> Any:
    """Return a value written in YAML.

    Args:
        text: The text.

    Raises:
        yaml.YAMLError: If it is no YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # Of a tag that its value does not fit.
        raise yaml.YAMLError(f"a value cannot be read: {str(error)[:100]}") from None


def parse_word(word: str) -> Any:
    """Return what a word of a command line stands for where nothing says of which type it is.

    Numbers, true, false and null are what YAML takes them for, as are lists, mappings and texts in brackets or
    quotation marks; numbers with commas between them are a list. All else is a text as it stands.

    Args:
        word: The word.
    """
    try:
        value = parse(word)
    except (yaml.YAMLError, RecursionError):
        return word
    if word.strip()[:1] in tuple("[{\"'"):
        return value
    if isinstance(value, str) and "," in value:
        parts = [parse_word(part) for part in value.split(",")]
        return parts if all(type(part) in (int, float) for part in parts) else word
    return value if isinstance(value, (bool, int, float)) or word.strip() in ("null", "~") else word


def as_flag(value: Any) -> Any:
    """Return the truth value that a word such as ``no`` is where nothing else can stand, and anything else as it is.

    Args:
        value: The value.
    """
    return _WORDS.get(value.lower(), value) if isinstance(value, str) else value


def parse_texts(word: str) -> str | list[str]:
    """Return a word of a command line as a text, or as a list of texts where it is one in brackets.

    Args:
        word: The word.
    """
    if word.strip().startswith("["):
        try:
            value = yaml.load(word, Loader=yaml.BaseLoader)
        except (yaml.YAMLError, RecursionError):
            return word
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            return value
    return word


def parse_mapping(text: str, label: str) -> dict[str, Any]:
    """Return a mapping written in YAML.

    Args:
        text: The text.
        label: Where it stands, for messages.

    Raises:
        InputError: If it is no YAML, or no mapping from names.
    """
    try:
        content = parse(text)
    except yaml.YAMLError as error:
        raise InputError(f"{label}: cannot be read as YAML ({_reason(error)})") from None
    except RecursionError:
        raise InputError(f"{label}: cannot be read as YAML (too deep)") from None
    if content is None:
        raise InputError(f"{label}: found nothing, expected a mapping of options")
    return _checked(content, label)


def read_mapping(path: str, kind: str) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Args:
        path: The file.
        kind: What it is, for messages.

    Raises:
        InputError: If it cannot be read, or is no mapping from names.
    """
    label = f"{kind} {path}"
    try:
        content = parse(read_text(path))
    except (FileNotFoundError, InputError) as error:  # The second: a home folder of nobody, or an address.
        if isinstance(error, InputError) and "://" in path:
            raise InputError(f"{label}: {error}") from None
        raise InputError(f"{label}: found no such file, expected a YAML file of options") from None
    except yaml.YAMLError as error:
        raise InputError(f"{label}: cannot be read as YAML ({_reason(error)})") from None
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8; save it as UTF-8"
        raise InputError(f"{label}: cannot be read ({reason}), expected a YAML file of options") from None
    except RecursionError:
        raise InputError(f"{label}: cannot be read as YAML (too deep)") from None
    if content is None:
        raise InputError(f"{label}: the file is empty, expected a mapping of options, such as data: x.npz")
    return _checked(content, label)


def _checked(content: Any, label: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise InputError(f"{label}: found {type(content).__name__}, expected a mapping of options")
    for key, value in content.items():
        if not isinstance(key, str):
            raise InputError(f"{label}: found the key {key!r}, expected the name of an option")
        if isinstance(value, dict) and value:
            _checked(value, f"{label}: {key}")
    return content


def _reason(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem}, line {error.problem_mark.line + 1}"
    return str(error)
