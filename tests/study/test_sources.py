"""Workers train the code that the keys of their runs were made of."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from typing import Any

import pytest
from joblib.externals.loky import get_reusable_executor

from pyg_ckd.errors import InputError
from pyg_ckd.files import read_json
from pyg_ckd.study.runs import identity, sources_of
from pyg_ckd.study.sources import check_sources
from tests.study.problem import Gentle, small

HELPER = "def scale():\n    return {scale}\n"
MINE = """
import a_helper_of_mine
from pyg_ckd.balance import Objective

class Mine(Objective):
    def __init__(self, student):
        super().__init__(student, l2=a_helper_of_mine.scale())
"""
SCRIPT = """
import sys
from a_strategy_of_mine import Mine
from tests.study.problem import small

l2 = 0.5

class Own(Mine):
    count = 0

    def __init__(self, student):
        super().__init__(student)
        self.l2 = l2
        Own.count += 1

if __name__ == "__main__":
    small(sys.argv[1], contenders={"mine": Mine, "own": Own}, workers=int(sys.argv[2])).run()
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Any:
    """A folder with a strategy and a helper that processes can import."""
    get_reusable_executor().shutdown(wait=True)  # Workers of earlier tests look for modules elsewhere.
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Files are changed faster than times of files tell.
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    (tmp_path / "a_helper_of_mine.py").write_text(HELPER.format(scale=0.0))
    (tmp_path / "a_strategy_of_mine.py").write_text(MINE)
    yield tmp_path
    for name in ("a_helper_of_mine", "a_strategy_of_mine"):
        sys.modules.pop(name, None)
    get_reusable_executor().shutdown(wait=True)


@pytest.mark.parametrize("name", ["a_helper_of_mine", "a_strategy_of_mine"])
def test_a_file_that_is_changed_while_a_study_runs_is_not_trained_under_the_old_key(place, name):
    file = place / f"{name}.py"

    contenders = {"mine": importlib.import_module("a_strategy_of_mine").Mine}
    study = small(place / "study", contenders=contenders, workers=2, baselines=())
    run = next(run for run in study.plan([0]) if run.name == "mine")
    before = sources_of(run)
    assert {"a_helper_of_mine", "a_strategy_of_mine"} <= before.keys()
    file.write_text(file.read_text() + "\n# A change.\n")
    message = rf"^mine \(seed 0\): the file of {name} \(.*\) was changed after the study .* make the same call again"
    with pytest.raises(InputError, match=message):
        study.run()
    assert not list(place.glob("study/runs/mine-*/run.json"))
    assert sources_of(run) == before  # This process still has the old code.


def test_a_module_that_was_reloaded_is_trained_by_new_workers(place):
    module = importlib.import_module("a_strategy_of_mine")
    small(place / "one", contenders={"mine": module.Mine}, workers=2, baselines=()).run()
    (place / "a_helper_of_mine.py").write_text(HELPER.format(scale=40.0))
    importlib.reload(sys.modules["a_helper_of_mine"])
    importlib.reload(module)
    two = small(place / "two", contenders={"mine": module.Mine}, workers=2, baselines=()).run()
    here = small(place / "here", contenders={"mine": module.Mine}, baselines=()).run()
    earlier = read_json(place / "one" / "results.json")
    of = [next(run for run in found["runs"] if run["name"] == "mine") for found in (earlier, two, here)]
    assert of[0]["key"] != of[1]["key"] == of[2]["key"]
    assert of[0]["val"] != of[1]["val"] == of[2]["val"]


def test_a_file_that_is_changed_without_a_reload_leaves_the_key_as_it_is(place):
    cls = importlib.import_module("a_strategy_of_mine").Mine
    before = identity(cls)
    (place / "a_strategy_of_mine.py").write_text(MINE.replace("l2=", "l2=1 + "))
    assert identity(cls) == before
    assert identity(importlib.reload(sys.modules["a_strategy_of_mine"]).Mine) != before


def test_code_of_a_script_is_the_same_in_workers(place):
    script = place / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(place), *sys.path])}
    for folder, workers in (("one", "1"), ("two", "2")):
        command = [sys.executable, str(script), str(place / folder), workers]
        subprocess.run(command, check=True, capture_output=True, env=environment)
    one, two = (read_json(place / folder / "results.json")["runs"] for folder in ("one", "two"))
    assert [(run["key"], run["val"]) for run in one] == [(run["key"], run["val"]) for run in two]


def test_what_a_run_is_made_of_is_found_in_its_options(tmp_path):
    class Watcher:
        """A callback."""

        def on_fit_end(self, trainer, history):
            """Do nothing."""

    trainer = {"max_epochs": 1, "monitor": "ndcg@5", "callbacks": [Watcher()]}
    study = small(tmp_path, contenders={"gentle": Gentle}, settings={"trainer": trainer})
    run = next(run for run in study.plan([0]) if run.name == "gentle")
    found = sources_of(run)
    assert {Gentle.__module__, Watcher.__module__} <= found.keys()
    assert {"pyg_ckd.nn.models.vbpr", "pyg_ckd.balance.objective"} <= found.keys()
    assert not [module for module in found if module.startswith(("torch", "numpy"))]
    check_sources(run.title, found)
