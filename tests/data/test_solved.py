"""What was solved is kept: in the process, in a folder, and never under the name of something else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pyg_ckd.data import solved as module
from pyg_ckd.data.solved import kept_in, solved

calls: list[int] = []


@pytest.fixture(autouse=True)
def _empty(monkeypatch):
    monkeypatch.setattr(module, "_solved", {})
    calls.clear()


def double(x: Tensor) -> tuple[Tensor, Tensor]:
    calls.append(int(x.sum()))
    return 2 * x, x.long()


def triple(x: Tensor) -> tuple[Tensor, ...]:
    calls.append(int(x.sum()))
    return (3 * x,)


def forget() -> None:
    module._solved.clear()


def test_a_process_solves_once_and_keeps_functions_and_keys_apart():
    x = torch.arange(3.0)
    first = solved(("a",), double, x)
    assert solved(("a",), double, x) is first
    assert solved(("b",), double, x + 1)[0].tolist() == [2, 4, 6]
    assert solved(("a",), triple, x)[0].tolist() == [0, 3, 6]
    assert calls == [3, 6, 3]


def test_a_folder_spares_other_processes_the_work(tmp_path: Path):
    x = torch.arange(3.0)
    with kept_in(tmp_path / "kept"):
        assert not (tmp_path / "kept").exists()
        first = solved(("a",), double, x)
        forget()
        again = solved(("a",), double, x)
        assert [(t.tolist(), t.dtype) for t in again] == [(t.tolist(), t.dtype) for t in first]
        assert calls == [3]
    forget()
    solved(("a",), double, x)  # Outside of the block there is no folder.
    assert calls == [3, 3]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "nonsense": lambda whole: b"nonsense",
    "truncated": lambda whole: whole[: len(whole) // 2],
    "a bit": lambda whole: whole[:500] + bytes([whole[500] ^ 1]) + whole[501:],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_written_anew(kind, tmp_path: Path):
    x = torch.arange(300.0)
    with kept_in(tmp_path):
        solved(("a",), double, x)
        (file,) = tmp_path.glob("*.npz")
        file.write_bytes(DAMAGE[kind](file.read_bytes()))
        forget()
        assert solved(("a",), double, x)[0].tolist() == (2 * x).tolist()
        assert len(calls) == 2
        forget()
        solved(("a",), double, x)
        assert len(calls) == 2


def test_another_file_in_its_place_is_not_taken(tmp_path: Path):
    x = torch.arange(3.0)
    with kept_in(tmp_path):
        solved(("a",), double, x)
        (file,) = tmp_path.glob("*.npz")
        with file.open("wb") as other:
            np.savez(other, x=x.numpy())
        forget()
        assert solved(("a",), double, x)[0].tolist() == [0, 2, 4]


def test_what_is_solved_can_be_trained_with(tmp_path: Path):
    with kept_in(tmp_path), torch.inference_mode():
        found = [solved(("a",), double, torch.arange(3.0))[0]]
        forget()
        found.append(solved(("a",), double, torch.arange(3.0))[0])
    assert not any(x.is_inference() for x in found)


def test_what_the_process_knows_already_is_kept_in_the_folder_too(tmp_path: Path):
    solved(("a",), double, torch.arange(3.0))
    with kept_in(tmp_path):
        solved(("a",), double, torch.arange(3.0))
        forget()
        solved(("a",), double, torch.arange(3.0))
    assert calls == [3]


def test_a_folder_that_cannot_be_written_to_costs_nothing(tmp_path: Path):
    (tmp_path / "file").touch()
    with kept_in(tmp_path / "file"):
        assert solved(("a",), double, torch.arange(3.0))[0].tolist() == [0, 2, 4]


def test_who_wants_the_same_at_the_same_time_waits(tmp_path: Path):
    def slow(x: Tensor) -> tuple[Tensor, ...]:
        calls.append(1)
        time.sleep(0.2)
        return (x,)

    def ask() -> None:
        with kept_in(tmp_path):
            solved(("a",), slow, torch.arange(3.0))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]
