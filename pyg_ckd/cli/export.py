"""``pyg-ckd export``: a trained model in another format, or as a program that runs without this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyg_ckd.cli.arguments import Given
from pyg_ckd.cli.common import add_data, add_origin, load_checkpoint, writable
from pyg_ckd.cli.options import REQUIRED, Options
from pyg_ckd.cli.output import say
from pyg_ckd.errors import InputError, unknown_name

if TYPE_CHECKING:
    from jsonargparse import Namespace


def add_options(options: Options, given: Given) -> None:
    """Add the options of the command.

    Args:
        options: Where to add them.
        given: The arguments.
    """
    options.add("model", default=REQUIRED, help="a model.pt of train or compare", path=True, positional=True)
    text = "the file to write: .safetensors or .pt, or, as a program, .onnx or .pt2 for torch.export.load"
    options.add("out", default=REQUIRED, help=text, path=True)
    add_data(options, required=False)
    add_origin(options)


def run(config: Namespace) -> int:
    """Write the file.

    Args:
        config: The values of the options.
    """
    from pyg_ckd.files import as_path
    from pyg_ckd.serving.program import FORMATS, check_program_path, export_program
    from pyg_ckd.training.model import WRITERS, convert_model

    suffix = as_path(config.out).suffix.lower()
    if suffix not in (*FORMATS, *WRITERS):
        raise InputError(f"out {config.out}: {unknown_name('format', suffix, (*FORMATS, *WRITERS))}")
    if suffix in FORMATS:
        check_program_path(config.out)  # Before the work, not after it.
        if config.data is None:
            raise InputError("data: found none, expected the graph of the model, which a program is recorded with")
        say(f"program: {export_program(*load_checkpoint(config, config.model), config.out)}")
    else:
        with writable("out", config.out):
            say(f"model: {convert_model(config.model, config.out)}")
    return 0
