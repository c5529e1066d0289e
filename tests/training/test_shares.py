"""Shares of interactions know the positives of the others."""

from __future__ import annotations

import pytest
import torch

from pyg_ckd.data import TripletSampler


@pytest.mark.parametrize("negatives", ["uniform", "popularity", "hard"])
@pytest.mark.parametrize("shares", [2, 3])
def test_a_share_of_the_interactions_draws_no_positive_of_another_one(negatives, shares):
    edges = torch.tensor([(u, i) for u in range(6) for i in range(8) if (u + i) % 3]).t()
    met = set(map(tuple, edges.t().tolist()))
    for rank in range(shares):
        sampler = TripletSampler(edges[:, rank::shares], 6, 8, negatives=negatives, known=edges)
        if sampler.wants_embeddings:
            from pyg_ckd.data import Embeddings

            sampler.update(Embeddings(torch.randn(6, 2), torch.randn(8, 2)))
        for _ in range(20):
            for batch in sampler:
                assert not met & set(zip(batch.user.tolist(), batch.negative.tolist(), strict=True))
