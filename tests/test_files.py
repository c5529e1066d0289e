"""Writing whole files or none."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pyg_ckd import files
from pyg_ckd.errors import InputError
from pyg_ckd.files import (
    as_path,
    atomic_folder,
    atomic_path,
    check_folder_is_free,
    read_text,
    remove_leftovers,
    to_disk,
    writing,
)


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


def an_hour_later(*paths) -> None:
    """Make files an hour older, and let this process look for leftovers again."""
    for path in paths:
        os.utime(path, (time.time() - files.OLD - 60,) * 2)
    files._cleared.clear()


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
    names = (
        "last.pt",
        ".last.pt",
        ".last.pt.backup",
        ".last.pt.of-today.pt",
        ".best.pt.abcdefgh.pt",
        "alastapt",
        ".last.pt.20240101.pt",
    )
    for name in names:
        (tmp_path / name).write_text("mine")
    with atomic_path(target) as own:
        remove_leftovers(target)
        assert other.exists(), "it is written at the moment"
        assert own.exists()
        own.write_text("all of it")
        an_hour_later(other)
        with atomic_path(target):
            assert other.exists(), "it is written at the moment"
    process.kill()
    process.communicate()
    os.utime(other)
    for age in ("new", "seen", "old"):
        if age != "seen":
            files._cleared.clear()
        if age != "new":
            os.utime(other, (0, 0))
        assert other.exists(), "another machine may write it, or this process has looked for it already"
        with atomic_path(target) as own:
            own.write_text("all of it")
        if age == "new":
            assert other.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert target.read_text() == "all of it"
    remove_leftovers(tmp_path / "no folder" / "last.pt")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="files are not locked here")
def test_leftovers_of_checkpoints_go_at_once_those_of_earlier_versions_too(tmp_path):
    gone = [".last.pt.partial-a1b2c3d4.pt", ".last.pt.a1b2c3d4.pt"]
    kept = [".last.pt.20240101.pt", ".last.pt.ABCDEFGH.pt", ".last.pt.backups.", "last.pt"]
    for name in gone + kept:
        (tmp_path / name).write_text("half")
    remove_leftovers(tmp_path / "last.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_a_file_that_was_taken_for_a_leftover_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
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


WRITES_FOLDER = WRITES.replace("atomic_path", "atomic_folder").replace("temporary.w", "(temporary / 'a').w")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="folders are not locked here")
def test_what_a_killed_process_leaves_of_a_folder_is_removed_and_nothing_else(tmp_path):
    target = tmp_path / "lists"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES_FOLDER, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline().strip() == b"written"
    (other,) = tmp_path.iterdir()
    (tmp_path / ".lists.20240101").mkdir()
    with atomic_folder(target) as own:
        (own / "b").write_text("all of it")
        assert other.exists(), "it is written at the moment"
    process.kill()
    process.communicate()
    an_hour_later(other)
    (target / "b").unlink()
    with atomic_folder(target):
        assert other.exists(), "a file in it is new"
    an_hour_later(other / "a", other)
    with atomic_folder(target) as own:
        (own / "b").write_text("again")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lists.20240101", "lists"]
    assert [path.name for path in target.iterdir()] == ["b"]


def test_a_folder_that_no_new_one_can_take_the_place_of_is_refused_before_the_work(tmp_path, monkeypatch):
    for name in ("here", "disk", "real"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "here")
    mounted = os.path.ismount
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "disk" or mounted(path))
    for path, words in (
        (".", r"^\.: is the current folder, expected .*; take a new name inside it"),
        (tmp_path / "disk", "disk: is where a disk is mounted, expected .*; take a new name inside it"),
    ):
        for check in (check_folder_is_free, lambda path: atomic_folder(path).__enter__()):
            with pytest.raises(InputError, match=words):
                check(path)
    with atomic_folder(tmp_path / "link") as temporary:
        (temporary / "a").write_text("all of it")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a").read_text() == "all of it"
    with atomic_folder("new"):
        pass
    assert (tmp_path / "here" / "new").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "here", "link", "real"]


@pytest.mark.skipif(os.name == "nt", reason="the current folder cannot be removed here")
def test_a_folder_is_written_where_the_current_one_is_gone(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    with atomic_folder(tmp_path / "new") as temporary:
        (temporary / "a").write_text("all of it")
    assert (tmp_path / "new" / "a").exists()
    with pytest.raises(InputError, match="new: the current folder is gone, expected one"):
        check_folder_is_free("new")


def test_a_link_to_a_file_that_must_not_be_written_is_replaced(tmp_path):
    stored, link = tmp_path / "3f786850", tmp_path / "model.pt"
    stored.write_text("of this content")
    stored.chmod(0o444)
    link.symlink_to(stored)
    with atomic_path(link) as temporary:
        temporary.write_text("new")
    assert stored.read_text() == "of this content"
    assert stat.S_IMODE(stored.stat().st_mode) == 0o444
    assert not link.is_symlink()
    assert link.read_text() == "new"
    assert link.stat().st_mode & stat.S_IWUSR


def test_a_full_disk_is_told_from_an_accelerator_that_fails(tmp_path):
    class OutOfMemoryError(RuntimeError):
        pass

    for error in (OutOfMemoryError("no memory"), RuntimeError("CUDA error: an illegal memory access")):
        with pytest.raises(type(error)) as caught, writing(tmp_path / "a"), to_disk():
            raise error
        assert caught.value is error
    full = RuntimeError("file write failed")
    with (
        pytest.raises(InputError, match=r"a: cannot be written \(not all") as caught,
        writing(tmp_path / "a"),
        to_disk(),
    ):
        raise full
    assert caught.value.__cause__ is full


def test_a_link_stays_a_link_and_a_file_keeps_its_mode(tmp_path):
    (tmp_path / "there").mkdir()
    real, link, empty = tmp_path / "there" / "model-7.pt", tmp_path / "model.pt", tmp_path / "empty.pt"
    real.write_text("old")
    real.chmod(0o600)
    link.symlink_to(real)
    empty.symlink_to(tmp_path / "there" / "new.pt")
    for path in (link, empty):
        with atomic_path(path) as temporary:
            temporary.write_text("new")
            assert temporary.parent == real.parent
        assert path.is_symlink()
    assert real.read_text() == (tmp_path / "there" / "new.pt").read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert len(list(real.parent.iterdir())) == 2
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(InputError, match=r"model.pt: is a link that leads back to itself"), atomic_path(link):
        pass


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have no names here")
def test_a_pipe_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"pipe: is a pipe, a device or a socket"), atomic_path(tmp_path / "pipe"):
        pass
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="open files have no names here")
def test_a_pipe_of_a_shell_is_refused_by_its_name():
    read, write = os.pipe()
    try:
        with pytest.raises(InputError, match=rf"^/dev/fd/{write}: is a pipe"), atomic_path(f"/dev/fd/{write}"):
            pass
    finally:
        os.close(read)
        os.close(write)
