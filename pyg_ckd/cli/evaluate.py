"""``pyg-ckd evaluate``: all items ranked with a trained model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyg_ckd.cli import ranks
from pyg_ckd.cli.arguments import Given
from pyg_ckd.cli.common import add_checkpoint, add_data, load_checkpoint, save_json
from pyg_ckd.cli.options import Options
from pyg_ckd.cli.output import say

if TYPE_CHECKING:
    from jsonargparse import Namespace

NAMES = ("split", "k", "metrics", "view", "cold", "mask", "candidates")


def add_options(options: Options, given: Given) -> None:
    """Add the options of the command.

    Args:
        options: Where to add them.
        given: The arguments.
    """
    from pyg_ckd.evaluation import evaluate

    add_data(options)
    add_checkpoint(options)
    options.add("json", str | None, None, "also write the metrics to this file", path=True)
    options.add_arguments_of(evaluate, only=NAMES)
    options.add(
        "view",
        list[str] | None,
        None,
        "modalities to keep, all others are replaced by their mean; [] replaces all (default: all are kept)",
    )


def run(config: Namespace) -> int:
    """Rank and print the metrics.

    Args:
        config: The values of the options.
    """
    from pyg_ckd.evaluation import evaluate

    with ranks.alike():
        model, data = load_checkpoint(config)
    metrics = evaluate(model, data, **{name: config[name] for name in NAMES})
    with ranks.alike():
        if ranks.first():
            save_json(config.json, dict(metrics))
    if config.view is not None:
        say(f"view: {', '.join(config.view) or 'no modality is factual, each is replaced with its mean'}")
    say(str(metrics))
    return 0
