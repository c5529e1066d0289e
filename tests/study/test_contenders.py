"""Contenders of a study: how they may be named, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyg_ckd.balance import DistillationWrapper, Objective
from pyg_ckd.balance.information import InformationBalancing
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR, AdaptedBackbone
from pyg_ckd.study import Contender, Study, StudySettings, Tuning
from pyg_ckd.study.contenders import as_contenders, default_options
from tests.study.problem import Deadly, Gentle, NotAnObjective, small
from tests.training import own as modules
from tests.training.problem import planted_data

PATH = "tests.study.problem"
SETTINGS = StudySettings(plain={"l2": 0.5, "bpr_eps": 1e-9}, distillation={"temperature": 0.3})


def chosen(found):
    return {name: (contender.strategy, contender.options) for name, contender in found.items()}


def test_without_any_they_are_plain_training_and_distillation_with_the_options_of_the_settings():
    expected = {"plain": (Objective, {"l2": 0.5, "bpr_eps": 1e-9}), "ckd": (DistillationWrapper, {"temperature": 0.3})}
    assert chosen(as_contenders(None, SETTINGS)) == expected


@pytest.mark.parametrize("given", [Gentle, f"{PATH}.Gentle", f"{PATH}:Gentle"], ids=str)
def test_a_strategy_is_given_as_a_class_or_by_its_path_and_takes_over_what_it_has_in_common_with_plain(given):
    expected = {"plain": (Objective, {"l2": 0.5, "bpr_eps": 1e-9}), "mine": (Gentle, {"l2": 0.5})}
    assert chosen(as_contenders({"mine": given}, SETTINGS)) == expected


def test_what_a_strategy_recommends_is_set_unless_another_value_is_given(monkeypatch):
    monkeypatch.setattr(Gentle, "recommended", {"share": 0.2, "no_option_of_a_subclass": 1})
    assert chosen(as_contenders({"mine": Gentle}, SETTINGS))["mine"] == (Gentle, {"share": 0.2, "l2": 0.5})
    assert default_options(Gentle, SETTINGS, {"share": 0.3}) == {"share": 0.3, "l2": 0.5}
    monkeypatch.setattr(DistillationWrapper, "recommended", {"temperature": 2.0, "distillation_weight": 0.2})
    assert default_options(DistillationWrapper, SETTINGS) == {"temperature": 0.3, "distillation_weight": 0.2}


def test_options_of_its_own_are_all_that_a_contender_has():
    found = as_contenders({"mine": Contender(Gentle, {"share": 0.1}), "plain": Contender(Objective)}, SETTINGS)
    assert chosen(found) == {"plain": (Objective, {}), "mine": (Gentle, {"share": 0.1})}


def test_lists_and_texts_go_by_the_names_of_the_strategies():
    for given in (["ckd", Gentle], f"ckd, {PATH}.Gentle", [("ckd", "ckd"), Contender(Gentle, {"l2": 0.5})]):
        assert list(as_contenders(given, SETTINGS)) == ["plain", "ckd", "Gentle"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mine": "ckdd"}, "unknown strategy 'ckdd': did you mean 'ckd'"),
        ({"mine": "no_such_package.Mine"}, "strategy no_such_package.Mine: cannot be imported"),
        ({"mine": f"{PATH}.Gentel"}, "has no 'Gentel'"),
        ({"mine": f"{PATH}.NotAnObjective"}, "found NotAnObjective, expected a class that derives from"),
        ({"mine": NotAnObjective}, "found NotAnObjective, expected a class that derives from"),
        ({"mine": 3}, "found int, expected a class that derives from"),
        ([("a", "ckd"), ("a", Gentle)], "contender 'a': found two of that name, expected each once"),
        ("ckd,ckd", "contender 'ckd': found two of that name"),
        ({"lightgcn": Gentle}, "contender 'lightgcn': found the name of a baseline, expected one of its own"),
        ({"ease": Gentle}, "contender 'ease': found the name of a baseline"),
        ({"EASE": Gentle}, "contender 'EASE': found the name that .* give to the baseline 'ease', .*such as 'EASE-2'"),
        ({"item-kNN With Content": Gentle}, "give to the baseline 'item-knn-content', expected one of its own"),
        ({"LightGCN": Gentle}, "give to the baseline 'lightgcn'"),
        ({"Teacher: visual": Gentle}, "contender 'Teacher: visual': found the name of a teacher"),
        ({"teacher:visual": Gentle}, "contender 'teacher:visual': found the name of a teacher"),
        ({"": Gentle}, "contender '': expected a name"),
        ({"a/b": Gentle}, "contender 'a/b': expected a name"),
        ({"plain": Gentle}, "contender 'plain': found the strategy Gentle, expected plain training"),
    ],
    ids=str,
)
def test_what_is_no_contender_is_refused_in_one_line(given, message, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        small(tmp_path / "out", contenders=given)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shar": 0.5}, "unknown option of Gentle 'shar': did you mean 'share'"),
        ({"share": torch.ones(1)}, "option share of Gentle: found Tensor, expected numbers, texts"),
        (0.5, "options of Gentle: found float, expected a mapping"),
    ],
    ids=str,
)
def test_options_that_a_strategy_does_not_have_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Contender(Gentle, options)


def test_values_that_a_strategy_refuses_are_found_before_anything_is_written(tmp_path):
    state = torch.get_rng_state()
    with pytest.raises(InputError, match="distillation_weight: found -1"):
        small(tmp_path / "out", contenders={"ckd": Contender("ckd", {"distillation_weight": -1})})
    with pytest.raises(InputError, match=r"model: VBPR does not take these options .*embeding_dim"):
        small(tmp_path / "out", settings={"model": {"embeding_dim": 4}})
    assert torch.equal(torch.get_rng_state(), state)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("baselines", "message"),
    [
        (["item-kn"], "unknown baseline 'item-kn': did you mean 'item-knn'"),
        ("lightgcn,lightgcn", "baseline 'lightgcn': found it twice"),
        ({"lightgcn": 3}, "baseline 'lightgcn': found options 3, expected a mapping"),
        ({"item-knn": {"shrinkage": 3}}, "baseline 'item-knn': found options shrinkage, expected none"),
    ],
    ids=str,
)
def test_what_is_no_baseline_is_refused(baselines, message, tmp_path):
    with pytest.raises(InputError, match=message):
        small(tmp_path / "out", baselines=baselines)
    assert not (tmp_path / "out").exists()


def test_contenders_may_come_and_go_in_a_folder_but_not_change(tmp_path):
    small(tmp_path, contenders={"mine": Contender(Gentle, {"share": 0.5})}).run()
    results = small(tmp_path, contenders={"other": Deadly}, baselines=["popularity"], k=(2,)).run()
    assert [c["name"] for c in results["contenders"]] == ["plain", "other"]
    small(tmp_path, contenders={"mine": Contender(Gentle, {"share": 0.5}), "other": Deadly})
    with pytest.raises(InputError, match=r"found contenders\.mine\.options\.share = 0\.5, expected 0\.4"):
        small(tmp_path, contenders={"mine": Contender(Gentle, {"share": 0.4})})


@pytest.mark.parametrize("backbone", ["VBPR", VBPR(2, 2, {"visual": 2}), VBPR.from_data, Gentle])
def test_a_backbone_is_a_class(backbone, tmp_path):
    with pytest.raises(InputError, match=r"backbone: found .*, expected the class of a backbone.*AdaptedBackbone"):
        Study(planted_data(), backbone, tmp_path)


def test_a_single_strategy_is_no_list_of_them():
    with pytest.raises(InputError, match=r"contenders: found Gentle, .*write \[Gentle\]"):
        as_contenders(Gentle, StudySettings())


@pytest.mark.parametrize("own", [False, True])
def test_an_option_that_the_trainer_does_not_have_is_named_where_it_is_given(own):
    with pytest.raises(InputError, match="option of the trainer 'max_epoch': did you mean 'max_epochs'"):
        Contender(Gentle, trainer={"max_epoch": 1}) if own else StudySettings(trainer={"max_epoch": 1})


def test_teachers_of_a_study_come_with_their_tables_of_the_empty_view(tmp_path, monkeypatch):
    seen = []
    original = InformationBalancing.before_training

    def before_training(self, *arguments) -> None:
        seen.append(self.has_bases)
        original(self, *arguments)

    monkeypatch.setattr(InformationBalancing, "before_training", before_training)
    small(tmp_path, contenders={"mi-balance": Contender("mi-balance", {"pretrain_epochs": 1})}).run()
    assert seen == [True]


def test_a_trainer_that_does_not_evaluate_what_a_contender_learns_from_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="track_views: found False beside mi-balance"):
        small(tmp_path / "out", contenders={"x": Contender("mi-balance", trainer={"track_views": False})})
    assert not (tmp_path / "out").exists()


class Keeps(AdaptedBackbone):
    """Its module keeps its arguments."""

    def __init__(self, num_users, num_items, feature_dims, dim=4):
        super().__init__(modules.Tables(num_users, dict(feature_dims), dim), num_users, num_items, feature_dims)
        self.module.items = nn.Parameter(torch.zeros(num_items, dim))


class KeepsNothing(AdaptedBackbone):
    """Its module does not keep its arguments."""

    def __init__(self, num_users, num_items, feature_dims):
        super().__init__(modules.Forgets(num_users, dict(feature_dims)), num_users, num_items, feature_dims)


class Misnamed(AdaptedBackbone):
    """Says that its module has other arguments than it has."""

    def __init__(self, num_users, num_items, feature_dims):
        module = modules.Tables(num_users, dict(feature_dims))
        module.options = {"num_users": num_users, "dimensions": dict(feature_dims)}
        super().__init__(module, num_users, num_items, feature_dims)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (KeepsNothing, "Forgets: found no attribute 'users', so that a file cannot say how to build it again"),
        (Misnamed, "cannot be built with .*'dimensions'"),
        (Keeps, "Tables: built again with .*, it has other weights"),
    ],
)
def test_a_module_that_cannot_be_saved_is_refused_before_anything_is_trained(backbone, message, tmp_path):
    with pytest.raises(InputError, match=message):
        Study(planted_data(), backbone, tmp_path / "out", contenders="plain", baselines=[])
    with pytest.raises(InputError, match=message):
        Tuning(planted_data(), backbone, tmp_path / "out", contenders="multitask", baselines=[], trials=2)
    assert not (tmp_path / "out").exists()
