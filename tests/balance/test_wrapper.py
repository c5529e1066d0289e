"""Wrappers leave what is inside as it is, whatever it is, and are built, stored and compared with it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from pyg_ckd import DistillationWrapper, Objective
from pyg_ckd.balance import MultitaskObjective
from pyg_ckd.balance.curriculum import DifficultyCurriculum, DynamicCurriculum
from pyg_ckd.balance.discovery import build_objective, innermost, needs_teachers
from pyg_ckd.balance.sequential import UnidirectionalInteraction
from pyg_ckd.balance.wrapper import ObjectiveWrapper
from pyg_ckd.errors import InputError
from pyg_ckd.scoring.views import EMPTY
from pyg_ckd.study import Contender, StudySettings
from pyg_ckd.study.contenders import default_options
from pyg_ckd.study.runs import with_defaults
from pyg_ckd.training.model import load_model, save_model
from pyg_ckd.training.warm_start import _rows_of
from tests.balance.test_ckd import one_batch, random_teachers
from tests.balance.test_strategies import STRATEGIES, fit, objective_of
from tests.nn.models.zoo import BACKBONES, built, doubled
from tests.training.problem import planted_data, same_bits, trainer
from tests.training.strategies import Everything
from tests.training.test_seam import vbpr


class Silent(ObjectiveWrapper):
    """Adds nothing but views that nobody looks at."""

    def further_views(self):
        return [EMPTY, frozenset(self.modalities[:1])]


class Loud(ObjectiveWrapper):
    """Adds a term, weights and a row of the history."""

    seen = 0

    def further_views(self):
        return [EMPTY]

    def add_terms(self, out, batch):
        return {"loud": 0.5 * out[EMPTY].margin(*batch[:3]).square().mean()}

    def weigh(self, out, batch):
        weight = torch.arange(1.0, batch.user.numel() + 1)
        return weight / weight.mean()

    def begin(self):
        self.seen = self.progress.epoch

    def statistics(self):
        return {"seen": float(self.seen)}


@pytest.mark.parametrize("name", [name for name, cls in STRATEGIES.items() if cls.trains])
def test_what_is_inside_trains_as_without_a_wrapper(name, make_data):
    data = make_data(modalities=3)
    alone, inside = (objective_of(STRATEGIES[name], data) for _ in range(2))
    if name == "udi":  # Early stages compute fewer views; in VBPR no view changes another's bits.
        assert len(alone.views) < len(Silent(inside).views)
    rows = [fit(objective, data, max_epochs=2).rows for objective in (alone, Silent(inside))]
    assert rows[0] == rows[1]
    for key, value in alone.state_dict().items():
        torch.testing.assert_close(inside.state_dict()[key], value, rtol=0, atol=0, equal_nan=True, msg=key)


@pytest.mark.usefixtures("double")
def test_what_a_wrapper_adds_comes_on_top_of_what_is_inside(make_data):
    data = make_data(modalities=3)
    batch = one_batch(data, 0)
    student = built(BACKBONES["VBPR"], data)

    class Weighed(MultitaskObjective):
        """Multitask training that weighs triples."""

        def triple_weights(self, out, batch):
            assert EMPTY not in out
            return torch.linspace(0.5, 1.5, batch.user.numel())

    inside = Weighed(student, 0.3, l2=0.1)
    terms, plain = Loud(inside).loss(*doubled(data), batch), inside.loss(*doubled(data), batch)
    assert terms.keys() == {*plain, "loud"}
    empty = student(*doubled(data), []).margin(*batch[:3])
    assert terms["loud"].item() == pytest.approx(0.5 * empty.square().mean().item(), abs=1e-12)
    number = batch.user.numel()
    own = torch.arange(1.0, number + 1)
    weights = torch.linspace(0.5, 1.5, number) * own / own.mean()
    losses = torch.nn.functional.softplus(-student(*doubled(data)).margin(*batch[:3]))
    assert terms["bpr"].item() == pytest.approx((weights * losses).mean().item(), abs=1e-12)
    for name in ("l2", "alone/mod0", "alone/mod2"):
        assert terms[name].item() == plain[name].item()
    twice = Loud(Silent(inside)).loss(*doubled(data), batch)
    assert {name: value.item() for name, value in twice.items()} == {
        name: value.item() for name, value in terms.items()
    }
    assert inside.around == ()


def test_every_hook_reaches_what_is_inside_also_after_a_break(tmp_path):
    data = planted_data()
    options = {"eval_every": 2}
    expected = trainer(max_epochs=5, **options).fit(Loud(Everything(vbpr(data))), data)
    for epochs in (2, 3, 5):
        model = Loud(Everything(vbpr(data)))
        history = trainer(max_epochs=epochs, checkpoint_dir=tmp_path, **options).fit(model, data)
    assert history.rows == expected.rows
    assert [row["seen"] for row in history.rows] == [1, 2, 3, 4, 5]
    assert history.rows[-1]["lead/visual"] != 0
    assert float(model.inner.chosen) > 0
    assert model.inner.progress.epoch == model.progress.epoch == 5
    settings = model.settings()
    assert settings["objective"] == "Loud"
    assert settings["inside"]["objective"] == "Everything"


def test_a_checkpoint_of_something_else_inside_is_refused(tmp_path):
    data = planted_data()
    trainer(max_epochs=1, checkpoint_dir=tmp_path).fit(Silent(MultitaskObjective(vbpr(data), 0.1)), data)
    with pytest.raises(InputError, match=r"found (inside\.)?weight = 0.1, expected 0.2"):
        trainer(max_epochs=2, checkpoint_dir=tmp_path).fit(Silent(MultitaskObjective(vbpr(data), 0.2)), data)


def test_attributes_of_what_is_inside_are_those_of_the_wrapper_and_parameters_are_held_once(make_data):
    data = make_data()
    student = built(BACKBONES["VBPR"], data)
    inside = DistillationWrapper(student, random_teachers(student), num_random_triples=7)
    wrapper = Silent(inside)
    assert wrapper.effects is inside.effects
    assert wrapper.student is student
    assert wrapper.num_random_triples == 7
    assert wrapper.given_teachers().keys() == set(data.modalities)
    assert {name.removeprefix("inner.") for name in wrapper.state_dict()} == set(inside.state_dict())
    assert len(list(wrapper.parameters())) == len(list(student.parameters()))
    assert innermost(Silent(wrapper)) is inside
    copied = copy.deepcopy(wrapper)
    assert same_bits(copied.student.state_dict(), student.state_dict())
    assert copied.inner is not inside
    assert copied.inner.student is copied.student
    with pytest.raises(AttributeError, match="no attribute 'effect'"):
        _ = wrapper.effect


def test_the_strategy_inside_is_built_by_its_name_with_teachers_and_masks(make_data):
    data = make_data()
    data["item"].has_mod1 = torch.arange(9) > 1
    model = built(BACKBONES["VBPR"], data)
    options = {"inner": "ckd", "inner_options": {"temperature": 0.5}, "patience": 3}
    wrapper = build_objective(DifficultyCurriculum, model, data, random_teachers(model), options)
    assert isinstance(wrapper.inner, DistillationWrapper)
    assert (wrapper.inner.temperature, wrapper.patience, wrapper.temperature) == (0.5, 3, 1.0)
    assert torch.equal(wrapper.inner.item_mask_mod1, data["item"].has_mod1)
    assert needs_teachers(DifficultyCurriculum, options)
    assert not needs_teachers(DifficultyCurriculum)
    assert needs_teachers(DynamicCurriculum, {"inner": "odsw", "inner_options": {"inner": "ckd"}})
    for options, message in [
        ({"inner": "ckdd"}, "unknown strategy 'ckdd': did you mean 'ckd'"),
        ({"inner": "multitask", "inner_options": {"wieght": 1}}, "unknown option of multitask 'wieght'"),
        ({"inner": "multitask", "inner_options": {"weight": -1.0}}, "weight: found -1.0"),
        ({"inner": "ensemble"}, "found ensemble inside, which trains nothing"),
    ]:
        with pytest.raises(InputError, match=message):
            build_objective(DifficultyCurriculum, model, data, random_teachers(model), options)
    with pytest.raises(InputError, match="odsw: found no teachers"):
        build_objective(DifficultyCurriculum, model, data, None, {"inner": "ckd"})
    with pytest.raises(InputError, match="inner: found 'ckd' beside an objective"):
        DifficultyCurriculum(Objective(model), inner="ckd")


def test_what_nothing_would_use_is_refused_beside_an_objective(make_data):
    model = built(BACKBONES["VBPR"], make_data())
    has, teachers = {"mod1": torch.arange(9) > 1}, random_teachers(model)
    for cls in (DifficultyCurriculum, DynamicCurriculum):
        with pytest.raises(InputError, match=r"teachers: found some beside an objective, which .* would not use"):
            cls(MultitaskObjective(model), teachers=teachers)
    with pytest.raises(InputError, match=r"has: found some beside an objective, .* give them to MultitaskObjective"):
        DifficultyCurriculum(MultitaskObjective(model), has=has)
    for inside in (MultitaskObjective(model), DifficultyCurriculum(MultitaskObjective(model))):
        with pytest.raises(InputError, match=r"has: found another mask of 'mod1' than that of .* inside"):
            DynamicCurriculum(inside, has=has)
    with pytest.raises(InputError, match="has: found another mask of 'mod1' than that of MultitaskObjective inside"):
        DynamicCurriculum(MultitaskObjective(model, has=has), has={})
    assert DifficultyCurriculum(MultitaskObjective(model, has=has), has={}).inner._masked == {"mod1"}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("between", [False, True])
def test_a_curriculum_over_modalities_has_the_masks_of_the_objective_inside(between, make_data):
    data = make_data(modalities=3)
    has, batch = {"mod1": torch.arange(9) % 4 > 0}, one_batch(data, 0)
    gated = []
    for own in (None, has):
        model = built(BACKBONES["VBPR"], data)
        inside = MultitaskObjective(model, has=has)
        wrapper = DynamicCurriculum(Silent(inside) if between else inside, has=own)
        assert torch.equal(wrapper.item_mask_mod1, has["mod1"])
        wrapper.gates.copy_(torch.tensor([0.5, 2.0, 0.5]))
        gated.append(wrapper.loss(*doubled(data), batch)["gated"].item())
    plain = DynamicCurriculum(Objective(built(BACKBONES["VBPR"], data)), has=has)
    plain.gates.copy_(torch.tensor([0.5, 2.0, 0.5]))
    gated.append(plain.loss(*doubled(data), batch)["gated"].item())
    assert gated == pytest.approx([gated[2]] * 3, abs=1e-12)
    shared = DynamicCurriculum(MultitaskObjective(built(BACKBONES["VBPR"], data), has=has))
    assert [key for key in shared.state_dict() if "item_mask" in key] == ["inner.item_mask_mod1"]
    assert shared.item_mask_mod1 is shared.inner.item_mask_mod1
    none = DynamicCurriculum(Objective(built(BACKBONES["VBPR"], data)))
    assert none.available(batch.positive, batch.negative) is None


def test_setting_an_attribute_that_only_the_objective_inside_has_warns_of_it(make_data):
    data = make_data()
    inside = MultitaskObjective(built(BACKBONES["VBPR"], data))
    wrapper = DifficultyCurriculum(inside, stage_epochs=1)
    outer = Silent(wrapper)
    for model, path in ((wrapper, "inner"), (outer, "inner.inner")):
        message = f"weight: found it set on .*, but it is .* of MultitaskObjective inside too, .* model.{path}.weight"
        again = copy.deepcopy(model)
        with pytest.warns(UserWarning, match=message):
            again.weight = 0.0
        with pytest.warns(UserWarning, match=rf"set model.{path}.student"):
            again.student = built(BACKBONES["VBPR"], data)
        with pytest.warns(UserWarning, match=rf"set model.{path}.l2"):
            copy.deepcopy(model).l2 = 0.0
        assert (again.weight, again.inner.weight) == (0.0, 1.0)
        again.weight = 0.5  # It has one of its own now.
    with pytest.warns(UserWarning, match=r"temperature: found it set on Silent, .* DifficultyCurriculum inside too"):
        copy.deepcopy(outer).temperature = 3.0
    assert inside.weight == 1.0
    wrapper.temperature, outer.note, wrapper.note = 3.0, "other", "own"
    wrapper.inner.weight = 0.5
    assert (wrapper.weight, outer.weight, wrapper.note, outer.note) == (0.5, 0.5, "own", "other")
    wrapper.train(False)
    wrapper.register_buffer("weight", torch.ones(1))
    assert torch.equal(wrapper.weight, torch.ones(1))
    again = pickle.loads(pickle.dumps(outer))
    with pytest.warns(UserWarning, match=r"set model.inner.inner.bpr_eps"):
        again.bpr_eps = 0.1
    fit(outer, data, max_epochs=1)


@pytest.mark.parametrize("inside", [Objective, MultitaskObjective])
def test_a_wrapper_may_keep_what_it_likes_whatever_is_inside(inside, make_data, recwarn):
    data = make_data()

    class Mine(ObjectiveWrapper):
        def begin(self):
            self.weight = self.progress.epoch / 10

        def statistics(self):
            return {"own": self.weight}

    wrapper = Mine(objective_of(inside, data))
    rows = fit(wrapper, data, max_epochs=2).rows
    assert [row["own"] for row in rows] == [0.1, 0.2]
    assert sum(str(w.message).startswith("weight: found") for w in recwarn) == (inside is MultitaskObjective)


def test_names_of_the_main_terms_are_those_of_the_objective_inside(make_data):
    data = make_data()
    wrapper = Loud(DifficultyCurriculum(Objective(built(BACKBONES["VBPR"], data)), stage_epochs=1))
    terms = wrapper.loss(*doubled(data), one_batch(data, 0))
    assert tuple(wrapper.main_terms) == tuple(wrapper.inner.inner.main_terms) == ("bpr",)
    assert terms.keys() == {"bpr", "l2", "loud"}


def test_stages_of_what_is_inside_are_those_of_the_wrapper(make_data):
    data = make_data(modalities=3)
    student = built(BACKBONES["VBPR"], data)
    inside = UnidirectionalInteraction(student, random_teachers(student))
    around = Silent(DynamicCurriculum(inside, gate_weight=0.0))
    assert (around.stages_left, around.stage_of_best) == (1, 1)
    inside.stage.fill_(2)
    around.begin_epoch(*doubled(data))
    assert (around.stages_left, around.stage_of_best) == (0, 2)
    both = DifficultyCurriculum(inside)
    assert both.stages_left == 2
    assert DifficultyCurriculum(inside, temperature=float("inf")).stages_left == 0
    assert Silent(Objective(student)).stages_left == 0


def test_a_saved_model_is_that_of_the_objective_inside(make_data, tmp_path):
    data = make_data()
    student = built(BACKBONES["VBPR"], data)
    wrapper = Silent(UnidirectionalInteraction(student, random_teachers(student)))
    save_model(tmp_path / "model.pt", wrapper, data)
    found = load_model(tmp_path / "model.pt", data)
    assert type(found) is UnidirectionalInteraction
    assert torch.equal(found(*doubled(data)).item, wrapper(*doubled(data)).item)
    save_model(tmp_path / "plain.pt", Silent(Objective(student)), data)
    assert type(load_model(tmp_path / "plain.pt", data)) is type(student)


def test_a_study_gives_what_is_inside_its_own_options_and_tells_runs_apart_by_it():
    settings = StudySettings(plain={"l2": 0.5}, distillation={"temperature": 0.3})
    found = default_options(DifficultyCurriculum, settings, {"patience": 3})
    assert found == {"patience": 3, "inner_options": {"l2": 0.5}}
    found = default_options(DifficultyCurriculum, settings, {"inner": "ckd", "inner_options": {"generic": False}})
    assert found == {"inner": "ckd", "inner_options": {"temperature": 0.3, "generic": False}}
    assert Contender("odsw", found).needs_teachers
    assert not Contender("odsw").needs_teachers
    one, two = (with_defaults(DifficultyCurriculum, {"inner": inner}) for inner in ("multitask", "ckd"))
    assert one["inner_options"]["weight"] == 1.0
    assert one["inner_options"]["code"] != two["inner_options"]["code"]
    with pytest.raises(InputError, match="unknown option of multitask 'wieght': did you mean 'weight'"):
        Contender("odsw", {"inner": "multitask", "inner_options": {"wieght": 1}})
    with pytest.raises(InputError, match="unknown strategy 'multitsk'"):
        Contender("odsw", {"inner": "multitsk"})


@pytest.mark.parametrize("inner", ["incremental", "dyncim"])
def test_buffers_of_a_wrapper_may_be_called_like_those_inside(inner, make_data):
    data = make_data(modalities=3)
    data["item"].has_mod1 = torch.arange(9) % 3 > 0
    wrapper = objective_of(DynamicCurriculum, data, inner=inner)
    names = {"item_mask_mod1", "inner.item_mask_mod1"} | ({"means", "inner.means"} if inner == "dyncim" else set())
    assert names <= wrapper.state_dict().keys()
    assert wrapper.item_mask_mod1 is not wrapper.inner.item_mask_mod1


def test_a_softmax_takes_the_place_of_bpr_inside_of_a_wrapper(make_data):
    data, options = make_data(), {"ranking": "softmax", "max_epochs": 1}
    alone, inside = (objective_of(STRATEGIES["multitask"], data) for _ in range(2))
    wrapped = Silent(inside)
    rows = [fit(objective, data, **options).rows[0] for objective in (alone, wrapped)]
    assert "loss/softmax" in rows[0]
    assert {key: rows[0][key] for key in rows[0] if key.startswith("loss/")} == {
        key: rows[1][key] for key in rows[1] if key.startswith("loss/")
    }
    assert wrapped.shared_negatives is inside.shared_negatives is not None


def test_a_wrapper_reads_the_items_of_the_batch_that_the_objective_inside_reads(make_data):
    data = make_data(modalities=2)
    batch = one_batch(data, 0)
    has = {"mod0": torch.arange(9) % 2 > 0}
    for name, rows in (("margo", 40), ("umurl", 20), ("multitask", 0)):
        inside = build_objective(STRATEGIES[name], BACKBONES["VBPR"](data), data)
        inside.store_masks(has)
        found = DifficultyCurriculum(inside).read_of_batch(batch)
        assert [x.numel() for x in found] == [rows, 40] == [x.numel() for x in inside.read_of_batch(batch)]


def test_own_parameters_inside_of_a_wrapper_are_carried_over_by_ids(make_data):
    """Rows of the second users of ``unseen``, whose users come in another order on the next day."""
    data = make_data(modalities=2)
    student = BACKBONES["VBPR"](data)
    objective = build_objective(STRATEGIES["unseen"], student, data, random_teachers(student))
    wrapped = DifficultyCurriculum(objective)
    fit(wrapped, data, max_epochs=1)
    kinds = {name: _rows_of(wrapped, name) for name, _ in wrapped.named_parameters() if ".second." in name}
    assert kinds
    assert set(kinds.values()) == {"user"}
