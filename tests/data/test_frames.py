"""Frames are joined by id: every modality, every type of id, in any order of the rows; what does not fit is named."""

from __future__ import annotations

import re
import uuid
import warnings
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F

from pyg_ckd import evaluate
from pyg_ckd.data import Embeddings, build_data, fingerprint, k_core, leave_one_out_split, random_split
from pyg_ckd.data.ids import as_ids, comparable, id_column, known_ids
from pyg_ckd.errors import InputError

RATES = ("user", "rates", "item")
RNG = np.random.default_rng(0)
TEXT = np.array([f"B{n}" for n in RNG.permutation(8)])
VISUAL, AUDIO = RNG.normal(size=(8, 3)), RNG.normal(size=(8, 2))
PAIRS = [(u, i) for u in range(5) for i in range(8) if (u * 3 + i) % 4 < 2]

IDS = {
    "text": TEXT,
    "numbers": np.array([3, 10, 2, 7, 5, 11, 4, 90]),
    "large": np.array([2**62 + n for n in range(8)]),
    "padded": np.array(["007", "7", "07", "01001", "1001", "1", "01", "0"]),
    "uuid": np.array([uuid.UUID(int=n) for n in range(8)], dtype=object),
    "category": pd.Categorical(TEXT),
    "nullable": pd.array([3, 10, 2, 7, 5, 11, 4, 90], dtype="Int64"),
}


def log(ids, users="u") -> pd.DataFrame:
    values = list(ids)
    column = pd.Series([values[i] for _, i in PAIRS])
    if isinstance(ids, pd.Categorical):
        column = column.astype("category")
    return pd.DataFrame({"user": [f"{users}{u}" for u, _ in PAIRS], "item": column})


def frames(ids, seed: int = 1) -> dict[str, pd.DataFrame]:
    out = {"visual": pd.DataFrame(VISUAL, index=pd.Index(ids)), "audio": pd.DataFrame(AUDIO, index=pd.Index(ids))}
    return {m: x.sample(frac=1, random_state=seed + n) for n, (m, x) in enumerate(out.items())}


def texts(ids) -> list[str]:
    return [str(one) for one in (ids.tolist() if isinstance(ids, torch.Tensor) else ids)]


def refuses(pattern: str, *arguments, **options) -> None:
    with pytest.raises(InputError, match=pattern) as error:
        build_data(*arguments, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS.keys())
def test_every_item_gets_its_own_features_whatever_the_order_of_the_rows(ids):
    data = build_data(log(ids), frames(ids), transform="none")
    row = {str(one): n for n, one in enumerate(ids)}
    assert sorted(texts(data.item_id)) == sorted(row)
    order = [row[one] for one in texts(data.item_id)]
    np.testing.assert_allclose(data["item"].visual.numpy(), VISUAL[order], rtol=1e-6)
    np.testing.assert_allclose(data["item"].audio.numpy(), AUDIO[order], rtol=1e-6)
    users, items = data[RATES].edge_index.tolist()
    found = {(data.user_id[u], texts(data.item_id)[i]) for u, i in zip(users, items, strict=True)}
    assert found == {(f"u{u}", str(list(ids)[i])) for u, i in PAIRS}


def test_shuffled_rows_are_the_same_graph():
    graphs = [build_data(log(TEXT), frames(TEXT, seed)) for seed in range(3)]
    assert len({fingerprint(data) for data in graphs}) == 1


@pytest.mark.parametrize("turned", [False, True])
def test_ids_that_are_text_here_and_numbers_there_are_compared_as_text(turned):
    numbers = IDS["numbers"]
    one, other = (numbers.astype(str), numbers) if turned else (numbers, numbers.astype(str))
    tables = frames(other)
    tables["audio"] = tables["audio"].set_axis(pd.Index(one)[pd.Index(other).get_indexer(tables["audio"].index)])
    data = build_data(log(one), tables, transform="none")
    order = [[str(n) for n in numbers].index(text) for text in texts(data.item_id)]
    np.testing.assert_allclose(data["item"].visual.numpy(), VISUAL[order], rtol=1e-6)
    np.testing.assert_allclose(data["item"].audio.numpy(), AUDIO[order], rtol=1e-6)


