"""Downloads from a local server that breaks off, refuses, or sends something else."""

from __future__ import annotations

import errno
import hashlib
import tempfile
import time
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from pyg_ckd.datasets.sources import download
from pyg_ckd.errors import InputError
from tests.datasets.server import Server

CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True, scope="module")
def _no_waiting():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", lambda seconds: None)
        patch.setenv("no_proxy", "*")
        yield


@pytest.fixture(scope="module")
def lasting():
    with Server({}) as running:
        yield running


@pytest.fixture
def server():
    with Server({"file.gz": CONTENT}) as running:
        yield running


def refuses(pattern: str, *args, **options) -> None:
    with pytest.raises(InputError, match=pattern) as error:
        download(*args, **options)
    assert "\n" not in str(error.value)


def test_a_file_is_downloaded_once(server, tmp_path):
    path = tmp_path / "deep" / "file.gz"
    assert download(server.url("file.gz"), path, progress=False) == path
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["file.gz"]
    download(server.url("file.gz"), path)
    assert server.ranges == [None]


def test_a_connection_that_breaks_is_resumed_where_it_broke(server, tmp_path):
    server.cuts = [100, 5000]
    download(server.url("file.gz"), tmp_path / "file.gz")
    assert (tmp_path / "file.gz").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100-", "bytes=5100-"]


def test_the_next_call_goes_on_from_the_part(server, tmp_path):
    (tmp_path / "file.gz.part").write_bytes(CONTENT[:777])
    download(server.url("file.gz"), tmp_path / "file.gz")
    assert (tmp_path / "file.gz").read_bytes() == CONTENT
    assert server.ranges == ["bytes=777-"]


def test_a_server_that_knows_no_parts_sends_everything_again(server, tmp_path):
    server.parts = False
    server.cuts = [4000]
    download(server.url("file.gz"), tmp_path / "file.gz")
    assert (tmp_path / "file.gz").read_bytes() == CONTENT


def test_a_complete_part_takes_its_name_and_one_that_is_too_long_is_dropped(server, tmp_path):
    for part in (CONTENT, CONTENT + b"more"):
        (tmp_path / "file.gz").unlink(missing_ok=True)
        (tmp_path / "file.gz.part").write_bytes(part)
        download(server.url("file.gz"), tmp_path / "file.gz", sha256=hashlib.sha256(CONTENT).hexdigest())
        assert (tmp_path / "file.gz").read_bytes() == CONTENT


def test_a_connection_that_is_always_dead_is_given_up_and_the_part_is_kept(server, tmp_path):
    server.cuts = [300] + [0] * 9
    refuses(
        rf"file.gz: broke off after 300 of {len(CONTENT)} bytes .*run the same again, it goes on from file.gz.part",
        server.url("file.gz"),
        tmp_path / "file.gz",
    )
    assert not (tmp_path / "file.gz").exists()
    server.cuts = []
    download(server.url("file.gz"), tmp_path / "file.gz")
    assert (tmp_path / "file.gz").read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=300-"


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.codes = [503, 429]
    download(server.url("file.gz"), tmp_path / "file.gz")
    assert len(server.ranges) == 3


def test_a_missing_file_is_refused_at_once(server, tmp_path):
    refuses("nothing.gz: the server answers 404 .*check the address", server.url("nothing.gz"), tmp_path / "x")
    assert len(server.ranges) == 1
    assert list(tmp_path.iterdir()) == []


def test_no_server_and_other_protocols_are_refused(tmp_path):
    refuses("broke off after 0 bytes .*refused", "http://127.0.0.1:9/x", tmp_path / "x")
    refuses("expected an address that begins with http", (tmp_path / "y").as_uri(), tmp_path / "x")


def test_another_size_than_the_published_one_is_refused(server, tmp_path):
    size = len(CONTENT)
    refuses(f"has {size} bytes, expected {size + 1}", server.url("file.gz"), tmp_path / "x", size=size + 1)
    assert list(tmp_path.iterdir()) == []
    download(server.url("file.gz"), tmp_path / "x", size=size)


def test_another_checksum_is_refused_and_nothing_is_left(server, tmp_path):
    wrong, right = "0" * 64, hashlib.sha256(CONTENT).hexdigest()
    refuses(f"has the SHA-256 checksum {right}, expected {wrong}", server.url("file.gz"), tmp_path / "x", sha256=wrong)
    assert list(tmp_path.iterdir()) == []
    download(server.url("file.gz"), tmp_path / "x", sha256=right.upper())


def test_a_full_disk_leaves_no_file_and_the_part_is_used_again(server, tmp_path, monkeypatch):
    path = tmp_path / "file.gz"
    path.with_name("file.gz.part").write_bytes(CONTENT[:50])
    usual = Path.open

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self.file.close()

        def write(self, chunk):
            if len(chunk) > 10:
                return self.file.write(chunk[:10]) if self.file.tell() < 60 else self._fail()
            return self.file.write(chunk)

        def _fail(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    def half(self, mode="r", *args, **options):
        file = usual(self, mode, *args, **options)
        return Full(file) if mode == "ab" else file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", half)
        refuses("No space left on device.*goes on after the 60 bytes that are there", server.url("file.gz"), path)
    assert not path.exists()
    download(server.url("file.gz"), path)
    assert path.read_bytes() == CONTENT


def test_a_folder_that_is_a_file_is_refused(server, tmp_path):
    (tmp_path / "file").write_text("")
    refuses("cannot be written", server.url("file.gz"), tmp_path / "file" / "x")


@settings(max_examples=200, deadline=None)
@given(
    content=st.binary(max_size=60),
    start=st.integers(0, 80),
    cuts=st.lists(st.integers(0, 30), max_size=4),
    parts=st.booleans(),
)
def test_however_it_is_interrupted_the_file_is_the_one_of_the_server(lasting, content, start, cuts, parts):
    with tempfile.TemporaryDirectory() as folder:
        lasting.files, lasting.parts, lasting.cuts = {"x": content}, parts, cuts
        path = Path(folder) / "x"
        path.with_name("x.part").write_bytes((content + b"?" * 80)[:start] if start > len(content) else content[:start])
        download(lasting.url("x"), path, progress=False)
        assert path.read_bytes() == content
        assert [file.name for file in Path(folder).iterdir()] == ["x"]
