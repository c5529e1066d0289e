"""Unseen modality interaction: its terms and its scores by hand, its classes, and new items with other modalities."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from pyg_ckd import Objective, Trainer
from pyg_ckd.balance import DifficultyCurriculum
from pyg_ckd.balance.unseen import UnseenInteraction, item_classes
from pyg_ckd.data import subgraph
from pyg_ckd.errors import InputError
from pyg_ckd.scoring.rows import added_item_rows, blocks_of
from pyg_ckd.training import warm_start
from pyg_ckd.training.model import load_model, save_model
from tests.balance.test_ckd import one_batch, random_teachers
from tests.nn.models.zoo import BACKBONES, built, doubled

HAS = torch.arange(9) % 3 > 0


def made(data, backbone: str = "VBPR", lacking: bool = False, **options) -> UnseenInteraction:
    """Return an objective in double precision, without random views, whose second users and classes are random."""
    student = built(BACKBONES[backbone], data)
    defaults = {"rate": 0.0, "weight": 0.7, "temperature": 1.3, "alignment": 0.2, "num_classes": 3, "l2": 0.05}
    has = {"mod1": HAS} if lacking else {}
    objective = UnseenInteraction(student, random_teachers(student), **(defaults | options), has=has).double()
    objective.prepare(*doubled(data))
    with torch.no_grad():
        for p in (*objective.second.parameters(), *objective.centres.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=torch.float64))
    return objective


def content(objective: UnseenInteraction, data, view) -> Tensor:
    """Return what a view adds to the rows of all items in the empty view."""
    with torch.no_grad():
        own, empty = objective.student.forward_views(*doubled(data), [view, []])
    return own.item - empty.item


def second_users(objective: UnseenInteraction, width: int) -> Tensor:
    """Return the second users' columns; a bias, which is the last column, has none."""
    found = torch.cat([p.detach() for _, p in sorted(objective.second.items())], dim=1)
    return torch.cat([found, found.new_ones(found.size(0), width - found.size(1))], dim=1)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lacking", [False, True])
@pytest.mark.parametrize("view", [("mod0", "mod1", "mod2"), ("mod1", "mod2"), ("mod1",)], ids=len)
@pytest.mark.parametrize("backbone", ["VBPR", "EarlyFusionLightGCN", "MMGCN"])
def test_terms_equal_a_loop(backbone, view, lacking, make_data, monkeypatch):
    data = make_data(modalities=3)
    objective, batch = made(data, backbone, lacking), one_batch(data, 30)
    views = [frozenset(view), *(frozenset([m]) for m in data.modalities), frozenset()]
    monkeypatch.setattr(UnseenInteraction, "views", list(dict.fromkeys(views)))
    terms = objective.loss(*doubled(data), batch)
    rows = content(objective, data, view)
    users = second_users(objective, rows.size(1))

    def there(m: str, *items: int) -> bool:
        return not (lacking and m == "mod1") or all(bool(HAS[item]) for item in items)

    losses = []
    for m in view:
        teacher, found = objective.teacher(m), []
        for u, j, k in zip(*(x.tolist() for x in batch[3:]), strict=True):
            if all(there(n, j, k) for n in view):
                margin = float(users[u] @ (rows[j] - rows[k])) / 1.3
                target = 1 / (1 + math.exp(-float(teacher.user[u] @ (teacher.item[j] - teacher.item[k])) / 1.3))
                found.append(target * math.log1p(math.exp(-margin)) + (1 - target) * math.log1p(math.exp(margin)))
        losses.append(sum(found) / len(found))
    assert terms["pseudo"].item() == pytest.approx(0.7 * sum(losses) / len(view), abs=1e-10)
    squares = sum(float(p[u].detach().square().sum()) for u in batch.user for p in objective.second.values())
    assert terms["second"].item() == pytest.approx(0.05 * 0.5 * squares / batch.user.numel(), abs=1e-10)

    centres, total = objective.centres["all"].detach(), 0.0
    for m in data.modalities:
        out = objective.student.outputs(*doubled(data), [[m], []])
        own = added_item_rows(*out, torch.arange(9)).detach()
        items = [i for i in set(batch.positive.tolist()) if there(m, i)]
        gaps = [float((own[i] - centres[objective.classes[i]]).square().sum()) for i in items]
        total += sum(gaps) / len(gaps)
    assert terms["alignment"].item() == pytest.approx(0.2 * total, abs=1e-10)
    plain = Objective(objective.student, view=view, l2=0.05).loss(*doubled(data), batch)
    assert terms["bpr"].item() == pytest.approx(plain["bpr"].item(), abs=1e-10)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("backbone", ["VBPR", "EarlyFusionLightGCN", "MMGCN", "FISM on content"])
