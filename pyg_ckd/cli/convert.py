"""``pyg-ckd data convert``: a data set in another format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyg_ckd.cli.arguments import Given
from pyg_ckd.cli.common import SOURCE, add_data_options, data_options
from pyg_ckd.cli.options import REQUIRED, Options
from pyg_ckd.cli.output import say

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from torch_geometric.data import HeteroData

TARGET = "the file or folder to write; must be new"
FEATURES = "transform of the features, for --format folder: they stay in their files and are not transformed again"
DTYPE = "float32, or float16 for half the size; for --format folder"


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
    options.add("features", default="none", help=FEATURES, metavar="NAME")
    options.add("dtype", default="float32", help=DTYPE, metavar="NAME")
    add_data_options(options)


def run(config: Namespace) -> int:
    """Write the data set.

    Args:
        config: The values of the options.
    """
    from pyg_ckd.datasets import convert

    data = convert(config.source, config.target, config.format, config.features, config.dtype, **data_options(config))
    say(summary(config.target, data))
    return 0


def summary(target: str, data: HeteroData) -> str:
    """Return what was written where, in one line.

    Args:
        target: The file or folder.
        data: The graph.
    """
    shapes = ", ".join(f"{m} {list(data['item'][m].shape)}" for m in data.modalities)
    return f"{target}: {data['user'].num_nodes} users, {data['item'].num_nodes} items, {shapes}"
