"""``pyg-ckd show``: the model card of a trained model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pyg_ckd.cli.arguments import Given
from pyg_ckd.cli.common import save_json, writable
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
    options.add("model", default=REQUIRED, help="a model.pt of train or compare", path=True, positional=True)
    options.add("html", str | None, None, "also write it to this .html file", path=True)
    options.add("json", str | None, None, "also write it to this file; - prints it instead of the card", path=True)


def run(config: Namespace) -> int:
    """Print the card and write it.

    Args:
        config: The values of the options.
    """
    from pyg_ckd.files import plain_values
    from pyg_ckd.report.card import render_card, write_card
    from pyg_ckd.training.card import model_card
    from pyg_ckd.training.safe_file import read_model

    card = model_card(read_model(config.model))
    if config.html is not None:
        with writable("html", config.html):
            path = write_card(config.html, card)
    if config.json == "-":
        say(json.dumps(plain_values(card), indent=2, allow_nan=False))
        return 0
    save_json(config.json, card)
    show(render_card(card))
    if config.html is not None:
        say(f"page: {path}")
    return 0
