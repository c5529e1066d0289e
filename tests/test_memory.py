"""Memory is kept while a training runs and returned at once in large passes, where that is nobody else's decision."""

from __future__ import annotations

import platform

import pytest
import torch

from pyg_ckd import memory
from pyg_ckd.datasets import SyntheticMultimodal
from pyg_ckd.memory import KEPT, LARGE, MMAP_THRESHOLD, SMALL, TRIM_THRESHOLD, kept_memory, returned_memory
from pyg_ckd.nn import VBPR
from pyg_ckd.training import Trainer


class Library:
    """A C library that notes what it is asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def mallopt(self, parameter: int, value: int) -> int:
        self.calls.append((parameter, value))
        return 1

    def malloc_trim(self, pad: int) -> int:
        self.calls.append((pad,))
        return 1


@pytest.fixture(name="library")
def _library(monkeypatch: pytest.MonkeyPatch) -> Library:
    library = Library()
    monkeypatch.setattr(memory, "_load", lambda: library)
    for name in (*memory.SETTINGS, "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    return library


KEEP = [(MMAP_THRESHOLD, LARGE), (TRIM_THRESHOLD, KEPT)]
RETURN = [(TRIM_THRESHOLD, 2 * LARGE), (0,)]


def test_memory_is_kept_inside_and_returned_at_the_end(library):
    with kept_memory():
        assert library.calls == KEEP
    assert library.calls == KEEP + RETURN


def test_inside_another_training_memory_stays(library):
    with kept_memory():
        with kept_memory():
            pass
        assert library.calls == KEEP * 2
    assert library.calls == KEEP * 2 + RETURN


def test_memory_is_returned_at_once_and_kept_again_where_a_training_runs(library):
    with kept_memory():
        library.calls.clear()
        with returned_memory():
            assert library.calls == [(MMAP_THRESHOLD, SMALL)]
        assert library.calls == [(MMAP_THRESHOLD, SMALL), (MMAP_THRESHOLD, LARGE)]
    library.calls.clear()
    with pytest.raises(ValueError, match="stop"), returned_memory():
        raise ValueError("stop")
    assert library.calls == [(MMAP_THRESHOLD, SMALL), (MMAP_THRESHOLD, LARGE), (TRIM_THRESHOLD, 2 * LARGE)]


def test_memory_is_returned_after_an_error(library):
    with pytest.raises(ValueError, match="stop"), kept_memory():
        raise ValueError("stop")
    assert library.calls == KEEP + RETURN


@pytest.mark.parametrize(
    ("name", "value"), [(name, "1") for name in memory.SETTINGS] + [("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1")]
)
def test_settings_in_the_environment_are_left_alone(name, value, library, monkeypatch):
    monkeypatch.setenv(name, value)
    with kept_memory(), returned_memory():
        pass
    assert library.calls == []


def test_another_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory, "_load", lambda: None)
    with kept_memory(), returned_memory():
        assert torch.ones(3).sum() == 3


def test_other_systems_have_no_such_library(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    assert memory._load.__wrapped__() is None


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_the_library_of_this_machine_answers():
    library = memory._load()
    assert library is not None
    assert library.mallopt(TRIM_THRESHOLD, 2 * LARGE) == 1


def test_the_trainer_keeps_memory_while_it_trains(library):
    data = SyntheticMultimodal(num_users=20, num_items=30, num_interactions=200)[0]
    model = VBPR(20, 30, {m: data["item"][m].size(1) for m in data.modalities})
    Trainer(max_epochs=1, device="cpu", progress=False).fit(model, data)
    assert library.calls == KEEP + RETURN
