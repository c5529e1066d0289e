"""Objectives: plain joint training, and one file for every strategy that balances modalities."""

from pyg_ckd.balance.attribution import (
    ModalityEffectEstimator,
    RunningInformation,
    conditional_label_information,
    gaussian_information,
    label_information,
    shapley_values,
)
from pyg_ckd.balance.ckd import DistillationWrapper
from pyg_ckd.balance.objective import Objective, as_objective
from pyg_ckd.evaluation.effects import EffectReport, estimate_effects

__all__ = [
    "DistillationWrapper",
    "EffectReport",
    "ModalityEffectEstimator",
    "Objective",
    "RunningInformation",
    "as_objective",
    "conditional_label_information",
    "estimate_effects",
    "gaussian_information",
    "label_information",
    "shapley_values",
]
