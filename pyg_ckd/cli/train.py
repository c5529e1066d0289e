"""``pyg-ckd train``: one model in a folder of its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pyg_ckd.cli import ranks
from pyg_ckd.cli.arguments import Given
from pyg_ckd.cli.common import add_backbone, add_data, load_data, no_leftovers, section, sections
from pyg_ckd.cli.contenders import add_parts, add_strategy_options, check_models, place_distillation, strategy
from pyg_ckd.cli.options import REQUIRED, Options
from pyg_ckd.cli.output import epoch_lines, say
from pyg_ckd.files import read_json
from pyg_ckd.study.settings import PARTS, StudySettings, budget_for

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from torch_geometric.data import HeteroData


def add_options(options: Options, given: Given) -> None:
    """Add the options of the command.

    Args:
        options: Where to add them.
        given: The arguments.
    """
    add_data(options)
    options.add("out", default=REQUIRED, help="folder of the run; run the same command again to resume", path=True)
    start = "model.pt of an earlier run to start from; users and items are matched by id"
    options.add("start_from", str | None, None, help=start, path=True, metavar="FILE")
    options.add("seed", int, 0, "seed of everything random")
    text = "what to train: a name from pyg-ckd strategies, or an import path such as my_file.Mine"
    options.add("objective", str, "plain", text, metavar="NAME")
    options.notes["--strategy.OPTION VALUE"] = "an option of the objective; pyg-ckd strategies NAME lists them"
    options.add("k", list[int], [10, 20], "cut-offs of the test metrics")
    backbone = add_backbone(options, given)
    add_parts(options, backbone)
    named = given.text("objective")
    cls = strategy("plain" if named is None else named, "objective")
    place_distillation(options, given, cls)
    add_strategy_options(options, backbone, cls, "strategy", cls.name in PARTS)
    options.aliases["objective_options"] = "strategy"


def run(config: Namespace) -> int:
    """Train and print the metrics.

    Args:
        config: The values of the options.
    """
    from pyg_ckd.data import held_out
    from pyg_ckd.nn import backbones
    from pyg_ckd.study.contenders import Contender, default_options
    from pyg_ckd.study.run import train_run
    from pyg_ckd.training.begin import ALL_EPOCHS, BEST_EPOCH
    from pyg_ckd.training.options import EPOCHS

    cls, backbone = strategy(config.objective), backbones()[config.backbone]
    ranks.start(section(config, "trainer"))  # Before data are read.
    parts = sections(config, ("model", "plain", "teacher", "distillation", "trainer"))
    given = section(config, "strategy")
    settings = StudySettings(plain=parts["plain"], distillation=parts["distillation"])
    contender = Contender(cls, default_options(cls, settings, given))
    prefix = "strategy" if given else PARTS.get(cls.name, "strategy")
    with ranks.alike():
        data = _load(config)
        check_models(data, backbone, parts, {prefix: contender}, config.seed)
    options = {**parts, "objective": given} if given else parts
    with no_leftovers(*([config.out] if ranks.first() else [])), epoch_lines(parts["trainer"]["progress"]):
        objective, start = config.objective, config.start_from
        with _told_at_the_end():
            metrics = train_run(data, backbone, config.out, objective, options, config.k, config.seed, start)
    say(str(metrics) if metrics else "nothing was measured: the data have neither a validation nor a test part")
    ended = read_json(Path(config.out) / "metrics.json")
    if isinstance(ended, dict) and ended.get("converged") is False:
        anew = (
            contender.needs_teachers or parts["trainer"]["schedule"] != "constant"
        )  # Teachers and schedules depend on it.
        where, enough = "another folder and" if anew else "the same call goes on with", ended.get("enough_epochs")
        more = "a larger --trainer.max_epochs"
        if enough is not None:
            number = budget_for(enough, parts["trainer"])
            more = f"--trainer.max_epochs {number}, which is enough unless the metric rises again"
        say(f"not converged ({ended['stopped']}); {where} {more}")
    usual = backbone.recommended.get("trainer", {}).get("max_epochs", EPOCHS)
    if cls.trains and parts["trainer"]["max_epochs"] == usual and not held_out(data, "val").size(1):
        say(f"{ALL_EPOCHS} {parts['trainer']['max_epochs']} epochs, {BEST_EPOCH} --trainer.max_epochs")
    return 0


@contextmanager
def _told_at_the_end() -> Iterator[None]:
    """Leave out the trainer's warning of a missing validation part, of which this command tells at its end."""
    from pyg_ckd.training.begin import ALL_EPOCHS

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=ALL_EPOCHS)
        yield


def _load(config: Namespace) -> HeteroData:
    """Load the graph; features as they are read are prepared as those of the model that training starts from."""
    data = load_data(config)
    if config.start_from is None or config.transform != "none":
        return data
    from pyg_ckd.data import RecordedTransform
    from pyg_ckd.data.prepared import KEY, current
    from pyg_ckd.training.safe_file import read_model

    records = (read_model(config.start_from).get("graph") or {}).get(KEY, {})
    now = [current(data, m) for m in data.modalities if m in records]
    if not any(record["steps"] for record in records.values()) or any(one is None or one["steps"] for one in now):
        return data
    return load_data(config, RecordedTransform(records, new="none")) if now else data
