"""Re-learning and InfoReg: who is diagnosed, moved and pulled, and by how much."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch

from pyg_ckd import Trainer
from pyg_ckd.balance import Progress
from pyg_ckd.balance.attribution import LEAST_TRIPLES, unbiased_label_information
from pyg_ckd.balance.gradients import edit_with
from pyg_ckd.balance.relearn import (
    InformationRegulation,
    Relearning,
    check_drawable,
    pull_strengths,
    relearning_weights,
    start_again,
    trace_growth,
)
from pyg_ckd.data.inputs import RATES, unpack
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR, AdaptedBackbone
from tests.balance.test_ckd import one_batch
from tests.nn.models.zoo import BACKBONES, adapted, built, doubled
from tests.training.problem import same_bits


def vbpr(data, **options) -> VBPR:
    torch.manual_seed(0)
    return VBPR.from_data(data, embedding_dim=4, **options)


def fit(objective, data, **options):
    defaults = {"batch_size": 8, "lr": 0.05, "monitor": "recall@5", "device": "cpu", "progress": False}
    return Trainer(**(defaults | options)).fit(objective, data)


def test_the_weight_of_a_new_start_grows_with_the_gap_of_information():
    train, held_out = torch.tensor([0.6, 0.2, 0.3]), torch.tensor([0.1, 0.2, 0.5])
    expected = [math.tanh(2 * 0.5 / math.log(2)), 0.0, 0.0]
    assert relearning_weights(train, held_out, 2.0).tolist() == pytest.approx(expected, abs=1e-6)


def test_a_new_start_mixes_with_new_draws_and_leaves_the_others_to_the_bit(make_data):
    data = make_data(modalities=3)
    model = vbpr(data)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(5)
    start_again(model, {"mod0": 0.25, "mod2": 1.0})
    twin = copy.deepcopy(model)
    torch.manual_seed(5)
    twin.reset_parameters()
    for name, value in model.state_dict().items():
        new = twin.state_dict()[name]
        if "mod0" in name:
            torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * new)
        else:
            assert torch.equal(value, new if "mod2" in name else before[name]), name


def test_what_is_frozen_stays(make_data):
    model = vbpr(make_data())
    frozen, other = model.modality_parameters["mod0"][:2]
    frozen.requires_grad_(False)
    before = frozen.clone(), other.clone()
    start_again(model, {"mod0": 1.0})
    assert torch.equal(frozen, before[0])
    assert not torch.equal(other, before[1])


def test_what_a_module_cannot_draw_anew_stays(make_data):
    data = make_data()
    model = adapted(data)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    start_again(model, {"mod0": 0.5})
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"module.lins.mod0.weight", "module.lins.mod0.bias"}


class Tables(torch.nn.Module):
    """Has matrices of its own instead of layers, which nothing draws anew."""

    def __init__(self, num_users: int, dims: dict[str, int], biases: bool) -> None:
        super().__init__()
        self.user = torch.nn.Parameter(torch.randn(num_users, 4))
        self.tables = torch.nn.ParameterDict({m: torch.nn.Parameter(torch.randn(d, 4)) for m, d in dims.items()})
        self.scales = torch.nn.ModuleDict({m: torch.nn.Linear(4, 4) for m in dims}) if biases else None

    def forward(self, x_dict, edge_index):
        parts = [x_dict[m] @ table for m, table in self.tables.items()]
        if self.scales is not None:
            parts = [scale(part) for scale, part in zip(self.scales.values(), parts, strict=True)]
        return self.user, torch.stack(parts).tanh().sum(dim=0)


class Drawn(Tables):
    def reset_parameters(self):
        for table in self.tables.values():
            table.data.normal_()


class Padded(Tables):
    """Its first rows stand for nothing and stay zero."""

    def reset_parameters(self):
        for table in self.tables.values():
            table.data[1:].normal_()


def of_tables(cls, data, layers=False):
    torch.manual_seed(0)
    dims = {m: data["item"][m].size(1) for m in data.modalities}
    return AdaptedBackbone(cls(data["user"].num_nodes, dims, layers), data["user"].num_nodes, 9, dims)


def test_a_modality_that_nothing_can_draw_anew_is_refused_when_training_begins(make_data):
    data = make_data()
    message = (
        r"relearn: found no parameter of 'mod0' that its module can draw anew \(module.tables.mod0\), expected some, "
        r"to learn it again; give Tables a reset_parameters\(\) that draws them"
    )
    with pytest.raises(InputError, match=message):
        fit(Relearning(of_tables(Tables, data), every=1), data, max_epochs=2)
    fit(Relearning(of_tables(Tables, data), every=1, strength=0.0), data, max_epochs=2)
    with pytest.warns(UserWarning, match=r"cannot draw anew \(module.tables.mod0, module.tables.mod1\), which stay"):
        rows = fit(Relearning(of_tables(Tables, data, layers=True), every=1, strength=9.0), data, max_epochs=2).rows
    assert max(rows[1][f"relearned/{m}"] for m in data.modalities) > 0
    assert start_again(of_tables(Drawn, data), {"mod1": 0.5}) == {"mod0": [], "mod1": ["module.tables.mod1"]}


def test_values_that_are_not_drawn_anew_stay_and_the_others_of_their_parameter_move(make_data):
    model = of_tables(Padded, make_data())
    check_drawable(model, "relearn")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert start_again(model, {"mod1": 0.5}) == {"mod0": [], "mod1": ["module.tables.mod1"]}
    for name, p in model.named_parameters():
        moved = name == "module.tables.mod1"
        assert torch.equal(p[0], before[name][0])
        assert bool(p.isfinite().all())
        assert bool((p[1:] != before[name][1:]).all()) == moved
        assert torch.equal(p, before[name]) != moved


def test_looking_for_what_can_be_drawn_anew_draws_nothing_from_the_training(make_data):
    model = of_tables(Drawn, make_data())
    before = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    check_drawable(model, "relearn")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert same_bits(model.state_dict(), before[1])


def test_a_modality_of_which_nothing_was_drawn_anew_has_no_weight_in_the_history(make_data, monkeypatch):
    data = make_data()
    objective = Relearning(of_tables(Tables, data), every=1)
    monkeypatch.setattr("pyg_ckd.balance.relearn.check_drawable", lambda *_: None)
    objective.information.label.copy_(torch.tensor([0.6, 0.6]))
    objective.held_out.zero_()
    objective.progress = Progress(2, 10)
    features, graph = unpack(data)
    objective.begin_epoch(features, objective.prepare(features, graph))
    assert objective.epoch_statistics() == {"relearned/mod0": 0.0, "relearned/mod1": 0.0}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lacking", [False, True])
@pytest.mark.parametrize("backbone", ["VBPR", "EarlyFusionLightGCN"])
def test_modalities_are_diagnosed_by_training_and_held_out_triples(backbone, lacking, make_data):
    data = make_data(modalities=2)
    model = built(BACKBONES[backbone], data)
    has = {"mod1": torch.arange(9) % 3 > 0} if lacking else {}
    objective = Relearning(model, every=1, l2=0.0, has=has)
    batch = one_batch(data, 0)
    objective.loss(*doubled(data), batch)
    held_out = tuple(x.flip(0) for x in batch[:3])
    with torch.no_grad():
        objective.before_validation(*doubled(data), SimpleNamespace(triples=held_out))
    objective.epoch_statistics()
    for column, m in enumerate(data.modalities):
        alone, empty = model.forward_views(*doubled(data), [m, []])
        for triples, found in ((batch[:3], objective.information.label), (held_out, objective.held_out)):
            margin = alone.margin(*triples) - empty.margin(*triples)
            there = has[m][triples[1]] & has[m][triples[2]] if m in has else torch.ones_like(triples[1]) > 0
            expected = unbiased_label_information(margin[there]).item()
            if found is objective.information.label:
                expected = max(expected, 0) if there.sum() >= LEAST_TRIPLES else 0.0
            assert found[column].item() == pytest.approx(expected, abs=1e-10)


def test_diagnoses_come_when_they_are_due_and_cost_views_before_that_alone(make_data):
    data = make_data(modalities=2)
    objective = Relearning(vbpr(data), every=2, times=2)
    views = []

    class Watch:
        def on_train_epoch_end(self, pl_module):
            views.append(len(pl_module.views))

    rows = fit(objective, data, max_epochs=7, lr=0.1, callbacks=Watch()).rows
    moved = [max(row[f"relearned/{m}"] for m in data.modalities) > 0 for row in rows]
    assert moved == [False, False, True, False, True, False, False]
    assert views == [1, 4, 1, 4, 1, 1, 1]
    assert all(0 <= row[f"relearned/{m}"] < 1 for row in rows for m in data.modalities)


def test_a_break_before_a_diagnosis_changes_nothing(make_data, tmp_path):
    data = make_data()
    whole, broken, resumed = (Relearning(vbpr(data), every=2) for _ in range(3))
    expected = fit(whole, data, max_epochs=4).rows
    fit(broken, data, max_epochs=2, checkpoint_dir=tmp_path)
    assert fit(resumed, data, max_epochs=4, checkpoint_dir=tmp_path).rows == expected
    assert max(expected[2][f"relearned/{m}"] for m in data.modalities) > 0


def test_without_validation_re_learning_is_refused(make_data):
    data = make_data()
    with pytest.raises(InputError, match="relearn: found no validation in the first 1 epochs, expected one before"):
        fit(Relearning(vbpr(data), every=1), data, max_epochs=3, eval_every=2)
    del data[RATES].val_edge_index
    with pytest.raises(InputError, match="relearn: found a graph without a validation part"):
        fit(Relearning(vbpr(data)), data, max_epochs=1)


def test_the_modality_that_is_ahead_is_pulled_and_no_other():
    found = pull_strengths(torch.tensor([0.9, 0.5, 0.4]), 0.3)
    assert found.tolist() == pytest.approx([0.3 * math.exp(math.tanh(0.45)), 0.0, 0.0], abs=1e-6)
    assert pull_strengths(torch.tensor([0.5, 0.5]), 0.3).tolist() == [0.0, 0.0]


def test_growth_is_that_of_the_running_sum():
    traces = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [4.0, 3.0, 0.0]])
    assert trace_growth(traces).tolist() == pytest.approx([(7 - 3) / 7, 1.0, math.inf])
    assert trace_growth(torch.tensor([[3.0], [2.0], [1.0]])).tolist() == pytest.approx([(3 - 5) / 3])


@pytest.mark.parametrize("sparse", [False, True])
def test_the_pull_is_added_in_units_of_the_gradient(sparse, make_data):
    data = make_data(modalities=2)
    batch = one_batch(data, 0)
    objective = InformationRegulation(vbpr(data, sparse=sparse), weight=0.3, l2=0.0)
    model, (features, graph) = objective.student, unpack(data)
    objective.begin_epoch(features, graph)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    plain = vbpr(data, sparse=sparse)
    plain.load_state_dict(model.state_dict())
    torch.nn.functional.softplus(-plain.outputs(features, graph, [None])[0].margin(*batch[:3])).mean().backward()
    objective.backward(objective.loss(features, graph, batch), lambda loss: loss.backward())
    alone = {
        m: plain(features, graph, m).margin(*batch[:3]) - plain(features, graph, []).margin(*batch[:3])
        for m in data.modalities
    }
    scores = {m: a.sigmoid().mean().item() for m, a in alone.items()}
    best, worst = sorted(scores, key=scores.get, reverse=True)
    own = [name for name, _ in model.named_parameters() if best in name]
    grads = {name: p.grad for name, p in plain.named_parameters()}
    length = math.sqrt(sum(float(grads[name].to_dense().double().square().sum()) for name in own))
    moved = {name: (p - start[name]).detach() for name, p in model.named_parameters()}
    distance = math.sqrt(sum(float(moved[name].double().square().sum()) for name in own))
    beta = 0.3 * math.exp(math.tanh(scores[best] - scores[worst]))
    for name, p in model.named_parameters():
        assert p.grad.is_sparse == grads[name].is_sparse
        expected = grads[name].to_dense().clone()
        if name in own:
            back = beta * length / distance * moved[name]
            rows = grads[name].coalesce().indices()[0] if grads[name].is_sparse else slice(None)
            expected[rows] += back[rows]
        torch.testing.assert_close(p.grad.to_dense(), expected, rtol=0, atol=1e-6)
    found = objective.epoch_statistics()
    assert found[f"pull/{best}"] == pytest.approx(beta, abs=1e-5)
    assert found[f"pull/{worst}"] == 0.0
    assert float(objective.traces[-1, data.modalities.index(best)]) == pytest.approx(length**2, rel=1e-4)


def test_a_closed_window_stays_closed_and_costs_nothing(make_data):
    data = make_data(modalities=2)
    data[RATES].val_edge_index = data[RATES].val_edge_index[:, :0]  # The last epoch counts, not the best one.
    objective = InformationRegulation(vbpr(data), growth=0.9)
    rows = fit(objective, data, max_epochs=4).rows
    pulled = [max(row[f"pull/{m}"] for m in data.modalities) > 0 for row in rows]
    assert pulled == [True, True, False, False]  # The first epoch adds everything, the second one about a half.
    objective.progress = Progress(5, 10)
    objective.begin_epoch(*unpack(data))
    assert list(objective.views) == [objective.view]
    assert objective.open.tolist() == [False, False]


def test_a_gradient_is_edited_with_the_same_rows_of_a_tensor():
    dense, sparse = torch.nn.Parameter(torch.ones(4, 2)), torch.nn.Parameter(torch.ones(4, 2))
    without = torch.nn.Parameter(torch.ones(1))
    dense.grad = torch.full((4, 2), 2.0)
    sparse.grad = torch.sparse_coo_tensor([[3, 1, 3]], torch.ones(3, 2), (4, 2))
    tensor = torch.arange(8.0).view(4, 2)
    edit_with([dense, sparse, without], [tensor, tensor, torch.ones(1)], lambda grad, rows: grad + 10 * rows)
    assert torch.equal(dense.grad, 2 + 10 * tensor)
    assert sparse.grad.is_sparse
    assert torch.equal(sparse.grad.to_dense(), torch.tensor([[0, 0], [21, 31], [0, 0], [62, 72.0]]))
    assert without.grad is None


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (Relearning, {"strength": -1.0}, r"strength: found -1\.0, expected a number of zero or more"),
        (Relearning, {"every": 0}, "every: found 0, expected at least 1"),
        (Relearning, {"times": -1}, "times: found -1, expected at least 0"),
        (InformationRegulation, {"weight": math.nan}, "weight: found nan"),
        (InformationRegulation, {"growth": -0.1}, r"growth: found -0\.1"),
        (InformationRegulation, {"window": 0}, "window: found 0, expected at least 1"),
    ],
)
def test_bad_numbers_are_refused(cls, options, message, make_data):
    with pytest.raises(InputError, match=message):
        cls(vbpr(make_data()), **options)


@pytest.mark.parametrize("cls", [Relearning, InformationRegulation])
def test_a_backbone_without_parameters_of_modalities_is_refused(cls, make_data):
    with pytest.raises(InputError, match=f"{cls.name}: found LightGCN without a trained parameter of one modality"):
        cls(built(BACKBONES["LightGCN"], make_data()))


def test_a_modality_without_a_triple_is_none_of_the_others():
    pull = pull_strengths(torch.tensor([0.7, 0.5, float("nan")]), 0.3)
    assert torch.equal(pull[:2], pull_strengths(torch.tensor([0.7, 0.5]), 0.3))
    assert pull[2] == 0
    assert not pull_strengths(torch.tensor([0.7, float("nan"), float("nan")]), 0.3).any()
