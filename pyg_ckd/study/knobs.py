"""Knobs: what a search may turn, their ranges, and which of them a contender has."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from pyg_ckd.arguments import plain_number
from pyg_ckd.balance.discovery import options_of
from pyg_ckd.balance.objective import Objective
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn import Backbone
from pyg_ckd.nn.models.base import SIZES
from pyg_ckd.options import is_plain
from pyg_ckd.study.contenders import Contender
from pyg_ckd.training import Trainer
from pyg_ckd.training.begin import default_negatives, reads_negatives
from pyg_ckd.training.trainer import FREE

PARTS = {"trainer": "trainer", "model": "model", "strategy": "options"}
"""From how the name of a knob begins to the part of a contender that it turns."""
DEFAULT: dict[str, Any] = {
    "trainer.lr": (2e-4, 2e-2),
    "strategy.l2": (1e-4, 1e-1),
    "model.embedding_dim": [64, 128],
    "model.num_layers": (1, 4),
}
"""What a search turns by itself, where a contender has it, beside the ``search_space`` of its strategy."""
FIXED = (*FREE, "seed", "monitor", "eval_every", "eval_users", "track_views", "precision")
"""Options of the trainer that say how a search measures, or how long."""
NEGATIVES, KIND = "trainer.num_negatives", "trainer.negatives"
"""The knob of BPR whose default is the backbone's, and how its negatives are drawn."""
KINDS: dict[str, Any] = {"int": 0, "float": 0.0, "str": ""}
"""From what an option without a default is annotated as to a value of that kind."""
NAMES: dict[type, str] = {int: "whole numbers", float: "numbers", str: "texts"}
DECADES = 10.0
"""A range whose ends are this many times apart is searched on a logarithmic scale."""
FORMS = "a range such as 1e-4:1e-2, or values such as 64,128"


@dataclass(frozen=True)
class Knob:
    """An option and what a search may set it to: a range, or one of several values.

    Attributes:
        name: Its name, ``trainer.lr``, ``model.embedding_dim`` or ``strategy.l2``.
        low: The lower end of the range.
        high: The upper end.
        whole: Whether only whole numbers are taken.
        log: Whether the range is searched on a logarithmic scale.
        values: The values, in the place of a range.
    """

    name: str
    low: float = math.nan
    high: float = math.nan
    whole: bool = False
    log: bool = False
    values: tuple[Any, ...] = ()

    @property
    def text(self) -> str:
        """The range or the values as a person writes them."""
        if self.values:
            return ",".join(map(shown, self.values))
        return f"{self.low:g}:{self.high:g}{' (log)' if self.log else ''}"

    @property
    def words(self) -> str:
        """The range or the values as a sentence names them."""
        return f"among {', '.join(map(shown, self.values))}" if self.values else f"from {self.low:g} to {self.high:g}"

    @property
    def ends(self) -> tuple[Any, ...]:
        """All values, or both ends of the range."""
        return self.values or (self.low, self.high)

    def nearest(self, value: Any) -> Any:
        """Return what is closest to a value among what a search may set.

        Args:
            value: The value.
        """
        if not self.values:
            value = min(max(value, self.low), self.high) if _is_number(value) else self.low
            return round(value) if self.whole else float(value)
        if value in self.values:
            return value
        numbers = _is_number(value) and all(map(_is_number, self.values))
        return min(self.values, key=lambda other: abs(other - value)) if numbers else self.values[0]


def space_of(
    name: str, contender: Contender, backbone: type[Backbone], given: Mapping[str, Any] | None
) -> dict[str, Knob]:
    """Return the knobs of a contender, by their names.

    Args:
        name: Name of the contender.
        contender: The contender with all its options, which are the knobs' defaults.
        backbone: Class of the model.
        given: From knob to its range or values: a pair ``(low, high)``, a list, range or array, a text such as
            ``"1e-4:1e-2"`` or ``"64,128"``, or :obj:`None` for what is searched by default. ``strategy.l2`` is that of
            every contender, ``ckd.l2`` that of one, which takes precedence. (default: :obj:`None`, those of
            :data:`DEFAULT` and of the strategy's ``search_space``)

    Raises:
        InputError: If a range is reversed, empty, or of another type than the option.
    """
    own = {f"strategy.{key}": ends for key, ends in contender.strategy.search_space.items()}
    usual = DEFAULT | own
    chosen = dict(usual) if given is None else {n: v for n, v in given.items() if n.rpartition(".")[0] in PARTS}
    for knob, value in (given or {}).items():
        prefix, _, option = knob.rpartition(".")
        if prefix == name:
            chosen[f"strategy.{option}" if option in options_of(contender.strategy) else f"model.{option}"] = value
    found = {}
    for knob, value in chosen.items():
        if knob in known_knobs(contender, backbone):
            default = default_of(knob, contender, backbone)
            wanted = usual.get(knob) if value is None else value
            if wanted is None:
                raise InputError(f"knob {knob}: found no range, expected {FORMS}")
            one = _knob(knob, wanted, default, _kind(_parameter(knob, contender, backbone)))
            found[knob] = _widened(one, default) if given is None or value is None else one
    return found