def test_integers_that_are_the_index_of_shuffled_frames_are_ids_not_positions():
    tables = frames(np.arange(8))
    data = build_data(np.array(PAIRS).T, tables, transform="none")
    np.testing.assert_allclose(data["item"].visual.numpy(), VISUAL, rtol=1e-6)
    assert np.array_equal(data[RATES].edge_index.numpy(), np.array(PAIRS).T)


def test_reversed_rows_with_ids_are_matched_and_without_ids_refused():
    listed = {m: pd.DataFrame(x, index=TEXT)[::-1] for m, x in {"visual": VISUAL, "audio": AUDIO}.items()}
    data = build_data(np.array(PAIRS).T, listed, item_id=TEXT, transform="none")
    np.testing.assert_allclose(data["item"].visual.numpy(), VISUAL, rtol=1e-6)
    assert data.item_id == TEXT.tolist()
    refuses("'audio' come without ids beside features that have them", log(TEXT), listed | {"audio": AUDIO})
    refuses("items that have no row in the features, the first is 0 in row", np.array(PAIRS).T, listed)


@pytest.mark.parametrize("dtype", ["int64", "Int64"])
def test_arrays_beside_frames_of_row_numbers_in_another_order_are_told_of(dtype):
    pairs, has, ids = np.array(PAIRS).T, np.arange(8) != 5, range(8)
    visual = pd.DataFrame(VISUAL, index=pd.Index(np.arange(8), dtype=dtype))
    words = r"without ids beside features whose 8 row numbers are not in ascending order; row n is .* give item_id"
    with pytest.warns(UserWarning, match=rf"audio' come {words}"):
        build_data(pairs, {"visual": visual[::-1], "audio": AUDIO})
    with pytest.warns(UserWarning, match=rf"has_visual come {words}"):
        build_data(pairs, {"visual": visual[::-1]}, has={"visual": has})
    warnings.simplefilter("error")
    for given in (
        build_data(pairs, {"visual": visual, "audio": AUDIO}, has={"audio": has}, transform="none"),
        build_data(pairs, {"visual": visual[::-1], "audio": AUDIO}, has={"audio": has}, item_id=ids, transform="none"),
    ):
        np.testing.assert_allclose(given["item"].visual.numpy(), VISUAL, rtol=1e-6)
        np.testing.assert_allclose(given["item"].audio.numpy()[has], AUDIO[has], rtol=1e-6)
        assert given["item"].has_audio.tolist() == has.tolist()


def test_a_column_of_ids_is_no_feature():
    table = pd.DataFrame(VISUAL, columns=["a", "b", "c"]).assign(item_id=IDS["numbers"])
    data = build_data(log(IDS["numbers"]), {"visual": table}, transform="none")
    assert data["item"].visual.shape == (8, 3)
    assert data.item_id.tolist() == sorted(IDS["numbers"])


def test_series_hold_a_number_or_a_vector_for_each_item():
    series = {"price": pd.Series(VISUAL[:, 0], index=TEXT)[::-1], "audio": pd.Series(list(AUDIO), index=TEXT)[::-1]}
    data = build_data(log(TEXT), series, transform="none")
    order = [TEXT.tolist().index(one) for one in data.item_id]
    np.testing.assert_allclose(data["item"].price.numpy(), VISUAL[order, :1], rtol=1e-6)
    np.testing.assert_allclose(data["item"].audio.numpy(), AUDIO[order], rtol=1e-6)


LEFT = {
    "shuffled": lambda frame: frame.sample(frac=1, random_state=3),
    "filtered": lambda frame: frame[frame["item_id"] >= 0].set_axis(range(4, 12)),
    "reversed": lambda frame: frame[::-1],
    "concatenated": lambda frame: pd.concat([frame[4:], frame[:4]]),
    "not touched": lambda frame: frame,
}


