"""ReconBoost's rounds, weights and frozen parameters."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from pyg_ckd import Trainer
from pyg_ckd.balance import Progress
from pyg_ckd.balance.boosting import ReconBoost, residual_weights
from pyg_ckd.balance.masking import MaskedSubnetworks
from pyg_ckd.balance.relearn import InformationRegulation, Relearning
from pyg_ckd.data.inputs import unpack
from pyg_ckd.errors import InputError
from pyg_ckd.nn import FREEDOM, VBPR
from tests.balance.test_ckd import one_batch
from tests.conftest import TOLERANCE
from tests.nn.models.zoo import BACKBONES, built, doubled


def test_weights_and_gradients_equal_the_published_code(golden):
    file = golden("balance/reconboost")
    first, second = float(file["weight1"]), float(file["weight2"])
    own, others = file["margins/own"].requires_grad_(), file["margins/others"]
    boosting = first * residual_weights(others.sigmoid(), second / first) * F.softplus(-own)
    assert torch.allclose(boosting, file["margins/boosting"], rtol=0, atol=TOLERANCE)
    grad = torch.autograd.grad(boosting.mean(), own)[0]
    assert torch.allclose(grad, file["margins/grad_own"], rtol=0, atol=TOLERANCE)

    own, label = file["own"].requires_grad_(), file["label"].unsqueeze(-1)
    prob = file["others"].softmax(dim=-1).gather(-1, label).squeeze(-1)
    losses = -own.log_softmax(dim=-1).gather(-1, label).squeeze(-1) / own.size(-1)
    boosting = first * residual_weights(prob, second / first) * losses
    assert torch.allclose(boosting, file["boosting"], rtol=0, atol=TOLERANCE)
    agreement = F.mse_loss(own.softmax(dim=-1).detach(), file["previous"].softmax(dim=-1))
    assert torch.allclose(agreement, file["agreement"], rtol=0, atol=TOLERANCE)
    loss = boosting.mean() + file["alpha"] * agreement  # Without effect on what is trained.
    assert torch.allclose(loss, file["loss"], rtol=0, atol=TOLERANCE)
    assert torch.allclose(torch.autograd.grad(loss, own)[0], file["grad_own"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("alone", "joint", "expected"),
    [(1, 1, [None, "mod0", "mod1", None, "mod0", "mod1", None]), (2, 3, [None] * 3 + ["mod0"] * 2 + ["mod1"] * 2)],
)
def test_turns_come_in_rounds(alone, joint, expected, make_data):
    objective = ReconBoost(built(BACKBONES["VBPR"], make_data()), epochs_alone=alone, epochs_joint=joint)
    turns = []
    for epoch in range(1, 8):
        objective.progress = Progress(epoch, 10)
        turns.append(objective.turn)
    assert turns == expected


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lacking", [False, True])
@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("backbone", ["VBPR", "EarlyFusionLightGCN"])
def test_the_loss_of_a_turn_equals_a_loop(backbone, modalities, lacking, make_data):
    data = make_data(modalities=modalities)
    model, batch = built(BACKBONES[backbone], data), one_batch(data, 0)
    has = {"mod1": torch.arange(9) % 3 > 0} if lacking else {}
    objective = ReconBoost(model, residual=0.8, l2=0.0, has=has)
    for turn, m in enumerate(data.modalities, start=2):
        objective.progress = Progress(turn, 10)
        terms = objective.loss(*doubled(data), batch)
        own = model(*doubled(data), m).margin(*batch[:3]).tolist()
        rest = [n for n in data.modalities if n != m]
        others = model(*doubled(data), rest).margin(*batch[:3]).tolist()
        total = weight_sum = 0.0
        for d, e, i, j in zip(own, others, batch.positive.tolist(), batch.negative.tolist(), strict=True):
            there = not lacking or bool(has["mod1"][i] and has["mod1"][j])
            if m == "mod1" and not there:
                continue
            success = 1 / (1 + math.exp(-e)) if m == "mod1" or there else 0.5
            total += (1 - 0.8 * success) * math.log1p(math.exp(-d))
            weight_sum += 1 - 0.8 * success
        assert terms["bpr"].item() == pytest.approx(total / weight_sum, abs=1e-6)  # Weights are single precision.
        assert set(terms) == {"bpr"}


def test_in_a_turn_only_the_parameters_of_the_modality_move(make_data):
    data = make_data(modalities=3)
    objective = ReconBoost(VBPR.from_data(data, embedding_dim=4), l2=0.01)
    states = []

    class Keep:
        def on_train_epoch_end(self, pl_module):
            states.append({k: v.clone() for k, v in pl_module.student.state_dict().items()})

    trainer = Trainer(max_epochs=4, batch_size=8, monitor="recall@5", device="cpu", progress=False, callbacks=Keep())
    trainer.fit(objective, data)
    for m, (before, after) in zip(data.modalities, pairwise(states), strict=True):
        for name, value in after.items():
            own = m in name.split(".")
            assert torch.equal(before[name], value) != own, name


def test_weights_are_finite_where_no_triple_counts(make_data):
    data = make_data()
    objective = ReconBoost(built(BACKBONES["VBPR"], data), has={"mod0": torch.zeros(9, dtype=torch.bool)})
    objective.progress = Progress(2, 10)
    terms = objective.loss(*doubled(data), one_batch(data, 0))
    assert terms["bpr"].item() == 0.0
    objective.check_epoch()


@pytest.mark.parametrize("cls", [ReconBoost, MaskedSubnetworks, Relearning, InformationRegulation])
def test_a_backbone_whose_margins_no_parameter_moves_is_refused_at_the_first_step(cls, make_data, monkeypatch):
    data = make_data()
    with pytest.raises(InputError, match=f"{cls.name}: found FREEDOM without a trained parameter of one modality"):
        cls(built(BACKBONES["FREEDOM"], data).float())
    monkeypatch.setattr(FREEDOM, "steered", "steps")  # As of a backbone that does not say it.
    objective = cls(built(BACKBONES["FREEDOM"], data).float())
    features, graph = unpack(data)
    with pytest.raises(InputError, match=f"{cls.name}: found FREEDOM without .* one modality alone that scores depend"):
        objective.loss(features, objective.prepare(features, graph), one_batch(data, 0))


def test_a_backbone_on_which_turns_train_nothing_is_refused_in_one_line(make_data):
    data = make_data()
    with pytest.raises(InputError, match="reconboost: found LightGCN without a trained parameter of one modality"):
        ReconBoost(built(BACKBONES["LightGCN"], data))
    model = built(BACKBONES["VBPR"], data).float()
    objective = ReconBoost(model, l2=0.0)
    for p in model.modality_parameters["mod0"]:
        p.requires_grad_(False)
    for epoch in (1, 2):
        objective.progress = Progress(epoch, 10)
        terms = objective.loss(*unpack(data), one_batch(data, 0))
    with pytest.raises(InputError, match="reconboost: found no trained parameter of VBPR that belongs to 'mod0' alone"):
        objective.backward(terms, lambda loss: loss.backward())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"residual": 1.1}, r"residual: found 1\.1, expected a number from 0 to 1"),
        ({"epochs_alone": -1}, "epochs_alone: found -1, expected at least 0"),
        ({"epochs_joint": 0}, "epochs_joint: found 0, expected at least 1"),
    ],
)
def test_bad_numbers_are_refused(options, message, make_data):
    with pytest.raises(InputError, match=message):
        ReconBoost(built(BACKBONES["VBPR"], make_data()), **options)
