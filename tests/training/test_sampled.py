"""Training on sampled neighbourhoods: what it learns, that it goes on after a break, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pyg_ckd import Objective, Trainer, evaluate
from pyg_ckd.balance import DifficultyCurriculum, DistillationWrapper, MultitaskObjective
from pyg_ckd.cli import main
from pyg_ckd.data import neighbors_sampled
from pyg_ckd.data.inputs import RATES
from pyg_ckd.data.neighbors_sampled import UniformSampler, pyg_sampler
from pyg_ckd.errors import InputError
from pyg_ckd.nn import BM3, FREEDOM, GRCN, LATTICE, MMGCN, VBPR, DualGNN, EarlyFusionLightGCN, LightGCN
from pyg_ckd.nn.subgraph import Subgraph
from pyg_ckd.training import build
from pyg_ckd.training.sampled import random_triples
from tests.training.problem import ITEMS, USERS, planted_data, same_bits, teachers, trainer


def student(cls: Any = EarlyFusionLightGCN, **options: Any) -> Any:
    return build(cls, planted_data(), 0, embedding_dim=4, **options)


def distilled(cls: Any = EarlyFusionLightGCN, **options: Any) -> DistillationWrapper:
    has = {"textual": torch.arange(ITEMS) % 4 > 0}
    return DistillationWrapper(student(cls, **options), teachers(), num_random_triples=20, has=has)


MAKERS = {
    "plain": lambda: Objective(student()),
    "MMGCN": lambda: Objective(student(MMGCN, num_layers=2)),
    "ckd": distilled,
    "odsw around ckd": lambda: DifficultyCurriculum(distilled(), temperature=2.0, stage_epochs=1),
    "multitask": lambda: MultitaskObjective(student()),
    "BM3": lambda: Objective(student(BM3, num_layers=2)),
}
every_objective = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


@pytest.mark.parametrize("make", [MAKERS["plain"], MAKERS["ckd"]], ids=["plain", "ckd"])
def test_with_all_neighbours_it_is_training_on_the_whole_graph(make):
    data, rows = planted_data(), []
    for num_neighbors in (None, [-1, -1]):
        model = make()
        rows.append(trainer(max_epochs=3, num_neighbors=num_neighbors, num_negatives=1).fit(model, data).rows)
    for whole, part in zip(*rows, strict=True):
        assert whole.keys() == part.keys()
        for name, value in whole.items():
            tolerance = 1e-5 if name.startswith("loss") else 0.02  # Ranks move in steps.
            assert part[name] == pytest.approx(value, abs=tolerance), name


@every_objective
def test_it_learns_from_samples_and_goes_on_after_a_break_with_the_same_bits(make, tmp_path):
    data = planted_data()
    whole = make()
    expected = trainer(max_epochs=4, num_neighbors=[2, 2]).fit(whole, data)
    assert expected.rows[-1]["val/recall@5"] > 0
    trainer(max_epochs=2, num_neighbors=[2, 2], checkpoint_dir=tmp_path).fit(make(), data)
    resumed = make()
    history = trainer(max_epochs=4, num_neighbors=[2, 2], checkpoint_dir=tmp_path).fit(resumed, data)
    assert history.rows == expected.rows
    assert same_bits(whole.state_dict(), resumed.state_dict())


def test_another_seed_or_fan_out_draws_others_and_a_checkpoint_of_these_is_refused(tmp_path):
    data, found = planted_data(), {}
    for name, options in {"first": {}, "again": {}, "seed": {"seed": 1}, "wider": {"num_neighbors": [3, 2]}}.items():
        model = Objective(student())
        trainer(**({"max_epochs": 1, "num_neighbors": [2, 2]} | options)).fit(model, data)
        found[name] = model.student.user_embedding.detach()
    assert torch.equal(found["first"], found["again"])
    assert not torch.equal(found["first"], found["seed"])
    assert not torch.equal(found["first"], found["wider"])
    trainer(max_epochs=1, num_neighbors=[2, 2], checkpoint_dir=tmp_path).fit(Objective(student()), data)
    with pytest.raises(InputError, match="num_neighbors"):
        trainer(max_epochs=2, num_neighbors=[3, 2], checkpoint_dir=tmp_path).fit(Objective(student()), data)


def test_planted_preferences_are_found_as_on_the_whole_graph():
    data = planted_data()
    best = [
        trainer(max_epochs=25, num_neighbors=fan).fit(Objective(student()), data).best_value for fan in (None, [2, 2])
    ]
    assert best[1] > 0.9 * best[0] > 0.3


def test_validation_is_of_the_whole_graph_and_keeps_nothing_for_a_backward_pass(monkeypatch):
    data, seen = planted_data(), []
    outputs = EarlyFusionLightGCN.outputs

    def spied(self: Any, features: Any, graphs: Any, views: Any, n_id_dict: Any = None) -> Any:
        found = outputs(self, features, graphs, views, n_id_dict)
        part = isinstance(graphs[RATES], Subgraph)
        seen.append((part, graphs[RATES].num_nodes, found[0].dense().user.requires_grad))
        return found

    monkeypatch.setattr(EarlyFusionLightGCN, "outputs", spied)
    model = Objective(student())
    history = trainer(max_epochs=2, batch_size=8, num_neighbors=[1, 1]).fit(model, data)
    assert {(part, grad) for part, _, grad in seen} == {(True, True), (False, False)}
    assert all(size == USERS + ITEMS for part, size, _ in seen if not part)
    assert min(size for part, size, _ in seen if part) < USERS + ITEMS
    monkeypatch.undo()
    found = evaluate(model, data, split="val", k=[5], metrics="recall")["recall@5"]
    assert found == pytest.approx(history.best_value, abs=1e-6)


def test_settings_name_it_where_it_is_in_use_alone():
    assert not {"num_neighbors", "neighbor_sampler"} & trainer().settings().keys()
    assert trainer(num_neighbors=(10, -1)).settings()["num_neighbors"] == [10, -1]
    settings = trainer(num_neighbors=[10], neighbor_sampler=UniformSampler).settings()
    assert settings["neighbor_sampler"] == "pyg_ckd.data.neighbors_sampled.UniformSampler"


@pytest.mark.parametrize("number", [None, 5000, 90, 20])
def test_on_neighbourhoods_there_are_never_more_random_triples_than_triples(number):
    given = {} if number is None else {"num_random_triples": number}
    model, number = DistillationWrapper(student(), teachers(), **given), number or 5000
    assert random_triples(model, None, 64) == number
    for each in (model, DifficultyCurriculum(model)):
        assert random_triples(each, [2, 2], 64) == min(number, 64)
        assert random_triples(each, [2, 2], 10_000) == number
    assert random_triples(Objective(student()), [2, 2], 64) == 0


@pytest.mark.parametrize("cls", [VBPR, LightGCN])
def test_an_optimizer_of_ones_own_gets_dense_gradients(cls):
    data, kinds = planted_data(), set()

    class Spy:
        def on_before_optimizer_step(self, optimizer: Any, **kw: Any) -> None:
            kinds.update(p.grad.layout for group in optimizer.param_groups for p in group["params"])

    fan = [] if cls is VBPR else [2, 2, 2]
    mine = {"optimizer": lambda groups: torch.optim.Adam(groups, lr=0.01), "callbacks": Spy()}
    trainer(max_epochs=1, batch_size=4, num_neighbors=fan, **mine).fit(student(cls), data)
    assert kinds == {torch.strided}
    kinds.clear()
    trainer(max_epochs=1, batch_size=4, num_neighbors=[] if cls is VBPR else [1, 1, 1], callbacks=Spy()).fit(
        student(cls), data
    )
    assert torch.sparse_coo in kinds


def test_pygs_own_sampler_can_take_its_place():
    pytest.importorskip("torch_sparse")
    model = Objective(student())
    history = trainer(max_epochs=2, num_neighbors=[2, 2], neighbor_sampler=pyg_sampler).fit(model, planted_data())
    assert history.rows[-1]["loss/bpr"] < 0.7


class Quiet(EarlyFusionLightGCN):
    """A backbone of a stranger, who has not said that it works on a part of the graph."""


class Silent(DistillationWrapper):
    """A strategy of a stranger, who has not either."""


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (lambda: student(), {"num_neighbors": [10]}, r"found \[10\] for EarlyFusionLightGCN with 2 layers, expected 2"),
        (lambda: student(VBPR), {"num_neighbors": [10]}, "VBPR with 0 layers, expected none"),
        (lambda: student(FREEDOM, num_neighbors=3), {}, "for FREEDOM, which makes a graph of its own"),
        (lambda: student(LATTICE, num_neighbors=3), {}, "for LATTICE, which makes a graph of its own"),
        (lambda: student(DualGNN), {}, "for DualGNN, which has further graphs"),
        (lambda: student(GRCN), {}, "for GRCN, which does not say that sums over some neighbours"),
        (lambda: student(Quiet), {}, "for Quiet, which does not say"),
        (lambda: Silent(student(), teachers()), {}, "for the strategy 'Silent', which does not say"),
        (lambda: DifficultyCurriculum(Silent(student(), teachers())), {}, "for the strategy 'Silent'"),
        (lambda: student(), {"ranking": "softmax"}, "beside ranking='softmax', which needs items"),
    ],
    ids=["layers", "VBPR", "FREEDOM", "LATTICE", "DualGNN", "GRCN", "stranger", "strategy", "inside", "softmax"],
)
def test_who_cannot_is_refused_by_name(model, options, message):
    with pytest.raises(InputError, match=message) as error:
        trainer(**({"num_neighbors": [10, 10]} | options)).fit(model(), planted_data())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_neighbors": [10, -2]}, r"num_neighbors\[1\]: found -2, expected a positive number of neighbours, or -1"),
        ({"num_neighbors": [0]}, r"num_neighbors\[0\]: found 0"),
        ({"num_neighbors": [2.5]}, r"num_neighbors\[0\]: found 2.5"),
        ({"num_neighbors": "10"}, "num_neighbors: found '10', expected a number for every layer"),
        ({"num_neighbors": 10}, "num_neighbors: found 10, expected a number for every layer"),
        ({"neighbor_sampler": UniformSampler}, "neighbor_sampler: found one without num_neighbors"),
        ({"num_neighbors": [10], "neighbor_sampler": 3}, "neighbor_sampler: found int, expected a function"),
    ],
    ids=["negative", "zero", "fraction", "text", "number", "alone", "no function"],
)
def test_bad_numbers_are_refused_at_once(options, message):
    with pytest.raises(InputError, match=message):
        Trainer(**options)


def test_pygs_sampler_without_its_packages_is_refused(monkeypatch):
    monkeypatch.setattr(neighbors_sampled.found, "WITH_PYG_LIB", False)
    monkeypatch.setattr(neighbors_sampled.found, "WITH_TORCH_SPARSE", False)
    trainer(max_epochs=1, num_neighbors=[2, 2]).fit(student(), planted_data())  # Ours needs none of them.
    with pytest.raises(InputError, match=r"neither pyg-lib nor torch-sparse.*pyg-ckd\[sparse\]"):
        trainer(num_neighbors=[2, 2], neighbor_sampler=pyg_sampler).fit(student(), planted_data())


def test_the_command_line_takes_it(tmp_path, capsys):
    common = ["train", "--data", "synthetic", "--backbone", "LightGCN", "--model.num_layers", "2", "--trainer.device"]
    common += ["cpu", "--trainer.max_epochs", "1", "--trainer.eval_every", "1", "--out", str(tmp_path / "out")]
    assert main([*common, "--trainer.num_neighbors", "3,-7"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0
    assert "num_neighbors[1]: found -7" in error
    assert main([*common, "--trainer.num_neighbors", "3,2"]) == 0


def test_numbers_drawn_apart_go_on_from_block_to_block_and_leave_no_trace():
    torch.manual_seed(1)
    expected = [torch.rand(3), torch.rand(3)]
    torch.manual_seed(5)
    alone = [torch.rand(3), torch.rand(3)]
    torch.manual_seed(1)
    draws, found = neighbors_sampled.DrawnApart(5), []
    for wanted in expected:
        with draws():
            found.append(torch.rand(3))
        assert torch.equal(torch.rand(3), wanted)
    assert all(map(torch.equal, found, alone))


@pytest.mark.parametrize("cls", [LightGCN, EarlyFusionLightGCN])
def test_a_model_that_was_trained_on_samples_is_as_it_was(cls):
    data = planted_data()
    model = build(cls, data, 0, num_layers=2)
    names = set(vars(model))
    trainer(max_epochs=1, num_neighbors=[3, 3]).fit(model, data)
    assert {name for name in set(vars(model)) - names if callable(getattr(model, name))} == set()
