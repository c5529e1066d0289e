"""What lists are chosen from: per user, without some, by columns, and with variety; against loops."""

from __future__ import annotations

import gzip
import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import ease
from pyg_ckd.serving import ItemIndex, NeighbourhoodRecommender, Recommender
from pyg_ckd.serving import diversity as varied
from pyg_ckd.serving.diversity import list_similarity, mmr, shared_items
from tests.serving.test_recommender import ITEMS, USERS, met, named, tables

COLUMNS = pd.DataFrame(
    {
        "kind": ["shoe", "hat", "shoe", "bag", "hat", "shoe", "bag", None, "shoe"],
        "price": [10.0, 20, 30, 40, 50, 60, 70, 80, 90],
        "item": np.arange(ITEMS) * 10 + 100,
    }
).sample(frac=1, random_state=0)


@pytest.fixture
def data(make_data) -> HeteroData:
    return named(make_data(USERS, ITEMS))


def loop(data: HeteroData, user: int, k: int, among: set[int], exclude_seen: bool) -> list[int]:
    seen = met(data, user) if exclude_seen else set()
    scores = tables().user[user] @ tables().item.t()
    best = [i for i in scores.argsort(descending=True).tolist() if i in among and i not in seen][:k]
    return [100 + 10 * i for i in best] + [-1] * (k - len(best))


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("more", [{}, {"where": {"price": lambda x: x < 75}}], ids=["alone", "with_where"])
def test_candidates_and_exclusions_of_every_user(data, exclude_seen: bool, more) -> None:
    source = Recommender(tables(), data, columns=COLUMNS)
    candidates = {"u3": [100, 120, 160, 180], "u0": [110, 110], "u7": range(100, 190, 10)}
    exclude = {"u7": [130, 140], "u1": [100]}
    got = source.recommend(["u3", "u0", "u7", "u1"], 4, exclude_seen, candidates, exclude, **more)
    below = {i for i in range(ITEMS) if not more or i < 7}
    for row, name in enumerate(["u3", "u0", "u7", "u1"]):
        among = {(c - 100) // 10 for c in candidates.get(name, [])} - {(c - 100) // 10 for c in exclude.get(name, [])}
        assert got.items[row].tolist() == loop(data, int(name[1:]), 4, among & below, exclude_seen)


def test_items_that_nobody_gets(data) -> None:
    got = Recommender(tables(), data).recommend(k=5, exclude_seen=False, exclude=[100, 150])
    for user in range(USERS):
        assert got.items[user].tolist() == loop(data, user, 5, set(range(ITEMS)) - {0, 5}, False)


@pytest.mark.parametrize(
    ("where", "among"),
    [
        ({"kind": "shoe"}, {0, 2, 5, 8}),
        ({"kind": ["hat", "bag"]}, {1, 3, 4, 6}),
        ({"kind": "shoe", "price": lambda x: x > 25}, {2, 5, 8}),
        ({"kind": lambda x: x.isna()}, {7}),
    ],
    ids=["value", "list", "function", "missing"],
)
def test_filters_by_a_column(data, where, among: set[int]) -> None:
    got = Recommender(tables(), data, columns=COLUMNS).recommend(k=1, exclude_seen=False, where=where)
    for user in range(USERS):
        assert got.items[user].tolist() == loop(data, user, 1, among, False)
    again = Recommender(tables(), data).with_columns(COLUMNS.set_index("item"))
    assert np.array_equal(again.recommend(k=1, exclude_seen=False, where=where).items, got.items)


def test_what_cannot_be_chosen_from_is_named(data) -> None:
    plain, source = Recommender(tables(), data), Recommender(tables(), data, columns=COLUMNS)
    tagged = Recommender(tables(), data, columns=COLUMNS.assign(tags=[["a"]] * len(COLUMNS)))
    for call, words in (
        (lambda: plain.recommend(k=1, where={"kind": "shoe"}), "no columns of items"),
        (lambda: source.recommend(k=1, where={"king": "shoe"}), r"unknown column of items 'king': did you mean 'kind'"),
        (lambda: source.recommend(k=1, where={"kind": "shoes"}), r"no item has kind = 'shoes'; it is, for instance, '"),
        (lambda: source.recommend(k=1, where={"price": lambda x: x * 2}), r"returned float64 .* expected bool \[9\]"),
        (lambda: source.recommend(k=1, candidates=[100], where={"kind": "hat"}), "found no item that candidates"),
        (lambda: source.recommend(k=1, candidates={"u99": [100]}), "candidates: unknown user 'u99'"),
        (lambda: source.recommend(k=1, exclude={"u1": [1]}), "exclude of user 'u1': unknown item 1"),
        (lambda: source.recommend("u2", 1, candidates={"u1": [100]}), "nothing left among the 9 items"),
        (lambda: source.recommend(k=1, diversity=1.5), r"diversity: found 1\.5, expected 0 \(none\) to 1"),
        (lambda: source.recommend(k=1, unknown="random"), "unknown way with unknown users 'random'"),
        (lambda: Recommender(tables(), data, columns=[1]), "columns: found list, expected a data frame"),
        (lambda: source.recommend(k=1, where=["kind"]), r"where: found \['kind'\] \(list\), expected a mapping"),
        (lambda: source.recommend(k=1, where={"price": lambda x: x < "a"}), "function of 'price' raised TypeError"),
        (lambda: tagged.recommend(k=1, where={"tags": "a"}), "'tags' or what it shall be holds values that cannot"),
        (lambda: plain.with_columns(pd.DataFrame({"name": ["a"]})), "columns: found no item of the graph in the index"),
        (lambda: plain.with_columns(pd.concat([COLUMNS, COLUMNS[:1]])), r"columns: found item \d+ twice"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("diversity", [0.0, 0.3, 0.7, 1.0])
def test_diverse_lists_are_those_of_a_loop(diversity: float) -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(30, 4, generator=generator)
    scores, items = (torch.randn(5, 4, generator=generator) @ table.t()).topk(12, dim=1)
    scores[3, 2:], items[3, 2:] = -torch.inf, -1
    got = mmr(scores, items, table, 6, diversity)
    unit = torch.nn.functional.normalize(table)
    for row in range(5):
        pool = [(float(s), int(i)) for s, i in zip(scores[row], items[row], strict=True) if i >= 0]
        low, high = pool[-1][0], pool[0][0]
        chosen: list[int] = []
        while len(chosen) < min(6, len(pool)):
            worth = {
                i: (1 - diversity) * (s - low) / (high - low)
                - (diversity * max(float(unit[i] @ unit[j]) for j in chosen) if chosen else 0)
                for s, i in pool
                if i not in chosen
            }
            chosen.append(max(worth, key=lambda i: worth[i]))
        assert got[1][row].tolist() == chosen + [-1] * (6 - len(chosen))
    cosine = unit[got[1][0]] @ unit[got[1][0]].t()
    expected = (cosine.sum() - cosine.diagonal().sum()) / 30
    assert float(list_similarity(got[1], table)[0]) == pytest.approx(float(expected), abs=1e-5)


def test_the_trade_off_falls_from_the_best_lists_to_diverse_ones(data) -> None:
    source = Recommender(tables(), data)
    shown = source.trade_off(3, exclude_seen=False)
    assert shown.loc[0.0, ["relevance", "kept"]].tolist() == [1.0, 1.0]
    assert (np.diff(shown.similarity) < 1e-6).all()
    assert shown.similarity.iloc[-1] < shown.similarity.iloc[0] - 0.1
    assert (shown.relevance <= 1 + 1e-9).all()
    assert shown.relevance.iloc[-1] < 1
    assert source.recommend(k=3, diversity=0.0).items.tolist() == source.recommend(k=3).items.tolist()
    with pytest.raises(InputError, match="diversity: found weights between items"):
        NeighbourhoodRecommender(ease(data, ridge=1), data).recommend(k=3, diversity=0.5)


def test_all_lists_are_worth_the_same_where_all_scores_are_equal(data) -> None:
    found = tables()
    indifferent = found._replace(user=torch.zeros_like(found.user))
    shown = Recommender(indifferent, data).trade_off(3, [0.0, 0.5], exclude_seen=False)
    assert shown.relevance.tolist() == [1.0, 1.0]


def test_weights_between_items_take_candidates_of_every_user(data) -> None:
    source = NeighbourhoodRecommender(ease(data, ridge=1), data, columns=COLUMNS)
    everything = source.recommend(["u3"], ITEMS, exclude_seen=False)
    allowed = [110, 150, 170]
    got = source.recommend(["u3"], 2, False, {"u3": allowed}, {"u3": [170]})
    assert got.items[0].tolist() == [i for i in everything.items[0].tolist() if i in allowed and i != 170]


def test_unknown_users_get_popular_items_and_are_marked(data) -> None:
    source = Recommender(tables(), data)
    count = torch.bincount(data["user", "rates", "item"].edge_index[1], minlength=ITEMS)
    with pytest.warns(UserWarning, match=r"2 of 3 users are unknown \(first: 'new'\); they get the items with most"):
        got = source.recommend(["new", "u4", "other"], 4, candidates=range(110, 190, 10), unknown="popular")
    assert got.fallback.tolist() == [True, False, True]
    assert got.items[1].tolist() == source.recommend("u4", 4, candidates=range(110, 190, 10)).items[0].tolist()
    best = count[1:].argsort(descending=True, stable=True)[:4] + 1
    assert got.items[0].tolist() == (best * 10 + 100).tolist()
    assert got.scores[0].tolist() == count[best].tolist()
    frame = got.to_frame()
    assert frame["from"].tolist() == ["popularity"] * 4 + ["model"] * (len(frame) - 8) + ["popularity"] * 4
    assert source.recommend(["u4"], 4, unknown="popular").fallback is None


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".csv.gz"])
def test_compressed_and_json_exports_hold_the_lists(suffix: str, data, tmp_path) -> None:
    source = Recommender(tables(), data, columns=COLUMNS)
    options = {"where": {"kind": "shoe"}, "exclude": [120], "diversity": 0.2}
    path = source.export_top_k(tmp_path / f"lists{suffix}", 3, **options)
    expected = source.recommend(k=3, **options).to_frame()
    text = gzip.decompress(path.read_bytes()).decode() if suffix.endswith("gz") else path.read_text(encoding="utf-8")
    if ".csv" in suffix:
        got = pd.read_csv(path)
        assert got[["user", "rank", "item"]].to_numpy().tolist() == expected.drop(columns="score").to_numpy().tolist()
    else:
        lines = [json.loads(line) for line in text.splitlines()]
        assert [line["user"] for line in lines] == expected.user.drop_duplicates().tolist()
        assert [i for line in lines for i in line["items"]] == expected.item.tolist()
        np.testing.assert_allclose([s for line in lines for s in line["scores"]], expected.score, atol=1e-6)
    before = path.read_bytes()
    assert source.export_top_k(path, 3, **options).read_bytes() == before


def test_an_index_comes_back_with_its_recommender(data, tmp_path) -> None:
    faiss = pytest.importorskip("faiss")
    index = ItemIndex(Recommender(tables(), data))
    expected = index.recommend(k=4).items
    index.save(tmp_path / "all.pt")
    index.save(tmp_path / "only.faiss")
    assert np.array_equal(ItemIndex.load(tmp_path / "all.pt").recommend(k=4).items, expected)
    again = ItemIndex.load(tmp_path / "only.faiss", Recommender(tables(), data))
    assert np.array_equal(again.recommend(k=4).items, expected)
    with pytest.raises(InputError, match="expected its recommender"):
        ItemIndex.load(tmp_path / "only.faiss")
    with pytest.raises(InputError, match="found 9 items of width 4, expected 9 of width 6"):
        ItemIndex.load(tmp_path / "only.faiss", Recommender(tables(6), data))
    (tmp_path / "only.faiss").write_bytes(b"no index")
    with pytest.raises(InputError, match=r"only\.faiss: cannot be read"):
        ItemIndex.load(tmp_path / "only.faiss", Recommender(tables(), data))
    whole = (tmp_path / "all.pt").read_bytes()
    (tmp_path / "all.pt").write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"all\.pt: cannot be read"):
        ItemIndex.load(tmp_path / "all.pt")
    assert faiss.__version__


