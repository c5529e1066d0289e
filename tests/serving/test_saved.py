"""A saved recommender opens without the graph and gives the same lists; a damaged file is refused by name."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_ckd.data import Embeddings
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import ease, item_knn, item_knn_content
from pyg_ckd.nn import FISM, VBPR
from pyg_ckd.serving import NeighbourhoodRecommender, Recommender
from pyg_ckd.training import build, save_checkpoint
from pyg_ckd.training.model import read_model, save_model
from tests.serving.test_export import ITEM_NAMES, USER_NAMES, recommender
from tests.serving.test_recommender import ITEMS, USERS, named

COLUMNS = pd.DataFrame(
    {"kind": ["a", None, "b"] * 10, "price": np.arange(30) / 2, "new": np.arange(30) % 2 == 0, "item": ITEM_NAMES}
)
COLUMNS["day"] = pd.date_range("2024-01-01", periods=30)


@pytest.fixture
def data(make_data) -> HeteroData:
    return named(make_data(USERS, ITEMS))


def same_lists(first: Recommender, second: Recommender, **options) -> None:
    mine, theirs = first.recommend(k=5, **options), second.recommend(k=5, **options)
    assert mine.users.tolist() == theirs.users.tolist()
    assert mine.items.tolist() == theirs.items.tolist()
    assert np.array_equal(mine.scores, theirs.scores)


@pytest.mark.parametrize("ids", [(None, None), (torch.arange(50) * 7, torch.arange(30) - 3), (USER_NAMES, ITEM_NAMES)])
def test_it_gives_the_same_lists(ids, tmp_path) -> None:
    source = recommender(*ids)
    again = Recommender.load(source.save(tmp_path / "r.pt"))
    assert again.data is None
    same_lists(source, again)
    same_lists(source, again, exclude_seen=False)
    histories = [again.items.take(np.array([3, 4])).tolist()]
    new = None if ids[0] is None else [10**6] if isinstance(ids[0], torch.Tensor) else ["new"]
    same_lists(source.with_new_users(histories, new), again.with_new_users(histories, new))
    assert np.array_equal(source.similar_items(k=3).items, again.similar_items(k=3).items)
    for call in (
        lambda: again.explain(again.users.take(np.array([0])), again.items.take(np.array([0]))),
        lambda: again.with_new_items({"visual": torch.ones(1, 4)}),
    ):
        with pytest.raises(InputError, match=r"expected the (model|graph)"):
            call()


def test_columns_grown_rows_and_notes_come_back(tmp_path) -> None:
    source = recommender(USER_NAMES, ITEM_NAMES).with_columns(COLUMNS)
    grown = source.with_new_items({"visual": torch.ones(1, 4)}, ["late"]).with_new_users([["late", "ä1"]], ["guest"])
    again = Recommender.load(grown.save(tmp_path / "r.pt"))
    assert again.trained == (50, 30)
    for where in (
        {"kind": "a"},
        {"price": lambda x: x < 9},
        {"new": True},
        {"day": lambda x: x > pd.Timestamp("2024-01-09")},
    ):
        same_lists(grown, again, where=where)
    other = Recommender.load(tmp_path / "r.pt", columns=COLUMNS.assign(kind="b"))
    assert other.recommend("guest", 1, where={"kind": "b"}).items.shape == (1, 1)


def test_users_that_follow_from_items_still_do(data, tmp_path) -> None:
    source = Recommender(build(FISM, data, 0, embedding_dim=4), data)
    again = Recommender.load(source.save(tmp_path / "r.pt"))
    mine, theirs = (one.with_seen({"u1": [100, 110]}) for one in (source, again))
    assert torch.equal(mine.embeddings.user, theirs.embeddings.user)
    assert not torch.equal(mine.embeddings.user[1], source.embeddings.user[1])
    same_lists(mine, theirs)


@pytest.mark.parametrize("fit", [ease, item_knn, item_knn_content], ids=["ease", "item-knn", "content"])
def test_weights_between_items_come_back(fit, data, tmp_path) -> None:
    model = fit(data, **({"ridge": 1} if fit is ease else {}))
    source = NeighbourhoodRecommender(model, data)
    again = Recommender.load(source.save(tmp_path / "r.pt"))
    assert type(again) is NeighbourhoodRecommender
    same_lists(source, again)
    same_lists(source.with_seen({"u1": [100, 110]}), again.with_seen({"u1": [100, 110]}))
    same_lists(source.with_new_users([[100, 150]], ["x"]), again.with_new_users([[100, 150]], ["x"]))
    expected = source.with_new_users([[100, 150]], ["x"]).recommend("x", 3, exclude_seen=False)
    fresh = source.with_new_users([[100]], ["x"]).with_seen({"x": [150]}).recommend("x", 3, exclude_seen=False)
    np.testing.assert_allclose(fresh.scores, expected.scores, atol=1e-5)


def test_what_is_no_whole_recommender_is_refused(data, tmp_path) -> None:
    source = Recommender(VBPR.from_data(data), data)
    path = source.save(tmp_path / "r.pt")
    whole = path.read_bytes()
    for size in (0, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"r\.pt: cannot be read"):
            Recommender.load(path)
    path.write_bytes(whole)
    with pytest.raises(InputError, match="found a saved recommender, which needs no graph"):
        Recommender.load(path, data)
    with pytest.raises(InputError, match="found a Recommender, expected a NeighbourhoodRecommender"):
        NeighbourhoodRecommender.load(path)
    content = torch.load(path, weights_only=True)
    short = {**content["seen"], "item": content["seen"]["item"][:-1]}
    wrong = {**content["tables"], "item": content["tables"]["item"] / 0}
    for change, words in (
        ({"tables": wrong}, r"is damaged \(ValueError: embeddings that are not finite\)"),
        (
            {"tables": {**content["tables"], "item": torch.randn(ITEMS, 3)}},
            r"is damaged \(ValueError: tables of shapes",
        ),
        ({"seen": None}, r"is damaged \(TypeError"),
        ({"seen": short}, r"is damaged \(ValueError: interactions of users or items that are not there\)"),
        ({"class": "Evil"}, "found a recommender of class 'Evil'"),
        ({"ids": {"user": ["a"], "item": None}}, "user_id: found 1 ids, expected 12"),
        ({"users": {"class": "no_such.Net"}}, r"users are those of no_such\.Net, which is not imported"),
    ):
        save_checkpoint(path, content | change)
        with pytest.raises(InputError, match=words):
            Recommender.load(path)
    save_checkpoint(path, {k: v for k, v in content.items() if k not in ("tables", "ids")})
    with pytest.raises(InputError, match="lacks ids, tables; it is damaged"):
        Recommender.load(path)
    save_checkpoint(path, {"kind": "teacher"})
    with pytest.raises(InputError, match="found a checkpoint of kind 'teacher'"):
        Recommender.load(path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        source.save(tmp_path / "file" / "r.pt")
    odd = source.with_columns(pd.DataFrame({"x": [object()] * ITEMS}, index=np.arange(ITEMS) * 10 + 100))
    with pytest.raises(InputError, match="columns: found object in 'x', which no file can hold"):
        odd.save(tmp_path / "odd.pt")
    assert not (tmp_path / "odd.pt").exists()


def test_clicks_come_as_a_mapping_or_a_frame_and_are_masked(data) -> None:
    tables = Embeddings(torch.randn(USERS, 3), torch.randn(ITEMS, 3))
    source = Recommender(tables, data)
    best = source.recommend("u5", 1).items[0, 0]
    for clicks in ({"u5": [best]}, pd.DataFrame({"user_id": ["u5"], "item_id": [best]})):
        after = source.with_seen(clicks)
        assert best not in after.recommend("u5", 8).items
        assert torch.equal(after.embeddings.user, source.embeddings.user)
    assert best in source.recommend("u5", 1).items
    assert after.recommend(k=3).items[:5].tolist() == source.recommend(k=3).items[:5].tolist()
    with pytest.raises(InputError, match="unknown item 7"):
        source.with_seen({"u5": [7]})
    with pytest.raises(InputError, match="clicks: found DataFrame with columns user, thing, expected a mapping"):
        source.with_seen(pd.DataFrame({"user": ["u5"], "thing": [1]}))


def test_a_recommender_can_be_safetensors_as_models_are(data, tmp_path) -> None:
    pytest.importorskip("safetensors")
    frame = pd.DataFrame(
        {"price": np.arange(float(ITEMS)), "kind": ["hat", None] * (ITEMS // 2) + ["shoe"] * (ITEMS % 2)}
    )
    frame.index = np.arange(ITEMS) * 10 + 100
    source = Recommender(VBPR.from_data(data), data, columns=frame)
    path = source.save(tmp_path / "r.safetensors")
    again = Recommender.load(path)
    same_lists(source, again)
    where = {"kind": "hat", "price": lambda x: x > 1}
    mine, theirs = (r.recommend(k=1, exclude_seen=False, where=where).items for r in (source, again))
    assert np.array_equal(mine, theirs)
    with pytest.raises(InputError, match="found a checkpoint of kind 'recommender', expected 'model'; it only serves"):
        read_model(path)


@pytest.mark.parametrize("dtype", ["int64", "Int64", "uint64", "object"])
def test_large_integers_of_columns_stay_what_they_are(dtype: str, tmp_path) -> None:
    codes = [2**53 + n for n in range(29)]  # The last item has no row.
    columns = pd.DataFrame({"code": pd.Series(codes, dtype=dtype), "item": ITEM_NAMES[:29]})
    source = recommender(USER_NAMES, ITEM_NAMES).with_columns(columns)
    for one in (source, Recommender.load(source.save(tmp_path / "r.pt"))):
        for where in ({"code": 2**53 + 1}, {"code": lambda x: (x == 2**53 + 1).fillna(False)}):
            got = one.recommend("u0", 1, exclude_seen=False, where=where)
            assert got.items.tolist() == [["ä1"]]
        assert int(one.columns.code.isna().sum()) == 1
    grown = source.with_new_items({"visual": torch.ones(1, 4)}, ["late"])
    assert grown.recommend("u0", 1, exclude_seen=False, where={"code": 2**53 + 1}).items.tolist() == [["ä1"]]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("kinds", [["small", "medium", "large"], [3, 1, 2]], ids=["texts", "numbers"])
def test_categories_keep_their_order(ordered: bool, kinds: list, tmp_path) -> None:
    values = pd.Categorical([*kinds, None] * 7 + kinds[:2], kinds, ordered=ordered)
    source = recommender(USER_NAMES, ITEM_NAMES).with_columns(pd.DataFrame({"size": values, "item": ITEM_NAMES}))
    again = Recommender.load(source.save(tmp_path / "r.pt"))
    pd.testing.assert_frame_equal(again.columns, source.columns)
    same_lists(source, again, where={"size": kinds[1]})
    if ordered:
        same_lists(source, again, where={"size": lambda x: x < kinds[2]})


def test_a_column_whose_name_is_no_text_is_not_saved_under_another(tmp_path) -> None:
    source = recommender(USER_NAMES, ITEM_NAMES).with_columns(pd.DataFrame({5: range(30), "item": ITEM_NAMES}))
    assert source.recommend("u0", 1, False, where={5: 3}).items.tolist() == [["ä3"]]
    with pytest.raises(InputError, match=r"^columns: found the name 5 \(int\), which no file can hold"):
        source.save(tmp_path / "r.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("backbones", [[VBPR], VBPR, "VBPR"], ids=["list", "class", "text"])
def test_backbones_are_a_mapping(backbones, data, tmp_path) -> None:
    save_model(tmp_path / "model.pt", build(VBPR, data, 0), data)
    with pytest.raises(InputError, match=r"^backbones: found .*, expected a mapping .* \{'VBPR': VBPR\}"):
        Recommender.load(tmp_path / "model.pt", data, backbones)


DAY = date(2024, 1, 9)
ZONE = timezone(timedelta(hours=1))
COLUMNS_OF_KINDS = {
    "nullable truths": (pd.array([True, None, False], "boolean"), lambda x: x, lambda x: ~x),
    "whole truths": (pd.array([True, False, False], "boolean"), lambda x: x, lambda x: ~x),
    "truths of NumPy": (np.array([np.True_, np.False_, np.False_], object), True, [False]),
    "integers of NumPy": (np.array([np.int64(2**60 + 1), None, np.int32(3)], object), 2**60 + 1, [3, 4]),
    "nullable texts": (pd.array(["hat", None, "bag"], "string"), "hat", lambda x: x.str.contains("a")),
    "only missing texts": (pd.array([None] * 3, "string"), lambda x: x.isna(), None),
    "days": (np.array([DAY, None, date(1500, 1, 1)], object), DAY, lambda x: x.map(lambda d: d is not None)),
    "moments": (np.array([datetime(2024, 1, 9, 7), None, datetime(2025, 1, 1)], object), datetime(2025, 1, 1), None),
}


@pytest.mark.parametrize("case", COLUMNS_OF_KINDS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_columns_are_asked_for_is_the_same_after_a_file(case: str, suffix: str, tmp_path) -> None:
    values, *asked = COLUMNS_OF_KINDS[case]
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    columns = pd.DataFrame({"x": pd.Series(values).repeat(10).array, "item": ITEM_NAMES})
    source = recommender(USER_NAMES, ITEM_NAMES).with_columns(columns)
    again = Recommender.load(source.save(tmp_path / f"r{suffix}"))
    for where in asked:
        same_lists(source, again, where=None if where is None else {"x": where})


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (pd.Timestamp(2024, 1, 9, tz="Europe/Berlin"), "Timestamp with a time zone"),
        (datetime(2024, 1, 9, tzinfo=ZONE), "(datetime|Timestamp) with a time zone"),
    ],
)
def test_dates_with_a_time_zone_are_not_saved(value, found: str, tmp_path) -> None:
    for column in (pd.Series([value] * 30), pd.Series([value] * 30, dtype=object)):
        source = recommender(USER_NAMES, ITEM_NAMES)
        source = source.with_columns(pd.DataFrame({"day": column, "item": ITEM_NAMES}))
        with pytest.raises(InputError, match=rf"^columns: found {found} in 'day', .* dates without a time zone; take"):
            source.save(tmp_path / "r.pt")


def test_columns_of_earlier_files_open(tmp_path) -> None:
    source = recommender(USER_NAMES, ITEM_NAMES).with_columns(
        pd.DataFrame({"new": pd.array([True, None] * 15, "boolean"), "item": ITEM_NAMES})
    )
    content = torch.load(source.save(tmp_path / "r.pt"), weights_only=True)
    content["columns"]["new"] = [True, None] * 15  # As they were written before.
    save_checkpoint(tmp_path / "r.pt", content)
    same_lists(source, Recommender.load(tmp_path / "r.pt"), where={"new": True})
