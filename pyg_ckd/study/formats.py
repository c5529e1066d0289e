"""The formats of ``results.json``: what a study wrote is checked, and older files are converted when they are read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from pyg_ckd.errors import InputError
from pyg_ckd.files import as_path, read_json

FORMAT = 2
FILE = "results.json"
PLAIN = "plain"
TEACHER = "teacher:"
HEADLINE = "recall@20"
BATCH = "trainer.batch_size"
"""The knob that decides how many steps an epoch has."""

KINDS = ("baseline", "teacher", "contender")

_OLD_BASELINES = ("popularity", "lightgcn")
_OLD_CONTENDERS = {
    "plain": ("pyg_ckd.balance.objective.Objective", "plain"),
    "ckd": ("pyg_ckd.balance.ckd.DistillationWrapper", "distillation"),
}
"""Of format 1: from the two names that it knows to the class and to the settings that hold its options."""


def load_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the results of a study.

    Args:
        path: The folder of the study, or its ``results.json``. Files of format 1 are converted.

    Returns:
        The results in format 2.

    Raises:
        InputError: If there is no such file, or it does not hold the results of a study.
    """
    file = as_path(path)
    file = file / FILE if file.is_dir() else file
    content = read_json(file)
    if not isinstance(content, Mapping):
        raise InputError(f"{file}: found no results of a study, expected the folder that 'pyg-ckd compare' wrote to")
    return current_results(content)


def check_results(results: Mapping[str, Any]) -> None:
    """Refuse what is not the results of a study.

    Args:
        results: The dict that ``results.json`` holds.

    Raises:
        InputError: If it is no dict, the format is unknown, or a run has no name, no test metrics or an unknown kind.
    """
    if not isinstance(results, Mapping):
        raise InputError(
            f"results: found {type(results).__name__}, expected the dict that a study writes to results.json; read it "
            "with load_results"
        )
    if results.get("format", 1) not in (1, FORMAT):
        raise InputError(
            f"results: found format {results['format']!r}, expected 1 or {FORMAT}; update pyg-ckd to read newer files"
        )
    runs = results.get("runs")
    if not isinstance(runs, Sequence) or isinstance(runs, str):
        raise InputError("results: found no list 'runs', expected the dict that a study writes to results.json")
    for index, run in enumerate(runs):
        if not isinstance(run, Mapping):
            raise InputError(f"results: runs[{index}] is {type(run).__name__}, expected a dict with 'name' and 'test'")
        for key, kind in (("name", str), ("test", Mapping)):
            if not isinstance(run.get(key), kind):
                found = f"{type(run[key]).__name__} as" if key in run else "no"
                raise InputError(
                    f"results: runs[{index}] has {found} {key!r}, expected a name and a dict of test metrics"
                )
        if run.get("kind", KINDS[0]) not in KINDS:
            raise InputError(
                f"results: found kind {run['kind']!r} of runs[{index}], expected one of {', '.join(KINDS)}"
            )


def current_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """Check the results of a study and return them in the current format; what is passed in stays as it is.

    What format 1 does not say is :obj:`None` (how long a run trained, why it stopped) or missing (the share of the mean
    lead among the effects). Its comparisons are families of one, so that Holm's correction changes nothing.

    Args:
        results: The dict that ``results.json`` holds, of format 1 or 2.

    Raises:
        InputError: If these are not the results of a study.
    """
    check_results(results)
    return _completed(results) if results.get("format", 1) == FORMAT else _from_first(results)


def best_of(results: Mapping[str, Any], metric: str) -> dict[str, Any] | None:
    """Return the entry ``winner``: the contender with the best mean of a validation metric, the first of equals.

    Args:
        results: The results in format 2.
        metric: The metric.
    """
    means: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(run["name"] for run in results["runs"] if run.get("kind") == "contender"):
        seeds = [run for run in results["runs"] if run["name"] == name]
        for part in ("val", "test"):
            values = [(run.get(part) or {}).get(metric) for run in seeds]
            found = [float(value) for value in values if value is not None and value == value]
            if found:
                means.setdefault(name, {})[part] = sum(found) / len(found)
    chosen = [name for name, mean in means.items() if "val" in mean]
    if not chosen:
        return None
    name = max(chosen, key=lambda name: means[name]["val"])
    return {"name": name, "metric": metric, "val": means[name]["val"], "test": means[name].get("test")}


def _completed(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return results of the current format with whatever may be left out."""
    baselines = list(results.get("baselines") or ())

    def kind(name: str) -> str:
        return "teacher" if name.startswith(TEACHER) else "baseline" if name in baselines else "contender"

    runs = [run if "kind" in run else {**run, "kind": kind(run["name"])} for run in results["runs"]]
    found = {**results, "runs": runs, "baselines": baselines}
    return found if found.get("winner") else found | {"winner": best_of(found, results.get("monitor") or HEADLINE)}


def _from_first(results: Mapping[str, Any]) -> dict[str, Any]:
    settings = results.get("settings") or {}
    runs = [_run_from_first(run, settings) for run in results["runs"]]
    names = list(dict.fromkeys(run["name"] for run in runs if run["kind"] == "contender"))
    names.sort(key=lambda name: name != PLAIN)
    kept = {key: value for key, value in results.items() if key != "effects_ckd"}
    effects = {"plain": results.get("effects") or {}, "ckd": results.get("effects_ckd") or {}}
    converted = {
        **kept,
        "format": FORMAT,
        "contenders": [_contender_from_first(name, settings) for name in names],
        "baselines": [name for name in _OLD_BASELINES if any(run["name"] == name for run in runs)],
        "left_out": {},
        "runs": runs,
        "effects": {name: table for name, table in effects.items() if table},
        "effects_split": "val",
        "comparisons": [{**item, "p_holm": item["p_value"]} for item in results.get("comparisons") or ()],
    }
    return converted | {"winner": best_of(converted, results.get("monitor") or HEADLINE)}


def _contender_from_first(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    strategy, part = _OLD_CONTENDERS.get(name, (None, ""))
    return {"name": name, "strategy": strategy, "options": settings.get(part) or {}, "needs_teachers": name == "ckd"}


def _run_from_first(run: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    name = run["name"]
    kind = "baseline" if name in _OLD_BASELINES else "teacher" if name.startswith(TEACHER) else "contender"
    best, most = run.get("best_epoch"), (settings.get("trainer") or {}).get("max_epochs")
    converged = best < most if best is not None and most is not None else None
    unknown: dict[str, Any] = {"epochs": None, "stopped": None, "key": None, "settings": {}, "training_seconds": None}
    return {**unknown, **run, "kind": kind, "converged": converged}
