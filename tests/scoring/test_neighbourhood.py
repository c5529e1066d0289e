"""Scores by weights between items against loops over what users have met."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor

from pyg_ckd.scoring.neighbourhood import Neighbourhood, history_matrix

EDGES = torch.tensor([[0, 0, 2, 2, 2, 0], [1, 4, 0, 3, 4, 1]])  # User 1 has met nothing, user 0 item 1 twice.


def parts(kind: str) -> tuple[Tensor, Tensor | csr_array, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(5, 5, generator=generator).fill_diagonal_(0)
    factors = torch.randn(5, 3, generator=generator)
    return weights, weights if kind == "dense" else csr_array(weights.numpy()), factors


@pytest.mark.parametrize("with_factors", [False, True])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_a_score_is_the_sum_of_weights_and_products_over_other_items_met(kind: str, with_factors: bool) -> None:
    weights, given, factors = parts(kind)
    model = Neighbourhood(history_matrix(EDGES, 3, 5), given, factors if with_factors else None)
    users = torch.tensor([2, 0, 1, 2])
    history = {0: {1, 4}, 1: set(), 2: {0, 3, 4}}
    expected = [
        [
            sum(float(weights[j, i]) + with_factors * float(factors[j] @ factors[i]) for j in history[u] if j != i)
            for i in range(5)
        ]
        for u in users.tolist()
    ]
    scores = model.scores(users)
    assert scores.dtype == model.dtype == torch.float32
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-6)
    scores.fill_(-1.0)  # The caller may write to it.
    np.testing.assert_allclose(model.scores(users).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("with_factors", [False, True])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_counts_are_the_scores_of_who_has_met_nothing_and_of_nobody_else(kind: str, with_factors: bool) -> None:
    _, given, factors = parts(kind)
    history, counts = history_matrix(EDGES, 3, 5), torch.tensor([0.0, 2.0, 0.0, 1.0, 2.0])
    model, alone = (Neighbourhood(history, given, factors if with_factors else None, x) for x in (counts, None))
    users = torch.tensor([2, 1, 0, 1])
    got = model.scores(users)
    assert got.dtype == torch.float32
    assert torch.equal(got[[1, 3]], counts.expand(2, 5))
    assert torch.equal(got[[0, 2]], alone.scores(users)[[0, 2]])
    other = model.with_history(history[[1, 2]])
    assert torch.equal(other.scores(torch.tensor([0, 1])), got[[1, 0]])
    assert other.silent is model.silent  # All weights are not read again.


def test_an_interaction_that_is_repeated_is_met_once() -> None:
    assert history_matrix(EDGES, 3, 5).toarray().tolist() == [[0, 1, 0, 0, 1], [0] * 5, [1, 0, 0, 1, 1]]
