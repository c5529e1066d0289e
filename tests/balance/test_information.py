"""Balancing by mutual information: who teaches whom, what the stages train, and weights by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyg_ckd import Objective, Trainer, train_teachers
from pyg_ckd.balance.attribution import gaussian_information, label_information
from pyg_ckd.balance.curriculum import DifficultyCurriculum
from pyg_ckd.balance.information import (
    InformationBalancing,
    calibrated_weights,
    chance_information,
    choose_teachers,
)
from pyg_ckd.balance.progress import Progress
from pyg_ckd.balance.wrapper import ObjectiveWrapper
from pyg_ckd.datasets import SyntheticMultimodal
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from pyg_ckd.scoring import Embeddings
from pyg_ckd.training import History, Teacher, Teachers, build
from tests.balance.test_ckd import one_batch, random_teachers
from tests.nn.models.zoo import BACKBONES, built, doubled

NUM = 20_000


def balancing(data, backbone: str = "EarlyFusionLightGCN", **options) -> InformationBalancing:
    student = built(BACKBONES[backbone], data)
    return InformationBalancing(student, random_teachers(student), **options)


def trainer(**options) -> Trainer:
    defaults = {
        "max_epochs": 3,
        "batch_size": 16,
        "lr": 0.01,
        "monitor": "recall@5",
        "device": "cpu",
        "progress": False,
    }
    return Trainer(**(defaults | options))


def noise(seed: int) -> Tensor:
    return torch.randn(NUM, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


PLANTED = {
    "what the weak one says is a noisy copy": (lambda: (0.8 + noise(0), 0.3 + noise(0) + 0.3 * noise(1)), True),
    "the two have nothing in common": (lambda: (0.8 + noise(0), 0.3 + noise(1)), False),
    "the weak one knows the labels better": (lambda: (2.0 + noise(0), 1.5 + 0.3 * noise(0) + noise(1)), False),
}


@pytest.mark.parametrize(("margins", "teaches"), PLANTED.values(), ids=PLANTED.keys())
def test_a_strong_teacher_teaches_if_it_knows_more_of_the_weak_one_than_labels_do(margins, teaches):
    strong, weak = margins()
    both = torch.stack([strong, weak], dim=1)
    label, between = label_information(both), gaussian_information(both)
    assert label[0] > label[1]
    found = choose_teachers(torch.tensor([0.3, 0.2], dtype=torch.float64), label, between)
    assert found.tolist() == [0, 0 if teaches else 1]
    turned = choose_teachers(torch.tensor([0.2, 0.3], dtype=torch.float64), label.flip(0), between.flip(0, 1))
    assert turned.tolist() == [1 if teaches else 0, 1]


def test_of_several_teachers_the_best_is_taken_and_none_that_is_weaker():
    performance = torch.tensor([0.2, 0.4, 0.1, 0.3], dtype=torch.float64)
    label = torch.full((4,), 0.1, dtype=torch.float64)
    between = torch.full((4, 4), 0.2, dtype=torch.float64)
    between[0, 1] = between[1, 0] = 0.05
    assert choose_teachers(performance, label, between).tolist() == [3, 1, 1, 1]


def test_weights_by_hand():
    performance = [0.1, 0.4, 0.2]
    between = [[0.0, 0.3, 0.1], [0.3, 0.0, 0.6], [0.1, 0.6, 0.0]]
    factors = []
    for m in range(3):
        redundancy = sum(between[m]) / 2 / 0.6
        factors.append(math.exp(-2.0 * (performance[m] / 0.4 + redundancy)))
    expected = [3 * f / sum(factors) for f in factors]
    arguments = torch.tensor(performance, dtype=torch.float64), torch.tensor(between, dtype=torch.float64)
    assert calibrated_weights(*arguments, 2.0).tolist() == pytest.approx(expected, abs=1e-12)
    assert calibrated_weights(*arguments, 0.0).tolist() == pytest.approx([1, 1, 1])
    nothing = torch.zeros(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    assert calibrated_weights(*nothing).tolist() == [1, 1, 1]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lacking", [False, True])
def test_the_first_stage_learns_from_interactions_and_from_the_chosen_teacher(lacking, make_data):
    data = make_data(modalities=3)
    has = {"mod1": torch.arange(9) % 4 > 0} if lacking else {}
    objective = balancing(data, teaching_weight=0.7, temperature=0.5, has=has)
    objective.taught_by.copy_(torch.tensor([1, 1, 0]))
    objective.begin_epoch(*doubled(data))
    batch = one_batch(data, 40)
    terms = objective.loss(*doubled(data), batch)
    known = {m: has.get(m, torch.ones(9, dtype=torch.bool)).tolist() for m in data.modalities}

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x / 0.5))

    for m, n in zip(data.modalities, ["mod1", "mod1", "mod0"], strict=True):
        out, teacher = objective.student(*doubled(data), m).detach(), objective.teacher(n)
        alone = 0.0
        for u, i, j in zip(*(x.tolist() for x in batch[:3]), strict=True):
            if known[m][i] and known[m][j]:
                alone += math.log1p(math.exp(-float(out.user[u] @ (out.item[i] - out.item[j]))))
        assert terms[f"alone/{m}"].item() == pytest.approx(alone / batch.user.numel(), abs=1e-10)
        losses = []
        for u, i, j in zip(*(x.tolist() for x in batch[3:]), strict=True):
            if all(known[k][item] for k in (m, n) for item in (i, j)):
                mine = sigmoid(float(out.user[u] @ (out.item[i] - out.item[j])))
                theirs = sigmoid(float(teacher.user[u] @ (teacher.item[i] - teacher.item[j])))
                losses.append(-theirs * math.log(mine) - (1 - theirs) * math.log(1 - mine))
        assert terms[f"teaching/{m}"].item() == pytest.approx(0.7 * sum(losses) / len(losses), abs=1e-10)
    shown = objective.epoch_statistics()
    assert {pair for pair, value in shown.items() if value} == {
        "teaches/mod1/mod0",
        "teaches/mod1/mod1",
        "teaches/mod0/mod2",
    }
    assert len(shown) == 9


@pytest.mark.usefixtures("double")
def test_the_joint_loss_has_no_gradient_in_the_first_stage(make_data):
    data = make_data()
    objective = balancing(data)
    batch = one_batch(data, 10)
    terms = objective.loss(*doubled(data), batch)
    objective.backward(terms, lambda loss: loss.backward())
    found = [p.grad.clone() for p in objective.student.parameters()]
    objective.zero_grad()
    again = objective.loss(*doubled(data), batch)
    torch.stack([term for name, term in again.items() if name != "bpr"]).sum().backward()
    for p, grad in zip(objective.student.parameters(), found, strict=True):
        assert torch.allclose(p.grad, grad, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("double")
def test_what_a_wrapper_adds_is_trained_in_the_first_stage_too(make_data):
    class Reminded(ObjectiveWrapper):
        def add_terms(self, out, batch):
            return {"reminder": 3.0 * next(iter(out.values())).margin(*batch[:3]).square().mean()}

    data = make_data()
    inside = balancing(data, "VBPR")
    wrapper = Reminded(inside)
    batch = one_batch(data, 10)
    wrapper.backward(wrapper.loss(*doubled(data), batch), lambda loss: loss.backward())
    found = [p.grad.clone() for p in inside.student.parameters()]
    wrapper.zero_grad()
    terms = wrapper.loss(*doubled(data), batch)
    assert {"bpr", "l2", "reminder", "alone/mod0", "teaching/mod0"} <= terms.keys()
    torch.stack([term for name, term in terms.items() if name != "bpr"]).sum().backward()
    for p, grad in zip(inside.student.parameters(), found, strict=True):
        assert torch.allclose(p.grad, grad, rtol=0, atol=1e-6)


def with_bases(student, scale: float) -> Teachers:
    """Return random teachers with an id part that all of them share, and its tables."""
    tables = random_teachers(student)
    generator = torch.Generator().manual_seed(5)
    ids = [scale * torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (12, 9)]
    both = {
        m: Embeddings(*(torch.cat(pair, dim=1) for pair in zip(own, ids, strict=True))) for m, own in tables.items()
    }
    return Teachers({m: Teacher(own, History(), Embeddings(*ids)) for m, own in both.items()})


class Score:
    """Values teachers by their name."""

    def __init__(self, objective: InformationBalancing, values: dict[str, float]) -> None:
        self.objective, self.values = objective, values
        sizes = (12, 9, 8)
        self.triples = tuple(torch.randint(n, (300,), generator=torch.Generator().manual_seed(n)) for n in sizes)

    def __call__(self, embeddings: Embeddings) -> float:
        (name,) = (m for m in self.values if torch.equal(self.objective.teacher(m).item, embeddings.item))
        return self.values[name]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lacking", [False, True])
def test_who_teaches_is_decided_on_the_validation_part_without_the_ids(lacking, make_data):
    data, values = make_data(modalities=3), {"mod0": 0.1, "mod1": 0.3, "mod2": 0.2}
    student = built(BACKBONES["VBPR"], data)
    teachers = with_bases(student, scale=10.0)
    user, item = random_teachers(student)["mod1"]
    near = item + 0.1 * torch.randn(item.shape, generator=torch.Generator().manual_seed(1), dtype=item.dtype)
    for table, own in zip(teachers["mod0"], (user, near), strict=True):
        table[:, :3] = own
    has = {"mod1": torch.arange(9) != 4} if lacking else {}
    objective = InformationBalancing(student, teachers, has=has)
    score = Score(objective, values)
    objective.before_training(*doubled(data), score)
    known = objective.available(*score.triples[1:])
    whole = torch.stack([teachers[m].margin(*score.triples) for m in data.modalities], dim=1)
    added = torch.stack(
        [Embeddings(*(x[:, :3] for x in teachers[m])).margin(*score.triples) for m in data.modalities], dim=1
    )
    chance = chance_information(*score.triples[:2], known)
    label, between = label_information(added, known), gaussian_information(added, None, known) - chance
    expected = choose_teachers(torch.tensor(list(values.values()), dtype=torch.float64), label, between)
    assert objective.taught_by.tolist() == expected.tolist() == [1, 1, 2]
    label, between = label_information(whole, known), gaussian_information(whole, None, known)
    fooled = choose_teachers(torch.tensor(list(values.values()), dtype=torch.float64), label, between)
    assert fooled.tolist() == [1, 1, 1]  # All share the ids.
    assert not any("base_" in name for name in objective.state_dict())


def test_without_tables_of_the_empty_view_every_modality_keeps_its_teacher(make_data):
    data = make_data(modalities=3)
    objective = balancing(data, "VBPR")
    with pytest.warns(UserWarning, match="mi-balance: found teachers without their tables of the empty view"):
        objective.before_training(*doubled(data), Score(objective, {"mod0": 0.1, "mod1": 0.3, "mod2": 0.2}))
    assert objective.taught_by.tolist() == [0, 1, 2]


@pytest.mark.parametrize("number", [10, 50, 400])
def test_independent_margins_stay_below_what_chance_tells(number):
    draws = torch.randn(4000, 2, number, dtype=torch.float64, generator=torch.Generator().manual_seed(number))
    draws = draws - draws.mean(dim=-1, keepdim=True)
    r = (draws[:, 0] * draws[:, 1]).sum(dim=-1) / draws.norm(dim=-1).prod(dim=-1)
    user = torch.arange(number).repeat(7)  # Of seven triples each, and of more items.
    chance = chance_information(user, torch.arange(user.numel()))
    above = (-0.5 * torch.log1p(-r.square()) > chance).double().mean().item()
    assert 0 < above < 0.01
    known = torch.ones(user.numel(), 2, dtype=torch.bool)
    assert torch.equal(chance_information(user, torch.arange(user.numel()), known), chance.expand(2, 2))


SHARES = {"copy": {"a": 0.9, "b": 0.1}, "own": {"a": 0.6, "b": 0.4}, "noise": {"a": 0.6, "b": 0.4}}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", SHARES)
def test_trained_teachers_teach_what_they_know_of_the_weaker_one_and_nothing_else(case, seed):
    data = SyntheticMultimodal(
        num_users=300, num_items=300, num_interactions=6000, modalities=SHARES[case], dim=8, latent_dim=4, seed=seed
    )[0]
    generator = torch.Generator().manual_seed(seed)
    if case == "copy":  # The weaker one sees what the stronger one sees, less well.
        x = data["item"].a
        data["item"].b = x + 0.35 * torch.randn(x.shape, generator=generator)
    elif case == "noise":
        for m in data.modalities:
            data["item"][m] = torch.randn(data["item"][m].shape, generator=generator)
    options = {"lr": 0.01, "batch_size": 512, "device": "cpu", "progress": False}
    teachers = train_teachers(VBPR, data, Trainer(max_epochs=15, **options), use_cache=False, embedding_dim=16)
    objective = InformationBalancing(build(VBPR, data, 0, embedding_dim=16), teachers, pretrain_epochs=1)
    Trainer(max_epochs=1, **options).fit(objective, data)
    assert objective.taught_by.tolist() == ([0, 0] if case == "copy" else [0, 1])


def test_weights_follow_the_last_validation_and_the_last_epochs_information(make_data):
    data = make_data(modalities=3)
    objective = balancing(data, weight=0.3, pretrain_epochs=0)
    batch = one_batch(data, 0)
    objective.loss(*doubled(data), batch)
    objective.epoch_statistics()
    values = [0.2, 0.5, 0.1]
    row = {"epoch": 1, "val/recall@5": 0.5} | {f"val/mod{n}/recall@5": v for n, v in enumerate(values)}
    objective.progress = Progress(3, 9, (row, {"epoch": 2}), "recall@5")
    objective.begin_epoch(*doubled(data))
    empty = objective.student(*doubled(data), []).margin(*batch[:3])
    alone = torch.stack([objective.student(*doubled(data), m).margin(*batch[:3]) for m in data.modalities], dim=1)
    between = gaussian_information(alone, empty)
    expected = calibrated_weights(torch.tensor(values, dtype=torch.float64), between)
    assert torch.allclose(objective.weights, expected, rtol=0, atol=1e-10)
    terms = objective.loss(*doubled(data), batch)
    for n, m in enumerate(data.modalities):
        loss = torch.nn.functional.softplus(-alone[:, n]).mean().item()
        assert terms[f"alone/{m}"].item() == pytest.approx(0.3 * expected[n].item() * loss, abs=1e-9)
    shown = objective.epoch_statistics()
    assert [shown[f"weight/{m}"] for m in data.modalities] == pytest.approx(expected.tolist())


def test_goes_on_after_a_break_where_the_stages_change(make_data, tmp_path):
    data = make_data(modalities=3)
    options = {"pretrain_epochs": 2, "num_random_triples": 20}
    whole = balancing(data, "VBPR", **options).float()
    expected = trainer(max_epochs=5).fit(whole, data)
    assert "teaching/mod0" not in expected.rows[-1]
    for epochs in (2, 3, 5):
        model = balancing(data, "VBPR", **options).float()
        history = trainer(max_epochs=epochs, checkpoint_dir=tmp_path).fit(model, data)
    assert history.rows == expected.rows
    weights = [tuple(row[f"weight/{m}"] for m in data.modalities) for row in expected.rows[2:]]
    assert len(set(weights)) > 1
    assert [row["teaches/mod0/mod0"] for row in expected.rows[:2]] == [
        row["teaches/mod0/mod0"] for row in history.rows[:2]
    ]


def test_the_second_stage_alone_needs_no_teachers_and_the_first_alone_ends_in_plain_training(make_data):
    data = make_data()
    student = built(BACKBONES["VBPR"], data)
    alone = InformationBalancing(student, None, pretrain_epochs=0)
    assert alone.num_random_triples == 0
    assert len(trainer(max_epochs=1).fit(alone.float(), data).rows) == 1
    first = balancing(data, "VBPR", pretrain_epochs=1, weight=0.0)
    first.progress = Progress(2, 9)
    assert list(first.views) == [first.view]
    assert (
        first.loss(*doubled(data), one_batch(data, 5)).keys()
        == Objective(student).loss(*doubled(data), one_batch(data, 5)).keys()
    )
    with pytest.raises(InputError, match="teachers: found none, expected one for each modality, or pretrain_epochs=0"):
        InformationBalancing(student, None)


@pytest.mark.parametrize("around", [lambda x: x, DifficultyCurriculum], ids=["alone", "wrapped"])
def test_a_trainer_that_does_not_evaluate_modalities_is_refused_before_the_first_epoch(around, make_data):
    data, epochs = make_data(), []

    class Watch:
        def on_train_epoch_end(self, epoch):
            epochs.append(epoch)

    run = trainer(track_views=False, callbacks=Watch())
    with pytest.raises(InputError, match=r"track_views: found False beside (mi-balance|odsw).*expected True; leave it"):
        run.fit(around(balancing(data, "VBPR", pretrain_epochs=2).float()), data)
    assert epochs == []
    run.fit(around(balancing(data, "VBPR", pretrain_epochs=2, weight=0.0).float()), data)
    assert epochs == [1, 2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "weight: found -1.0, expected a number of zero or more"),
        ({"temperature": 0.0}, "temperature: found 0.0, expected a positive number"),
        ({"pretrain_epochs": -1}, "pretrain_epochs: found -1"),
        ({"num_random_triples": 0}, "num_random_triples: found 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message, make_data):
    with pytest.raises(InputError, match=message):
        balancing(make_data(), **options)
