"""Alternating training: turns, frozen parameters, the projection in closed form, and weights by entropy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyg_ckd import Objective
from pyg_ckd.balance.alternating import FORMS, AlternatingAdaptation, entropy_weights, update_projector
from pyg_ckd.balance.gradients import SHARED, parameter_groups
from pyg_ckd.balance.progress import Progress
from pyg_ckd.data import TripletSampler
from pyg_ckd.data.inputs import RATES
from pyg_ckd.errors import InputError
from pyg_ckd.nn import EarlyFusionLightGCN
from tests.balance.test_ckd import one_batch
from tests.conftest import TOLERANCE
from tests.nn.models.zoo import BACKBONES, built, doubled

FOLDERS = {"rls": "rls", "normalised": "rls_normalised", "published": "code"}


def alternating(data, backbone: str = "EarlyFusionLightGCN", **options) -> AlternatingAdaptation:
    return AlternatingAdaptation(built(BACKBONES[backbone], data), **options)


def step(objective: Objective, data, batch) -> dict[str, Tensor]:
    """Compute the gradients of a step as the trainer does."""
    objective.zero_grad()
    terms = objective.loss(*doubled(data), batch)
    objective.backward(terms, lambda loss, retain_graph=False: loss.backward(retain_graph=retain_graph))
    return terms


@pytest.mark.parametrize("form", FORMS)
def test_projectors_equal_the_reference(form, golden):
    file, name = golden("balance/mla"), FOLDERS[form]
    rows, num_batches = file["feature"].mean(dim=1), file.integer("num_batches")
    projector = torch.eye(rows.size(1), dtype=rows.dtype)
    for t, row in enumerate(rows):
        if t > 0:  # The first step of the reference changes nothing.
            ridge = 0.1 ** (int(file["batch_index"][t]) / num_batches + 1)
            projector = update_projector(projector, row, ridge, form)
        assert torch.allclose(projector, file[f"{name}/projector"][t], rtol=0, atol=TOLERANCE)
        assert torch.allclose(file["grad"][t] @ projector.t(), file[f"{name}/projected"][t], rtol=0, atol=TOLERANCE)


def test_weights_by_entropy_equal_the_reference(golden):
    file = golden("balance/mla")
    groups = sorted({key.partition("/")[0] for key in file if key.startswith("gate")})
    assert groups
    for group in groups:
        logits = file[f"{group}/logits"]
        log = logits.log_softmax(dim=-1)
        assert torch.allclose(-(log.exp() * log).sum(dim=-1), file[f"{group}/entropy"], rtol=0, atol=TOLERANCE)
        log = logits.log_softmax(dim=1)
        entropy = -(log.exp() * log).sum(dim=(1, 2))
        assert torch.allclose(entropy, file[f"{group}/code_entropy"], rtol=0, atol=TOLERANCE)
        weights = {"": entropy_weights(logits), "code_": entropy_weights(logits, published=True).unsqueeze(-1)}
        for start, weight in weights.items():
            expected = file[f"{group}/{start}weight"]
            assert torch.allclose(weight.view(expected.shape), expected, rtol=0, atol=TOLERANCE)
            fused = (weight.unsqueeze(-1) * logits).sum(dim=0)
            assert torch.allclose(fused, file[f"{group}/{start}fused"], rtol=0, atol=TOLERANCE)


def test_the_projector_is_the_inverse_of_what_it_has_seen():
    rows = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    projector = torch.eye(4, dtype=torch.float64)
    for row in rows:
        projector = update_projector(projector, row, 0.3)
    expected = torch.linalg.inv(torch.eye(4, dtype=torch.float64) + rows.t() @ rows / 0.3)
    assert torch.allclose(projector, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("backbone", ["VBPR", "MMGCN", "EarlyFusionLightGCN"])
def test_steps_and_epochs_take_turns_and_nobody_else_learns(backbone, modalities, make_data):
    data = make_data(modalities=modalities)
    objective, batch = alternating(data, backbone), one_batch(data, 0)
    turns = []
    for epoch in (1, 2):
        objective.progress = Progress(epoch, 2)
        objective.begin_epoch(*doubled(data))
        for _ in range(modalities + 1):
            turn = objective.turn
            turns.append(turn)
            assert step(objective, data, batch).keys() == {"bpr", "l2"}
            for m, parameters in objective.student.modality_parameters.items():
                assert all((p.grad is not None) == (m == turn) for p in parameters), m
            assert any(p.grad is not None for p in parameter_groups(objective)[SHARED])
    expected = [objective.modalities[(epoch + k) % modalities] for epoch in (0, 1) for k in range(modalities + 1)]
    assert turns == expected


@pytest.mark.usefixtures("double")
def test_gradients_of_shared_tables_are_projected_by_what_earlier_steps_have_seen(make_data):
    data = make_data(modalities=3)
    objective, free = (alternating(data, project=project, ridge=0.2) for project in (True, False))
    batches = list(TripletSampler(data[RATES].edge_index, 12, 9, batch_size=9, seed=1))
    assert len(batches) > 3
    rows, width, moved = [], objective.student.item_embedding.size(1), 0.0
    for batch in batches[:4]:
        turn = objective.turn
        item = objective.student(*doubled(data), turn).item.detach()
        for other in (objective, free):
            step(other, data, batch)
        seen = torch.eye(width) + sum((torch.outer(r, r) for r in rows), torch.zeros(width, width)) / 0.2
        for p, q in zip(objective.student.parameters(), free.student.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None)
            if p.grad is None:
                continue
            own = any(p is x for group in objective.student.modality_parameters.values() for x in group)
            expected = q.grad if own or p.size(-1) != width else q.grad @ torch.linalg.inv(seen)
            assert torch.allclose(p.grad, expected, rtol=0, atol=1e-12)
            moved += float((p.grad - q.grad).abs().sum())
        mean = (item[batch.positive] - item[batch.negative]).mean(dim=0)
        rows.append(mean / mean.norm())
    assert moved > 0
    objective.begin_epoch(*doubled(data))
    step(objective, data, batches[0])
    first = free.student.user_embedding.grad.clone()
    free.begin_epoch(*doubled(data))
    step(free, data, batches[0])
    assert torch.equal(objective.student.user_embedding.grad, free.student.user_embedding.grad)
    assert not torch.equal(first, free.student.user_embedding.grad)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("backbone", ["VBPR", "EarlyFusionLightGCN"])
def test_scores_are_uni_modal_scores_weighted_by_every_users_entropies(backbone, make_data):
    data = make_data(modalities=3)
    objective = alternating(data, backbone, temperature=0.7)
    alone = {m: objective.student(*doubled(data), m).detach() for m in data.modalities}
    for view in (None, ["mod0", "mod2"]):
        names = data.modalities if view is None else view
        tables = objective.forward_views(*doubled(data), [view])[0].detach()
        for u in range(12):
            scores = {m: (alone[m].item @ alone[m].user[u]).tolist() for m in names}
            entropy = {}
            for m, s in scores.items():
                z = sum(math.exp(x / 0.7) for x in s)
                entropy[m] = -sum(math.exp(x / 0.7) / z * math.log(math.exp(x / 0.7) / z) for x in s)
            weight = {m: math.exp(max(entropy.values()) - h) for m, h in entropy.items()}
            for i in range(9):
                expected = sum(weight[m] * scores[m][i] for m in names) / sum(weight.values())
                assert float(tables.user[u] @ tables.item[i]) == pytest.approx(expected, abs=1e-10)
    shown = objective.epoch_statistics()
    assert sum(shown.values()) == pytest.approx(3, abs=1e-6)
    assert len({round(w, 6) for w in shown.values()}) > 1


def test_views_of_one_modality_or_none_are_those_of_the_student(make_data):
    data = make_data(modalities=3)
    objective = alternating(data, "VBPR")
    views = [["mod1"], [], None]
    mine = objective.forward_views(*doubled(data), views)
    theirs = objective.student.forward_views(*doubled(data), views)
    for one, two in zip(mine[:2], theirs[:2], strict=True):
        assert torch.equal(one.user @ one.item.t(), two.user @ two.item.t())
    assert not torch.allclose(mine[2].user @ mine[2].item.t(), theirs[2].user @ theirs[2].item.t())
    assert torch.equal(objective(*doubled(data), None).user, mine[2].user)
    without = alternating(data, "VBPR", gate=False)
    assert torch.equal(without(*doubled(data)).user, theirs[2].user)
    assert without.epoch_statistics() == {}


@pytest.mark.usefixtures("double")
def test_triples_without_the_modality_of_the_turn_do_not_count(make_data):
    data, has = make_data(modalities=3), torch.arange(9) % 3 > 0
    objective = alternating(data, "VBPR", has={"mod0": has}, l2=0.0)
    batch = one_batch(data, 0)
    counted = has[batch.positive] & has[batch.negative]
    assert 0 < int(counted.sum()) < counted.numel()
    assert objective.turn == "mod0"
    loss = step(objective, data, batch)["bpr"]
    margin = objective.student(*doubled(data), "mod0").margin(*batch[:3])[counted]
    assert loss.item() == pytest.approx(torch.nn.functional.softplus(-margin).mean().item(), abs=1e-10)
    assert objective.turn == "mod1"
    everything = objective.student(*doubled(data), "mod1").margin(*batch[:3])
    expected = torch.nn.functional.softplus(-everything).mean().item()
    assert objective.loss(*doubled(data), batch)["bpr"].item() == pytest.approx(expected, abs=1e-10)


def masked(data, has: Tensor) -> AlternatingAdaptation:
    """Return a model in which an item's row depends on its own features alone."""
    student = built(lambda data: EarlyFusionLightGCN.from_data(data, embedding_dim=6, num_layers=0), data)
    return AlternatingAdaptation(student, has={"mod0": has}, l2=0.0)


