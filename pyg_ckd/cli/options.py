"""The options of a command: their names, types and help, and how they get their values from what was given."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Union

import yaml

from pyg_ckd.cli.arguments import Entry, Given
from pyg_ckd.cli.help import arguments_of, item, paragraph, with_default
from pyg_ckd.cli.output import standard_output
from pyg_ckd.cli.values import (
    as_list,
    as_mapping,
    as_word,
    is_path,
    item_of,
    members,
    short,
    shown,
    single,
    takes_mapping,
    types_of,
    without_tilde,
    words_for,
)
from pyg_ckd.cli.yaml_files import parse_texts, parse_word
from pyg_ckd.errors import InputError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

REQUIRED: Any = object()
_EXPECTED = {"seeds": "the number of seeds, such as 3 for seeds 0, 1 and 2"}
"""What messages say that an option takes, where its type says too little."""
_MODEL = "the file without an option: pyg-ckd show FILE"
_SOURCE = {
    "describe": "the data without an option: pyg-ckd data describe DATA",
    "convert": "source and target without an option: pyg-ckd data convert FROM TO --format npz",
}
_OTHER_NAMES: dict[str, dict[str, str]] = {
    "compare": {"objective": "contenders", "objectives": "contenders", "strategy": "contenders"},
    "tune": {"objective": "contenders", "objectives": "contenders", "strategy": "contenders"},
    "train": {"contenders": "objective", "contender": "objective"},
    "evaluate": {"objective": "strategy", "out": "json"},
    "effects": {"objective": "strategy", "out": "json"},
    "recommend": {"objective": "strategy", "json": "out"},
    "export": {"objective": "strategy"},
    "show": {"checkpoint": _MODEL, "model": _MODEL, "out": "html"},
    "data describe": {"data": _SOURCE["describe"], "html": "out"},
    "data convert": {"transform": "features", "data": _SOURCE["convert"], "out": _SOURCE["convert"]},
}
"""What options that a command lacks are called there: the name of one of its own, or what to write instead."""
MAX_SEED = 2**63
GENERAL = "Options"


@dataclass(frozen=True)
class Option:
    """An option, or an argument without dashes.

    Args:
        name: Its name, with dots.
        type: Its type, see :func:`~pyg_ckd.cli.values.option_type`.
        default: Its default; :data:`REQUIRED` if it has none.
        help: What it is.
        group: Headline of the group in the help text.
        metavar: What the help text calls its value.
        path: Whether it is a path, in which a tilde stands for the user's home.
        many: Whether several words may follow it.
        positional: Whether it is given without its name.
        blank: Whether an empty text is an empty list.
        hidden: Whether the help text leaves it out.
        if_given: Whether it is part of the result only if it was given.
        texts: Whether words within a mapping are texts, whatever they look like.
        pairs: Whether its items are texts ``NAME=VALUE``, which a file may also give as a mapping.
    """

    name: str
    type: Any = str
    default: Any = None
    help: str = ""
    group: str = GENERAL
    metavar: str = ""
    path: bool = False
    many: bool = False
    positional: bool = False
    blank: bool = False
    hidden: bool = False
    if_given: bool = False
    texts: bool = False
    pairs: bool = False


class Options:
    """The options of one command.

    Args:
        command: Its name, such as ``train`` or ``data convert``.
        description: What it does, in one sentence without a full stop.

    Attributes:
        known: The options by name.
        aliases: From what else names or begins the name of an option to what it stands for.
        notes: Further lines of the help text, for what is no single option.
    """

    def __init__(self, command: str, description: str) -> None:
        self.command, self.description = command, f"{description[0].upper()}{description[1:]}."
        self.known: dict[str, Option] = {}
        self.aliases: dict[str, str] = {}
        self.notes: dict[str, str] = {}

    def add(self, name: str, type: Any = str, default: Any = None, help: str = "", **more: Any) -> None:
        """Add an option.

        Args:
            name: Its name.
            type: Its type.
            default: Its default, :data:`REQUIRED` for none.
            help: What it is.
            **more: Further fields of :class:`Option`.
        """
        self.known[name] = Option(name, type, default, help, **more)

    def add_arguments_of(
        self,
        target: Callable[..., Any],
        prefix: str = "",
        skip: Collection[str] = (),
        defaults: Mapping[str, Any] | None = None,
        only: Collection[str] | None = None,
        **more: Any,
    ) -> None:
        """Add an option for every argument of a class or a function that has a default and a plain type.

        Args:
            target: The class or function; its docstring says what the arguments are.
            prefix: What precedes the names, with a dot between.
            skip: Arguments to leave out.
            defaults: Defaults that take the place of the signature's.
            only: Arguments to take, :obj:`None` for all.
            **more: Further fields of :class:`Option`.
        """
        texts, changed = arguments_of(target), dict(defaults or {})
        parameters = inspect.signature(target).parameters
        for name, hint in types_of(target).items():
            if name in skip or (only is not None and name not in only) or name not in parameters:
                continue
            default = changed.get(name, parameters[name].default)
            if default is inspect.Parameter.empty:
                if not more.get("if_given"):
                    continue
                default = REQUIRED
            full = f"{prefix}.{name}" if prefix else name
            path = is_path(parameters[name].annotation)
            self.add(full, hint, default, texts.get(name, ""), path=path, **more)

    def parse(self, given: Given) -> Namespace:
        """Return the values of all options; after ``--print_config`` they are printed, and the process exits.

        Args:
            given: The arguments.

        Raises:
            InputError: If an option is unknown, missing, or of another type.
        """
        values = _Values(self)
        values.place_all(given)
        needed = [o.name for o in self.known.values() if o.default is REQUIRED and not (o.if_given and o.hidden)]
        missing = [name for name in needed if name not in values.found]
        if missing and given.print_config is None:
            names = ", ".join(n if self.known[n].positional else f"--{n}" for n in missing)
            raise InputError(f"{self.command}: these arguments are required: {names}")
        taken = [o for o in self.known.values() if not o.if_given or o.name in values.found]
        words = [f"--{name}={as_word(value)}" for name, (value, _) in values.found.items()]
        try:
            config = _parser(taken).parse_args(words)
        except (ArgumentError, TypeError, KeyError, ValueError) as error:
            raise self._named(error, values) from None
        for option in taken:
            value = config[option.name]
            if option.name.rpartition(".")[2] == "seed" and isinstance(value, int) and not 0 <= value < MAX_SEED:
                label = values.found[option.name][1].label if option.name in values.found else f"--{option.name}"
                raise InputError(f"{label}: found {value}, expected an integer from 0 to 2^63 - 1")
        if given.print_config is not None:
            with standard_output():
                sys.stdout.write(_as_yaml(config, taken, bool(given.print_config)))
            sys.exit(0)
        return config

    def _named(self, error: Exception, values: _Values) -> InputError:
        """Return what the parser found wrong, with the option as it was typed."""
        found = re.search(r'Parser key "([^"]+)"', str(error))
        if found is None or found[1] not in values.found:
            return InputError(str(error))
        value, entry = values.found[found[1]]
        expected = _EXPECTED.get(found[1]) or words_for(self.known[found[1]].type)
        return InputError(f"{entry.label}: found {shown(value)}, expected {expected}")

    def help(self) -> str:
        """Return the help text, within 80 columns."""
        visible = [option for option in self.known.values() if not option.hidden]
        required = [o for o in visible if o.default is REQUIRED]
        usage = " ".join(
            [o.name.upper() for o in required if o.positional]
            + [f"--{o.name} {_metavar(o)}" for o in required if not o.positional]
            + [f"[{o.name.upper()}]" for o in visible if o.positional and o not in required]
        )
        start = f"usage: pyg-ckd {self.command}"
        lines = [" ".join(filter(None, [start, usage, "[options]"])), "", *paragraph(self.description)]
        groups = dict.fromkeys([GENERAL, *(option.group for option in visible)])
        positional = [o for o in visible if o.positional]
        if positional:
            lines += ["", "Arguments:"]
            for option in positional:
                lines += item(option.name, _text(option))
        for group in groups:
            lines += ["", *paragraph(f"{group}:")]
            if group == GENERAL:
                lines += item("-h, --help", "show this help")
                lines += item("--config FILE", "read options from a YAML file; those on the command line win")
                lines += item("--print_config", "print all options as such a file, and do nothing else")
            for option in visible:
                if option.group == group and not option.positional:
                    lines += item(f"--{option.name} {_metavar(option)}", _text(option))
            if group == GENERAL:
                for name, text in self.notes.items():
                    lines += item(name, text)
        return "\n".join(lines)

    def unknown(self, entry: Entry) -> InputError:
        """Return the error for an option that there is not, closest names first.

        Args:
            entry: The option.
        """
        mark = "" if entry.source else "--"
        other = _OTHER_NAMES.get(self.command, {}).get(entry.key.lower(), "")
        near = [other] if other in self.known else self._near(entry.key)
        names = [f"{mark}{name.removeprefix(entry.inside)}" for name in near]
        names = [other] if other and other not in self.known else names
        hint = f"did you mean {' or '.join(names)}? " if names else ""
        where = f"{entry.source}: " if entry.source else ""
        name = f"{mark}{entry.key.removeprefix(entry.inside)}"
        return InputError(f"{where}unknown option {name}: {hint}pyg-ckd {self.command} --help lists all options")

    def _of_reader(self, key: str) -> list[str]:
        """Return the option of the data that has a name, such as ``data_options.split`` for ``split``."""
        if "data_options" not in self.known or "." in key:
            return []
        from pyg_ckd.datasets.loading import reader_options

        name, own = key.lower().replace("-", "_"), {*self.known, *(["seed"] if "seeds" in self.known else [])}
        names = [option for option in reader_options() if option not in own]
        close = [name] if name in names else difflib.get_close_matches(name, names, n=1, cutoff=0.85)
        return [f"data_options.{option}" for option in close]

    def _near(self, key: str) -> list[str]:
        names = {name.lower(): name for name, option in self.known.items() if not option.positional}
        names["config"] = "config"
        head, _, last = key.lower().rpartition(".")
        same = [name for name in names if name.rpartition(".")[2] == last]
        inside = {name.rpartition(".")[2]: name for name in names if head and name.rpartition(".")[0] == head}
        words = sorted({word for part in inside for word in part.split("_")})
        parts = [*difflib.get_close_matches(last, list(inside), n=3, cutoff=0.6)]
        near = difflib.get_close_matches(last, words, n=2, cutoff=0.7)
        parts += [part for part in inside if not set(near).isdisjoint(part.split("_"))]
        close = [inside[part] for part in parts]
        if not close:
            close = difflib.get_close_matches(key.lower(), list(names), n=3, cutoff=0.6)
        if not close:
            tails = {name.rpartition(".")[2]: name for name in names}
            close = [tails[part] for part in difflib.get_close_matches(last, list(tails), n=2, cutoff=0.7)]
        reader = self._of_reader(key)
        found = [names[name] for name in dict.fromkeys([*same, *([] if reader else close)])]
        shown = [n for n in found if n not in self.known or not self.known[n].hidden]
        return ([*shown, *reader] or found)[:3]


class _Values:
    """The values of options as they come in, one after the other, each with the place it came from."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.found: dict[str, tuple[Any, Entry]] = {}
        self.groups = {name[: dot.start()] for name in options.known for dot in re.finditer(r"\.", name)}

    def place_all(self, given: Given) -> None:
        """Take all entries in order, then the words without dashes."""
        words = list(given.positionals)
        for entry in given.entries:
            words += self._place(entry)
        free = [option for option in self.options.known.values() if option.positional]
        for option, word in zip(free, words, strict=False):
            self.found[option.name] = (without_tilde(word) if option.path else word, Entry(option.name, [word]))
        if len(words) > len(free):
            word = words[len(free)]
            hint = f"--{word} VALUE" if word in self.options.known else "options such as --config FILE"
            raise InputError(f"{self.options.command}: found {word!r}, which belongs to no option, expected {hint}")

    def _place(self, entry: Entry) -> list[str]:
        """Store the value of an entry; returns words that follow it and are not its own."""
        name = self._name(entry)
        entry = replace(entry, key=name)
        option = self.options.known.get(name)
        if option is not None:
            return self._store(option, entry)
        start = name
        while "." in start:
            start = start.rpartition(".")[0]
            option = self.options.known.get(start)
            if option is not None and takes_mapping(option.type):
                self._store_below(option, entry, name.removeprefix(f"{start}.").split("."))
                return []
        if name not in self.groups:
            raise self.options.unknown(entry)
        opened = entry.opened()
        for key, value in opened.value.items():
            self._place(replace(opened, key=f"{name}.{key}", value=value))
        return []

    def _name(self, entry: Entry) -> str:
        """Return the name of an option as it is known: dashes count as underscores, aliases as what they stand for."""
        name = entry.key
        for alias, full in self.options.aliases.items():
            if name == alias or name.startswith(f"{alias}."):
                name = full + name.removeprefix(alias)
        if name in self.options.known or not entry.typed:
            return name
        same = name.replace("-", "_")
        for known, option in self.options.known.items():
            plain = known.replace("-", "_")
            if plain == same or (takes_mapping(option.type) and same.startswith(f"{plain}.")):
                return known + name[len(known) :]
        return name

    def _store(self, option: Option, entry: Entry) -> list[str]:
        rest: list[str] = []
        if entry.typed and not option.many and any(o.positional for o in self.options.known.values()):
            entry, rest = replace(entry, value=entry.value[:1]), entry.value[1:]
        if option.pairs and isinstance(entry.value, Mapping):
            entry = replace(entry, value=_pairs(entry.value))
        if item_of(option.type) is not None:
            value: Any = as_list(entry, option.type, option.many, option.blank)
        else:
            value = _mapping(option, entry) if takes_mapping(option.type) else _plain(option, entry)
        self.found[option.name] = (without_tilde(value) if option.path else value, entry)
        return rest

    def _store_below(self, option: Option, entry: Entry, keys: list[str]) -> None:
        """Store a value within a mapping, such as 3 for ``data_options.num_users``."""
        value = single(entry, str)
        if entry.typed:
            value = parse_texts(value) if option.texts else parse_word(value)
        before = self.found[option.name][0] if option.name in self.found else option.default
        content = dict(before) if isinstance(before, Mapping) else {}
        place = content
        for key in keys[:-1]:
            inner = place.get(key)
            place[key] = dict(inner) if isinstance(inner, Mapping) else {}
            place = place[key]
        place[keys[-1]] = without_tilde(value) if option.path else value
        self.found[option.name] = (content, entry)


