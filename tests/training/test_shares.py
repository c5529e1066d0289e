"""Shares of interactions know the positives of the others, and shares of a batch the batch."""

from __future__ import annotations

import pytest
import torch

from pyg_ckd.data import TripletBatch, TripletSampler
from pyg_ckd.processes import ALONE, Processes


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


class Unsummed(Processes):
    """One of several processes that gets back what it gave."""

    def total(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize("kind", ["run", "any"])
def test_values_of_the_shares_of_a_batch_are_gathered_in_its_order_with_gradient(kind):
    whole = TripletBatch(*torch.randint(9, (3, 7)), *torch.randint(9, (3, 4)))
    rows = [slice(0, 4), slice(4, 7), slice(7, 7)]
    if kind == "any":
        order = torch.randperm(7)
        rows = [order[chosen] for chosen in rows]
    values, known = torch.randn(7, 2), torch.rand(7) < 0.5
    found, counted = torch.zeros(7, 2), torch.zeros(7, dtype=torch.bool)
    for rank, chosen in enumerate(rows):
        share = whole.shared(chosen, slice(rank, rank + 1), Unsummed(rank, 3)).weighted(torch.ones(len(values[chosen])))
        assert share.whole is whole
        assert torch.equal(share.own(values), values[chosen])
        own = values[chosen].clone().requires_grad_()
        gathered = share.gathered(own)
        (gathered * values).sum().backward()
        assert torch.equal(own.grad, values[chosen])
        found += gathered.detach()
        counted |= share.gathered(known[chosen])
    assert torch.equal(found, values)
    assert torch.equal(counted, known)


def test_a_batch_of_one_process_is_whole():
    batch, values = TripletBatch(*torch.randint(9, (6, 5))), torch.randn(5)
    for alone in (batch, batch.weighted(torch.rand(5)), batch.shared(slice(0, 5), slice(0, 5), ALONE)):
        assert alone.whole is alone
        assert alone.own(values) is values
        assert alone.gathered(values) is values
    few = batch.shared(slice(0, 2), slice(0, 5), ALONE).weighted(torch.rand(2))
    assert few.whole.user.numel() == 2


@pytest.mark.parametrize("known", [None, torch.tensor([[True, False, True], [False, False, False]])])
def test_means_over_random_triples_are_of_every_loss(known):
    batch, loss = TripletBatch(*torch.randint(9, (6, 3))), torch.randn(2, 3)
    expected = [batch.mean_of_random(row, None if known is None else known[n]) for n, row in enumerate(loss)]
    torch.testing.assert_close(batch.mean_of_random(loss, known), torch.stack(expected), atol=1e-6, rtol=0)
    one = batch.shared(slice(0, 3), slice(0, 3), Unsummed(0, 2))
    torch.testing.assert_close(one.mean_of_random(loss, known), torch.stack(expected), atol=1e-6, rtol=0)
