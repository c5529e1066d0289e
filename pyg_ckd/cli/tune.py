"""``pyg-ckd tune``: settings of every contender with equal budgets, and what the best one is worth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyg_ckd.cli.arguments import Given
from pyg_ckd.cli.common import add_backbone, add_data, load_data, no_leftovers, sections
from pyg_ckd.cli.compare import GROUPS
from pyg_ckd.cli.contenders import add_contenders, add_lightgcn, add_parts, check_study, chosen_contenders
from pyg_ckd.cli.options import REQUIRED, Options
from pyg_ckd.cli.output import epoch_lines, say, show
from pyg_ckd.errors import InputError
from pyg_ckd.study.settings import EXTEND, PARTS

if TYPE_CHECKING:
    from jsonargparse import Namespace

SEARCH = ("trials", "seed", "warmup", "prune", "batch", "storage", "name")
"""Arguments of :class:`~pyg_ckd.study.Tuning` that are options as they are."""


def add_options(options: Options, given: Given) -> None:
    """Add the options of the command.

    Args:
        options: Where to add them.
        given: The arguments.
    """
    from pyg_ckd.study.baselines import known_baselines
    from pyg_ckd.study.tune import Tuning

    add_data(options)
    options.add("out", default=REQUIRED, help="folder of the report; run the same command again to resume", path=True)
    text = "strategies to tune: names of pyg-ckd strategies, or import paths such as my_file.Mine"
    options.add("contenders", list[str], list(PARTS), f"{text}; plain training is always included")
    text = "baselines to compare with; lightgcn is tuned too, closed-form models choose their own knobs; [] for none"
    options.add("baselines", list[str], list(known_baselines()), text, metavar="NAME,...")
    options.add_arguments_of(Tuning, only=SEARCH)
    text = "what to search: trainer.lr=1e-4:1e-2 model.embedding_dim=64,128 strategy.l2 ckd.distillation_weight=0.01:1"
    usual = "learning rate, penalty, width, layers and the search_space of strategies"
    text = f"{text} (by default {usual})"
    options.add("knobs", list[str] | None, None, text, metavar="NAME=RANGE...", many=True, pairs=True)
    options.add("seeds", int, 1, "number of repetitions of the winner's training")
    options.add("k", list[int], [10, 20], "cut-offs of the test metrics; that of --trainer.monitor is always included")
    options.add("workers", int, 1, "processes that train at the same time")
    options.add("backend", str, "loky", "joblib backend of these processes: loky, dask or ray")
    text = "folder of runs that several studies can share (default: one in the folder of the report)"
    options.add("runs", str | None, None, text, path=True)
    options.notes["--options FILE"] = (
        "YAML file with options of contenders by their names, such as ckd: {generic: false}; also "
        "--options.NAME.OPTION VALUE; used in the first trial"
    )
    backbone = add_backbone(options, given)
    del options.known["trainer.track_views"]
    extend = options.known["trainer.extend"]
    text = (
        "A search does not extend trainings by itself, so that all trials have the same budget; if they are too short,"
    )
    text = f"{extend.help} {text} search again with a larger --trainer.max_epochs in another folder --out."
    options.known["trainer.extend"] = replace(extend, help=text)
    add_parts(options, backbone)
    add_contenders(options, given, backbone)
    add_lightgcn(options)


def run(config: Namespace, words: Sequence[str] = ()) -> int:
    """Run the search, test the winner and print what it is worth.

    Args:
        config: The values of the options.
        words: The words of the call after the command, from which the line that searches longer is made.
    """
    from pyg_ckd.nn import backbones
    from pyg_ckd.report.report import render_console_table, verdict, write_report
    from pyg_ckd.study import StudySettings
    from pyg_ckd.study.knobs import parse_knobs
    from pyg_ckd.study.ledger import require_optuna
    from pyg_ckd.study.tune import Tuning

    require_optuna()
    for name in ("seeds", "workers", "trials"):
        if config[name] < 1:
            raise InputError(f"{name}: found {config[name]}, expected at least 1")
    knobs = None if config.knobs is None else parse_knobs(config.knobs)
    parts, backbone = sections(config, GROUPS), backbones()[config.backbone]
    data, settings = load_data(config), StudySettings(**parts, k=tuple(config.k))
    contenders = chosen_contenders(config, settings)
    check_study(data, backbone, parts, contenders, config)
    options: dict[str, Any] = {name: config[name] for name in (*SEARCH, "baselines", "runs", "workers", "backend")}
    with no_leftovers(config.out, config.runs), epoch_lines(parts["trainer"]["progress"]):
        options |= {"knobs": knobs, "source": _source(config), "longer": _longer(config, words)}
        tuning = Tuning(data, backbone, config.out, settings, say, contenders, **options)
        seeds = list(range(config.seed, config.seed + config.seeds))
        results = tuning.run(seeds)
        report = write_report(config.out, results, tuning.histories(seeds))
    show(render_console_table(results))
    for line in verdict(results):
        say(line)
    say(f"to train the winner again: {results['tuning']['command']}")
    say(f"report: {report}")
    return 0


def _source(config: Namespace) -> list[str]:
    """Return the words that say which graph to load."""
    words = ["--data", str(config.data)]
    for name, usual in (("transform", "standardize"), ("impute", "mean")):
        if config[name] != usual:
            words += [f"--{name}", str(config[name])]
    return [*words, *(["--data_options", json.dumps(config.data_options)] if config.data_options else [])]


def _longer(config: Namespace, words: Sequence[str]) -> list[str]:
    """Return the words of the same call with more epochs: in another folder, and under another name in a storage."""
    epochs = EXTEND * config["trainer.max_epochs"]
    changed = {"trainer.max_epochs": str(epochs), "out": f"{str(config.out).rstrip('/')}-{epochs}"}
    if config.storage is not None:
        changed["name"] = f"{config.name}-{epochs}"
    kept, keep = ["pyg-ckd", "tune"], True
    for word in words:
        if word.startswith("--"):
            keep = word[2:].partition("=")[0].replace("-", "_") not in changed
        kept += [word] if keep else []
    return [*kept, *(word for name, value in changed.items() for word in (f"--{name}", value))]
