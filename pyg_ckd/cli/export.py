"""``pyg-ckd export``: a trained model as a program that runs without this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyg_ckd.cli.arguments import Given
from pyg_ckd.cli.common import add_checkpoint, add_data, load_checkpoint
from pyg_ckd.cli.options import REQUIRED, Options
from pyg_ckd.cli.output import say

if TYPE_CHECKING:
    from jsonargparse import Namespace


def add_options(options: Options, given: Given) -> None:
    """Add the options of the command.

    Args:
        options: Where to add them.
        given: The arguments.
    """
    add_data(options)
    add_checkpoint(options)
    options.add("out", default=REQUIRED, help="an .onnx file, or a .pt2 file for torch.export.load", path=True)


def run(config: Namespace) -> int:
    """Write the file.

    Args:
        config: The values of the options.
    """
    from pyg_ckd.serving import export_program
    from pyg_ckd.serving.program import check_program_path

    check_program_path(config.out)  # Before the work, not after it.
    say(f"program: {export_program(*load_checkpoint(config), config.out)}")
    return 0
