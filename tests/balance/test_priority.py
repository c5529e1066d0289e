"""Modalities that wait for others: who waits when, and that waiting leaves parameters and moments alone."""

from __future__ import annotations

import math

import pytest
import torch

from pyg_ckd import DistillationWrapper, Trainer
from pyg_ckd.balance.gradients import parameter_groups
from pyg_ckd.balance.priority import G2D, Greedy, learning_speed, slowest, trained_first
from pyg_ckd.data.inputs import RATES
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import Evaluator
from pyg_ckd.nn import FREEDOM, VBPR, LightGCN
from pyg_ckd.scoring import Embeddings
from tests.balance.test_ckd import one_batch, random_teachers
from tests.balance.test_strategies import teachers_of
from tests.nn.models.zoo import built, doubled

OPTIONS = {"lr": 0.01, "batch_size": 8, "monitor": "recall@5", "device": "cpu", "progress": False}


@pytest.mark.parametrize(
    ("quality", "epochs", "expected"),
    [
        ([0.3, 0.1], 3, ["b", "b", "b", "ab", "ab"]),
        ([0.3, 0.1], 0, ["ab"] * 5),
        ([math.nan, math.nan], 3, ["ab"] * 5),
        ([0.2, 0.2], 2, ["a", "a", "ab", "ab", "ab"]),
        ([0.3, 0.1, 0.2], 4, ["b", "b", "bc", "bc", "abc"]),
        ([0.3, 0.1, 0.2, 0.0], 3, ["d", "bd", "bcd", "abcd", "abcd"]),
        ([0.3, 0.1, 0.2], 1, ["b", "abc", "abc", "abc", "abc"]),
    ],
)
def test_the_weakest_train_first_and_the_others_follow_in_equal_parts_of_the_time(quality, epochs, expected):
    names = "abcd"[: len(quality)]
    found = ["".join(sorted(trained_first(names, quality, epoch, epochs))) for epoch in range(1, 6)]
    assert found == expected


class Watch:
    """Keeps the parameters of every modality at the end of every epoch, and how many moments they have seen."""

    def __init__(self, objective):
        self.objective, self.values = objective, []

    def on_train_epoch_end(self, trainer, history):
        groups = parameter_groups(self.objective.student)
        self.values.append({m: [p.detach().clone() for p in own] for m, own in groups.items()})

    def same(self, epoch: int, group: str) -> bool:
        """Return whether a group is after an epoch, from 2 on, what it was before."""
        before, after = self.values[epoch - 2][group], self.values[epoch - 1][group]
        return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def all_knowing(data):
    """Return embeddings whose scores are those of the validation part itself."""
    users, items = data[RATES].val_edge_index
    answers = torch.zeros(data["user"].num_nodes, data["item"].num_nodes)
    answers[users, items] = 1
    return Embeddings(answers, torch.eye(data["item"].num_nodes))


def test_a_strong_modality_keeps_its_bits_while_it_waits_for_the_weak_one(make_data):
    data = make_data(modalities=2)
    right = all_knowing(data)
    strong, weak = "mod1", "mod0"
    teachers = {strong: right, weak: Embeddings(-right.user, right.item)}
    objective = G2D(VBPR.from_data(data, embedding_dim=4), teachers, epochs=3, num_random_triples=10)
    watch = Watch(objective)
    history = Trainer(max_epochs=5, callbacks=watch, **OPTIONS).fit(objective, data)
    score = Evaluator(data, "val", [5], ["recall"])
    quality = {m: score(teachers[m])["recall@5"] for m in data.modalities}
    assert objective.quality.tolist() == list(quality.values())
    assert quality[strong] > quality[weak]
    assert [watch.same(epoch, strong) for epoch in range(2, 6)] == [True, True, False, False]
    assert [watch.same(epoch, weak) for epoch in range(2, 6)] == [False] * 4
    assert [watch.same(epoch, "") for epoch in range(2, 6)] == [False] * 4
    assert history.frame[f"trained/{strong}"].tolist() == [1, 0, 0, 1, 1]
    assert history.frame[f"trained/{weak}"].tolist() == [1] * 5


