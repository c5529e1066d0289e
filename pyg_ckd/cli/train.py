"""``pyg-ckd train``: one model in a folder of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyg_ckd.cli.arguments import Given
from pyg_ckd.cli.common import add_backbone, add_data, load_data, no_leftovers, section, sections
from pyg_ckd.cli.contenders import PARTS, add_parts, add_strategy_options, all_options, check_models, strategy
from pyg_ckd.cli.options import REQUIRED, Options
from pyg_ckd.cli.output import epoch_lines, say

if TYPE_CHECKING:
    from jsonargparse import Namespace


def add_options(options: Options, given: Given) -> None:
    """Add the options of the command.

    Args:
        options: Where to add them.
        given: The arguments.
    """
    add_data(options)
    options.add("out", default=REQUIRED, help="folder of the run; the same call goes on in it", path=True)
    options.add("seed", int, 0, "seed of everything random")
    text = "what is trained: a name of pyg-ckd strategies, or an import path such as my_file.Mine"
    options.add("objective", str, "plain", text, metavar="NAME")
    options.add("k", list[int], [10, 20], "cut-offs of the test metrics")
    backbone = add_backbone(options, given)
    add_parts(options, backbone)
    cls = strategy(given.text("objective") or "plain", "objective")
    add_strategy_options(options, backbone, cls, "strategy", cls.name in PARTS)
    options.aliases["objective_options"] = "strategy"


def run(config: Namespace) -> int:
    """Train and print the metrics.

    Args:
        config: The values of the options.
    """
    from pyg_ckd.nn import backbones
    from pyg_ckd.study.run import train_run

    cls, backbone = strategy(config.objective), backbones()[config.backbone]
    options = sections(config, ("model", "plain", "teacher", "distillation", "trainer"))
    given = section(config, "strategy")
    part = PARTS.get(cls.name)
    chosen = all_options(cls, options, given)
    if part is None:
        options = {name: options[name] for name in ("model", "teacher", "trainer")} | {"objective": chosen}
    else:
        options[part] |= given
    data = load_data(config)
    check_models(data, backbone, options, [(cls, chosen, "strategy" if part is None or given else part)], config.seed)
    with no_leftovers(config.out), epoch_lines(options["trainer"].get("progress", True)):
        metrics = train_run(data, backbone, config.out, config.objective, options, config.k, config.seed)
    say(str(metrics))
    return 0
