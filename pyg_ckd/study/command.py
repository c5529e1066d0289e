"""The line that trains a contender of a study by itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyg_ckd.balance.discovery import options_of, strategies
from pyg_ckd.balance.objective import Objective
from pyg_ckd.nn import Backbone
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

    Options that the command has by itself are left out, as are those that are no plain values.

    Args:
        contender: The contender.
        backbone: Class of the student.
        settings: What the study is made of.
        data: The words that say which graph to load.
        seed: The seed.
        out: The folder.
    """
    cls, best = contender.strategy, backbone.recommended
    usual = StudySettings(plain=dict(best.get("plain", {})), distillation=dict(best.get("distillation", {})))
    name = cls.name if strategies().get(cls.name) is cls else f"{cls.__module__}.{cls.__qualname__}"
    words = ["pyg-ckd", "train", *data, "--backbone", backbone.__name__, "--objective", name]
    own = {n: p.default for n, p in options_of(cls).items()} | default_options(cls, usual)
    model = {**_defaults(backbone), **best.get("model", {})}
    trainer = {**_defaults(Trainer), **best.get("trainer", {})}
    student = {**model, **settings.model, **contender.model}
    training = {**trainer, **settings.trainer, **contender.trainer}
    words += _words("strategy", {**own, **contender.options}, own)
    words += _words("model", student, model) + _words("trainer", training, trainer)
    if contender.needs_teachers:
        teacher = teacher_run("", "", backbone, settings, seed)
        loss = {**{n: p.default for n, p in options_of(Objective).items()}, **best.get("teacher", {})}
        words += _words("teacher", {**loss, **teacher.options}, loss)
        words += _words("teacher", {**model, **teacher.model}, student)
        words += _words("teacher", {**trainer, **teacher.trainer}, training)
    return [*words, "--seed", str(seed), "--out", out]


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
    if isinstance(value, (list, tuple)):
        return ",".join(map(_word, value))
    return "null" if value is None else str(value)
