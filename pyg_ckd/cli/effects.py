"""``pyg-ckd effects``: how much every modality contributes to a trained model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyg_ckd.cli.arguments import Given
from pyg_ckd.cli.common import add_checkpoint, add_data, load_checkpoint, save_json
from pyg_ckd.cli.options import Options
from pyg_ckd.cli.output import say

if TYPE_CHECKING:
    from jsonargparse import Namespace

NAMES = ("split", "k", "num_negatives", "num_bootstrap", "confidence", "seed")


def add_options(options: Options, given: Given) -> None:
    """Add the options of the command.

    Args:
        options: Where to add them.
        given: The arguments.
    """
    from pyg_ckd.evaluation import estimate_effects

    add_data(options)
    add_checkpoint(options)
    options.add("json", str | None, None, "also write the effects to this file", path=True)
    options.add_arguments_of(estimate_effects, only=NAMES)


def run(config: Namespace) -> int:
    """Measure and print the effects.

    Args:
        config: The values of the options.
    """
    from pyg_ckd.evaluation import estimate_effects

    model, data = load_checkpoint(config)
    report = estimate_effects(model, data, **{name: config[name] for name in NAMES})
    save_json(config.json, report.table.to_dict("index"))
    say(str(report))
    return 0
