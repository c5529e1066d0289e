"""The line that trains the winner trains what the study trained, wherever its settings come from."""

from __future__ import annotations

from typing import Any

import pytest

from pyg_ckd.cli.app import _prepared
from pyg_ckd.cli.common import section, sections
from pyg_ckd.nn import FISM, LATTICE, VBPR, Backbone
from pyg_ckd.study import Contender, StudySettings
from pyg_ckd.study.command import train_command
from pyg_ckd.study.contenders import as_contenders, default_options
from pyg_ckd.study.plan import contender_run, teacher_run


class Foreign(VBPR):
    """A backbone from outside of the library."""


SETTINGS = {
    "defaults": {},
    "trainer": {"trainer": {"max_epochs": 1, "batch_size": 64}},
    "recommended": {"model": {"embedding_dim": 8}, "trainer": {"lr": 0.005}, "plain": {"l2": 0.03}},
    "teachers": {"teacher": {"l2": 0.3, "lr": 0.01, "embedding_dim": 8}, "model": {"embedding_dim": 16}},
}


def decided(contender: Contender, backbone: type[Backbone], settings: StudySettings) -> dict[str, Any]:
    """Return all that decides about a contender and its teacher, but for how training is watched."""
    place = ("data", backbone, settings, 3)
    runs = {"contender": contender_run("it", contender, *place), "teacher": teacher_run("visual", *place)}
    found = {name: dict(run.decides) for name, run in runs.items()}
    for one in found.values():
        one["trainer"] = {name: value for name, value in one["trainer"].items() if name != "track_views"}
        one["strategy"]["options"] = dict(one["strategy"]["options"])
    return found


def read_again(line: list[str], backbone: type[Backbone]) -> dict[str, Any]:
    """Return what a line would train, as the command finds it."""
    run: Any = _prepared(line[1:])
    (config,) = run.args
    parts = sections(config, ("model", "plain", "teacher", "distillation", "trainer"))
    settings = StudySettings(**parts)
    cls = Contender(config.objective).strategy
    contender = Contender(cls, default_options(cls, settings, section(config, "strategy")))
    return decided(contender, backbone, settings)


@pytest.mark.parametrize("backbone", [VBPR, LATTICE, FISM])
@pytest.mark.parametrize("case", SETTINGS)
@pytest.mark.parametrize("name", ["plain", "ckd", "odsw"])
def test_the_line_trains_what_the_study_trained(name: str, case: str, backbone: type[Backbone]) -> None:
    settings = StudySettings(**SETTINGS[case])
    contender = as_contenders([name], settings)[name]
    found = read_again(train_command(contender, backbone, settings, seed=3), backbone)
    expected = decided(contender, backbone, settings)
    assert found["contender"] == expected["contender"]
    if contender.needs_teachers:
        assert found["teacher"] == expected["teacher"]


def test_options_of_a_strategy_inside_are_written_whole() -> None:
    inside = {"inner": "ckd", "inner_options": {"distillation_weight": 0.5}}
    contender, settings = Contender("odsw", inside), StudySettings()
    line = train_command(contender, VBPR, settings, seed=3)
    found = read_again(line, VBPR)["contender"]["strategy"]["options"]
    assert found["inner"] == "ckd"
    assert found["inner_options"]["distillation_weight"] == 0.5
    assert found["inner_options"]["l2"] == 0.01  # The class's own, which is not what VBPR recommends.


@pytest.mark.parametrize("backbone", [Foreign, type("VBPR", (VBPR,), {})])
def test_there_is_no_line_for_a_backbone_from_outside(backbone: type[Backbone]) -> None:
    assert train_command(Contender("plain"), backbone, StudySettings()) == []
