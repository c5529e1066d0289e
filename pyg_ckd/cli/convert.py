"""``pyg-ckd data convert``: a data set in another format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyg_ckd.cli.arguments import Given
from pyg_ckd.cli.common import SOURCE, add_data_options
from pyg_ckd.cli.options import REQUIRED, Options
from pyg_ckd.cli.output import say

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from torch_geometric.data import HeteroData

TARGET = "the file or folder to write; must be new"


def add_options(options: Options, given: Given) -> None:
    """Add the options of the command.

    Args:
        options: Where to add them.
        given: The arguments.
    """
    from pyg_ckd.datasets.writing import WRITERS

    options.add("source", default=REQUIRED, help=SOURCE, path=True, positional=True)
    options.add("target", default=REQUIRED, help=TARGET, path=True, positional=True)
    options.add("format", default=REQUIRED, help=f"one of {', '.join(WRITERS)}", metavar="NAME")
    add_data_options(options)


def run(config: Namespace) -> int:
    """Write the data set.

    Args:
        config: The values of the options.
    """
    from pyg_ckd.datasets import convert

    say(summary(config.target, convert(config.source, config.target, config.format, **config.data_options)))
    return 0


def summary(target: str, data: HeteroData) -> str:
    """Return what was written where, in one line.

    Args:
        target: The file or folder.
        data: The graph.
    """
    shapes = ", ".join(f"{m} {list(data['item'][m].shape)}" for m in data.modalities)
    return f"{target}: {data['user'].num_nodes} users, {data['item'].num_nodes} items, {shapes}"