@pytest.mark.parametrize("change", LEFT.values(), ids=LEFT.keys())
@pytest.mark.parametrize("kind", ["text", "numbers", "rows"])
def test_a_column_of_ids_counts_whatever_is_left_in_the_index(change, kind):
    ids = RNG.permutation(8) if kind == "rows" else IDS["numbers"]
    table = pd.DataFrame(VISUAL, columns=["a", "b", "c"]).assign(item_id=ids)
    table = change(table)
    if kind == "text":
        ids, table = [f"B{n}" for n in ids], table.assign(item_id=[f"B{n}" for n in table["item_id"]])
    data = build_data(log(ids), {"visual": table}, transform="none")
    order = [list(map(str, ids)).index(one) for one in texts(data.item_id)]
    np.testing.assert_allclose(data["item"].visual.numpy(), VISUAL[order], rtol=1e-6)


CELLS = {
    "objects": lambda x: pd.DataFrame(x).astype(object),
    "decimals": lambda x: pd.DataFrame(x).map(lambda value: Decimal(repr(value))),
    "arrow": lambda x: pd.DataFrame(x).astype("float64[pyarrow]"),
    "sparse": lambda x: pd.DataFrame(x).astype(pd.SparseDtype(float)),
    "lists": lambda x: pd.Series(x.tolist()),
    "tensors": lambda x: pd.Series([torch.tensor(row) for row in x]),
}


@pytest.mark.parametrize("cells", CELLS.values(), ids=CELLS.keys())
def test_numbers_in_cells_of_every_type_are_features(cells):
    data = build_data(log(TEXT), {"visual": cells(VISUAL).set_axis(TEXT)}, transform="none")
    order = [TEXT.tolist().index(one) for one in data.item_id]
    np.testing.assert_allclose(data["item"].visual.numpy(), VISUAL[order], rtol=1e-6)


@pytest.mark.parametrize("nothing", [None, np.nan, pd.NA], ids=repr)
@pytest.mark.parametrize("vectors", [False, True])
def test_what_is_missing_is_missing_however_it_is_written(nothing, vectors):
    rows = pd.DataFrame(VISUAL, index=TEXT).astype(object)
    rows.iloc[3] = nothing
    table = pd.Series([nothing if n == 3 else row for n, row in enumerate(VISUAL)], index=TEXT) if vectors else rows
    with pytest.raises(InputError, match=r"features of 'visual' are not finite in 1 rows.*give the mask has_visual"):
        build_data(log(TEXT), {"visual": table})
    has = pd.Series(np.arange(8) != 3, index=TEXT)
    data = build_data(log(TEXT), {"visual": table}, has={"visual": has}, transform="none")
    row = data.item_id.index(TEXT[3])
    np.testing.assert_allclose(data["item"].visual[row].numpy(), np.delete(VISUAL, 3, 0).mean(0), rtol=1e-5)


def test_tables_of_arrow_are_joined_as_frames():
    tables = {
        m: pa.Table.from_pandas(x.rename_axis("item").rename(columns=str).reset_index())
        for m, x in frames(TEXT).items()
    }
    parts = random_split(log(TEXT), seed=2)
    train, val, test = (pa.Table.from_pandas(part, preserve_index=False) for part in parts)
    data = build_data(train, tables, val=val, test=test)
    assert fingerprint(data) == fingerprint(build_data(parts[0], frames(TEXT), val=parts[1], test=parts[2]))
    liked = pa.table({"user": ["u0", "u0", "u1"], "item": TEXT[:3].tolist(), "rating": [5, 1, 4]})
    assert build_data(liked, tables, min_rating=4)[RATES].edge_index.size(1) == 2
    refuses("train lacks the column 'user'; .* names are buyer, item$", liked.rename_columns(["buyer", "item", "r"])
            .select(["buyer", "item"]), tables)  # fmt: skip


def test_interactions_may_have_any_index():
    expected = build_data(log(TEXT), frames(TEXT))[RATES].edge_index
    for index in (
        [0] * len(PAIRS),
        pd.MultiIndex.from_arrays([range(len(PAIRS))] * 2),
        pd.RangeIndex(len(PAIRS), 0, -1),
    ):
        assert torch.equal(build_data(log(TEXT).set_axis(index), frames(TEXT))[RATES].edge_index, expected)


