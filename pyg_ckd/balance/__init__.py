"""Objectives: plain joint training, counterfactual distillation, and the estimator of modality effects."""

from pyg_ckd.balance.base import Objective, as_objective
from pyg_ckd.balance.ckd import DistillationWrapper
from pyg_ckd.balance.effect import EffectReport, ModalityEffectEstimator, estimate_effects

__all__ = [
    "DistillationWrapper",
    "EffectReport",
    "ModalityEffectEstimator",
    "Objective",
    "as_objective",
    "estimate_effects",
]