def test_the_first_epoch_trains_all_modalities_and_the_next_ones_the_weakest(make_data):
    data = make_data(modalities=3)
    right = all_knowing(data)
    mixed = Embeddings(right.user * (torch.arange(12) % 2).unsqueeze(1), right.item)
    teachers = {"mod2": right, "mod0": mixed, "mod1": Embeddings(-right.user, right.item)}
    objective = G2D(VBPR.from_data(data, embedding_dim=4), teachers, epochs=4, num_random_triples=10)
    rows = Trainer(max_epochs=6, **OPTIONS).fit(objective, data).rows
    order = [data.modalities[n] for n in objective.quality.argsort()]
    assert order == ["mod1", "mod0", "mod2"]
    found = [{m for m in order if row[f"trained/{m}"]} for row in rows]
    assert found == [set(order), *(set(order[: 1 + (e - 1) * 2 // 4]) for e in (2, 3, 4)), set(order), set(order)]


def test_losses_are_those_of_distillation(make_data):
    data = make_data(modalities=3)
    model = built(lambda data: VBPR.from_data(data, embedding_dim=4), data)
    teachers, batch = random_teachers(model), one_batch(data, 20)
    options = {"distillation_weight": 0.3, "generic_weight": 2.0, "temperature": 0.7, "num_random_triples": 20}
    mine = G2D(model, teachers, **options).loss(*doubled(data), batch)
    theirs = DistillationWrapper(model, teachers, **options).loss(*doubled(data), batch)
    assert {name: term.item() for name, term in mine.items()} == {name: term.item() for name, term in theirs.items()}


def test_without_a_validation_part_teachers_cannot_be_ranked(make_data):
    data = make_data()
    data[RATES].val_edge_index = data[RATES].val_edge_index[:, :0]
    with pytest.raises(InputError, match="g2d: found a graph without a validation part"):
        Trainer(max_epochs=1, **OPTIONS).fit(G2D(VBPR.from_data(data), teachers_of(data)), data)


@pytest.mark.parametrize(
    ("speed", "threshold", "expected"),
    [
        ([1.0, 10.0, 3.0], 0.9, "a"),
        ([1.0, 10.0, 3.0], 1.1, None),
        ([0.0, 10.0, 1.0], 0.9, "c"),
        ([0.0, 0.0, 1.0], 0.0, None),
        ([0.0, 0.0, 0.0], 0.0, None),
        ([2.0, 2.0, 2.0], 0.0, None),
    ],
)
def test_the_slowest_is_the_one_of_least_speed_by_more_than_the_threshold(speed, threshold, expected):
    assert slowest("abc", speed, threshold) == expected


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("sparse", [False, True])
def test_speeds_are_ratios_of_squared_norms_in_the_steps_of_all(sparse, make_data):
    data = make_data()
    model = built(lambda data: VBPR.from_data(data, embedding_dim=4, sparse=sparse), data)
    objective, batch = Greedy(model, window=2, threshold=0.0, l2=0.0), one_batch(data, 0)
    features, graph = doubled(data)
    graphs = objective.prepare(features, graph)
    expected, slow = torch.zeros(2), None
    for epoch in range(2):
        objective.begin_epoch(features, graphs)
        for step in range(4):
            model.zero_grad(set_to_none=True)
            objective.backward(objective.loss(features, graphs, batch), lambda loss: loss.backward())
            groups = parameter_groups(model)
            for n, m in enumerate(model.modalities):
                grads = [p.grad.to_dense() for p in groups[m] if p.grad is not None]
                if epoch == 1 and step % 3 and m != slow:
                    assert not grads
                    continue
                assert len(grads) == 3 - (model.project[m].bias.grad is None)
                if epoch == 0 or step % 3 == 0:
                    size = sum(float(p.detach().square().sum()) for p in groups[m])
                    expected[n] += sum(float(g.square().sum()) for g in grads) / size
            assert model.user_embedding.grad is not None
            with torch.no_grad():
                for p in model.parameters():
                    if p.grad is not None:
                        p -= 0.1 * p.grad
        torch.testing.assert_close(objective.speed, expected, rtol=1e-10, atol=0)
        found = objective.epoch_statistics()
        assert [found[f"speed/{m}"] for m in model.modalities] == pytest.approx((expected / expected.sum()).tolist())
        assert [found[f"alone/{m}"] for m in model.modalities] == [float(m == slow) for m in model.modalities]
        slow = model.modalities[int(expected.argmin())]


def test_the_speed_of_what_no_gradient_reaches_is_zero():
    assert learning_speed([torch.nn.Parameter(torch.ones(2))], torch.zeros(2)).item() == 0
    at_zero = torch.nn.Parameter(torch.zeros(2))
    at_zero.grad = torch.full((2,), 1e-3)
    assert math.isfinite(learning_speed([at_zero], torch.zeros(2).double()).item())


def test_only_the_slowest_moves_in_its_window(make_data):
    data = make_data()
    objective = Greedy(VBPR.from_data(data, embedding_dim=4), window=100, threshold=0.0)
    watch = Watch(objective)
    history = Trainer(max_epochs=3, callbacks=watch, **OPTIONS).fit(objective, data)
    alone = [m for m in data.modalities if history.rows[1][f"alone/{m}"]]
    assert len(alone) == 1
    moved = {m: _distance(watch.values[0][m], watch.values[1][m]) for m in data.modalities}
    other = next(m for m in data.modalities if m not in alone)
    assert moved[alone[0]] > 2 * moved[other] > 0  # One step of all, several of the slowest.


def _distance(before, after) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True))


def test_bad_arguments_are_refused(make_data):
    data = make_data()
    student, teachers = VBPR.from_data(data, embedding_dim=4), teachers_of(data)
    with pytest.raises(InputError, match="epochs: found -1"):
        G2D(student, teachers, epochs=-1)
    with pytest.raises(InputError, match="g2d: found no teachers"):
        G2D(student, None)
    with pytest.raises(InputError, match=r"window: found 1\.5, expected an integer"):
        Greedy(student, window=1.5)
    with pytest.raises(InputError, match="threshold: found -1"):
        Greedy(student, threshold=-1)
    without = LightGCN.from_data(data, embedding_dim=4)
    with pytest.raises(InputError, match="g2d: found LightGCN, which ignores features"):
        G2D(without, teachers)
    with pytest.raises(InputError, match="greedy: found LightGCN without a trained parameter of one modality alone"):
        Greedy(without)


def test_a_backbone_whose_scores_depend_on_no_parameter_of_a_modality_is_refused(make_data, monkeypatch):
    data = make_data()
    monkeypatch.setattr(FREEDOM, "steered", "steps")  # As of a backbone that does not say it.
    student = built(lambda data: FREEDOM.from_data(data, embedding_dim=4, num_neighbors=3), data)
    features, graph = doubled(data)
    for objective in (Greedy(student), G2D(student, random_teachers(student), num_random_triples=5)):
        graphs = objective.begin_epoch(features, objective.prepare(features, graph))
        with pytest.raises(InputError, match=r"found FREEDOM without .* of one modality alone that scores depend on"):
            objective.loss(features, graphs, one_batch(data, 5))


def test_teachers_are_ranked_though_the_first_validation_comes_late(make_data):
    data = make_data(modalities=2)
    right = all_knowing(data)
    teachers = {"mod1": right, "mod0": Embeddings(-right.user, right.item)}
    objective = G2D(VBPR.from_data(data, embedding_dim=4), teachers, epochs=4, num_random_triples=10)
    history = Trainer(max_epochs=5, **{**OPTIONS, "eval_every": 5}).fit(objective, data)
    assert [row["trained/mod1"] for row in history.rows] == [1, 0, 0, 0, 1]


def test_a_step_that_a_scaler_skips_leaves_the_speeds(make_data):
    data = make_data(modalities=2)
    objective = Greedy(built(lambda data: VBPR.from_data(data, embedding_dim=4), data))
    terms = objective.loss(*doubled(data), one_batch(data, 0))
    objective.backward(terms, lambda loss: (loss * torch.inf).backward())
    assert not objective.speed.any()
    assert any(bool(p.grad.isnan().any()) or bool(p.grad.isinf().any()) for p in objective.parameters())
    objective.begin_epoch(*doubled(data))  # What the skipped step has left is not among the gradients of the next one.
    objective.backward(objective.loss(*doubled(data), one_batch(data, 0)), lambda loss: loss.backward())
    assert (objective.speed > 0).all()