def test_repeated_interactions_of_a_frame_are_named_as_they_were_given():
    again = pd.concat([log(TEXT), log(TEXT)[2:4]])
    first = f"user '{again['user'].iloc[2]}', item '{again['item'].iloc[2]}' again in row {len(PAIRS)}"
    refuses(f"train has 2 duplicate interactions, the first is {first}.*keep='last'", again, frames(TEXT))
    for keep in ("first", "last"):
        assert build_data(again, frames(TEXT), keep=keep)[RATES].edge_index.size(1) == len(PAIRS)
    user, item = log(TEXT).iloc[2][["user", "item"]]
    refuses(
        f"val repeats 1 interactions of train, the first is user '{user}', item '{item}'; remove them",
        log(TEXT), frames(TEXT), val=log(TEXT)[2:3],
    )  # fmt: skip


def test_masks_are_joined_by_id_and_let_rows_be_left_out():
    has = pd.Series(np.arange(8) < 6, index=TEXT)
    tables = frames(TEXT) | {"audio": pd.DataFrame(AUDIO[:6], index=TEXT[:6])}
    data = build_data(log(TEXT), tables, has={"audio": has.sample(frac=1, random_state=5)}, transform="none")
    order = np.array([TEXT.tolist().index(one) for one in data.item_id])
    assert np.array_equal(data["item"].has_audio.numpy(), order < 6)
    np.testing.assert_allclose(data["item"].audio.numpy()[order < 6], AUDIO[order[order < 6]], rtol=1e-6)
    np.testing.assert_allclose(data["item"].audio.numpy()[order >= 6], AUDIO[:6].mean(0)[None].repeat(2, 0), rtol=1e-5)


def test_users_and_items_are_known_from_all_parts():
    whole = log(TEXT)
    late = pd.DataFrame({"user": ["u9"], "item": [TEXT[0]]})
    val = pd.concat([pd.DataFrame({"user": ["u0"], "item": [TEXT[2]]}), late])
    data = build_data(whole, frames(TEXT), val=val)
    assert data.user_id == [f"u{n}" for n in (0, 1, 2, 3, 4, 9)]
    assert data[RATES].val_edge_index[0].tolist() == [0, 5]


def test_given_user_ids_are_the_rows_with_or_without_interactions():
    data = build_data(log(TEXT), frames(TEXT), user_id=[f"u{n}" for n in range(6, -1, -1)])
    assert data["user"].num_nodes == 7
    assert data[RATES].edge_index[0].tolist() == [6 - u for u, _ in PAIRS]
    refuses(
        "interactions with users that user_id does not list, the first is 'u0'", log(TEXT), frames(TEXT), user_id=["x"]
    )