def test_every_view_is_ranked_with_the_mean_of_both_branches(backbone, make_data):
    data = make_data(modalities=3)
    objective = made(data, backbone)
    for view in (None, ["mod0", "mod2"], ["mod1"], []):
        own = objective.student(*doubled(data), view)
        rows = content(objective, data, [] if view == [] else view)
        expected = (own.user @ own.item.t() + second_users(objective, rows.size(1)) @ rows.t()) / 2
        found = objective(*doubled(data), view)
        torch.testing.assert_close(found.user @ found.item.t(), expected, rtol=0, atol=1e-10)


def test_a_step_without_random_triples_that_count_has_finite_gradients(make_data):
    data = make_data(modalities=3)
    objective = made(data, lacking=True)
    objective.item_mask_mod1.zero_()
    sum(objective.loss(*doubled(data), one_batch(data, 30)).values()).backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in objective.parameters() if p.grad is not None)


def test_the_second_branch_does_not_see_ids(make_data):
    data = make_data(modalities=3)
    objective = made(data, alignment=0.0)
    terms = objective.loss(*doubled(data), one_batch(data, 30))
    terms["pseudo"].backward()
    student = objective.student
    assert student.item_embedding.grad is None
    assert student.user_embedding.grad is None
    assert all(float(lin.weight.grad.abs().sum()) > 0 for lin in student.project.values())


def test_views_are_drawn_without_regard_to_the_order_of_modalities(make_data):
    found = []
    for names in (["mod0", "mod1", "mod2"], ["mod2", "mod0", "mod1"]):
        data = make_data(modalities=3)
        data.modalities = names
        student = built(BACKBONES["VBPR"], data)
        objective = UnseenInteraction(student, random_teachers(student), rate=0.5, alignment=0.0)
        torch.manual_seed(0)
        found.append([objective.views for _ in range(200)])
    assert found[0] == found[1]
    assert {views[-1] for views in found[0]} == {frozenset()}
    assert set(Counter(len(views[0]) for views in found[0])) == {1, 2, 3}


def test_views_are_parts_of_what_items_have_as_often_as_items_have_them(make_data):
    student = built(BACKBONES["VBPR"], make_data(modalities=3))
    number = torch.arange(9)
    has = {
        "mod0": number < 3,
        "mod1": (number >= 3) & (number < 6),
        "mod2": (number >= 3) & (number < 8),
    }  # One is bare.
    objective = UnseenInteraction(student, random_teachers(student), rate=0.5, weight=0.0, has=has)
    torch.manual_seed(0)
    drawn = Counter(tuple(sorted(objective.views[0])) for _ in range(4000))
    share = {("mod0",): 3 / 8, ("mod1", "mod2"): 3 / 32, ("mod1",): 9 / 64, ("mod2",): 25 / 64}
    assert drawn.keys() == share.keys()
    for view, p in share.items():
        assert abs(drawn[view] / 4000 - p) < 5 * (p * (1 - p) / 4000) ** 0.5
    nothing = UnseenInteraction(student, random_teachers(student), has=dict.fromkeys(student.modalities, number < 0))
    assert nothing.views[0] <= set(student.modalities)


def test_classes_are_groups_of_items_that_the_same_users_have_met():
    group = torch.arange(30) % 3
    met = (torch.arange(60) % 3).unsqueeze(1) == group
    met &= torch.rand(60, 30, generator=torch.Generator().manual_seed(0)) < 0.6
    found = item_classes(met.double().to_sparse_csr(), 3)
    assert found.dtype == torch.int64
    assert len({(int(g), int(c)) for g, c in zip(group, found, strict=True)}) == 3
    assert set(item_classes(torch.eye(4).to_sparse_csr(), 20).tolist()) <= {0, 1, 2, 3}
    assert item_classes(torch.ones(5, 4).to_sparse_csr(), 3).tolist() == [0] * 4
    assert item_classes(torch.ones(1, 1).to_sparse_csr(), 3).tolist() == [0]