def test_a_list_of_one_item_has_no_trade_off(data) -> None:
    with pytest.raises(InputError, match="k: found 1, expected at least 2"):
        Recommender(tables(), data).trade_off(k=1)


def test_the_trade_off_is_of_users_who_have_a_list(data) -> None:
    source = Recommender(tables(), data)
    one = source.trade_off(2, [0, 0.5], "u0", False, [100, 110, 120, 130])
    some = source.trade_off(2, [0, 0.5], None, False, {"u0": [100, 110, 120, 130]})
    assert some.kept.tolist() == one.kept.tolist()
    assert some.kept[0.0] == 1
    seen = source.with_seen({"u0": [100 + 10 * n for n in range(ITEMS)]})
    with pytest.raises(InputError, match="user 'u0' has seen every one of the 9 items"):
        seen.trade_off(2, user_ids="u0")


@pytest.mark.parametrize("values", [0.2, [], "0.2", None], ids=repr)
def test_a_trade_off_needs_values(data, values) -> None:
    with pytest.raises(InputError, match=r"^diversity: found .*, expected the values to try"):
        Recommender(tables(), data).trade_off(2, values)


@pytest.mark.parametrize("value", ["false", None, 0, 1], ids=repr)
def test_whether_seen_items_are_left_out_is_a_truth_value(data, value, tmp_path) -> None:
    source = Recommender(tables(), data)
    for ask in (source.recommend, lambda **given: source.export_top_k(tmp_path / "lists.csv", **given)):
        with pytest.raises(InputError, match=r"^exclude_seen: found .*, expected True or False"):
            ask(k=3, exclude_seen=value)
    assert source.recommend("u0", 3, np.bool_(True)).items.tolist() == source.recommend("u0", 3).items.tolist()