def _pairs(content: Mapping[Any, Any], prefix: str = "") -> list[str]:
    """Return a mapping, whose mappings stand for names with dots, as texts ``NAME=VALUE``; nothing is a name alone."""
    found = []
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            found += _pairs(value, f"{prefix}{key}.")
        else:
            parts = value if isinstance(value, list) else [value]
            words = [str(part).lower() if isinstance(part, bool) else str(part) for part in parts]
            found.append(f"{prefix}{key}" if value is None else f"{prefix}{key}={','.join(words)}")
    return found


def _mapping(option: Option, entry: Entry) -> Any:
    """Return a value that may be a mapping; nothing in a file is an empty one."""
    value = single(entry, option.type)
    if value is None and type(None) not in members(option.type):
        return {}
    return as_mapping(entry, value)


def _plain(option: Option, entry: Entry) -> Any:
    """Return a value that is neither a list nor a mapping; files may give only what fits."""
    value = single(entry, option.type)
    wrong = isinstance(value, (list, Mapping)) or (value is None and type(None) not in members(option.type))
    if wrong:
        raise InputError(f"{entry.label}: found {shown(value)}, expected {words_for(option.type)}")
    if entry.typed and value == "" and option.default is REQUIRED:
        raise InputError(f"{entry.label}: found an empty text, expected {words_for(option.type)}")
    return value


