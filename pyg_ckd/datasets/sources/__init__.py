from pyg_ckd.datasets.sources.download import download
from pyg_ckd.datasets.sources.images import read_image_features
from pyg_ckd.datasets.sources.metadata import Metadata, read_metadata
from pyg_ckd.datasets.sources.reviews import Interactions, read_reviews, thin

__all__ = [
    "Interactions",
    "Metadata",
    "download",
    "read_image_features",
    "read_metadata",
    "read_reviews",
    "thin",
]
