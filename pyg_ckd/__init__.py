"""Modality-balanced graph recommenders on PyTorch Geometric."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyg_ckd.balance import DistillationWrapper, ModalityEffectEstimator, Objective, estimate_effects
    from pyg_ckd.evaluation import evaluate
    from pyg_ckd.nn import as_backbone
    from pyg_ckd.training import Trainer, train_teachers

__version__ = "0.1.0"

__all__ = [
    "DistillationWrapper",
    "ModalityEffectEstimator",
    "Objective",
    "Trainer",
    "__version__",
    "as_backbone",
    "estimate_effects",
    "evaluate",
    "train_teachers",
]

_HOMES = {
    "DistillationWrapper": "balance",
    "ModalityEffectEstimator": "balance",
    "Objective": "balance",
    "Trainer": "training",
    "as_backbone": "nn",
    "estimate_effects": "balance",
    "evaluate": "evaluation",
    "train_teachers": "training",
}
"""Where the public names live; they are imported when they are asked for, so that ``pyg-ckd --version`` is quick."""
_ROOMS = ("balance", "data", "datasets", "evaluation", "nn", "report", "scoring", "serving", "study", "training")

if not TYPE_CHECKING:  # A type checker shall go on refusing names that are not there.

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        elif name in _ROOMS:
            value = import_module(f"{__name__}.{name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
