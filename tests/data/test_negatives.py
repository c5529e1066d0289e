"""Negatives by popularity and by score against brute force."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from pyg_ckd.data.negatives import PopularityNegatives, Positives, SharedNegatives, popularity_weight, softmax_size
from pyg_ckd.data.sampler import TripletSampler
from pyg_ckd.errors import InputError
from pyg_ckd.scoring.embeddings import Embeddings
from tests.data.test_sampler import interactions

OWNED = {0: [], 1: [0, 1, 2, 3], 2: [11, 10, 5], 3: [0, 11], 4: [1, 3, 5, 7, 9, 11], 5: [6], 6: [0, 1, 3], 7: [0, 11]}
ITEMS = 13  # Items 4, 8 and 12 have no interaction.


def owned_edges() -> torch.Tensor:
    pairs = [(user, item) for user, own in OWNED.items() for item in own]
    return torch.tensor(pairs + pairs[:4]).t()  # Repetitions count once.


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.75, 1.0, 3.0])
def test_negatives_by_popularity_follow_the_powers_of_the_counts_without_the_users_own_items(alpha):
    count = Counter(item for own in OWNED.values() for item in own)
    weight = np.array([max(count[item], 1) ** alpha for item in range(ITEMS)])
    sampler = TripletSampler(owned_edges(), len(OWNED), ITEMS, seed=3, negatives="popularity", alpha=alpha)
    for user, own in OWNED.items():
        draws = sampler.sample_negatives(torch.full((30_000,), user))
        found = np.bincount(draws.numpy(), minlength=ITEMS)
        assert not found[own].any()
        rest, expected = np.delete(found, own), np.delete(weight, own)
        assert chisquare(rest, expected / expected.sum() * rest.sum()).pvalue > 1e-3, user


@settings(max_examples=100, deadline=None)
@given(interactions(), st.sampled_from([0.0, 0.75, 1.0, 40.0]), st.integers(0, 2**31))
def test_no_negative_by_popularity_or_score_is_a_positive(graph, alpha, seed):
    edge_index, users, items = graph
    positives = set(map(tuple, edge_index.t().tolist()))
    tables = Embeddings(torch.randn(users, 2), torch.randn(items, 2))
    for options in ({"negatives": "popularity", "alpha": alpha}, {"negatives": "hard", "candidates": 3}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            sampler = TripletSampler(edge_index, users, items, 4, seed=seed, **options)
        sampler.update(tables)
        for batch in sampler:
            for user, negative in zip(batch.user.tolist(), batch.negative.tolist(), strict=True):
                assert 0 <= negative < items
                assert (user, negative) not in positives


def test_every_point_of_the_line_falls_into_the_item_that_lies_there():
    """Walks over all points of a short line, as the draws of one user would hit them."""
    edge_index = torch.tensor([[0, 0, 1, 1, 1, 2], [1, 3, 0, 3, 4, 3]])
    drawn = PopularityNegatives(Positives(edge_index, 3, 6), alpha=1.0)
    unit = 2**18
    for user, own in {0: {1, 3}, 1: {0, 3, 4}, 2: {3}}.items():
        free = int(drawn._free[user])
        points = torch.arange(0, free, max(1, free // unit), dtype=torch.float64)

        original = torch.rand
        try:
            torch.rand = lambda n, **kw: points / free  # noqa: B023
            items = drawn.draw(torch.full((points.numel(),), user), None)
        finally:
            torch.rand = original
        share = np.bincount(items.numpy(), minlength=6) / points.numel()
        weight = np.array([0.0 if item in own else {3: 3.0}.get(item, 1.0) for item in range(6)])
        np.testing.assert_allclose(share, weight / weight.sum(), atol=1e-4)
        assert (items.diff() >= 0).all()


def test_many_users_and_skewed_items_stay_within_whole_numbers():
    generator = torch.Generator().manual_seed(0)
    users, items = 200_000, 50_000
    item = (torch.rand(400_000, generator=generator) ** 6 * items).long()
    edge_index = torch.stack([torch.randint(users, (400_000,), generator=generator), item])
    sampler = TripletSampler(edge_index, users, items, 4096, negatives="popularity", alpha=1.0)
    known = set((edge_index[0] * items + edge_index[1]).tolist())
    for batch, _ in zip(sampler, range(5), strict=False):
        assert not known & set((batch.user * items + batch.negative).tolist())
        assert int(batch.negative.min()) >= 0
        assert int(batch.negative.max()) < items
    own = np.unique(edge_index.numpy(), axis=1)
    weight = np.maximum(np.bincount(own[1], minlength=items), 1).astype(float)
    top = weight.argsort()[-1000:]
    of_top = np.isin(own[1], top)
    lost = np.bincount(own[0], weight[own[1]], minlength=users)
    lost_of_top = np.bincount(own[0][of_top], weight[own[1][of_top]], minlength=users)
    expected = ((weight[top].sum() - lost_of_top) / (weight.sum() - lost)).mean()
    draws = sampler.sample_negatives(torch.arange(users)).numpy()
    assert np.isin(draws, top).mean() == pytest.approx(expected, abs=0.005)  # Four standard deviations.


def test_a_hard_negative_is_the_best_scored_of_its_candidates():
    edge_index, users = owned_edges(), torch.tensor([1, 2, 4, 4, 6, 0])
    generator = torch.Generator().manual_seed(1)
    tables = Embeddings(torch.randn(8, 3, generator=generator), torch.randn(ITEMS, 3, generator=generator))
    hard = TripletSampler(edge_index, 8, ITEMS, seed=7, negatives="hard", candidates=5)
    uniform = TripletSampler(edge_index, 8, ITEMS, seed=7)
    hard.update(tables)
    found = hard.sample_negatives(users)
    candidates = uniform.sample_negatives(users.repeat_interleave(5)).view(-1, 5)
    for user, own, negative in zip(users.tolist(), candidates.tolist(), found.tolist(), strict=True):
        assert negative == max(own, key=lambda item: float(tables.user[user] @ tables.item[item]))


def test_many_candidates_find_the_best_item_that_is_no_positive():
    tables = Embeddings(torch.ones(8, 1), torch.arange(float(ITEMS)).view(-1, 1))
    sampler = TripletSampler(owned_edges(), 8, ITEMS, negatives="hard", candidates=500)
    sampler.update(tables)
    assert sampler.sample_negatives(torch.tensor([1, 2, 4])).eq(ITEMS - 1).all()


@pytest.mark.parametrize("kind", ["popularity", "hard"])
def test_the_same_seed_gives_the_same_bits_and_a_stored_generator_goes_on(kind):
    tables = Embeddings(torch.randn(8, 2), torch.randn(ITEMS, 2))

    def sampler(seed: int) -> TripletSampler:
        made = TripletSampler(owned_edges(), 8, ITEMS, 5, seed=seed, negatives=kind)
        made.update(tables)
        return made

    def epoch(made: TripletSampler) -> torch.Tensor:
        return torch.cat([batch.negative for batch in made])

    first, again, other = sampler(1), sampler(1), sampler(2)
    assert torch.equal(epoch(first), epoch(again))
    assert not torch.equal(epoch(other), epoch(again))
    later = sampler(9)
    later.generator.set_state(first.generator.get_state())
    assert torch.equal(epoch(first), epoch(later))


def test_bad_options_are_refused():
    edges = owned_edges()
    with pytest.raises(InputError, match="unknown kind of negatives 'popular': did you mean 'popularity'"):
        TripletSampler(edges, 8, ITEMS, negatives="popular")
    for alpha in (-0.1, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"alpha: found {alpha}, expected a finite number of zero or more"):
            TripletSampler(edges, 8, ITEMS, negatives="popularity", alpha=alpha)
    with pytest.raises(InputError, match="candidates: found 0, expected at least 1"):
        TripletSampler(edges, 8, ITEMS, negatives="hard", candidates=0)
    with pytest.raises(InputError, match="found 'hard' before any embeddings"):
        next(iter(TripletSampler(edges, 8, ITEMS, negatives="hard")))


def test_items_that_a_batch_shares_follow_their_weights_and_tell_how_probable_they_were():
    weight = popularity_weight(Positives(owned_edges(), len(OWNED), ITEMS).popularity(), 0.5)
    count = Counter(item for own in OWNED.values() for item in own)
    expected = np.array([max(count[item], 1) ** 0.5 for item in range(ITEMS)])
    torch.manual_seed(0)
    assert SharedNegatives(ITEMS, weight).draw(ITEMS, torch.device("cpu")) is None  # As many as there are: all of them.
    for rows in (None, torch.tensor([3, 0, 8, 11])):  # Of a subgraph, by its own row numbers.
        of = expected if rows is None else expected[rows.numpy()]
        shared = SharedNegatives(of.size - 1, weight)
        pairs = [shared.draw(of.size, torch.device("cpu"), rows) for _ in range(3_000)]
        drawn, log_q = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        assert chisquare(np.bincount(drawn, minlength=of.size), of / of.sum() * drawn.numel()).pvalue > 1e-3
        torch.testing.assert_close(log_q, torch.from_numpy(np.log(of / of.mean()))[drawn])


def test_a_softmax_is_over_all_items_as_long_as_they_are_few():
    assert [softmax_size(*x) for x in ((None, 20_000), (None, 20_001), (7, 5), (7, 10**6))] == [None, 4096, 7, 7]
