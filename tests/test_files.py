"""Writing whole files or none."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from pyg_ckd.errors import InputError
from pyg_ckd.files import as_path, atomic_path, read_text, remove_leftovers


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have no names here")
def test_a_text_is_read_from_a_pipe_from_its_beginning(tmp_path):
    text = "".join(f"{n}\n" for n in range(1_000_000, 1_004_999))
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(text,))
    writer.start()
    assert read_text(tmp_path / "pipe") == text
    writer.join()


def test_file_appears_whole_at_the_end_of_the_block(tmp_path):
    target = tmp_path / "new" / "folder" / "table.csv"
    with atomic_path(target) as temporary:
        temporary.write_text("all of it")
        assert not target.exists()
        assert temporary.suffix == ".csv"
        assert temporary.parent == target.parent
    assert target.read_text() == "all of it"
    assert list(target.parent.iterdir()) == [target]


def test_exception_inside_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "weights.pt"
    target.write_text("old")
    with suppress(KeyboardInterrupt), atomic_path(target) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_exception_inside_creates_no_file(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "new.txt"):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


def test_file_gets_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "file"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_name_with_a_null_character_is_refused():
    with pytest.raises(InputError, match=r"^path: found 'a\\x00.csv' with a null character"):
        as_path("a\0.csv")


WRITES = """
import sys
from pyg_ckd.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half of the n")
    print("written", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="files are not locked here")
def test_what_a_killed_process_leaves_of_a_file_is_removed_and_nothing_else(tmp_path):
    target = tmp_path / "last.pt"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline().strip() == b"written"
    (other,) = tmp_path.iterdir()
    names = ("last.pt", ".last.pt", ".last.pt.backup", ".last.pt.of-today.pt", ".best.pt.abcdefgh.pt", "alastapt")
    for name in names:
        (tmp_path / name).write_text("mine")
    with atomic_path(target) as own:
        remove_leftovers(target)
        assert other.exists(), "it is written at the moment"
        assert own.exists()
        own.write_text("all of it")
    process.kill()
    process.communicate()
    assert other.exists()
    remove_leftovers(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert target.read_text() == "all of it"
    remove_leftovers(tmp_path / "no folder" / "last.pt")


def test_a_file_that_was_taken_for_a_leftover_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    from pyg_ckd import files

    seen, original = [], files.locks

    def locks(handle, wait=True):
        seen.append(handle)
        if len(seen) == 1:
            (file,) = tmp_path.iterdir()
            file.unlink()
        return original(handle, wait)

    monkeypatch.setattr(files, "locks", locks)
    with atomic_path(tmp_path / "last.pt") as temporary:
        temporary.write_text("all of it")
    assert (tmp_path / "last.pt").read_text() == "all of it"
    assert len(list(tmp_path.iterdir())) == 1
