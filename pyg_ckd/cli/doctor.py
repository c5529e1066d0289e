"""``pyg-ckd doctor``: what this machine has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyg_ckd.cli.arguments import Given
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
    """Print versions and threads.

    Args:
        config: The values of the options.
    """
    import torch

    from pyg_ckd.versions import versions

    for name, value in versions().items():
        say(f"{name:<18} {value}")
    say(f"{'threads':<18} {torch.get_num_threads()}")
    return 0
