"""Unidirectional dynamic interaction: order, stages, terms by hand, what is frozen, and fused scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from pyg_ckd import Trainer, train_teachers
from pyg_ckd.balance.attribution import LEAST_TRIPLES, unbiased_label_information
from pyg_ckd.balance.fusion import logistic_weights, score_spread
from pyg_ckd.balance.progress import Progress
from pyg_ckd.balance.sequential import (
    UnidirectionalInteraction,
    confidence_weights,
    controller,
    squared_correlation,
)
from pyg_ckd.datasets import SyntheticMultimodal
from pyg_ckd.errors import InputError
from pyg_ckd.nn import FREEDOM, LATTICE, VBPR
from pyg_ckd.nn.loss import contrastive_loss
from pyg_ckd.scoring import Embeddings
from pyg_ckd.training import build
from pyg_ckd.training.model import load_model, save_model
from tests.balance.test_ckd import one_batch, random_teachers
from tests.conftest import TOLERANCE
from tests.nn.models.zoo import BACKBONES, built, doubled


def sequential(data, backbone: str = "VBPR", **options) -> UnidirectionalInteraction:
    student = built(BACKBONES[backbone], data)
    return UnidirectionalInteraction(student, random_teachers(student), **options)


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


class Score:
    """Values teachers by their name, in the order of the modalities."""

    def __init__(self, objective: UnidirectionalInteraction, values: list[float]) -> None:
        items = [objective.teacher(m).item for m in objective.modalities]
        self.known = list(zip(items, values, strict=True))
        self.triples = tuple(
            torch.randint(n, (200,), generator=torch.Generator().manual_seed(s)) for s, n in enumerate((12, 9, 9))
        )

    def __call__(self, embeddings: Embeddings) -> float:
        return next(value for item, value in self.known if torch.equal(item, embeddings.item))


def begun(data, values: list[float], stage: int = 1, **options) -> UnidirectionalInteraction:
    objective = sequential(data, **options)
    objective.before_training(*doubled(data), Score(objective, values))
    objective.stage.fill_(stage)
    objective.begin_epoch(*doubled(data))
    return objective


def test_contrast_and_fusion_weights_equal_the_reference(golden):
    file = golden("balance/dimml")
    rows = {m: file[m].requires_grad_() for m in ("audio", "visual")}
    loss = torch.zeros((), dtype=torch.float64)
    for own, other in (("audio", "visual"), ("visual", "audio")):
        effective = file[f"{other}_effective"]
        pair = rows[own][:, effective], rows[other][:, effective].detach()
        loss = loss + contrastive_loss(*pair, 1.0, normalize=False)
    loss.backward()
    assert loss.item() == pytest.approx(file.number("loss"), abs=TOLERANCE)
    for m, x in rows.items():
        assert torch.allclose(x.grad, file[f"grad_{m}"], rtol=0, atol=TOLERANCE)
    weight = confidence_weights(file["probabilities"].log(), file.number("temperature"))
    assert torch.allclose(weight, file["fusion_weight"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_weights_of_fused_scores_have_the_smallest_bpr_loss(seed):
    generator = torch.Generator().manual_seed(seed)
    shift = torch.tensor([0.6, 0.2, -0.3]).double()
    margins = torch.randn(400, 3, dtype=torch.float64, generator=generator) + shift

    def loss(w):
        return np.logaddexp(0, -(margins.numpy() @ w)).mean() + 0.5e-3 * w @ w

    best = minimize(loss, np.ones(3), bounds=[(0, None)] * 3, tol=1e-14).x
    assert logistic_weights(margins).tolist() == pytest.approx(best / best.mean(), abs=1e-3)
    assert logistic_weights(-margins.abs()).tolist() == [1, 1, 1]
    right = logistic_weights(margins.abs())  # All are right, so that no finite weight is best but for the ridge.
    assert torch.isfinite(right).all()
    assert right.mean().item() == pytest.approx(1)


def test_the_controller_turns_from_consistency_to_complement_as_the_follower_catches_up():
    def of(follower: float, before: float) -> list[float]:
        return controller(*torch.tensor([follower, before], dtype=torch.float64), 0.5).tolist()

    assert of(0.0, 0.4) == pytest.approx([0.5, 0.0])
    assert of(0.1, 0.4) == pytest.approx([0.375, 0.125])
    assert of(0.4, 0.4) == pytest.approx([0.0, 0.5])
    assert of(0.6, 0.4) == pytest.approx([0.0, 0.5])
    assert of(0.0, 0.0) == pytest.approx([0.5, 0.0])
    assert of(0.1, 0.0) == pytest.approx([0.0, 0.5])


def test_a_follower_that_ranks_as_well_as_the_anchor_learns_to_differ():
    data = SyntheticMultimodal(num_users=150, num_items=120, num_interactions=4000, modalities={"a": 0.5, "b": 0.5})[0]
    options = {"batch_size": 512, "device": "cpu", "progress": False}
    teachers = train_teachers(VBPR, data, Trainer(max_epochs=10, lr=0.01, **options), use_cache=False, embedding_dim=16)
    objective = UnidirectionalInteraction(build(VBPR, data, 0, embedding_dim=16), teachers, strength=1.0)
    rows = Trainer(max_epochs=30, lr=0.01, **options).fit(objective, data).rows
    consistency, complement = ([row[f"strength/{name}"] for row in rows] for name in ("consistency", "complement"))
    assert consistency[1] > complement[1]
    assert complement[-1] > 0.9
    assert consistency[-1] < 0.1


def test_squared_correlation_of_what_counts():
    x, y = torch.randn(2, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y, counted = y + 0.7 * x, torch.arange(40) % 3 > 0
    expected = np.corrcoef(x[counted], y[counted])[0, 1] ** 2
    assert squared_correlation(x, y, counted).item() == pytest.approx(expected, abs=1e-12)
    flat = torch.zeros(40, dtype=torch.float64, requires_grad=True)
    squared_correlation(flat, y).backward()
    assert squared_correlation(flat, y).item() == 0.0
    assert torch.isfinite(flat.grad).all()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("backbone", ["VBPR", "EarlyFusionLightGCN"])
@pytest.mark.parametrize("stage", [1, 2])
def test_terms_of_a_stage_by_hand(stage, backbone, make_data):
    data, has = make_data(modalities=3), {"mod0": torch.arange(9) % 4 > 0}
    options = {"strength": 0.8, "temperature": 0.6, "has": has, "backbone": backbone}
    objective = begun(data, [0.2, 0.3, 0.1], stage, **options)
    assert [objective.modalities[n] for n in objective.order] == ["mod1", "mod0", "mod2"]
    follower = ["mod0", "mod2"][stage - 1]
    assert objective.follower == follower
    objective.strengths.copy_(torch.tensor([0.3, 0.2]))
    batch = one_batch(data, 30)
    terms = objective.loss(*doubled(data), batch)
    out = {view: objective.student(*doubled(data), view).detach() for view in ("mod0", "mod2")}
    empty = objective.student(*doubled(data), []).detach()
    known = has["mod0"].tolist()

    def before(u: int, i: int, j: int) -> float:
        models = [objective.teacher("mod1"), *([out["mod0"]] if stage == 2 else [])]
        return sum(float(o.user[u] @ (o.item[i] - o.item[j])) for o in models) / len(models)

    def margin(o: Embeddings, u: int, i: int, j: int) -> float:
        return float(o.user[u] @ (o.item[i] - o.item[j]))

    losses, added, alone, others = [], [], [], []
    for u, i, j in zip(*(x.tolist() for x in batch[:3]), strict=True):
        whole = known[i] and known[j]
        if stage == 2 or whole:  # The main loss asks for the follower's modality alone.
            losses.append(math.log1p(math.exp(-margin(out[follower], u, i, j))))
        if whole:
            alone.append(margin(out[follower], u, i, j))
            added.append(alone[-1] - margin(empty, u, i, j))
            others.append(before(u, i, j))
    assert 0 < len(added) < batch.user.numel()
    assert terms["bpr"].item() == pytest.approx(sum(losses) / len(losses), abs=1e-10)
    expected = 0.2 * np.corrcoef(added, others)[0, 1] ** 2
    assert terms["complement"].item() == pytest.approx(expected, abs=1e-9)
    losses = []
    for u, i, j in zip(*(x.tolist() for x in batch[3:]), strict=True):
        if known[i] and known[j]:
            mine, theirs = (1 / (1 + math.exp(-x / 0.6)) for x in (margin(out[follower], u, i, j), before(u, i, j)))
            losses.append(-theirs * math.log(mine) - (1 - theirs) * math.log(1 - mine))
    assert terms["consistency"].item() == pytest.approx(0.3 * sum(losses) / len(losses), abs=1e-9)
    objective.epoch_statistics()
    label = [unbiased_label_information(torch.tensor(x, dtype=torch.float64)).item() for x in (alone, others)]
    label = [max(x, 0.0) for x in label]
    assert len(alone) >= LEAST_TRIPLES
    assert objective.information.label.tolist() == pytest.approx(label, abs=1e-9)
    objective.begin_epoch(*doubled(data))
    found = controller(*torch.tensor(label, dtype=torch.float64), 0.8)
    assert objective.strengths.tolist() == pytest.approx(found.tolist(), abs=1e-9)


@pytest.mark.usefixtures("double")
def test_contrast_compares_what_users_think_whom_the_anchor_serves_and_the_follower_does_not(make_data):
    data = make_data()
    objective = begun(data, [0.2, 0.1], consistency="contrast", strength=0.5, num_items=15)
    assert objective.num_random_triples == 0
    batch = one_batch(data, 0)
    terms = objective.loss(*doubled(data), batch)
    out, teacher = objective.student(*doubled(data), "mod1").detach(), objective.teacher("mod0")
    users, items = batch.user[:15], batch.positive[:15]
    triples = batch[:3]
    effective = ((out.margin(*triples) <= 0) & (teacher.margin(*triples) > 0))[:15]
    assert 0 < int(effective.sum()) < 15
    profiles = []
    for tables in (out, teacher):
        scores = tables.item[items] @ tables.user[users].t()
        profile = (scores - scores.mean(dim=0))[:, effective]
        profiles.append(profile / profile.norm(dim=1, keepdim=True))
    similarity = (profiles[0] @ profiles[1].t() / 0.2).exp()
    losses = []
    for place, item in enumerate(items.tolist()):
        others = [p for p, other in enumerate(items.tolist()) if p == place or other != item]
        losses.append(-math.log(float(similarity[place, place]) / float(similarity[place, others].sum())))
    assert terms["consistency"].item() == pytest.approx(0.5 * sum(losses) / 15, abs=1e-9)


@pytest.mark.parametrize("backbone", ["VBPR", "MMGCN"])
def test_only_the_follower_learns_and_shared_parameters_with_the_first_one(backbone, make_data):
    data = make_data(modalities=3)
    for stage, follower in ((1, "mod1"), (2, "mod2")):
        objective = begun(data, [0.3, 0.2, 0.1], stage, backbone=backbone)
        terms = objective.loss(*doubled(data), one_batch(data, 20))
        objective.backward(terms, lambda loss: loss.backward())
        own = {id(p) for p in objective.student.modality_parameters[follower]}
        others = {id(p) for m in data.modalities if m != follower for p in objective.student.modality_parameters[m]}
        moved = {id(p) for p in objective.student.parameters() if p.grad is not None}
        assert own <= moved
        assert not moved & others
        assert bool(moved - own) == (stage == 1)


def test_a_stage_ends_when_its_fused_scores_have_stalled(make_data):
    data = make_data(modalities=3)
    objective = begun(data, [0.3, 0.2, 0.1], stage_patience=2)
    stages = []
    values = [0.1, 0.2, 0.15, 0.15, 0.1, 0.3, 0.2, 0.2, 0.2]
    for epoch in range(1, len(values) + 2):
        history = tuple({"epoch": n + 1, "val/recall@5": v} for n, v in enumerate(values[: epoch - 1]))
        objective.progress = Progress(epoch, 99, history, "recall@5")
        objective.begin_epoch(*doubled(data))
        stages.append(int(objective.stage))
    assert stages == [
        1,
        1,
        1,
        1,
        2,
        2,
        2,
        2,
        2,
        2,
    ]  # The best of the first stage is two evaluations ago before epoch 5.
    assert objective.follower == "mod2"


def test_early_stopping_waits_for_the_last_modality_and_keeps_an_epoch_that_has_all(make_data):
    data = make_data(modalities=4)
    objective = sequential(data, stage_patience=2, num_random_triples=20).float()
    assert objective.stages_left == 2
    history = trainer(max_epochs=200, patience=2, lr=0.05).fit(objective, data)
    stages = [row["stage"] for row in history.rows]
    assert history.stopped.startswith("no rise")
    assert sorted(set(stages)) == [1, 2, 3]
    assert stages[history.best_epoch - 1] == 3
    assert history.best_value == max(row["val/recall@5"] for row in history.rows if row["stage"] == 3)
    assert int(objective.stage) == 3
    short = trainer(max_epochs=stages.index(2.0) + 1, patience=2, lr=0.05).fit(
        sequential(data, stage_patience=2, num_random_triples=20).float(), data
    )
    assert (short.stopped, short.best_epoch) == ("budget: stages still to come", len(short.rows))
    plain = sequential(data, sequential=False)
    assert (plain.stages_left, plain.stage_of_best) == (0, 0)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("fusion", ["validation", "confidence"])
def test_scores_are_sums_over_the_modalities_that_have_begun(fusion, make_data):
    data = make_data(modalities=3)
    objective = begun(data, [0.1, 0.3, 0.2], fusion=fusion, confidence_temperature=0.4)
    score = Score(objective, [0.1, 0.3, 0.2])
    objective.before_validation(*doubled(data), score)
    parts = {"mod1": objective.teacher("mod1"), "mod2": objective.student(*doubled(data), "mod2").detach()}
    spread = {m: float(score_spread(tables)) for m, tables in parts.items()}
    margins = torch.stack([tables.margin(*score.triples) / spread[m] for m, tables in parts.items()], dim=1)
    expected = dict(zip(parts, logistic_weights(margins).tolist(), strict=True))
    shown = objective.epoch_statistics()
    assert [shown[f"weight/{m}"] for m in ("mod1", "mod2", "mod0")] == pytest.approx([*expected.values(), 0.0])
    scores = {m: tables.user @ tables.item.t() / spread[m] for m, tables in parts.items()}
    if fusion == "validation":
        wanted = sum(expected[m] * s for m, s in scores.items())
    else:
        weight = torch.softmax(torch.stack([s.softmax(dim=1).amax(dim=1) / 0.4 for s in scores.values()]), dim=0)
        wanted = sum(w.unsqueeze(1) * s for w, s in zip(weight, scores.values(), strict=True))
    full, two, one, later, none = objective.forward_views(*doubled(data), [None, ["mod0", "mod2"], "mod1", "mod0", []])

    def ranking(tables: Embeddings) -> Tensor:
        return tables.user @ tables.item.t()

    def centred(s: Tensor) -> Tensor:
        return s - s.mean(dim=1, keepdim=True)

    assert torch.allclose(centred(ranking(full)), centred(wanted), rtol=0, atol=1e-10)
    for view, m in ((two, "mod2"), (one, "mod1")):
        ratio = centred(ranking(view)) / centred(scores[m])
        assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=0, atol=1e-8)
    assert torch.equal(later.item, objective.student(*doubled(data), "mod0").item)
    assert float(ranking(none).abs().max()) == 0.0


def test_goes_on_after_a_break_where_the_stages_change_and_is_found_again(make_data, tmp_path):
    data = make_data(modalities=3)
    options = {"stage_patience": 1, "num_random_triples": 20, "strength": 0.3}

    def model() -> UnidirectionalInteraction:
        return sequential(data, **options).float()

    whole = model()
    expected = trainer(max_epochs=6, lr=0.05).fit(whole, data)
    for epochs in (2, 3, 6):
        broken = model()
        history = trainer(max_epochs=epochs, lr=0.05, checkpoint_dir=tmp_path).fit(broken, data)
    assert history.rows == expected.rows
    stages = [row["stage"] for row in expected.rows]
    assert stages[0] == 1
    assert stages[-1] == 2
    assert all(torch.equal(broken.state_dict()[k], v) for k, v in whole.state_dict().items() if not v.isnan().any())
    save_model(tmp_path / "model.pt", whole, data)
    found = load_model(tmp_path / "model.pt", data)
    features = {m: x.float() for m, x in doubled(data)[0].items()}, doubled(data)[1]
    for one, two in zip(
        whole.forward_views(*features, [None, "mod0"]), found.forward_views(*features, [None, "mod0"]), strict=True
    ):
        assert torch.equal(one.user @ one.item.t(), two.user @ two.item.t())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": -1.0}, "strength: found -1.0, expected a number of zero or more"),
        ({"temperature": 0.0}, "temperature: found 0.0, expected a positive number"),
        ({"consistency": "contrsat"}, "unknown consistency 'contrsat': did you mean 'contrast'"),
        ({"fusion": "mean"}, "unknown fusion 'mean'"),
        ({"stage_patience": 0}, "stage_patience: found 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message, make_data):
    with pytest.raises(InputError, match=message):
        sequential(make_data(), **options)


def test_a_graph_without_a_validation_part_is_refused(make_data):
    data = make_data()
    data["user", "rates", "item"].val_edge_index = data["user", "rates", "item"].val_edge_index[:, :0]
    with pytest.raises(InputError, match="udi: found a graph without a validation part"):
        trainer().fit(sequential(data).float(), data)


def test_a_stage_computes_the_views_of_its_follower_and_of_those_before(make_data):
    data = make_data(modalities=3)
    first, second = (list(begun(data, [0.3, 0.2, 0.1], stage).views) for stage in (1, 2))
    assert first == [frozenset(["mod1"]), frozenset()]
    assert second == [frozenset(["mod2"]), frozenset(), frozenset(["mod1"])]
    assert list(begun(data, [0.3, 0.2, 0.1], 2, strength=0.0).views) == [frozenset(["mod2"])]


def test_a_backbone_on_which_later_stages_train_nothing_is_refused(make_data, monkeypatch):
    for cls in (FREEDOM, LATTICE):
        with pytest.raises(InputError, match=f"udi: found {cls.__name__} without a trained parameter of one modality"):
            sequential(make_data(modalities=3), cls.__name__)
        assert sequential(make_data(modalities=2), cls.__name__).views  # The ids train in the only stage.
    monkeypatch.setattr(FREEDOM, "steered", "steps")  # As of a backbone that does not say it.
    data = make_data(modalities=3)
    for strength in (0.0, 0.1):
        objective = sequential(data, "FREEDOM", strength=strength)
        features, graph = doubled(data)
        with pytest.raises(InputError, match=r"udi: found FREEDOM without .* of 'mod1' alone that scores depend on"):
            objective.loss(features, objective.prepare(features, graph), one_batch(data, 20))


def test_every_stage_is_checked_for_parameters_that_move_its_scores(make_data):
    data = make_data(modalities=3)
    objective = begun(data, [0.1, 0.3, 0.2])
    assert objective.follower == "mod2"
    objective.loss(*doubled(data), one_batch(data, 20))
    objective.stage.fill_(2)
    objective.begin_epoch(*doubled(data))
    for p in objective.student.modality_parameters["mod0"]:
        p.requires_grad_(False)
    with pytest.raises(InputError, match="udi: found VBPR without a trained parameter of 'mod0' alone that scores"):
        objective.loss(*doubled(data), one_batch(data, 20))
