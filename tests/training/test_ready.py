"""What cannot be trained is refused before a training begins."""

from __future__ import annotations

import contextlib
import functools
import warnings

import pytest
import torch

from pyg_ckd.balance import Objective
from pyg_ckd.data import build_data
from pyg_ckd.errors import InputError
from pyg_ckd.nn import FISM, LATTICE, VBPR, LightGCN, as_backbone
from tests.training.own import Tables
from tests.training.problem import ITEMS, USERS, planted_data, trainer


def test_swapped_arguments_are_named():
    data = planted_data()
    with pytest.raises(InputError, match="found VBPR, expected a HeteroData; the model comes first"):
        trainer().fit(data, VBPR.from_data(data))
    with pytest.raises(InputError, match="model: found str, expected a backbone"):
        trainer().fit("VBPR", data)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_training_without_gradients_is_refused(mode):
    data = planted_data()
    with mode(), pytest.raises(InputError, match=rf"found a block of torch\.{mode.__name__}.*outside"):
        trainer().fit(VBPR.from_data(data), data)


@pytest.mark.parametrize("wrap", [lambda model: model, Objective], ids=["backbone", "objective"])
def test_a_graph_without_a_modality_of_the_model_is_refused(wrap):
    data = planted_data()
    model = wrap(VBPR(USERS, 30, {"visual": 4, "acoustic": 2}))
    with pytest.raises(InputError, match="found none of modality 'acoustic', only of visual, textual"):
        trainer().fit(model, data)
    with pytest.raises(InputError, match="features of 'visual': found width 4, expected 7"):
        trainer().fit(VBPR(USERS, 30, {"visual": 7}), data)


def other_data(users: int, items: int):
    pairs = torch.stack([torch.arange(60) % users, torch.arange(60) % items])
    known = planted_data()["item"]
    features = {m: torch.cat([known[m], known[m][: items - ITEMS]]) for m in ("visual", "textual")}
    return build_data(pairs, features, num_users=users, num_items=items, transform="none")


@pytest.mark.parametrize(("users", "items"), [(USERS - 9, ITEMS), (USERS + 9, ITEMS), (USERS, ITEMS + 5)])
@pytest.mark.parametrize("backbone", [VBPR, FISM, LightGCN, LATTICE])
def test_a_model_that_was_built_for_another_graph_is_refused(backbone, users, items):
    model, data = Objective(backbone.from_data(planted_data())), other_data(users, items)
    message = (
        rf"model: found {backbone.__name__} built for {USERS} users and {ITEMS} items, expected {users} and {items} as "
        rf"in the graph; build another one with {backbone.__name__}\.from_data\(data, \.\.\.\)"
    )
    with pytest.raises(InputError, match=message):
        trainer().fit(model, data)


def test_a_model_of_a_grown_graph_begins_with_the_earlier_one_as_the_message_says():
    earlier, data = VBPR.from_data(planted_data()), other_data(USERS + 9, ITEMS + 5)
    trainer(max_epochs=1).fit(earlier, planted_data())
    with pytest.raises(InputError, match=r"weights of this one: fit\(\.\.\., start_from=this\)$"):
        trainer().fit(earlier, data)
    assert len(trainer(max_epochs=1).fit(VBPR.from_data(data), data, start_from=earlier).rows) == 1


def test_an_adapted_module_is_for_the_graph_that_it_was_adapted_to():
    data, module = planted_data(), Tables(USERS, {"visual": 4, "textual": 3})
    trainer(max_epochs=1).fit(module, data)
    other = other_data(USERS, ITEMS + 5)
    trainer(max_epochs=1).fit(module, other)  # It has no table of items.
    with pytest.raises(InputError, match=r"found Tables built for 40 users and 30 items.*as_backbone\(Tables\("):
        trainer().fit(as_backbone(module, data), other)


class Reports(Objective):
    """Reports what it is told to."""

    found: object = None

    def epoch_statistics(self):
        return self.found


class Adds(Objective):
    """Adds the terms that it is told to."""

    found: object = None

    def balance(self, out, batch):
        return self.found


