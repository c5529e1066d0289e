"""Modality-balanced graph recommenders on PyTorch Geometric."""

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
