"""Strategies where they have nothing to act on, or lack what they need: one line that says so, and never a crash."""

from __future__ import annotations

import pytest
import torch

from pyg_ckd import Objective, evaluate
from pyg_ckd.balance.discovery import build_objective, strategies
from pyg_ckd.balance.gradients import leaves_behind
from pyg_ckd.data.inputs import RATES
from pyg_ckd.errors import InputError
from pyg_ckd.nn import BM3, FREEDOM, VBPR, LightGCN
from pyg_ckd.scoring import Embeddings
from pyg_ckd.study import Study, StudySettings
from tests.balance.test_strategies import STRATEGIES, every_strategy, fit, objective_of, teachers_of
from tests.nn.models import zoo

STEERING = {"amss", "arl", "cggm", "g2d", "greedy", "inforeg", "mmpareto", "ogm-ge", "reconboost", "relearn"}
"""Strategies that act on the parameters of modalities, which scores of FREEDOM do not depend on."""
WITHOUT_FEATURES = {"ensemble", "odsw"}
"""Strategies that have something to do where no features are used: scores of teachers, and triples."""
WITHOUT_VIEWS = {"ckd", "ensemble", "modality-dropout", "multitask", "odsw"}
"""Strategies that have something to do where all views rank alike."""
ALLOWED = {
    LightGCN: WITHOUT_FEATURES,
    FREEDOM: STRATEGIES.keys() - STEERING,
    BM3: WITHOUT_VIEWS,
    VBPR: STRATEGIES.keys(),
}
every_backbone = pytest.mark.parametrize("backbone", ALLOWED, ids=lambda cls: cls.__name__)


@every_backbone
@every_strategy
def test_a_strategy_trains_or_says_in_one_line_why_it_cannot(cls, backbone, make_data):
    data = make_data(modalities=2)

    def trained() -> float:
        objective = objective_of(cls, data, lambda data: backbone.from_data(data, embedding_dim=4))
        fit(objective, data, max_epochs=2)
        return evaluate(objective, data, split="test", k=[5])["recall@5"]

    if cls.name in ALLOWED[backbone]:
        assert 0 <= trained() <= 1
        return
    with pytest.raises(InputError) as caught:
        trained()
    message = str(caught.value)
    assert message.startswith(f"{cls.name}: found {backbone.__name__}")
    assert "expected" in message
    assert "\n" not in message


class Watches(Objective):
    """Notes in which steps of an epoch the margins depend on a parameter of a modality."""

    def __init__(self, student, l2: float = 0.0) -> None:
        super().__init__(student, l2)
        self.steps: list[bool] = []

    def balance(self, out, batch):
        margin = out[self.view].margin(batch.user, batch.positive, batch.negative)
        own = {id(p) for group in self.student.modality_parameters.values() for p in group}
        self.steps.append(bool(own & {id(p) for p in leaves_behind([margin])}))
        return {}


@zoo.every_own_backbone
def test_backbones_say_when_scores_depend_on_parameters_of_a_modality(make, make_data):
    data = make_data(modalities=2)
    objective = Watches(make(data))
    if objective.student.uses_features and any(objective.student.modality_parameters.values()):
        fit(objective, data, max_epochs=1)
        first, *more = objective.steps
        assert more
        expected = {"steps": (True, True), "epochs": (True, False), "never": (False, False)}
        assert expected[objective.student.steered] == (first, all(more))
        assert all(more) == any(more)


def test_a_study_refuses_a_backbone_that_cannot_be_steered_before_it_writes_anything(make_data, tmp_path):
    settings = StudySettings(k=(5,), trainer={"monitor": "recall@5", "device": "cpu"})
    with pytest.raises(InputError, match=r"amss: found FREEDOM without .* of one modality alone that scores depend on"):
        Study(make_data(), FREEDOM, tmp_path / "study", settings, contenders=["multitask", "amss"]).run([0])
    assert not (tmp_path / "study").exists()


NAMES = [["user", "item"], ["student", "inner"], ["weight", "options"], ["user_embedding", "views"], ["rates", "plain"]]


@pytest.mark.parametrize("names", NAMES, ids=" ".join)
@every_strategy
def test_modalities_may_be_called_like_nodes_submodules_and_attributes(cls, names, make_data):
    history = fit(objective_of(cls, make_data(modalities=names)), make_data(modalities=names), max_epochs=1)
    assert {f"val/{m}/recall@5" for m in names} <= history.rows[0].keys()


@pytest.mark.parametrize("name", ["training", "forward", "full"])
def test_a_name_that_has_another_meaning_is_refused_when_the_graph_is_built(name, make_data):
    with pytest.raises(InputError, match=f"modality name '{name}' is reserved .* rename it, e.g. '{name}_features'"):
        make_data(modalities=[name, "other"])


TAUGHT = [name for name, cls in STRATEGIES.items() if cls.needs_teachers]


@pytest.mark.parametrize("name", TAUGHT)
def test_teachers_that_are_missing_or_of_another_graph_are_named(name, make_data):
    data = make_data()
    cls, student = strategies()[name], VBPR.from_data(data, embedding_dim=4)
    with pytest.raises(InputError, match=f"{name}: found no teachers, expected one for each modality"):
        build_objective(cls, student, data)
    teachers = teachers_of(data)
    with pytest.raises(InputError, match="teachers: found none for modality 'mod1'"):
        build_objective(cls, student, data, {"mod0": teachers["mod0"]})
    other = teachers_of(make_data(num_users=13))
    with pytest.raises(InputError, match="teacher 'mod0': found 13 users and 9 items, expected 12 and 9"):
        build_objective(cls, student, data, other)
    with pytest.raises(InputError, match="unknown modality of a teacher 'smell'"):
        build_objective(cls, student, data, {**teachers, "smell": teachers["mod0"]})
    broken = Embeddings(torch.full((12, 3), torch.nan), torch.zeros(9, 3))
    with pytest.raises(InputError, match=r"teacher 'mod1': found .*without NaN or infinite values; train it again"):
        build_objective(cls, student, data, {**teachers, "mod1": broken})


@every_strategy
def test_a_graph_without_validation_part_is_refused_by_those_that_learn_from_it_alone(cls, make_data):
    data = make_data()
    del data[RATES].val_edge_index
    objective = objective_of(cls, data)
    if not objective.needs_validation:
        assert fit(objective, data, max_epochs=2).rows
        return
    with pytest.raises(InputError, match=f"{cls.name}: found a graph without a validation part, from which this"):
        fit(objective, data, max_epochs=2)
