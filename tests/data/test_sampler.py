"""The triple sampler against brute force and against the uniform distribution."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from pyg_ckd.data import sampler as module
from pyg_ckd.data.sampler import TripletSampler
from pyg_ckd.errors import InputError


@st.composite
def interactions(draw) -> tuple[Tensor, int, int]:
    """Any bipartite graph in which at least one user who interacted has a negative; repetitions allowed."""
    users, items = draw(st.integers(1, 6)), draw(st.integers(2, 7))
    pair = st.tuples(st.integers(0, users - 1), st.integers(0, items - 1))
    pairs = [(draw(st.integers(0, users - 1)), 0), *draw(st.lists(pair, max_size=30))]
    owned = Counter(user for user, _ in set(pairs))
    if all(owned[user] == items for user in owned):
        pairs = [(user, item) for user, item in pairs if item != items - 1]
    return torch.tensor(pairs).t(), users, items


def saturated(edge_index: Tensor, items: int) -> set[int]:
    owned = Counter(user for user, _ in set(map(tuple, edge_index.t().tolist())))
    return {user for user, count in owned.items() if count == items}


@settings(max_examples=150, deadline=None)
@given(interactions(), st.integers(1, 9), st.integers(0, 2**31))
def test_epoch_holds_every_interaction_once_and_no_negative_is_a_positive(graph, batch_size, seed):
    edge_index, users, items = graph
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        sampler = TripletSampler(edge_index, users, items, batch_size, seed=seed)
    positives = set(map(tuple, edge_index.t().tolist()))
    full = saturated(edge_index, items)
    assert set(sampler.saturated_users.tolist()) == full
    seen: Counter[tuple[int, int]] = Counter()
    batches = list(sampler)
    for batch in batches:
        for user, positive, negative in zip(*(x.tolist() for x in batch[:3]), strict=True):
            assert 0 <= negative < items
            assert (user, negative) not in positives
            seen[user, positive] += 1
    assert seen == Counter(pair for pair in map(tuple, edge_index.t().tolist()) if pair[0] not in full)
    assert len(batches) == len(sampler)
    assert all(batch.user.numel() == batch_size for batch in batches[:-1])
    assert 1 <= batches[-1].user.numel() <= batch_size


def test_negatives_are_uniform_over_all_items_without_interaction():
    items = 12
    owned = {0: [], 1: [0, 1, 2, 3], 2: [11, 10, 5], 3: [0, 11], 4: [1, 3, 5, 7, 9, 11], 5: [6]}
    pairs = [(user, item) for user, own in owned.items() for item in own]
    sampler = TripletSampler(torch.tensor(pairs).t(), len(owned), items, seed=1)
    for user, own in owned.items():
        draws = sampler.sample_negatives(torch.full((20_000,), user))
        count = np.bincount(draws.numpy(), minlength=items)
        assert not count[own].any()
        rest = np.delete(count, own)
        assert chisquare(rest).pvalue > 1e-3, user


def test_user_with_all_items_but_one_always_gets_that_one():
    items = 50
    for missing in (0, 17, 49):
        own = torch.tensor([i for i in range(items) if i != missing])
        edge_index = torch.stack([torch.full_like(own, 3), own])
        negatives = TripletSampler(edge_index, 5, items).sample_negatives(torch.full((2000,), 3))
        assert negatives.eq(missing).all()


def test_saturated_users_are_reported_and_left_out():
    edge_index = torch.tensor([[0, 1, 1, 1, 2], [0, 0, 1, 2, 1]])
    with pytest.warns(UserWarning, match=r"1 users interacted with all 3 items .*first: user 1"):
        sampler = TripletSampler(edge_index, 3, 3)
    assert sampler.saturated_users.tolist() == [1]
    assert sorted(user for batch in sampler for user in batch.user.tolist()) == [0, 2]


def test_random_triples_are_uniform_over_users_and_items():
    sampler = TripletSampler(torch.tensor([[0], [0]]), 7, 5, num_random_triples=35_000, seed=2)
    user, first, second = sampler.sample_random()
    for draws, size in ((user, 7), (first, 5), (second, 5), (first * 5 + second, 25), (user * 5 + first, 35)):
        assert chisquare(np.bincount(draws.numpy(), minlength=size)).pvalue > 1e-3


def test_every_batch_carries_the_random_triples_that_were_asked_for():
    edge_index = torch.tensor([[0, 1, 2], [0, 1, 2]])
    for size in (0, 4):
        batches = list(TripletSampler(edge_index, 3, 4, batch_size=2, num_random_triples=size))
        assert [batch.user.numel() for batch in batches] == [2, 1]
        assert all(x.shape == (size,) and x.dtype == torch.int64 for batch in batches for x in batch[3:])


def test_same_seed_gives_the_same_batches_and_another_seed_others():
    generator = torch.Generator().manual_seed(0)
    edge_index = torch.randint(20, (2, 100), generator=generator)

    def epochs(seed: int) -> list[Tensor]:
        sampler = TripletSampler(edge_index, 20, 20, batch_size=30, num_random_triples=6, seed=seed)
        return [torch.cat(batch) for _ in range(2) for batch in sampler]

    first, again, other = epochs(5), epochs(5), epochs(6)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0], first[len(first) // 2])  # The second epoch is in another order.


def test_global_random_state_is_neither_read_nor_changed():
    edge_index = torch.tensor([[0, 1, 2], [0, 1, 2]])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = torch.cat(next(iter(TripletSampler(edge_index, 3, 9, seed=4))))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(first, torch.cat(next(iter(TripletSampler(edge_index, 3, 9, seed=4)))))


def test_nothing_to_draw_from_is_refused():
    with pytest.raises(InputError, match="found none that a negative item exists for"):
        TripletSampler(torch.zeros(2, 0, dtype=torch.int64), 3, 3)
    with pytest.raises(InputError, match="found none that a negative item exists for"):
        TripletSampler(torch.tensor([[0, 0], [0, 1]]), 3, 2)


def test_sizes_out_of_range_are_refused():
    edge_index = torch.tensor([[0], [0]])
    with pytest.raises(InputError, match="batch_size: found 0"):
        TripletSampler(edge_index, 1, 2, batch_size=0)
    with pytest.raises(InputError, match="num_random_triples: found -1"):
        TripletSampler(edge_index, 1, 2, num_random_triples=-1)


def long_graph(count: int) -> tuple[Tensor, int, int]:
    """Return distinct interactions sorted by user: 10 of each user."""
    number = torch.arange(count)
    return torch.stack([number // 10, number % 10]), -(-count // 10), 12


@pytest.mark.parametrize(("count", "batch_size", "block"), [(997, 100, 64), (997, 7, 256), (64, 64, 64), (5, 9, 10**6)])
def test_shuffled_blocks_hold_every_interaction_once_in_full_batches(monkeypatch, count, batch_size, block):
    monkeypatch.setattr(module, "_RUN", 16)
    graph = long_graph(count)
    sampler = TripletSampler(*graph, batch_size, shuffle="blocks", block=block)
    for _ in range(2):
        batches = list(sampler)
        pairs = torch.cat([torch.stack(batch[:2]) for batch in batches], dim=1).t().tolist()
        assert sorted(pairs) == graph[0].t().tolist() != pairs
        assert len(batches) == len(sampler)
        assert {batch.user.numel() for batch in batches[:-1]} <= {batch_size}


def test_with_blocks_every_interaction_is_as_likely_in_every_batch(monkeypatch):
    monkeypatch.setattr(module, "_RUN", 4)
    edge_index, users, items = long_graph(40)
    sampler = TripletSampler(edge_index, users, items, 10, shuffle="blocks", block=16)
    found = np.zeros((4, 40))
    together = np.zeros((40, 40))
    epochs = 4000
    for _ in range(epochs):
        for n, batch in enumerate(sampler):
            rows = (batch.user * 10 + batch.positive).numpy()
            found[n, rows] += 1
            together[np.ix_(rows, rows)] += 1
    assert chisquare(found.ravel(), np.full(160, epochs / 4)).pvalue > 1e-4
    same_run = together[0, 1:4].mean() / epochs
    # Of one run: 9 of 15 others of the block at most, where blocks and batches fall together; of two runs far less.
    assert same_run > 0.4 > together[0, 4:].mean() / epochs


def test_up_to_one_block_the_order_is_a_plain_permutation(monkeypatch):
    monkeypatch.setattr(module, "_RUN", 2)
    edge_index, users, items = long_graph(4)
    sampler = TripletSampler(edge_index, users, items, 4, shuffle="blocks", block=8)
    orders = Counter(tuple(next(iter(sampler)).positive.tolist()) for _ in range(4800))
    assert len(orders) == 24
    assert chisquare(list(orders.values())).pvalue > 1e-4


def test_an_epoch_of_blocks_repeats_with_its_seed_and_from_its_state():
    sampler, again = (TripletSampler(*long_graph(3000), 128, seed=3, shuffle="blocks", block=1024) for _ in range(2))
    list(sampler)
    state = sampler.generator.get_state()
    expected = [batch.user for batch in sampler]
    again.generator.set_state(state)
    assert all(torch.equal(a, b.user) for a, b in zip(expected, again, strict=True))


def test_by_users_all_that_a_user_met_comes_together_and_once():
    edge_index, users, items = long_graph(997)
    edge_index = edge_index[:, torch.randperm(997)]
    sampler = TripletSampler(edge_index, users + 3, items, 64, shuffle="users")
    orders = []
    for _ in range(2):
        batches = list(sampler)
        assert {batch.user.numel() for batch in batches[:-1]} == {64}
        assert len(batches) == len(sampler) == 16
        pairs = torch.cat([torch.stack(batch[:2]) for batch in batches], dim=1)
        assert sorted(pairs.t().tolist()) == sorted(edge_index.t().tolist())
        orders.append(pairs[0].unique_consecutive().tolist())
        assert sorted(orders[-1]) == list(range(users))
    assert orders[0] != orders[1]


def test_by_users_every_order_of_users_is_as_likely():
    edge_index = torch.tensor([[0, 1, 0, 2, 1, 3], [0, 1, 2, 3, 0, 1]])
    sampler = TripletSampler(edge_index, 4, 5, 6, shuffle="users")
    orders = Counter(tuple(next(iter(sampler)).user.unique_consecutive().tolist()) for _ in range(4800))
    assert len(orders) == 24
    assert chisquare(list(orders.values())).pvalue > 1e-4


def test_unknown_shuffles_and_small_blocks_are_refused():
    with pytest.raises(InputError, match="shuffle"):
        TripletSampler(*long_graph(20), shuffle="runs")
    with pytest.raises(InputError, match="block"):
        TripletSampler(*long_graph(20), shuffle="blocks", block=100)


PAIRS = torch.tensor([[0, 1], [0, 1]])
WRONG_PAIRS = {
    "list": ([[0], [1]], "found list, expected a tensor of integers"),
    "vector": (torch.tensor([0, 1]), r"found int64 \[2\], expected"),
    "floating": (PAIRS.float(), r"found float32 \[2, 2\], expected"),
    "truth values": (PAIRS.bool(), r"found bool \[2, 2\], expected"),
    "user": (torch.tensor([[9], [1]]), "found user 9, expected 0 to 1"),
    "item": (torch.tensor([[0], [-1]]), "found item -1, expected 0 to 2"),
}


@pytest.mark.parametrize(("wrong", "message"), WRONG_PAIRS.values(), ids=WRONG_PAIRS)
@pytest.mark.parametrize("name", ["edge_index", "known"])
def test_what_are_no_interactions_is_named(name: str, wrong: object, message: str) -> None:
    given = {"edge_index": PAIRS, name: wrong}
    with pytest.raises(InputError, match=f"^{name}: {message}"):
        TripletSampler(num_users=2, num_items=3, **given)


@pytest.mark.parametrize("name", ["batch_size", "num_random_triples", "num_negatives"])
def test_sizes_beyond_64_bits_are_named(name: str) -> None:
    with pytest.raises(InputError, match=f"^{name}: found 1000.*, expected an integer of 64 bits"):
        TripletSampler(PAIRS, 2, 3, **{name: 10**30})
