"""What a command was given, on the command line and in YAML files, before it is known which options it has."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyg_ckd.cli.yaml_files import parse_mapping, read_mapping
from pyg_ckd.errors import InputError

HELP = ("-h", "--help")
PRINT = "print_config"


@dataclass(frozen=True)
class Entry:
    """An option as it was given.

    Args:
        key: Its name, with dots, such as ``trainer.lr``.
        value: A value from a YAML file, or the list of words that follow the option on the command line.
        source: The file; empty for the command line.
        inside: What the file leaves out of the key: the file of ``--options`` says ``ckd.l2`` for ``options.ckd.l2``.
    """

    key: str
    value: Any
    source: str = ""
    inside: str = ""

    @property
    def typed(self) -> bool:
        """Whether it stood on the command line."""
        return not self.source

    @property
    def label(self) -> str:
        """How messages call it: ``--trainer.lr``, or ``configuration x.yaml: trainer.lr``."""
        return f"{self.source}: {self.key.removeprefix(self.inside)}" if self.source else f"--{self.key}"

    def below(self, name: str, value: Any) -> Entry:
        """Return the entry of a key of this entry's mapping."""
        return Entry(f"{self.key}.{name}", value, self.source, self.inside)

    def opened(self) -> Entry:
        """Return an entry whose value is a mapping: written in its place, or in the YAML file that it names.

        Raises:
            InputError: If it gives something else.
        """
        value = self.value
        if self.typed:
            text = value[0].strip() if len(value) == 1 else ""
            if not text:
                found = repr(" ".join(value)) if len(value) > 1 else "no value"
                raise InputError(f"{self.label}: found {found}, expected a YAML file of options or '{{name: value}}'")
            if text.startswith("{"):
                return Entry(self.key, parse_mapping(text, self.label), self.label, f"{self.key}.")
            path = os.path.expanduser(text)  # noqa: PTH111 - Leaves the home of an unknown user as it is.
            return Entry(self.key, read_mapping(path, self.key), f"{self.key} {path}", f"{self.key}.")
        if value is None:
            return Entry(self.key, {}, self.source, self.inside)
        if isinstance(value, Mapping):
            return self
        raise InputError(f"{self.label}: found {value!r}, expected options, each with a value")


@dataclass
class Given:
    """The arguments of a command.

    What stands on the command line wins over files, whichever comes first, and later files win over earlier ones.

    Args:
        args: The arguments after the name of the command.

    Raises:
        InputError: If a configuration file cannot be read, or an option has no name.
    """

    args: Sequence[str]
    entries: list[Entry] = field(init=False)
    positionals: list[str] = field(init=False)
    help: bool = field(init=False)
    print_config: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.help = any(arg in HELP for arg in self.args)
        words, self.positionals = _split(self.args)
        typed, files = [], []
        for key, values in words:
            if key == "config":
                files += _configuration(values)
            elif key == PRINT:
                if values not in ([], ["skip_default"]):
                    raise InputError(f"--{PRINT}: found {' '.join(values)!r}, expected nothing, or =skip_default")
                self.print_config = "".join(values)
            else:
                typed.append(Entry(key, values))
        self.entries = files + typed

    def last(self, key: str) -> Entry | None:
        """Return the entry that counts of an option that is needed before the others are known.

        Args:
            key: The name.
        """
        found = [entry for entry in self.entries if entry.key == key]
        return found[-1] if found else None

    def text(self, key: str) -> str | None:
        """Return the value of such an option as a text, :obj:`None` if it was not given.

        Args:
            key: The name.
        """
        entry = self.last(key)
        if entry is None or not entry.value:
            return None
        return str(entry.value[0] if entry.typed else entry.value)

    def section(self, key: str) -> dict[str, Any]:
        """Return all that was given below a key as one nested mapping.

        Args:
            key: The name.
        """
        found: dict[str, Any] = {}
        for entry in self.entries:
            if entry.key == key:
                _update(found, entry.opened().value)
            elif entry.key.startswith(f"{key}."):
                below: Any = entry.value[0] if entry.typed and entry.value else entry.value
                for name in reversed(entry.key.removeprefix(f"{key}.").split(".")):
                    below = {name: below}
                _update(found, below)
        return found


def _split(args: Sequence[str]) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """Return options with the words that follow them, and the words before the first option."""
    options: list[tuple[str, list[str]]] = []
    first: list[str] = []
    for arg in args:
        if arg in HELP:
            continue
        if arg.startswith("--"):
            name, equals, value = arg[2:].partition("=")
            if not name:
                raise InputError(f"found {arg!r}, expected the name of an option after the two dashes")
            options.append((name.replace("-", "_") if "." not in name else name, [value] if equals else []))
        elif re.match(r"-[A-Za-z](?!nf$|an$)", arg):
            name = arg.lstrip("-")
            raise InputError(f"found {arg}, expected an option with two dashes: --{name}")
        elif options:
            options[-1][1].append(arg)
        else:
            first.append(arg)
    return options, first


def _configuration(values: Sequence[str]) -> list[Entry]:
    if len(values) != 1 or not values[0]:
        raise InputError(f"--config: found {' '.join(values)!r}, expected one YAML file of options")
    path = os.path.expanduser(values[0])  # noqa: PTH111
    source = f"configuration {path}"
    content = read_mapping(path, "configuration")
    if "config" in content:
        raise InputError(
            f"{source}: found the key config, expected options, for a file cannot name another; give both files on the "
            "command line: --config A.yaml --config B.yaml, of which the later one wins"
        )
    return [Entry(str(key), value, source) for key, value in content.items()]


def _update(target: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            _update(target[key], value)
        else:
            target[key] = dict(value) if isinstance(value, Mapping) else value
