"""A disk that fills up is named in one line by whatever writes, and what was there before is as it was."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from pyg_ckd.data import Embeddings
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from pyg_ckd.serving import ItemIndex, Recommender
from pyg_ckd.study import run as study_run
from pyg_ckd.study.run import train_run
from pyg_ckd.training import build, save_model
from pyg_ckd.training.checkpoint import save_checkpoint
from pyg_ckd.training.model import convert_model
from tests.training.problem import planted_data

resource = pytest.importorskip("resource")
NEEDS = {".safetensors": "safetensors", ".faiss": "faiss", "index.pt": "faiss"}


@contextmanager
def full_disk(size: int = 3000) -> Iterator[None]:
    """Let no file grow beyond some bytes."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def served() -> Recommender:
    data = planted_data()
    wide = (torch.randn(data[kind].num_nodes, 256) for kind in ("user", "item"))
    return Recommender(Embeddings(*wide), data)


def model(path: Path) -> Any:
    data = planted_data()
    save_model(path, build(VBPR, data, 0, embedding_dim=64), data)


def converted(path: Path) -> Any:
    source = path.parent.parent / "source.pt"
    if not source.exists():
        model(source)
    convert_model(source, path)


WRITERS: list[tuple[str, Callable[[Path], Any]]] = [
    ("model.pt", model),
    ("model.safetensors", model),
    ("copy.pt", converted),
    ("copy.safetensors", converted),
    ("tonight.pt", lambda path: served().save(path)),
    ("tonight.safetensors", lambda path: served().save(path)),
    ("index.pt", lambda path: ItemIndex(served()).save(path)),
    ("index.faiss", lambda path: ItemIndex(served()).save(path)),
    ("tables.safetensors", lambda path: served().export_embeddings(path)),
    ("lists.jsonl", lambda path: served().export_top_k(path, 20)),
]


@pytest.mark.filterwarnings("ignore:recommend")
@pytest.mark.parametrize(("name", "write"), WRITERS, ids=[name for name, _ in WRITERS])
def test_what_was_there_stays_and_one_line_says_so(name: str, write: Callable[[Path], Any], tmp_path) -> None:
    for end, package in NEEDS.items():
        if name.endswith(end):
            pytest.importorskip(package)
    path = tmp_path / "out" / name
    path.parent.mkdir()
    write(path)
    before = path.read_bytes()
    with (
        full_disk(),
        pytest.raises(InputError, match=rf"{name}: cannot be written \(.+\); nothing half-written") as said,
    ):
        write(path)
    assert "\n" not in str(said.value)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [name]


def test_a_checkpoint_says_it_as_the_system_does(tmp_path) -> None:
    with full_disk(), pytest.raises(OSError, match="not all of it has reached the disk"):
        save_checkpoint(tmp_path / "a.pt", {"kind": "run", "x": torch.ones(10_000)})
    assert list(tmp_path.iterdir()) == []


PROGRAM = """
import resource, sys
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from pyg_ckd.serving.program import export_program
from tests.training.problem import planted_data
data = planted_data()
model = VBPR.from_data(data, embedding_dim=8)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    export_program(model, data, sys.argv[1])
except InputError as error:
    print(error)
"""


def test_a_program_that_does_not_fit_ends_no_process(tmp_path) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "a.pt2")], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "a.pt2: cannot be written (File too large)" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_last_step_of_a_training_names_the_folder_and_the_same_call_goes_on(tmp_path, monkeypatch) -> None:
    data = planted_data()
    options = {"trainer": {"max_epochs": 1, "progress": False, "track_views": False}}
    with monkeypatch.context() as patch:

        def full(*args: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(study_run, "write_json", full)
        with pytest.raises(InputError, match=r"^output folder .*run: cannot be written \(No space left on device\)"):
            train_run(data, VBPR, tmp_path / "run", "plain", options, [5])
    train_run(data, VBPR, tmp_path / "run", "plain", options, [5])
    assert (tmp_path / "run" / "metrics.json").exists()