@pytest.mark.parametrize(
    ("cls", "found", "message"),
    [
        (Reports, None, r"Reports\.epoch_statistics: found NoneType, expected a dict"),
        (Reports, {"epoch": 7}, r"Reports\.epoch_statistics: found the name 'epoch'"),
        (Reports, {1: 7}, r"Reports\.epoch_statistics: found the name 1"),
        (Reports, {"x": "y"}, "found str under 'x', expected a number"),
        (Adds, None, r"Adds\.balance: found NoneType, expected a dict of loss terms"),
        (Adds, {"x": 0.0}, r"Adds\.balance: found float for the term 'x'"),
        (Adds, {"x": torch.ones(1)}, r"found shape \[1\] for the term 'x', expected a tensor without dimensions"),
    ],
)
def test_what_an_own_strategy_must_not_return_is_named(cls, found, message):
    data = planted_data()
    objective = cls(VBPR.from_data(data))
    objective.found = found
    with pytest.raises(InputError, match=message):
        trainer(max_epochs=1).fit(objective, data)


def test_an_optimizer_whose_state_is_there_from_the_beginning_is_new():
    data = planted_data()
    history = trainer(optimizer=lambda groups: torch.optim.Adagrad(groups, lr=0.1)).fit(VBPR.from_data(data), data)
    assert history.rows[-1]["loss/bpr"] < history.rows[0]["loss/bpr"]
    model = VBPR.from_data(data)
    used = torch.optim.Adagrad(model.parameters(), lr=0.1)
    trainer(max_epochs=1, optimizer=used).fit(model, data)
    with pytest.raises(InputError, match="Adagrad that has made steps already"):
        trainer(optimizer=used).fit(model, data)


def test_an_optimizer_that_needs_a_closure_is_refused():
    data = planted_data()
    model = VBPR.from_data(data)
    with pytest.raises(InputError, match="found LBFGS, whose steps need a closure"):
        trainer(optimizer=torch.optim.LBFGS(model.parameters()))
    given = trainer(optimizer=lambda groups: torch.optim.LBFGS([p for group in groups for p in group["params"]]))
    with pytest.raises(InputError, match="found LBFGS, whose steps need a closure"):
        given.fit(model, data)


def test_a_model_in_float16_is_warned_of():
    data = planted_data()
    for model in (VBPR.from_data(data).half(), Objective(VBPR.from_data(data).half())):
        diverged = contextlib.suppress(InputError)  # It may.
        with pytest.warns(UserWarning, match=r"in float16, .* train model.float\(\), with precision='bf16"), diverged:
            trainer().fit(model, data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer().fit(VBPR.from_data(data).half().float(), data)


def test_what_was_made_in_inference_mode_is_refused():
    data = planted_data()
    with torch.inference_mode():
        model, copied, built = VBPR.from_data(data), data.clone(), planted_data()
    with pytest.raises(InputError, match=r"model: found .* torch.inference_mode, .*; build the model outside"):
        trainer().fit(model, data)
    for graph in (copied, built):
        with pytest.raises(
            InputError, match=r"found a tensor made in a block of torch.inference_mode.*or give data.clone"
        ):
            trainer().fit(VBPR.from_data(data), graph)
        trainer().fit(VBPR.from_data(data), graph.clone())
    with torch.inference_mode():
        data["item"].price = torch.rand(ITEMS)
    trainer().fit(VBPR.from_data(data), data)  # Nothing reads it.


def test_a_model_on_the_meta_device_is_refused():
    data = planted_data()
    with torch.device("meta"):
        model = VBPR(USERS, ITEMS, {m: data["item"][m].size(1) for m in data.modalities})
    with pytest.raises(
        InputError, match=r"on the meta device, which has no memory behind it.*; build the model on another"
    ):
        trainer().fit(model, data)


def test_hooks_whose_signature_says_nothing_are_called():
    def with_more(function):
        @functools.wraps(function)
        def called(self, out, batch):
            return function(self, out, batch, 3)

        return called

    class Mine(Objective):
        epoch_statistics = dict

        @with_more
        def balance(self, out, batch, extra):
            return {}

    data = planted_data()
    trainer().fit(Mine(VBPR.from_data(data)), data)
