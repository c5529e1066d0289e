"""Every backbone on every data set, plain and distilled, in one table: ``python -m examples.zoo``.

Each study stands in ``DIR/<data>-<backbone>`` and all runs in ``DIR/runs``, each made once: the same command goes on
after a break, and studies of a data set that train for as many epochs share the runs of the LightGCN baseline; a table
shows those of the longest. Settings are those that the backbones name as ``recommended``, one for all data sets, or a
file ``<data>_<backbone>.yaml`` in ``--configs``, such as ``examples/configs/zoo``. A run whose metric still rises at
the end goes on, as in any study; runs that had not converged are counted. With ``--under MINUTES``, backbones that need
as much time or more for all epochs of a plain training are left out, and the line below the table says how long they
would take. The tables are written to ``DIR/zoo.md`` after every study; those in ``docs/results/zoo.md`` came from::

    python -m examples.zoo --data tiktok.npz lastfm.npz --seeds 3 --configs examples/configs/zoo --out DIR
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import yaml
from torch_geometric.data import HeteroData

from examples.results import METRIC, cell, p_value, seconds, views
from pyg_ckd import Objective
from pyg_ckd.balance import DistillationWrapper
from pyg_ckd.datasets import load
from pyg_ckd.evaluation.statistics import mean_std
from pyg_ckd.files import atomic_path
from pyg_ckd.nn import Backbone
from pyg_ckd.nn.models.discovery import backbones, fusion_of
from pyg_ckd.report.report import write_report
from pyg_ckd.study import Study, StudySettings
from pyg_ckd.study.baselines import DEFAULT as BASELINES
from pyg_ckd.study.results import not_converged
from pyg_ckd.training import Trainer, build

PARTS = ("model", "plain", "teacher", "distillation", "trainer")
DEFAULT_EPOCHS = signature(Trainer).parameters["max_epochs"].default
DEFAULT_WEIGHT = signature(DistillationWrapper).parameters["distillation_weight"].default
HEAD = ["backbone", "fusion", "seeds", "weight", "plain", "CKD", "difference", "p (users)", "p (seeds)"]
HEAD += ["view / teacher, plain", "view / teacher, CKD", "s/epoch plain, CKD", "not converged"]


def settings_of(cls: type[Backbone], config: Path | None, max_epochs: int | None) -> StudySettings:
    """Return the settings of a study: the backbone's own, those of a file if there is one, and the number of epochs."""
    chosen: dict[str, Any] = {part: dict(cls.recommended.get(part, {})) for part in PARTS}
    if config is not None:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
        for part in PARTS:
            chosen[part] |= content.get(part, {})
    chosen["trainer"] |= {"progress": False, "track_views": False}
    if max_epochs is not None:
        chosen["trainer"]["max_epochs"] = max_epochs
    return StudySettings(**chosen)


def late(results: dict[str, Any]) -> str:
    """Return which students had not converged, under how many seeds."""
    counts = {name: not_converged(results, name) for name in ("plain", "ckd")}
    return ", ".join(f"{name} {count} of {seeds}" for name, (count, seeds) in counts.items() if count) or "–"


def row(results: dict[str, Any], cls: type[Backbone]) -> list[str]:
    """Return the line of a study."""
    mean = {
        name: mean_std([run["test"][METRIC] for run in results["runs"] if run["name"] == name])[0]
        for name in ("plain", "ckd")
    }
    return [
        results["settings"]["backbone"],
        fusion_of(cls),
        str(len(results["settings"]["seeds"])),
        f"{results['settings']['distillation'].get('distillation_weight', DEFAULT_WEIGHT):g}",
        *(cell(results, name) for name in mean),
        f"{mean['ckd'] / mean['plain'] - 1:+.1%}" if mean["plain"] else "–",
        *(p_value(results, over) for over in ("users", "seeds")),
        *(views(results, name) for name in mean),
        seconds(results),
        late(results),
    ]


