"""Features that stay in their files: known as such, looked through once, read in blocks, and refused when changed."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pyg_ckd.data import mapped
from pyg_ckd.data.checks import as_features
from pyg_ckd.data.inputs import unpack
from pyg_ckd.data.mapped import file_of, first_row_not_finite, mean_of_rows, register, remembered, row_blocks
from pyg_ckd.datasets import convert, load
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from pyg_ckd.scoring.blocks import Projection


def in_file(tmp_path: Path, array: np.ndarray, name: str = "visual.npy") -> Tensor:
    np.save(tmp_path / name, array)
    return register(torch.from_numpy(np.load(tmp_path / name, mmap_mode="c")), tmp_path / name)


def numbers(rows: int = 40, columns: int = 3, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, columns)).astype(dtype)


def test_views_of_a_mapped_matrix_are_known_until_the_last_is_gone(tmp_path):
    count = len(mapped._mappings)
    x = in_file(tmp_path, numbers())
    part = x.detach()[3:5]
    assert file_of(x) == file_of(part) == tmp_path / "visual.npy"
    assert [file_of(other) for other in (x.clone(), torch.ones(3), None)] == [None] * 3
    del x
    gc.collect()
    assert file_of(part) is not None
    del part
    gc.collect()
    assert len(mapped._mappings) == count


def test_a_result_is_computed_once_and_again_after_a_change_in_place(tmp_path):
    for x in (in_file(tmp_path, numbers()), torch.from_numpy(numbers())):
        calls: list[int] = []

        def total(x: Tensor, calls: list[int] = calls) -> float:
            calls.append(1)
            return float(x.sum())

        first = remembered(x, "total", total)
        assert remembered(x, "total", total) == first
        assert len(calls) == 1
        x[0, 0] += 1
        assert remembered(x, "total", total) == pytest.approx(first + 1, abs=1e-5)
        assert len(calls) == 2
    assert np.array_equal(np.load(tmp_path / "visual.npy"), numbers())  # The change stays in memory.


def test_a_view_has_results_of_its_own(tmp_path):
    x = in_file(tmp_path, numbers())
    assert remembered(x, "rows", len) == 40
    assert remembered(x[:7], "rows", len) == 7


def test_a_file_that_was_written_to_is_refused_by_name_and_one_that_was_replaced_is_not(tmp_path):
    x = in_file(tmp_path, numbers())
    file = tmp_path / "visual.npy"
    assert first_row_not_finite(x) == -1
    np.save(tmp_path / "new.npy", numbers(20))
    (tmp_path / "new.npy").replace(file)
    assert first_row_not_finite(x) == -1
    del x
    x = in_file(tmp_path, numbers())
    with file.open("r+b") as stream:
        stream.seek(-4, 2)
        stream.write(b"\0\0\0\0")
    os.utime(file, ns=(0, 0))
    with pytest.raises(InputError, match=r"visual\.npy: found another time of change.*read the data again"):
        first_row_not_finite(x)


@pytest.mark.parametrize("row", [0, 17, 39])
def test_the_first_row_that_is_not_finite_is_found_in_blocks(monkeypatch, row):
    monkeypatch.setattr(mapped, "BLOCK", 12)
    array = numbers()
    array[row, 2], array[-1, 0] = np.nan, np.inf
    assert first_row_not_finite(torch.from_numpy(array)) == row


def test_blocks_hold_every_row_once(monkeypatch):
    monkeypatch.setattr(mapped, "BLOCK", 12)
    x = torch.from_numpy(numbers(10))
    starts, blocks = zip(*row_blocks(x), strict=True)
    assert starts == (0, 4, 8)
    assert torch.equal(torch.cat(blocks), x)


def test_the_mean_of_half_precision_is_summed_in_double(monkeypatch):
    monkeypatch.setattr(mapped, "BLOCK", 100)
    x = torch.from_numpy(100 + numbers(5000, 4)).half()
    expected = x.double().mean(dim=0, keepdim=True)
    assert mean_of_rows(x).dtype == torch.float32
    torch.testing.assert_close(mean_of_rows(x).double(), expected, atol=1e-4, rtol=0)


def test_matrices_of_float32_stay_in_their_files_and_others_are_converted(tmp_path):
    np.save(tmp_path / "a.npy", numbers())
    assert file_of(as_features(np.load(tmp_path / "a.npy", mmap_mode="c"), "a", "here")) == tmp_path / "a.npy"
    np.save(tmp_path / "b.npy", numbers(dtype=np.float16))
    half = as_features(np.load(tmp_path / "b.npy", mmap_mode="c"), "b", "here")
    assert half.dtype == torch.float32
    assert file_of(half) is None
    known = in_file(tmp_path, numbers(dtype=np.float16), "c.npy")
    assert as_features(known, "c", "here") is known


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_projection_casts_the_rows_that_it_reads(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr("pyg_ckd.scoring.blocks._BLOCK", 21)
    x = in_file(tmp_path, numbers(dtype=dtype))
    weight, bias = torch.randn(5, 3, dtype=torch.float64, requires_grad=True), torch.randn(5, dtype=torch.float64)
    expected = x.double() @ weight.t() + bias
    index = torch.tensor([4, 1, 1])
    torch.testing.assert_close(Projection(x, weight, bias).take(index), expected[index], atol=1e-12, rtol=0)
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            torch.testing.assert_close(Projection(x, weight, bias).table, expected, atol=1e-12, rtol=0)
    assert Projection(x, weight, bias).table.requires_grad


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_models_that_read_rows_are_given_the_files_and_others_matrices(tmp_path, dtype):
    convert(
        "synthetic", tmp_path / "data", "folder", "standardize", dtype, num_users=40, num_items=30, num_interactions=300
    )
    data = load(tmp_path / "data")
    m = data.modalities[0]
    kept, whole = (unpack(data, "cpu", torch.float64, rows)[0][m] for rows in (True, False))
    assert file_of(kept) == tmp_path / "data" / f"{m}.npy"
    assert kept.dtype == getattr(torch, dtype)
    assert whole.dtype == torch.float64
    assert file_of(whole) is None
    assert torch.equal(kept.double(), whole)
    assert VBPR.from_data(data).reads_rows
    assert not VBPR.from_data(data, fusion="sum").reads_rows
