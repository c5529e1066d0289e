"""VBPR against scores that are summed term by term."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pyg_ckd.data.inputs import RATES
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from tests.nn.models.zoo import BACKBONES, built, doubled

VARIANTS = pytest.mark.parametrize("options", [{}, {"fusion": "sum"}, {"item_bias": False}], ids=str)


@VARIANTS
@pytest.mark.parametrize("num_modalities", [1, 3])
def test_scores_equal_the_sum_of_the_terms_of_the_equation(options, num_modalities, make_data):
    data = make_data(modalities=num_modalities)
    model = built(lambda data: VBPR.from_data(data, embedding_dim=5, **options), data)
    features, graph = doubled(data)
    out = model(features, graph)
    for user in (0, 7):
        for item in (0, 4):
            score = model.user_embedding[user] @ model.item_embedding[item]
            score += model.item_bias[item] if model.item_bias is not None else 0
            for m in model.modalities:
                theta = model.preference["shared" if options.get("fusion") == "sum" else m][user]
                lin = model.project[m]
                score += theta @ (lin.weight @ features[m][item] + lin.bias)
            assert float(out.user[user] @ out.item[item]) == pytest.approx(float(score), abs=1e-10)


def test_intervened_modality_drops_out_of_every_margin(make_data):
    data = make_data(modalities=2)
    model = built(BACKBONES["VBPR"], data)
    features, graph = doubled(data)
    user, first, second = torch.arange(9), torch.arange(9), torch.arange(9).roll(3)
    views = model.forward_views(features, graph, [None, "mod0", "mod1", []])
    full, alone0, alone1, nothing = (view.margin(user, first, second) for view in views)
    torch.testing.assert_close(full - nothing, (alone0 - nothing) + (alone1 - nothing), atol=1e-10, rtol=0)


def test_subset_of_ids_gives_the_corresponding_rows_whatever_the_graph(make_data):
    data = make_data()
    features, graph = doubled(data)
    users, items = torch.tensor([5, 2]), torch.tensor([7, 0, 3])
    empty = {RATES: torch.zeros(2, 0, dtype=torch.int64)}
    for name in ("VBPR", "VBPR sum"):
        model = built(BACKBONES[name], data)
        for view in (None, "mod0", []):
            full = model(features, graph, view)
            part = model(features, empty, view, {"user": users, "item": items})
            torch.testing.assert_close(part.user, full.user[users], atol=1e-10, rtol=0)
            torch.testing.assert_close(part.item, full.item[items], atol=1e-10, rtol=0)


def test_unknown_fusion_is_refused_with_the_closest_name():
    with pytest.raises(InputError, match="unknown fusion 'concatt': did you mean 'concat'"):
        VBPR(2, 2, {"visual": 3}, fusion="concatt")


def test_with_cosines_every_modality_scores_between_minus_and_plus_its_scale(make_data):
    data = make_data(modalities=3)
    model = built(lambda data: VBPR.from_data(data, embedding_dim=5, cosine=3.0), data)
    features, graph = doubled(data)
    ids = model.user_embedding @ model.item_embedding.t() + model.item_bias
    expected = ids.clone()
    for m in data.modalities:
        user, item = model.preference[m], model.project[m](features[m])
        cosine = F.cosine_similarity(user.unsqueeze(1), item.unsqueeze(0), dim=-1)
        expected = expected + 3 * cosine
        alone = model(features, graph, m)
        difference = alone.user @ alone.item.t() - ids - 3 * cosine  # The others are the same for all items.
        assert (difference - difference[:, :1]).abs().max() < 1e-10
    full = model(features, graph)
    torch.testing.assert_close(full.user @ full.item.t(), expected, rtol=0, atol=1e-10)
    triples = torch.arange(9), torch.arange(9), torch.arange(9).roll(3)
    (out,) = model.outputs(features, graph, [None])
    torch.testing.assert_close(out.margin(*triples), full.margin(*triples), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cosine": 0.0}, r"cosine: found 0\.0, expected a positive number, or none for dot products"),
        ({"cosine": 3.0, "sparse": True}, r"cosine: found 3\.0 beside sparse=True, expected none"),
        ({"cosine": 3.0, "fusion": "sum"}, r'cosine: found 3\.0 beside fusion="sum", expected none'),
    ],
)
def test_cosines_that_cannot_be_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        VBPR(2, 2, {"visual": 3}, **options)
