"""``pyg-ckd models``: the backbones, a line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyg_ckd.cli.arguments import Given
from pyg_ckd.cli.help import first_line
from pyg_ckd.cli.options import Options
from pyg_ckd.cli.output import say

if TYPE_CHECKING:
    from jsonargparse import Namespace


def add_options(options: Options, given: Given) -> None:
    """Add nothing: the command has no options of its own.

    Args:
        options: Where to add them.
        given: The arguments.
    """


def run(config: Namespace) -> int:
    """Print the list.

    Args:
        config: The values of the options.
    """
    from pyg_ckd.nn.models.discovery import backbones, fusion_of

    for name, cls in backbones().items():
        say(f"{name:<20} {fusion_of(cls):<8} {first_line(cls)}")
    return 0
