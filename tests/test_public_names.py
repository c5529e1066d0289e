"""The public names of the package are imported when they are asked for, and are those of their rooms."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pyg_ckd
from pyg_ckd import balance, evaluation, nn, training

HOMES = {
    "DistillationWrapper": balance,
    "ModalityEffectEstimator": balance,
    "Objective": balance,
    "Trainer": training,
    "as_backbone": nn,
    "estimate_effects": balance,
    "evaluate": evaluation,
    "train_teachers": training,
}


def test_every_public_name_is_that_of_its_room() -> None:
    assert set(pyg_ckd.__all__) == {*HOMES, "__version__"}
    for name, room in HOMES.items():
        assert getattr(pyg_ckd, name) is getattr(room, name)


def test_they_are_listed_and_others_are_refused() -> None:
    assert set(pyg_ckd.__all__) <= set(dir(pyg_ckd))
    assert {"nn", "training", "datasets"} <= set(dir(pyg_ckd))
    with pytest.raises(AttributeError, match="no attribute 'Triner'"):
        _ = pyg_ckd.Triner  # type: ignore[attr-defined]
    with pytest.raises(ImportError):
        from pyg_ckd import Triner  # type: ignore[attr-defined]  # noqa: F401


def test_importing_the_package_alone_is_quick_and_gives_its_rooms() -> None:
    code = (
        "import sys, pyg_ckd\nassert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "names = {}\nexec('from pyg_ckd import *', names)\nassert set(pyg_ckd.__all__) <= set(names)\n"
        "assert pyg_ckd.datasets.load and pyg_ckd.study.Study and pyg_ckd.nn.MMGCN"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("room", ["balance", "evaluation", "nn", "study"])
def test_every_room_can_be_imported_first(room: str) -> None:
    subprocess.run([sys.executable, "-c", f"import pyg_ckd.{room}"], check=True)
