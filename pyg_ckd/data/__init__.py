from pyg_ckd.data.build import build_data, check_data, fingerprint
from pyg_ckd.data.transforms import (
    L2NormalizeFeatures,
    PCAFeatures,
    StandardizeFeatures,
    feature_transform,
    impute_mean,
)

__all__ = [
    "L2NormalizeFeatures",
    "PCAFeatures",
    "StandardizeFeatures",
    "build_data",
    "check_data",
    "feature_transform",
    "fingerprint",
    "impute_mean",
]
