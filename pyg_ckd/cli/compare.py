"""``pyg-ckd compare``: the whole study, with a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pyg_ckd.cli.arguments import Given
from pyg_ckd.cli.common import SIZES, add_backbone, add_data, check_parts, load_data, no_leftovers, sections
from pyg_ckd.cli.contenders import add_contenders, add_parts, check_models, chosen_contenders
from pyg_ckd.cli.options import REQUIRED, Options
from pyg_ckd.cli.output import epoch_lines, say, show
from pyg_ckd.errors import InputError
from pyg_ckd.study.settings import EXTEND, PARTS

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from torch_geometric.data import HeteroData

    from pyg_ckd.nn import Backbone
    from pyg_ckd.study.contenders import Contender

GROUPS = ("model", "plain", "teacher", "distillation", "lightgcn", "trainer")


def add_options(options: Options, given: Given) -> None:
    """Add the options of the command.

    Args:
        options: Where to add them.
        given: The arguments.
    """
    from pyg_ckd.nn import LightGCN
    from pyg_ckd.study.baselines import DEFAULT

    add_data(options)
    options.add("out", default=REQUIRED, help="folder of the report; the same call goes on in it", path=True)
    options.add("seeds", int, 1, "number of repetitions")
    k_help = "cut-offs of the test metrics; that of --trainer.monitor is always among them"
    options.add("k", list[int], [10, 20], k_help)
    text = "strategies to compare: names of pyg-ckd strategies, or import paths such as my_file.Mine"
    options.add("contenders", list[str], list(PARTS), f"{text}; plain training is always among them")
    text = "models to compare with, closed forms and lightgcn; [] is none"
    options.add("baselines", list[str], list(DEFAULT), text, metavar="NAME,...")
    options.add("workers", int, 1, "processes that train at the same time")
    options.add("backend", str, "loky", "who starts them: loky, dask or ray, as joblib calls them")
    text = "folder of runs that several studies can share (default: one in the folder of the report)"
    options.add("runs", str | None, None, text, path=True)
    options.notes["--options FILE"] = (
        "YAML file with options of contenders by their names, such as ckd: {generic: false}; with strategy: NAME among "
        "them, a strategy has another name; also --options.NAME.OPTION VALUE"
    )
    backbone = add_backbone(options, given, {"extend": EXTEND})
    add_parts(options, backbone)
    add_contenders(options, given, backbone)
    best, group = LightGCN.recommended, "Baseline LightGCN"
    options.add_arguments_of(LightGCN, "lightgcn", SIZES, best["model"], group=group)
    options.add("lightgcn.l2", float, best["plain"]["l2"], "weight of its penalty", group=group)
    options.add("lightgcn.lr", float, best["trainer"]["lr"], "its learning rate", group=group)


def run(config: Namespace) -> int:
    """Run the study and print what it found.

    Args:
        config: The values of the options.
    """
    from pyg_ckd.nn import backbones
    from pyg_ckd.report.report import render_console_table, verdict, write_report
    from pyg_ckd.study import Study, StudySettings

    for name in ("seeds", "workers"):
        if config[name] < 1:
            raise InputError(f"{name}: found {config[name]}, expected at least 1")
    parts, backbone = sections(config, GROUPS), backbones()[config.backbone]
    data, settings = load_data(config), StudySettings(**parts, k=tuple(config.k))
    contenders = chosen_contenders(config, settings)
    _check(data, backbone, parts, contenders, config)
    options = {name: config[name] for name in ("baselines", "runs", "workers", "backend")}
    with no_leftovers(config.out, config.runs), epoch_lines(parts["trainer"]["progress"]):
        study = Study(data, backbone, config.out, settings, say, contenders, **options)
        seeds = list(range(config.seeds))
        results = study.run(seeds)
        report = write_report(config.out, results, study.histories(seeds))
    show(render_console_table(results))
    for line in verdict(results):
        say(line)
    say(f"report: {report}")
    return 0


def _check(
    data: HeteroData,
    backbone: type[Backbone],
    parts: Mapping[str, dict[str, Any]],
    contenders: Mapping[str, Contender],
    config: Namespace,
) -> None:
    """Build every model of the study once; the first run may be hours before the last."""
    from pyg_ckd.balance import Objective
    from pyg_ckd.nn import LightGCN
    from pyg_ckd.training import Trainer, build

    model = dict(parts["lightgcn"])
    l2, lr = model.pop("l2"), model.pop("lr")
    student = check_parts("lightgcn", model, lambda: build(LightGCN, data, 0, **model))
    check_parts("lightgcn", ["l2"], lambda: Objective(student, l2=l2))
    check_parts("lightgcn", ["lr"], lambda: Trainer(lr=lr))
    own = {name for name in contenders if f"options.{name}" in config}
    prefixes = {name: PARTS[name] if name in PARTS and name not in own else f"options.{name}" for name in contenders}
    check_models(data, backbone, parts, {prefixes[name]: contender for name, contender in contenders.items()})
