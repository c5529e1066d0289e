"""Closed forms: the inverse in place is the inverse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyg_ckd.data import closed_form
from pyg_ckd.data.closed_form import item_weights
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


def test_weights_of_single_precision_are_near_those_of_double_precision(gram):
    rows = torch.rand(13, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    single = item_weights(gram.float(), 2.0, rows.float(), 0.7)
    torch.testing.assert_close(single, item_weights(gram, 2.0, rows, 0.7), atol=1e-4, rtol=0)


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
