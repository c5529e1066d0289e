"""Which backbones there are, found in the files of this folder, so that none has to be registered."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from pyg_ckd.nn import models
from pyg_ckd.nn.models.base import Backbone, LateFusion


def backbones() -> dict[str, type[Backbone]]:
    """Return every backbone that can be named on the command line: those that the files of ``nn/models`` define."""
    found: dict[str, type[Backbone]] = {}
    for entry in pkgutil.iter_modules(models.__path__):
        if entry.name in ("base", "adapter", "discovery", "inputs"):
            continue
        module = importlib.import_module(f"{models.__name__}.{entry.name}")
        for name, cls in inspect.getmembers(module, inspect.isclass):
            if issubclass(cls, Backbone) and cls.__module__ == module.__name__ and not inspect.isabstract(cls):
                found[name] = cls
    return dict(sorted(found.items()))


def fusion_of(cls: type[Backbone]) -> str:
    """Return where a backbone fuses its modalities: ``"late"``, ``"early"``, or ``"none"`` if it ignores them."""
    if not cls.uses_features:
        return "none"
    return "late" if issubclass(cls, LateFusion) else "early"