class Clock:
    """A callback that keeps the CPU time at the end of every epoch, in seconds."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_epoch_end(self) -> None:
        """Keep the time."""
        self.times.append(time.process_time())


def most_minutes(data: HeteroData, cls: type[Backbone], settings: StudySettings) -> float:
    """Return the CPU minutes that a plain training takes if it uses all its epochs.

    It trains for two epochs, of which the second is timed.

    Args:
        data: The graph.
        cls: The backbone.
        settings: Settings of the study.
    """
    objective = Objective(build(cls, data, 0, **settings.model), **settings.plain)
    clock, trainer = Clock(), settings.trainer | {"max_epochs": 2, "extend": 1, "seed": 0}
    Trainer(**trainer, callbacks=[clock]).fit(objective, data)
    return (clock.times[1] - clock.times[0]) * settings.trainer.get("max_epochs", DEFAULT_EPOCHS) / 60


def table(
    data: str, rows: Sequence[Sequence[str]], baselines: dict[str, str], minutes: dict[str, float], under: float | None
) -> str:
    """Return the Markdown table of a data set.

    Args:
        data: What it is called.
        rows: The lines.
        baselines: Values of the baselines by name.
        minutes: CPU minutes of the backbones that were left out.
        under: From how many minutes they are.
    """
    lines = [f"## {data}", ""]
    if rows:
        lines += [", ".join(f"{name} {value}" for name, value in baselines.items()), ""]
        lines += [f"| {' | '.join(HEAD)} |", f"|{' --- |' * len(HEAD)}"]
        lines += [*(f"| {' | '.join(cells)} |" for cells in rows), ""]
    if minutes:
        found = ", ".join(f"{name} {value:.1f}" for name, value in minutes.items())
        lines += [
            f"Left out, because all epochs of a plain training take {under:g} minutes of one core or more: {found}.",
            "",
        ]
    return "\n".join(lines)


def write(file: Path, tables: dict[str, str]) -> None:
    """Write the tables of all data sets to a file."""
    with atomic_path(file) as path:
        path.write_text("\n".join(tables.values()), encoding="utf-8")


def main() -> None:
    """Run all studies that are not finished yet and write the table."""
    found = {name: cls for name, cls in backbones().items() if cls.uses_features}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["synthetic"], help="synthetic, .npz files or folders")
    order = sorted(found, key=lambda name: (fusion_of(found[name]) != "late", name))
    parser.add_argument("--backbones", nargs="+", default=order, choices=order, metavar="NAME")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="processes that train at the same time")
    parser.add_argument("--max_epochs", type=int, default=None, help="instead of what the settings say")
    parser.add_argument("--under", type=float, default=None, help="minutes of one core that all epochs may take")
    parser.add_argument("--configs", type=Path, default=None, help="folder of files <data>_<backbone>.yaml")
    parser.add_argument("--out", type=Path, default=Path("zoo"))
    args = parser.parse_args()
    if args.configs and not args.configs.is_dir():
        parser.error(f"--configs: found no folder {args.configs}, expected one with files <data>_<backbone>.yaml")
    names = [Path(source).stem for source in args.data]
    if len(set(names)) < len(names):
        parser.error(
            f"--data: found the names {names}, expected different ones, for they name the folders of the results"
        )
    tables: dict[str, str] = {}
    for source in args.data:
        data, name = load(source), Path(source).stem
        rows, baselines, longest = [], {}, 0
        minutes: dict[str, float] = {}
        for backbone in args.backbones:
            cls, folder = found[backbone], args.out / f"{name}-{backbone}"
            config = args.configs / f"{name}_{backbone}.yaml" if args.configs else None
            config = config if config is not None and config.exists() else None
            sys.stderr.write(f"{name}, {backbone}, settings: {config or 'recommended'}\n")
            settings = settings_of(cls, config, args.max_epochs)
            if args.under is not None and (most := most_minutes(data, cls, settings)) >= args.under:
                minutes[backbone] = most
                sys.stderr.write(f"left out: {most:.1f} minutes\n")
                continue
            epochs = settings.trainer.get("max_epochs", DEFAULT_EPOCHS)
            study = Study(
                data,
                cls,
                folder,
                settings,
                lambda line: sys.stderr.write(f"{line}\n"),
                baselines=BASELINES,
                runs=args.out / "runs",
                workers=args.workers,
            )
            seeds = list(range(args.seeds))
            results = study.run(seeds)
            write_report(folder, results, study.histories(seeds))
            rows.append(row(results, cls))
            if epochs > longest:
                longest = epochs
                made = {run["name"] for run in results["runs"]}  # A closed form of too many items is left out.
                baselines = {base: cell(results, base) if base in made else "–" for base in BASELINES}
            tables[name] = table(f"{name}: test {METRIC}", rows, baselines, minutes, args.under)
            write(args.out / "zoo.md", tables)
        tables[name] = table(f"{name}: test {METRIC}", rows, baselines, minutes, args.under)
        write(args.out / "zoo.md", tables)
    print("\n".join(tables.values()))


if __name__ == "__main__":
    main()
