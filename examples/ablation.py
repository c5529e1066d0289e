"""Switch every piece of a strategy off on its own, on one data set: which of them does the work?

``python -m examples.ablation --strategy mi-balance`` takes the synthetic data; ``--data FILE.npz`` any other. The
variants are found from the strategy's constructor, whatever strategy it is, one by its import path too:

* every option that is true or false, turned round;
* every option with a few named values, set to each of the others;
* no teachers, of a strategy that can do without;
* every option that a strategy names in ``neutral``, set to what takes its part out of the training;
* every other option that a search may turn, set to 0, or to infinity or 1 where 0 is refused.

Variants that the constructor refuses are named below the table. All are contenders of one study: runs are kept in
``--out``, teachers are trained once per seed, and the same call goes on after a break. Prints a Markdown table with
means and standard deviations over seeds; differences are to the whole strategy.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from torch_geometric.data import HeteroData

from pyg_ckd.balance.discovery import find_strategy, options_of
from pyg_ckd.balance.objective import Objective
from pyg_ckd.balance.wrapper import INNER
from pyg_ckd.datasets import load
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation.statistics import mean_std
from pyg_ckd.nn import Backbone, backbones
from pyg_ckd.study import Study, StudySettings
from pyg_ckd.study.contenders import Contender, check_options
from pyg_ckd.study.formats import PLAIN
from pyg_ckd.study.results import headline_metric, run_mean, run_values
from pyg_ckd.study.text import percent, spread_text

NEUTRAL = (0, math.inf, 1)
NONSENSE = "no such value"


def variants(cls: type[Objective], refusal: Any, given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield option and value of every variant of a strategy, in the order of its constructor.

    Args:
        cls: The strategy.
        refusal: Called with options, returns why the constructor refuses them, or an empty text.
        given: Options that all variants have.
    """
    for name, parameter in options_of(cls).items():
        default = given.get(name, parameter.default)
        if name in INNER:
            continue
        if isinstance(default, bool):
            yield name, not default
        elif name in cls.neutral:
            if default != cls.neutral[name]:
                yield name, cls.neutral[name]
        elif isinstance(default, str):
            named = literals(cls, name) or names_in(refusal({**given, name: NONSENSE}))
            yield from ((name, value) for value in named if value != default)
        elif name in cls.search_space:
            low, high = cls.search_space[name]
            # What is neutral lies outside of what a search may set; of whole numbers only 0 can be.
            values = [v for v in NEUTRAL[: 1 if isinstance(default, int) else None] if not low <= v <= high]
            fitting = [type(default)(v) for v in values if v != default]
            neutral = next((v for v in fitting if not refusal({**given, name: v})), None)
            if neutral is not None and default not in values:
                yield name, neutral


def literals(cls: type[Objective], option: str) -> list[str]:
    """Return the values of an option that is annotated with them; none of any other."""
    try:
        hint = get_type_hints(cls.__init__).get(option)
    except NameError:  # Annotated with what its module imports for checkers of types alone.
        return []
    return [value for value in get_args(hint) if isinstance(value, str)]


def without_teachers(cls: type[Objective]) -> type[Objective] | None:
    """Return the strategy without teachers, :obj:`None` if it needs none or cannot do without."""
    if not cls.needs_teachers or NoneType not in get_args(get_type_hints(cls.__init__).get("teachers")):
        return None
    known = inspect.signature(cls.__init__)

    def init(self: Any, student: Any, *args: Any, **options: Any) -> None:
        cls.__init__(self, student, None, *args, **options)  # type: ignore[arg-type]

    own = [parameter for name, parameter in known.parameters.items() if name != "teachers"]
    init.__signature__ = known.replace(parameters=own)  # type: ignore[attr-defined]
    members = {"__init__": init, "__module__": __name__, "needs_teachers": False, "name": f"{cls.name}-untaught"}
    return type(f"{cls.__name__}Untaught", (cls,), members)


def names_in(message: str) -> list[str]:
    """Return the names that a refusal says are valid; none if it names none."""
    found = re.search(r"valid names are (.+)$", message)
    return [] if found is None else found[1].split(", ")