@pytest.mark.filterwarnings("ignore:recommend")
def test_unknown_users_have_no_candidates_of_their_own(data) -> None:
    source = Recommender(tables(), data)
    got = source.recommend(["u0", "new"], 2, False, {"u0": [100, 110]}, unknown="popular")
    assert sorted(got.items[0].tolist()) == [100, 110]
    assert got.items[1].tolist() == [-1, -1]
    assert got.to_frame().user.tolist() == ["u0", "u0"]
    with pytest.raises(InputError, match="the unknown user has nothing left among"):
        source.recommend(["new"], 2, False, {"u0": [100, 110]}, unknown="popular")


def test_a_series_of_lists_is_a_mapping_and_a_frame_is_refused(data) -> None:
    source = Recommender(tables(), data)
    given = {"u0": [100, 110], "u3": [120]}
    frame = pd.DataFrame({"item": [100, 110]})
    for name in ("candidates", "exclude"):
        users = list(given)
        got = source.recommend(users, 2, False, **{name: pd.Series(given)})
        assert got.items.tolist() == source.recommend(users, 2, False, **{name: given}).items.tolist()
        with pytest.raises(InputError, match=rf"^{name}: item ids: found a DataFrame, .* frame\['item'\]"):
            source.recommend(users, 2, False, **{name: frame})
        with pytest.raises(InputError, match=f"^{name}: found user 'u0' twice"):
            source.recommend(users, 2, False, **{name: pd.Series([[100], [110]], index=["u0", "u0"])})
    ids = pd.Series([100, 110, 120])
    assert (
        source.recommend("u0", 2, False, ids).items.tolist() == source.recommend("u0", 2, False, [*ids]).items.tolist()
    )


