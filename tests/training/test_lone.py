"""Two trainings never write to one folder at the same time, and nothing but a lock says so."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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


def started(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


@contextmanager
def holding(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = started(HOLDS, folder)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"held"
        yield process
    finally:
        end(process)


def fit(folder: Path, epochs: int = 1) -> int:
    data = planted_data()
    return len(trainer(max_epochs=epochs, checkpoint_dir=folder).fit(build(VBPR, data, 0), data).rows)


def test_a_folder_in_which_another_process_trains_is_refused_until_that_one_ends(tmp_path) -> None:
    folder = tmp_path / "run"
    assert fit(folder) == 1
    before = (folder / "last.pt").read_bytes()
    with holding(folder):
        with pytest.raises(
            InputError, match=r"^checkpoint folder .*run: another process is training here.*, expected one"
        ):
            fit(folder, 2)
        assert (folder / "last.pt").read_bytes() == before
    assert fit(folder, 2) == 2
    assert [path.name for path in folder.iterdir()] == ["last.pt"]


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="nobody says who holds a lock")
def test_the_message_names_the_process_where_the_system_knows_it(tmp_path) -> None:
    with holding(tmp_path) as process:
        known = f" {locks.place_in_list(tmp_path.stat())} " in Path("/proc/locks").read_text()
        with pytest.raises(InputError, match=rf"\(pid {process.pid}\)" if known else "another process"):
            fit(tmp_path)


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
    assert "another process is training here" in said[0] or "this process is training here already" in said[0]
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
    with holding(out):
        command = ["train", "--data", str(tmp_path / "data.npz"), "--out", str(out), "--backbone", "LightGCN"]
        assert "another process is training here" in fails(capsys, command)
    assert out.is_dir()


TEACHES = """
import sys
from pyg_ckd.nn import VBPR
from pyg_ckd.training import Trainer, train_teachers
from tests.training.problem import planted_data, trainer
original = Trainer.fit
def fit(self, model, data):
    print("trains", flush=True)
    sys.stdin.readline()
    return original(self, model, data)
Trainer.fit = fit
data = planted_data()
found = train_teachers(VBPR, data, trainer(max_epochs=1), ["visual"], cache_dir=sys.argv[1], embedding_dim=4)
print(found["visual"].user.double().sum().item(), flush=True)
"""


def test_a_job_waits_for_the_teacher_that_another_one_trains_and_takes_it(tmp_path) -> None:
    jobs = [started(TEACHES, tmp_path)]
    try:
        first = jobs[0]
        assert first.stdout is not None
        assert first.stdout.readline().strip() == b"trains"
        jobs.append(
            subprocess.Popen(jobs[0].args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )
        assert jobs[1].stderr is not None
        said = b""
        while b"waiting" not in said:
            said = jobs[1].stderr.readline()
            assert said, "it ended without waiting"
        assert b"teacher 'visual': waiting, for another process is training here" in said
        one, other = first.communicate(b"\n", timeout=120)[0], jobs[1].communicate(b"\n", timeout=120)[0]
        assert [job.returncode for job in jobs] == [0, 0]
        assert other == one, "it has trained nothing and has the same teacher"
    finally:
        for job in jobs:
            end(job)
    assert [path.suffix for path in tmp_path.iterdir()] == [".pt"]


FORKS = """
import os, sys, time
from pathlib import Path
from pyg_ckd.files import atomic_path
from pyg_ckd.locks import held
children = []
for block in (held(Path(sys.argv[1])), atomic_path(sys.argv[2])):
    with block:
        children.append(os.fork())
        if not children[-1]:
            time.sleep(600)
            os._exit(0)
print(*children, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_process_that_was_forked_meanwhile_does_not_keep_the_folder(tmp_path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    process = started(FORKS, tmp_path / "run", tmp_path / "file")
    assert process.stdout is not None
    children = [int(number) for number in process.stdout.readline().split()]
    try:
        assert process.wait(60) == 0
        assert len(children) == 2
        with held(tmp_path / "run"):
            pass
    finally:
        for child in children:
            os.kill(child, 9)
        end(process)


def is_listed(folder: Path) -> bool:
    with held(folder):
        words = Path("/proc/locks").read_text().split() if Path("/proc/locks").exists() else []
    return locks.place_in_list(folder.stat()) in words


@pytest.mark.skipif(shutil.which("flock") is None, reason="there is no such guard here")
@pytest.mark.parametrize("how", [[], ["--close"], ["--no-fork"]], ids=["inherits", "closed", "same process"])
def test_a_command_is_not_refused_for_the_guard_that_starts_it(how, tmp_path) -> None:
    command = ["flock", *how, str(tmp_path), sys.executable, "-c", HOLDS, str(tmp_path)]
    if how == ["--close"] and not is_listed(tmp_path):
        pytest.skip("nobody says who holds a lock")
    done = subprocess.run(command, input=b"", capture_output=True, timeout=120, check=False)
    assert done.stdout.strip() == b"held", done.stderr.decode()