BAD = {
    "id without a row": (
        (log(TEXT), {"visual": pd.DataFrame(VISUAL[1:], index=TEXT[1:])}),
        {},
        f"interactions with items that have no row in the features, the first is '{TEXT[0]}'",
    ),
    "id without a row in one modality": (
        (log(TEXT), frames(TEXT) | {"audio": pd.DataFrame(AUDIO[1:], index=TEXT[1:])}),
        {},
        f"features of 'audio' have no row for 1 of 8 items, the first is '{TEXT[0]}'",
    ),
    "row without an id": (
        (log(TEXT), {"visual": pd.DataFrame(VISUAL, index=[*TEXT[:7], None])}),
        {},
        "features of 'visual' has 1 rows without an id, the first is row 7",
    ),
    "row that no id lists": (
        (log(TEXT[:7].repeat(2)), {"visual": pd.DataFrame(VISUAL, index=TEXT)}),
        {"item_id": TEXT[:7]},
        "features of 'visual' have 1 rows of items that are not in item_id",
    ),
    "id twice": (
        (log(TEXT), {"visual": pd.DataFrame(VISUAL, index=[*TEXT[:7], TEXT[0]])}),
        {},
        f"features of 'visual': id '{TEXT[0]}' is there again in row 7",
    ),
    "text items and arrays": ((log(TEXT), {"visual": VISUAL}), {}, "items are text, e.g. .*give .*item_id"),
    "floats": (
        (log(np.arange(8.0)), {"visual": VISUAL}),
        {},
        r"column 'item' has dtype float64.*convert with .astype\('int64'\), or read them as text .* written like 1e3",
    ),
    "fractions": (
        (log(np.arange(8.0) + 0.5), {"visual": VISUAL}),
        {},
        r"found 0.5 in row 0 .*; read them as text \(dtype=str, a Parquet file\) if they were written like 1e3",
    ),
    "missing user": (
        (log(TEXT).assign(user=None), frames(TEXT)),
        {},
        "column 'user' has 20 rows without an id, the first is row 0",
    ),
    "levels": (
        (log(TEXT), {"visual": pd.DataFrame(VISUAL, index=pd.MultiIndex.from_arrays([TEXT, TEXT]))}),
        {},
        "an index of 2 levels",
    ),
    "ids twice": (
        (log(TEXT), {"visual": pd.DataFrame(VISUAL, index=TEXT).assign(item=TEXT)}),
        {},
        "have ids in the index, e.g. .* and the column 'item', expected one of them; drop the column",
    ),
    "users in the index": (
        (log(TEXT).set_index("user"), frames(TEXT)),
        {},
        r"train lacks the column 'user'; it is in the index, take it out with reset_index\(\)",
    ),
    "floats in the index": (
        (log(TEXT), {"visual": pd.DataFrame(VISUAL, index=np.arange(8.0))}),
        {},
        r"found 0.0 in row 0 .*convert with .astype\('int64'\)",
    ),
    "vectors of several lengths": (
        (log(TEXT), {"visual": pd.Series([[1.0, 2.0]] * 7 + [[1.0]], index=TEXT)}),
        {},
        "have 1 numbers in row 7, expected 2 as in the first",
    ),
    "text column": (
        (log(TEXT), {"visual": pd.DataFrame(VISUAL, index=TEXT).assign(title="x")}),
        {},
        "column 'title' holds no numbers",
    ),
    "mixed parts": (
        (log(TEXT), frames(TEXT)),
        {"val": [[0], [0]]},
        "val holds row numbers, but users of other parts have ids, e.g. 'u0'",
    ),
    "a bare string": ((np.array(PAIRS).T, {"visual": VISUAL}), {"item_id": "B1"}, "found 'B1', expected a list of ids"),
}