@pytest.mark.parametrize("held", [1, 2**27])
def test_what_lists_have_in_common_is_counted_in_blocks(held: int, monkeypatch) -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(12, 3, generator=generator)
    one, other = (torch.rand(7, 12, generator=generator).argsort(dim=1)[:, :5] for _ in range(2))
    one[2, 3:], other[2, 2:], one[3] = -1, -1, -1
    monkeypatch.setattr(varied, "_BLOCK_BYTES", held)
    sets = [[set(row.tolist()) - {-1} for row in lists] for lists in (one, other)]
    assert shared_items(one, other).tolist() == [len(a & b) for a, b in zip(*sets, strict=True)]
    unit = torch.nn.functional.normalize(table)
    for row, found in enumerate(list_similarity(one, table).tolist()):
        cosines = [float(unit[i] @ unit[j]) for i in sets[0][row] for j in sets[0][row] if i != j]
        assert found == pytest.approx(np.mean(cosines) if cosines else np.nan, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_variety_does_not_depend_on_the_scale_of_scores(scale: float, data) -> None:
    found = tables()
    plain, scaled = Recommender(found, data), Recommender(found._replace(user=found.user * scale), data)
    for value in (0.2, 0.6):
        assert (
            scaled.recommend(k=4, diversity=value).items.tolist()
            == plain.recommend(k=4, diversity=value).items.tolist()
        )
    pd.testing.assert_frame_equal(scaled.trade_off(3), plain.trade_off(3), atol=1e-4)


def test_listed_values_that_no_item_has_are_named(data) -> None:
    source = Recommender(tables(), data, columns=COLUMNS.assign(new=[True] + [False] * (len(COLUMNS) - 1)))
    with pytest.warns(UserWarning, match=r"no item has kind = 'hats' or 'shoes'; it is, .* the other values"):
        got = source.recommend(k=1, exclude_seen=False, where={"kind": ["hat", "hats", "bag", "shoes", "hats"]})
    expected = source.recommend(k=1, exclude_seen=False, where={"kind": ["hat", "bag"]})
    assert np.array_equal(got.items, expected.items)
    with pytest.raises(InputError, match="no item has kind = 'hats' or 'shoes'; it is"):
        source.recommend(k=1, where={"kind": iter(["hats", "shoes"])})
    with pytest.raises(InputError, match=r"no item has kind = \[\]; it is, for instance"):
        source.recommend(k=1, where={"kind": []})
    with pytest.raises(InputError, match=r'no item has kind = False; .* truth value in quotes, such as "no"'):
        source.recommend(k=1, where={"kind": False})
    for where in ({"price": [COLUMNS.price[0], np.float32(COLUMNS.price[1])]}, {"new": [True, False]}, {"new": 1}):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            source.recommend(k=1, exclude_seen=False, where=where)
