"""Options that a product with a prepared graph would pass over are refused, and not on an edge index."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.nn.aggr import MeanAggregation, SumAggregation

from pyg_ckd.errors import InputError
from pyg_ckd.nn import Adjacency
from pyg_ckd.nn.conv import DotAttentionConv, EgoConv, LGConv, MMGCNConv

INTERACTIONS = torch.tensor([[0, 0, 1], [0, 1, 1]])
GRAPH = Adjacency.from_interactions(INTERACTIONS, 2, 2)
LAYERS = {
    "DotAttentionConv": DotAttentionConv,
    "EgoConv": lambda **options: EgoConv(3, 0, **options),
    "LGConv": LGConv,
    "MMGCNConv": lambda **options: MMGCNConv(3, 3, **options),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("options", [{"aggr": "max"}, {"aggr": ["add", "max"]}, {"flow": "target_to_source"}], ids=str)
def test_what_a_product_cannot_do_is_refused(name, options):
    with pytest.raises(InputError, match=rf"{name}: found .*pass an edge_index"):
        LAYERS[name](**options)(torch.ones(4, 3), GRAPH)


@pytest.mark.parametrize("name", LAYERS)
def test_other_names_of_the_same_aggregation_and_an_edge_index_are_not_refused(name):
    for aggr in ["Mean", MeanAggregation()] if name == "MMGCNConv" else ["sum", "Sum", SumAggregation()]:
        assert LAYERS[name](aggr=aggr)(torch.ones(4, 3), GRAPH).shape == (4, 3)
    assert LAYERS[name](aggr="max")(torch.ones(4, 3), INTERACTIONS + torch.tensor([[0], [2]])).shape == (4, 3)
