"""LightGCN and its early-fusion form."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from torch_geometric.nn.models import LightGCN as PyGLightGCN

from pyg_ckd.data.inputs import RATES, unpack
from pyg_ckd.errors import InputError
from pyg_ckd.nn import EarlyFusionLightGCN, LightGCN
from tests.nn.models.zoo import doubled


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_embeddings_equal_those_of_pyg(num_layers, make_data):
    data = make_data()
    users, items = data["user"].num_nodes, data["item"].num_nodes
    ours = LightGCN(users, items, embedding_dim=6, num_layers=num_layers).double()
    theirs = PyGLightGCN(users + items, 6, num_layers).double()
    theirs.embedding.weight.data = torch.cat([ours.user_embedding, ours.item_embedding]).detach()
    user, item = data[RATES].edge_index[0], data[RATES].edge_index[1] + users
    edge_index = torch.stack([torch.cat([user, item]), torch.cat([item, user])])
    out = ours({}, {RATES: data[RATES].edge_index})
    assert_close(torch.cat(out), theirs.get_embedding(edge_index), atol=1e-12, rtol=0)


def test_every_view_of_lightgcn_is_the_same(make_data):
    data = make_data()
    model = LightGCN.from_data(data).double()
    first, *others = model.forward_views(*doubled(data), [None, *model.modalities, []])
    for other in others:
        assert_close(torch.cat(other), torch.cat(first), atol=1e-12, rtol=0)


def test_early_fusion_equals_lightgcn_on_ids_plus_projected_features(make_data):
    data = make_data(modalities=3)
    features, graph = doubled(data)
    fused = EarlyFusionLightGCN.from_data(data, embedding_dim=6, num_layers=2).double()
    plain = LightGCN.from_data(data, embedding_dim=6, num_layers=2).double()
    item = fused.item_embedding.detach().clone()
    for m, lin in fused.project.items():
        item += features[m] @ lin.weight.t() + lin.bias
    plain.load_state_dict({"user_embedding": fused.user_embedding, "item_embedding": item})
    assert_close(torch.cat(fused(features, graph)), torch.cat(plain(features, graph)), atol=1e-12, rtol=0)


def test_mixed_precision_projects_in_half_width_and_leaves_the_propagated_tables_whole(make_data):
    data = make_data()
    features, graph = unpack(data)
    model = EarlyFusionLightGCN.from_data(data)
    views = [None, [data.modalities[0]], []]
    exact = model.forward_views(features, graph, views)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model.forward_views(features, graph, views)
    for ours, expected in zip(mixed, exact, strict=True):
        assert ours.user.dtype == ours.item.dtype == torch.float32
        assert_close(ours.item, expected.item, rtol=0.02, atol=0.02)
        assert_close(ours.user, expected.user, rtol=0.02, atol=0.02)


def test_items_without_ids_start_from_features_alone_and_train_no_id(make_data):
    data = make_data()
    model = EarlyFusionLightGCN.from_data(data, id_embedding=False)
    assert model.item_embedding.eq(0).all()
    assert not model.item_embedding.requires_grad


def test_negative_number_of_layers_is_refused():
    with pytest.raises(InputError, match="num_layers: found -1, expected at least 0"):
        LightGCN(2, 2, num_layers=-1)
