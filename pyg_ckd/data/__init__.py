from pyg_ckd.data.build import build_data, check_data, fingerprint
from pyg_ckd.data.cut import subgraph, training_graph
from pyg_ckd.data.describe import DataDescription, describe_data
from pyg_ckd.data.impute import (
    GraphImputation,
    Imputation,
    MeanImputation,
    NeighborImputation,
    ZeroImputation,
    imputation,
    impute_mean,
)
from pyg_ckd.data.inputs import RATES, held_out, item_masks, unpack
from pyg_ckd.data.neighbors import co_occurrence, knn, knn_graph, laplacian
from pyg_ckd.data.sampler import TripletBatch, TripletSampler
from pyg_ckd.data.splits import cold_start_split, k_core, leave_one_out_split, random_split, temporal_split
from pyg_ckd.data.transforms import (
    HalfFeatures,
    L2NormalizeFeatures,
    PCAFeatures,
    RecordedTransform,
    StandardizeFeatures,
    feature_transform,
)
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.views import View, as_view, counterfactual_views, leave_one_out_views, unimodal_views

__all__ = [
    "RATES",
    "DataDescription",
    "Embeddings",
    "GraphImputation",
    "HalfFeatures",
    "Imputation",
    "L2NormalizeFeatures",
    "MeanImputation",
    "NeighborImputation",
    "PCAFeatures",
    "RecordedTransform",
    "StandardizeFeatures",
    "TripletBatch",
    "TripletSampler",
    "View",
    "ZeroImputation",
    "as_view",
    "build_data",
    "check_data",
    "co_occurrence",
    "cold_start_split",
    "counterfactual_views",
    "describe_data",
    "feature_transform",
    "fingerprint",
    "held_out",
    "imputation",
    "impute_mean",
    "item_masks",
    "k_core",
    "knn",
    "knn_graph",
    "laplacian",
    "leave_one_out_split",
    "leave_one_out_views",
    "random_split",
    "subgraph",
    "temporal_split",
    "training_graph",
    "unimodal_views",
    "unpack",
]
