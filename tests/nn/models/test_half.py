"""Backbones whose parameters are of half precision."""

from __future__ import annotations

import pytest
import torch

from pyg_ckd.data import build_data
from pyg_ckd.data.inputs import embed
from pyg_ckd.evaluation import estimate_effects
from pyg_ckd.nn import (
    BM3,
    FISM,
    FREEDOM,
    GRCN,
    LATTICE,
    MGCN,
    MICRO,
    MMGCN,
    VBPR,
    DualGNN,
    EarlyFusionLightGCN,
    EgoGCN,
    LightGCN,
)
from pyg_ckd.training import Trainer

BACKBONES = [
    *(BM3, FISM, FREEDOM, GRCN, LATTICE, MGCN, MICRO, MMGCN, VBPR),
    *(DualGNN, EarlyFusionLightGCN, EgoGCN, LightGCN),
]
VIEWS = [None, "visual", "textual", frozenset()]


@pytest.fixture
def data():
    """A graph with a user and an item without neighbours."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.cartesian_prod(torch.arange(15), torch.arange(11))
    pairs = pairs[torch.randperm(len(pairs), generator=generator)[:90]].t()
    features = {m: torch.randn(12, 5, generator=generator) for m in ("visual", "textual")}
    return build_data(pairs[:, :70], features, val=pairs[:, 70:], num_users=16, num_items=12)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_backbones_of_half_precision_have_every_view_and_are_trained(backbone, dtype, data):
    torch.manual_seed(0)
    model = backbone.from_data(data, embedding_dim=8).to(dtype)
    for tables in embed(model, data, VIEWS):
        assert tables.user.dtype == tables.item.dtype == dtype
        assert all(bool(torch.isfinite(table).all()) for table in tables)
    estimate_effects(model, data, k=3)
    history = Trainer(max_epochs=1, batch_size=32, monitor="recall@3", progress=False).fit(model, data)
    assert history.best_value is not None


@pytest.mark.parametrize("backbone", [GRCN, MGCN, MMGCN, DualGNN, EarlyFusionLightGCN, EgoGCN])
def test_views_in_half_precision_are_near_those_in_single(backbone, data):
    torch.manual_seed(0)
    model = backbone.from_data(data, embedding_dim=8)
    single = embed(model, data, VIEWS)
    for found, expected in zip(embed(model.half(), data, VIEWS), single, strict=True):
        torch.testing.assert_close(found.user.float(), expected.user, rtol=0.05, atol=0.05)
        torch.testing.assert_close(found.item.float(), expected.item, rtol=0.05, atol=0.05)
