"""The baselines of a study: closed forms, which are fitted once, and LightGCN, which is trained under every seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch_geometric.data import HeteroData

from pyg_ckd.arguments import shown
from pyg_ckd.balance.objective import Objective
from pyg_ckd.data.closed_form import check_catalogue
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.evaluation import baselines
from pyg_ckd.evaluation.baselines import BASELINES, fit_baseline
from pyg_ckd.evaluation.baselines.fit import INSTEAD
from pyg_ckd.nn import LightGCN
from pyg_ckd.study.contenders import Contender, check_options, check_warmup, side_by_side
from pyg_ckd.study.runs import Run, trained
from pyg_ckd.study.settings import StudySettings, check_trainer_is_free

TRAINED = "lightgcn"
DEFAULT = ("popularity", "item-knn", "item-knn-content", "ease", "ease-content", TRAINED)
TAKEN_OVER = ("max_epochs", "extend", "monitor", "device", "capture", "precision", "checkpoint_minutes", "progress")
"""What the training of LightGCN takes over from the student's; the rest are its own recommended settings."""


def known_baselines() -> tuple[str, ...]:
    """Return the names of all baselines."""
    return tuple(dict.fromkeys((*BASELINES, TRAINED)))


def as_baselines(given: str | Sequence[str] | Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the baselines of a study by name, with their options.

    Args:
        given: Names, or a text with commas between them, or a mapping from name to options.

    Raises:
        InputError: If these are no names, a name is unknown or given twice, or options are no mapping or hold a seed.
    """
    if not isinstance(given, Iterable):
        raise InputError(
            f"baselines: found {shown(given)}, expected names such as ['popularity', 'ease'], a mapping from name to "
            "options, or [] for none"
        )
    names = [name.strip() for name in given.split(",") if name.strip()] if isinstance(given, str) else list(given)
    options = given if isinstance(given, Mapping) else {}
    known, found = known_baselines(), dict[str, dict[str, Any]]()
    for name in names:
        if name not in known:
            raise unknown_name("baseline", name, known)
        own = options.get(name) or {}
        if name in found:
            raise InputError(f"baseline {name!r}: found it twice, expected it once")
        if not isinstance(own, Mapping):
            raise InputError(f"baseline {name!r}: found options {own!r}, expected a mapping from option to value")
        if own and name != TRAINED:
            raise InputError(
                f"baseline {name!r}: found options {', '.join(own)}, expected none, for its knobs are chosen on the "
                "validation part"
            )
        check_trainer_is_free(own, name)
        found[name] = dict(own)
    return found


def baseline_run(
    name: str, options: Mapping[str, Any], data: str, monitor: str, settings: StudySettings, seed: int
) -> Run:
    """Return the run of a baseline.

    Args:
        name: The baseline.
        options: Its options.
        data: Fingerprint of the graph.
        monitor: The metric by which its knobs are chosen.
        settings: What the study is made of.
        seed: The seed; that of a closed form is 0.
    """
    if name == TRAINED:
        found = lightgcn(settings, options)
        trainer = {**found.trainer, "seed": seed}
        return trained(name, "baseline", seed, data, LightGCN, found.model, Objective, found.options, trainer)
    decides = {"data": data, "baseline": name, "monitor": monitor, "code": _code()}
    return Run(name, "baseline", 0, decides)


def fit(run: Run, data: HeteroData, monitor: str) -> tuple[Any, dict[str, Any], float]:
    """Fit a closed form and return what ranks, its chosen knobs and the seconds that it took.

    Args:
        run: The baseline's run.
        data: The graph.
        monitor: The metric by which knobs are chosen.

    Raises:
        InputError: If the baseline does not fit this graph.
    """
    if run.name in INSTEAD:  # A study has no option for the limit.
        mend = f"compare with {INSTEAD[run.name]} or {TRAINED}, which take any number"
        check_catalogue(run.name, data["item"].num_nodes, mend)
    found = fit_baseline(run.name, data, monitor)
    return found.embeddings, dict(found.settings), float(found.seconds)


def lightgcn(settings: StudySettings, options: Mapping[str, Any]) -> Contender:
    """Return LightGCN with all options that differ from the defaults of the classes.

    Args:
        settings: What the study is made of.
        options: Options of the baseline beside those of the settings.
    """
    best, own = LightGCN.recommended, side_by_side({**settings.lightgcn, **options}, LightGCN)
    trainer = {name: value for name, value in settings.trainer.items() if name in TAKEN_OVER}
    trainer |= {**best["trainer"], "track_views": False, **own.trainer}
    return Contender(Objective, {**best["plain"], **own.options}, {**best["model"], **own.model}, trainer)


def check_lightgcn(data: HeteroData, settings: StudySettings, options: Mapping[str, Any]) -> None:
    """Refuse options that LightGCN cannot be trained with, before anything is written.

    Args:
        data: The graph.
        settings: What the study is made of.
        options: Options of the baseline beside those of the settings.

    Raises:
        InputError: If there is one.
    """
    chosen = lightgcn(settings, options)
    try:
        check_options(LightGCN, data, {}, chosen)
        check_warmup(data, chosen.trainer)
    except InputError as error:
        raise InputError(f"{TRAINED}: {error}") from None


def _code() -> str:
    files = sorted(Path(str(baselines.__file__)).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
