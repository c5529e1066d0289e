"""``pyg-ckd compare``: the whole study, with a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyg_ckd.cli.arguments import Given
from pyg_ckd.cli.common import add_backbone, add_data, load_data, no_leftovers, sections
from pyg_ckd.cli.contenders import add_contenders, add_lightgcn, add_parts, check_study, chosen_contenders
from pyg_ckd.cli.options import REQUIRED, Options
from pyg_ckd.cli.output import epoch_lines, say, show
from pyg_ckd.errors import InputError
from pyg_ckd.study.settings import EXTEND, PARTS

if TYPE_CHECKING:
    from jsonargparse import Namespace

GROUPS = ("model", "plain", "teacher", "distillation", "lightgcn", "trainer")


def add_options(options: Options, given: Given) -> None:
    """Add the options of the command.

    Args:
        options: Where to add them.
        given: The arguments.
    """
    from pyg_ckd.study.baselines import DEFAULT

    add_data(options)
    options.add("out", default=REQUIRED, help="folder of the report; run the same command again to resume", path=True)
    options.add("seeds", int, 1, "number of repetitions")
    k_help = "cut-offs of the test metrics; that of --trainer.monitor is always included"
    options.add("k", list[int], [10, 20], k_help)
    text = "strategies to compare: names of pyg-ckd strategies, or import paths such as my_file.Mine"
    options.add("contenders", list[str], list(PARTS), f"{text}; plain training is always included")
    text = "baselines to compare with; [] for none"
    options.add("baselines", list[str], list(DEFAULT), text, metavar="NAME,...")
    options.add("workers", int, 1, "processes that train at the same time")
    options.add("backend", str, "loky", "joblib backend of these processes: loky, dask or ray")
    text = "folder of runs that several studies can share (default: one in the folder of the report)"
    options.add("runs", str | None, None, text, path=True)
    options.notes["--options FILE"] = (
        "YAML file with options of contenders by their names, such as ckd: {generic: false}; strategy: NAME gives a "
        "contender of another name its strategy; also --options.NAME.OPTION VALUE"
    )
    backbone = add_backbone(options, given, {"extend": EXTEND})
    add_parts(options, backbone)
    add_contenders(options, given, backbone)
    add_lightgcn(options)


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
    check_study(data, backbone, parts, contenders, config)
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