def own_space(strategy: type[Objective]) -> dict[str, Knob]:
    """Return what a strategy says itself that a search may turn, by the names of its options.

    Args:
        strategy: The strategy.

    Raises:
        InputError: If it names no range, or one of another type than the option.
    """
    known, space = options_of(strategy), strategy.search_space
    own = {name: parameter for name, parameter in known.items() if name in space}
    return {name: _knob(f"strategy.{name}", space[name], p.default, _kind(p)) for name, p in own.items()}


def check_knobs(given: Mapping[str, Any], contenders: Mapping[str, tuple[Contender, type[Backbone]]]) -> None:
    """Refuse knobs that no contender has.

    Args:
        given: The knobs by name.
        contenders: From name to a contender and its backbone.

    Raises:
        InputError: If there are none, or one does not exist; the message says which do.
    """
    if not isinstance(given, Mapping):
        raise InputError(
            f"knobs: found {type(given).__name__}, expected a mapping from knob to range, such as "
            '{"trainer.lr": "1e-4:1e-2"}, or to None for what is searched by default'
        )
    for knob in given:
        if not isinstance(knob, str):
            raise InputError(f"knobs: found the name {knob!r}, expected a text such as 'trainer.lr'")
    if not given:
        raise InputError("knobs: found none, expected at least one, such as trainer.lr=1e-4:1e-2")
    valid: set[str] = set()
    for name, (contender, backbone) in contenders.items():
        known = known_knobs(contender, backbone)
        own = {f"{name}.{knob.partition('.')[2]}" for knob in known if not knob.startswith("trainer.")}
        valid |= known | (own if any(knob.rpartition(".")[0] == name for knob in given) else set())
    for knob in given:
        _check_negatives(knob, contenders.values())
        if knob not in valid:
            raise unknown_name("knob", knob, valid)


def _check_negatives(knob: str, contenders: Iterable[tuple[Contender, type[Backbone]]]) -> None:
    """Refuse to search how negatives are drawn for a backbone that reads none, whoever else has the knob."""
    without = [(one, backbone) for one, backbone in contenders if not backbone.pairwise]
    if knob in (NEGATIVES, KIND) and without and not any(knob in known_knobs(*one) for one in without):
        backbone = without[0][1]
        own = ", or search model.num_negatives" if "num_negatives" in inspect.signature(backbone).parameters else ""
        raise InputError(
            f"unknown knob {knob!r}: found it for {backbone.__name__}, whose losses read no negatives of the trainer, "
            f"expected a knob that it reads; leave it out{own}"
        )


def known_knobs(contender: Contender, backbone: type[Backbone]) -> set[str]:
    """Return the names of all options of a contender that a search can turn.

    Of a strategy that trains nothing, such as an ensemble of teachers, these are its own.

    Args:
        contender: The contender.
        backbone: Class of its model.
    """
    trainer = {
        name
        for name, p in inspect.signature(Trainer).parameters.items()
        if name not in FIXED and is_plain(p.default) and (p.default is not None or _kind(p) is not None)
    }
    if not (backbone.pairwise and contender.trainer.get("ranking", "bpr") == "bpr"):
        trainer.discard(NEGATIVES.partition(".")[2])
    if not reads_negatives(contender.strategy, backbone):
        trainer.discard(KIND.partition(".")[2])
    model = {name for name in inspect.signature(backbone).parameters if name not in SIZES}
    parts = {"trainer": trainer, "model": model} if contender.strategy.trains else {}
    parts["strategy"] = set(options_of(contender.strategy))
    return {f"{part}.{name}" for part, names in parts.items() for name in names}


def default_of(knob: str, contender: Contender, backbone: type[Backbone]) -> Any:
    """Return what an option of a contender is without a search.

    Args:
        knob: The knob.
        contender: The contender.
        backbone: Class of its model.
    """
    part, _, option = knob.partition(".")
    given = getattr(contender, PARTS[part])
    value = given[option] if option in given else _parameter(knob, contender, backbone).default
    if knob == NEGATIVES and value is None:
        return default_negatives(backbone, contender.trainer.get("num_neighbors"))
    return value


def _parameter(knob: str, contender: Contender, backbone: type[Backbone]) -> inspect.Parameter:
    part, _, option = knob.partition(".")
    target: Any = {"trainer": Trainer, "model": backbone, "strategy": contender.strategy}[part]
    return inspect.signature(target).parameters[option]


def _kind(parameter: inspect.Parameter) -> Any:
    """Return a value of the kind that an option is annotated as, :obj:`None` for none or several."""
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    kinds = {part.strip() for part in text.split("|")} - {"None"}
    kinds -= {"int"} if "float" in kinds else set()
    return KINDS.get(kinds.pop()) if len(kinds) == 1 else None