def ablate(
    data: HeteroData,
    backbone: type[Backbone],
    cls: type[Objective],
    folder: Path,
    options: Mapping[str, Any] | None = None,
    settings: StudySettings | None = None,
    seeds: Sequence[int] = (0,),
) -> str:
    """Train all variants and return the table, with what was left out below it.

    Args:
        data: The graph.
        backbone: Class of the model.
        cls: The strategy.
        folder: Folder of the study.
        options: Options of the strategy that all variants have.
        settings: What the study is made of.
        seeds: The seeds.

    Raises:
        InputError: If the strategy has nothing to switch, or cannot be used on this graph or backbone.
    """
    given, settings = dict(options or {}), settings or StudySettings()

    def refusal(chosen: Mapping[str, Any], strategy: type[Objective] = cls) -> str:
        try:
            check_options(backbone, data, settings.model, Contender(strategy, chosen))
        except InputError as error:
            return str(error)
        return ""

    why = refusal(given)
    if why:
        raise InputError(why)
    contenders, left_out = {cls.name: Contender(cls, given)}, {}
    for name, value in variants(cls, refusal, given):
        title, chosen = f"{name} = {value}", {**given, name: value}
        why = refusal(chosen)
        if why:
            left_out[title] = why
        else:
            contenders[title] = Contender(cls, chosen)
    untaught = without_teachers(cls)
    if untaught is not None:
        why = refusal(given, untaught)
        if why:
            left_out["no teachers"] = why
        else:
            contenders["no teachers"] = Contender(untaught, given)
    if len(contenders) == 1:
        raise InputError(f"strategy: found {cls.name}, which has nothing to switch off, expected one that has")
    log = lambda line: print(line, file=sys.stderr)  # noqa: E731
    results = Study(data, backbone, folder, settings, log, contenders, baselines=()).run(seeds)
    notes = [f"- {title}: left out, {why}" for title, why in left_out.items()]
    return "\n".join([table(results, cls.name), *(["", *notes] if notes else [])])


def table(results: Mapping[str, Any], whole: str) -> str:
    """Return the Markdown table of a study.

    Args:
        results: The results.
        whole: The contender that the others are compared with.
    """
    metric, modalities = headline_metric(results), list(results["data"]["modalities"])
    head = [
        "variant",
        f"validation {metric}",
        f"test {metric}",
        "against the whole",
        *(f"{m} alone" for m in modalities),
    ]
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    names = [PLAIN, whole, *(c["name"] for c in results["contenders"] if c["name"] not in (PLAIN, whole))]
    base = run_mean(results, whole, metric)
    for name in names:
        parts = ["val", "test", *(f"views/{m}" for m in modalities)]
        cells = [spread_text(*mean_std(v), len(v)) for v in (run_values(results, name, metric, p) for p in parts)]
        share = run_mean(results, name, metric) / base - 1 if base > 0 and name != whole else math.nan
        cells.insert(2, percent(share, 1, sign=True))
        lines.append(f"| {' | '.join([f'**{name}**' if name == whole else name, *cells])} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run all variants and print the table; return 2 after bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", default="ckd", help="its name, or its import path; ckd")
    parser.add_argument("--options", type=json.loads, default={}, metavar="JSON", help="its options in all variants")
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--data_options", type=json.loads, default={}, metavar="JSON", help="options of its reader")
    parser.add_argument("--backbone", default="VBPR", choices=sorted(backbones()))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--max_epochs", type=int, default=100)
    parser.add_argument("--patience", type=int, default=500, help="steps without a rise")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--l2", type=float, default=1e-2, help="of all students and teachers; --options has its own")
    parser.add_argument("--out", type=Path, help="folder of the study; ablation-STRATEGY")
    args = parser.parse_args(argv)
    try:
        cls = find_strategy(args.strategy)
        options = {**({"l2": args.l2} if "l2" in options_of(cls) else {}), **args.options}
        trainer = {"max_epochs": args.max_epochs, "patience": args.patience, "lr": args.lr, "track_views": True}
        settings = StudySettings(plain={"l2": args.l2}, teacher={"l2": args.l2}, trainer={**trainer, "extend": 1})
        data = load(args.data, **args.data_options)
        out = args.out or Path(f"ablation-{cls.name}")
        text = ablate(data, backbones()[args.backbone], cls, out, options, settings, range(args.seeds))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    seeds = f"{args.seeds} seed{'s' * (args.seeds > 1)}"
    print(f"{cls.name} on {args.backbone}, {Path(args.data).stem}, {seeds}\n\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
