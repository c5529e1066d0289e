"""The ensemble of teachers against sums of scores."""

from __future__ import annotations

import pytest
import torch

from pyg_ckd.balance import UnimodalEnsemble
from pyg_ckd.balance.fusion import score_spread
from pyg_ckd.errors import InputError
from pyg_ckd.scoring import Embeddings
from tests.balance.test_ckd import random_teachers
from tests.nn.models.zoo import BACKBONES, built, doubled


def ensemble(data, scales=(1.0, 1.0, 1.0)) -> tuple[UnimodalEnsemble, dict[str, Embeddings]]:
    model = built(BACKBONES["VBPR"], data)
    teachers = {
        m: Embeddings(scale * user, item)
        for scale, (m, (user, item)) in zip(scales, random_teachers(model).items(), strict=True)
    }
    return UnimodalEnsemble(model, teachers), teachers


def scores(tables: Embeddings) -> torch.Tensor:
    return tables.user @ tables.item.t()


def test_spread_is_the_root_of_the_mean_variance_of_a_users_scores(make_data):
    _, teachers = ensemble(make_data(modalities=3))
    for tables in teachers.values():
        by_hand = scores(tables).var(dim=1, correction=0).mean().sqrt()
        assert score_spread(tables).item() == pytest.approx(by_hand.item(), abs=1e-10)
    flat = Embeddings(torch.randn(4, 2), torch.ones(5, 2))
    assert score_spread(flat).item() == 1.0


def test_scores_are_the_weighted_sum_of_the_teachers_scores_of_the_factual_modalities(make_data):
    data = make_data(modalities=3)
    objective, teachers = ensemble(data, scales=(1.0, 20.0, 0.1))
    objective.weights.copy_(torch.tensor([0.5, 2.0, 0.5]))
    for view in (None, ["mod0", "mod2"], ["mod1"]):
        names = data.modalities if view is None else view
        expected = sum(
            objective.weights[n] * scores(teachers[m]) / scores(teachers[m]).var(dim=1, correction=0).mean().sqrt()
            for n, m in enumerate(data.modalities)
            if m in names
        )
        got = scores(objective.forward_views(*doubled(data), [view])[0])
        difference = got - expected
        assert (difference - difference.mean(dim=1, keepdim=True)).abs().max() < 1e-10  # Rankings are the same.


def test_the_empty_view_likes_all_items_alike_and_a_view_without_weight_ranks_equally_weighted(make_data):
    data = make_data(modalities=3)
    objective, teachers = ensemble(data)
    nothing, before = objective.forward_views(*doubled(data), [[], ["mod1"]])
    assert scores(nothing).abs().max() == 0
    objective.weights.copy_(torch.tensor([1.0, 0.0, 2.0]))
    after = objective.forward_views(*doubled(data), ["mod1"])[0]
    assert torch.equal(scores(after), scores(before))
    assert torch.equal(scores(after).argsort(dim=1), scores(teachers["mod1"]).argsort(dim=1))


def test_weights_find_the_one_teacher_that_the_validation_part_likes(make_data):
    data = make_data(modalities=3)
    objective, teachers = ensemble(data, scales=(1.0, 0.01, 5.0))
    wanted = scores(teachers["mod1"])

    def score(tables: Embeddings) -> float:
        pairs = torch.stack([scores(tables).flatten(), wanted.flatten()])
        return float(torch.corrcoef(pairs)[0, 1])

    objective.before_validation({}, {}, score)
    weights = dict(zip(data.modalities, objective.weights.tolist(), strict=True))
    assert weights["mod1"] == max(weights.values())
    assert score(objective.forward_views({}, {}, [None])[0]) > 0.99
    assert sum(weights.values()) == pytest.approx(3.0)


def test_a_missing_teacher_is_refused(make_data):
    model = built(BACKBONES["VBPR"], make_data())
    teachers = random_teachers(model)
    teachers.pop("mod1")
    with pytest.raises(InputError, match="teachers: found none for modality 'mod1'"):
        UnimodalEnsemble(model, teachers)
