"""Two trainings never write to one folder at the same time, and nothing but a lock says so."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from pyg_ckd import locks
from pyg_ckd.errors import InputError
from pyg_ckd.locks import held
from pyg_ckd.nn import VBPR
from pyg_ckd.training import build
from tests.cli.problem import fails
from tests.training.problem import planted_data, trainer

pytestmark = pytest.mark.skipif(not locks.CAN_LOCK, reason="files are not locked here")
HOLDS = """
import sys
from pathlib import Path
from pyg_ckd.locks import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holding(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", HOLDS, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b"held"
    return process


def fit(folder: Path, epochs: int = 1) -> int:
    data = planted_data()
    return len(trainer(max_epochs=epochs, checkpoint_dir=folder).fit(build(VBPR, data, 0), data).rows)


def test_a_folder_in_which_another_process_trains_is_refused_until_that_one_ends(tmp_path) -> None:
    folder = tmp_path / "run"
    assert fit(folder) == 1
    before = (folder / "last.pt").read_bytes()
    process = holding(folder)
    with pytest.raises(InputError, match=r"^checkpoint folder .*run: another process is training here.*, expected one"):
        fit(folder, 2)
    assert (folder / "last.pt").read_bytes() == before
    process.kill()
    process.communicate()
    assert fit(folder, 2) == 2
    assert [path.name for path in folder.iterdir()] == ["last.pt"]


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="nobody says who holds a lock")
def test_the_message_names_the_process_where_the_system_knows_it(tmp_path) -> None:
    process = holding(tmp_path)
    found, place = tmp_path.stat(), Path("/proc/locks").read_text()
    known = f":{found.st_ino} " in place
    with pytest.raises(InputError, match=rf"\(pid {process.pid}\)" if known else "another process"):
        fit(tmp_path)
    process.kill()
    process.communicate()


def test_trainings_in_turn_and_inside_of_each_other_share_a_folder_but_threads_do_not(tmp_path) -> None:
    said: list[str] = []

    def other() -> None:
        try:
            with held(tmp_path):
                said.append("held")
        except InputError as error:
            said.append(str(error))

    with held(tmp_path), held(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    with held(tmp_path):
        pass
    other()
    assert "another process is training here" in said[0]
    assert said[1:] == ["held"]


def test_without_locks_nobody_is_refused(tmp_path, monkeypatch) -> None:
    def flock(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with held(tmp_path / "run"):
        assert fit(tmp_path / "run") == 1


def test_a_training_that_writes_nothing_leaves_no_folder(tmp_path) -> None:
    with pytest.raises(RuntimeError, match="stopped"), held(tmp_path / "a" / "b"):
        raise RuntimeError("stopped")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("mine")
    with held(tmp_path / "file"), held(tmp_path / "file" / "below"):
        pass  # What is wrong with it, writing to it says.
    assert (tmp_path / "file").read_text() == "mine"


def test_a_command_that_is_refused_leaves_the_folder_of_the_other_as_it_is(tmp_path, capsys) -> None:
    rng = np.random.default_rng(0)
    pairs = np.array([(u, i) for u in range(8) for i in range(6) if (u + i) % 3])
    np.savez(tmp_path / "data.npz", train=pairs.T, visual=rng.normal(size=(6, 3)), num_users=8, num_items=6)
    out = tmp_path / "out"
    out.mkdir()
    process = holding(out)
    said = fails(capsys, ["train", "--data", str(tmp_path / "data.npz"), "--out", str(out), "--backbone", "LightGCN"])
    assert "another process is training here" in said
    assert out.is_dir()
    process.kill()
    process.communicate()