def _parser(options: Collection[Option]) -> ArgumentParser:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="pyg-ckd", exit_on_error=False, add_help=False)
    for option in options:
        default = None if option.default is REQUIRED else option.default
        if item_of(option.type) is not None and isinstance(default, (tuple, set, frozenset)):
            default = list(default)
        # The parser reads texts in a dict[str, Any] as YAML once more, and in a dict not.
        types = tuple(dict if member == dict[str, Any] else member for member in members(option.type))
        parser.add_argument(f"--{option.name}", dest=option.name, type=Union[types], default=default)  # noqa: UP007
    return parser


def _as_yaml(config: Namespace, options: Collection[Option], skip_default: bool) -> str:
    """Return the values of options as a configuration file."""
    found: dict[str, Any] = {}
    for option in options:
        value = config[option.name]
        value = list(value) if isinstance(value, tuple) else value
        if (value is None and option.default is REQUIRED) or (skip_default and value == option.default):
            continue
        head, _, last = option.name.rpartition(".")
        first, _, rest = head.partition(".")  # The name of a contender may have dots.
        place = found
        for key in filter(None, (first, rest)):
            place = place.setdefault(key, {})
        place[last] = value
    return str(yaml.safe_dump(found, sort_keys=False, allow_unicode=True))


def _metavar(option: Option) -> str:
    return option.metavar or ("PATH" if option.path else short(option.type))


def _text(option: Option) -> str:
    if option.positional:
        return option.help
    if option.default is REQUIRED:
        return f"{option.help} (required)"
    return with_default(option.name, option.help, option.default)
