"""Recommendations agree with the ranking that is evaluated and with brute force, and bad input is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_ckd.data import Embeddings, unpack
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation.ranking import Evaluator
from pyg_ckd.nn import VBPR, Backbone
from pyg_ckd.serving import Recommender
from pyg_ckd.training import build
from pyg_ckd.training.model import save_model
from tests.nn.models.zoo import built, every_backbone

USERS, ITEMS = 12, 9


def named(data: HeteroData) -> HeteroData:
    data.user_id = [f"u{n}" for n in range(USERS)]
    data.item_id = torch.arange(ITEMS) * 10 + 100
    return data


def tables(width: int = 4, seed: int = 0) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    return Embeddings(torch.randn(USERS, width, generator=generator), torch.randn(ITEMS, width, generator=generator))


@pytest.fixture
def data(make_data) -> HeteroData:
    return named(make_data(USERS, ITEMS))


def met(data: HeteroData, user: int, splits: tuple[str, ...] = ("", "val_", "test_")) -> set[int]:
    edges = [data["user", "rates", "item"][f"{split}edge_index"] for split in splits]
    return {int(i) for e in edges for u, i in e.t().tolist() if u == user}


def brute_force(data: HeteroData, user: int, k: int, seen: set[int], among: set[int]) -> list[int]:
    scores = tables().user[user] @ tables().item.t()
    best = [i for i in scores.argsort(descending=True).tolist() if i not in seen and i in among][:k]
    return [100 + 10 * i for i in best] + [-1] * (k - len(best))


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("candidates", [None, [180, 100, 130, 160, 100, 150]])
def test_lists_are_those_of_a_loop(data, exclude_seen: bool, candidates) -> None:
    among = set(range(ITEMS)) if candidates is None else {(c - 100) // 10 for c in candidates}
    got = Recommender(tables(), data).recommend(["u3", "u0", "u7"], 4, exclude_seen, candidates)
    assert got.users.tolist() == ["u3", "u0", "u7"]
    for row, user in enumerate([3, 0, 7]):
        seen = met(data, user) if exclude_seen else set()
        assert got.items[row].tolist() == brute_force(data, user, 4, seen, among)
        for item, score in zip(got.items[row], got.scores[row], strict=True):
            expected = -np.inf if item < 0 else float(tables().user[user] @ tables().item[(item - 100) // 10])
            assert score == pytest.approx(expected, abs=1e-6)


def test_with_training_items_seen_the_lists_are_those_that_are_evaluated(data) -> None:
    ranked = Evaluator(data, "test", (5,)).rank(tables())
    got = Recommender(tables(), data, seen=("train",)).recommend(k=5)
    assert np.array_equal(got.items, np.where(ranked < 0, -1, 100 + 10 * ranked))


def test_one_user_and_all_users_get_the_same(data) -> None:
    recommender = Recommender(tables(), data)
    everyone = recommender.recommend(k=3)
    assert len(everyone) == USERS
    for row, user in enumerate(data.user_id):
        assert np.array_equal(recommender.recommend(user, 3).items[0], everyone.items[row])


def test_the_frame_has_a_row_per_recommended_item(data) -> None:
    got = Recommender(tables(), data).recommend(["u1", "u2"], ITEMS)
    frame = got.to_frame()
    assert list(frame.columns) == ["user", "rank", "item", "score"]
    assert len(frame) == int((got.items >= 0).sum()) == sum(ITEMS - len(met(data, u)) for u in (1, 2))
    assert frame[frame.user == "u2"]["rank"].tolist() == [*range(1, 1 + ITEMS - len(met(data, 2)))]


def test_without_ids_rows_are_ids(make_data) -> None:
    got = Recommender(tables(), make_data(USERS, ITEMS)).recommend([3], 2)
    assert got.items.tolist() == [
        [
            (i - 100) // 10
            for i in brute_force(make_data(USERS, ITEMS), 3, 2, met(make_data(USERS, ITEMS), 3), set(range(ITEMS)))
        ]
    ]


def test_similar_items_have_the_largest_cosine_and_are_others(data) -> None:
    got = Recommender(tables(), data).similar_items([120, 180], 3)
    item = torch.nn.functional.normalize(tables().item, dim=1)
    for row, i in enumerate([2, 8]):
        cosine = item @ item[i]
        cosine[i] = -2
        assert got.items[row].tolist() == (100 + 10 * cosine.argsort(descending=True)[:3]).tolist()
    assert list(got.to_frame().columns) == ["item", "rank", "similar", "score"]


def test_who_has_met_every_candidate_gets_empty_slots_beside_others_and_an_error_alone(data) -> None:
    recommender = Recommender(tables(), data)
    candidates = [100 + 10 * i for i in met(data, 5)]
    others = [u for u in range(USERS) if met(data, u).isdisjoint(met(data, 5)) or met(data, 5) - met(data, u)]
    both = recommender.recommend(["u5", f"u{others[0]}"], 2, candidates=candidates)
    assert both.items[0].tolist() == [-1, -1]
    assert both.items[1, 0] >= 0
    with pytest.raises(InputError, match=f"user 'u5' has seen every one of the {len(candidates)} candidates"):
        recommender.recommend("u5", 2, candidates=candidates)
    assert recommender.recommend("u5", 2, exclude_seen=False, candidates=candidates).items.min() >= 100


BAD: dict[str, tuple[Any, list[str]]] = {
    "unknown user": (lambda r: r.recommend("u33"), ["unknown user 'u33'", "'u3'"]),
    "unknown item": (lambda r: r.similar_items(121, 2), ["unknown item 121", "120"]),
    "unknown candidate": (lambda r: r.recommend("u1", 1, candidates=[100, 7]), ["unknown item 7", "100"]),
    "no candidate": (lambda r: r.recommend("u1", 1, candidates=[]), ["candidates: found none"]),
    "k = 0": (lambda r: r.recommend("u1", 0), ["k: found 0, expected 1 to 9, the number of items"]),
    "k < 0": (lambda r: r.recommend("u1", -3), ["k: found -3"]),
    "k too large": (lambda r: r.recommend("u1", 10), ["k: found 10, expected 1 to 9"]),
    "k above the candidates": (
        lambda r: r.recommend("u1", 3, candidates=[100, 110]),
        ["found 3, expected 1 to 2, the number of candidates"],
    ),
    "similar k": (lambda r: r.similar_items(100, ITEMS), ["k: found 9, expected 1 to 8"]),
    "explain without model": (lambda r: r.explain("u1", 100), ["explain: found embeddings only"]),
    "explain sizes": (lambda r: r.explain(["u1", "u2"], [100, 110, 120]), ["2 users and 3 items"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_line_that_names_the_place(case: str, data) -> None:
    call, words = BAD[case]
    with pytest.raises(InputError) as caught:
        call(Recommender(tables(), data))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_tables_that_do_not_fit_are_refused(data) -> None:
    user, item = tables()
    with pytest.raises(InputError, match=r"item embeddings: found shape \[8, 4\], expected \[9, D\]"):
        Recommender(Embeddings(user, item[:8]), data)
    with pytest.raises(InputError, match="user embeddings: found NaN"):
        Recommender(Embeddings(user.log(), item), data)
    with pytest.raises(InputError, match="'test'"):
        Recommender(tables(), data, seen=("tset",))


def test_half_precision_is_searched_in_single(data) -> None:
    half = Embeddings(*(table.bfloat16() for table in tables()))
    got = Recommender(half, data).recommend(k=3)
    assert got.scores.dtype == np.float32
    expected = Recommender(Embeddings(*(table.float() for table in half)), data).recommend(k=3)
    assert np.array_equal(got.items, expected.items)


@every_backbone
def test_the_shares_of_every_backbone_sum_to_the_score(make, make_data) -> None:
    data = named(make_data(USERS, ITEMS, 3)).apply(lambda x: x.double() if x.is_floating_point() else x)
    model = built(make, data)
    recommender = Recommender(model, data)
    lists = recommender.recommend(k=4, exclude_seen=False)
    got = recommender.explain(np.repeat(lists.users, 4), lists.items.reshape(-1))
    assert got.names == ("id", "mod0", "mod1", "mod2")
    np.testing.assert_allclose(got.shares.sum(axis=1), got.scores, atol=1e-6)
    np.testing.assert_allclose(got.scores, lists.scores.reshape(-1), atol=1e-6)


def test_in_single_precision_the_shares_sum_to_the_score(data) -> None:
    recommender = Recommender(build(VBPR, data, 0), data)
    lists = recommender.recommend("u2", 4, exclude_seen=False)
    got = recommender.explain("u2", lists.items[0])
    np.testing.assert_allclose(got.shares.sum(axis=1), lists.scores[0], atol=1e-6)
    frame = got.to_frame()
    assert list(frame.columns) == ["user", "item", "score", "share_id", "share_mod0", "share_mod1"]
    assert frame.user.tolist() == ["u2"] * 4


def test_the_shares_of_vbpr_are_the_scores_of_its_blocks_less_those_of_the_means(data) -> None:
    model = build(VBPR, data, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    got = Recommender(model, data).explain("u4", 130)
    features, _ = unpack(data)
    with torch.no_grad():
        for column, m in enumerate(data.modalities, 1):
            item = model.project[m](features[m])
            block = model.preference[m][4] @ item[3] - model.preference[m].mean(0) @ item.mean(0)
            assert got.shares[0, column] == pytest.approx(float(block), abs=1e-4)


def test_a_model_is_served_as_it_was_saved(data, tmp_path) -> None:
    model = build(VBPR, data, 0)
    save_model(tmp_path / "model.pt", model, data)
    got = Recommender.load(tmp_path / "model.pt", data, device="cpu")
    assert isinstance(got.model, Backbone)
    expected = Recommender(model, data)
    assert torch.equal(got.embeddings.user, expected.embeddings.user)
    assert np.array_equal(got.recommend(k=3).items, expected.recommend(k=3).items)
    with pytest.raises(InputError, match="found no such file"):
        Recommender.load(tmp_path / "other.pt", data)


@pytest.mark.parametrize("k", [2.5, "3", None, True, -1])
def test_a_number_of_items_that_is_none_is_refused(data, k) -> None:
    recommender = Recommender(tables(), data)
    for ask in (lambda: recommender.recommend("u1", k), lambda: recommender.similar_items(100, k)):
        with pytest.raises(InputError, match=r"k: found .* expected 1 to [89], the number of"):
            ask()
    assert recommender.recommend("u1", np.int64(2)).items.shape == (1, 2)


def test_tables_of_different_widths_or_types_are_refused(data) -> None:
    user, item = tables()
    for bad in (Embeddings(user, item[:, :3]), Embeddings(user.double(), item), Embeddings(user.long(), item.long())):
        with pytest.raises(InputError, match=r"(user|item) embeddings: found torch\.\w+ of width \d, expected"):
            Recommender(bad, data)


def test_a_device_that_computes_nothing_is_refused(data, tmp_path) -> None:
    save_model(tmp_path / "model.pt", VBPR.from_data(data), data)
    with pytest.raises(InputError, match="device: found 'meta', which cannot be used here"):
        Recommender.load(tmp_path / "model.pt", data, device="meta")


class OwnTables(torch.nn.Module):
    """Returns its parameters themselves, users and items side by side in one table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(USERS + ITEMS, 4))

    def forward(self, x_dict, edge_index):
        return self.table[:USERS], self.table[USERS:]


@pytest.mark.parametrize("kind", ["module", "tables", "tensors", "arrays"])
def test_a_recommender_keeps_its_tables_whatever_becomes_of_those_that_it_was_made_of(kind, data):
    module = OwnTables()
    user, item = (x.detach() for x in module(None, None))
    given = {
        "module": module,
        "tables": Embeddings(user, item),
        "tensors": (user, item),
        "arrays": (user.numpy(), item.numpy()),
    }
    recommender = Recommender(given[kind], data)
    before = [x.clone() for x in recommender.embeddings]
    module.table.data += 1
    assert all(torch.equal(x, y) for x, y in zip(recommender.embeddings, before, strict=True))


def test_sparse_tables_are_refused(data) -> None:
    with pytest.raises(
        InputError, match=r"^embeddings: found sparse tensors, expected dense ones; pass table.to_dense"
    ):
        Recommender(tuple(table.to_sparse() for table in tables()), data)