@pytest.mark.parametrize(("arguments", "options", "pattern"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_joined_is_named(arguments, options, pattern):
    refuses(pattern, *arguments, **options)


@pytest.mark.parametrize(
    "name", ["itemID", "Item", "ITEM_ID", "item_ID", "asin", "id", "index", "level_0", "Unnamed: 0", "item-id"]
)
@pytest.mark.parametrize("change", [lambda frame: frame, lambda frame: frame[::-1]], ids=["default index", "reversed"])
def test_ids_under_another_name_are_no_feature(name, change):
    table = change(pd.DataFrame({name: [3, 2, 1, 0], "x": [30.0, 20.0, 10.0, 0.0]}))
    pattern = f"'visual': found the column '{name}', a name of ids or row numbers.*; rename it to 'item' if it holds"
    refuses(pattern, [[0, 1], [0, 1]], {"visual": table})
    refuses(f"found the column '{name}' alone, .*add them", [[0, 1], [0, 1]], {"visual": table[[name]]})
    data = build_data([[0, 1], [0, 1]], {"visual": table.rename(columns={name: "item"})}, transform="none")
    assert data["item"].visual.ravel().tolist() == [0.0, 10.0, 20.0, 30.0]


@pytest.mark.parametrize("name", ["item_id", "index", "Unnamed: 0"])
def test_a_second_column_of_ids_or_row_numbers_is_no_feature(name):
    table = pd.DataFrame({"item": [3, 2, 1, 0], name: range(4), "x": 1.0})
    refuses(f"found the column '{name}' beside the ids in 'item'.*; drop it", [[0, 1], [0, 1]], {"visual": table})


LARGE = np.array([2**63, 2**63 + 1], dtype=np.uint64)


@pytest.mark.parametrize("empty", ["int64", "float64", "object", "str", "datetime64[ns]"])
def test_ids_stay_integers_beside_a_column_without_rows(empty):
    one, none = comparable(pd.Series([2, 10]), pd.Series([], dtype=empty))
    assert pd.concat([one, none]).tolist() == [2, 10]
    assert as_ids(pd.concat([none, one])).tolist() == [2, 10]


@pytest.mark.parametrize("given", [pd.DataFrame({"y": []}), pd.Series([], dtype=float)], ids=["frame", "series"])
@pytest.mark.parametrize("index", [None, pd.Index([], dtype=object)], ids=["default index", "ids"])
def test_features_and_masks_without_rows_are_refused(given, index):
    given = given if index is None else given.set_axis(index)
    refuses("features of 'audio': found no rows, expected one per item", log(TEXT), frames(TEXT) | {"audio": given})
    refuses("has_audio: found no rows, expected one per item", log(TEXT), frames(TEXT), has={"audio": given})


def test_integers_of_which_some_need_64_bits_without_a_sign_are_compared_as_text():
    one, other = comparable(pd.Series([2, 10]), pd.Series(LARGE))
    assert pd.concat([one, other]).tolist() == ["2", "10", str(2**63), str(2**63 + 1)]
    train = pd.DataFrame({"user": [2, 10], "item": [0, 1]})
    val = pd.DataFrame({"user": np.array([*LARGE, 2], dtype=np.uint64), "item": [0, 1, 1]})
    data = build_data(train, {"visual": np.eye(2)}, val=val)
    assert data.user_id == ["10", "2", str(2**63), str(2**63 + 1)]


@pytest.mark.parametrize("column", [[], np.array([]), pd.Series([], dtype="float64"), pd.Series([], dtype="Int64")])
def test_no_ids_are_a_column_without_rows(column):
    assert len(id_column(column, "items")) == 0


def test_ids_of_several_levels_are_refused():
    levels = pd.MultiIndex.from_arrays([["a", "b"], [1, 2]], names=["item", "size"])
    with pytest.raises(InputError, match=r"^items: found an index of 2 levels \('item', 'size'\), expected one id"):
        id_column(levels, "items")


@pytest.mark.parametrize("kind", [np.array, pd.Series, torch.from_numpy], ids=["array", "series", "tensor"])
def test_unsigned_integers_are_integers_where_they_fit_and_text_where_not(kind):
    small, large = np.arange(3, dtype=np.uint64), np.arange(3, dtype=np.uint64) + np.uint64(2**63)
    assert id_column(kind(small), "users").dtype == np.int64
    assert as_ids(id_column(kind(large), "users")) == [str(2**63 + n) for n in range(3)]


def test_frames_of_text_are_split_into_frames_that_are_joined_by_id():
    whole = log(TEXT).assign(price=1.0)
    parts = random_split(whole, seed=3)
    assert all(list(part.columns) == ["user", "item", "price"] for part in parts)
    assert sorted(map(tuple, pd.concat(parts).to_numpy().tolist())) == sorted(map(tuple, whole.to_numpy().tolist()))
    codes = np.stack([pd.factorize(whole[name])[0] for name in ("user", "item")])
    for part, expected in zip(parts, random_split(codes, seed=3), strict=True):
        assert np.array_equal(codes[:, part.index], expected)
    train, val, test = leave_one_out_split(whole)
    data = build_data(train, frames(TEXT), val=val, test=test)
    assert data[RATES].test_edge_index.size(1) == 5
    assert k_core(whole, 2).all()


@pytest.mark.slow
def test_content_of_shuffled_frames_on_lastfm_recommends_as_well_as_aligned_content(data_dir: Path):
    with np.load(data_dir / "lastfm.npz") as file:
        arrays = dict(file)
    modalities = [m for m in arrays if m not in ("train", "val", "test", "num_users", "num_items")]
    names = np.array([f"artist {n * 7919 % 100003}" for n in range(int(arrays["num_items"]))])
    tables = {m: pd.DataFrame(arrays[m], index=names).sample(frac=1, random_state=n) for n, m in enumerate(modalities)}
    parts = {
        split: pd.DataFrame({"user": [f"u{u}" for u in arrays[split][0]], "item": names[arrays[split][1]]})
        for split in ("train", "val", "test")
    }
    data = build_data(parts["train"], tables, val=parts["val"], test=parts["test"])
    content = F.normalize(data["item"].textual, dim=1)
    user, item = data[RATES].edge_index
    mean = torch.zeros(data["user"].num_nodes, content.size(1)).index_add_(0, user, content[item])
    assert len(modalities) == 3
    assert evaluate(Embeddings(mean, content), data, "test", k=20)["recall@20"] == pytest.approx(0.2888, abs=1e-4)


def test_no_ids_at_all_are_told():
    refuses(
        "users that user_id does not list.*'u0' in row 0, but there are no ids; add",
        log(TEXT),
        frames(TEXT),
        user_id=[],
    )
    refuses("not in item_id, the first is .*, but there are no ids", [[], []], frames(TEXT), item_id=[])


@pytest.mark.parametrize("turned", [False, True])
def test_ids_in_another_unicode_form_are_told(turned):
    here, there = (["caf\u00e9", "tea"], ["cafe\u0301", "tea"])[:: -1 if turned else 1]
    train = pd.DataFrame({"user": [0, 1], "item": here})
    refuses(
        r"another Unicode normal form than 'caf.*\\u.*' here\): write both in one, with .str.normalize\('NFC'\)",
        train, {"visual": pd.DataFrame(np.eye(2), index=there)},
    )  # fmt: skip


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("marked", "names", "call"),
    [
        ("\u200f\u05de4", r"U\+200F; remove it", "'\\u200f', ''"),
        ("\u05de4\ufeff", r"U\+FEFF; remove it", "'\\ufeff', ''"),
        ("\u200f\u05de\xad4", r"U\+00AD, U\+200F; remove them", "'[\\xad\\u200f]', '', regex=True"),
    ],
    ids=["direction", "order of bytes", "two"],
)
def test_ids_with_invisible_marks_are_told(marked, names, call, turned):
    here, there = ([marked, "tea"], ["\u05de4", "tea"])[:: -1 if turned else 1]
    train = pd.DataFrame({"user": [0, 1], "item": here})
    message = rf"differs from '.*\u05de.*4.*' by the invisible {names}, e.g. with .str.replace\({re.escape(call)}\)"
    refuses(message, train, {"visual": pd.DataFrame(np.eye(2), index=there)})


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ("caf\u00e9\u200d", "cafe\u0301\u200d", "another Unicode normal form"),
        ("caf\u00e9\u200d", "cafe\u0301", "by the invisible U+200D; remove it"),
        ("a\u200db", "ab\u200d", "by the invisible U+200D; remove it"),
        ("a\u200db", "abc", "but ids are like"),
    ],
    ids=["form", "form and mark", "place", "text"],
)
def test_marks_are_told_only_where_ids_differ_by_them(first, second, found):
    assert found in known_ids([first], second)


