"""Objectives: plain joint training, and one file for every strategy that balances modalities."""

from pyg_ckd.balance.agm import AGM
from pyg_ckd.balance.alternating import AlternatingAdaptation
from pyg_ckd.balance.asymmetric import ARM
from pyg_ckd.balance.attribution import (
    ModalityEffectEstimator,
    RunningInformation,
    conditional_label_information,
    gaussian_information,
    label_information,
    shapley_values,
    unbiased_label_information,
)
from pyg_ckd.balance.blending import GBlending
from pyg_ckd.balance.ckd import DistillationWrapper
from pyg_ckd.balance.consistency import ViewConsistency
from pyg_ckd.balance.contrast import CrossModalContrast
from pyg_ckd.balance.curriculum import DifficultyCurriculum, DynamicCurriculum
from pyg_ckd.balance.discovery import find_strategy, strategies
from pyg_ckd.balance.dropout import ModalityDropout
from pyg_ckd.balance.ensemble import UnimodalEnsemble
from pyg_ckd.balance.given import MaskedObjective, TaughtObjective
from pyg_ckd.balance.incremental import Incremental
from pyg_ckd.balance.information import InformationBalancing
from pyg_ckd.balance.modulation import ARL, CGGM, OGM
from pyg_ckd.balance.multitask import MultitaskObjective
from pyg_ckd.balance.objective import Objective, as_objective
from pyg_ckd.balance.pareto import MMPareto
from pyg_ckd.balance.priority import G2D, Greedy
from pyg_ckd.balance.progress import Progress
from pyg_ckd.balance.prototype import PMR
from pyg_ckd.balance.relational import RelationalAlignment
from pyg_ckd.balance.sequential import UnidirectionalInteraction
from pyg_ckd.balance.wrapper import ObjectiveWrapper
from pyg_ckd.evaluation.effects import EffectReport, estimate_effects

__all__ = [
    "AGM",
    "ARL",
    "ARM",
    "CGGM",
    "G2D",
    "OGM",
    "PMR",
    "AlternatingAdaptation",
    "CrossModalContrast",
    "DifficultyCurriculum",
    "DistillationWrapper",
    "DynamicCurriculum",
    "EffectReport",
    "GBlending",
    "Greedy",
    "Incremental",
    "InformationBalancing",
    "MMPareto",
    "MaskedObjective",
    "ModalityDropout",
    "ModalityEffectEstimator",
    "MultitaskObjective",
    "Objective",
    "ObjectiveWrapper",
    "Progress",
    "RelationalAlignment",
    "RunningInformation",
    "TaughtObjective",
    "UnidirectionalInteraction",
    "UnimodalEnsemble",
    "ViewConsistency",
    "as_objective",
    "conditional_label_information",
    "estimate_effects",
    "find_strategy",
    "gaussian_information",
    "label_information",
    "shapley_values",
    "strategies",
    "unbiased_label_information",
]