def trained(data, **options) -> UnseenInteraction:
    student = BACKBONES["VBPR"](data)
    teachers = {m: type(t)(t.user.float(), t.item.float()) for m, t in random_teachers(student).items()}
    objective = UnseenInteraction(student, teachers, **options)
    trainer = Trainer(max_epochs=2, batch_size=16, lr=0.01, monitor="recall@5", device="cpu", progress=False)
    trainer.fit(objective, data)
    return objective


def test_a_stored_model_ranks_as_before(make_data, tmp_path):
    data = make_data(modalities=3)
    objective = trained(data)
    save_model(tmp_path / "model.pt", objective, data)
    found = load_model(tmp_path / "model.pt", data)
    assert isinstance(found, UnseenInteraction)
    features, graph = doubled(data)
    features = {m: x.float() for m, x in features.items()}
    for one, two in zip(objective(features, graph, ["mod1"]), found(features, graph, ["mod1"]), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("from_plain", [False, True])
def test_second_users_begin_as_those_of_an_earlier_model_with_their_ids(from_plain, make_data):
    today = make_data(modalities=2)
    today.user_id = [f"u{row}" for row in range(12)]
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))[:10]
    yesterday = subgraph(today, {"user": order})
    earlier, model = made(yesterday), made(today)
    with torch.no_grad():
        model.centres["all"].fill_(3.0)
        for p in earlier.student.parameters():
            p.mul_(2.0)
    warm_start(model, today, (earlier.student if from_plain else earlier, yesterday))
    joint = blocks_of(model.student.outputs(*doubled(today), [model.view])[0])
    rest = [row for row in range(12) if from_plain or row not in order]
    assert len(model.second) == 3
    for n, users in model.second.items():
        assert torch.equal(users[rest], joint[int(n)].user[rest])
        if not from_plain:
            assert torch.equal(users[order], earlier.second[n])
    assert not model.centres["all"].any()  # Classes of another graph are others.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 1.0}, r"rate: found 1\.0, expected a probability"),
        ({"weight": -1.0}, r"weight: found -1\.0, expected a number of zero or more"),
        ({"temperature": 0.0}, r"temperature: found 0\.0, expected a positive number"),
        ({"alignment": float("nan")}, "alignment: found nan, expected a number of zero or more"),
        ({"num_classes": 0}, "num_classes"),
        ({"num_items": 0}, "num_items"),
        ({"num_random_triples": 0}, "num_random_triples"),
    ],
)
def test_bad_numbers_are_refused(options, message, make_data):
    with pytest.raises(InputError, match=message):
        made(make_data(), **options)


def test_a_backbone_that_ignores_features_is_refused(make_data):
    student = built(BACKBONES["LightGCN"], make_data())
    with pytest.raises(InputError, match="ignores features"):
        UnseenInteraction(student, random_teachers(student))


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_new_objective_takes_the_state_of_a_trained_one(wrapped, make_data):
    data = make_data()
    student = BACKBONES["VBPR"](data)
    teachers = {m: type(t)(t.user.float(), t.item.float()) for m, t in random_teachers(student).items()}

    def made(**options) -> Objective:
        options = {"alignment": 0.5, "num_classes": 3, **options}
        objective = UnseenInteraction(BACKBONES["VBPR"](data), teachers, **options)
        return DifficultyCurriculum(objective, stage_epochs=1) if wrapped else objective

    trained = made()
    trainer = Trainer(max_epochs=1, progress=False, device="cpu", monitor="recall@5")
    trainer.fit(trained, data)
    new, state = made(), trained.state_dict()
    assert {part for name in state for part in name.split(".")} >= {"second", "centres"}
    new.load_state_dict(state)
    assert state.keys() == new.state_dict().keys()
    assert all(torch.equal(value, new.state_dict()[name]) for name, value in state.items())
    trainer.fit(new, data)
    for option in ("weight", "alignment"):
        with pytest.raises(RuntimeError, match="Unexpected key"):
            made(**{option: 0.0}).load_state_dict(state)
