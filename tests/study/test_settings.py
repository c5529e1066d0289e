"""What a study may be made of: options of the right types, none that would be ignored, folders in each other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pyg_ckd.errors import InputError
from pyg_ckd.files import read_json
from pyg_ckd.nn import VBPR
from pyg_ckd.study import Contender, Study, StudySettings
from pyg_ckd.study.run import train_run
from pyg_ckd.training import Trainer
from tests.study import search_problem
from tests.study.problem import TRAINER, small
from tests.training.problem import planted_data

KNOBS = {"trainer.lr": (1e-3, 1e-1)}
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "trainer": (lambda: StudySettings(trainer=Trainer()), "trainer: found Trainer, expected a mapping from option"),
    "no trainer": (lambda: StudySettings(trainer=None), "trainer: found NoneType, expected a mapping"),
    "no name": (lambda: StudySettings(model={3: 4}), "model: found the key 3, expected the name of an option"),
    "model": (lambda: StudySettings(model={"act": torch.relu}), "option act of model: found builtin_function"),
    "seed": (lambda: StudySettings(trainer={"seed": 7}), r"trainer\.seed: found it, .* run\(seeds=\[0\]\); remove it"),
    "folder": (lambda: StudySettings(trainer={"checkpoint_dir": "x"}), r"trainer\.checkpoint_dir: found it"),
    "teacher": (lambda: StudySettings(teacher={"seed": 9}), r"teacher\.seed: found it"),
    "views": (lambda: StudySettings(teacher={"track_views": True}), r"teacher\.track_views: .* a teacher has one view"),
    "lightgcn": (lambda: StudySettings(lightgcn={"seed": 9}), r"lightgcn\.seed: found it"),
    "own trainer": (lambda: Contender("plain", trainer=Trainer()), "trainer of plain: found Trainer, expected a map"),
    "own model": (lambda: Contender("plain", model=None), "model of plain: found NoneType, expected a mapping"),
    "own act": (lambda: Contender("plain", model={"a": len}), "option a of model of plain: found builtin_function"),
    "own seed": (lambda: Contender("plain", trainer={"seed": 5}), r"trainer of plain\.seed: found it"),
    "own folder": (lambda: Contender("ckd", trainer={"checkpoint_dir": "a"}), r"trainer of ckd\.checkpoint_dir: found"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_options_of_another_type_and_those_that_would_be_ignored_are_refused(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baselines": None}, r"baselines: found None, expected names such as .* or \[\] for none"),
        ({"baselines": 5}, "baselines: found 5"),
        ({"baselines": {"lightgcn": {"seed": 1}}}, r"lightgcn\.seed: found it"),
        ({"contenders": [("a", "ckd", 3)]}, r"contenders: found \('a', 'ckd', 3\), expected a pair of a name and"),
        ({"settings": {"teacher": {"embeding_dim": 4}}}, "teacher: model: VBPR does not take these options"),
        ({"settings": {"teacher": {"embedding_dim": -1}}}, "teacher: embedding_dim: found -1"),
        ({"settings": {"teacher": {"lr": -1.0}}}, "teacher: lr: found -1.0"),
        ({"settings": {"teacher": {"l2": -1.0}}}, "teacher: l2: found -1.0"),
        ({"settings": {"lightgcn": {"num_layer": 2}}}, "lightgcn: model: LightGCN does not take these options"),
        ({"settings": {"lightgcn": {"l2": "x"}}}, "lightgcn: l2: found 'x'"),
        ({"baselines": {"lightgcn": {"lr": 0.0}}}, "lightgcn: lr: found 0.0"),
    ],
    ids=str,
)
def test_wrong_options_are_found_before_anything_is_written(options, message, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as error:
        small(tmp_path / "out", **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["study", "search"])
def test_settings_are_no_mapping(kind: str, tmp_path: Path) -> None:
    cls = {"study": Study, "search": search_problem.Tuning}[kind]
    with pytest.raises(InputError, match=r"settings: found dict, .* write StudySettings\(\*\*settings\)"):
        cls(planted_data(), VBPR, tmp_path, {"model": {}})


@pytest.mark.parametrize("options", [{"teacher": {"num_layer": 2}}, {"teacher": {"lr": -1.0}}], ids=str)
def test_a_search_and_a_training_find_wrong_options_of_teachers_as_well(options, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="teacher: "):
        search_problem.small(tmp_path / "out", settings=options)
    with pytest.raises(InputError, match="teacher: "):
        train_run(planted_data(), VBPR, tmp_path / "out", "ckd", {"trainer": TRAINER, **options}, k=[3])
    assert not (tmp_path / "out").exists()


def test_a_training_has_its_seed_by_itself(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"trainer\.seed: found it, expected no such option"):
        train_run(planted_data(), VBPR, tmp_path / "out", options={"trainer": {**TRAINER, "seed": 3}}, k=[3])


def test_baselines_of_a_search_are_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"baselines: found \w+Path\(.*expected names such as"):
        search_problem.small(tmp_path / "out", baselines=tmp_path)


def test_histories_and_plans_are_of_several_seeds(tmp_path: Path) -> None:
    study = small(tmp_path, baselines=[])
    for of_seeds in (study.histories, study.plan):
        with pytest.raises(InputError, match=r"seeds: found 3, expected several seeds such as range\(3\)"):
            of_seeds(3)


class Watches:
    """A callback."""

    def on_fit_end(self) -> None:
        """Has nothing to do."""


def brought(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.1)


def test_what_a_trainer_is_given_to_call_is_described_wherever_it_stands(tmp_path: Path) -> None:
    options = {"optimizer": brought, "callbacks": [Watches()]}
    settings = {"teacher": {"optimizer": brought}, "lightgcn": dict(options)}
    contenders = {"plain": Contender("plain", trainer=options)}
    for _ in range(2):  # The second call finds what the first one wrote.
        small(tmp_path / "a", settings=settings, contenders=contenders, baselines={"lightgcn": dict(options)})
        search_problem.small(tmp_path / "b", settings=settings, contenders=contenders, knobs=KNOBS)
    expected = Trainer(optimizer=brought).settings()["optimizer"]
    for folder in ("a", "b"):
        found = read_json(tmp_path / folder / "settings.json")
        assert found["contenders"]["plain"]["trainer"] == {"optimizer": expected}
        assert found["teacher"] == found["lightgcn"] == {"optimizer": expected}
    train_run(planted_data(), VBPR, tmp_path / "c", options={"trainer": {**TRAINER, "optimizer": brought}}, k=[3])
    assert read_json(tmp_path / "c" / "settings.json")["trainer"]["optimizer"] == expected


def test_lightgcn_has_all_options_of_its_loss(tmp_path: Path) -> None:
    study = small(tmp_path, settings={"lightgcn": {"bpr_eps": 1e-9}}, baselines="lightgcn")
    (run,) = [run for run in study.plan([0]) if run.name == "lightgcn"]
    assert dict(run.options) == {"l2": 1e-3, "bpr_eps": 1e-9}


@pytest.mark.parametrize("where", ["runs", "deep/er/runs", ""])
def test_runs_may_be_in_the_folder_of_the_study(where: str, tmp_path: Path) -> None:
    for _ in range(2):
        small(tmp_path / "out", runs=tmp_path / "out" / where, contenders=["plain"], baselines=["popularity"]).run()
    assert list((tmp_path / "out" / where).glob("plain-*/run.json"))


def test_runs_and_storage_may_be_in_the_folder_of_the_search(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        found = search_problem.small(out, **search_problem.PLAIN, storage=out / "trials.log", runs=out / "all")
    assert {path.name for path in out.iterdir()} >= {"settings.json", "trials.log", "owner.json", "all"}
    assert found.ledger.trials("plain") == []


@pytest.mark.parametrize("kind", ["study", "search", "storage"])
@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
def test_a_folder_is_left_as_it_was_if_what_comes_next_is_refused(kind: str, there: bool, tmp_path: Path) -> None:
    out, wrong = tmp_path / "a" / "out", tmp_path / "file"
    wrong.write_text("no folder")
    make: Callable[..., Any] = small if kind == "study" else partial(search_problem.small, knobs=KNOBS)
    if there:
        make(out, contenders=["plain"])
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    refused = {"storage": wrong} if kind == "storage" else {"runs": wrong / "runs"}
    more = {"storage": out / "trials.log"} if kind == "search" and not there else {}
    with pytest.raises(InputError, match=r"storage .*cannot be opened|folder of runs .*cannot be written to"):
        make(out, contenders=["plain", "ckd"], **refused, **more)
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before
    assert there or not (tmp_path / "a").exists()
    make(out, contenders=["plain"])


def test_trials_are_found_again_without_the_file_that_says_whose_they_are(tmp_path: Path) -> None:
    options: dict[str, Any] = {**search_problem.PLAIN, "trials": 2, "storage": tmp_path / "trials.log"}
    first = search_problem.small(tmp_path / "a", **options)
    values = {"trainer.lr": 0.02, "strategy.l2": 0.01}
    first.ledger.claim("plain", first.tuned["plain"].space, values, (), 2)
    (tmp_path / "a" / "owner.json").unlink()
    again, other = (search_problem.small(tmp_path / name, **options) for name in "ab")
    (trial,) = again.ledger.trials("plain")
    assert (trial.owner, trial.folder) == (again.ledger.owner, str((tmp_path / "a").resolve()))
    assert other.ledger.owner != again.ledger.owner