@pytest.mark.parametrize(
    ("values", "mend"),
    [
        ([b"a", b"b"], r"found b'a' in row 0 .*; decode them with .str.decode\('utf-8'\)"),
        (np.array([b"a", b"b"]), r"; decode them with .str.decode\('utf-8'\)"),
        ([Decimal(1), Decimal(2)], r"found Decimal\('1'\) .*; convert them with .astype\('int64'\) if they are whole"),
        ([True, False], r"; convert them with .astype\(str\)"),
        ([("a", 1), ("b", 2)], r"; convert them with .astype\(str\)"),
    ],
)
def test_ids_of_other_types_are_refused_with_what_to_call(values, mend):
    with pytest.raises(InputError, match=mend):
        id_column(values, "users")


@pytest.mark.parametrize("dtype", [object, None])
def test_ids_that_utf_8_cannot_write_are_named(dtype):
    words = r"found 'B\\ud8001' in row 1 .* which UTF-8 cannot write, expected text without lone surrogates; read"
    ids = ["B0", "B\ud8001", *TEXT[2:]]
    for values in (ids, np.array(ids, dtype=object), pd.Series(ids, dtype=object), (2, *ids[1:])):
        with pytest.raises(InputError, match=f"item_id: {words}"):
            id_column(values, "item_id")
    pairs = log(TEXT).assign(user=pd.Series([f"u{n}" for n in range(len(PAIRS))], dtype=object))
    pairs.loc[1, "user"] = "B\ud8001"
    refuses(f"column 'user': {words}", pairs, frames(TEXT))
    features = {"visual": pd.DataFrame(VISUAL, index=pd.Index(ids, dtype=object))}
    refuses(f"features of 'visual': {words}", np.array(PAIRS).T, features)
    refuses(f"item_id: {words}", np.array(PAIRS).T, {"visual": VISUAL}, item_id=ids)
