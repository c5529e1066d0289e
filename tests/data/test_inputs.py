"""Unpacking a graph into the arguments of a backbone."""

from __future__ import annotations

import pytest
import torch

from pyg_ckd.data.inputs import RATES, held_out, unpack
from pyg_ckd.errors import InputError


def test_features_come_in_the_order_of_the_modalities_and_graphs_by_edge_type(make_data):
    data = make_data(modalities=["visual", "textual", "acoustic"])
    data["item", "similar", "item"].edge_index = torch.tensor([[0, 1], [1, 0]])
    features, graph = unpack(data)
    assert list(features) == ["visual", "textual", "acoustic"]
    assert all(torch.equal(features[m], data["item"][m]) for m in features)
    assert torch.equal(graph[RATES], data[RATES].edge_index)
    assert torch.equal(graph["item", "similar", "item"], torch.tensor([[0, 1], [1, 0]]))


def test_held_out_returns_the_interactions_of_each_split(make_data):
    data = make_data()
    assert held_out(data, "train") is data[RATES].edge_index
    assert held_out(data, "val") is data[RATES].val_edge_index
    assert held_out(data, "test") is data[RATES].test_edge_index


def test_unknown_split_is_refused_with_the_closest_name(make_data):
    with pytest.raises(InputError, match="unknown split 'tests': did you mean 'test'"):
        held_out(make_data(), "tests")
