"""A folder holds work of one kind of settings; what does not decide about results may change."""

from __future__ import annotations

import json
import os

import pytest

from pyg_ckd.errors import InputError
from pyg_ckd.locks import CAN_LOCK, locks, unlock
from pyg_ckd.training.folder import claim_folder, free_options

SETTINGS = {"seed": 0, "trainer": {"lr": 0.1, "device": "cpu"}, "teacher": {"l2": 0.5}}


@pytest.fixture
def folder(tmp_path):
    """A folder with work of ``SETTINGS``."""
    claim_folder(tmp_path, SETTINGS)
    (tmp_path / "model.pt").touch()
    return tmp_path


def test_the_deepest_setting_that_differs_is_named(folder):
    with pytest.raises(InputError, match=r"settings\.json: found trainer\.lr = 0\.1, expected 0\.2 as in this run"):
        claim_folder(folder, SETTINGS | {"trainer": {"lr": 0.2, "device": "cpu"}})
    with pytest.raises(InputError, match=r"found trainer\.patience = None, expected 3"):
        claim_folder(folder, SETTINGS | {"trainer": {"lr": 0.1, "device": "cpu", "patience": 3}})
    with pytest.raises(InputError, match=r"found teacher\.l2 = 0\.5, expected None"):
        claim_folder(folder, {name: SETTINGS[name] for name in ("seed", "trainer")})


def test_free_settings_may_differ_and_the_last_ones_are_written(folder):
    new = {"seed": 0, "trainer": {"lr": 0.1, "device": "cuda", "progress": False}}
    claim_folder(folder, new, {"trainer.device", "trainer.progress", "teacher"})
    assert json.loads((folder / "settings.json").read_text()) == new
    with pytest.raises(InputError, match=r"found trainer\.lr = 0\.1, expected 0\.2"):
        claim_folder(folder, {"seed": 0, "trainer": {"lr": 0.2}}, {"trainer.device", "trainer.progress", "teacher"})


def test_free_options_are_those_of_the_trainer_that_decide_nothing():
    free = free_options()
    assert free >= {f"trainer.{name}" for name in ("device", "progress", "checkpoint_minutes", "max_epochs")}
    assert not free & {f"trainer.{name}" for name in ("lr", "batch_size", "monitor", "patience", "seed", "precision")}
    assert free - free_options("max_epochs") == {"trainer.max_epochs"}


def test_damaged_manifest_is_refused(folder):
    (folder / "settings.json").write_text("[1")
    with pytest.raises(InputError, match=r"settings\.json is damaged"):
        claim_folder(folder, SETTINGS)


def test_what_a_killed_process_left_of_the_settings_counts_as_nothing_and_goes(tmp_path):
    left = tmp_path / ".settings.json.partial-7i6o4r91.json"
    left.write_text('{"see')
    claim_folder(tmp_path, SETTINGS)
    assert json.loads((tmp_path / "settings.json").read_text()) == SETTINGS
    assert left.exists() != CAN_LOCK
    left.touch()
    claim_folder(tmp_path, SETTINGS | {"seed": 1})  # Nothing was made with the settings of before.
    assert json.loads((tmp_path / "settings.json").read_text())["seed"] == 1


@pytest.mark.skipif(not CAN_LOCK, reason="files are not locked here")
def test_settings_that_another_process_writes_at_the_moment_stay(tmp_path):
    left = tmp_path / ".settings.json.partial-7i6o4r91.json"
    left.touch()
    handle = os.open(left, os.O_RDWR)
    try:
        assert locks(handle)
        claim_folder(tmp_path, SETTINGS)
        assert left.exists()
    finally:
        unlock(handle)


@pytest.mark.parametrize(
    "name",
    [
        "model.pt",
        ".settings.json",
        ".settings.json.partial-short.json",
        ".settings.json.partial-7i6o4r91.yaml",
        ".model.pt.partial-7i6o4r91.pt",
        "settings.json.partial-7i6o4r91.json",
    ],
)
def test_anything_else_in_a_folder_without_settings_is_refused_and_kept(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"not empty and without settings\.json"):
        claim_folder(tmp_path, SETTINGS)
    assert (tmp_path / name).exists()
