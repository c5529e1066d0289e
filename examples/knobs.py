"""Find out on validation parts which values of their knobs the strategies should have.

``python -m examples.knobs --data FILE... --backbone GRCN --out DIR`` trains every strategy with its default options and
with one knob of its ``search_space`` at a time halfway to either end of the range, on every data set, with the settings
that the command line would use. It never looks at a test part. ``DIR`` gets a file for each data set and backbone, to
which finished runs are added one by one; runs that are there are not made again.

``python -m examples.knobs --show FILE...`` prints a table: validation Recall@20 of every setting against that of the
default in every column, and which of them are ahead by enough to be recommended (:func:`chosen`).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch_geometric.data import HeteroData

from examples.planted import options_of
from pyg_ckd import Trainer, train_teachers
from pyg_ckd.balance.discovery import build_objective, find_strategy, needs_teachers, strategies
from pyg_ckd.balance.objective import Objective
from pyg_ckd.datasets import load
from pyg_ckd.files import read_json, write_json
from pyg_ckd.nn import Backbone, backbones
from pyg_ckd.study.contenders import Contender
from pyg_ckd.study.knobs import default_of, space_of
from pyg_ckd.study.settings import StudySettings
from pyg_ckd.training import build

LEAST_LEAD = 0.01
"""How far a setting has to be ahead of the default, as a share of its metric and in the mean over all columns. Leads of
one seed shrank by half a percent or more with two others."""

LEAST_APART = 2.0
"""How many times a value on a logarithmic scale has to be apart from the default to be tried."""


def settings_of(backbone: type[Backbone]) -> StudySettings:
    """Return the settings of a study as the command line has them.

    Args:
        backbone: Class of the student.
    """
    parts: dict[str, Any] = {part: dict(values) for part, values in backbone.recommended.items()}
    return StudySettings(**parts)


def with_defaults(setting: str, backbone: type[Backbone]) -> tuple[type[Objective], dict[str, Any]]:
    """Return the strategy of a setting and its options, of which none is a recommended one.

    Args:
        setting: A strategy, perhaps with options, see :func:`examples.planted.options_of`.
        backbone: Class of the student.
    """
    name, options = options_of(setting, settings_of(backbone))
    cls, given = find_strategy(name), {pair.partition("=")[0] for pair in setting.partition(":")[2].split(",")}
    left = cls.recommended.keys() - given
    return cls, {option: value for option, value in options.items() if option not in left}


def variants(name: str, backbone: type[Backbone]) -> Iterator[str]:
    """Yield a strategy with default options, and with one knob at a time halfway to either end of its range.

    On a logarithmic scale, what is less than :data:`LEAST_APART` times apart from the default is left out.

    Args:
        name: The strategy.
        backbone: Class of the student.
    """
    yield name
    contender = Contender(*with_defaults(name, backbone))
    for knob, space in space_of(name, contender, backbone, None).items():
        option = knob.removeprefix("strategy.")
        if option not in contender.strategy.search_space:
            continue
        default = default_of(knob, contender, backbone)
        for end in space.ends:
            between = math.sqrt(default * end) if space.log else (default + end) / 2
            value = round(between) if space.whole else float(f"{between:.2g}")
            apart = max(value, default) / min(value, default) if space.log else math.inf
            if value != default and space.low <= value <= space.high and apart >= LEAST_APART:
                yield f"{name}:{option}={value}"


def train(
    data: HeteroData, backbone: type[Backbone], setting: str, seed: int, max_epochs: int, teachers: Path
) -> dict[str, Any]:
    """Train once, and return what the validation part says.

    Args:
        data: The graph.
        backbone: Class of the student.
        setting: A strategy, perhaps with options.
        seed: The seed.
        max_epochs: The budget in epochs.
        teachers: Where teachers are kept.
    """
    settings, (cls, options) = settings_of(backbone), with_defaults(setting, backbone)
    trainer = Trainer(**{"max_epochs": max_epochs, "extend": 3, **settings.trainer, "seed": seed})
    found = None
    if needs_teachers(cls, options):
        found = train_teachers(backbone, data, trainer, cache_dir=teachers, **settings.teacher, **settings.model)
    start = time.process_time()
    model = build_objective(cls, build(backbone, data, seed, **settings.model), data, found, options)
    history = trainer.fit(model, data)
    seconds = round(time.process_time() - start, 1)
    return {"val": history.best_value, "epochs": len(history.rows), "stopped": history.stopped, "seconds": seconds}


def chosen(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, str]:
    """Return the settings that are to be recommended, by the names of their strategies.

    A setting is recommended if it is ahead of the default in every column, by :data:`LEAST_LEAD` in the mean, and if
    no other setting is further ahead. Of two knobs that both are, only one is turned.

    Args:
        found: From column to setting to the seed's validation metrics.
    """
    best: dict[str, tuple[float, str]] = {}
    for setting in {setting: None for column in found.values() for setting in column}:
        leads = _leads(found, setting)
        if ":" in setting and len(leads) == len(found) and min(leads) > 0 and fmean(leads) >= LEAST_LEAD:
            name = setting.partition(":")[0]
            best[name] = max(best.get(name, (0.0, "")), (fmean(leads), setting))
    return {name: setting for name, (_, setting) in best.items()}


def _leads(found: Mapping[str, Mapping[str, Mapping[str, float]]], setting: str) -> list[float]:
    name, leads = setting.partition(":")[0], []
    for column in found.values():
        seeds = column.get(setting, {}).keys() & column.get(name, {}).keys()
        if seeds:
            leads.append(fmean(column[setting][s] for s in seeds) / fmean(column[name][s] for s in seeds) - 1)
    return leads


def table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[str]:
    """Yield the lines of the table.

    Args:
        found: From column to setting to the seed's validation metrics.
    """
    winners = set(chosen(found).values())
    yield f"| setting | {' | '.join(found)} | mean | recommended |"
    yield "|" + " --- |" * (len(found) + 3)
    for setting in {setting: None for column in found.values() for setting in column}:
        cells = []
        for label, column in found.items():
            leads, seeds = _leads({label: column}, setting), column.get(setting, {})
            value = f"{fmean(seeds.values()):.4f}" if seeds else ""
            cells.append(f"{100 * leads[0]:+.1f} % ({len(seeds)})" if ":" in setting and leads else value)
        leads = _leads(found, setting)
        mean = f"{100 * fmean(leads):+.1f} %" if ":" in setting and leads else ""
        yield f"| {setting} | {' | '.join(cells)} | {mean} | {'yes' if setting in winners else ''} |"


def main() -> None:
    """Make the runs that are missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["synthetic"])
    parser.add_argument("--backbone", default="GRCN", choices=list(backbones()))
    parser.add_argument("--settings", nargs="+", default=[], metavar="STRATEGY[:KNOB=VALUE]", help="these alone")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--max-epochs", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/knobs"))
    parser.add_argument("--teachers", type=Path, default=Path("runs/knobs_teachers"))
    parser.add_argument("--show", nargs="+", type=Path, default=[], metavar="FILE", help="print the table of these")
    args = parser.parse_args()
    if args.show:
        print("\n".join(table({file.stem: _values(read_json(file)) for file in args.show})))
        return
    torch.set_num_threads(1)
    backbone = backbones()[args.backbone]
    asked = {"max_epochs": args.max_epochs, "settings": {part: dict(of) for part, of in backbone.recommended.items()}}
    files = [args.out / f"{Path(path).stem}-{args.backbone}.json" for path in args.data]
    for path, file in zip(args.data, files, strict=True):
        data, record = load(path), read_json(file) if file.exists() else {**asked, "runs": {}}
        if {key: record[key] for key in asked} != asked:
            parser.error(f"{file}: runs of other settings or another --max-epochs; choose another --out")
        for seed in args.seeds:
            for setting in args.settings or _all(backbone):
                if f"{seed}" in record["runs"].setdefault(setting, {}):
                    continue
                run = train(data, backbone, setting, seed, args.max_epochs, args.teachers)
                record["runs"][setting][f"{seed}"] = run
                file.parent.mkdir(parents=True, exist_ok=True)
                write_json(file, record)
                print(f"{file.stem} {setting} (seed {seed}): {run['val']:.4f}, {run['seconds']:.0f} s", flush=True)
    print("\n".join(table({file.stem: _values(read_json(file)) for file in files})))


def _all(backbone: type[Backbone]) -> Iterator[str]:
    for name, cls in strategies().items():
        if cls is Objective:
            yield name
        elif cls.search_space and cls.trains and not cls.takes_new_modalities:  # Those need an earlier model.
            yield from variants(name, backbone)


def _values(record: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {
        setting: {seed: run["val"] for seed, run in runs.items()} for setting, runs in record["runs"].items() if runs
    }


if __name__ == "__main__":
    main()
