"""Contenders and settings of a study as plain values, as files hold them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from pyg_ckd.options import is_plain
from pyg_ckd.study.contenders import Contender
from pyg_ckd.study.runs import identity
from pyg_ckd.study.settings import StudySettings
from pyg_ckd.training import Trainer


def described(contender: Contender, trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Return a contender as plain values: its strategy, options, and what it has of its own of backbone and trainer.

    Args:
        contender: The contender.
        trainer: Options of the study's trainer.
    """
    parts = {"model": contender.model, "trainer": described_options(contender.trainer, trainer)}
    own = {part: dict(options) for part, options in parts.items() if options}
    return {"strategy": identity(contender.strategy)["path"], "options": dict(contender.options), **own}


def described_settings(settings: StudySettings) -> dict[str, Any]:
    """Return settings as plain values.

    Args:
        settings: The settings.
    """
    return {
        **vars(settings),
        "trainer": described_options(settings.trainer),
        "teacher": described_options(settings.teacher, settings.trainer),
        "lightgcn": described_options(settings.lightgcn),
    }


def described_options(options: Mapping[str, Any], trainer: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return options as plain values; of what a trainer was given to call, what the trainer says of it.

    What does not decide about results, such as callbacks, is left out if it is not plain.

    Args:
        options: The options, those of a trainer among them.
        trainer: Options of a trainer that they replace. (default: :obj:`None`, none)
    """
    brought = {name for name, value in options.items() if not is_plain(value)}
    if not brought:
        return dict(options)
    known = inspect.signature(Trainer).parameters
    settings = Trainer(**{**(trainer or {}), **{n: v for n, v in options.items() if n in known}}).settings()
    return {n: settings[n] if n in brought else v for n, v in options.items() if n not in brought or n in settings}


def with_trainer(settings: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a training with those defaults of the trainer that only others name, for messages.

    Args:
        settings: The settings, which leave out defaults.
        others: The settings that they are compared with.
    """
    own, named = (part if isinstance(part := s.get("trainer"), Mapping) else {} for s in (settings, others))
    defaults = {name: parameter.default for name, parameter in inspect.signature(Trainer).parameters.items()}
    plain = {name for name in named.keys() - own.keys() if name in defaults and not isinstance(named[name], Mapping)}
    return {**settings, "trainer": {**{name: defaults[name] for name in plain}, **own}}
