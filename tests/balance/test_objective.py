"""Plain joint training: the objective that every strategy starts from."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pyg_ckd.balance import DistillationWrapper, Objective, as_objective
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR, AdaptedBackbone
from tests.nn.models.zoo import Toy, built, doubled

TRIPLES = [(0, 1, 2), (3, 0, 4), (3, 0, 4)]
NOTHING = torch.zeros(0, dtype=torch.int64)
BATCH = TripletBatch(*torch.tensor(TRIPLES).t(), NOTHING, NOTHING, NOTHING)


def student(data) -> VBPR:
    return built(lambda data: VBPR.from_data(data, embedding_dim=4), data)


@pytest.mark.parametrize("view", [None, "mod1"])
@pytest.mark.parametrize("eps", [0.0, 1e-10])
def test_loss_is_bpr_on_the_trained_view_plus_the_weighted_penalty(view, eps, make_data):
    data = make_data()
    model = student(data)
    terms = Objective(model, l2=0.2, view=view, bpr_eps=eps).loss(*doubled(data), BATCH)
    out = model(*doubled(data), view)
    score = (out.user @ out.item.t()).tolist()
    bpr = -sum(math.log(eps + 1 / (1 + math.exp(score[u][j] - score[u][i]))) for u, i, j in TRIPLES) / 3
    squares = sum(out.user[u].square().sum() + out.item[[i, j]].square().sum() for u, i, j in TRIPLES)
    assert terms["bpr"].item() == pytest.approx(bpr, abs=1e-10)
    assert terms["l2"].item() == pytest.approx(0.2 * 0.5 * squares.item() / 3)
    assert terms.keys() == {"bpr", "l2"}


def test_penalty_of_weight_zero_is_left_out(make_data):
    data = make_data()
    assert Objective(student(data), l2=0.0).loss(*doubled(data), BATCH).keys() == {"bpr"}


def test_strategy_needs_to_override_one_method_only(make_data):
    class Margin(Objective):
        """Asks for larger margins."""

        def balance(self, out, batch):
            return {"margin": -out[self.view].margin(batch.user, batch.positive, batch.negative).mean()}

    data = make_data()
    objective = Margin(student(data))
    terms = objective.loss(*doubled(data), BATCH)
    expected = objective(*doubled(data)).margin(*BATCH[:3]).mean()
    assert terms["margin"].item() == pytest.approx(-expected.item())
    assert objective.settings()["objective"] == "Margin"


def test_objective_answers_like_its_student(make_data):
    data = make_data()
    model = student(data)
    objective = Objective(model)
    assert torch.equal(torch.cat(objective(*doubled(data), "mod0")), torch.cat(model(*doubled(data), "mod0")))
    assert objective.modalities == model.modalities
    assert objective.num_random_triples == 0
    assert objective.epoch_statistics() == {}


@pytest.mark.parametrize("options", [{"l2": 0.5}, {"view": "mod0"}, {"bpr_eps": 1e-10}], ids=str)
def test_settings_tell_apart_objectives_with_other_arguments(options, make_data):
    model = student(make_data())
    assert Objective(model).settings() == Objective(model).settings()
    assert Objective(model).settings() != Objective(model, **options).settings()


def test_any_module_becomes_an_objective_and_objectives_stay(make_data):
    data = make_data()
    model = student(data)
    assert as_objective(model, data).student is model
    wrapper = DistillationWrapper(model, None)
    assert as_objective(wrapper, data) is wrapper
    toy = Toy(12, {m: data["item"][m].size(1) for m in data.modalities})
    adapted = as_objective(toy, data).student
    assert isinstance(adapted, AdaptedBackbone)
    assert adapted.module is toy


def test_bad_arguments_are_refused(make_data):
    model = student(make_data())
    with pytest.raises(InputError, match="found Linear, expected a backbone"):
        Objective(nn.Linear(1, 1))
    for l2 in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"l2: found {l2}"):
            Objective(model, l2=l2)
    with pytest.raises(InputError, match="unknown modality 'mod9'"):
        Objective(model, view="mod9")
