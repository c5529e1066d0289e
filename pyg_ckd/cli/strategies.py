"""``pyg-ckd strategies``: the strategies, a line each, or the options of one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyg_ckd.cli.arguments import Given
from pyg_ckd.cli.contenders import strategy
from pyg_ckd.cli.help import arguments_of, first_line, item, paragraph, with_default
from pyg_ckd.cli.options import Options
from pyg_ckd.cli.output import say

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from pyg_ckd.balance import Objective


LEGEND = (
    "teachers: one model per modality is trained first; as inside: if the strategy inside needs them",
    "one view: only the joint view is computed; own views: the strategy chooses views, such as single modalities",
    "pyg-ckd strategies NAME shows the options of one",
)
"""What the columns of the list mean."""


def add_options(options: Options, given: Given) -> None:
    """Add the options of the command.

    Args:
        options: Where to add them.
        given: The arguments.
    """
    name = "a strategy whose options to show, by its name or import path; all are listed without it"
    options.add("name", str | None, None, name, positional=True)


def run(config: Namespace) -> int:
    """Print the list, or the options of one strategy.

    Args:
        config: The values of the options.
    """
    from pyg_ckd.balance.discovery import strategies

    if config.name is not None:
        say("\n".join(_about(strategy(config.name))))
        return 0
    for name, cls in strategies().items():
        say(f"{name:<20} {_teachers(cls):<11} {_views(cls):<9} {first_line(cls)}")
    say("\n".join(["", *LEGEND]))
    return 0


def _about(cls: type[Objective]) -> list[str]:
    from pyg_ckd.balance.discovery import options_of
    from pyg_ckd.study.knobs import own_space, shown

    lines = [*paragraph(f"{cls.name}: {first_line(cls)}"), "", f"It needs {_needs(cls)} and computes {_views(cls)}."]
    lines += paragraph(_several(cls))
    texts, options = arguments_of(cls), options_of(cls)
    lines += ["", "Options:" if options else "It has no options."]
    for name, parameter in options.items():
        text = texts.get(name, "")
        required = parameter.default is parameter.empty
        lines += item(name, f"{text} (required)" if required else with_default(name, text, parameter.default))
    space = own_space(cls)
    if space:
        ranges = ", ".join(f"{name} {knob.words}" for name, knob in space.items())
        lines += ["", *paragraph(f"pyg-ckd tune searches {ranges}.")]
    if cls.recommended:
        values = ", ".join(f"{name} {shown(value)}" for name, value in cls.recommended.items())
        lines += ["", *paragraph(f"Chosen on validation parts, and set by commands and studies: {values}.")]
    return lines


def _needs(cls: type[Objective]) -> str:
    return "what the strategy inside needs" if cls.wraps else _teachers(cls)


def _several(cls: type[Objective]) -> str:
    if cls.needs_whole:
        return f"With its defaults one process trains it, for it needs {cls.needs_whole} whole."
    inside = ", if they may train the strategy inside" if cls.wraps else ""
    return f"Several processes may share out its batches{inside}."


def _teachers(cls: type[Objective]) -> str:
    if cls.wraps:
        return "as inside"
    return "teachers" if cls.needs_teachers else "no teachers"


def _views(cls: type[Objective]) -> str:
    """Return whether a strategy says itself which views it computes; plain training computes the trained one."""
    from pyg_ckd.balance import Objective

    return "one view" if cls.views is Objective.views else "own views"
