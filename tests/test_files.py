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
from pyg_ckd.files import as_path, atomic_folder, atomic_path, check_folder_is_free, read_text, remove_leftovers


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
    process.kill()
    process.communicate()
    assert other.exists()
    with atomic_path(target) as own:
        own.write_text("all of it")
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
    (target / "b").unlink()
    with atomic_folder(target) as own:
        (own / "b").write_text("again")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lists.20240101", "lists"]
    assert [path.name for path in target.iterdir()] == ["b"]


def test_a_folder_that_no_new_one_can_take_the_place_of_is_refused_before_the_work(tmp_path, monkeypatch):
    for name in ("here", "disk", "real"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "here")
    mounted = type(tmp_path).is_mount
    monkeypatch.setattr(type(tmp_path), "is_mount", lambda path: path.name == "disk" or mounted(path))
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