def turned(contender: Contender, values: Mapping[str, Any]) -> Contender:
    """Return a contender with knobs at other values.

    Args:
        contender: The contender.
        values: From knob to value.
    """
    parts = {part: dict(getattr(contender, part)) for part in PARTS.values()}
    for knob, value in values.items():
        part, _, option = knob.partition(".")
        parts[PARTS[part]][option] = value
    return Contender(contender.strategy, **parts)


def parse_knobs(texts: list[str]) -> dict[str, str | None]:
    """Return knobs as texts name them: ``trainer.lr=1e-4:1e-2``, ``model.embedding_dim=64,128``, or a name alone.

    Args:
        texts: The texts; the values of one knob may be several texts.

    Raises:
        InputError: If a knob is named twice or not at all.
    """
    found: dict[str, str | None] = {}
    last = ""
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals and "." in name and not _is_number(_parsed(name)):
            value = ""
        elif not equals and last and found[last] is not None:
            found[last] = f"{found[last]},{text.strip()}"
            continue
        if not name or (equals and not value.strip()) or (not equals and "." not in name):
            raise InputError(f"knobs: found {text!r}, expected NAME=RANGE, such as trainer.lr=1e-4:1e-2")
        if name in found:
            raise InputError(f"knobs: found {name} twice, expected it once")
        found[name], last = (value.strip() if equals else None), name
    return found


def shown(value: Any) -> str:
    """Return a value of an option as a person writes it.

    Args:
        value: The value.
    """
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _parsed(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(text.lower(), text)


def _knob(name: str, given: Any, default: Any, kind: Any = None) -> Knob:
    """Return a knob; one without a default has the kind of what it is annotated as."""
    if isinstance(given, (np.ndarray, Tensor)) and given.ndim == 1:
        given = given.tolist()
    given = list(given) if isinstance(given, range) else plain_number(given)
    bad = f"knob {name}: found {given if isinstance(given, str) else _text(given)!r}, expected"
    if isinstance(given, str):
        low, colon, high = given.partition(":")
        ends = (low, high) if colon else [_parsed(word.strip()) for word in given.split(",")]
        given = tuple(_parsed(end.strip()) for end in ends) if isinstance(ends, tuple) else ends
    like = kind if default is None else default
    if isinstance(given, tuple):
        return _range(name, given, default, like, bad)
    if not isinstance(given, list) or not given:
        raise InputError(f"{bad} {FORMS}")
    if len(given) < 2:
        raise InputError(f"{bad} {FORMS}; what is not searched is an option of its own, --{name} {given[0]}")
    for value in given:
        if not _fits(value, like):
            kind = NAMES[type(like)] if default is None else f"values of the kind of {shown(default)}, its default"
            raise InputError(f"{bad} {kind}")
    if len(set(given)) < len(given):
        raise InputError(f"{bad} every value once")
    return Knob(name, values=tuple(float(v) if isinstance(like, float) else v for v in given))


def _range(name: str, ends: tuple[Any, ...], default: Any, like: Any, bad: str) -> Knob:
    whole = isinstance(like, int) and not isinstance(like, bool)
    if like is not None and not _is_number(like):
        known = f" (default: {shown(default)})" if default is not None else ""
        raise InputError(f"{bad} values with commas between them, for it is no number{known}")
    if len(ends) != 2 or not all(_is_number(end) and math.isfinite(end) for end in ends):
        raise InputError(f"{bad} two numbers with a colon between them, the lower one first, such as 1e-4:1e-2")
    if whole and not all(float(end).is_integer() for end in ends):
        raise InputError(f"{bad} whole numbers{'' if default is None else f', as its default {default} is one'}")
    low, high = (int(end) if whole else float(end) for end in ends)
    if not low < high:
        what = "an empty range" if low == high else "a reversed range"
        raise InputError(f"{bad} the lower end first and a higher one after it: this is {what}")
    return Knob(name, low, high, whole, log=low > 0 and high >= DECADES * low)


def _widened(knob: Knob, default: Any) -> Knob:
    """Return a knob that can be at its default, as far as its scale allows."""
    if knob.values:
        values = dict.fromkeys([*knob.values, default])
        return Knob(knob.name, values=tuple(sorted(values) if all(map(_is_number, values)) else values))
    if not _is_number(default) or (knob.log and default <= 0):
        return knob
    low, high = min(knob.low, default), max(knob.high, default)
    return Knob(knob.name, low, high, knob.whole, knob.log)


def _fits(value: Any, default: Any) -> bool:
    if default is None:
        return is_plain(value)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, int):
        return isinstance(value, int)
    return _is_number(value) if isinstance(default, float) else isinstance(value, type(default))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def _text(given: Any) -> str:
    if isinstance(given, (list, tuple)):
        return (":" if isinstance(given, tuple) else ",").join(map(shown, given))
    return shown(given)
