from pyg_ckd.serving.export import check_format, export_embeddings, export_top_k
from pyg_ckd.serving.index import ItemIndex
from pyg_ckd.serving.neighbourhood import NeighbourhoodRecommender
from pyg_ckd.serving.program import EmbeddingProgram, export_program, record
from pyg_ckd.serving.recommender import Recommender
from pyg_ckd.serving.results import Explanation, Recommendations

__all__ = [
    "EmbeddingProgram",
    "Explanation",
    "ItemIndex",
    "NeighbourhoodRecommender",
    "Recommendations",
    "Recommender",
    "check_format",
    "export_embeddings",
    "export_program",
    "export_top_k",
    "record",
]
