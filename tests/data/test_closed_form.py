"""Closed forms: the inverse in place is the inverse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyg_ckd.data import closed_form
from pyg_ckd.data.closed_form import FEW, FastItemWeights, item_weights
from pyg_ckd.errors import InputError


@pytest.fixture
def gram() -> torch.Tensor:
    x = np.random.default_rng(0).random((40, 13))
    return torch.from_numpy(x.T @ x)


@pytest.mark.parametrize("rows", [1, 4, 13, 512])
def test_weights_are_those_of_the_whole_inverse_whatever_is_mirrored_at_once(rows, gram, monkeypatch):
    monkeypatch.setattr(closed_form, "_ROWS", rows)
    inverse = np.linalg.inv(gram.numpy() + 2.0 * np.eye(13))
    expected = -inverse / inverse.diagonal()
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(item_weights(gram, 2.0).numpy(), expected, atol=1e-6)


@pytest.fixture
def inverted(monkeypatch) -> list[torch.dtype]:
    """The types of the matrices that are inverted from now on."""
    types, original = [], closed_form._invert

    def invert(matrix, ridge):
        types.append(matrix.dtype)
        return original(matrix, ridge)

    monkeypatch.setattr(closed_form, "_invert", invert)
    return types


def rows_of(columns: int, items: int = 13) -> torch.Tensor:
    return torch.rand(items, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_fast_weights_are_near_those_of_double_precision(gram, inverted):
    fast = FastItemWeights(gram)
    for args in ((2.0,), (2.0, rows_of(2), 0.7)):
        torch.testing.assert_close(fast(*args), item_weights(gram, *args), atol=1e-4, rtol=0)
    assert inverted == [torch.float32, torch.float64] * 2


@pytest.mark.parametrize("weight", [0.0, 1e-3, 0.7, 50.0])
def test_content_of_few_columns_corrects_the_inverse_that_is_kept(weight, inverted):
    x = np.random.default_rng(1).random((60, 5 * FEW))
    gram, rows = torch.from_numpy(x.T @ x), rows_of(5, 5 * FEW)
    fast = FastItemWeights(gram)
    fast.keep(2.0, 5)
    for args in ((2.0, rows, weight), (2.0,), (2.0, rows, weight)):
        torch.testing.assert_close(fast(*args), item_weights(gram, *args), atol=1e-4, rtol=0)
    assert inverted.count(torch.float32) == 1  # The one that is kept.
    torch.testing.assert_close(fast(3.0, rows, weight), item_weights(gram, 3.0, rows, weight), atol=1e-4, rtol=0)
    assert inverted.count(torch.float32) == 2  # Another ridge.


@pytest.mark.parametrize("kept", [False, True])
def test_weights_are_not_solved_in_the_precision_of_a_training(kept):
    x = np.random.default_rng(1).random((60, 2 * FEW))
    gram, rows = torch.from_numpy(x.T @ x), rows_of(2, 2 * FEW)
    fast = FastItemWeights(gram)
    if kept:
        fast.keep(2.0, 2)
    expected = fast(2.0, rows)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(2.0, rows), expected)


@pytest.mark.parametrize("why", ["many columns", "lost digits"])
def test_an_inverse_that_cannot_be_corrected_is_made_anew(why, gram, inverted, monkeypatch):
    rows = rows_of(13 // FEW if why == "lost digits" else 13 // FEW + 1)
    monkeypatch.setattr(closed_form, "LOST", 1.0 if why == "lost digits" else 0.0)
    fast = FastItemWeights(gram)
    fast.keep(2.0, rows.size(1))
    kept = inverted.count(torch.float32)
    assert kept == (why == "lost digits")  # What nothing can correct is not kept.
    torch.testing.assert_close(fast(2.0, rows, 0.7), item_weights(gram, 2.0, rows, 0.7), atol=1e-4, rtol=0)
    assert inverted.count(torch.float32) == kept + 1


def test_what_single_precision_cannot_invert_is_inverted_in_double_precision(inverted):
    """The smaller eigenvalue, of 1e-5, is below the rounding of the larger one in float32."""
    gram = torch.full((2, 2), 1e4, dtype=torch.float64)
    fast = FastItemWeights(gram)
    fast.keep(1e-5, 0)
    torch.testing.assert_close(fast(1e-5), item_weights(gram, 1e-5))
    assert inverted == [torch.float32, torch.float32, torch.float64, torch.float64]


def test_the_gram_matrix_stays_what_it_is(gram):
    before, rows = gram.clone(), torch.ones(13, 2, dtype=torch.float64)
    item_weights(gram, 2.0)
    item_weights(gram, 2.0, rows)
    assert torch.equal(gram, before)


def test_a_matrix_that_cannot_be_inverted_is_refused(gram):
    singular = torch.zeros_like(gram) - torch.eye(13)
    for matrix in (singular, gram * float("nan")):
        with pytest.raises(InputError, match=r"ease ridge: found 0\.5, too small"):
            item_weights(matrix, 0.5)
        with pytest.raises(InputError, match=r"ease ridge: found 0\.5, too small"):
            FastItemWeights(matrix)(0.5)
