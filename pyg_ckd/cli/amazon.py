"""``pyg-ckd data amazon``: the Amazon reviews of a category as a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyg_ckd.cli.arguments import Given
from pyg_ckd.cli.convert import TARGET, summary
from pyg_ckd.cli.options import REQUIRED, Options
from pyg_ckd.cli.output import say

if TYPE_CHECKING:
    from jsonargparse import Namespace

OWN = ("category", "root", "text", "encoder", "vectors", "files")
FIXED = ("features", "impute", "transform", "pre_transform", "force_reload")


def add_options(options: Options, given: Given) -> None:
    """Add the options of the command.

    Args:
        options: Where to add them.
        given: The arguments.
    """
    from pyg_ckd.datasets import AmazonReviews
    from pyg_ckd.datasets.writing import WRITERS

    category = "baby, beauty, sports, clothing, or a name such as Video_Games"
    options.add("category", default=REQUIRED, help=category, positional=True)
    options.add("out", default=REQUIRED, help=TARGET, path=True)
    options.add("format", str, "npz", f"one of {', '.join(WRITERS)}", metavar="NAME")
    options.add("root", str, "data/amazon", "folder of downloads and finished batches", path=True)
    text = "fields of the metadata that make up the text; [] leaves it out"
    options.add("text", list[str], ["title", "description"], text, blank=True)
    options.add("encoder", str, "tfidf", "tfidf, or sentence-transformers:MODEL")
    options.add("vectors", dict[str, str], {}, "files of further modalities, by name", path=True, metavar="MAPPING")
    files = "a folder that holds the files already, instead of a download"
    options.add("files", str | None, None, files, path=True)
    options.add_arguments_of(AmazonReviews, skip=(*OWN, *FIXED), group="Reviews")


def run(config: Namespace) -> int:
    """Download and write the data set.

    Args:
        config: The values of the options.
    """
    from pyg_ckd.datasets import AmazonReviews
    from pyg_ckd.datasets.writing import check_target, write_graph

    options = {name: value for name, value in config.as_dict().items() if name != "config"}
    target, format = options.pop("out"), options.pop("format")
    check_target(target, format)
    data = AmazonReviews(**options, features="none", impute="given")[0]
    write_graph(data, target, format)
    say(summary(target, data))
    return 0