@pytest.mark.usefixtures("double")
def test_what_items_lack_decides_neither_the_projection_nor_a_gradient(make_data):
    data, lacking = make_data(modalities=3), torch.tensor([1, 4, 6, 7])
    has = ~torch.isin(torch.arange(9), lacking)
    features, graph = doubled(data)
    swapped = features["mod0"].clone()
    swapped[lacking] = features["mod0"][lacking.flip(0)]  # Their mean, which interventions use, stays.
    batch, gradients, projectors = one_batch(data, 0), [], []
    for x in (features["mod0"], swapped):
        objective, own = masked(data, has), {**features, "mod0": x}
        assert objective.turn == "mod0"
        seen = []
        for _ in range(2):  # The second step is projected by the row of the first.
            objective.zero_grad()
            objective.backward(objective.loss(own, graph, batch), lambda loss: loss.backward())
            seen += [p.grad.clone() for p in objective.student.parameters() if p.grad is not None]
        gradients.append(seen)
        projectors.append(objective._projector)
    torch.testing.assert_close(*projectors, rtol=0, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("double")
def test_the_projection_is_of_triples_that_have_the_modality_and_stays_where_none_has(make_data):
    data, has = make_data(modalities=3), torch.arange(9) % 3 > 0
    objective, batch = masked(data, has), one_batch(data, 0)
    counted = has[batch.positive] & has[batch.negative]
    assert 0 < int(counted.sum()) < counted.numel()
    item = objective.student(*doubled(data), "mod0").item.detach()
    step(objective, data, batch)
    mean = (item[batch.positive] - item[batch.negative])[counted].mean(dim=0)
    expected = update_projector(torch.eye(6), mean / mean.norm(), objective.ridge)
    torch.testing.assert_close(objective._projector, expected, rtol=0, atol=1e-12)
    nobody = masked(data, torch.zeros(9, dtype=torch.bool))
    step(nobody, data, batch)
    assert torch.equal(nobody._projector, torch.eye(6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ridge": 0.0}, "ridge: found 0.0, expected a positive number"),
        ({"temperature": math.nan}, "temperature: found nan, expected a positive number"),
        ({"alternate": False}, "project: found True without alternate, expected both, or project=False"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message, make_data):
    with pytest.raises(InputError, match=message):
        alternating(make_data(), **options)


def test_a_backbone_without_parameters_of_modalities_is_refused(make_data):
    with pytest.raises(InputError, match="mla: found LightGCN without a trained parameter of one modality alone"):
        alternating(make_data(), "LightGCN")
    with pytest.raises(InputError, match="unknown form 'rlss': did you mean 'rls'"):
        update_projector(torch.eye(2), torch.ones(2), 0.1, "rlss")
