"""Ground floor: views, embeddings, margins of triples and the sparse products behind them."""

from pyg_ckd.scoring.blocks import Block, BlockEmbeddings, Output
from pyg_ckd.scoring.embeddings import DetailedEmbeddings, Embeddings
from pyg_ckd.scoring.neighbourhood import Neighbourhood, Scorer
from pyg_ckd.scoring.rows import added_item_rows, item_rows
from pyg_ckd.scoring.views import EMPTY, View, as_view, counterfactual_views, leave_one_out_views, unimodal_views

__all__ = [
    "EMPTY",
    "Block",
    "BlockEmbeddings",
    "DetailedEmbeddings",
    "Embeddings",
    "Neighbourhood",
    "Output",
    "Scorer",
    "View",
    "added_item_rows",
    "as_view",
    "counterfactual_views",
    "item_rows",
    "leave_one_out_views",
    "unimodal_views",
]
