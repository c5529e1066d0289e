"""``pyg-ckd export``: a trained model in another format, with all that its file says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyg_ckd.cli.arguments import Given
from pyg_ckd.cli.common import writable
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
    options.add("model", default=REQUIRED, help="a model.pt of train or compare", path=True, positional=True)
    options.add("out", default=REQUIRED, help="the file to write, .safetensors or .pt", path=True)


def run(config: Namespace) -> int:
    """Write the file.

    Args:
        config: The values of the options.
    """
    from pyg_ckd.training.model import convert_model

    with writable("out", config.out):
        say(f"model: {convert_model(config.model, config.out)}")
    return 0
