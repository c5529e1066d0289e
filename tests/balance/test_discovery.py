"""Strategies are found by themselves, by name or by import path, and refused by name where they are none."""

from __future__ import annotations

import pytest
import torch

from pyg_ckd import DistillationWrapper, Objective
from pyg_ckd.balance import TaughtObjective
from pyg_ckd.balance.discovery import build_objective, check_strategy, find_strategy, options_of, strategies
from pyg_ckd.errors import InputError
from tests.balance.test_ckd import random_teachers
from tests.nn.models.zoo import BACKBONES, built


class Mine(Objective):
    """A stranger's strategy."""

    def __init__(self, student, strength: float = 1.0, l2: float = 1e-2) -> None:
        super().__init__(student, l2)
        self.strength = strength


class Headless(Objective):
    """Forgot the student."""

    def __init__(self, strength: float, student) -> None:
        super().__init__(student)


def test_strategies_of_the_library_have_a_name_each_and_plain_comes_first():
    found = strategies()
    assert next(iter(found)) == "plain"
    assert {"plain", "ckd", "multitask", "ensemble", "modality-dropout"} <= set(found)
    assert all(cls.name == name and cls.__doc__ for name, cls in found.items())
    assert found["ckd"] is find_strategy("ckd") is DistillationWrapper


def test_a_strategy_from_outside_is_found_by_its_path_and_has_the_name_of_its_class():
    cls = find_strategy(f"{__name__}.Mine")
    assert cls is Mine
    assert cls.name == "Mine"
    assert set(options_of(cls)) == {"strength", "l2"}


def test_options_are_recorded_and_tell_settings_apart(make_data):
    data = make_data()
    one, two = (
        build_objective(Mine, built(BACKBONES["VBPR"], data), data, options={"strength": s}) for s in (1.0, 2.0)
    )
    assert one.options == {"strength": 1.0, "l2": 1e-2}
    assert {k for k, v in one.settings().items() if v != two.settings()[k]} == {"strength"}


def test_masks_and_teachers_reach_the_strategies_that_ask_for_them(make_data):
    data = make_data()
    data["item"].has_mod1 = torch.arange(9) > 1
    model = built(BACKBONES["VBPR"], data)
    wrapper = build_objective(DistillationWrapper, model, data, random_teachers(model), {"temperature": 0.5})
    assert torch.equal(wrapper.item_mask_mod1, data["item"].has_mod1)
    assert wrapper.temperature == 0.5
    with pytest.raises(InputError, match="ckd: found no teachers, expected one for each modality"):
        build_objective(DistillationWrapper, model, data)


class PassesOn(TaughtObjective):
    def __init__(self, student, teachers, l2: float = 1e-2) -> None:
        super().__init__(student, teachers, l2)


class Plain(TaughtObjective):
    def __init__(self, student, l2: float = 1e-2) -> None:
        super().__init__(student, l2)


def test_teachers_in_the_place_of_a_number_are_refused_with_where_they_belong(make_data):
    data = make_data()
    model = built(BACKBONES["VBPR"], data)
    teachers = random_teachers(model)
    for wrong in (lambda: PassesOn(model, teachers), lambda: Plain(model, teachers)):
        with pytest.raises(InputError, match=r"found teachers as l2, .*belong to store_teachers\(teachers\)") as caught:
            wrong()
        assert len(str(caught.value)) < 400
    with pytest.raises(InputError, match=r"Plain: found no argument 'teachers' in the constructor of Plain"):
        build_objective(Plain, model, data, teachers)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("multitsk", "unknown strategy 'multitsk': did you mean 'multitask'"),
        ("no_such_package.Mine", "cannot be imported"),
        (f"{__name__}.Yours", "has no 'Yours'"),
        ("math.sqrt", "found builtin_function_or_method, expected a class that derives from pyg_ckd.Objective"),
        ("collections.OrderedDict", "found OrderedDict, expected a class that derives from pyg_ckd.Objective"),
        (f"{__name__}.Headless", r"begins with \(strength\), expected \(student\)"),
    ],
)
def test_what_is_no_strategy_is_refused_in_one_line(name, message):
    with pytest.raises(InputError, match=message) as error:
        find_strategy(name)
    assert "\n" not in str(error.value)


def test_unknown_options_are_refused_with_the_closest(make_data):
    data = make_data()
    with pytest.raises(InputError, match="unknown option of Mine 'strenght': did you mean 'strength'"):
        build_objective(Mine, built(BACKBONES["VBPR"], data), data, options={"strenght": 1})
    check_strategy("mine", Mine)


class Demanding(Objective):
    """Has an option without a default."""

    def __init__(self, student, must, l2: float = 1e-2) -> None:
        super().__init__(student, l2)
        self.must = must


@pytest.mark.parametrize(
    ("cls", "options"),
    [(Demanding, {"l2": 0.1}), (strategies()["odsw"], {"inner": f"{__name__}.Demanding", "stage_epochs": 1})],
    ids=["itself", "inside"],
)
def test_options_without_a_default_are_required_by_name(cls, options, make_data):
    data = make_data()
    model = built(BACKBONES["VBPR"], data)
    with pytest.raises(InputError, match=r"^must: found no value, expected one.* of Demanding$") as error:
        build_objective(cls, model, data, options=options)
    assert "\n" not in str(error.value)
    assert build_objective(Demanding, model, data, options={"must": 3}).options["must"] == 3
