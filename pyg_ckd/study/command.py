"""The line that trains a contender of a study by itself."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyg_ckd.balance.discovery import inner_strategy, options_of, strategies
from pyg_ckd.balance.objective import Objective
from pyg_ckd.files import plain_values
from pyg_ckd.nn import Backbone, backbones
from pyg_ckd.nn.models.base import SIZES
from pyg_ckd.options import is_plain
from pyg_ckd.study.contenders import Contender, default_options
from pyg_ckd.study.plan import teacher_run
from pyg_ckd.study.settings import StudySettings
from pyg_ckd.training import Trainer

LEFT_OUT = (
    *("device", "capture", "progress", "checkpoint_dir", "checkpoint_minutes", "callbacks", "loggers", "seed"),
    "track_views",
)
"""Options of the trainer that do not decide about a model, or that the line gives otherwise."""


def train_command(
    contender: Contender,
    backbone: type[Backbone],
    settings: StudySettings,
    data: Sequence[str] = ("--data", "DATA"),
    seed: int = 0,
    out: str = "model",
) -> list[str]:
    """Return the words of a call of ``pyg-ckd train`` that trains a contender as a study does.

    The command begins with what a backbone recommends, a study with the defaults of the classes: options that the
    command has by itself are left out, as are those that are no plain values.

    Args:
        contender: The contender.
        backbone: Class of the student.
        settings: What the study is made of.
        data: The words that say which graph to load.
        seed: The seed.
        out: The folder.

    Returns:
        The words; none for a backbone from outside the library, which the command does not know.
    """
    if backbones().get(backbone.__name__) is not backbone:
        return []
    cls, best = contender.strategy, backbone.recommended
    name = cls.name if strategies().get(cls.name) is cls else f"{cls.__module__}.{cls.__qualname__}"
    words = ["pyg-ckd", "train", *data, "--backbone", backbone.__name__, "--objective", name]
    recommended = StudySettings(plain=dict(best.get("plain", {})), distillation=dict(best.get("distillation", {})))
    usual = _options(cls, default_options(cls, recommended))
    words += _words("strategy", _options(cls, contender.options), usual)
    model, trainer = _defaults(backbone), _defaults(Trainer)
    usual_model, usual_trainer = {**model, **best.get("model", {})}, {**trainer, **best.get("trainer", {})}
    student = {**model, **settings.model, **contender.model}
    training = {**trainer, **settings.trainer, **contender.trainer}
    words += _words("model", student, usual_model) + _words("trainer", training, usual_trainer)
    if contender.needs_teachers:
        teacher, loss = teacher_run("", "", backbone, settings, seed), _options(Objective, {})
        words += _words("teacher", {**loss, **teacher.options}, {**loss, **best.get("teacher", {})})
        words += _words("teacher", {**model, **teacher.model}, student)
        words += _words("teacher", {**trainer, **teacher.trainer}, training)
    return [*words, "--seed", str(seed), "--out", out]


def _options(cls: type[Objective], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options of a strategy, and of the one inside a wrapper."""
    found = {**{name: p.default for name, p in options_of(cls).items()}, **given}
    inner = inner_strategy(cls, given)
    if inner is not None:
        found["inner_options"] = _options(inner, given.get("inner_options") or {})
    return found


def _defaults(target: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(target).parameters
    return {name: p.default for name, p in parameters.items() if name not in SIZES}


def _words(prefix: str, wanted: Mapping[str, Any], usual: Mapping[str, Any]) -> list[str]:
    """Return the options that are wanted and that the command would not have by itself."""
    found = []
    for name, value in wanted.items():
        if name not in LEFT_OUT and is_plain(value) and value != usual.get(name, inspect.Parameter.empty):
            found += [f"--{prefix}.{name}", _word(value)]
    return found


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return json.dumps(plain_values(value))
    if isinstance(value, (list, tuple)):
        return ",".join(map(_word, value))
    return "null" if value is None else str(value)
