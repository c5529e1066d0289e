"""New users and new items, without training: better than popularity where the truth is known, bad input named."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd import Objective, Trainer
from pyg_ckd.data import RATES, Embeddings, build_data
from pyg_ckd.datasets import SyntheticMultimodal
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR, Backbone, EarlyFusionLightGCN
from pyg_ckd.serving import Recommender
from pyg_ckd.training import build

USERS, ITEMS, NEW_USERS, NEW_ITEMS, K = 500, 340, 100, 60, 20  # The new ones are not among USERS and ITEMS.


def held_out(seed: int) -> tuple[HeteroData, HeteroData, Tensor]:
    """Return the whole synthetic graph, the part that the model may see, and all interactions."""
    whole = SyntheticMultimodal(
        num_users=USERS + NEW_USERS, num_items=ITEMS + NEW_ITEMS, num_interactions=12000, seed=seed
    )[0]
    edges = torch.cat([whole[RATES][f"{split}edge_index"] for split in ("", "val_", "test_")], dim=1)
    known = edges[:, (edges[0] < USERS) & (edges[1] < ITEMS)]
    known = known[:, torch.randperm(known.size(1), generator=torch.Generator().manual_seed(seed))]
    features = {m: whole["item"][m][:ITEMS] for m in whole.modalities}
    cut = known.size(1) // 10
    part = build_data(known[:, cut:], features, val=known[:, :cut], num_users=USERS, num_items=ITEMS, transform="none")
    return whole, part, edges


def recall(lists: Iterable[Iterable[int]], truth: list[set[int]]) -> float:
    found = [len(set(map(int, row)) & t) / min(len(t), K) for row, t in zip(lists, truth, strict=True) if t]
    return sum(found) / len(found)


@pytest.fixture(scope="module", params=[(VBPR, 0), (EarlyFusionLightGCN, 1)], ids=["VBPR", "LightGCN"])
def trained(request: pytest.FixtureRequest) -> tuple[Recommender, HeteroData, Tensor]:
    backbone, seed = request.param
    whole, part, edges = held_out(seed)
    model = Objective(build(backbone, part, seed), l2=0.03)
    Trainer(max_epochs=15, lr=5e-3, seed=seed, track_views=False, progress=False).fit(model, part)
    return Recommender(model, part), whole, edges


def test_new_items_from_features_beat_even_their_future_popularity_by_half(trained) -> None:
    recommender, whole, edges = trained
    new = recommender.with_new_items({m: whole["item"][m][ITEMS:] for m in whole.modalities})
    future = edges[:, (edges[0] < USERS) & (edges[1] >= ITEMS)]
    truth: list[set[int]] = [set() for _ in range(USERS)]
    for user, item in future.t().tolist():
        truth[user].add(item)
    popular = torch.bincount(future[1], minlength=ITEMS + NEW_ITEMS).argsort(descending=True)[:K]
    lists = new.recommend(k=K, candidates=range(ITEMS, ITEMS + NEW_ITEMS)).items
    assert recall(lists, truth) > 1.5 * recall([popular.tolist()] * USERS, truth)


def test_new_users_from_a_list_of_items_beat_popularity_twice(trained) -> None:
    recommender, _, edges = trained
    theirs = edges[:, (edges[0] >= USERS) & (edges[1] < ITEMS)]
    histories, truth = [], []
    for user in range(USERS, USERS + NEW_USERS):
        items = theirs[1, theirs[0] == user]
        items = items[torch.randperm(items.numel(), generator=torch.Generator().manual_seed(user))].tolist()
        if len(items) > 1:
            histories.append(items[: len(items) // 2])
            truth.append(set(items[len(items) // 2 :]))
    new = recommender.with_new_users(histories)
    popular = torch.bincount(recommender.data[RATES].edge_index[1]).argsort(descending=True).tolist()
    baseline = recall([[i for i in popular if i not in set(h)][:K] for h in histories], truth)
    lists = new.recommend(range(USERS, USERS + len(histories)), K).items
    assert recall(lists, truth) > 2 * baseline
    for row, history in zip(lists, histories, strict=True):
        assert not set(row.tolist()) & set(history)


def test_a_known_item_that_comes_again_is_where_it_was(make_data) -> None:
    data = make_data(40, 30)
    model: Backbone = build(VBPR, data, 0)
    with torch.no_grad():
        model.item_embedding.zero_()  # What features say is then all there is.
    recommender = Recommender(model, data)
    again = recommender.with_new_items({m: data["item"][m][:5] for m in data.modalities}, transformed=True)
    torch.testing.assert_close(again.embeddings.item[30:], again.embeddings.item[:5], rtol=1e-2, atol=1e-3)
    assert torch.equal(again.embeddings.item[:30], recommender.embeddings.item)
    assert len(recommender.items) == 30


def small(make_data) -> tuple[Recommender, HeteroData]:
    data = make_data(12, 9)
    data.user_id = [f"u{n}" for n in range(12)]
    generator = torch.Generator().manual_seed(0)
    tables = Embeddings(torch.randn(12, 4, generator=generator), torch.randn(9, 4, generator=generator))
    return Recommender(tables, data), data


def test_raw_features_give_the_same_as_transformed_ones(make_data) -> None:
    recommender, data = small(make_data)
    raw = {m: 7 * data["item"][m] + 3 for m in data.modalities}
    a = recommender.with_new_items({m: data["item"][m][:2] for m in data.modalities}, transformed=True)
    b = recommender.with_new_items({m: x[:2] for m, x in raw.items()}, known_features=raw)
    torch.testing.assert_close(a.embeddings.item, b.embeddings.item, rtol=1e-4, atol=1e-5)


def test_a_modality_that_is_left_out_counts_as_average(make_data) -> None:
    recommender, data = small(make_data)
    mean = data["item"].mod1.mean(dim=0, keepdim=True)
    a = recommender.with_new_items({"mod0": data["item"].mod0[:1]}, transformed=True)
    b = recommender.with_new_items({"mod0": data["item"].mod0[:1], "mod1": mean}, transformed=True)
    torch.testing.assert_close(a.embeddings.item, b.embeddings.item)


def test_newcomers_are_served_like_all_others(make_data) -> None:
    recommender, data = small(make_data)
    both = recommender.with_new_items({m: data["item"][m][:2] for m in data.modalities})
    both = both.with_new_users([[10, 0], [3]], ["eve", "fay"])
    assert both.recommend(["fay", "u1", "eve"], 3).users.tolist() == ["fay", "u1", "eve"]
    assert both.recommend("eve", 9).items.shape == (1, 9)
    assert set(both.recommend("eve", 9).items[0].tolist()) == set(range(11)) - {0, 10}
    assert both.similar_items(10, 10).items.shape == (1, 10)
    more = both.with_new_users([[1]], ["gus"])
    assert np.array_equal(more.recommend("fay", 3).items, both.recommend("fay", 3).items)
    assert len(recommender.users) == 12
    both.model = build(VBPR, data, 0)
    with pytest.raises(InputError, match="user 'eve' was added without training"):
        both.explain("eve", 0)
    with pytest.raises(InputError, match="item 9 was added without training"):
        both.explain("u1", 9)


def test_the_map_of_new_users_is_learnt_once_and_again_after_what_it_rests_on(make_data) -> None:
    recommender, _ = small(make_data)
    both = recommender.with_new_users([[1], [2, 3]], ["x", "y"])
    assert recommender.user_map() is both.user_map()
    assert both.with_seen({"x": [4]}).user_map() is both.user_map()  # Who was not there in training taught nothing.
    after = both.with_seen({"u1": [4]})
    assert after.user_map() is not both.user_map()
    fresh = recommender.with_seen({"u1": [4]}).with_new_users([[5]], ["z"])
    torch.testing.assert_close(after.with_new_users([[5]], ["z"]).embeddings.user[-1], fresh.embeddings.user[-1])


def test_nothing_seen_is_nothing_and_unknown_items_are_named_with_the_user(make_data) -> None:
    recommender, _ = small(make_data)
    before = recommender.seen.pairs().unique(dim=1).tolist()
    for none in (None, [], ()):
        assert recommender.with_seen({"u0": none}).seen.pairs().unique(dim=1).tolist() == before
    more = recommender.with_seen({"u3": [0, 8], "u1": None, "u0": 5})
    pairs = set(zip(*before, strict=True)) | {(3, 0), (3, 8), (0, 5)}
    assert sorted(map(tuple, more.seen.pairs().t().tolist())) == sorted(pairs)
    with pytest.raises(InputError, match=r"^clicks of user 'u1': unknown item 77"):
        recommender.with_seen({"u0": [1], "u1": [77]})


def features(data: HeteroData, **other: object) -> dict[str, object]:
    return {m: data["item"][m][:2] for m in data.modalities} | other


BAD = {
    "unknown modality": (
        lambda r, d: r.with_new_items({"mod7": d["item"].mod0}),
        ["unknown modality 'mod7'", "'mod0'"],
    ),
    "no features": (lambda r, d: r.with_new_items({}), ["found no features"]),
    "columns": (lambda r, d: r.with_new_items(features(d, mod1=np.zeros((2, 9)))), ["'mod1'", "[2, 9]", "[2, 4]"]),
    "rows": (lambda r, d: r.with_new_items(features(d, mod1=np.zeros((3, 4)))), ["'mod1'", "[3, 4]", "[2, 4]"]),
    "NaN": (lambda r, d: r.with_new_items(features(d, mod1=np.full((2, 4), np.nan))), ["new items", "'mod1'", "row 0"]),
    "known rows": (
        lambda r, d: r.with_new_items(features(d), known_features={m: d["item"][m][:4] for m in d.modalities}),
        ["known items", "[4, 3]", "[9, 3]"],
    ),
    "known modality": (
        lambda r, d: r.with_new_items(features(d), known_features={"mod0": d["item"].mod0}),
        ["known items", "'mod1'"],
    ),
    "item ids": (lambda r, d: r.with_new_items(features(d), [8, 9]), ["item 8 is in the graph already"]),
    "user ids": (lambda r, d: r.with_new_users([[1], [2]]), ["new users: found no ids"]),
    "unknown item": (lambda r, d: r.with_new_users([[1, 99]], ["x"]), ["history 0: unknown item 99"]),
    "empty history": (lambda r, d: r.with_new_users([[1], []], ["x", "y"]), ["history 1 is empty"]),
    "mapping": (lambda r, d: r.with_new_users({"x": [1, 2]}), ["found a dict", "list(histories.values())"]),
    "frame": (
        lambda r, d: r.with_new_users(pd.DataFrame({"user": ["x"], "item": [1]})),
        ["found DataFrame", "groupby"],
    ),
    "flat list": (lambda r, d: r.with_new_users([1, 2], ["x", "y"]), ["found int as history 0", "[[1, 2]]"]),
    "flat array": (lambda r, d: r.with_new_users(np.array([1, 2]), ["x", "y"]), ["found int64 as history 0"]),
    "flat tensor": (lambda r, d: r.with_new_users(torch.tensor([1]), ["x"]), ["found Tensor as history 0"]),
    "no list": (lambda r, d: r.with_new_users(1, ["x"]), ["found int, expected a list"]),
    "no history": (lambda r, d: r.with_new_users([], []), ["found no history"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_line_that_names_the_place(case: str, make_data) -> None:
    call, words = BAD[case]
    with pytest.raises(InputError) as caught:
        call(*small(make_data))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
