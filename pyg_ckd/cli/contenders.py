"""Strategies as commands name them: found by name or import path, with options from the command line and from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pyg_ckd.cli.arguments import Entry, Given
from pyg_ckd.cli.common import check_parts
from pyg_ckd.cli.options import Options
from pyg_ckd.cli.values import as_list
from pyg_ckd.errors import InputError, unknown_name

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

    from pyg_ckd.balance import Objective
    from pyg_ckd.nn import Backbone

PARTS = {"plain": "plain", "ckd": "distillation"}
"""Strategies whose options have a group of their own."""
DEFAULT = ("plain", "ckd")
INNER = ("view", "bpr_eps", "log_eps")
"""Arguments of those two that no option gives."""
TITLES = {"plain": "Plain training", "teacher": "Teachers", "distillation": "Options of ckd"}


def strategy(name: str, option: str = "") -> type[Objective]:
    """Return a strategy by its name or import path.

    Args:
        name: Its name, or the path of a class, such as ``my_package.Mine``.
        option: The option that names it, for messages.

    Raises:
        InputError: If there is none, or its file cannot be imported.
    """
    from pyg_ckd.balance.discovery import find_strategy

    try:
        return find_strategy(name)
    except InputError as error:
        reason = str(error)
    except Exception as error:  # What the file does when it is imported.
        reason = f"strategy {name}: importing its file raised {type(error).__name__} ({error}), expected package.Class"
    raise InputError(f"{option}: {reason}" if option else reason)


def add_parts(options: Options, backbone: type[Backbone]) -> None:
    """Add the options of plain training, of the teachers and of distillation.

    Args:
        options: The options of the command.
        backbone: The backbone, which recommends some.
    """
    for part in ("plain", "teacher", "distillation"):
        cls = strategy("ckd" if part == "distillation" else "plain")
        options.add_arguments_of(cls, part, INNER, backbone.recommended.get(part), group=TITLES[part])


def add_strategy_options(
    options: Options, backbone: type[Backbone], cls: type[Objective], prefix: str, hidden: bool
) -> None:
    """Add the options of a strategy, which count only if they are given.

    Args:
        options: The options of the command.
        backbone: The backbone, which recommends some.
        cls: The strategy.
        prefix: What precedes the names.
        hidden: Whether the help text leaves them out, because a group of its own shows them.
    """
    from pyg_ckd.balance.discovery import options_of

    best = backbone.recommended.get(PARTS.get(cls.name, "plain"), {})
    name = prefix.rpartition(".")[2] if "." in prefix else cls.name
    options.add_arguments_of(
        cls, prefix, (), best, options_of(cls), group=f"Options of {name}", hidden=hidden, if_given=True
    )


def all_options(
    cls: type[Objective], parts: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all options of a strategy.

    Args:
        cls: The strategy.
        parts: The groups of plain training and of distillation. Other strategies take from the former what they have
            in common with plain training, such as ``l2``.
        given: What was given for this strategy alone.
    """
    from pyg_ckd.balance.discovery import options_of

    part = parts.get(PARTS.get(cls.name, "plain"), {})
    return {**{name: value for name, value in part.items() if name in options_of(cls)}, **given}


@dataclass(frozen=True)
class Named:
    """A contender of a study as it was asked for.

    Args:
        name: Its name.
        cls: Its strategy.
        asked: How it was asked for: by its name, or by the import path of its strategy.
    """

    name: str
    cls: type[Objective]
    asked: str


def resolve(names: Sequence[str], told: Mapping[str, Any]) -> dict[str, Named]:
    """Return contenders by name, plain training first whether it is named or not.

    Args:
        names: Names of strategies, their import paths, or names that the options give to a strategy.
        told: The options of each, which may name the strategy.

    Raises:
        InputError: If a strategy is unknown or a name stands twice.
    """
    found = {"plain": Named("plain", strategy("plain"), "plain")}
    seen = set()
    for name in names:
        about = told.get(name)
        path = str(about["strategy"]) if isinstance(about, Mapping) and "strategy" in about else name
        cls = strategy(path, "contenders")
        own = cls.name if path == name else name
        if own in seen:
            raise InputError(
                f"contenders: found {own!r} twice, expected every contender once; --options can give a strategy a "
                f"second name: '{{NAME: {{strategy: {path}}}}}'"
            )
        if "." in own or "/" in own:
            raise InputError(f"contenders: found the name {own!r}, expected one without dots and slashes")
        seen.add(own)
        found[own] = Named(own, cls, name)
    return found


def add_contenders(options: Options, given: Given, backbone: type[Backbone]) -> None:
    """Add the options of all contenders that are asked for.

    Args:
        options: The options of the command.
        given: The arguments.
        backbone: The backbone.

    Raises:
        InputError: If a strategy is unknown, a name stands twice, or there are options of no contender.
    """
    entry = given.last("contenders") or Entry("contenders", list(DEFAULT), "default")
    told = given.section("options")
    found = resolve(as_list(entry, list[str]) or [], told)
    accepted = {name for contender in found.values() for name in (contender.name, contender.asked)}
    for name in told:
        if name not in accepted:
            raise InputError(f"options: {unknown_name('contender', name, accepted)}; --contenders adds others")
    for contender in found.values():
        prefix = f"options.{contender.name}"
        if contender.asked != contender.name:
            options.aliases[f"options.{contender.asked}"] = prefix
        add_strategy_options(options, backbone, contender.cls, prefix, contender.name in PARTS)
        options.add(f"{prefix}.strategy", help="its strategy", hidden=True, if_given=True)


def check_models(
    data: HeteroData,
    backbone: type[Backbone],
    parts: Mapping[str, Mapping[str, Any]],
    objectives: Sequence[tuple[type[Objective], Mapping[str, Any], str]],
    seed: int = 0,
) -> None:
    """Build every model once, so that a number out of its range is found before anything is trained.

    Args:
        data: The graph.
        backbone: The backbone.
        parts: Options under ``model``, ``teacher`` and ``trainer``.
        objectives: Strategies, their options, and what precedes the names of these on the command line.
        seed: Seed of the models.
    """
    import torch

    from pyg_ckd.balance.discovery import build_objective, options_of
    from pyg_ckd.data import Embeddings
    from pyg_ckd.training import Trainer, build

    check_parts("trainer", parts["trainer"], lambda: Trainer(**parts["trainer"]))
    student = check_parts("model", parts["model"], partial(build, backbone, data, seed, **parts["model"]))
    generator = torch.Generator().manual_seed(seed)
    sizes = (data["user"].num_nodes, data["item"].num_nodes)
    for cls, options, prefix in objectives:
        if cls.name != "plain" and not getattr(backbone, "uses_features", True):
            continue  # Refused in words of its own.
        teachers = None
        if cls.needs_teachers:
            plain, teacher = strategy("plain"), parts["teacher"]
            check_parts("teacher", teacher, partial(build_objective, plain, student, data, None, teacher))
            teachers = {
                m: Embeddings(*(torch.randn(size, 1, generator=generator) for size in sizes)) for m in data.modalities
            }
        check_parts(prefix, options_of(cls), partial(build_objective, cls, student, data, teachers, options))
