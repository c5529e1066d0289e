"""``pyg-ckd data describe``: statistics of a data set and what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyg_ckd.cli.arguments import Given
from pyg_ckd.cli.common import SOURCE, add_data_options, data_options, writable
from pyg_ckd.cli.options import REQUIRED, Options
from pyg_ckd.cli.output import say, show

if TYPE_CHECKING:
    from jsonargparse import Namespace


def add_options(options: Options, given: Given) -> None:
    """Add the options of the command.

    Args:
        options: Where to add them.
        given: The arguments.
    """
    from pyg_ckd.data import describe_data

    options.add("source", default=REQUIRED, help=SOURCE, path=True, positional=True)
    out = "also write it to this .html file, or into this folder"
    options.add("out", str | None, None, out, path=True)
    options.add_arguments_of(describe_data)
    add_data_options(options)


def run(config: Namespace) -> int:
    """Print the tables and write the page.

    Args:
        config: The values of the options.
    """
    from pyg_ckd.data import describe_data
    from pyg_ckd.datasets import load
    from pyg_ckd.evaluation import with_content
    from pyg_ckd.report import render_description, write_description

    options: dict[str, Any] = {"transform": "none"}
    if config.source != "synthetic":
        options |= {"impute": "given", "strict": False}  # The data as it is.
    data = load(config.source, **{**options, **data_options(config)})
    description = with_content(describe_data(data, config.k, config.sample, config.seed), data, seed=config.seed)
    show(render_description(description))
    if config.out is not None:
        with writable("out", config.out):
            say(f"description: {write_description(config.out, description)}")
    return 0
