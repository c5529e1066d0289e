"""Strategies as commands name them: found by name or import path, with options from the command line and from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pyg_ckd.cli.arguments import Entry, Given
from pyg_ckd.cli.common import SIZES, check_parts
from pyg_ckd.cli.help import arguments_of
from pyg_ckd.cli.options import Options
from pyg_ckd.cli.values import as_list, takes_mapping
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.study.settings import PARTS, REFERENCE, StudySettings

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from torch_geometric.data import HeteroData

    from pyg_ckd.balance import Objective
    from pyg_ckd.nn import Backbone
    from pyg_ckd.study.contenders import Contender

INNER = ("view", "bpr_eps", "log_eps")
"""Arguments of plain training and of distillation that their groups of options leave out."""
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
        raise InputError(f"{option}: {error}" if option else str(error)) from None


def add_parts(options: Options, backbone: type[Backbone]) -> None:
    """Add the options of plain training, of the teachers and of distillation.

    Args:
        options: The options of the command.
        backbone: The backbone, which recommends some.
    """
    from pyg_ckd.training import Trainer
    from pyg_ckd.training.trainer import FREE

    for part in ("plain", "teacher", "distillation"):
        cls = strategy("ckd" if part == "distillation" else "plain")
        options.add_arguments_of(cls, part, INNER, backbone.recommended.get(part), group=TITLES[part])
    taken = [name.removeprefix("teacher.") for name in options.known if name.startswith("teacher.")]
    own: dict[str, Any] = {"hidden": True, "if_given": True}
    options.add_arguments_of(Trainer, "teacher", (*FREE, "seed", "track_views", *taken), **own)
    options.add_arguments_of(backbone, "teacher", (*SIZES, *taken), **own)
    options.notes["--teacher.OPTION VALUE"] = "an option of model or trainer for the teachers only"


def place_distillation(options: Options, given: Given, cls: type[Objective]) -> None:
    """Hide the options ``--distillation.OPTION`` where the objective has no use for them, and refuse them there.

    A configuration file may have them for any objective, because ``compare`` reads the same files.

    Args:
        options: The options of the command.
        given: The arguments.
        cls: The objective.

    Raises:
        InputError: If one stands on the command line and has no use, or is given by the name ``strategy`` as well.
    """
    from pyg_ckd.balance.discovery import options_of

    used = _has_ckd(cls, given.section("strategy"))
    if not used:
        hidden = {n: replace(o, hidden=True) for n, o in options.known.items() if n.startswith("distillation.")}
        options.known |= hidden
    if given.help:
        return
    found = _options_below(given, "distillation")
    found = {name: entry for name, entry in found.items() if f"distillation.{name}" in options.known}
    typed = next((name for name, entry in found.items() if entry.typed), None)
    if typed is not None and not used:
        instead = f"give --strategy.{typed}" if typed in options_of(cls) else "remove the option"
        raise InputError(
            f"--distillation.{typed}: found it with --objective {cls.name}, expected --objective ckd, which it is for; "
            f"add --objective ckd, or {instead}"
        )
    same = {**_options_below(given, "objective_options"), **_options_below(given, "strategy")}
    for name, entry in found.items() if PARTS.get(cls.name) == "distillation" else ():
        if name in same and (entry.typed or entry.source == same[name].source):
            raise InputError(
                f"--distillation.{name}: found --strategy.{name} as well, expected one of them, because both are the "
                "same option; remove one"
            )


def _has_ckd(cls: type[Objective], options: Mapping[str, Any]) -> bool:
    """Return whether a strategy is distillation, or wraps it."""
    from pyg_ckd.balance.discovery import inner_strategy

    try:
        inner = inner_strategy(cls, options)
    except InputError:  # Is refused where models are built.
        return True
    if inner is None:
        return PARTS.get(cls.name) == "distillation"
    below = options.get("inner_options")
    return _has_ckd(inner, below if isinstance(below, Mapping) else {})


def _options_below(given: Given, part: str) -> dict[str, Entry]:
    """Return the last entry of each option of a group."""
    found: dict[str, Entry] = {}
    for entry in given.entries:
        if entry.key == part:
            found |= {str(name).replace("-", "_"): entry for name in entry.opened().value}
        elif entry.key.startswith(f"{part}."):
            found[entry.key.split(".")[1].replace("-", "_")] = entry
    return found


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

    best = {**cls.recommended, **backbone.recommended.get(PARTS.get(cls.name, "plain"), {})}
    name = prefix.removeprefix("options.") if "." in prefix else cls.name
    more: dict[str, Any] = {"group": f"Options of {name}", "hidden": hidden, "if_given": True}
    own = options_of(cls)
    options.add_arguments_of(cls, prefix, (), best, own, **more)
    inside = f"{prefix}.inner_options"
    if cls.wraps and "inner_options" in own and not takes_mapping(getattr(options.known.get(inside), "type", None)):
        default = own["inner_options"].default  # Without an annotation, None says nothing of its type.
        options.add(inside, dict[str, Any] | None, default, arguments_of(cls).get("inner_options", ""), **more)


def resolve(names: Sequence[str], renamed: Mapping[str, str]) -> dict[str, type[Objective]]:
    """Return the strategies of contenders by the contenders' names, plain training first, whether it is named or not.

    Args:
        names: Strategies by name or import path, whose own names count, or names that are given to strategies.
        renamed: From such a name to the name or import path of its strategy.

    Raises:
        InputError: If a strategy is unknown, or two contenders have one name.
    """
    found: dict[str, type[Objective]] = {}
    for name in names:
        cls = strategy(renamed.get(name, name), "contenders")
        own = name if name in renamed else cls.name
        if own in found:
            raise InputError(
                f"contenders: found two of the name {own!r}, expected each once; give one of them another name, such "
                f"as {own}-2, and --options '{{{own}-2: {{strategy: {renamed.get(name, name)}}}}}'"
            )
        found[own] = cls
    return {REFERENCE: found.pop(REFERENCE, None) or strategy(REFERENCE), **found}


def add_contenders(options: Options, given: Given, backbone: type[Backbone]) -> None:
    """Add the options of all contenders that are asked for.

    Args:
        options: The options of the command.
        given: The arguments.
        backbone: The backbone.

    Raises:
        InputError: If a strategy is unknown, two contenders have one name, or there are options of no contender.
    """
    entry = given.last("contenders") or Entry("contenders", list(PARTS), "default")
    names, told = as_list(entry, list[str]) or [], given.section("options")
    renamed = {n: _named(n, o["strategy"]) for n, o in told.items() if isinstance(o, Mapping) and "strategy" in o}
    found = resolve(names, renamed)
    paths = {name: strategy(name).name for name in names if name not in found}
    for name in told:
        if name not in found and name not in paths:
            own = next((own for path, own in paths.items() if path.startswith(f"{name}.")), None)
            if own is not None:
                raise InputError(
                    f"options.{name}: found an import path in the name of an option, expected the name of the strategy "
                    f"itself; write --options.{own}.OPTION VALUE"
                )
            raise InputError(f"options: {unknown_name('contender', name, [*found, *paths])}; --contenders adds others")
    options.aliases |= {f"options.{path}": f"options.{name}" for path, name in paths.items()}
    for name, cls in found.items():
        add_strategy_options(options, backbone, cls, f"options.{name}", name in PARTS)
        options.add(f"options.{name}.strategy", help="its strategy", hidden=True, if_given=True)


def _named(name: str, given: Any) -> str:
    """Return the strategy that an option gives to a contender."""
    if not isinstance(given, str) or not given.strip():
        found = "no value" if given in (None, "", []) else repr(given)
        raise InputError(f"options.{name}.strategy: found {found}, expected the name of a strategy")
    return given


def chosen_contenders(config: Namespace, settings: StudySettings) -> dict[str, Contender]:
    """Return the contenders of a study.

    Args:
        config: The values of the options.
        settings: What the study is made of.
    """
    from pyg_ckd.balance.discovery import options_of
    from pyg_ckd.study.contenders import Contender, default_options

    keys = {name: f"options.{name}.strategy" for name in config.contenders}
    renamed = {name: str(config[key]) for name, key in keys.items() if key in config}
    found = {}
    for name, cls in resolve(config.contenders, renamed).items():
        own = {key: config[f"options.{name}.{key}"] for key in options_of(cls) if f"options.{name}.{key}" in config}
        found[name] = Contender(cls, default_options(cls, settings, own))
    return found


def add_lightgcn(options: Options) -> None:
    """Add the options of the baseline LightGCN.

    Args:
        options: The options of the command.
    """
    from pyg_ckd.nn import LightGCN

    best, group = LightGCN.recommended, "Baseline LightGCN"
    options.add_arguments_of(LightGCN, "lightgcn", SIZES, best["model"], group=group)
    options.add("lightgcn.l2", float, best["plain"]["l2"], "weight of its penalty", group=group)
    options.add("lightgcn.lr", float, best["trainer"]["lr"], "its learning rate", group=group)


def check_study(
    data: HeteroData,
    backbone: type[Backbone],
    parts: Mapping[str, dict[str, Any]],
    contenders: Mapping[str, Contender],
    config: Namespace,
) -> None:
    """Build every model of a study once; the first run may be hours before the last.

    Args:
        data: The graph.
        backbone: The backbone.
        parts: Options by group.
        contenders: The contenders.
        config: The values of the options, which say what contenders have of their own.
    """
    from pyg_ckd.balance import Objective
    from pyg_ckd.nn import LightGCN
    from pyg_ckd.training import Trainer, build

    model = dict(parts["lightgcn"])
    l2, lr = model.pop("l2"), model.pop("lr")
    student = check_parts("lightgcn", model, lambda: build(LightGCN, data, 0, **model))
    check_parts("lightgcn", ["l2"], lambda: Objective(student, l2=l2))
    check_parts("lightgcn", ["lr"], lambda: Trainer(lr=lr))
    own = {name for name in contenders if f"options.{name}" in config}
    prefixes = {name: PARTS[name] if name in PARTS and name not in own else f"options.{name}" for name in contenders}
    named = {prefixes[name]: contender for name, contender in contenders.items()}
    check_models(data, backbone, parts, named, teachers=True)


def check_models(
    data: HeteroData,
    backbone: type[Backbone],
    parts: Mapping[str, Mapping[str, Any]],
    contenders: Mapping[str, Contender],
    seed: int = 0,
    teachers: bool = False,
) -> None:
    """Build every model once, so that a number out of its range is found before anything is trained.

    Args:
        data: The graph.
        backbone: The backbone.
        parts: Options under ``model``, ``teacher`` and ``trainer``.
        contenders: The strategies with their options, by what precedes the names of these on the command line.
        seed: Seed of the models.
        teachers: Whether teachers are trained even if no strategy needs them.
    """
    from pyg_ckd.balance.discovery import options_of
    from pyg_ckd.study.contenders import check_options, side_by_side
    from pyg_ckd.training import Trainer, build
    from pyg_ckd.training.callbacks import open_fabric

    trainer = check_parts("trainer", parts["trainer"], lambda: Trainer(**parts["trainer"]))
    check_parts("trainer", ("device",), lambda: open_fabric(trainer.device, "32-true", None, None))
    check_parts("model", parts["model"], lambda: build(backbone, data, seed, **parts["model"]))
    check = partial(check_options, backbone, data, parts["model"])
    if teachers or any(contender.needs_teachers for contender in contenders.values()):
        teacher = side_by_side(parts["teacher"], backbone)
        check_parts("teacher", parts["teacher"], partial(check, teacher))
        check_parts("teacher", teacher.trainer, partial(Trainer, **{**parts["trainer"], **teacher.trainer}))
    for prefix, contender in contenders.items():
        cls = contender.strategy
        if cls.name != REFERENCE and not cls.wraps and not backbone.uses_features:
            continue  # Refused in words of its own.
        check_parts(prefix, options_of(cls), partial(check, contender))
